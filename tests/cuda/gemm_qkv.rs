//! The GEMM that makes queries, keys and values, and rotates queries and keys, for Hopper, compared
//! with f64: every head width, ragged edges; and a row has the same bits in other batches.
//! `-- --nocapture` prints the errors.

use crate::support::cuda;
use crate::support::cuda::gpu::{Gpu, gpu, seeds};
use crate::support::cuda::numbers::{
    ENOUGH, Random, bytes, epsilon, error, rounded, same_on_the_whole, values, words,
};
use crate::support::cuda::real::not_run;
use seqstream::backend::cuda::launch::{GEMM_QKV_SHARED_BYTES as SHARED, GEMM90_THREADS};
use seqstream::backend::cuda::params::{GemmQkvParams, GemmQkvReferenceParams};
use seqstream::dtype::DType;
use seqstream::gpu::driver::{Element, Region, Swizzle, Tensor, TensorMap, devices};

/// The number of positions that a table has.
const POSITIONS: u32 = 40;

#[derive(Clone)]
struct Case {
    dtype: DType,
    head_dim: usize,
    width: usize,
    depth: usize,
    from: Vec<f32>,
    positions: Vec<u32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

/// Launch settings that must not influence the bits.
#[derive(Clone, Copy)]
struct Launch {
    blocks: usize,
    band: u32,
}

impl Case {
    fn new(
        dtype: DType,
        [heads, head_dim]: [usize; 2],
        [rows, depth]: [usize; 2],
        seed: u64,
    ) -> Self {
        let mut random = Random(seed);
        let width = 3 * heads * head_dim;
        let deviation = 1.0 / (depth as f64).sqrt();
        let mut some = |count, deviation| rounded(&random.normal(count, deviation), dtype);
        Self {
            dtype,
            head_dim,
            width,
            depth,
            from: some(rows * depth, 1.0),
            weight: some(width * depth, deviation),
            bias: some(width, 0.5),
            positions: (0..rows as u32).map(|row| (row * 7) % POSITIONS).collect(),
        }
    }

    fn rows(&self) -> usize {
        self.positions.len()
    }

    fn of_rows(&self, rows: std::ops::Range<usize>) -> Self {
        Self {
            from: self.from[rows.start * self.depth..rows.end * self.depth].to_vec(),
            positions: self.positions[rows].to_vec(),
            ..self.clone()
        }
    }

    /// Returns the table of rotations: cosine and sine for each position and pair of columns.
    fn table(&self) -> Vec<f32> {
        let half = self.head_dim / 2;
        let angle = |p: u32, i: usize| {
            let (sin, cos) = (f64::from(p) * 100f64.powf(-(i as f64) / half as f64)).sin_cos();
            [cos as f32, sin as f32]
        };
        (0..POSITIONS)
            .flat_map(|p| (0..half).flat_map(move |i| angle(p, i)))
            .collect()
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
        let bias = gpu.upload(&bytes(&self.bias, self.dtype));
        let positions = gpu.upload(&words(&self.positions));
        let rotary = gpu.upload(&bytes(&self.table(), DType::F32));
        // Extra rows for the rest of the last tile, which the kernel must not write.
        let size = self.rows() * self.width * 2;
        let to = gpu.poisoned(size + 128 * self.width * 2);
        let (box_rows, stored) = match self.head_dim {
            128 => (32, 32),
            _ => (96, 64),
        };
        let params = GemmQkvParams {
            from: self.map(&from, [self.rows(), self.depth], [64, 128]),
            weight: self.map(&weight, [self.width, self.depth], [64, box_rows]),
            to: self.map(&to, [self.rows(), self.width], [stored, 64]),
            bias: bias.address(),
            positions: positions.address(),
            rotary: rotary.address(),
            rows: self.rows() as u32,
            width: self.width as u32,
            depth: self.depth as u32,
            band: launch.band,
            ..GemmQkvParams::default()
        };
        let name = format!("gemm_qkv_{}_{}", self.dtype.name(), self.head_dim);
        let function = gpu.function("gemm_qkv", &name, SHARED);
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
        let bias = gpu.upload(&bytes(&self.bias, self.dtype));
        let positions = gpu.upload(&words(&self.positions));
        let rotary = gpu.upload(&bytes(&self.table(), DType::F32));
        let outputs = self.rows() * self.width;
        let to = gpu.poisoned(outputs * 2);
        let params = GemmQkvReferenceParams {
            from: from.address(),
            weight: weight.address(),
            bias: bias.address(),
            positions: positions.address(),
            rotary: rotary.address(),
            to: to.address(),
            rows: self.rows() as u32,
            width: self.width as u32,
            depth: self.depth as u32,
            head_dim: self.head_dim as u32,
        };
        let name = format!("gemm_qkv_{}_reference", self.dtype.name());
        let function = gpu.function("gemm_qkv", &name, 0);
        gpu.launch(&function, outputs.div_ceil(256), 256, 0, &params);
        gpu.download(&to)
    }

    fn expected(&self) -> Vec<f64> {
        let (table, half) = (self.table(), self.head_dim / 2);
        let mut all = Vec::new();
        for (row, position) in self.positions.iter().enumerate() {
            let from = &self.from[row * self.depth..(row + 1) * self.depth];
            let product = |out: usize| {
                let weight = &self.weight[out * self.depth..(out + 1) * self.depth];
                let terms = from.iter().zip(weight);
                let sum: f64 = terms.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                sum + f64::from(self.bias[out])
            };
            let row: Vec<f64> = (0..self.width).map(product).collect();
            for column in 0..self.width {
                let i = column % half;
                let at = (*position as usize * half + i) * 2;
                let (cos, sin) = (f64::from(table[at]), f64::from(table[at + 1]));
                all.push(if column >= self.width / 3 * 2 {
                    row[column]
                } else if column % self.head_dim < half {
                    row[column] * cos - row[column + half] * sin
                } else {
                    row[column] * cos + row[column - half] * sin
                });
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

/// Heads and their width: tiles that the matrix ends in, and tiles that hold queries and keys, or
/// keys and values.
const HEADS: [[usize; 2]; 7] = [
    [2, 16],
    [10, 16],
    [1, 32],
    [5, 32],
    [2, 64],
    [1, 128],
    [2, 128],
];

/// Rows and depth: one row; whole tiles and steps, and tiles and steps that an edge cuts; more steps
/// than the ring has stages.
const SIZES: [[usize; 2]; 4] = [[1, 8], [128, 64], [140, 72], [65, 520]];

#[test]
fn results_are_those_of_f64() {
    for seed in seeds() {
        let Some(gpu) = hopper(seed) else { return };
        for (n, heads) in HEADS.into_iter().enumerate() {
            for (m, size) in SIZES.into_iter().enumerate() {
                let dtype = [DType::F16, DType::Bf16][(n + m) % 2];
                let case = Case::new(dtype, heads, size, seed + n as u64);
                let expected = case.expected();
                let bound = if expected.len() < 1000 { 1.0 } else { 0.5 };
                let check = |what: &str, got: Vec<u8>| {
                    let got = values(&got, dtype);
                    let off = error(&got, &expected);
                    let what = format!("{what} {dtype:?} heads {heads:?} size {size:?}");
                    println!("{what}: {off:.1e}");
                    // Rounding loses at most half a unit: over many numbers, 0.42 of that on
                    // average.
                    assert!(off < bound * epsilon(dtype), "{what}: {off:e}");
                    if got.len() >= ENOUGH {
                        same_on_the_whole(&what, &got, &expected, dtype);
                    }
                };
                check("kernel", case.run(&gpu, LAUNCH));
                if seed == 0 && m == 2 {
                    check("reference", case.reference(&gpu));
                }
            }
        }
    }
}

/// A tile takes more than two rounds of the ring, and each consumer has more than two tiles.
#[test]
fn a_deep_product_goes_round_the_ring_more_than_twice() {
    let Some(gpu) = hopper(0) else { return };
    for heads in [[12, 16], [6, 32], [3, 64], [2, 128]] {
        let case = Case::new(DType::F16, heads, [270, 776], 9);
        let got = values(&case.run(&gpu, Launch { blocks: 1, band: 2 }), case.dtype);
        let (expected, what) = (case.expected(), format!("heads {heads:?}"));
        let off = error(&got, &expected);
        assert!(off < 0.5 * epsilon(case.dtype), "{what}: {off:e}");
        same_on_the_whole(&what, &got, &expected, case.dtype);
    }
}

#[test]
fn a_row_has_the_same_bits_in_every_batch() {
    for seed in seeds() {
        let Some(gpu) = hopper(seed) else { return };
        for (n, heads) in HEADS.into_iter().enumerate() {
            let dtype = [DType::F16, DType::Bf16][n % 2];
            let case = Case::new(dtype, heads, [200, 136], seed);
            let all = case.run(&gpu, LAUNCH);
            let row = case.width * 2;
            for (rows, launch) in [
                (61..200, Launch { blocks: 3, band: 1 }),
                (199..200, Launch { blocks: 1, band: 7 }),
            ] {
                let some = case.of_rows(rows.clone()).run(&gpu, launch);
                assert!(
                    some == all[rows.start * row..rows.end * row],
                    "{dtype:?}, rows {rows:?}, heads {heads:?}"
                );
            }
        }
    }
}

#[test]
fn what_is_not_finite_stays_so_and_in_its_row() {
    let Some(gpu) = hopper(0) else { return };
    for (n, heads) in HEADS.into_iter().enumerate() {
        let dtype = [DType::F16, DType::Bf16][n % 2];
        let mut case = Case::new(dtype, heads, [140, 72], 5);
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
            assert_eq!(finite, expected, "{dtype:?}, heads {heads:?}, row {n}");
        }
    }
}

#[test]
fn on_a_real_gpu() {
    cuda::real::again(module_path!());
}
