//! The boundary to the driver on the simulated driver: streams, fences, memory, errors.

use crate::support::cuda::{Simulator, simulator};
use seqstream::gpu::driver::{
    Arena, Busy, Context, DriverError, Fence, PinnedBuffer, Stream, StreamName, devices,
};

const BYTES: usize = 4096;

fn fault(simulator: &Simulator, order: &str) {
    let order = std::ffi::CString::new(order).unwrap();
    let set =
        simulator.call::<extern "C" fn(*const std::ffi::c_char) -> i32>("seqstream_sim_set_fault");
    assert_eq!(set(order.as_ptr()), 0);
}

fn live_allocations(simulator: &Simulator) -> usize {
    let list = simulator.call::<extern "C" fn(*mut std::ffi::c_char, usize) -> usize>(
        "seqstream_sim_live_allocations",
    );
    let mut text = vec![0 as std::ffi::c_char; 1 << 16];
    list(text.as_mut_ptr(), text.len());
    text.iter()
        .filter(|c| **c == b'\n' as std::ffi::c_char)
        .count()
}

/// Copies host to device on one stream and device to host on another, with or without the fence
/// between them. Returns whether the bytes came back.
fn there_and_back(device: u32, fenced: bool) -> Result<bool, DriverError> {
    let context = Context::new(device)?;
    let load = Stream::new(&context, StreamName::Load, 0)?;
    let store = Stream::new(&context, StreamName::Store, 0)?;
    let (loaded, stored) = (Fence::new(&context)?, Fence::new(&context)?);
    let mut sent = PinnedBuffer::new(&context, BYTES)?;
    let received = PinnedBuffer::new(&context, BYTES)?;
    let region = Arena::new(&context, BYTES)?.take("test", BYTES)?;
    // SAFETY: no other work is running; each copy is followed by a fence (or, without it, by the
    // wait for both streams below) before its memory is accessed.
    unsafe {
        for (i, byte) in sent.bytes_mut().iter_mut().enumerate() {
            *byte = i as u8 ^ 0x5a;
        }
        load.load(&sent, 0..BYTES, &region)?;
        load.record(&loaded)?;
        if fenced {
            store.wait(&loaded)?;
        }
        store.store(&region, &received, 0..BYTES)?;
        store.record(&stored)?;
        stored.wait()?;
        load.synchronize()?;
        Ok(sent.bytes() == received.bytes())
    }
}

#[test]
fn a_fence_orders_two_streams_and_without_it_some_schedule_is_wrong() {
    let mut wrong = 0;
    for seed in 0..100 {
        let simulator = simulator(4, seed);
        for device in [0, 3] {
            assert!(
                there_and_back(device, true).unwrap(),
                "seed {seed}, device {device}"
            );
            assert_eq!(live_allocations(&simulator), 0, "seed {seed}");
            wrong += u32::from(!there_and_back(device, false).unwrap());
        }
    }
    assert!(
        wrong > 0,
        "no schedule of 200 shows that the fence is missing"
    );
}

#[test]
fn a_fault_at_every_call_is_an_error_that_names_it_and_leaks_nothing() {
    let mut reported = 0;
    for call in 1..1000 {
        let simulator = simulator(1, 1);
        // This is a code that no driver has: unknown codes must be safe.
        fault(&simulator, &format!("{call}:54321"));
        let result = there_and_back(0, true);
        let left = live_allocations(&simulator);
        assert_eq!(left, 0, "call {call}: {result:?}");
        match result {
            Err(error) => {
                assert_eq!(error.code, 54321, "{error}");
                assert!(error.to_string().starts_with("cu"), "{error}");
                reported += 1;
            }
            // A failure of a release cannot be reported; beyond the last call there is no failure.
            Ok(same) => assert!(same),
        }
    }
    assert!(reported > 20, "{reported}");
}

#[test]
fn an_error_says_where_it_happened_and_what_to_do() {
    let simulator = simulator(2, 0);
    let context = Context::new(1).unwrap();
    let stream = Stream::new(&context, StreamName::Compute, 2).unwrap();
    fault(&simulator, "cuStreamSynchronize#1:700");
    let error = stream.synchronize().unwrap_err();
    let text = error.to_string();
    for part in [
        "cuStreamSynchronize failed with 700 (CUDA_ERROR_ILLEGAL_ADDRESS: ",
        "device 1",
        "stream compute 2",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert!(error.remedy().unwrap().to_string().contains("resume"));
}

#[test]
fn an_arena_hands_out_aligned_parts_until_it_is_empty() {
    let simulator = simulator(1, 0);
    let context = Context::new(0).unwrap();
    let (free, total) = context.memory().unwrap();
    assert!(free > 0 && free <= total);
    let mut arena = Arena::new(&context, 1000).unwrap();
    let first = arena.take("first", 1).unwrap();
    let second = arena.take("second", 700).unwrap();
    assert_eq!(first.address() % 256, 0);
    assert_eq!(second.address(), first.address() + 256);
    assert_eq!((second.bytes(), arena.left()), (700, 0));
    let error = arena.take("the third", 1).unwrap_err();
    assert_eq!(error.code, 2);
    assert!(
        error
            .to_string()
            .contains("in placing the third, 1 bytes of 0 left"),
        "{error}"
    );
    drop(arena);
    assert_eq!(live_allocations(&simulator), 1, "regions keep it alive");
    drop((first, second));
    assert_eq!(live_allocations(&simulator), 0);
    let error = Arena::new(&context, total as usize + 1).unwrap_err();
    assert_eq!((error.call, error.code), ("cuMemAlloc_v2", 2));
}

#[test]
fn streams_are_idle_when_their_work_is_done_and_devices_are_what_they_are() {
    let _simulator = simulator(3, 5);
    assert_eq!(devices().unwrap().len(), 3);
    let context = Context::new(2).unwrap();
    let stream = Stream::new(&context, StreamName::Compute, 0).unwrap();
    assert_eq!(stream.status().unwrap(), Busy::Idle);
    let region = Arena::new(&context, BYTES)
        .unwrap()
        .take("filled", BYTES)
        .unwrap();
    let (start, end) = (
        Fence::timed(&context).unwrap(),
        Fence::timed(&context).unwrap(),
    );
    // SAFETY: nothing else accesses the region.
    unsafe {
        stream.record(&start).unwrap();
        stream.fill(&region, 7).unwrap();
        stream.record(&end).unwrap();
    }
    stream.synchronize().unwrap();
    assert_eq!(stream.status().unwrap(), Busy::Idle);
    assert!(end.milliseconds_since(&start).unwrap().unwrap() >= 0.0);
    let plain = Fence::new(&context).unwrap();
    assert_eq!(plain.milliseconds_since(&start).unwrap(), None);
    assert_eq!(Context::new(3).unwrap_err().at.device, Some(3));
}
