//! LayerNorm, and the representations that leave the device.

use super::device::{Launch, Machine};
use super::numbers::{DTYPES, Random, epsilon, words};
use super::{By, Case, Extent, OnCpu, Operand, Wanted};
use seqstream::backend::cpu::{Cpu, Matrix};
use seqstream::backend::cuda::launch::{
    LOOP_THREADS, REPRESENT_MEAN_COLUMNS, REPRESENT_ROWS, REPRESENT_SUM_ROWS,
};
use seqstream::backend::cuda::params::{LayerNormParams, RepresentParams};
use seqstream::backend::{Backend, Norm, Pass};
use seqstream::batch::PackedBatch;
use seqstream::dtype::DType;
use seqstream::weights::F32Data;

/// Returns the cases of this extent.
pub fn cases(extent: Extent) -> Vec<Box<dyn Case>> {
    let mut cases: Vec<Box<dyn Case>> = Vec::new();
    match extent {
        Extent::Small => {
            // The width 10244 is more than registers hold.
            for width in [1, 4, 20, 33, 320, 768, 1280, 2560, 5120, 10244] {
                let rows = if width > 1000 { 3 } else { 19 };
                for dtype in DTYPES {
                    for stream in [Stream::None, Stream::Beside, Stream::Itself] {
                        cases.push(Box::new(LayerNorm {
                            rows,
                            width,
                            dtype,
                            stream,
                        }));
                    }
                }
            }
            for width in [4, 33, 320, 1280] {
                for (states, max) in [(false, false), (true, false), (false, true)] {
                    let lengths = vec![1, 2, 63, 64, 65, 129, 3];
                    cases.push(Box::new(Represent {
                        lengths,
                        width,
                        states,
                        max,
                    }));
                }
            }
        }
        Extent::Large { tokens } => {
            for rows in tokens {
                let shapes = [320, 480, 640, 768, 1280, 2560, 5120].map(|w| (w, DType::F16));
                for (width, dtype) in shapes
                    .into_iter()
                    .chain([(768, DType::F32), (1280, DType::F32)])
                {
                    let stream = Stream::None;
                    cases.push(Box::new(LayerNorm {
                        rows,
                        width,
                        dtype,
                        stream,
                    }));
                }
                for (length, width, states, max) in [
                    (352, 768, false, false),
                    (352, 1280, false, false),
                    (352, 2560, false, false),
                    (352, 1280, true, false),
                    (rows, 1280, false, false),
                    (352, 1280, false, true),
                    (rows, 1280, false, true),
                ] {
                    let lengths = (0..rows).step_by(length).map(|at| length.min(rows - at));
                    let lengths = lengths.collect();
                    cases.push(Box::new(Represent {
                        lengths,
                        width,
                        states,
                        max,
                    }));
                }
            }
        }
    }
    cases
}

/// Returns rows around 0 to 4 with outliers, like ESM-2's stream.
fn stream(rows: usize, width: usize) -> Vec<f32> {
    let mut x = Random(1).normal(rows * width, 2.0);
    for (i, x) in x.iter_mut().enumerate() {
        *x += (i / width % 5) as f32;
        if i % 97 == 5 {
            *x *= 100.0;
        }
    }
    x
}

fn gain(width: usize) -> Vec<f32> {
    Random(2).normal(width, 1.0)
}

fn bias(width: usize) -> Vec<f32> {
    Random(3).normal(width, 0.5)
}

/// Returns the LayerNorm of rows in f64.
fn normed(rows: &[f32], width: usize, epsilon: f32) -> Vec<f64> {
    let (gain, bias, n) = (gain(width), bias(width), width as f64);
    let row = |row: &[f32]| -> Vec<f64> {
        let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
        let squares = row.iter().map(|x| (f64::from(*x) - mean).powi(2));
        let scale = 1.0 / (squares.sum::<f64>() / n + f64::from(epsilon)).sqrt();
        let each = row.iter().zip(&gain).zip(&bias);
        each.map(|((x, g), b)| (f64::from(*x) - mean) * scale * f64::from(*g) + f64::from(*b))
            .collect()
    };
    rows.chunks(width).flat_map(row).collect()
}

/// The rounding errors of results in f32. Where the statistics are f64 (`f64_sums`) there are four:
/// of x minus the mean's high and low part, of its product with the factor, and of the last sum. Each
/// is at most half a unit, and they are independent: their squares add. Where they are f32 the error
/// of the mean shows, too, in proportion to the quotient of the mean and the deviation.
fn f32_slack(f64_sums: bool) -> f64 {
    let units = if f64_sums { 2.0 } else { 8.0 };
    units * epsilon(DType::F32)
}

/// Where the output in f32 goes, beside the output in the dtype.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    None,
    /// To a matrix of its own.
    Beside,
    /// Onto the input, and there is no output in the dtype.
    Itself,
}

/// LayerNorm of f32 rows to rows in `dtype`.
pub struct LayerNorm {
    pub rows: usize,
    pub width: usize,
    pub dtype: DType,
    pub stream: Stream,
}

const FROM: usize = 0;
const GAIN: usize = 1;
const BIAS: usize = 2;
const TO: usize = 3;
const BESIDE: usize = 4;

impl LayerNorm {
    fn epsilon(&self) -> f32 {
        if self.width == 768 { 1e-12 } else { 1e-5 }
    }
}

impl Case for LayerNorm {
    fn name(&self) -> String {
        let stream = match self.stream {
            Stream::None => "",
            Stream::Beside => " and to f32",
            Stream::Itself => ", onto itself",
        };
        let Self {
            rows, width, dtype, ..
        } = self;
        format!("layer_norm f32 to {dtype} {rows}x{width}{stream}")
    }

    fn operands(&self, _: &Machine, _: By) -> Vec<Operand> {
        let (count, dtype) = (self.rows * self.width, DType::F32);
        let parameter = || Operand::Parameter {
            count: self.width,
            dtype,
        };
        let from = match self.stream {
            Stream::Itself => Operand::InPlace { count, dtype },
            _ => Operand::Input { count, dtype },
        };
        let to = if self.stream == Stream::Itself {
            0
        } else {
            count
        };
        let beside = if self.stream == Stream::Beside {
            count
        } else {
            0
        };
        vec![
            from,
            parameter(),
            parameter(),
            Operand::Output {
                count: to,
                dtype: self.dtype,
            },
            Operand::Output {
                count: beside,
                dtype,
            },
        ]
    }

    fn values(&self, operand: usize) -> Vec<f32> {
        match operand {
            FROM => stream(self.rows, self.width),
            GAIN => gain(self.width),
            _ => bias(self.width),
        }
    }

    fn launches(&self, at: &[u64], machine: &Machine, by: By) -> Option<Vec<Launch>> {
        let params = LayerNormParams {
            from: at[FROM],
            gain: at[GAIN],
            bias: at[BIAS],
            to: at[TO],
            stream: if self.stream == Stream::Itself {
                at[FROM]
            } else {
                at[BESIDE]
            },
            rows: self.rows as u32,
            width: self.width as u32,
            epsilon: self.epsilon(),
            padding: 0,
        };
        let (end, blocks) = match by {
            By::Kernel => ("", machine.blocks(self.rows * 32)),
            By::Reference => ("_reference", self.rows.div_ceil(256)),
        };
        let kernel = format!("layer_norm_{}{end}", self.dtype);
        Some(vec![Launch::new(
            "layer_norm",
            kernel,
            blocks,
            LOOP_THREADS,
            params,
        )])
    }

    fn on_cpu(&self) -> Option<Box<dyn OnCpu>> {
        (self.dtype == DType::F32 && self.stream == Stream::None).then(|| {
            let norm = Norm {
                gain: F32Data::Owned(gain(self.width)),
                bias: F32Data::Owned(bias(self.width)),
                eps: self.epsilon(),
            };
            let x = Matrix::from_rows(&self.values(FROM), self.rows, self.width);
            Box::new(LayerNormOnCpu {
                x,
                norm,
                out: Matrix::default(),
            }) as Box<dyn OnCpu>
        })
    }

    fn wanted(&self) -> Vec<Wanted> {
        let values = normed(&self.values(FROM), self.width, self.epsilon());
        let slack = f32_slack(self.dtype == DType::F32);
        // For f16 and bf16 the final rounding alone: f32 errors are negligible.
        let to = if self.dtype == DType::F32 {
            slack
        } else {
            epsilon(self.dtype)
        };
        let one = |operand, tolerance| Wanted {
            operand,
            values: values.clone(),
            tolerance,
        };
        match self.stream {
            Stream::None => vec![one(TO, to)],
            Stream::Beside => vec![one(TO, to), one(BESIDE, slack)],
            Stream::Itself => vec![one(FROM, slack)],
        }
    }

    fn bytes(&self) -> usize {
        self.rows * self.width * (4 + self.dtype.size())
    }
}

struct LayerNormOnCpu {
    x: Matrix,
    norm: Norm<F32Data>,
    out: Matrix,
}

impl OnCpu for LayerNormOnCpu {
    fn run(&mut self, cpu: &mut Cpu) {
        let batch = PackedBatch::new();
        let mut pass = cpu.begin(0, &batch, &[]).unwrap();
        pass.layer_norm(&self.x, &self.norm, &mut self.out).unwrap();
    }

    fn result(&self) -> Vec<f32> {
        self.out.values().to_vec()
    }
}

/// The final LayerNorm and the mean, or the greatest values, over the inner rows of each sequence;
/// every row, too, with `states`.
pub struct Represent {
    pub lengths: Vec<usize>,
    pub width: usize,
    pub states: bool,
    /// Whether the greatest values are wanted in place of the means.
    pub max: bool,
}

const STARTS: usize = 3;
const RANGES: usize = 4;
const POOLED: usize = 5;
const STATES: usize = 6;
const BAD: usize = 7;
const SUMS: usize = 8;

impl Represent {
    fn rows(&self) -> usize {
        self.lengths.iter().sum()
    }

    fn starts(&self) -> Vec<u32> {
        let ends = self.lengths.iter().scan(0, |sum, length| {
            *sum += *length as u32;
            Some(*sum)
        });
        std::iter::once(0).chain(ends).collect()
    }

    /// Returns the rows of each sequence that are averaged: all but the first and the last one,
    /// where there are more.
    fn ranges(&self) -> Vec<[u32; 2]> {
        let inner = |pair: &[u32]| match pair[1] - pair[0] {
            0..=2 => [pair[0], pair[1]],
            _ => [pair[0] + 1, pair[1] - 1],
        };
        self.starts().windows(2).map(inner).collect()
    }
}

impl Case for Represent {
    fn name(&self) -> String {
        let states = if self.states { " with states" } else { "" };
        let (rows, length) = (self.rows(), self.lengths.first().copied().unwrap_or(0));
        let max = if self.max { " max" } else { "" };
        format!(
            "represent {rows}x{} length {length}{states}{max}",
            self.width
        )
    }

    fn operands(&self, _: &Machine, _: By) -> Vec<Operand> {
        let (rows, sequences, dtype) = (self.rows(), self.lengths.len(), DType::F32);
        let (count, width) = (rows * self.width, self.width);
        let sums = rows / REPRESENT_SUM_ROWS as usize + 1;
        vec![
            Operand::Input { count, dtype },
            Operand::Parameter {
                count: width,
                dtype,
            },
            Operand::Parameter {
                count: width,
                dtype,
            },
            Operand::Bytes(words(&self.starts())),
            Operand::Bytes(words(&self.ranges().concat())),
            Operand::Output {
                count: sequences * width,
                dtype,
            },
            Operand::Output {
                count: if self.states { count } else { 0 },
                dtype,
            },
            Operand::Output {
                count: sequences,
                dtype,
            },
            Operand::Output {
                count: 2 * sums * width,
                dtype,
            }, // f64
        ]
    }

    fn values(&self, operand: usize) -> Vec<f32> {
        match operand {
            FROM => stream(self.rows(), self.width),
            GAIN => gain(self.width),
            _ => bias(self.width),
        }
    }

    fn launches(&self, at: &[u64], _: &Machine, by: By) -> Option<Vec<Launch>> {
        if by == By::Reference {
            return None; // one thread, which the tests in `tests/cuda/represent.rs` run on small shapes
        }
        let (rows, sequences) = (self.rows(), self.lengths.len());
        let params = RepresentParams {
            from: at[FROM],
            gain: at[GAIN],
            bias: at[BIAS],
            starts: at[STARTS],
            ranges: at[RANGES],
            pooled: at[POOLED],
            states: at[STATES],
            bad: at[BAD],
            sums: at[SUMS],
            sequences: sequences as u32,
            width: self.width as u32,
            epsilon: 1e-5,
            beyond: 0,
            half: 0,
        };
        let chunks = rows / REPRESENT_ROWS as usize + sequences;
        let columns = sequences * self.width.div_ceil(REPRESENT_MEAN_COLUMNS as usize);
        let launch = |kernel: &str, blocks, threads| {
            Launch::new("represent", kernel.into(), blocks, threads, params)
        };
        let (of_chunks, of_columns) = match self.max {
            true => ("represent_max", "represent_maxima"),
            false => ("represent", "represent_means"),
        };
        Some(vec![
            launch(of_chunks, chunks, LOOP_THREADS),
            launch(of_columns, columns, REPRESENT_MEAN_COLUMNS),
        ])
    }

    fn wanted(&self) -> Vec<Wanted> {
        let rows = normed(&self.values(FROM), self.width, 1e-5);
        let mut means = Vec::new();
        for [first, end] in self.ranges() {
            for column in 0..self.width {
                let each = (first..end).map(|row| rows[row as usize * self.width + column]);
                means.push(match self.max {
                    true => each.fold(f64::NEG_INFINITY, f64::max),
                    false => each.sum::<f64>() / f64::from(end - first),
                });
            }
        }
        // Subtracting the mean removes part of the rounding errors of the states, and also what they
        // have in common.
        let of_means = 16.0 * epsilon(DType::F32);
        let tolerance = f32_slack(false);
        let mut wanted = vec![Wanted {
            operand: POOLED,
            values: means,
            tolerance: of_means,
        }];
        if self.states {
            wanted.push(Wanted {
                operand: STATES,
                values: rows,
                tolerance,
            });
        }
        wanted
    }

    fn bytes(&self) -> usize {
        self.rows() * self.width * if self.states { 8 } else { 4 }
    }
}
