//! Linear layers: `gemm_short` on a device, and the CPU backend's own.

use super::device::{Launch, Machine};
use super::numbers::{Random, epsilon, gelu};
use super::{By, Case, Extent, OnCpu, Operand, Wanted};
use seqstream::backend::cpu::{Cpu, Linear as Weights, Matrix};
use seqstream::backend::cuda::launch::{GEMM_SHORT_THREADS, GEMM_SHORT_TILE};
use seqstream::backend::cuda::params::GemmShortParams;
use seqstream::backend::{Activation, Backend, Builder, LinearKind, LinearPart, Pass};
use seqstream::batch::PackedBatch;
use seqstream::dtype::DType;
use seqstream::weights::{F32Data, Weight};

/// Returns the cases of this extent.
pub fn cases(extent: Extent) -> Vec<Box<dyn Case>> {
    let mut cases: Vec<Box<dyn Case>> = Vec::new();
    let mut add = |rows, outputs, depth, gelu| {
        cases.push(Box::new(Linear {
            rows,
            outputs,
            depth,
            gelu,
        }));
    };
    match extent {
        Extent::Small => {
            for (rows, outputs, depth) in [
                (1, 1, 1),
                (3, 5, 4),
                (15, 67, 78),
                (65, 64, 32),
                (70, 130, 33),
                (64, 192, 320),
            ] {
                add(rows, outputs, depth, false);
                add(rows, outputs, depth, true);
            }
        }
        Extent::Large { tokens: [few, _] } => {
            // 8M, 35M, 150M, 650M and DNABERT-S: q-k-v and the two layers of the FFN. On a device
            // `gemm_short` has sequences of fewer than 16 tokens: one, and enough to fill the card.
            for (d, ffn) in [
                (320, 1280),
                (480, 1920),
                (640, 2560),
                (1280, 5120),
                (768, 3072),
            ] {
                for (depth, outputs) in [(d, 3 * d), (d, ffn), (ffn, d)] {
                    for rows in [15, few.min(4096)] {
                        add(rows, outputs, depth, false);
                    }
                    add(few.min(4096), outputs, depth, true);
                }
            }
        }
    }
    cases
}

/// to = from * weight^T + bias in f32, with GELU or without.
pub struct Linear {
    pub rows: usize,
    pub outputs: usize,
    pub depth: usize,
    pub gelu: bool,
}

impl Case for Linear {
    fn name(&self) -> String {
        let Self {
            rows,
            outputs,
            depth,
            gelu,
        } = self;
        let gelu = if *gelu { " and gelu" } else { "" };
        format!("gemm f32 {outputs}x{depth}{gelu}, {rows} rows")
    }

    fn operands(&self, _: &Machine, _: By) -> Vec<Operand> {
        let dtype = DType::F32;
        vec![
            Operand::Input {
                count: self.rows * self.depth,
                dtype,
            },
            Operand::Input {
                count: self.outputs * self.depth,
                dtype,
            },
            Operand::Parameter {
                count: self.outputs,
                dtype,
            },
            Operand::Output {
                count: self.rows * self.outputs,
                dtype,
            },
        ]
    }

    fn values(&self, operand: usize) -> Vec<f32> {
        match operand {
            0 => Random(1).normal(self.rows * self.depth, 1.0),
            1 => Random(2).normal(self.outputs * self.depth, 1.0),
            _ => Random(3).normal(self.outputs, 1.0),
        }
    }

    fn launches(&self, at: &[u64], _: &Machine, by: By) -> Option<Vec<Launch>> {
        if self.gelu {
            return None; // in f32 a device has GELU as a kernel of its own
        }
        let (rows, outputs) = (self.rows as u32, self.outputs as u32);
        let params = GemmShortParams {
            from: at[0],
            weight: at[1],
            bias: at[2],
            to: at[3],
            rows,
            outputs,
            depth: self.depth as u32,
            add: 0,
        };
        let (kernel, grid) = match by {
            By::Kernel => {
                let tiles = [outputs, rows].map(|n| n.div_ceil(GEMM_SHORT_TILE));
                ("gemm_short", [tiles[0], tiles[1], 1])
            }
            By::Reference => ("gemm_short_reference", [2, 1, 1]),
        };
        let launch = Launch::new("gemm_short", kernel.into(), 1, GEMM_SHORT_THREADS, params);
        Some(vec![Launch { grid, ..launch }])
    }

    fn on_cpu(&self) -> Option<Box<dyn OnCpu>> {
        Some(Box::new(LinearOnCpu {
            x: Matrix::from_rows(&self.values(0), self.rows, self.depth),
            part: Some(LinearPart {
                weight: Weight::F32(F32Data::Owned(self.values(1))),
                bias: Some(Weight::F32(F32Data::Owned(self.values(2)))),
            }),
            depth: self.depth,
            weights: None,
            activation: if self.gelu {
                Activation::Gelu
            } else {
                Activation::None
            },
            out: Matrix::default(),
        }))
    }

    fn wanted(&self) -> Vec<Wanted> {
        let [x, w, bias] = [0, 1, 2].map(|operand| self.values(operand));
        let mut values = Vec::with_capacity(self.rows * self.outputs);
        for row in x.chunks(self.depth) {
            for (weights, bias) in w.chunks(self.depth).zip(&bias) {
                let products = row.iter().zip(weights);
                let sum: f64 = products.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                let sum = sum + f64::from(*bias);
                values.push(if self.gelu { gelu(sum) } else { sum });
            }
        }
        // Sums in f32 lose more the longer they are; `gemm_short` is held to a closer bound by a
        // test of its own.
        let tolerance = epsilon(DType::F32) * (4.0 + (self.depth as f64).sqrt() / 4.0);
        vec![Wanted {
            operand: 3,
            values,
            tolerance,
        }]
    }

    fn bytes(&self) -> usize {
        4 * (self.rows * self.depth + self.outputs * (self.depth + self.rows))
    }

    fn flops(&self) -> f64 {
        2.0 * self.rows as f64 * self.outputs as f64 * self.depth as f64
    }
}

struct LinearOnCpu {
    x: Matrix,
    /// What `weights` is made of, in the first run.
    part: Option<LinearPart>,
    depth: usize,
    weights: Option<Weights>,
    activation: Activation,
    out: Matrix,
}

impl OnCpu for LinearOnCpu {
    fn run(&mut self, cpu: &mut Cpu) {
        if let Some(part) = self.part.take() {
            let weights = cpu.linear_weights(vec![part], self.depth, LinearKind::Store);
            self.weights = Some(weights.unwrap());
        }
        let weights = self.weights.as_ref().unwrap();
        let batch = PackedBatch::new();
        let mut pass = cpu.begin(0, &batch, &[]).unwrap();
        pass.linear(&self.x, weights, self.activation, &mut self.out)
            .unwrap();
    }

    fn result(&self) -> Vec<f32> {
        self.out.values().to_vec()
    }
}
