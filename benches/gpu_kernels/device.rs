//! A device on which kernels are timed, and random numbers for them.

use std::collections::HashMap;

use seqstream::backend::cuda::kernels;
use seqstream::gpu::driver::{
    Arena, Context, DriverError, Fence, Function, Module, PinnedBuffer, Region, Stream, StreamName,
};

/// The extent of the timing.
pub struct Extent {
    /// Tokens of the smaller and the larger batch.
    pub tokens: [usize; 2],
    /// The number of rounds for a median.
    pub rounds: usize,
    /// Bytes of random numbers on the device; each round takes another part of them.
    pub pool: usize,
}

/// The full extent.
pub const FULL: Extent = Extent {
    tokens: [16_896, 33_792],
    rounds: 30,
    pool: 6 << 30,
};
/// A small extent, which only checks that everything runs.
pub const SMALL: Extent = Extent {
    tokens: [40, 80],
    rounds: 1,
    pool: 64 << 20,
};

/// The device, and the options of the run.
pub struct Device {
    /// The context.
    pub context: Context,
    /// The stream of all launches.
    pub stream: Stream,
    /// The number of multiprocessors.
    pub multiprocessors: usize,
    /// The loaded modules, by source.
    pub modules: HashMap<String, Module>,
    /// Numbers of deviation 1 in f16; read as f32 they are arbitrary numbers, mostly small.
    pub pool: Region,
    /// The offset in the pool at which the next part begins.
    pub next: usize,
    /// Print only lines that contain this word.
    pub only: Option<String>,
    /// The extent of the timing.
    pub extent: Extent,
}

/// The least work of a kernel.
pub enum Floor {
    /// Bytes to move.
    Bytes(usize),
    /// Floating-point operations.
    Flops(f64),
}

impl Device {
    /// Opens the device, and fills the pool.
    pub fn new(
        multiprocessors: usize,
        only: Option<String>,
        extent: Extent,
    ) -> Result<Self, DriverError> {
        let context = Context::new(0)?;
        let stream = Stream::new(&context, StreamName::Compute, 0)?;
        let pool = Arena::new(&context, extent.pool)?.take("random numbers", extent.pool)?;
        let part = extent.pool.min(64 << 20);
        let mut pinned = PinnedBuffer::new(&context, part)?;
        let mut state = 1u64;
        let mut byte = || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 40) as u32
        };
        // SAFETY: no work is running.
        for pair in unsafe { pinned.bytes_mut() }.chunks_exact_mut(2) {
            // The sum of four uniform numbers, with deviation 1.
            let sum: u32 = (0..4).map(|_| byte() & 0xffff).sum();
            let x = (sum as f32 / 65536.0 - 2.0) * 3f32.sqrt();
            pair.copy_from_slice(&half::f16::from_f32(x).to_ne_bytes());
        }
        for at in (0..extent.pool).step_by(part) {
            // SAFETY: nothing else knows the pool, and the stream is waited for.
            unsafe { stream.load(&pinned, 0..part, &pool.slice(at..at + part))? };
        }
        stream.synchronize()?;
        Ok(Self {
            context,
            stream,
            multiprocessors,
            modules: HashMap::new(),
            pool,
            next: 0,
            only,
            extent,
        })
    }

    /// Returns the address of the next part of the pool.
    pub fn numbers(&mut self, bytes: usize) -> u64 {
        let bytes = bytes.next_multiple_of(256);
        assert!(
            bytes <= self.extent.pool,
            "the pool is smaller than one matrix"
        );
        if self.next + bytes > self.extent.pool {
            self.next = 0;
        }
        let address = self.pool.address() + self.next as u64;
        self.next += bytes;
        address
    }

    /// Allocates a region.
    pub fn memory(&self, bytes: usize) -> Result<Region, DriverError> {
        Arena::new(&self.context, bytes)?.take("a bench", bytes)
    }

    /// Copies these bytes to a new region.
    pub fn upload(&self, bytes: &[u8]) -> Result<Region, DriverError> {
        let region = self.memory(bytes.len())?;
        let mut pinned = PinnedBuffer::new(&self.context, bytes.len())?;
        // SAFETY: nothing else knows the two regions, and the stream is waited for.
        unsafe {
            pinned.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
            self.stream.load(&pinned, 0..bytes.len(), &region)?;
        }
        self.stream.synchronize()?;
        Ok(region)
    }

    /// Returns a kernel of the fatbin `source`.
    pub fn function(
        &mut self,
        source: &str,
        name: &str,
        shared: u32,
    ) -> Result<Function, DriverError> {
        if !self.modules.contains_key(source) {
            let image = kernels::fatbin(source).unwrap_or_else(|| panic!("no fatbin {source}"));
            let module = Module::load(&self.context, image)?;
            self.modules.insert(source.to_owned(), module);
        }
        self.modules[source].function(name, shared)
    }

    /// Returns the number of blocks of 256 threads for the work of this many threads: a few per
    /// multiprocessor, but not more than there is work.
    pub fn blocks(&self, threads: usize) -> u32 {
        threads.div_ceil(256).clamp(1, 64 * self.multiprocessors) as u32
    }

    /// Returns whether a line is wanted.
    pub fn wants(&self, what: &str) -> bool {
        self.only
            .as_ref()
            .is_none_or(|word| what.contains(word.as_str()))
    }

    /// Times `enqueue`, and prints the line.
    pub fn time(
        &mut self,
        what: &str,
        floor: Floor,
        mut enqueue: impl FnMut(&mut Self) -> Result<(), DriverError>,
    ) -> Result<(), DriverError> {
        for _ in 0..3 {
            enqueue(self)?;
        }
        let mut medians = [0f64; 2];
        for median in &mut medians {
            let fences = (0..=self.extent.rounds)
                .map(|_| Fence::timed(&self.context))
                .collect::<Result<Vec<_>, _>>()?;
            self.stream.record(&fences[0])?;
            for fence in &fences[1..] {
                enqueue(self)?;
                self.stream.record(fence)?;
            }
            self.stream.synchronize()?;
            let mut times = Vec::new();
            for pair in fences.windows(2) {
                times.extend(pair[1].milliseconds_since(&pair[0])?.map(f64::from));
            }
            times.sort_by(f64::total_cmp);
            *median = times[times.len() / 2] * 1e-3;
        }
        let [first, second] = medians;
        let rate = match floor {
            Floor::Bytes(bytes) => format!("{:7.0} GB/s", bytes as f64 / second * 1e-9),
            Floor::Flops(flops) => format!("{:7.1} TFLOP/s", flops / second * 1e-12),
        };
        println!(
            "{what:<58} {:9.1} {:9.1} us {rate}",
            first * 1e6,
            second * 1e6
        );
        Ok(())
    }

    /// Launches a kernel on one row of blocks.
    ///
    /// # Safety As for [`Stream::launch`].
    pub unsafe fn launch<P: Copy>(
        &self,
        function: &Function,
        blocks: u32,
        threads: u32,
        shared: u32,
        params: &P,
    ) -> Result<(), DriverError> {
        // SAFETY: the caller guarantees it.
        unsafe { self.launch_grid(function, [blocks, 1], threads, shared, params) }
    }

    /// Launches a kernel on a grid of blocks.
    ///
    /// # Safety As for [`Stream::launch`].
    pub unsafe fn launch_grid<P: Copy>(
        &self,
        function: &Function,
        [x, y]: [u32; 2],
        threads: u32,
        shared: u32,
        params: &P,
    ) -> Result<(), DriverError> {
        // SAFETY: the caller guarantees it.
        unsafe {
            self.stream
                .launch(function, [x, y, 1], [threads, 1, 1], shared, params)
        }
    }
}
