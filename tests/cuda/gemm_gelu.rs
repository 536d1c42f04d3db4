//! The GEMM with GELU in its epilogue, for Hopper, compared with f64: ragged edges, with and
//! without bias, gated and not; and a row has the same bits in other batches. `-- --nocapture`
//! prints the errors.

use crate::support::cuda;
use crate::support::cuda::gpu::{Gpu, gpu, seeds};
use crate::support::cuda::numbers::{
    ENOUGH, Random, bytes, epsilon, error, gelu, rounded, same_on_the_whole, values,
};
use crate::support::cuda::real::not_run;
use seqstream::backend::cuda::launch::{GEMM_GELU_SHARED_BYTES as SHARED, GEMM90_THREADS};
use seqstream::backend::cuda::params::{GemmGeluParams, GemmGeluReferenceParams};
use seqstream::dtype::DType;
use seqstream::gpu::driver::{Element, Region, Swizzle, Tensor, TensorMap, devices};

#[derive(Clone)]
struct Case {
    dtype: DType,
    gated: bool,
    width: usize,
    depth: usize,
    from: Vec<f32>,
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
}

/// Launch settings that must not influence the bits.
#[derive(Clone, Copy)]
struct Launch {
    blocks: usize,
    band: u32,
}

impl Case {
    /// Makes a case whose arguments of GELU have deviation 2: they cover its tail and both of its
    /// halves.
    fn new(
        dtype: DType,
        gated: bool,
        [rows, width, depth]: [usize; 3],
        bias: bool,
        seed: u64,
    ) -> Self {
        let mut random = Random(seed);
        let out = width * (1 + usize::from(gated));
        let deviation = 2.0 / (depth as f64).sqrt();
        let mut some = |count, deviation| rounded(&random.normal(count, deviation), dtype);
        Self {
            dtype,
            gated,
            width,
            depth,
            from: some(rows * depth, 1.0),
            weight: some(out * depth, deviation),
            bias: bias.then(|| some(out, 0.5)),
        }
    }

    fn rows(&self) -> usize {
        self.from.len() / self.depth
    }

    fn of_rows(&self, rows: std::ops::Range<usize>) -> Self {
        Self {
            from: self.from[rows.start * self.depth..rows.end * self.depth].to_vec(),
            ..self.clone()
        }
    }

    fn map(&self, region: &Region, dims: [usize; 2], boxes: [u32; 2]) -> TensorMap {
        let tensor = Tensor {
            element: match self.dtype {
                DType::Bf16 => Element::Bf16,
                _ => Element::F16,
            },
            dims: &[dims[1] as u64, dims[0] as u64],
            strides: &[dims[1] as u64 * 2],
            boxes: &boxes,
            swizzle: match boxes[0] {
                32 => Swizzle::Bytes64,
                _ => Swizzle::Bytes128,
            },
        };
        TensorMap::new(region, 0, &tensor).unwrap()
    }

    /// Returns what the kernel wrote, after a check that nothing was written past the end.
    fn run(&self, gpu: &Gpu, launch: Launch) -> Vec<u8> {
        let from = gpu.upload(&bytes(&self.from, self.dtype));
        let weight = gpu.upload(&bytes(&self.weight, self.dtype));
        let bias = self
            .bias
            .as_ref()
            .map(|b| gpu.upload(&bytes(b, self.dtype)));
        // Extra rows for the rest of the last tile, which the kernel must not write.
        let size = self.rows() * self.width * 2;
        let to = gpu.poisoned(size + 128 * self.width * 2);
        let out = self.weight.len() / self.depth;
        let stored = if self.gated { 32 } else { 64 };
        let params = GemmGeluParams {
            from: self.map(&from, [self.rows(), self.depth], [64, 128]),
            weight: self.map(&weight, [out, self.depth], [64, 96]),
            to: self.map(&to, [self.rows(), self.width], [stored, 64]),
            bias: bias.as_ref().map_or(0, |b| b.address()),
            rows: self.rows() as u32,
            width: self.width as u32,
            depth: self.depth as u32,
            band: launch.band,
            ..GemmGeluParams::default()
        };
        let form = if self.gated {
            "gemm_gelu_gated"
        } else {
            "gemm_gelu"
        };
        let name = format!("{form}_{}", self.dtype.name());
        let function = gpu.function("gemm_gelu", &name, SHARED);
        gpu.launch(&function, launch.blocks, GEMM90_THREADS, SHARED, &params);
        let mut got = gpu.download(&to);
        assert_eq!(gpu.findings(), "");
        let behind = got.split_off(size);
        assert!(
            behind.iter().all(|b| *b == 0xff),
            "{name} wrote behind the last row"
        );
        got
    }

    fn reference(&self, gpu: &Gpu) -> Vec<u8> {
        let from = gpu.upload(&bytes(&self.from, self.dtype));
        let weight = gpu.upload(&bytes(&self.weight, self.dtype));
        let bias = self
            .bias
            .as_ref()
            .map(|b| gpu.upload(&bytes(b, self.dtype)));
        let outputs = self.rows() * self.width;
        let to = gpu.poisoned(outputs * 2);
        let params = GemmGeluReferenceParams {
            from: from.address(),
            weight: weight.address(),
            bias: bias.as_ref().map_or(0, |b| b.address()),
            to: to.address(),
            rows: self.rows() as u32,
            width: self.width as u32,
            depth: self.depth as u32,
            gated: u32::from(self.gated),
        };
        let name = format!("gemm_gelu_{}_reference", self.dtype.name());
        let function = gpu.function("gemm_gelu", &name, 0);
        gpu.launch(&function, outputs.div_ceil(256), 256, 0, &params);
        gpu.download(&to)
    }

    fn expected(&self) -> Vec<f64> {
        let product = |row: usize, out: usize| {
            let (x, w) = (
                &self.from[row * self.depth..],
                &self.weight[out * self.depth..],
            );
            let terms = x.iter().zip(w).take(self.depth);
            let sum: f64 = terms.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
            sum + self.bias.as_ref().map_or(0.0, |b| f64::from(b[out]))
        };
        let mut all = Vec::new();
        for row in 0..self.rows() {
            for column in 0..self.width {
                let up = if self.gated {
                    product(row, self.width + column)
                } else {
                    1.0
                };
                all.push(gelu(product(row, column)) * up);
            }
        }
        all
    }
}

/// Returns a device on which the kernel is not empty.
fn hopper(seed: u64) -> Option<Gpu> {
    let gpu = gpu(seed)?;
    if gpu.real && devices().unwrap()[0].capability != (9, 0) {
        not_run("the device is no Hopper");
        return None;
    }
    Some(gpu)
}

/// Fewer blocks than tiles, so that a block has several tiles, and an odd number of them.
const LAUNCH: Launch = Launch { blocks: 2, band: 2 };

/// Rows, width and depth: one row; whole tiles and steps, and tiles and steps cut by an edge; more
/// tiles than blocks; more steps than the ring has stages, in one tile and in several.
const SHAPES: [[usize; 3]; 7] = [
    [1, 8, 8],
    [128, 128, 64],
    [130, 136, 72],
    [77, 392, 200],
    [300, 200, 64],
    [65, 64, 520],
    [140, 264, 456],
];

#[test]
fn results_are_those_of_f64() {
    for seed in seeds() {
        let Some(gpu) = hopper(seed) else { return };
        for dtype in [DType::F16, DType::Bf16] {
            for (n, shape) in SHAPES.into_iter().enumerate() {
                for gated in [false, true] {
                    let case = Case::new(dtype, gated, shape, n % 3 != 0, seed + n as u64);
                    let expected = case.expected();
                    let bound = if expected.len() < 100 { 1.0 } else { 0.5 };
                    let check = |what: &str, got: Vec<u8>| {
                        let got = values(&got, dtype);
                        let off = error(&got, &expected);
                        let what = format!("{what} {dtype:?} {shape:?} gated {gated}");
                        println!("{what}: {off:.1e}");
                        // Rounding loses at most half a unit: over many numbers, 0.42 of that on
                        // average.
                        assert!(off < bound * epsilon(dtype), "{what}: {off:e}");
                        if got.len() >= ENOUGH {
                            same_on_the_whole(&what, &got, &expected, dtype);
                        }
                    };
                    check("kernel", case.run(&gpu, LAUNCH));
                    if seed == 0 {
                        check("reference", case.reference(&gpu));
                    }
                }
            }
        }
    }
}

/// A tile takes more than two rounds of the ring: a consumer that forgets to skip the other
/// consumer's steps is off by several rounds.
#[test]
fn a_deep_product_goes_round_the_ring_more_than_twice() {
    let Some(gpu) = hopper(0) else { return };
    for gated in [false, true] {
        // The depth has 13 steps, and there is one block: each consumer has more than two tiles in
        // the gated case.
        let case = Case::new(DType::F16, gated, [200, 200, 776], true, 9);
        let got = values(&case.run(&gpu, Launch { blocks: 1, band: 2 }), case.dtype);
        let (expected, what) = (case.expected(), format!("gated {gated}"));
        let off = error(&got, &expected);
        assert!(off < 0.5 * epsilon(case.dtype), "{what}: {off:e}");
        same_on_the_whole(&what, &got, &expected, case.dtype);
    }
}

#[test]
fn a_row_has_the_same_bits_in_every_batch() {
    for seed in seeds() {
        let Some(gpu) = hopper(seed) else { return };
        for (dtype, gated) in [
            (DType::F16, false),
            (DType::F16, true),
            (DType::Bf16, false),
            (DType::Bf16, true),
        ] {
            let case = Case::new(dtype, gated, [200, 136, 136], true, seed);
            let all = case.run(&gpu, LAUNCH);
            let row = case.width * 2;
            for (rows, launch) in [
                (61..200, Launch { blocks: 3, band: 1 }),
                (199..200, Launch { blocks: 1, band: 7 }),
            ] {
                let some = case.of_rows(rows.clone()).run(&gpu, launch);
                assert!(
                    some == all[rows.start * row..rows.end * row],
                    "{dtype:?}, rows {rows:?}, gated {gated}"
                );
            }
        }
    }
}

#[test]
fn what_is_not_finite_stays_so_and_in_its_row() {
    let Some(gpu) = hopper(0) else { return };
    for (dtype, gated) in [
        (DType::F16, false),
        (DType::Bf16, false),
        (DType::F16, true),
        (DType::Bf16, true),
    ] {
        let mut case = Case::new(dtype, gated, [140, 136, 72], true, 5);
        let bad = [(3, f32::NAN), (70, f32::INFINITY), (139, f32::NEG_INFINITY)];
        for (row, value) in bad {
            case.from[row * case.depth + 71] = value;
        }
        let got = values(&case.run(&gpu, LAUNCH), dtype);
        for (n, row) in got.chunks(case.width).enumerate() {
            let finite = row.iter().filter(|v| v.is_finite()).count();
            let expected = if bad.iter().any(|(row, _)| *row == n) {
                0
            } else {
                case.width
            };
            assert_eq!(finite, expected, "{dtype:?}, gated {gated}, row {n}");
        }
    }
}

#[test]
fn on_a_real_gpu() {
    cuda::real::again(module_path!());
}
