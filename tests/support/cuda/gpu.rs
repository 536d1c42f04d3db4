//! A device for tests of kernels: simulated by default, a real one if SEQSTREAM_TEST_GPU=1.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use seqstream::backend::cuda::kernels;
use seqstream::gpu::driver::{
    Arena, Context, Function, Module, PinnedBuffer, Region, Stream, StreamName,
};

use super::real::{absent, wants_real};
use super::{Simulator, simulator};

/// A device with a stream. One test at a time holds it.
pub struct Gpu {
    pub context: Context,
    pub stream: Stream,
    /// Whether the device is real, so that shapes may be larger.
    pub real: bool,
    modules: Mutex<HashMap<String, Module>>,
    simulator: Option<Simulator>,
    _alone: Option<MutexGuard<'static, ()>>,
}

/// Returns the device, simulated with this seed or real. Returns `None`, with a message, if a real
/// device is requested and there is none, or if this build has no kernels.
///
/// # Panics If REQUIRE_GPU=1 and there is no real device.
pub fn gpu(seed: u64) -> Option<Gpu> {
    static ALONE: Mutex<()> = Mutex::new(());
    if kernels::FATBINS.is_empty() {
        absent("this build has no kernels (no nvcc)");
        return None;
    }
    if !wants_real() {
        let simulator = simulator(1, seed);
        return Some(Gpu::new(Context::new(0).unwrap(), Some(simulator), None));
    }
    let alone = ALONE
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    match Context::new(0) {
        Ok(context) => Some(Gpu::new(context, None, Some(alone))),
        Err(error) => {
            absent(&format!("there is no GPU here: {error}"));
            None
        }
    }
}

/// Returns the schedules to try: several simulated ones, or the single schedule of a real device.
pub fn seeds() -> Vec<u64> {
    if wants_real() { vec![0] } else { vec![0, 1, 2] }
}

/// Copies these bytes to the start of a region.
pub fn fill(stream: &Stream, region: &Region, bytes: &[u8]) {
    let mut pinned = PinnedBuffer::new(stream.context(), bytes.len()).unwrap();
    // SAFETY: the copy is waited for before anything is accessed again.
    unsafe {
        pinned.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        stream.load(&pinned, 0..bytes.len(), region).unwrap();
    }
    stream.synchronize().unwrap();
}

/// Returns the content of a region after all work is done.
pub fn contents(stream: &Stream, region: &Region) -> Vec<u8> {
    let pinned = PinnedBuffer::new(stream.context(), region.bytes()).unwrap();
    // SAFETY: the copy is waited for before the buffer is read.
    unsafe {
        stream.store(region, &pinned, 0..region.bytes()).unwrap();
        stream.synchronize().unwrap();
        pinned.bytes().to_vec()
    }
}

impl Gpu {
    fn new(
        context: Context,
        simulator: Option<Simulator>,
        alone: Option<MutexGuard<'static, ()>>,
    ) -> Self {
        Self {
            stream: Stream::new(&context, StreamName::Compute, 0).unwrap(),
            context,
            real: simulator.is_none(),
            modules: Mutex::default(),
            simulator,
            _alone: alone,
        }
    }

    /// Returns a kernel of the fatbin `source`.
    pub fn function(&self, source: &str, name: &str, shared: u32) -> Function {
        let mut modules = self.modules.lock().unwrap();
        let module = modules.entry(source.to_owned()).or_insert_with(|| {
            let image = kernels::fatbin(source).unwrap_or_else(|| panic!("no fatbin {source}"));
            Module::load(&self.context, image).unwrap()
        });
        module.function(name, shared).unwrap()
    }

    /// Returns a region with its own allocation, all bytes 0xff: NaN in every number format.
    pub fn poisoned(&self, bytes: usize) -> Region {
        let region = Arena::new(&self.context, bytes)
            .unwrap()
            .take("a test", bytes)
            .unwrap();
        // SAFETY: nothing else knows the region.
        unsafe { self.stream.fill(&region, 0xff).unwrap() };
        region
    }

    /// Copies these bytes to the device.
    pub fn upload(&self, bytes: &[u8]) -> Region {
        let region = self.poisoned(bytes.len());
        fill(&self.stream, &region, bytes);
        region
    }

    /// Returns the content of a region after all work is done.
    pub fn download(&self, region: &Region) -> Vec<u8> {
        contents(&self.stream, region)
    }

    /// Launches a kernel on one row of blocks.
    pub fn launch<P: Copy>(
        &self,
        function: &Function,
        blocks: usize,
        threads: u32,
        shared: u32,
        params: &P,
    ) {
        // SAFETY: tests name kernels with the matching params, whose regions they hold until the
        // stream is idle.
        unsafe {
            self.stream
                .launch(
                    function,
                    [blocks as u32, 1, 1],
                    [threads, 1, 1],
                    shared,
                    params,
                )
                .unwrap();
        }
    }

    /// Returns the simulator's findings so far; empty on a real device.
    pub fn findings(&self) -> String {
        let Some(simulator) = &self.simulator else {
            return String::new();
        };
        let list = simulator
            .call::<extern "C" fn(*mut std::ffi::c_char, usize) -> usize>("seqstream_sim_findings");
        let mut text = vec![0u8; 1 << 16];
        list(text.as_mut_ptr().cast(), text.len());
        let end = text.iter().position(|c| *c == 0).unwrap_or(0);
        String::from_utf8_lossy(&text[..end]).into_owned()
    }
}
