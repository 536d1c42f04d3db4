//! `represent` compared with f64: means, states and non-finite values, for any sequences. `--
//! --nocapture` prints the errors.

use crate::support::cuda;
use crate::support::cuda::gpu::{Gpu, gpu, seeds};
use crate::support::cuda::launches::*;
use crate::support::cuda::numbers::{Random, epsilon, words};
use seqstream::backend::cuda::params::RepresentParams;
use seqstream::dtype::DType;

struct Output {
    pooled: Vec<f32>,
    states: Vec<f32>,
    /// The states as they are stored if they are f16.
    halves: Vec<u8>,
    beyond: Vec<u8>,
    bad: Vec<u8>,
}

/// The requested outputs, and the kernel that computes them.
#[derive(Clone, Copy)]
struct Asked {
    norm: bool,
    states: bool,
    half: bool,
    kernel: &'static str,
}

const KERNELS: [&str; 3] = ["represent", "represent_f32", REFERENCE];
const REFERENCE: &str = "represent_reference";

fn all_of(kernel: &'static str) -> Asked {
    Asked {
        norm: true,
        states: true,
        half: false,
        kernel,
    }
}

/// Runs `represent` over these rows.
fn represent(
    gpu: &Gpu,
    x: &[f32],
    width: usize,
    starts: &[u32],
    ranges: &[u32],
    asked: Asked,
) -> Output {
    let sequences = starts.len() - 1;
    let (gain, bias) = (Random(2).normal(width, 1.0), Random(3).normal(width, 0.5));
    let (from, gain, bias) = (floats(gpu, x), floats(gpu, &gain), floats(gpu, &bias));
    let (starts, ranges) = (gpu.upload(&words(starts)), gpu.upload(&words(ranges)));
    let (pooled, states) = (
        gpu.poisoned(sequences * width * 4),
        gpu.poisoned(x.len() * 4),
    );
    let bad = gpu.poisoned(sequences * 4);
    let rows = x.len() / width;
    let beyond = gpu.poisoned(rows * 8);
    let sums = gpu.poisoned((rows / 32 + 1) * width * 8);
    let params = RepresentParams {
        sums: sums.address(),
        from: from.address(),
        gain: if asked.norm { gain.address() } else { 0 },
        bias: bias.address(),
        starts: starts.address(),
        ranges: ranges.address(),
        pooled: pooled.address(),
        states: if asked.states { states.address() } else { 0 },
        bad: bad.address(),
        sequences: sequences as u32,
        width: width as u32,
        epsilon: 1e-5,
        beyond: beyond.address(),
        half: asked.half.into(),
    };
    if asked.kernel.contains("max") {
        let (chunks, columns) = (rows / 64 + sequences, sequences * width.div_ceil(128));
        launch(gpu, "represent", asked.kernel, chunks, 256, &params);
        launch(gpu, "represent", "represent_maxima", columns, 128, &params);
    } else if asked.kernel == REFERENCE {
        launch(gpu, "represent", REFERENCE, sequences, 1, &params);
    } else {
        let (chunks, columns) = (rows / 64 + sequences, sequences * width.div_ceil(128));
        launch(gpu, "represent", asked.kernel, chunks, 256, &params);
        launch(gpu, "represent", "represent_means", columns, 128, &params);
    }
    Output {
        pooled: read(gpu, &pooled, DType::F32),
        states: match asked.half {
            true => Vec::new(),
            false => read(gpu, &states, DType::F32),
        },
        halves: gpu.download(&states)[..x.len() * 2].to_vec(),
        beyond: gpu.download(&beyond),
        bad: gpu.download(&bad),
    }
}

#[test]
fn represent_means_and_states() {
    for seed in seeds() {
        let Some(gpu) = gpu(seed) else { return };
        for (width, lengths) in [
            (4, vec![3, 200, 3, 65]),
            (320, vec![64, 65, 1, 129, 2, 63, 3]),
            (33, vec![70, 3]),
            (1280, vec![5, 9]),
            (5130, vec![3, 4]),
            (12, vec![35_000, 3]), // 547 sums per column
        ] {
            if seed > 0 && (width > 100 || lengths[0] > 1000) {
                continue;
            }
            let mut starts = vec![0u32];
            for length in &lengths {
                starts.push(starts[starts.len() - 1] + length);
            }
            // The ranges leave out cls and eos; the range of the last sequence is empty.
            let mut ranges: Vec<u32> = starts
                .windows(2)
                .flat_map(|w| [w[0] + 1, (w[1] - 1).max(w[0] + 1)])
                .collect();
            let empty = ranges.len() - 1;
            ranges[empty] = ranges[empty - 1];
            let rows = starts[lengths.len()] as usize;
            let x = stream(rows, width, 4);
            let (gain, bias) = (Random(2).normal(width, 1.0), Random(3).normal(width, 0.5));
            for norm in [true, false] {
                let state = |row: &[f32]| match norm {
                    true => layer_normed(row, &gain, &bias, f64::from(1e-5f32)),
                    false => row.iter().map(|x| f64::from(*x)).collect(),
                };
                let states: Vec<f64> = x.chunks(width).flat_map(state).collect();
                for (kernel, states_wanted) in
                    KERNELS.into_iter().flat_map(|k| [(k, true), (k, false)])
                {
                    let reference = kernel == REFERENCE;
                    let got = represent(
                        &gpu,
                        &x,
                        width,
                        &starts,
                        &ranges,
                        Asked {
                            norm,
                            states: states_wanted,
                            half: false,
                            kernel,
                        },
                    );
                    let what = format!("{kernel} {rows}x{width} {norm}");
                    if states_wanted {
                        let slack = if kernel == "represent" { 8.0 } else { 1.0 };
                        agree(&what, &got.states, &states, slack * epsilon(DType::F32));
                    } else {
                        assert!(got.states.iter().all(|x| x.is_nan()));
                    }
                    assert_eq!(got.bad, words(&vec![0; lengths.len()]));
                    for (s, range) in ranges.chunks(2).enumerate() {
                        let pooled = &got.pooled[s * width..][..width];
                        let count = range[1] - range[0];
                        if count == 0 {
                            assert!(reference || pooled.iter().all(|x| x.is_nan()));
                            continue;
                        }
                        let mean = |i: usize| {
                            let column =
                                (range[0]..range[1]).map(|r| states[r as usize * width + i]);
                            column.sum::<f64>() / f64::from(count)
                        };
                        let wanted: Vec<f64> = (0..width).map(mean).collect();
                        // Subtracting the mean removes part of the rounding errors of the states,
                        // and also what they have in common. The reference rounds its sum to f32 at
                        // every row; this error grows with the square root of the rows.
                        let slack = match reference {
                            true => 32f64.max(f64::from(count).sqrt()),
                            false => 16.0,
                        };
                        agree(
                            &format!("{what} mean {s}"),
                            pooled,
                            &wanted,
                            slack * epsilon(DType::F32),
                        );
                    }
                }
            }
        }
    }
}

/// The bits depend on the sequence's own rows, and a non-finite number is reported if it is in the
/// range.
#[test]
fn represent_of_a_sequence_is_its_own() {
    let Some(gpu) = gpu(2) else { return };
    let width = 20;
    let mut x = stream(100, width, 9);
    let one = |x: &[f32], from: u32, to: u32, asked: Asked| {
        let rows = &x[from as usize * width..to as usize * width];
        let ranges = [1, to - from - 1];
        represent(&gpu, rows, width, &[0, to - from], &ranges, asked)
    };
    let starts = [0, 7, 80, 100];
    let ranges: Vec<u32> = starts
        .windows(2)
        .flat_map(|w| [w[0] + 1, (w[1] - 1).max(w[0] + 1)])
        .collect();
    for asked in KERNELS.map(all_of) {
        let all = represent(&gpu, &x, width, &starts, &ranges, asked);
        for (s, w) in starts.windows(2).enumerate() {
            let alone = one(&x, w[0], w[1], asked);
            assert_eq!(alone.pooled, all.pooled[s * width..][..width]);
            let rows = w[0] as usize * width..w[1] as usize * width;
            assert_eq!(alone.states, all.states[rows]);
        }
    }
    // A non-finite number outside the range is ignored; inside it is reported.
    for (row, bad) in [(7, 0), (8, 1), (78, 1), (79, 0)] {
        for value in [f32::NAN, f32::INFINITY] {
            let at = row * width + 3;
            let before = std::mem::replace(&mut x[at], value);
            for asked in KERNELS.map(all_of) {
                let got = represent(&gpu, &x, width, &starts, &ranges, asked);
                assert_eq!(got.bad, words(&[0, bad, 0]), "row {row} {value}");
                assert!(got.pooled[..width].iter().all(|x| x.is_finite()));
            }
            x[at] = before;
        }
    }
}

const MAX_KERNELS: [&str; 2] = ["represent_max", "represent_max_f32"];

#[test]
fn represent_greatest_values() {
    for seed in seeds() {
        let Some(gpu) = gpu(seed) else { return };
        for (width, lengths) in [
            (4, vec![3, 200, 3, 65]),
            (320, vec![64, 65, 1, 129, 2, 63, 3]),
            (33, vec![70, 3]),
            (12, vec![3000, 3]),
        ] {
            if seed > 0 && (width > 100 || lengths[0] > 1000) {
                continue;
            }
            let mut starts = vec![0u32];
            for length in &lengths {
                starts.push(starts[starts.len() - 1] + length);
            }
            // The range of a short sequence is empty.
            let ranges: Vec<u32> = starts
                .windows(2)
                .flat_map(|w| [w[0] + 1, (w[1] - 1).max(w[0] + 1)])
                .collect();
            let rows = starts[lengths.len()] as usize;
            // All values of the first column are negative: zero must not be among them.
            let mut x = stream(rows, width, 4);
            x.iter_mut()
                .step_by(width)
                .for_each(|x| *x = -1.0 - x.abs());
            let (gain, bias) = (Random(2).normal(width, 1.0), Random(3).normal(width, 0.5));
            for norm in [true, false] {
                let state = |row: &[f32]| match norm {
                    true => layer_normed(row, &gain, &bias, f64::from(1e-5f32)),
                    false => row.iter().map(|x| f64::from(*x)).collect(),
                };
                let states: Vec<f64> = x.chunks(width).flat_map(state).collect();
                for kernel in MAX_KERNELS {
                    let asked = Asked {
                        norm,
                        states: false,
                        half: false,
                        kernel,
                    };
                    let got = represent(&gpu, &x, width, &starts, &ranges, asked);
                    assert_eq!(got.bad, words(&vec![0; lengths.len()]));
                    assert!(got.states.iter().all(|x| x.is_nan()), "no states");
                    for (s, range) in ranges.chunks(2).enumerate() {
                        let pooled = &got.pooled[s * width..][..width];
                        if range[0] == range[1] {
                            assert!(pooled.iter().all(|x| x.is_nan()));
                            continue;
                        }
                        let most = |i: usize| {
                            let column = (range[0]..range[1]).map(|r| r as usize * width + i);
                            column
                                .map(|at| states[at])
                                .fold(f64::NEG_INFINITY, f64::max)
                        };
                        let wanted: Vec<f64> = (0..width).map(most).collect();
                        let slack = if kernel == "represent_max" { 8.0 } else { 1.0 };
                        let what = format!("{kernel} {rows}x{width} {norm} max {s}");
                        agree(&what, pooled, &wanted, slack * epsilon(DType::F32));
                    }
                }
            }
        }
    }
}

/// A value that is not finite in the range is reported and makes the result NaN, wherever it is; the
/// other sequences and columns keep their bits.
#[test]
fn a_greatest_value_hides_nothing_that_is_not_finite() {
    let Some(gpu) = gpu(2) else { return };
    let width = 20;
    let mut x = stream(260, width, 9);
    let starts = [0, 7, 240, 260];
    let ranges: Vec<u32> = starts
        .windows(2)
        .flat_map(|w| [w[0] + 1, w[1] - 1])
        .collect();
    for kernel in MAX_KERNELS {
        let asked = Asked {
            norm: false,
            states: false,
            half: false,
            kernel,
        };
        let whole = represent(&gpu, &x, width, &starts, &ranges, asked);
        for (s, w) in starts.windows(2).enumerate() {
            let rows = &x[w[0] as usize * width..w[1] as usize * width];
            let ranges = [1, w[1] - w[0] - 1];
            let alone = represent(&gpu, rows, width, &[0, w[1] - w[0]], &ranges, asked);
            assert_eq!(alone.pooled, whole.pooled[s * width..][..width]);
        }
        for (row, bad) in [
            (7, 0),
            (8, 1),
            (70, 1),
            (71, 1),
            (150, 1),
            (238, 1),
            (239, 0),
        ] {
            for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let before = std::mem::replace(&mut x[row * width + 3], value);
                let got = represent(&gpu, &x, width, &starts, &ranges, asked);
                assert_eq!(got.bad, words(&[0, bad, 0]), "row {row} {value}");
                for (i, (got, whole)) in got.pooled.iter().zip(&whole.pooled).enumerate() {
                    let changed = bad == 1 && i == width + 3;
                    assert!(
                        if changed { got.is_nan() } else { got == whole },
                        "row {row}, {i}"
                    );
                }
                x[row * width + 3] = before;
            }
        }
    }
}

/// States in f16 are the rounded states in f32, and whatever f16 cannot hold can be told: a state
/// that is not a number, an infinite one, and the first one of each row that is beyond the range.
#[test]
fn states_in_f16_are_rounded_and_what_they_cannot_hold_is_told() {
    let Some(gpu) = gpu(1) else { return };
    let (infinite, nan) = (f32::INFINITY, f32::NAN);
    let special = [
        (0, 0, 65519.996, false),
        (0, 2, 6e-8, false),
        (0, 3, -3e-8, false),
        (1, 3, 65520.0, true),
        (2, 3, -1e9, true),
        (2, 1, 70000.0, true),
        (3, 0, infinite, false),
        (3, 2, -7e4, true),
        (3, 1, -infinite, false),
        (69, 2, f32::MAX, true),
        (69, 1, nan, false),
    ];
    for width in [4, 33, 320, 1280] {
        let starts = [0, 3, 73, 75];
        let ranges = [0, 3, 3, 73, 73, 75];
        let mut x = stream(75, width, 6);
        for kernel in KERNELS {
            if kernel == REFERENCE && width > 100 {
                continue;
            }
            for norm in [true, false] {
                if !norm {
                    for (row, column, value, _) in special {
                        x[row * width + column] = value;
                    }
                }
                let asked = |half| Asked {
                    norm,
                    half,
                    ..all_of(kernel)
                };
                let wide = represent(&gpu, &x, width, &starts, &ranges, asked(false));
                let half = represent(&gpu, &x, width, &starts, &ranges, asked(true));
                let what = format!("{kernel} {width} {norm}");
                let bits = |pooled: &[f32]| pooled.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&half.pooled), bits(&wide.pooled), "{what}");
                assert_eq!(half.bad, wide.bad, "{what}");
                let got = half.halves.as_chunks().0.iter();
                for (i, (got, state)) in got.zip(&wide.states).enumerate() {
                    let got = u16::from_le_bytes(*got);
                    let rounded = half::f16::from_f32(*state).to_bits();
                    let right = match state {
                        state if state.is_nan() => got & 0x7fff > 0x7c00 && got & 0x7fff != 0x7d00,
                        state if state.is_infinite() => got == rounded | 0x100,
                        _ => got == rounded,
                    };
                    assert!(right, "{what}: {state} at {i} gave {got:#x}");
                }
                for (row, word) in half.beyond.as_chunks().0.iter().enumerate() {
                    let beyond = special.iter().filter(|s| s.0 == row && s.3 && !norm);
                    let first = beyond
                        .min_by_key(|s| s.1)
                        .map_or(u64::MAX, |s| (s.1 as u64) << 32 | u64::from(s.2.to_bits()));
                    assert_eq!(u64::from_le_bytes(*word), first, "{what} row {row}");
                }
            }
        }
    }
}

#[test]
fn on_a_real_gpu() {
    cuda::real::again(module_path!());
}
