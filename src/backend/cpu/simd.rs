//! Provides vector functions over `pulp`, which picks AVX-512, AVX2 or a portable path at run time.

use pulp::Simd;

/// Returns the name of the SIMD level that this machine computes with.
pub fn name() -> &'static str {
    name_of(pulp::Arch::new())
}

/// Returns all levels that this machine can compute with, each with its name. The level that it
/// computes with by default comes first.
pub fn levels() -> Vec<(&'static str, pulp::Arch)> {
    #[allow(unused_mut)]
    let mut levels = vec![pulp::Arch::new()];
    #[cfg(target_arch = "x86_64")]
    if let Some(v3) = pulp::x86::V3::try_new() {
        levels.push(pulp::Arch::V3(v3));
    }
    levels.push(pulp::Arch::Scalar);
    let mut levels: Vec<_> = levels.into_iter().map(|a| (name_of(a), a)).collect();
    levels.dedup_by_key(|(name, _)| *name);
    levels
}

fn name_of(arch: pulp::Arch) -> &'static str {
    match arch {
        #[cfg(target_arch = "x86_64")]
        pulp::Arch::V4(_) => "avx512",
        #[cfg(target_arch = "x86_64")]
        pulp::Arch::V3(_) => "avx2+fma",
        #[cfg(target_arch = "aarch64")]
        pulp::Arch::Neon(_) => "neon",
        _ => "portable",
    }
}

/// Computes 2^x for x <= 0. Below -126 the result stays 2^-126, and NaN passes through.
///
/// x = n + f with |f| <= 1/2. 2^f is a minimax polynomial (fitted to 2e-9), and the multiplication
/// by 2^n changes the exponent bits. The error is about 1 ulp.
#[inline(always)]
pub fn exp2_nonpositive<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    const C: [f32; 6] = [
        1.535_334e-4,
        1.339_89e-3,
        9.618_438e-3,
        5.550_332_4e-2,
        2.402_264_8e-1,
        6.931_472e-1,
    ];
    let low = simd.splat_f32s(-126.0);
    // The maximum of x86 returns its second operand if one operand is NaN. Other maxima would hide
    // the NaN.
    let x = if cfg!(target_arch = "x86_64") && S::F32_LANES > 1 {
        simd.max_f32s(low, x)
    } else {
        simd.select_f32s(simd.less_than_f32s(x, low), low, x)
    };
    // This is 1.5·2^23: adding it rounds to an integer, which then lies in the low mantissa bits.
    let magic = simd.splat_f32s(12_582_912.0);
    let shifted = simd.add_f32s(x, magic);
    let f = simd.sub_f32s(x, simd.sub_f32s(shifted, magic));
    let mut p = simd.splat_f32s(C[0]);
    for c in &C[1..] {
        p = simd.mul_add_e_f32s(p, f, simd.splat_f32s(*c));
    }
    let p = simd.mul_add_e_f32s(p, f, simd.splat_f32s(1.0));
    let exponent =
        simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
    simd.transmute_f32s_u32s(simd.add_u32s(simd.transmute_u32s_f32s(p), exponent))
}

/// Computes GELU as x·Φ(x) with erf, which is the form that both models use (never the tanh form).
///
/// It is computed as max(x, 0) - z·Φ(-z) with z = |x| and Φ(-z) = e^(-z²/2)·P(z)/Q(z). The
/// subtracted term is at most 0.17, so its rounding error stays far below that of a value near 1.
/// The form 1 + erf(x/√2), in contrast, would round like a value near 2 for all x > 0. P/Q is a fit
/// over z <= 14, weighted so that the error of z·Φ(-z) is 5e-9, and in its tail one part in 6e5.
#[inline(always)]
pub fn gelu<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // The coefficients are as fitted, with more digits than f32 holds.
    #[allow(clippy::excessive_precision)]
    const P: [f32; 4] = [
        1.495_984_023e-2,
        1.106_362_429e-1,
        3.464_722_833e-1,
        4.999_996_719e-1,
    ];
    #[allow(clippy::excessive_precision)]
    const Q: [f32; 5] = [
        3.750_800_511e-2,
        2.769_916_302e-1,
        9.108_481_764e-1,
        1.490_816_937,
        1.0,
    ];
    let size = simd.abs_f32s(x);
    // Beyond 14, z·Φ(-z) is 0 in f32.
    let z = simd.min_f32s(size, simd.splat_f32s(14.0));
    let (mut p, mut q) = (simd.splat_f32s(P[0]), simd.splat_f32s(Q[0]));
    for c in &P[1..] {
        p = simd.mul_add_e_f32s(p, z, simd.splat_f32s(*c));
    }
    for c in &Q[1..] {
        q = simd.mul_add_e_f32s(q, z, simd.splat_f32s(*c));
    }
    let half_log2e = simd.splat_f32s(-0.5 * std::f32::consts::LOG2_E);
    let power = exp2_nonpositive(simd, simd.mul_f32s(simd.mul_f32s(z, z), half_log2e));
    let below = simd.mul_f32s(simd.mul_f32s(z, power), simd.div_f32s(p, q));
    // This is max(x, 0), except that NaN stays NaN. The same sum turns -∞, which an overflow left,
    // into NaN.
    let above = simd.mul_f32s(simd.add_f32s(x, size), simd.splat_f32s(0.5));
    simd.sub_f32s(above, below)
}

/// A function of one element. This is a trait and not a closure, because a closure is compiled on
/// its own, without the instruction set of the caller, unless the optimiser happens to inline it.
pub trait Elementwise {
    /// Applies the function to a vector of elements; it must be `#[inline(always)]`.
    fn apply<S: Simd>(simd: S, x: S::f32s) -> S::f32s;
}

/// The function [`gelu`], as an [`Elementwise`].
pub struct Gelu;

impl Elementwise for Gelu {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
        gelu(simd, x)
    }
}

/// Applies `F` to each element. The tail is computed in a vector too, so that the bits of an
/// element do not depend on its position.
#[inline(always)]
pub fn map<S: Simd, F: Elementwise>(simd: S, xs: &mut [f32]) {
    let (body, tail) = S::as_mut_simd_f32s(xs);
    for v in body {
        *v = F::apply(simd, *v);
    }
    if !tail.is_empty() {
        let v = F::apply(simd, simd.partial_load_f32s(tail));
        simd.partial_store_f32s(tail, v);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pulp::WithSimd;

    #[derive(Clone, Copy)]
    enum Op {
        Exp,
        Gelu,
    }
    struct Exp;
    impl Elementwise for Exp {
        #[inline(always)]
        fn apply<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
            exp2_nonpositive(simd, x)
        }
    }
    struct Apply<'a>(&'a mut [f32], Op);
    impl WithSimd for Apply<'_> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            match self.1 {
                Op::Exp => map::<S, Exp>(simd, self.0),
                Op::Gelu => map::<S, Gelu>(simd, self.0),
            }
        }
    }

    /// Computes the error function in f64 by its Maclaurin series or, for large arguments, by its
    /// continued fraction.
    fn erf64(z: f64) -> f64 {
        let a = z.abs();
        if a < 3.0 {
            let (mut term, mut sum) = (a, a);
            for n in 1..200 {
                term *= -a * a / n as f64;
                sum += term / (2 * n + 1) as f64;
            }
            (sum * std::f64::consts::FRAC_2_SQRT_PI).copysign(z)
        } else {
            let mut f = a;
            for k in (1..120).rev() {
                f = a + k as f64 / 2.0 / f;
            }
            (1.0 - (-a * a).exp() / f / std::f64::consts::PI.sqrt()).copysign(z)
        }
    }

    fn each_level(xs: &[f32], op: Op) -> Vec<(String, Vec<f32>)> {
        let mut out = Vec::new();
        let mut ys = xs.to_vec();
        pulp::Arch::new().dispatch(Apply(&mut ys, op));
        out.push((name().to_string(), ys));
        #[cfg(target_arch = "x86_64")]
        if let Some(v3) = pulp::x86::V3::try_new() {
            let mut ys = xs.to_vec();
            Simd::vectorize(v3, Apply(&mut ys, op));
            out.push(("avx2+fma".into(), ys));
        }
        let mut ys = xs.to_vec();
        Apply(&mut ys, op).with_simd(pulp::Scalar);
        out.push(("portable".into(), ys));
        out
    }

    #[test]
    fn exp2_is_within_two_ulp_on_every_level() {
        let xs: Vec<f32> = (0..200_001)
            .map(|i| -(i as f32) * 126.0 / 200_000.0)
            .collect();
        for (level, ys) in each_level(&xs, Op::Exp) {
            for (x, y) in xs.iter().zip(&ys) {
                let want = (*x as f64).exp2();
                let error = (*y as f64 - want).abs() / want;
                assert!(
                    error <= 2.0 * f32::EPSILON as f64,
                    "{level}: 2^{x} = {y}, off by {error:e}"
                );
            }
        }
        for (level, ys) in each_level(&[f32::NEG_INFINITY, -1000.0], Op::Exp) {
            assert!(
                ys.iter().all(|y| *y >= 0.0 && *y < 1.2e-38),
                "{level}: {ys:?}"
            );
        }
    }

    #[test]
    fn gelu_is_the_erf_form_on_every_level() {
        let xs: Vec<f32> = (-80_000..=80_000).map(|i| i as f32 / 10_000.0).collect();
        for (level, ys) in each_level(&xs, Op::Gelu) {
            for (x, y) in xs.iter().zip(&ys) {
                let x64 = *x as f64;
                let want = 0.5 * x64 * (1.0 + erf64(x64 / 2f64.sqrt()));
                // The bound covers the rounding of the result, several roundings of the subtracted
                // part, and the fit. The tanh form is off by 4.7e-4.
                let below = 0.5 * x64.abs() * (1.0 - erf64(x64.abs() / 2f64.sqrt()));
                let u = f32::EPSILON as f64 / 2.0;
                let bound = 1.01 * u * want.abs() + 8.0 * u * below + 6e-9;
                assert!(
                    (*y as f64 - want).abs() <= bound,
                    "{level}: gelu({x}) = {y}, want {want}"
                );
            }
        }
        let ends = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -100.0, 1e30];
        for (level, ys) in each_level(&ends, Op::Gelu) {
            assert!(ys[0].is_nan() && ys[2].is_nan(), "{level}");
            assert_eq!(ys[1], f32::INFINITY, "{level}");
            assert!(ys[3].abs() < 1e-30, "{level}");
            assert_eq!(ys[4], 1e30, "{level}");
        }
    }

    #[test]
    fn an_element_has_the_same_bits_wherever_it_stands() {
        for pad in 0..40 {
            let xs: Vec<f32> = vec![-0.7371; pad + 1];
            for (level, ys) in each_level(&xs, Op::Gelu) {
                assert!(
                    ys.iter().all(|y| y.to_bits() == ys[0].to_bits()),
                    "{level} at {pad}"
                );
            }
        }
    }
}
