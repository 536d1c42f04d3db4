//! Launches one conformance kernel: inputs up, output poisoned, output down.

use std::sync::{Mutex, MutexGuard};

use seqstream::backend::cuda::driver::{
    Arena, Context, DriverError, Element, Fence, Module, PinnedBuffer, Region, Stream, StreamName,
    Swizzle, Tensor, TensorMap, devices,
};
use seqstream::backend::cuda::kernels::fatbin;

use crate::cuda_support::{Simulator, simulator};

/// As `kernels/conformance.cu` has it.
#[repr(C, align(64))]
#[derive(Clone, Copy, Default)]
struct Params {
    maps: [[u64; 16]; 2],
    from: [u64; 3],
    to: u64,
    n: [u32; 8],
}
const _: () = assert!(size_of::<Params>() == 320);

/// A device, or the simulated one.
pub struct Bench {
    context: Context,
    stream: Stream,
    module: Module,
    _simulator: Option<Simulator>,
    _alone: Option<MutexGuard<'static, ()>>,
}

/// What one launch gets.
#[derive(Default)]
pub struct Launch<'a> {
    pub name: &'a str,
    pub threads: u32,
    pub shared: u32,
    pub inputs: [&'a [u8]; 3],
    /// Of the first and second input.
    pub tensors: [Option<Tensor<'a>>; 2],
    pub n: [u32; 8],
    /// Bytes of the output, and what they hold before.
    pub output: Vec<u8>,
}

fn real() -> bool {
    std::env::var_os("SEQSTREAM_TEST_GPU").is_some_and(|v| v == "1")
}

impl Bench {
    /// With `seed` as the simulated schedule.
    pub fn new(seed: u64) -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let (simulator, alone) = if real() {
            let alone = ALONE
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            (None, Some(alone))
        } else {
            (Some(simulator(1, seed)), None)
        };
        let context = Context::new(0).unwrap();
        let image = fatbin("conformance");
        assert!(!real() || image.is_some(), "this build has no kernels");
        Self {
            stream: Stream::new(&context, StreamName::Compute, 0).unwrap(),
            // The simulator takes any image: its kernels are compiled in.
            module: Module::load(&context, image.unwrap_or(b"none")).unwrap(),
            context,
            _simulator: simulator,
            _alone: alone,
        }
    }

    /// Whether the device has the instructions of sm_90a.
    pub fn is_hopper(&self) -> bool {
        let hopper = devices().unwrap()[0].capability == (9, 0);
        if !hopper {
            eprintln!("no Hopper device: nothing tested");
        }
        hopper
    }

    pub fn run(&self, launch: Launch) -> Vec<u8> {
        self.try_run(launch).unwrap()
    }

    fn try_run(&self, launch: Launch) -> Result<Vec<u8>, DriverError> {
        let sizes = launch.inputs.map(|input| input.len().max(1));
        let room = sizes.iter().sum::<usize>() + launch.output.len() + 4 * 256;
        let mut arena = Arena::new(&self.context, room)?;
        let mut params = Params {
            n: launch.n,
            ..Params::default()
        };
        let mut regions: Vec<Region> = Vec::new();
        for (i, input) in launch.inputs.iter().enumerate() {
            let region = self.upload(&mut arena, input)?;
            if !input.is_empty() {
                params.from[i] = region.address();
            }
            if let Some(Some(tensor)) = launch.tensors.get(i) {
                let map = TensorMap::new(&region, 0, tensor)?;
                // SAFETY: both are 128 bytes without a meaning of their own.
                params.maps[i] = unsafe { std::mem::transmute::<TensorMap, [u64; 16]>(map) };
            }
            regions.push(region);
        }
        let output = self.upload(&mut arena, &launch.output)?;
        params.to = output.address();
        let function = self.module.function(launch.name, launch.shared)?;
        let down = PinnedBuffer::new(&self.context, launch.output.len())?;
        let fence = Fence::new(&self.context)?;
        // SAFETY: the kernels of conformance.cu take this struct; all memory lives until the fence is passed.
        unsafe {
            let block = [launch.threads, 1, 1];
            self.stream
                .launch(&function, [1, 1, 1], block, launch.shared, &params)?;
            self.stream.store(&output, &down, 0..launch.output.len())?;
            self.stream.record(&fence)?;
            fence.wait()?;
            Ok(down.bytes()[..launch.output.len()].to_vec())
        }
    }

    fn upload(&self, arena: &mut Arena, bytes: &[u8]) -> Result<Region, DriverError> {
        let region = arena.take("an operand", bytes.len().max(1))?;
        let mut up = PinnedBuffer::new(&self.context, bytes.len())?;
        let fence = Fence::new(&self.context)?;
        // SAFETY: nothing else uses the buffer or the region; the fence is passed before either is let go.
        unsafe {
            up.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
            if !bytes.is_empty() {
                self.stream.load(&up, 0..bytes.len(), &region)?;
            }
            self.stream.record(&fence)?;
            fence.wait()?;
        }
        Ok(region)
    }
}

/// A dense tensor of 16-bit elements, and its box.
pub fn tensor<'a>(
    dims: &'a [u64],
    strides: &'a [u64],
    boxes: &'a [u32],
    swizzle: Swizzle,
) -> Tensor<'a> {
    Tensor {
        element: Element::F16,
        dims,
        strides,
        boxes,
        swizzle,
    }
}

// ---- Bytes.

pub fn bytes16(values: &[u16]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}
pub fn bytes32(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}
pub fn bytes_f32(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}
pub fn words(bytes: &[u8]) -> Vec<u32> {
    bytes
        .chunks_exact(4)
        .map(|b| u32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}
pub fn floats(bytes: &[u8]) -> Vec<f32> {
    words(bytes).into_iter().map(f32::from_bits).collect()
}
pub fn halves(bytes: &[u8]) -> Vec<u16> {
    bytes
        .chunks_exact(2)
        .map(|b| u16::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

/// Output that no kernel writes: NaN in every format.
pub fn poison(bytes: usize) -> Vec<u8> {
    vec![0xff; bytes]
}

/// 16-bit numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Half {
    F16,
    Bf16,
}

impl Half {
    pub fn bits(self, value: f32) -> u16 {
        match self {
            Self::F16 => half::f16::from_f32(value).to_bits(),
            Self::Bf16 => half::bf16::from_f32(value).to_bits(),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    pub fn pair(self, low: f32, high: f32) -> u32 {
        u32::from(self.bits(low)) | u32::from(self.bits(high)) << 16
    }
}

/// Integers of -4 to 4, scattered.
pub fn small(index: usize, salt: usize) -> f32 {
    let mixed = (index * 2_654_435_761 + salt * 40_503 + 12_345) & 0xffff_ffff;
    ((mixed >> 13) % 9) as f32 - 4.0
}
