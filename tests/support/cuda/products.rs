//! Products by cuBLASLt on a device, and the same products in f64.

use super::gpu::{Gpu, contents, fill, gpu};
use super::real::{not_run, wants_real};
use super::{Simulator, simulator};
use seqstream::dtype::DType;
use seqstream::gpu::cublaslt::{
    Algorithms, Gemm, Kind, Operands, Product, ProductSpec, Tuning, WHOLE, WORKSPACE,
};
use seqstream::gpu::driver::{Arena, Context, Region, Stream, StreamName};
use std::ffi::CString;
use std::ffi::c_char;
use std::sync::Arc;
/// Options for a quick choice: few rows to time, nothing to flush.
pub const TUNING: Tuning = Tuning {
    rows: 64,
    rounds: 3,
    flush: 1 << 10,
};

/// Returns the simulator, or `None` if tests run on a real device: for tests that need the
/// simulator.
pub fn start(devices: u32, seed: u64) -> Option<Simulator> {
    if wants_real() {
        not_run("this test is of the simulated driver");
        return None;
    }
    let simulator = simulator(devices, seed);
    // SAFETY: tests hold the simulator, one at a time, before they change the environment.
    unsafe { std::env::set_var("SEQSTREAM_LIBCUBLASLT", super::library()) };
    Some(simulator)
}

/// A device that one test holds, real if a real device is requested.
pub enum Held {
    Real(#[expect(dead_code)] Gpu),
    Simulated(Simulator),
}

impl Held {
    /// Returns a counter of the simulator.
    pub fn counter(&self, name: &str) -> Option<u64> {
        match self {
            Self::Real(_) => None,
            Self::Simulated(simulator) => Some(counter(simulator, name)),
        }
    }
}

pub fn device() -> Option<Held> {
    match wants_real() {
        true => gpu(3).map(Held::Real),
        false => start(1, 3).map(Held::Simulated),
    }
}

pub fn counter(simulator: &Simulator, name: &str) -> u64 {
    let name = CString::new(name).unwrap();
    let counter = simulator.call::<extern "C" fn(*const c_char) -> u64>("seqstream_sim_counter");
    counter(name.as_ptr())
}

pub fn fault(simulator: &Simulator, order: &str) {
    let order = CString::new(order).unwrap();
    let set = simulator.call::<extern "C" fn(*const c_char) -> i32>("seqstream_sim_set_fault");
    assert_eq!(set(order.as_ptr()), 0);
}

pub fn gemm(context: &Context) -> Gemm {
    Gemm::load(context, Arc::new(Algorithms::new(None)), TUNING).unwrap()
}

pub fn spec(outputs: usize, inputs: usize, dtype: DType, kind: Kind, bias: bool) -> ProductSpec {
    ProductSpec {
        outputs,
        inputs,
        dtype,
        kind,
        bias,
        chain: WHOLE,
    }
}

/// Returns specifications of every dtype and kind, with and without bias.
pub fn every(outputs: usize, inputs: usize) -> Vec<ProductSpec> {
    let mut all = Vec::new();
    for dtype in [DType::F16, DType::Bf16, DType::F32] {
        for kind in [Kind::Store, Kind::Accumulate] {
            for bias in [true, false] {
                all.push(spec(outputs, inputs, dtype, kind, bias));
            }
        }
    }
    all
}

/// Returns numbers that are uniform in [-1, 1).
pub fn random(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

pub fn encode(dtype: DType, values: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    dtype.encode(values, &mut bytes);
    bytes
}

pub fn decode(dtype: DType, bytes: &[u8]) -> Vec<f64> {
    let mut values = Vec::new();
    dtype.decode(bytes, &mut values);
    values.into_iter().map(f64::from).collect()
}

/// A device with a stream and memory.
pub struct Rig {
    pub context: Context,
    pub stream: Stream,
    pub arena: Arena,
    pub workspace: Region,
}

impl Rig {
    pub fn new(device: u32) -> Self {
        let context = Context::new(device).unwrap();
        let mut arena = Arena::new(&context, WORKSPACE + (512 << 20)).unwrap();
        Self {
            stream: Stream::new(&context, StreamName::Compute, 0).unwrap(),
            workspace: arena.take("workspace", WORKSPACE).unwrap(),
            context,
            arena,
        }
    }

    /// Frees capacity: an upload is freed with its last region.
    pub fn empty(&mut self) {
        let mut arena = Arena::new(&self.context, WORKSPACE + (512 << 20)).unwrap();
        self.workspace = arena.take("workspace", WORKSPACE).unwrap();
        self.arena = arena;
    }

    pub fn upload(&mut self, bytes: &[u8]) -> Region {
        let region = self.arena.take("operand", bytes.len()).unwrap();
        fill(&self.stream, &region, bytes);
        region
    }

    pub fn download(&self, region: &Region) -> Vec<u8> {
        contents(&self.stream, region)
    }
}

/// The operands of a product on the device, and their rounded values.
pub struct Case {
    pub spec: ProductSpec,
    pub rows: usize,
    pub x: Vec<u8>,
    pub w: Vec<u8>,
    pub bias: Vec<u8>,
    /// The content of `out` before the product: NaN if the product stores to it.
    pub before: Vec<u8>,
    pub at: [Region; 4],
}

/// The number of bytes after `out`, which no product may touch.
pub const MARGIN: usize = 512;

impl Case {
    pub fn new(rig: &mut Rig, spec: &ProductSpec, rows: usize) -> Self {
        let (n, k) = (spec.outputs, spec.inputs);
        let seed = (n * k * rows) as u64;
        let x = encode(spec.dtype, &random(rows * k, seed + 1));
        let w = encode(spec.dtype, &random(n * k, seed + 2));
        let bias = encode(spec.bias_dtype(), &random(n, seed + 3));
        let mut before = match spec.kind {
            Kind::Store => vec![0xff; rows * n * spec.out_dtype().size()],
            Kind::Accumulate => encode(DType::F32, &random(rows * n, seed + 4)),
        };
        before.extend([0xaa; MARGIN]);
        let at = [&x, &w, &bias, &before].map(|bytes| rig.upload(bytes));
        Self {
            spec: *spec,
            rows,
            x,
            w,
            bias,
            before,
            at,
        }
    }

    pub fn operands(&self) -> Operands {
        let [x, w, bias, out] = [0, 1, 2, 3].map(|i| self.at[i].address());
        Operands { x, w, bias, out }
    }

    /// Runs the product for all rows; returns the result.
    pub fn run(&self, rig: &Rig, product: &Product) -> Vec<u8> {
        // SAFETY: the operands have these sizes, and only this stream uses them.
        unsafe {
            product
                .run(&rig.stream, &rig.workspace, self.operands(), self.rows)
                .unwrap();
        }
        let mut out = rig.download(&self.at[3]);
        let margin = out.split_off(out.len() - MARGIN);
        assert!(margin.iter().all(|byte| *byte == 0xaa), "{}", self.spec);
        out
    }

    /// Returns norm(out - reference) / norm(reference).
    pub fn error(&self, out: &[u8]) -> f64 {
        let (n, k) = (self.spec.outputs, self.spec.inputs);
        let [x, w] = [&self.x, &self.w].map(|bytes| decode(self.spec.dtype, bytes));
        let bias = decode(self.spec.bias_dtype(), &self.bias);
        let before = decode(self.spec.out_dtype(), &self.before);
        let out = decode(self.spec.out_dtype(), out);
        let (mut difference, mut size) = (0.0, 0.0);
        for row in 0..self.rows {
            for column in 0..n {
                let products = x[row * k..][..k].iter().zip(&w[column * k..][..k]);
                let mut expected: f64 = products.map(|(a, b)| a * b).sum();
                if self.spec.bias {
                    expected += bias[column];
                }
                if self.spec.kind == Kind::Accumulate {
                    expected += before[row * n + column];
                }
                difference += (out[row * n + column] - expected).powi(2);
                size += expected * expected;
            }
        }
        (difference / size).sqrt()
    }
}

/// The tolerance for sums of `inputs` products in f32, in any order, and one rounding to the
/// output's dtype.
pub fn tolerance(spec: &ProductSpec) -> f64 {
    let rounding = |dtype| match dtype {
        DType::F32 => 2f64.powi(-24),
        DType::F16 => 2f64.powi(-11),
        DType::Bf16 => 2f64.powi(-8),
    };
    (spec.inputs as f64).sqrt() * rounding(DType::F32) + rounding(spec.out_dtype())
}
