//! Attention over sequences of one length and of mixed lengths.

use super::device::{Launch, Machine};
use super::numbers::{DTYPES, Random, epsilon, rounded};
use super::{By, Case, Extent, OnCpu, Operand, Wanted};
use seqstream::backend::cpu::{Cpu, Matrix};
use seqstream::backend::cuda::attention::{AttentionKernel, AttentionKernels};
use seqstream::backend::cuda::params::AttentionParams;
use seqstream::backend::{AttentionSpec, Backend, Pass, Position};
use seqstream::batch::PackedBatch;
use seqstream::dtype::DType;
use std::ops::Range;

/// The widths of the published models, and one width that uses the padded kernel.
pub const HEAD_DIMS: [usize; 7] = [16, 24, 32, 64, 96, 128, 40];

/// Returns the cases of this extent.
pub fn cases(extent: Extent) -> Vec<Box<dyn Case>> {
    let mut cases: Vec<Box<dyn Case>> = Vec::new();
    let mut add = |(heads, head_dim), dtype, rotary, lengths: &[usize], kernels| {
        let case = Attention::new(heads, head_dim, dtype, rotary, lengths, 11);
        cases.push(Box::new(Attention { kernels, ..case }));
    };
    match extent {
        Extent::Small => {
            for head_dim in HEAD_DIMS {
                for dtype in DTYPES {
                    for rotary in [true, false] {
                        let lengths = [1, 2, 15, 16, 17, 63, 64, 0, 33, 32, 16, 1, 65, 100];
                        add((2, head_dim), dtype, rotary, &lengths, Kernels::Own);
                        if dtype != DType::F32 {
                            add((2, head_dim), dtype, rotary, &lengths, Kernels::MmaSync);
                        }
                    }
                }
            }
        }
        Extent::Large {
            tokens: [few, many],
        } => {
            let longest = match many {
                ..1000 => 130,
                1000..4096 => 1022,
                4096.. => 4096,
            };
            let at = |length: usize| uniform(length.min(longest), many);
            let f16 = DType::F16;
            for length in [51, 100, 170, 350, 512, 1022, 4096] {
                add((20, 64), f16, true, &at(length), Kernels::Own);
            }
            add((20, 64), f16, true, &ragged(many), Kernels::Own);
            add(
                (20, 64),
                f16,
                true,
                &uniform(longest.min(350), few),
                Kernels::Own,
            );
            add((20, 64), DType::Bf16, true, &at(350), Kernels::Own);
            add((40, 64), f16, true, &at(350), Kernels::Own);
            for length in [51, 100, 350, 1022] {
                add((12, 64), f16, false, &at(length), Kernels::Own);
            }
            // These lines show whether the kernels for Hopper are worthwhile, and from which length.
            for (kernels, rotary, length) in [
                (Kernels::MmaSync, true, 100),
                (Kernels::MmaSync, true, 350),
                (Kernels::MmaSync, true, 1022),
                (Kernels::Long, true, 20),
                (Kernels::Long, true, 35),
                (Kernels::Long, true, 51),
                (Kernels::Long, true, 64),
                (Kernels::Long, false, 51),
                (Kernels::Short, true, 35),
                (Kernels::Short, true, 51),
                (Kernels::Short, true, 64),
                (Kernels::Own, true, 20),
            ] {
                let heads = if rotary { 20 } else { 12 };
                add((heads, 64), f16, rotary, &at(length), kernels);
            }
            for shape in [(8, 96), (20, 40)] {
                add(shape, f16, true, &at(350), Kernels::Own);
            }
            for shape in [(20, 16), (20, 24), (20, 32), (40, 128)] {
                for length in [100, 350, 1022, 4096] {
                    add(shape, f16, true, &at(length), Kernels::Own);
                }
                add(shape, DType::Bf16, true, &at(350), Kernels::Own);
                add(shape, f16, true, &ragged(many), Kernels::Own);
                for length in [100, 350, 1022] {
                    add(shape, f16, true, &at(length), Kernels::MmaSync);
                }
            }
            for (shape, rotary, length) in [
                ((20, 64), true, 51),
                ((20, 64), true, 350),
                ((20, 64), true, 1022),
                ((12, 64), false, 350),
                ((20, 16), true, 350),
                ((20, 24), true, 350),
                ((20, 32), true, 350),
                ((40, 128), true, 350),
            ] {
                let lengths = uniform(length.min(longest), few);
                add(shape, DType::F32, rotary, &lengths, Kernels::Own);
            }
        }
    }
    cases
}

/// Returns sequences of one length, with about this many tokens.
pub fn uniform(length: usize, tokens: usize) -> Vec<usize> {
    vec![length; tokens.div_ceil(length)]
}

/// Returns lengths like those of proteins: log-normal around 290, at most 1022.
pub fn ragged(tokens: usize) -> Vec<usize> {
    let mut random = Random(5);
    let mut lengths = Vec::new();
    while lengths.iter().sum::<usize>() < tokens {
        let sum: f64 = (0..12).map(|_| random.uniform()).sum();
        lengths.push((290.0 * (0.7 * (sum - 6.0)).exp()).clamp(20.0, 1022.0) as usize);
    }
    lengths
}

/// The kernels that compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernels {
    /// The kernels that a model uses on this device.
    Own,
    /// The kernels that a model uses on devices without wgmma.
    MmaSync,
    /// The long kernel, for short sequences too.
    Long,
    /// The short kernel, for all lengths that it supports, up to 64 tokens.
    Short,
}

/// A packed batch of one attention.
#[derive(Clone)]
pub struct Attention {
    pub heads: usize,
    pub head_dim: usize,
    pub dtype: DType,
    pub rotary: bool,
    pub lengths: Vec<usize>,
    pub kernels: Kernels,
    /// The deviation of q, k and v; the deviation of the scores is its square.
    pub size: f64,
    pub seed: u64,
}

const QKV: usize = 0;
const ANGLES: usize = 1;
const SLOPES: usize = 2;
const ITEMS: usize = 3;
const SLOTS: usize = 4;
const OUT: usize = 5;

impl Attention {
    /// Makes a case whose scores have a deviation of about 2, so that attention prefers some keys.
    pub fn new(
        heads: usize,
        head_dim: usize,
        dtype: DType,
        rotary: bool,
        lengths: &[usize],
        seed: u64,
    ) -> Self {
        Self {
            heads,
            head_dim,
            dtype,
            rotary,
            lengths: lengths.to_vec(),
            kernels: Kernels::Own,
            size: 1.4,
            seed,
        }
    }

    pub fn starts(&self) -> Vec<usize> {
        let ends = self.lengths.iter().scan(0, |sum, length| {
            *sum += length;
            Some(*sum)
        });
        std::iter::once(0).chain(ends).collect()
    }

    fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    fn longest(&self) -> usize {
        self.lengths.iter().copied().max().unwrap_or(1)
    }

    fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    pub fn inv_freq(&self) -> Vec<f32> {
        let half = self.head_dim / 2;
        (0..half)
            .map(|i| 10000f64.powf(-(i as f64) / half as f64) as f32)
            .collect()
    }

    /// Returns steep and flat slopes.
    pub fn slopes(&self) -> Vec<f32> {
        (0..self.heads)
            .map(|h| 0.5f32.powi(5 * (h as i32 % 2) + 1))
            .collect()
    }

    fn choice(&self, machine: &Machine) -> Option<AttentionKernels> {
        let capability = match self.kernels {
            Kernels::MmaSync => (8, 0),
            _ => machine.capability,
        };
        let mut kernels =
            AttentionKernels::new(self.head_dim, self.dtype, self.rotary, capability)?;
        match self.kernels {
            Kernels::Long => kernels.short_tokens = 0,
            Kernels::Short => kernels.short_tokens = 64,
            Kernels::Own | Kernels::MmaSync => {}
        }
        Some(kernels)
    }

    /// Returns the bytes of the lists of items and of slots. The items of the reference are whole
    /// sequences, since it takes any number of rows.
    fn lists(&self, machine: &Machine, by: By) -> [Vec<u8>; 2] {
        let starts = self.starts();
        match (by, self.choice(machine)) {
            (By::Kernel, Some(kernels)) => {
                let work = kernels.work(&starts);
                [work.item_bytes(), work.slot_bytes()]
            }
            _ => {
                let filled = starts
                    .iter()
                    .zip(&self.lengths)
                    .filter(|(_, length)| **length > 0);
                let item = filled.flat_map(|(start, length)| [*start, *length, 0, *length]);
                let items = item.flat_map(|word| (word as u32).to_ne_bytes()).collect();
                [items, Vec::new()]
            }
        }
    }

    /// Returns the result in f64 for some queries of sequence `s`, shape `[rows, heads·head_dim]`.
    /// Rotated q and k go through `stored`.
    pub fn wanted_rows(
        &self,
        qkv: &[f32],
        s: usize,
        rows: Range<usize>,
        stored: impl Fn(f64) -> f64,
    ) -> Vec<f64> {
        let (hd, width) = (self.head_dim, self.width());
        let (first, length) = (self.starts()[s], self.lengths[s]);
        let (inv_freq, slopes) = (self.inv_freq(), self.slopes());
        let row = |t: usize, part: usize, head: usize| {
            let at = (first + t) * 3 * width + part * width + head * hd;
            let mut row: Vec<f64> = qkv[at..at + hd].iter().map(|x| f64::from(*x)).collect();
            if self.rotary && part < 2 {
                for i in 0..hd / 2 {
                    let (sin, cos) = (t as f64 * f64::from(inv_freq[i])).sin_cos();
                    let (a, b) = (row[i], row[i + hd / 2]);
                    row[i] = stored(a * cos - b * sin);
                    row[i + hd / 2] = stored(b * cos + a * sin);
                }
            }
            row
        };
        let mut out = vec![0.0; rows.len() * width];
        for (head, slope) in slopes.iter().enumerate() {
            let part = |part| (0..length).map(|t| row(t, part, head)).collect::<Vec<_>>();
            let (q, k, v) = (part(0), part(1), part(2));
            let slope = if self.rotary { 0.0 } else { f64::from(*slope) };
            for i in rows.clone() {
                let score = |j: usize| {
                    let dot: f64 = q[i].iter().zip(&k[j]).map(|(a, b)| a * b).sum();
                    dot / (hd as f64).sqrt() - slope * i.abs_diff(j) as f64
                };
                let scores: Vec<f64> = (0..length).map(score).collect();
                let row_max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - row_max).exp()).collect();
                let row_sum: f64 = weights.iter().sum();
                for (weight, v) in weights.iter().zip(&v) {
                    for d in 0..hd {
                        out[(i - rows.start) * width + head * hd + d] += weight / row_sum * v[d];
                    }
                }
            }
        }
        out
    }
}

/// Rounding q, k, weights and the result costs about one epsilon, weighted by the effect of an error
/// on scores of deviation 2. In f32 the rounding errors of `length` sums show, and grow with the
/// square root of the length.
pub fn tolerance(dtype: DType, length: usize) -> f64 {
    epsilon(dtype)
        * match dtype {
            DType::F32 => 10.0 + (length as f64).sqrt() / 4.0,
            _ => 2.0,
        }
}

impl Case for Attention {
    fn name(&self) -> String {
        let longest = self.longest();
        let shape = if self.lengths.iter().all(|l| *l == longest) {
            longest.to_string()
        } else {
            "ragged".into()
        };
        let position = if self.rotary { "rotary" } else { "alibi" };
        let kernels = match self.kernels {
            Kernels::Own => "",
            Kernels::MmaSync => ", mma.sync",
            Kernels::Long => ", by the long one",
            Kernels::Short => ", by the short one",
        };
        let Self {
            heads,
            head_dim,
            dtype,
            ..
        } = self;
        let tokens = self.tokens();
        format!(
            "attention {dtype} {heads}x{head_dim} {position} length {shape}, {tokens} tokens{kernels}"
        )
    }

    fn operands(&self, machine: &Machine, by: By) -> Vec<Operand> {
        let angles = if self.rotary {
            self.longest() * self.head_dim
        } else {
            0
        };
        let slopes = if self.rotary { 0 } else { self.heads };
        let f32 = DType::F32;
        let [items, slots] = self.lists(machine, by);
        vec![
            Operand::Input {
                count: self.tokens() * 3 * self.width(),
                dtype: self.dtype,
            },
            Operand::Parameter {
                count: angles,
                dtype: f32,
            },
            Operand::Parameter {
                count: slopes,
                dtype: f32,
            },
            Operand::Bytes(items),
            Operand::Bytes(slots),
            Operand::Output {
                count: self.tokens() * self.width(),
                dtype: self.dtype,
            },
        ]
    }

    fn values(&self, operand: usize) -> Vec<f32> {
        match operand {
            QKV => rounded(
                &Random(self.seed).normal(self.tokens() * 3 * self.width(), self.size),
                self.dtype,
            ),
            ANGLES => {
                let inv_freq = self.inv_freq();
                let angle = |p: usize, f: &f32| {
                    let (sin, cos) = (p as f64 * f64::from(*f)).sin_cos();
                    [cos as f32, sin as f32]
                };
                let row = |p: usize| inv_freq.iter().flat_map(move |f| angle(p, f));
                (0..self.longest()).flat_map(row).collect()
            }
            _ => self.slopes(),
        }
    }

    fn launches(&self, at: &[u64], machine: &Machine, by: By) -> Option<Vec<Launch>> {
        let params = AttentionParams {
            qkv: at[QKV],
            out: at[OUT],
            items: at[ITEMS],
            rotary: at[ANGLES],
            slopes: at[SLOPES],
            heads: self.heads as u32,
            head_dim: self.head_dim as u32,
            scale: (self.head_dim as f64).powf(-0.5) as f32,
            count: 0,
        };
        if by == By::Reference {
            let items = self.lengths.iter().filter(|length| **length > 0).count();
            let kernel = format!("attention_{}_reference", self.dtype);
            let blocks = self.heads * items;
            return Some(vec![Launch::new(
                "attention_reference",
                kernel,
                blocks,
                128,
                params,
            )]);
        }
        let kernels = self.choice(machine)?;
        let work = kernels.work(&self.starts());
        let lists = work.counts().lists(at[ITEMS], at[SLOTS]);
        let launch = |(kernel, (items, count)): (Option<&AttentionKernel>, (u64, u32))| {
            let kernel = kernel.filter(|_| count > 0)?;
            let blocks = kernel.blocks(params.heads, count, machine.multiprocessors) as usize;
            let params = AttentionParams {
                items,
                count,
                ..params
            };
            let (source, name, threads) = (&kernel.source, kernel.name.clone(), kernel.threads);
            let launch = match &kernel.tensor {
                Some(tile) => {
                    let params =
                        AttentionKernel::tensor_params(tile, params, self.tokens(), self.dtype)
                            .unwrap();
                    Launch::new(source, name, blocks, threads, params)
                }
                None => Launch::new(source, name, blocks, threads, params),
            };
            Some(Launch {
                shared: kernel.shared,
                ..launch
            })
        };
        let launches = kernels.launches().into_iter().zip(lists);
        Some(launches.filter_map(launch).collect())
    }

    fn on_cpu(&self) -> Option<Box<dyn OnCpu>> {
        (self.dtype == DType::F32).then(|| {
            let position = if self.rotary {
                Position::Rotary(self.inv_freq())
            } else {
                Position::Alibi(self.slopes())
            };
            let (heads, head_dim) = (self.heads, self.head_dim);
            let mut batch = PackedBatch::new();
            for length in self.lengths.iter().filter(|length| **length > 0) {
                batch.push(&vec![0; *length]);
            }
            Box::new(AttentionOnCpu {
                qkv: Matrix::from_rows(&self.values(QKV), self.tokens(), 3 * self.width()),
                batch,
                spec: AttentionSpec {
                    heads,
                    head_dim,
                    position,
                },
                out: Matrix::default(),
            }) as Box<dyn OnCpu>
        })
    }

    fn wanted(&self) -> Vec<Wanted> {
        let qkv = self.values(QKV);
        let sequences = 0..self.lengths.len();
        let values = sequences
            .flat_map(|s| self.wanted_rows(&qkv, s, 0..self.lengths[s], |x| x))
            .collect();
        let tolerance = tolerance(self.dtype, self.longest());
        vec![Wanted {
            operand: OUT,
            values,
            tolerance,
        }]
    }

    fn bytes(&self) -> usize {
        4 * self.tokens() * self.width() * self.dtype.size()
    }

    fn flops(&self) -> f64 {
        let squares: f64 = self.lengths.iter().map(|l| (*l as f64).powi(2)).sum();
        4.0 * self.width() as f64 * squares
    }
}

struct AttentionOnCpu {
    qkv: Matrix,
    batch: PackedBatch,
    spec: AttentionSpec,
    out: Matrix,
}

impl OnCpu for AttentionOnCpu {
    fn run(&mut self, cpu: &mut Cpu) {
        let Self {
            qkv,
            batch,
            spec,
            out,
        } = self;
        let mut pass = cpu.begin(0, batch, &[]).unwrap();
        pass.attention(qkv, spec, out).unwrap();
    }

    fn result(&self) -> Vec<f32> {
        self.out.values().to_vec()
    }
}
