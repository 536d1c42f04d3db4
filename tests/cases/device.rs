//! Runs cases on a device: a GPU or the simulated one.

use super::numbers::bytes;
use super::{By, Case, Operand};
use seqstream::backend::cuda::kernels;
use seqstream::backend::cuda::launch::LOOP_THREADS;
use seqstream::gpu::driver::{
    Arena, Context, DriverError, Fence, Function, Module, PinnedBuffer, Region, Stream, StreamName,
};
use std::cell::RefCell;
use std::collections::HashMap;

/// The launch of one kernel.
pub struct Launch {
    /// The name of the `.cu` file.
    pub source: String,
    pub kernel: String,
    pub grid: [u32; 3],
    pub threads: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    pub params: Box<dyn Params>,
}

impl Launch {
    /// A kernel without dynamic shared memory, on one row of blocks.
    pub fn new<P: Copy + 'static>(
        source: &str,
        kernel: String,
        blocks: usize,
        threads: u32,
        params: P,
    ) -> Self {
        Self {
            source: source.into(),
            kernel,
            grid: [blocks as u32, 1, 1],
            threads,
            shared: 0,
            params: Box::new(params),
        }
    }
}

/// The params struct of any kernel.
pub trait Params {
    /// # Safety
    /// As for [`Stream::launch`].
    unsafe fn launch(
        &self,
        stream: &Stream,
        function: &Function,
        launch: &Launch,
    ) -> Result<(), DriverError>;
}

impl<P: Copy> Params for P {
    unsafe fn launch(
        &self,
        stream: &Stream,
        function: &Function,
        launch: &Launch,
    ) -> Result<(), DriverError> {
        let block = [launch.threads, 1, 1];
        // SAFETY: the caller keeps the contract of `Stream::launch`.
        unsafe { stream.launch(function, launch.grid, block, launch.shared, self) }
    }
}

/// What the launches depend on.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    /// The compute capability.
    pub capability: (u32, u32),
    /// The blocks of a persistent kernel.
    pub multiprocessors: u32,
    /// The most blocks of a kernel that loops over its work.
    pub most_blocks: usize,
}

impl Machine {
    /// Returns the blocks of a kernel that loops over its work, one piece per thread at a time.
    pub fn blocks(&self, pieces: usize) -> usize {
        let threads = LOOP_THREADS as usize;
        pieces.div_ceil(threads).clamp(1, self.most_blocks)
    }
}

/// A device with a stream.
pub struct Device {
    context: Context,
    stream: Stream,
    pub machine: Machine,
    modules: RefCell<HashMap<String, Module>>,
}

impl Device {
    /// # Errors
    /// Returns the driver's error.
    pub fn new(context: &Context) -> Result<Self, DriverError> {
        let info = context.info()?;
        Ok(Self {
            context: context.clone(),
            stream: Stream::new(context, StreamName::Compute, 0)?,
            machine: Machine {
                capability: info.capability,
                multiprocessors: info.multiprocessors,
                most_blocks: 16 * info.multiprocessors as usize,
            },
            modules: RefCell::default(),
        })
    }

    fn function(&self, launch: &Launch) -> Result<Function, DriverError> {
        let mut modules = self.modules.borrow_mut();
        if !modules.contains_key(&launch.source) {
            let image = kernels::fatbin(&launch.source)
                .unwrap_or_else(|| panic!("no fatbin {}", launch.source));
            let module = Module::load(&self.context, image)?;
            modules.insert(launch.source.clone(), module);
        }
        modules[&launch.source].function(&launch.kernel, launch.shared)
    }

    /// Allocates memory whose bytes are all 0xff: NaN in every number format.
    fn poisoned(&self, bytes: usize) -> Result<Region, DriverError> {
        let region = Arena::new(&self.context, bytes)?.take("a case", bytes)?;
        // SAFETY: nothing else knows the region.
        unsafe { self.stream.fill(&region, 0xff)? };
        Ok(region)
    }

    fn upload(&self, bytes: &[u8]) -> Result<Region, DriverError> {
        let region = self.poisoned(bytes.len())?;
        let mut pinned = PinnedBuffer::new(&self.context, bytes.len())?;
        // SAFETY: nothing else knows the two regions, and the stream is waited for.
        unsafe {
            pinned.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
            self.stream.load(&pinned, 0..bytes.len(), &region)?;
        }
        self.stream.synchronize()?;
        Ok(region)
    }

    fn download(&self, region: &Region) -> Result<Vec<u8>, DriverError> {
        let pinned = PinnedBuffer::new(&self.context, region.bytes())?;
        // SAFETY: the copy is waited for before the buffer is read.
        unsafe {
            self.stream.store(region, &pinned, 0..region.bytes())?;
            self.stream.synchronize()?;
            Ok(pinned.bytes()[..region.bytes()].to_vec())
        }
    }

    /// Returns a region for one operand with its values.
    fn place(
        &self,
        case: &dyn Case,
        i: usize,
        operand: &Operand,
    ) -> Result<Option<Region>, DriverError> {
        match operand {
            _ if operand.bytes() == 0 => Ok(None),
            Operand::Bytes(bytes) => self.upload(bytes).map(Some),
            Operand::Output { .. } => self.poisoned(operand.bytes()).map(Some),
            _ => self
                .upload(&bytes(&case.values(i), operand.dtype()))
                .map(Some),
        }
    }

    /// Computes a case, and returns the bytes of every operand afterwards; `None` if there is no
    /// such kernel.
    ///
    /// # Errors
    /// Returns the driver's error.
    pub fn compute(&self, case: &dyn Case, by: By) -> Result<Option<Vec<Vec<u8>>>, DriverError> {
        let mut regions = Vec::new();
        for (i, operand) in case.operands(&self.machine, by).iter().enumerate() {
            regions.push(self.place(case, i, operand)?);
        }
        let Some(launches) = case.launches_in(&regions, &self.machine, by) else {
            return Ok(None);
        };
        for launch in &launches {
            let function = self.function(launch)?;
            // SAFETY: the case names the kernel with its params, and the regions have the sizes of
            // its operands and live until the stream is idle.
            unsafe { launch.params.launch(&self.stream, &function, launch)? };
        }
        let contents = regions.iter().map(|region| match region {
            Some(region) => self.download(region),
            None => Ok(Vec::new()),
        });
        contents.collect::<Result<_, _>>().map(Some)
    }
}

/// Random numbers in a device's memory: each round of a benchmark reads other ones, so that inputs
/// come from memory as in a model.
pub struct Pool {
    region: Region,
    next: usize,
}

impl Pool {
    /// Fills a pool with numbers of deviation 1 in f16; read as f32 they are arbitrary numbers,
    /// mostly small.
    ///
    /// # Errors
    /// Returns the driver's error.
    pub fn new(device: &Device, bytes: usize) -> Result<Self, DriverError> {
        let region = Arena::new(&device.context, bytes)?.take("random numbers", bytes)?;
        let part = bytes.min(64 << 20);
        let mut pinned = PinnedBuffer::new(&device.context, part)?;
        let mut random = super::numbers::Random(1);
        // SAFETY: no work is running.
        for pair in unsafe { pinned.bytes_mut() }.chunks_exact_mut(2) {
            // The sum of four uniform numbers, with deviation 1.
            let word = random.next();
            let sum: u64 = (0..4).map(|i| (word >> (16 * i)) & 0xffff).sum();
            let x = (sum as f32 / 65536.0 - 2.0) * 3f32.sqrt();
            pair.copy_from_slice(&half::f16::from_f32(x).to_ne_bytes());
        }
        for at in (0..bytes).step_by(part) {
            let end = bytes.min(at + part);
            // SAFETY: nothing else knows the pool, and the stream is waited for.
            unsafe {
                let to = region.slice(at..end);
                device.stream.load(&pinned, 0..end - at, &to)?;
            }
        }
        device.stream.synchronize()?;
        Ok(Self { region, next: 0 })
    }

    fn take(&mut self, bytes: usize) -> Region {
        let bytes = bytes.next_multiple_of(256);
        assert!(bytes <= self.region.bytes(), "an operand exceeds the pool");
        if self.next + bytes > self.region.bytes() {
            self.next = 0;
        }
        let start = self.next;
        self.next += bytes;
        self.region.slice(start..self.next)
    }
}

impl Device {
    /// Times a case: the medians in seconds of two series of rounds. The result is `None` if there
    /// is no such kernel.
    ///
    /// # Errors
    /// Returns the driver's error.
    pub fn time(
        &self,
        case: &dyn Case,
        pool: &mut Pool,
        rounds: usize,
    ) -> Result<Option<[f64; 2]>, DriverError> {
        let operands = case.operands(&self.machine, By::Kernel);
        let mut regions = Vec::new();
        for (i, operand) in operands.iter().enumerate() {
            regions.push(match operand {
                Operand::Input { .. } | Operand::InPlace { .. } => None,
                _ => self.place(case, i, operand)?,
            });
        }
        let mut places = || -> Vec<Option<Region>> {
            let each = operands.iter().zip(&regions);
            each.map(|(operand, region)| match (region, operand.bytes()) {
                (Some(region), bytes) => Some(region.slice(0..bytes)),
                (None, 0) => None,
                (None, bytes) => Some(pool.take(bytes)),
            })
            .collect()
        };
        let Some(first) = case.launches_in(&places(), &self.machine, By::Kernel) else {
            return Ok(None);
        };
        let functions = first
            .iter()
            .map(|launch| self.function(launch))
            .collect::<Result<Vec<_>, _>>()?;
        // Made beforehand: the device must not wait for a work list.
        let mut prepare = |rounds: usize| -> Vec<Vec<Launch>> {
            let round = |_| case.launches_in(&places(), &self.machine, By::Kernel);
            (0..rounds).filter_map(round).collect()
        };
        let enqueue = |launches: &[Launch]| -> Result<(), DriverError> {
            for (launch, function) in launches.iter().zip(&functions) {
                // SAFETY: as in `compute`; the pool lives as long.
                unsafe { launch.params.launch(&self.stream, function, launch)? };
            }
            Ok(())
        };
        for launches in prepare(3) {
            enqueue(&launches)?;
        }
        let mut medians = [0f64; 2];
        for median in &mut medians {
            let rounds = prepare(rounds);
            let fences = (0..=rounds.len())
                .map(|_| Fence::timed(&self.context))
                .collect::<Result<Vec<_>, _>>()?;
            self.stream.record(&fences[0])?;
            for (launches, fence) in rounds.iter().zip(&fences[1..]) {
                enqueue(launches)?;
                self.stream.record(fence)?;
            }
            self.stream.synchronize()?;
            let mut times = Vec::new();
            for pair in fences.windows(2) {
                times.extend(pair[1].milliseconds_since(&pair[0])?.map(f64::from));
            }
            times.sort_by(f64::total_cmp);
            *median = times.get(times.len() / 2).copied().unwrap_or(f64::NAN) * 1e-3;
        }
        Ok(Some(medians))
    }
}
