//! Random numbers, their formats, and how far results are from f64.

use half::{bf16, f16};
use seqstream::dtype::DType;

pub const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::Bf16];

/// splitmix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Normally distributed numbers.
    pub fn normal(&mut self, count: usize, deviation: f64) -> Vec<f32> {
        let mut one = || {
            let (u, v) = (1.0 - self.uniform(), self.uniform());
            deviation * (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
        };
        (0..count).map(|_| one() as f32).collect()
    }
}

/// Half a unit in the last place, relatively: what rounding loses at the most.
pub fn epsilon(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 2f64.powi(-24),
        DType::F16 => 2f64.powi(-11),
        DType::Bf16 => 2f64.powi(-8),
    }
}

/// The bytes of numbers in a format, rounded to nearest even.
pub fn bytes(values: &[f32], dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F32 => values.iter().flat_map(|v| v.to_ne_bytes()).collect(),
        DType::F16 => {
            let halves = values.iter().map(|v| f16::from_f32(*v));
            halves.flat_map(|v| v.to_ne_bytes()).collect()
        }
        DType::Bf16 => {
            let halves = values.iter().map(|v| bf16::from_f32(*v));
            halves.flat_map(|v| v.to_ne_bytes()).collect()
        }
    }
}

/// And back.
pub fn values(bytes: &[u8], dtype: DType) -> Vec<f32> {
    match dtype {
        DType::F32 => {
            let words = bytes.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]);
            words.map(f32::from_ne_bytes).collect()
        }
        DType::F16 => {
            let words = bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
            words.map(|b| f16::from_ne_bytes(b).to_f32()).collect()
        }
        DType::Bf16 => {
            let words = bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
            words.map(|b| bf16::from_ne_bytes(b).to_f32()).collect()
        }
    }
}

/// Numbers as a format holds them.
pub fn rounded(given: &[f32], dtype: DType) -> Vec<f32> {
    values(&bytes(given, dtype), dtype)
}

/// Bytes of u32.
pub fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_ne_bytes()).collect()
}

/// norm(got - wanted) / norm(wanted); NaN where anything is not finite, which no tolerance takes.
pub fn error(got: &[f32], wanted: &[f64]) -> f64 {
    assert_eq!(got.len(), wanted.len());
    let squares = |of: &dyn Fn(usize) -> f64| (0..got.len()).map(|i| of(i).powi(2)).sum::<f64>();
    let off = squares(&|i| f64::from(got[i]) - wanted[i]);
    (off / squares(&|i| wanted[i])).sqrt()
}

/// erfc by its continued fraction or its series, to 1e-15.
pub fn erfc(x: f64) -> f64 {
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    if x < 2.5 {
        // erf x = 2/sqrt(pi) exp(-x²) sum of 2^n x^(2n+1) / (1·3·...·(2n+1))
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= 2.0 * x * x / f64::from(2 * n + 1);
            sum += term;
        }
        return 1.0 - 2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum;
    }
    let mut fraction = x;
    for n in (1..120).rev() {
        fraction = x + f64::from(n) / 2.0 / fraction;
    }
    (-x * x).exp() / std::f64::consts::PI.sqrt() / fraction
}

/// x·Φ(x).
pub fn gelu(x: f64) -> f64 {
    0.5 * x * erfc(-x / std::f64::consts::SQRT_2)
}
