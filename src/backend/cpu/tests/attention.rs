//! Tests attention against the float64 reference, and what happens to NaN and overflow.

use super::*;

/// Returns a batch with these starts; attention looks at nothing else of a batch.
fn packed(starts: &[usize]) -> PackedBatch {
    let mut batch = PackedBatch::new();
    for w in starts.windows(2) {
        batch.push(&vec![0; w[1] - w[0]]);
    }
    batch
}

/// Computes attention over sequences with these starts.
fn attend(cpu: &mut Cpu, qkv: &Matrix, starts: &[usize], spec: &AttentionSpec, out: &mut Matrix) {
    let batch = packed(starts);
    let mut pass = cpu.begin(0, &batch, &[]).unwrap();
    pass.attention(qkv, spec, out).unwrap();
}

fn starts(lengths: &[usize]) -> Vec<usize> {
    let mut starts = vec![0];
    for n in lengths {
        starts.push(starts[starts.len() - 1] + n);
    }
    starts
}

/// One head of one sequence, in f64, as `[tokens, head_dim]` each.
struct Head {
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
    /// The magnitudes of the terms of the dot product's factors, before the rotation.
    q_size: Vec<f64>,
    k_size: Vec<f64>,
}

fn head(qkv: &Matrix, range: Range<usize>, head: usize, spec: &AttentionSpec) -> Head {
    let hd = spec.head_dim;
    let width = spec.heads * hd;
    let take = |part: usize| -> Vec<f64> {
        range
            .clone()
            .flat_map(|t| (0..hd).map(move |d| t * 3 * width + part * width + head * hd + d))
            .map(|i| qkv.values()[i] as f64)
            .collect()
    };
    let (mut q, mut k, v) = (take(0), take(1), take(2));
    let (mut q_size, mut k_size): (Vec<f64>, Vec<f64>) = (
        q.iter().map(|x| x.abs()).collect(),
        k.iter().map(|x| x.abs()).collect(),
    );
    if let Position::Rotary(inv_freq) = &spec.position {
        for (x, size) in [(&mut q, &mut q_size), (&mut k, &mut k_size)] {
            for t in 0..range.len() {
                for (i, f) in inv_freq.iter().enumerate() {
                    let (low, high) = (t * hd + i, t * hd + hd / 2 + i);
                    let (sin, cos) = (t as f64 * *f as f64).sin_cos();
                    let (a, b) = (x[low], x[high]);
                    (x[low], x[high]) = (a * cos - b * sin, b * cos + a * sin);
                    let both = size[low] + size[high];
                    (size[low], size[high]) = (both, both);
                }
            }
        }
    }
    Head {
        q,
        k,
        v,
        q_size,
        k_size,
    }
}

/// Returns what attention should compute, and how far f32 may be off: (value, bound), `[rows,
/// width]`.
///
/// The error of a score is that of its chain over the head, 5 roundings of each rotated factor
/// (cos, sin, two products, the scale), and 1 rounding each of ALiBi's product and sum. The error
/// of its exponential is that of the score, plus the roundings of the exponent (log2 e, the
/// product, the maximum: 4u of the largest score or of the largest distance), plus 4u. A relative
/// error e_j of the weight p_j moves the output by Σ p_j e_j |v_j| and, through the normalisation,
/// by Σ p_j e_j · Σ p_j |v_j|. The sums over the keys, both of weights and of weighted values, are
/// chains of at most 64, and a chain of these chains' sums. No weight is below 2^-126.
fn reference(qkv: &Matrix, starts: &[usize], spec: &AttentionSpec) -> Vec<(f64, f64)> {
    let (heads, hd) = (spec.heads, spec.head_dim);
    let width = heads * hd;
    let scale = (hd as f64).powf(-0.5);
    let mut out = vec![(0.0, 0.0); qkv.rows() * width];
    for (w, h) in starts
        .windows(2)
        .flat_map(|w| (0..heads).map(move |h| (w, h)))
    {
        let x = head(qkv, w[0]..w[1], h, spec);
        let n = w[1] - w[0];
        for i in 0..n {
            let of = |j: usize| j * hd..(j + 1) * hd;
            let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
            let mut scores = Vec::new();
            let mut errors = Vec::new();
            for j in 0..n {
                let distance = i.abs_diff(j) as f64;
                let size = dot(&x.q_size[of(i)], &x.k_size[of(j)]) * scale;
                let mut score = dot(&x.q[of(i)], &x.k[of(j)]) * scale;
                let mut error = (chain(hd) + 10.0 * U) * size;
                if let Position::Alibi(slopes) = &spec.position {
                    score -= slopes[h] as f64 * distance;
                    error += U * (slopes[h] as f64 * distance + score.abs());
                }
                scores.push(score);
                errors.push(error);
            }
            let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let largest = scores.iter().fold(0f64, |m, s| m.max(s.abs()));
            let total: f64 = scores.iter().map(|s| (s - top).exp()).sum();
            let p: Vec<f64> = scores.iter().map(|s| (s - top).exp() / total).collect();
            let e = |j: usize| errors[j] + 4.0 * U * (largest + 1.0) + 4.0 * U;
            let mean_error: f64 = (0..n).map(|j| p[j] * e(j)).sum();
            for d in 0..hd {
                let v = |j: usize| x.v[j * hd + d];
                let value: f64 = (0..n).map(|j| p[j] * v(j)).sum();
                let size: f64 = (0..n).map(|j| p[j] * v(j).abs()).sum();
                let weighted: f64 = (0..n).map(|j| p[j] * e(j) * v(j).abs()).sum();
                let floor: f64 = (0..n).map(|j| 1.2e-38 * (v(j).abs() + size)).sum();
                let sums = chain(n.min(64) + n.div_ceil(64)) + chain(n) + 4.0 * U;
                let bound = 1.01 * (weighted + mean_error * size + sums * size) + floor + 1e-37;
                out[(w[0] + i) * width + h * hd + d] = (value, bound);
            }
        }
    }
    out
}

fn rotary(heads: usize, hd: usize) -> AttentionSpec {
    let freq = |i: usize| 10000f64.powf(-2.0 * i as f64 / hd as f64) as f32;
    let position = Position::Rotary((0..hd / 2).map(freq).collect());
    AttentionSpec {
        heads,
        head_dim: hd,
        position,
    }
}

fn alibi(heads: usize, hd: usize) -> AttentionSpec {
    let position = Position::Alibi((1..=heads).map(|i| 0.5f32.powi(i as i32 * 2)).collect());
    AttentionSpec {
        heads,
        head_dim: hd,
        position,
    }
}

#[test]
fn attention_is_softmax_attention() {
    let mut r = Random::new();
    let mut cpus = levels(2);
    let short = [1, 2, 12, 13, 63, 64, 65, 73, 76, 127, 128, 129];
    for (heads, hd, extra) in [
        (3, 8, vec![511]),
        (2, 16, vec![512]),
        (1, 24, vec![513, 1100]),
        (2, 32, vec![512]),
        (1, 40, vec![513]),
        (1, 64, vec![1100, 511]),
        (1, 128, vec![513]),
    ] {
        let mut lengths = [&short[..], &extra].concat();
        // The order is random: a short sequence behind a long one finds a used buffer.
        for i in (1..lengths.len()).rev() {
            lengths.swap(i, r.below(i + 1));
        }
        let starts = starts(&lengths);
        let rows = starts[lengths.len()];
        let qkv = r.matrix(rows, 3 * heads * hd, 1.0);
        for spec in [rotary(heads, hd), alibi(heads, hd)] {
            let want = reference(&qkv, &starts, &spec);
            for (level, cpu) in &mut cpus {
                let mut out = dirty();
                attend(cpu, &qkv, &starts, &spec, &mut out);
                let what = format!("SEED={} {level} {spec:?} {lengths:?}", r.seed);
                close(&what, out.values(), &want);
            }
        }
    }
}

#[test]
fn every_length_fits() {
    // The threads are fresh, so no larger buffer from earlier work hides one that is too short.
    let mut r = Random::new();
    for n in 1..150 {
        let qkv = r.matrix(n, 3 * 8, 1.0);
        let want = reference(&qkv, &[0, n], &rotary(1, 8));
        for (level, mut cpu) in levels(1) {
            let mut out = Matrix::default();
            attend(&mut cpu, &qkv, &[0, n], &rotary(1, 8), &mut out);
            close(
                &format!("SEED={} {level} length {n}", r.seed),
                out.values(),
                &want,
            );
        }
    }
}

#[test]
fn a_sequence_has_the_same_bits_alone_and_among_others() {
    let mut r = Random::new();
    for spec in [rotary(2, 16), alibi(2, 24), rotary(1, 64)] {
        let cols = 3 * spec.heads * spec.head_dim;
        let lengths = [13, 1, 513, 64, 1100, 12, 129];
        let starts = starts(&lengths);
        let qkv = r.matrix(starts[lengths.len()], cols, 1.0);
        for (level, mut cpu) in levels(3) {
            let (mut all, mut one) = (dirty(), dirty());
            attend(&mut cpu, &qkv, &starts, &spec, &mut all);
            for w in starts.windows(2) {
                let n = w[1] - w[0];
                let alone = Matrix::from_rows(&qkv.values()[w[0] * cols..w[1] * cols], n, cols);
                attend(&mut cpu, &alone, &[0, n], &spec, &mut one);
                let whole = &all.values()[w[0] * cols / 3..w[1] * cols / 3];
                assert!(
                    bits(whole) == bits(one.values()),
                    "SEED={} {level} {spec:?}: length {n}",
                    r.seed
                );
            }
        }
    }
}

#[test]
fn a_nan_stays_in_its_sequence_and_is_not_hidden() {
    let mut r = Random::new();
    let lengths = [13, 600, 129];
    let starts = starts(&lengths);
    for spec in [rotary(2, 16), alibi(2, 24)] {
        let (hd, width) = (spec.head_dim, spec.heads * spec.head_dim);
        let clean = r.matrix(starts[3], 3 * width, 1.0);
        for (level, mut cpu) in levels(2) {
            let mut was = Matrix::default();
            attend(&mut cpu, &clean, &starts, &spec, &mut was);
            for token in [0, 1, 15, 16, 63, 300, 511, 512, 599] {
                for part in 0..3 {
                    let (head, dim) = (r.below(spec.heads), r.below(hd));
                    let mut broken = clean.clone();
                    let at = (starts[1] + token) * 3 + part;
                    broken.values_mut()[at * width + head * hd + dim] = f32::NAN;
                    let mut is = Matrix::default();
                    attend(&mut cpu, &broken, &starts, &spec, &mut is);
                    for (i, (was, is)) in was.values().iter().zip(is.values()).enumerate() {
                        let (row, col) = (i / width, i % width);
                        let inside = (starts[1]..starts[2]).contains(&row) && col / hd == head;
                        // A broken query spoils its own row; a broken key or value spoils the row
                        // of every query.
                        let spoilt = match part {
                            0 => inside && row == starts[1] + token,
                            1 => inside,
                            _ => inside && col % hd == dim,
                        };
                        let what = format!(
                            "SEED={} {level} {spec:?}: NaN in part {part} of token {token}",
                            r.seed
                        );
                        if spoilt {
                            assert!(is.is_nan(), "{what} hidden at ({row}, {col}): {is}");
                        } else {
                            assert_eq!(
                                was.to_bits(),
                                is.to_bits(),
                                "{what} leaked to ({row}, {col})"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn overflowing_scores_are_no_numbers() {
    let mut r = Random::new();
    let n = 70;
    for spec in [rotary(1, 16), alibi(1, 16)] {
        let clean = r.matrix(n, 3 * 16, 1.0);
        for (level, mut cpu) in levels(1) {
            for value in [f32::INFINITY, 1e30] {
                for key in [0, 33, 69] {
                    let mut x = clean.clone();
                    // Query and key are both huge along all dimensions. The score is inf (or NaN,
                    // which comes from inf) whatever the rotation is, since token `key` meets
                    // itself.
                    for d in 0..16 {
                        x.values_mut()[key * 48 + d] = value;
                        x.values_mut()[key * 48 + 16 + d] = value;
                    }
                    let mut out = Matrix::default();
                    attend(&mut cpu, &x, &[0, n], &spec, &mut out);
                    let row = &out.values()[key * 16..(key + 1) * 16];
                    assert!(
                        row.iter().all(|x| x.is_nan()),
                        "SEED={} {level} {spec:?}: {value} at {key} gives {row:?}",
                        r.seed
                    );
                }
            }
            // An infinite value reaches every query, because no weight is zero.
            let mut x = clean.clone();
            x.values_mut()[33 * 48 + 32 + 3] = f32::INFINITY;
            let mut out = Matrix::default();
            attend(&mut cpu, &x, &[0, n], &spec, &mut out);
            let column = out.values().iter().skip(3).step_by(16);
            assert!(column.clone().all(|x| !x.is_finite()), "{level} {spec:?}");
        }
    }
}

#[test]
fn scores_of_minus_infinity_alone_are_no_numbers() {
    let n = 20;
    // q·k is -inf for each query and key.
    let row = [vec![1e30f32; 16], vec![-1e30; 16], vec![1.0; 16]].concat();
    let x = Matrix::from_rows(&row.repeat(n), n, 48);
    for (level, mut cpu) in levels(1) {
        let mut out = Matrix::default();
        attend(&mut cpu, &x, &[0, n], &alibi(1, 16), &mut out);
        assert!(out.values().iter().all(|x| x.is_nan()), "{level}");
    }
}
