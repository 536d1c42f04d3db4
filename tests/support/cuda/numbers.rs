//! Random numbers, number formats, and the distance of results from f64.

use half::{bf16, f16};
use seqstream::dtype::DType;

pub const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::Bf16];

/// A random number generator, splitmix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Returns normally distributed numbers.
    pub fn normal(&mut self, count: usize, deviation: f64) -> Vec<f32> {
        let mut one = || {
            let (u, v) = (1.0 - self.uniform(), self.uniform());
            deviation * (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
        };
        (0..count).map(|_| one() as f32).collect()
    }
}

/// Returns half a unit in the last place, relatively: the most that rounding loses.
pub fn epsilon(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 2f64.powi(-24),
        DType::F16 => 2f64.powi(-11),
        DType::Bf16 => 2f64.powi(-8),
    }
}

/// Returns the bytes of numbers in a format, rounded to nearest even.
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

/// Returns the numbers of such bytes.
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

/// Returns numbers rounded to a format.
pub fn rounded(given: &[f32], dtype: DType) -> Vec<f32> {
    values(&bytes(given, dtype), dtype)
}

/// Returns the bytes of u32 numbers.
pub fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_ne_bytes()).collect()
}

/// Returns norm(got - wanted) / norm(wanted); NaN if anything is not finite, which exceeds every
/// tolerance.
pub fn error(got: &[f32], wanted: &[f64]) -> f64 {
    assert_eq!(got.len(), wanted.len());
    let squares = |of: &dyn Fn(usize) -> f64| (0..got.len()).map(|i| of(i).powi(2)).sum::<f64>();
    let off = squares(&|i| f64::from(got[i]) - wanted[i]);
    (off / squares(&|i| wanted[i])).sqrt()
}

/// Returns how far got·wanted / wanted·wanted may be from 1: the bound of [`same_on_the_whole`].
///
/// Rounding to nearest moves a value w by at most epsilon·w, up as often as down: its standard
/// deviation is at most epsilon·w/√3. So the standard deviation of the quotient is at most
/// (epsilon/√3)·√Σw⁴ / Σw². For N values with a normal distribution, where Σw⁴ / (Σw²)² is 3/N,
/// this is epsilon/√N: 4.9e-6 in f16 for [`ENOUGH`] values. Half of the results of GELU on normal
/// values are close to 0, so these results count as a third as many: 8.5e-6. Attention also rounds
/// its weights, of which there is one per query and key and not one per value; the largest weight
/// is 1 and loses nothing. This adds hardly more than the values' own rounding: 7e-6. The bound is
/// 3e-5, more than three times any of these, and in bf16, which has three bits less, eight times
/// that.
///
/// Results or scores that are all off by a factor of 1 ± 1e-4 exceed the bound in f16. In bf16 they
/// do not, but its kernels have the same source. Only the rounding could be wrong in bf16 alone:
/// truncation instead of rounding costs 2e-3.
pub fn whole_tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 1e-7, // not for rounding, which loses 1e-9, but for f32 sums and polynomials
        DType::F16 => 3e-5,
        DType::Bf16 => 8.0 * 3e-5,
    }
}

/// The number of values that [`whole_tolerance`] needs.
pub const ENOUGH: usize = 10_000;

/// Checks what a bound on the largest error misses: results that are all a little too large or too
/// small.
#[track_caller]
pub fn same_on_the_whole(what: &str, got: &[f32], wanted: &[f64], dtype: DType) {
    assert!(
        got.len() == wanted.len() && got.len() >= ENOUGH,
        "{what}: too few values"
    );
    let both = || got.iter().map(|x| f64::from(*x)).zip(wanted);
    let ratio: f64 = both().map(|(got, wanted)| got * wanted).sum::<f64>()
        / wanted.iter().map(|x| x * x).sum::<f64>();
    let (off, bar) = (ratio - 1.0, whole_tolerance(dtype));
    println!("{what}: {off:+.1e} on the whole, of {bar:.1e}");
    assert!(
        off.abs() <= bar,
        "{what}: off by {off:+.1e} on the whole, the bar is {bar:.1e}"
    );
}

/// Returns erfc by its continued fraction or its series, to 1e-15.
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

/// Returns x·Φ(x).
pub fn gelu(x: f64) -> f64 {
    0.5 * x * erfc(-x / std::f64::consts::SQRT_2)
}
