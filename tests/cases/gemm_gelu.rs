//! Linear layers of 16 bits with GELU in the epilogue, for Hopper: `gemm_gelu`.

use super::device::{Launch, Machine};
use super::numbers::{Random, epsilon, gelu, rounded};
use super::{By, Case, Extent, Operand, Wanted};
use seqstream::backend::cuda::launch::{
    GEMM_GELU_BAND_BYTES, GEMM_GELU_SHARED_BYTES, GEMM_GELU_SLAB_COLUMNS, GEMM_GELU_SLAB_ROWS,
    GEMM90_COLUMNS, GEMM90_ROWS, GEMM90_STEP, GEMM90_THREADS,
};
use seqstream::backend::cuda::params::{GemmGeluParams, GemmGeluReferenceParams};
use seqstream::dtype::DType;
use seqstream::gpu::driver::{Element, Region, Swizzle, Tensor, TensorMap};

/// Returns the cases of this extent.
pub fn cases(extent: Extent) -> Vec<Box<dyn Case>> {
    let mut cases: Vec<Box<dyn Case>> = Vec::new();
    let mut add = |shape: [usize; 3], gated, bias| {
        for dtype in [DType::F16, DType::Bf16] {
            let [rows, width, depth] = shape;
            cases.push(Box::new(GemmGelu {
                dtype,
                gated,
                bias,
                rows,
                width,
                depth,
            }));
        }
    };
    match extent {
        // One row, tiles and steps that an edge cuts, and more steps than the ring has stages.
        Extent::Small => {
            for shape in [[1, 8, 8], [130, 136, 72], [77, 392, 200], [65, 64, 520]] {
                for gated in [false, true] {
                    add(shape, gated, shape[0] != 77);
                }
            }
        }
        // 8M, 35M, 150M, 650M and 3B, and DNABERT-S, whose layer is gated.
        Extent::Large { tokens } => {
            for rows in tokens {
                for width in [1280, 1920, 2560, 5120, 10_240] {
                    add([rows, width, width / 4], false, true);
                }
                add([rows, 3072, 768], true, false);
            }
        }
    }
    cases
}

/// to = gelu(from * weight^T + bias); gated, gelu(from * gate^T + bias) * (from * up^T + bias).
pub struct GemmGelu {
    pub dtype: DType,
    pub gated: bool,
    pub bias: bool,
    pub rows: usize,
    pub width: usize,
    pub depth: usize,
}

impl GemmGelu {
    /// The rows of the weight.
    fn outputs(&self) -> usize {
        self.width * (1 + usize::from(self.gated))
    }

    fn map(&self, region: &Region, dims: [usize; 2], [rows, columns]: [u32; 2]) -> TensorMap {
        let tensor = Tensor {
            element: match self.dtype {
                DType::Bf16 => Element::Bf16,
                _ => Element::F16,
            },
            dims: &[dims[1] as u64, dims[0] as u64],
            strides: &[dims[1] as u64 * 2],
            boxes: &[columns, rows],
            swizzle: match columns {
                GEMM90_STEP => Swizzle::Bytes128,
                _ => Swizzle::Bytes64,
            },
        };
        TensorMap::new(region, 0, &tensor).unwrap()
    }
}

impl Case for GemmGelu {
    fn name(&self) -> String {
        let gated = if self.gated { " gated" } else { "" };
        let Self {
            rows, width, depth, ..
        } = self;
        format!(
            "gemm_gelu {}{gated} {width}x{depth}, {rows} rows",
            self.dtype.name()
        )
    }

    fn operands(&self, _: &Machine, _: By) -> Vec<Operand> {
        let dtype = self.dtype;
        let bias = if self.bias { self.outputs() } else { 0 };
        vec![
            Operand::Input {
                count: self.rows * self.depth,
                dtype,
            },
            Operand::Input {
                count: self.outputs() * self.depth,
                dtype,
            },
            Operand::Parameter { count: bias, dtype },
            Operand::Output {
                count: self.rows * self.width,
                dtype,
            },
        ]
    }

    /// The arguments of GELU have deviation 2, so that they cover its tail and both of its halves.
    fn values(&self, operand: usize) -> Vec<f32> {
        let (count, deviation) = match operand {
            0 => (self.rows * self.depth, 1.0),
            1 => (
                self.outputs() * self.depth,
                2.0 / (self.depth as f64).sqrt(),
            ),
            _ => (self.outputs(), 0.5),
        };
        let values = Random(1 + operand as u64).normal(count, deviation);
        rounded(&values, self.dtype)
    }

    /// Returns the launch of the reference alone: the kernel takes tensor maps.
    fn launches(&self, at: &[u64], _: &Machine, by: By) -> Option<Vec<Launch>> {
        if by == By::Kernel {
            return None;
        }
        let params = GemmGeluReferenceParams {
            from: at[0],
            weight: at[1],
            bias: at[2],
            to: at[3],
            rows: self.rows as u32,
            width: self.width as u32,
            depth: self.depth as u32,
            gated: u32::from(self.gated),
        };
        let name = format!("gemm_gelu_{}_reference", self.dtype.name());
        let blocks = (self.rows * self.width).div_ceil(256);
        Some(vec![Launch::new("gemm_gelu", name, blocks, 256, params)])
    }

    fn launches_in(
        &self,
        regions: &[Option<Region>],
        machine: &Machine,
        by: By,
    ) -> Option<Vec<Launch>> {
        let address = |region: &Option<Region>| region.as_ref().map_or(0, Region::address);
        if by == By::Reference {
            let at: Vec<u64> = regions.iter().map(address).collect();
            return self.launches(&at, machine, by);
        }
        // The kernel is empty on other devices.
        if machine.capability != (9, 0) {
            return None;
        }
        let [from, weight, to] = [0, 1, 3].map(|i| regions[i].as_ref());
        let (rows, outputs) = (self.rows, self.outputs());
        let halves = if self.gated { 2 } else { 1 };
        let stored = [GEMM_GELU_SLAB_ROWS, GEMM_GELU_SLAB_COLUMNS / halves];
        let band = GEMM_GELU_BAND_BYTES / (GEMM90_ROWS * self.depth as u32 * 2);
        let params = GemmGeluParams {
            from: self.map(from?, [rows, self.depth], [GEMM90_ROWS, GEMM90_STEP]),
            weight: self.map(
                weight?,
                [outputs, self.depth],
                [GEMM90_COLUMNS / 2, GEMM90_STEP],
            ),
            to: self.map(to?, [rows, self.width], stored),
            bias: address(&regions[2]),
            rows: rows as u32,
            width: self.width as u32,
            depth: self.depth as u32,
            band: band.clamp(1, 32),
            ..GemmGeluParams::default()
        };
        let form = if self.gated {
            "gemm_gelu_gated"
        } else {
            "gemm_gelu"
        };
        let name = format!("{form}_{}", self.dtype.name());
        let tiles = rows.div_ceil(GEMM90_ROWS as usize) * outputs.div_ceil(GEMM90_COLUMNS as usize);
        let blocks = tiles.min(machine.multiprocessors as usize);
        let launch = Launch::new("gemm_gelu", name, blocks, GEMM90_THREADS, params);
        Some(vec![Launch {
            shared: GEMM_GELU_SHARED_BYTES,
            ..launch
        }])
    }

    fn wanted(&self) -> Vec<Wanted> {
        let [x, w, b] = [0, 1, 2].map(|operand| self.values(operand));
        let product = |row: usize, out: usize| {
            let (x, w) = (&x[row * self.depth..], &w[out * self.depth..]);
            let terms = x.iter().zip(w).take(self.depth);
            let sum: f64 = terms.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
            sum + if self.bias { f64::from(b[out]) } else { 0.0 }
        };
        let mut values = Vec::with_capacity(self.rows * self.width);
        for row in 0..self.rows {
            for column in 0..self.width {
                let up = match self.gated {
                    true => product(row, self.width + column),
                    false => 1.0,
                };
                values.push(gelu(product(row, column)) * up);
            }
        }
        // As in tests/cuda/gemm_gelu.rs.
        let units = if values.len() < 100 { 1.0 } else { 0.5 };
        vec![Wanted {
            operand: 3,
            values,
            tolerance: units * epsilon(self.dtype),
        }]
    }

    fn bytes(&self) -> usize {
        let inputs = (self.rows + self.outputs()) * self.depth;
        2 * (inputs + self.rows * self.width)
    }

    fn flops(&self) -> f64 {
        2.0 * self.rows as f64 * self.outputs() as f64 * self.depth as f64
    }
}
