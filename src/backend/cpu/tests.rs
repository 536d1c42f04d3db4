//! Tests every operation against a naive float64 reference, on fresh random inputs and awkward
//! shapes.
//!
//! Inputs are drawn from a seed that each failure prints; `SEED=n cargo test` repeats a run.
//! Operations that use SIMD run on every level that this machine has, whichever level it would
//! choose.
//!
//! Tolerances follow from f32's unit roundoff u = 2^-24. A chain of n sums of terms t_i is off by
//! at most n·u·Σ|t_i|, and by more than λ·√n·u·Σ|t_i| only with probability 2·exp(-λ²/2) (Higham
//! and Mary 2019); with λ = 8 that is 2.5e-14. [`chain`] is the smaller of the two bounds.

use super::gemm::K_BLOCK;
use super::*;
use crate::backend::Position;

/// The unit roundoff of f32.
const U: f64 = 1.0 / (1u64 << 24) as f64;

/// Returns the error bound of a chain of `n` sums, relative to the sum of the terms' magnitudes.
fn chain(n: usize) -> f64 {
    (n as f64).min(8.0 * (n as f64).sqrt()) * U
}

/// The random number generator splitmix64.
struct Random {
    state: u64,
    seed: u64,
}

impl Random {
    fn new() -> Self {
        let seed = match std::env::var("SEED") {
            Ok(text) => text.parse().expect("SEED is a number"),
            Err(_) => std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
        };
        println!("SEED={seed}");
        Self { state: seed, seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Returns `n` near-normal values with a standard deviation of about `scale`; one value in 200
    /// is 30 times as large.
    fn values(&mut self, n: usize, scale: f32) -> Vec<f32> {
        let one = |r: &mut Self| {
            let sum: f32 = (0..4).map(|_| (r.next() >> 40) as f32 / 16_777_216.0).sum();
            let outlier = if r.below(200) == 0 { 30.0 } else { 1.0 };
            (sum - 2.0) * 1.73 * scale * outlier
        };
        (0..n).map(|_| one(self)).collect()
    }

    fn matrix(&mut self, rows: usize, cols: usize, scale: f32) -> Matrix {
        Matrix::from_rows(&self.values(rows * cols, scale), rows, cols)
    }
}

/// Returns a backend for each SIMD level, with the level's name.
fn levels(threads: usize) -> Vec<(&'static str, Cpu)> {
    let with = |(name, arch)| (name, Cpu::with_arch(threads, arch).unwrap());
    simd::levels().into_iter().map(with).collect()
}

/// Returns a matrix that earlier work left full of NaN, padding rows included.
fn dirty() -> Matrix {
    Matrix::from_rows(&vec![f32::NAN; 64 * 4096], 64, 4096)
}

/// Asserts that each element of `got` is close to that of `want`, which holds pairs of (value,
/// bound).
#[track_caller]
fn close(what: &str, got: &[f32], want: &[(f64, f64)]) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, &(want, bound))) in got.iter().zip(want).enumerate() {
        let error = (*got as f64 - want).abs();
        assert!(
            error <= bound,
            "{what}: value {i} is {got}, want {want}, off by {error:e}, allowed {bound:e}"
        );
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Computes erf by its Maclaurin series; for large arguments it returns ±1, which is exact enough
/// here.
fn erf(z: f64) -> f64 {
    let a = z.abs();
    if a > 5.0 {
        return z.signum();
    }
    let (mut term, mut sum, mut n) = (a, a, 0.0);
    while term.abs() > 1e-18 * sum {
        n += 1.0;
        term *= -a * a / n;
        sum += term / (2.0 * n + 1.0);
    }
    (sum * std::f64::consts::FRAC_2_SQRT_PI).copysign(z)
}

/// Returns GELU of a value, and its error bound from the value's error bound. The slope of GELU is
/// at most 1.13. Its own error is that of `simd.rs`, where at most 0.17 is subtracted from the
/// value.
fn gelu((x, bound): (f64, f64)) -> (f64, f64) {
    let y = 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2));
    (y, 1.13 * bound + 1.01 * U * y.abs() + 8.0 * U * 0.17 + 6e-9)
}

/// Returns the values and error bounds of x·Wᵀ + b. In class 0, every sum over K is in f32, in
/// chains of at most [`K_BLOCK`], with one sum for each chain and one for the bias. In class 1
/// (short sequences) the sum over K is in f64 and rounded once.
fn product(x: &Matrix, weight: &[f32], bias: Option<&[f32]>, class: usize) -> Vec<(f64, f64)> {
    let k = x.cols();
    let error = match class {
        0 => chain(k.min(K_BLOCK) + k.div_ceil(K_BLOCK) + 1),
        _ => 2.01 * U,
    };
    let mut out = Vec::new();
    for row in x.values().chunks_exact(k) {
        for (c, w) in weight.chunks_exact(k).enumerate() {
            let (mut sum, mut size) = (0f64, 0f64);
            for (x, w) in row.iter().zip(w) {
                let term = *x as f64 * *w as f64;
                sum += term;
                size += term.abs();
            }
            let bias = bias.map_or(0.0, |b| b[c] as f64);
            out.push((sum + bias, error * (size + bias.abs()) + 1e-37));
        }
    }
    out
}

fn part(weight: &[f32], bias: Option<&[f32]>) -> LinearPart {
    LinearPart {
        weight: Weight::F32(F32Data::Owned(weight.to_vec())),
        bias: bias.map(|b| Weight::F32(F32Data::Owned(b.to_vec()))),
    }
}

/// The sizes (rows, inputs, outputs): row counts around every limit, and widths around the 64 and
/// 192 columns of tiles.
const PRODUCTS: [(usize, usize, usize); 23] = [
    (1, 16, 16),
    (1, 1280, 320),
    (2, 24, 65),
    (5, 320, 200),
    (11, 48, 191),
    (12, 480, 193),
    (13, 17, 1),
    (15, 33, 129),
    (16, 513, 64),
    (17, 161, 64),
    (31, 320, 480),
    (32, 1280, 48),
    (33, 512, 63),
    (63, 24, 385),
    (64, 480, 24),
    (65, 16, 1280),
    (127, 1025, 40),
    (1023, 320, 16),
    (1024, 48, 193),
    (1025, 24, 65),
    (2048, 16, 31),
    (2049, 31, 48),
    (2100, 480, 24),
];

#[test]
fn linear_layers() {
    let mut r = Random::new();
    let mut cpus = levels(2);
    for (n, &(rows, k, outputs)) in PRODUCTS.iter().enumerate() {
        let x = r.matrix(rows, k, 1.0);
        let weight = r.values(outputs * k, (k as f32).powf(-0.5));
        let bias = r.values(outputs, 0.5);
        // Class 1 is that of short sequences, which are summed in f64.
        let class = n % 2;
        let want = product(&x, &weight, Some(&bias), class);
        let bare = product(&x, &weight, None, class);
        let residual = r.values(rows * outputs, 20.0);
        for (level, cpu) in &mut cpus {
            let what = format!("SEED={} {level} {rows}x{k}x{outputs} class {class}", r.seed);
            let w = cpu
                .linear_weights(vec![part(&weight, Some(&bias))], k, LinearKind::Store)
                .unwrap();
            let without = cpu
                .linear_weights(vec![part(&weight, None)], k, LinearKind::Store)
                .unwrap();
            let mut out = dirty();
            let batch = PackedBatch::new();
            let mut pass = cpu.begin(class, &batch, &[]).unwrap();
            pass.linear(&x, &w, Activation::None, &mut out).unwrap();
            assert_eq!((out.rows(), out.cols()), (rows, outputs));
            close(&what, out.values(), &want);
            pass.linear(&x, &without, Activation::None, &mut out)
                .unwrap();
            close(&format!("{what} no bias"), out.values(), &bare);
            pass.linear(&x, &w, Activation::Gelu, &mut out).unwrap();
            let want: Vec<_> = want.iter().map(|w| gelu(*w)).collect();
            close(&format!("{what} gelu"), out.values(), &want);

            let mut onto = Matrix::from_rows(&residual, rows, outputs);
            pass.linear_add(&x, &without, &mut onto).unwrap();
            let sum = |((want, bound), r): (&(f64, f64), &f32)| {
                let sum = want + *r as f64;
                (sum, bound + U * (sum.abs() + bound))
            };
            let want: Vec<_> = bare.iter().zip(&residual).map(sum).collect();
            close(&format!("{what} add"), onto.values(), &want);
        }
    }
}

#[test]
fn parts_stand_side_by_side() {
    let mut r = Random::new();
    for (rows, k, sizes) in [
        (1, 24, vec![24, 24, 24]),
        (33, 320, vec![320, 320, 320]),
        (65, 48, vec![1, 200, 63]),
        (1025, 16, vec![65, 130]),
    ] {
        let x = r.matrix(rows, k, 1.0);
        let weights: Vec<_> = sizes.iter().map(|n| r.values(n * k, 0.2)).collect();
        let biases: Vec<_> = sizes.iter().map(|n| r.values(*n, 0.5)).collect();
        // The second part has no bias.
        let bias = |i: usize| (i != 1).then(|| biases[i].as_slice());
        for (level, mut cpu) in levels(3) {
            let parts = (0..sizes.len()).map(|i| part(&weights[i], bias(i)));
            let w = cpu
                .linear_weights(parts.collect(), k, LinearKind::Store)
                .unwrap();
            assert_eq!(w.outputs(), sizes.iter().sum::<usize>());
            let mut out = dirty();
            let batch = PackedBatch::new();
            let mut pass = cpu.begin(0, &batch, &[]).unwrap();
            pass.linear(&x, &w, Activation::None, &mut out).unwrap();
            let mut first = 0;
            for (i, n) in sizes.iter().enumerate() {
                let rows = out.values().chunks_exact(w.outputs());
                let got: Vec<f32> = rows
                    .flat_map(|row| row[first..first + n].to_vec())
                    .collect();
                let want = product(&x, &weights[i], bias(i), 0);
                close(&format!("SEED={} {level} part {i}", r.seed), &got, &want);
                first += n;
            }
        }
    }
}

#[test]
fn gated_layers() {
    let mut r = Random::new();
    let mut cpus = levels(2);
    for (n, &(rows, k, width)) in PRODUCTS.iter().enumerate().filter(|(n, _)| n % 2 == 0) {
        let x = r.matrix(rows, k, 1.0);
        let scale = (k as f32).powf(-0.5);
        let (gate, up) = (r.values(width * k, scale), r.values(width * k, scale));
        let class = n / 2 % 2;
        let want: Vec<_> = product(&x, &gate, None, class)
            .into_iter()
            .map(gelu)
            .zip(product(&x, &up, None, class))
            .map(|((g, dg), (u, du))| {
                let error = g.abs() * du + u.abs() * dg + dg * du;
                (g * u, error + U * ((g * u).abs() + error))
            })
            .collect();
        for (level, cpu) in &mut cpus {
            let both = [gate.as_slice(), &up].concat();
            let w = cpu
                .linear_weights(vec![part(&both, None)], k, LinearKind::Store)
                .unwrap();
            let mut out = dirty();
            let batch = PackedBatch::new();
            let mut pass = cpu.begin(class, &batch, &[]).unwrap();
            pass.linear_gated(&x, &w, &mut out).unwrap();
            let what = format!("SEED={} {level} {rows}x{k}x{width}", r.seed);
            assert_eq!((out.rows(), out.cols()), (rows, width));
            close(&what, out.values(), &want);
        }
    }
}

#[test]
fn a_row_of_a_product_has_the_same_bits_among_any_others() {
    let mut r = Random::new();
    for (k, outputs) in [(16, 65), (320, 200), (1280, 64), (1100, 40)] {
        let all = r.matrix(2100, k, 1.0);
        let weight = r.values(outputs * k, 0.1);
        let row = |i: usize| &all.values()[i * k..(i + 1) * k];
        let mut whole: Option<Vec<u32>> = None;
        for rows in [
            2100, 1, 2, 5, 12, 13, 31, 32, 33, 63, 64, 65, 1023, 1024, 1025,
        ] {
            let mut cpu = Cpu::new(1 + rows % 3).unwrap();
            let w = cpu
                .linear_weights(vec![part(&weight, None)], k, LinearKind::Store)
                .unwrap();
            // The rows come from another position, so that no row keeps its place.
            let first = if rows == 2100 {
                0
            } else {
                r.below(2100 - rows)
            };
            let x: Vec<f32> = (first..first + rows)
                .flat_map(|i| row(i).to_vec())
                .collect();
            let mut out = dirty();
            let batch = PackedBatch::new();
            let mut pass = cpu.begin(0, &batch, &[]).unwrap();
            pass.linear(
                &Matrix::from_rows(&x, rows, k),
                &w,
                Activation::Gelu,
                &mut out,
            )
            .unwrap();
            let got = bits(out.values());
            let whole = whole.get_or_insert_with(|| got.clone());
            assert!(
                got == whole[first * outputs..(first + rows) * outputs],
                "SEED={} K {k}: rows {first}.. of {rows}",
                r.seed
            );
        }
    }
}

#[test]
fn embeddings_are_looked_up_shifted_and_scaled() {
    let mut r = Random::new();
    for (rows, width) in [(1, 16), (13, 24), (65, 320), (1025, 48)] {
        let table = F32Data::Owned(r.values(33 * width, 1.0));
        let shift = F32Data::Owned(r.values(width, 1.0));
        let tokens: Vec<u32> = (0..rows).map(|_| r.below(33) as u32).collect();
        let mut batch = PackedBatch::new();
        batch.push(&tokens);
        let scale: Vec<f64> = (0..rows).map(|i| [0.0, 1.0, 0.88][i % 3]).collect();
        let mut cpu = Cpu::new(2).unwrap();
        for shift in [None, Some(&shift)] {
            let mut out = dirty();
            out.resize(0, width);
            let mut pass = cpu.begin(0, &batch, &[]).unwrap();
            pass.embed(&scale, &table, shift, &mut out).unwrap();
            let want: Vec<_> = (0..rows * width)
                .map(|i| {
                    let x = table[tokens[i / width] as usize * width + i % width] as f64;
                    let y = (x + shift.map_or(0.0, |s| s[i % width] as f64)) * scale[i / width];
                    // The operation is one sum and one product.
                    (y, 2.1 * U * y.abs())
                })
                .collect();
            close(&format!("SEED={}", r.seed), out.values(), &want);
        }
    }
}

#[test]
fn layer_norms() {
    let mut r = Random::new();
    let mut cpus = levels(3);
    for (n, (rows, cols)) in [
        (1, 16),
        (2, 24),
        (5, 48),
        (11, 320),
        (12, 480),
        (13, 1280),
        (31, 7),
        (32, 65),
        (33, 24),
        (63, 1),
        (64, 33),
        (65, 320),
        (1023, 48),
        (1024, 16),
        (1025, 24),
        (2100, 100),
    ]
    .into_iter()
    .enumerate()
    {
        // Some rows have a mean far from 0, so that the deviations are small differences.
        let offset = [0.0, -100.0, 3.0][n % 3];
        let x: Vec<f32> = r
            .values(rows * cols, 1.0)
            .iter()
            .map(|v| v + offset)
            .collect();
        let (gain, bias) = (r.values(cols, 1.0), r.values(cols, 0.5));
        let eps = [1e-5f32, 1e-12][n % 2];
        let mut want = Vec::new();
        for row in x.chunks_exact(cols) {
            let n = cols as f64;
            let mean = row.iter().map(|x| *x as f64).sum::<f64>() / n;
            let size = row.iter().map(|x| x.abs() as f64).sum::<f64>() / n;
            let var = row.iter().map(|x| (*x as f64 - mean).powi(2)).sum::<f64>() / n;
            // A width of one has no variance, so all that remains of x - mean counts in full.
            let scale = 1.0 / (var + eps as f64).sqrt();
            // The sum has chains of a quarter of the row at most, and is then rounded.
            let mean_error = chain(cols.div_ceil(4) + 4) * size + U * mean.abs();
            // The error of the squares: that of their own sum, the roundings of each difference and
            // of its square, and the fact that they are taken about the rounded mean.
            let var_error = chain(cols.div_ceil(4) + 4) + 4.0 * U + (mean_error * scale).powi(2);
            for (c, x) in row.iter().enumerate() {
                let z = (*x as f64 - mean) * scale;
                let y = z * gain[c] as f64 + bias[c] as f64;
                let z_error = mean_error * scale + z.abs() * (var_error / 2.0 + 4.0 * U);
                want.push((y, gain[c].abs() as f64 * z_error * 1.01 + 2.0 * U * y.abs()));
            }
        }
        let (gain, bias) = (F32Data::Owned(gain), F32Data::Owned(bias));
        let norm = crate::backend::Norm { gain, bias, eps };
        for (level, cpu) in &mut cpus {
            let mut out = dirty();
            let x = Matrix::from_rows(&x, rows, cols);
            let batch = PackedBatch::new();
            let mut pass = cpu.begin(0, &batch, &[]).unwrap();
            pass.layer_norm(&x, &norm, &mut out).unwrap();
            close(
                &format!("SEED={} {level} {rows}x{cols}", r.seed),
                out.values(),
                &want,
            );
        }
    }
}

#[test]
fn means() {
    let mut r = Random::new();
    let cpu = Cpu::new(2).unwrap();
    for (rows, cols) in [(1, 16), (13, 24), (513, 320), (2100, 48)] {
        let x = r.matrix(rows, cols, 10.0);
        let ranges = [0..rows, rows / 2..rows, 0..1, rows / 3..rows / 3];
        let got = cpu.pool(&x, &ranges, super::mean);
        for (range, got) in ranges.iter().zip(got.chunks_exact(cols)) {
            if range.is_empty() {
                assert!(got.iter().all(|x| x.is_nan()));
                continue;
            }
            let column = |c: usize| range.clone().map(move |r| r * cols + c);
            let want: Vec<_> = (0..cols)
                .map(|c| {
                    let sum: f64 = column(c).map(|i| x.values()[i] as f64).sum();
                    let mean = sum / range.len() as f64;
                    // The mean is rounded once; the sums are in f64.
                    (mean, 1.001 * U * mean.abs() + 1e-12)
                })
                .collect();
            close(&format!("SEED={}", r.seed), got, &want);
        }
    }
}

#[test]
fn greatest_values_hide_nothing_that_is_not_finite() {
    let of = |rows: &[f32]| {
        let mut out = [7.0f32; 2];
        super::greatest(rows, &mut out);
        out
    };
    assert_eq!(of(&[1.0, -5.0, 3.0, -2.0, -2.0, -7.0]), [3.0, -2.0]);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for rows in [[bad, 1.0, 2.0, 5.0], [2.0, 1.0, bad, 5.0]] {
            let out = of(&rows);
            assert!(out[0].is_nan() && out[1] == 5.0, "{rows:?}: {out:?}");
        }
    }
    assert!(of(&[]).iter().all(|x| x.is_nan()));
}

#[test]
fn a_nan_stays_in_its_row_and_is_not_hidden() {
    let mut r = Random::new();
    let (rows, k) = (70, 48);
    for (level, mut cpu) in levels(2) {
        let clean = r.matrix(rows, k, 1.0);
        let mut broken = clean.clone();
        let (row, col) = (r.below(rows), r.below(k));
        broken.values_mut()[row * k + col] = f32::NAN;
        let gated = part(&r.values(2 * 40 * k, 0.2), None);
        let gated = cpu
            .linear_weights(vec![gated], k, LinearKind::Store)
            .unwrap();
        let (gain, bias) = (r.values(k, 1.0), r.values(k, 1.0));
        let norm = crate::backend::Norm {
            gain: F32Data::Owned(gain),
            bias: F32Data::Owned(bias),
            eps: 1e-5,
        };
        let batch = PackedBatch::new();
        let mut pass = cpu.begin(0, &batch, &[]).unwrap();
        let mut all = |x: &Matrix| {
            let mut outs = vec![Matrix::default(); 5];
            outs[3] = Matrix::from_rows(&vec![1.0; rows * 80], rows, 80);
            pass.layer_norm(x, &norm, &mut outs[0]).unwrap();
            pass.linear(x, &gated, Activation::Gelu, &mut outs[1])
                .unwrap();
            pass.linear(x, &gated, Activation::None, &mut outs[2])
                .unwrap();
            pass.linear_add(x, &gated, &mut outs[3]).unwrap();
            pass.linear_gated(x, &gated, &mut outs[4]).unwrap();
            outs
        };
        for (op, (was, is)) in all(&clean).iter().zip(all(&broken)).enumerate() {
            let what = format!("SEED={} {level} operation {op}", r.seed);
            let rows = was.values().chunks_exact(was.cols());
            for (i, (was, is)) in rows.zip(is.values().chunks_exact(is.cols())).enumerate() {
                if i == row {
                    assert!(is.iter().all(|x| x.is_nan()), "{what}: a NaN is hidden");
                } else {
                    assert_eq!(bits(was), bits(is), "{what}: row {i} changed");
                }
            }
        }
    }
}

mod attention;
