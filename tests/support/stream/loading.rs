//! Weights that are being loaded, for tests.

use super::{Reports, noise};
use seqstream::gpu::driver::{Arena, Context, Region};
use seqstream::stream::{
    LayerFences, Loader, ProcessorOptions, StreamError, StreamManager, StreamOptions,
    StreamProcessor, StreamSet, UploadOptions, Uploader,
};
use std::sync::Arc;
use std::time::Duration;

/// Long enough for the other thread to reach its wait. Tests pass however long that takes, but find
/// a missing wait only if the thread has reached it.
#[allow(dead_code)] // used by `streams` only
pub const A_WHILE: Duration = Duration::from_millis(20);
pub const LAYER: usize = 1200;
pub const UPLOAD: UploadOptions = UploadOptions {
    slots: 2,
    slot_bytes: 512,
    threads: 2,
    through: true,
};

/// One device: a ring for results of one layer each, buffers for layers, and an uploader.
pub struct Rig {
    pub manager: StreamManager,
    pub streams: StreamSet,
    pub ring: StreamProcessor,
    pub buffers: Vec<Region>,
    pub uploader: Uploader,
}

pub fn rig(buffers: usize, reports: &Reports, overlap: bool) -> Rig {
    let context = Context::new(0).unwrap();
    let mut manager = StreamManager::new(StreamOptions {
        overlap,
        ..reports.options()
    })
    .unwrap();
    manager
        .create_streams(std::slice::from_ref(&context))
        .unwrap();
    let ring = ProcessorOptions {
        slots: 2,
        input_bytes: 1,
        output_bytes: LAYER,
    };
    let bytes = ring.device_bytes() + UPLOAD.device_bytes() + buffers * Arena::footprint(LAYER);
    let mut arena = Arena::new(&context, bytes).unwrap();
    let streams = manager.streams(0, 0).unwrap();
    Rig {
        ring: StreamProcessor::new(&streams, &mut arena, ring).unwrap(),
        uploader: Uploader::new(&manager.streams(0, 1).unwrap(), &mut arena, UPLOAD).unwrap(),
        buffers: (0..buffers)
            .map(|_| arena.take("a layer", LAYER).unwrap())
            .collect(),
        streams,
        manager,
    }
}

pub fn fences(streams: &StreamSet, name: &'static str, count: usize) -> Arc<LayerFences> {
    Arc::new(LayerFences::new(streams, name, count).unwrap())
}

/// "Computes" with a layer: the layer's bytes are the results of a batch.
pub fn read(ring: &mut StreamProcessor, batch: u64, layer: &Region) -> Result<(), StreamError> {
    ring.stage(batch)?;
    let copied = {
        let (stream, output) = (ring.compute(), ring.output()?);
        // SAFETY: this is the slot's output while its batch is open; the layer has been waited for.
        unsafe { stream.copy(layer, output) }
    };
    copied.map_err(|e| ring.fail(e))?;
    ring.finish(LAYER).map(|_| ())
}

/// Loads as many layers as there are uploads through a ring of two buffers. Each layer must be
/// right.
pub fn layers_through_two_buffers(uploads: u64, reports: &Reports) {
    const BUFFERS: u64 = 2;
    let Rig {
        manager,
        streams,
        mut ring,
        buffers,
        uploader,
    } = rig(BUFFERS as usize, reports, true);
    let loaded = fences(&streams, "layer", BUFFERS as usize);
    let used = fences(&streams, "used", BUFFERS as usize);
    let (targets, done) = (buffers.clone(), Arc::clone(&used));
    let work = move |uploader: &mut Uploader, loaded: &LayerFences| {
        for n in 0..uploads {
            if let Some(before) = n.checked_sub(BUFFERS) {
                uploader.wait_for(&done, before)?;
            }
            uploader.upload(&noise(n + 1, LAYER), &targets[(n % BUFFERS) as usize], 0)?;
            uploader.mark(loaded)?;
        }
        Ok(())
    };
    let loader = Loader::start(uploader, loaded, work).unwrap();
    let mut collected = 0;
    let mut collect = |ring: &mut StreamProcessor| {
        let results = ring.collect().unwrap();
        assert!(results[..] == noise(collected + 1, LAYER), "{collected}");
        collected += 1;
    };
    for n in 0..uploads {
        if ring.free_slots() == 0 {
            collect(&mut ring);
        }
        loader.loaded().wait(n, ring.compute()).unwrap();
        read(&mut ring, n, &buffers[(n % BUFFERS) as usize]).unwrap();
        used.record(ring.compute()).unwrap();
    }
    while ring.free_slots() < 2 {
        collect(&mut ring);
    }
    assert_eq!(collected, uploads);
    drop(loader);
    drop((ring, buffers, used, streams, manager));
}
