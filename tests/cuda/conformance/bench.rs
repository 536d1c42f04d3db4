//! Launches one conformance kernel: copies the inputs, poisons the output, and reads the output.

use seqstream::gpu::driver::{
    Arena, DriverError, Element, Fence, PackedRows, PinnedBuffer, Region, Swizzle, Tensor,
    TensorMap, devices,
};

use crate::support::cuda::gpu::{Gpu, gpu};
use crate::support::cuda::real::not_run;

/// The same struct as in `kernels/conformance.cu`.
#[repr(C, align(64))]
#[derive(Clone, Copy, Default)]
struct Params {
    maps: [[u64; 16]; 2],
    from: [u64; 3],
    to: u64,
    n: [u32; 8],
}
const _: () = assert!(size_of::<Params>() == 320);

/// A real or simulated device.
pub struct Bench(Gpu);

/// The inputs of one launch.
#[derive(Default)]
pub struct Launch<'a> {
    pub name: &'a str,
    pub threads: u32,
    pub shared: u32,
    pub inputs: [&'a [u8]; 3],
    /// The tensors of the first and second input.
    pub tensors: [Option<Tensor<'a>>; 2],
    /// The packed rows of the first input, without their address.
    pub packed: Option<PackedRows>,
    pub n: [u32; 8],
    /// The initial bytes of the output.
    pub output: Vec<u8>,
}

impl Bench {
    /// Opens the device, with `seed` as the simulated schedule. Returns `None`, after a message, if
    /// there is no device.
    pub fn new(seed: u64) -> Option<Self> {
        gpu(seed).map(Self)
    }

    /// Opens a device with the instructions of sm_90a.
    pub fn hopper(seed: u64) -> Option<Self> {
        let bench = Self::new(seed)?;
        if devices().unwrap()[0].capability != (9, 0) {
            not_run("the device is no Hopper");
            return None;
        }
        Some(bench)
    }

    pub fn run(&self, launch: Launch) -> Vec<u8> {
        let what = format!("{}, {:?}", launch.name, launch.n.map(|n| n as i32));
        self.try_run(launch)
            .unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    pub fn try_run(&self, launch: Launch) -> Result<Vec<u8>, DriverError> {
        let sizes = launch.inputs.map(|input| input.len().max(1));
        let capacity = sizes.iter().sum::<usize>() + launch.output.len() + 4 * 256;
        let mut arena = Arena::new(&self.0.context, capacity)?;
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
                // SAFETY: both types are 128 bytes without a meaning of their own.
                params.maps[i] = unsafe { std::mem::transmute::<TensorMap, [u64; 16]>(map) };
            }
            if let Some(rows) = launch.packed.filter(|_| i == 0) {
                let address = region.address();
                let map = TensorMap::packed(&PackedRows { address, ..rows })?;
                // SAFETY: as above.
                params.maps[i] = unsafe { std::mem::transmute::<TensorMap, [u64; 16]>(map) };
            }
            regions.push(region);
        }
        let output = self.upload(&mut arena, &launch.output)?;
        params.to = output.address();
        let function = self.0.function("conformance", launch.name, launch.shared);
        let down = PinnedBuffer::new(&self.0.context, launch.output.len())?;
        let fence = Fence::new(&self.0.context)?;
        // SAFETY: the kernels of conformance.cu take this struct; all memory lives until the fence
        // is passed.
        unsafe {
            let block = [launch.threads, 1, 1];
            self.0
                .stream
                .launch(&function, [1, 1, 1], block, launch.shared, &params)?;
            self.0
                .stream
                .store(&output, &down, 0..launch.output.len())?;
            self.0.stream.record(&fence)?;
            fence.wait()?;
            Ok(down.bytes()[..launch.output.len()].to_vec())
        }
    }

    fn upload(&self, arena: &mut Arena, bytes: &[u8]) -> Result<Region, DriverError> {
        let region = arena.take("an operand", bytes.len().max(1))?;
        let mut up = PinnedBuffer::new(&self.0.context, bytes.len())?;
        let fence = Fence::new(&self.0.context)?;
        // SAFETY: nothing else uses the buffer or the region; the fence is passed before either is
        // freed.
        unsafe {
            up.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
            if !bytes.is_empty() {
                self.0.stream.load(&up, 0..bytes.len(), &region)?;
            }
            self.0.stream.record(&fence)?;
            fence.wait()?;
        }
        Ok(region)
    }
}

/// Makes a dense tensor of 16-bit elements, and its box.
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

/// Returns bytes that no kernel writes: NaN in every format.
pub fn poison(bytes: usize) -> Vec<u8> {
    vec![0xff; bytes]
}

/// The formats of 16-bit numbers.
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

/// Returns scattered integers from -4 to 4.
pub fn small(index: usize, salt: usize) -> f32 {
    let mixed = (index * 2_654_435_761 + salt * 40_503 + 12_345) & 0xffff_ffff;
    ((mixed >> 13) % 9) as f32 - 4.0
}
