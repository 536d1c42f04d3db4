//! Uses streams and fences directly: batches are copied to the device, computed and stored, each
//! step on its own stream, ordered by events. It runs on a GPU, or on the simulated driver.
//!
//!     cargo run --example overlap

mod device;

use seqstream::gpu::driver::{Arena, Context, DriverError, StreamName};
use seqstream::stream::{
    ProcessorOptions, StreamError, StreamManager, StreamOptions, StreamProcessor,
};
use std::error::Error;

const BATCHES: u8 = 6;
const BYTES: usize = 1 << 16;

fn main() -> Result<(), Box<dyn Error>> {
    device::real_or_simulated();
    let context = Context::new(0)?;

    // One load, one compute and one store stream, and a log of the work that each of them was
    // given.
    let mut manager = StreamManager::new(StreamOptions {
        log: Some(1024),
        ..StreamOptions::default()
    })?;
    manager.create_streams(std::slice::from_ref(&context))?;

    // A ring of three slots: while the device computes one batch, the host writes the next batch
    // and reads the previous one. All memory is allocated here, once.
    let options = ProcessorOptions {
        slots: 3,
        input_bytes: BYTES,
        output_bytes: BYTES,
    };
    let mut arena = Arena::new(&context, options.device_bytes())?;
    let mut ring = StreamProcessor::new(&manager.streams(0, 0)?, &mut arena, options)?;

    // When this scope ends, however that happens, the streams have no work left.
    let scope = manager.scope(None);
    let mut right = 0;
    let batches = ring.process_with_overlap(
        0..BATCHES,
        // The host writes the inputs of a batch into pinned memory.
        |batch, staging: &mut [u8]| -> Result<usize, StreamError> {
            staging[..BYTES].fill(batch);
            Ok(BYTES)
        },
        // "Computing" is a copy on the device, behind the fence of the load.
        |batch| -> Result<usize, DriverError> {
            // SAFETY: the regions are the open batch's slot, which nothing else accesses.
            unsafe { batch.compute.copy(&batch.input, batch.output)? };
            Ok(BYTES)
        },
        // The results arrive in the order of the batches.
        |batch, results| {
            let wanted = u8::try_from(batch).unwrap_or(u8::MAX);
            right += usize::from(results.iter().all(|byte| *byte == wanted));
            Ok(())
        },
    )?;
    for status in manager.status()? {
        println!(
            "{} stream {} of device {}: {:?}",
            status.kind, status.index, status.device, status.busy
        );
    }
    scope.close()?;
    // The first failure of any thread or stream, if there was one.
    manager.check()?;

    println!("{right} of {batches} batches came back right");
    let compute = manager.get_stream_at(0, StreamName::Compute, 0)?;
    println!("what {compute:?} and the others were given, in the order of submission:");
    for entry in manager.log().into_iter().flat_map(|log| log.entries()) {
        println!("  {entry}");
    }
    if right as u64 != batches {
        return Err("a batch came back wrong".into());
    }
    // This batch is given up: its slot becomes free again, and the ring continues.
    ring.stage(u64::from(BATCHES))?;
    ring.abandon()?;
    println!(
        "{} slots are free after abandoning a batch",
        ring.free_slots()
    );
    Ok(())
}
