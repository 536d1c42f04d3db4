//! Kernels of elements: embedding, tables, sums, GELU, casts.

use super::device::{Launch, Machine};
use super::numbers::{DTYPES, Random, epsilon, gelu, rounded, words};
use super::{By, Case, Extent, Operand, Wanted};
use seqstream::backend::cuda::launch::LOOP_THREADS;
use seqstream::backend::cuda::params::{
    AddParams, CastParams, EmbedParams, GatedGeluParams, GeluParams, RotaryTableParams,
};
use seqstream::dtype::DType;

/// Returns the cases of this extent.
pub fn cases(extent: Extent) -> Vec<Box<dyn Case>> {
    let mut cases: Vec<Box<dyn Case>> = Vec::new();
    let casts = DTYPES.map(|from| DTYPES.map(|to| (from, to))).concat();
    let casts = casts.into_iter().filter(|(from, to)| from != to);
    match extent {
        Extent::Small => {
            for (tokens, width) in [(1, 1), (7, 20), (40, 320), (9, 1283)] {
                cases.push(Box::new(Embed { tokens, width }));
            }
            for (positions, half) in [(1, 1), (70, 12), (1000, 32)] {
                cases.push(Box::new(RotaryTable { positions, half }));
            }
            for count in [1, 3, 4, 1023, 4096, 5001] {
                cases.push(Box::new(Add { count }));
                for (from, to) in casts.clone() {
                    cases.push(Box::new(Cast { count, from, to }));
                }
            }
            for dtype in DTYPES {
                for (rows, width) in [(1, 1), (3, 4), (2, 33), (5, 320), (4, 3072)] {
                    cases.push(Box::new(Gelu { rows, width, dtype }));
                    cases.push(Box::new(GatedGelu { rows, width, dtype }));
                }
            }
        }
        Extent::Large {
            tokens: [few, many],
        } => {
            for rows in [few, many] {
                for width in [768, 1280, 2560] {
                    cases.push(Box::new(Embed {
                        tokens: rows,
                        width,
                    }));
                    cases.push(Box::new(Gelu {
                        rows,
                        width: 4 * width,
                        dtype: DType::F16,
                    }));
                }
                for dtype in [DType::Bf16, DType::F32] {
                    cases.push(Box::new(Gelu {
                        rows,
                        width: 5120,
                        dtype,
                    }));
                }
                cases.push(Box::new(GatedGelu {
                    rows,
                    width: 3072,
                    dtype: DType::F16,
                }));
                cases.push(Box::new(Add { count: rows * 1280 }));
            }
            cases.push(Box::new(RotaryTable {
                positions: few.min(4096),
                half: 32,
            }));
            // The largest matrix of 650M.
            let count = few.min(5120) * 1280;
            for (from, to) in [
                (DType::F16, DType::F32),
                (DType::Bf16, DType::F32),
                (DType::Bf16, DType::F16),
            ] {
                cases.push(Box::new(Cast { count, from, to }));
            }
        }
    }
    cases
}

/// to[i] += from[i] in f32.
pub struct Add {
    pub count: usize,
}

impl Case for Add {
    fn name(&self) -> String {
        format!("add f32 {}", self.count)
    }

    fn operands(&self, _: &Machine, _: By) -> Vec<Operand> {
        let (count, dtype) = (self.count, DType::F32);
        vec![
            Operand::Input { count, dtype },
            Operand::InPlace { count, dtype },
        ]
    }

    fn values(&self, operand: usize) -> Vec<f32> {
        Random(operand as u64 + 1).normal(self.count, [1.0, 100.0][operand])
    }

    fn launches(&self, at: &[u64], machine: &Machine, by: By) -> Option<Vec<Launch>> {
        let params = AddParams {
            from: at[0],
            to: at[1],
            count: self.count as u64,
        };
        let kernel = match by {
            By::Kernel => "add",
            By::Reference => "add_reference",
        };
        let blocks = machine.blocks(self.count.div_ceil(4));
        Some(vec![Launch::new(
            "add",
            kernel.into(),
            blocks,
            LOOP_THREADS,
            params,
        )])
    }

    fn wanted(&self) -> Vec<Wanted> {
        let (from, to) = (self.values(0), self.values(1));
        let each = from.iter().zip(&to);
        let values = each
            .map(|(from, to)| f64::from(*from) + f64::from(*to))
            .collect();
        vec![Wanted {
            operand: 1,
            values,
            tolerance: epsilon(DType::F32),
        }]
    }

    fn bytes(&self) -> usize {
        3 * self.count * 4
    }
}

/// to[i] = from[i] in another format.
pub struct Cast {
    pub count: usize,
    pub from: DType,
    pub to: DType,
}

impl Case for Cast {
    fn name(&self) -> String {
        format!("cast {} to {} {}", self.from, self.to, self.count)
    }

    fn operands(&self, _: &Machine, _: By) -> Vec<Operand> {
        let count = self.count;
        vec![
            Operand::Input {
                count,
                dtype: self.from,
            },
            Operand::Output {
                count,
                dtype: self.to,
            },
        ]
    }

    fn values(&self, _: usize) -> Vec<f32> {
        rounded(&Random(1).normal(self.count, 1.0), self.from)
    }

    fn launches(&self, at: &[u64], machine: &Machine, by: By) -> Option<Vec<Launch>> {
        if by == By::Reference {
            return None; // the kernel is as plain as a reference
        }
        let params = CastParams {
            from: at[0],
            to: at[1],
            count: self.count as u64,
        };
        let kernel = format!("cast_{}_{}", self.from, self.to);
        let blocks = machine.blocks(self.count.div_ceil(4));
        Some(vec![Launch::new(
            "cast",
            kernel,
            blocks,
            LOOP_THREADS,
            params,
        )])
    }

    fn wanted(&self) -> Vec<Wanted> {
        let values = self.values(0).iter().map(|x| f64::from(*x)).collect();
        vec![Wanted {
            operand: 1,
            values,
            tolerance: epsilon(self.to),
        }]
    }

    fn bytes(&self) -> usize {
        self.count * (self.from.size() + self.to.size())
    }
}

/// GELU in place.
pub struct Gelu {
    pub rows: usize,
    pub width: usize,
    pub dtype: DType,
}

impl Gelu {
    fn count(&self) -> usize {
        self.rows * self.width
    }
}

impl Case for Gelu {
    fn name(&self) -> String {
        format!("gelu {} {}x{}", self.dtype, self.rows, self.width)
    }

    fn operands(&self, _: &Machine, _: By) -> Vec<Operand> {
        vec![Operand::InPlace {
            count: self.count(),
            dtype: self.dtype,
        }]
    }

    fn values(&self, _: usize) -> Vec<f32> {
        rounded(&Random(4).normal(self.count(), 2.0), self.dtype)
    }

    fn launches(&self, at: &[u64], machine: &Machine, by: By) -> Option<Vec<Launch>> {
        let params = GeluParams {
            values: at[0],
            count: self.count() as u64,
        };
        let (end, blocks) = grid(by, self.count(), self.dtype, machine);
        let kernel = format!("gelu_{}{end}", self.dtype);
        Some(vec![Launch::new(
            "gelu",
            kernel,
            blocks,
            LOOP_THREADS,
            params,
        )])
    }

    fn wanted(&self) -> Vec<Wanted> {
        let values = self.values(0).iter().map(|x| gelu(f64::from(*x))).collect();
        vec![Wanted {
            operand: 0,
            values,
            tolerance: 4.0 * epsilon(self.dtype),
        }]
    }

    fn bytes(&self) -> usize {
        2 * self.count() * self.dtype.size()
    }
}

/// to[r, i] = gelu(from[r, i]) * from[r, width + i].
pub struct GatedGelu {
    pub rows: usize,
    pub width: usize,
    pub dtype: DType,
}

impl Case for GatedGelu {
    fn name(&self) -> String {
        format!("gated_gelu {} {}x{}", self.dtype, self.rows, self.width)
    }

    fn operands(&self, _: &Machine, _: By) -> Vec<Operand> {
        let (count, dtype) = (self.rows * self.width, self.dtype);
        vec![
            Operand::Input {
                count: 2 * count,
                dtype,
            },
            Operand::Output { count, dtype },
        ]
    }

    fn values(&self, _: usize) -> Vec<f32> {
        rounded(
            &Random(5).normal(self.rows * 2 * self.width, 2.0),
            self.dtype,
        )
    }

    fn launches(&self, at: &[u64], machine: &Machine, by: By) -> Option<Vec<Launch>> {
        let params = GatedGeluParams {
            from: at[0],
            to: at[1],
            rows: self.rows as u32,
            width: self.width as u32,
        };
        let (end, blocks) = grid(by, self.rows * self.width, self.dtype, machine);
        let kernel = format!("gated_gelu_{}{end}", self.dtype);
        Some(vec![Launch::new(
            "gated_gelu",
            kernel,
            blocks,
            LOOP_THREADS,
            params,
        )])
    }

    fn wanted(&self) -> Vec<Wanted> {
        let from = self.values(0);
        let row = |row: &[f32]| -> Vec<f64> {
            let (gates, ups) = row.split_at(self.width);
            let each = gates.iter().zip(ups);
            each.map(|(gate, up)| gelu(f64::from(*gate)) * f64::from(*up))
                .collect()
        };
        let values = from.chunks(2 * self.width).flat_map(row).collect();
        vec![Wanted {
            operand: 1,
            values,
            tolerance: 4.0 * epsilon(self.dtype),
        }]
    }

    fn bytes(&self) -> usize {
        3 * self.rows * self.width * self.dtype.size()
    }
}

/// to[t] = (table[tokens[t]] + shift) * scale[t] in f32.
pub struct Embed {
    pub tokens: usize,
    pub width: usize,
}

const VOCABULARY: usize = 33;

impl Embed {
    fn tokens(&self) -> Vec<u32> {
        (0..self.tokens as u32).map(|t| 4 + t % 20).collect()
    }
}

impl Case for Embed {
    fn name(&self) -> String {
        format!("embed {}x{}", self.tokens, self.width)
    }

    fn operands(&self, _: &Machine, _: By) -> Vec<Operand> {
        let dtype = DType::F32;
        vec![
            Operand::Parameter {
                count: VOCABULARY * self.width,
                dtype,
            },
            Operand::Bytes(words(&self.tokens())),
            Operand::Parameter {
                count: self.tokens,
                dtype,
            },
            Operand::Parameter {
                count: self.width,
                dtype,
            },
            Operand::Output {
                count: self.tokens * self.width,
                dtype,
            },
        ]
    }

    fn values(&self, operand: usize) -> Vec<f32> {
        let count = [VOCABULARY * self.width, 0, self.tokens, self.width][operand];
        Random(operand as u64).normal(count, 1.0)
    }

    fn launches(&self, at: &[u64], machine: &Machine, by: By) -> Option<Vec<Launch>> {
        let params = EmbedParams {
            table: at[0],
            tokens: at[1],
            scale: at[2],
            shift: at[3],
            to: at[4],
            count: self.tokens as u32,
            width: self.width as u32,
            vocabulary: VOCABULARY as u32,
            padding: 0,
        };
        let kernel = match by {
            By::Kernel => "embed",
            By::Reference => "embed_reference",
        };
        let blocks = machine.blocks(self.tokens * 32);
        Some(vec![Launch::new(
            "embed",
            kernel.into(),
            blocks,
            LOOP_THREADS,
            params,
        )])
    }

    fn wanted(&self) -> Vec<Wanted> {
        let [table, scale, shift] = [0, 2, 3].map(|operand| self.values(operand));
        let mut values = Vec::new();
        for (token, scale) in self.tokens().into_iter().zip(scale) {
            let row = &table[token as usize * self.width..][..self.width];
            let each = row.iter().zip(&shift);
            values.extend(each.map(|(x, s)| (f64::from(*x) + f64::from(*s)) * f64::from(scale)));
        }
        vec![Wanted {
            operand: 4,
            values,
            tolerance: 2.0 * epsilon(DType::F32),
        }]
    }

    fn bytes(&self) -> usize {
        self.tokens * self.width * 4
    }
}

/// table[p, i] = (cos, sin) of p * inv_freq[i].
pub struct RotaryTable {
    pub positions: usize,
    pub half: usize,
}

impl Case for RotaryTable {
    fn name(&self) -> String {
        format!("rotary_table {}x{}", self.positions, self.half)
    }

    fn operands(&self, _: &Machine, _: By) -> Vec<Operand> {
        let dtype = DType::F32;
        vec![
            Operand::Parameter {
                count: self.half,
                dtype,
            },
            Operand::Output {
                count: self.positions * self.half * 2,
                dtype,
            },
        ]
    }

    fn values(&self, _: usize) -> Vec<f32> {
        let exponent = |i| -(i as f64) / self.half as f64;
        (0..self.half)
            .map(|i| 10000f64.powf(exponent(i)) as f32)
            .collect()
    }

    fn launches(&self, at: &[u64], machine: &Machine, by: By) -> Option<Vec<Launch>> {
        if by == By::Reference {
            return None; // the kernel is as plain as a reference
        }
        let params = RotaryTableParams {
            inv_freq: at[0],
            table: at[1],
            positions: self.positions as u32,
            half: self.half as u32,
        };
        let blocks = machine.blocks(self.positions * self.half);
        let kernel = "rotary_table".into();
        Some(vec![Launch::new(
            "rotary_table",
            kernel,
            blocks,
            LOOP_THREADS,
            params,
        )])
    }

    fn wanted(&self) -> Vec<Wanted> {
        let inv_freq = self.values(0);
        let angle = |p: usize, f: &f32| {
            let (sin, cos) = (p as f64 * f64::from(*f)).sin_cos();
            [cos, sin]
        };
        let row = |p: usize| inv_freq.iter().flat_map(move |f| angle(p, f));
        let values = (0..self.positions).flat_map(row).collect();
        vec![Wanted {
            operand: 1,
            values,
            tolerance: 2.0 * epsilon(DType::F32),
        }]
    }

    fn bytes(&self) -> usize {
        self.positions * self.half * 8
    }
}

/// The end of the kernel's name, and its blocks: one thread per 16 bytes.
fn grid(by: By, count: usize, dtype: DType, machine: &Machine) -> (&'static str, usize) {
    let end = match by {
        By::Kernel => "",
        By::Reference => "_reference",
    };
    (end, machine.blocks((count * dtype.size()).div_ceil(16)))
}
