//! The elementwise and row kernels compared with f64 at awkward shapes, and with their plain
//! references. `-- --nocapture` prints the errors.

use crate::cases::device::Device;
use crate::cases::{self, By, Extent};
use crate::support::cuda;
use crate::support::cuda::gpu::{Gpu, gpu, seeds};
use crate::support::cuda::launches::*;
use crate::support::cuda::numbers::{
    DTYPES, ENOUGH, Random, bytes, epsilon, gelu, rounded, same_on_the_whole, words,
};
use seqstream::backend::cpu::Cpu;
use seqstream::backend::cuda::params::{
    CastParams, EmbedParams, GatedGeluParams, GeluParams, GemmShortParams, LayerNormParams,
    RotaryTableParams,
};
use seqstream::dtype::DType;

/// Holds every kernel, and its plain reference, to the f64 of its cases. There are few blocks and
/// multiprocessors, so that blocks have several turns.
#[test]
fn every_case_agrees_with_f64() {
    for seed in seeds() {
        let Some(gpu) = gpu(seed) else { return };
        let mut device = Device::new(&gpu.context).unwrap();
        device.machine.most_blocks = 2;
        device.machine.multiprocessors = 3;
        let mut failures = Vec::new();
        for case in cases::all(Extent::Small) {
            let name = case.name();
            // Attention has tests of its own, with more shapes.
            if name.starts_with("attention") && (seed > 0 || !name.contains("x64")) {
                continue;
            }
            for by in [By::Kernel, By::Reference] {
                match cases::check(case.as_ref(), &device, by) {
                    Some(Ok(off)) => println!("{name} {by:?}: {off:.2} of the tolerance"),
                    Some(Err(wrong)) => failures.push(wrong),
                    None => continue,
                }
                assert_eq!(gpu.findings(), "", "{name}");
            }
        }
        assert!(failures.is_empty(), "{failures:#?}");
    }
}

/// The CPU backend is held to the same cases.
#[test]
fn the_cpu_backend_agrees_with_f64() {
    let mut cpu = Cpu::new(2).unwrap();
    let mut failures = Vec::new();
    let mut checked = 0;
    for case in cases::all(Extent::Small) {
        match cases::check_on_cpu(case.as_ref(), &mut cpu) {
            Some(Ok(off)) => println!("{}: {off:.2} of the tolerance", case.name()),
            Some(Err(wrong)) => failures.push(wrong),
            None => continue,
        }
        checked += 1;
    }
    assert!(checked >= 30 && failures.is_empty(), "{failures:#?}");
}

/// Tests rows without outliers, since a few large values would dominate the error.
#[test]
fn layer_norm_is_not_a_little_too_large_or_too_small() {
    let Some(gpu) = gpu(0) else { return };
    // Rows in the registers of one warp and of several warps, and rows in memory.
    for (rows, width) in [(32, 320), (4, 2560), (310, 33)] {
        let x = Random(1).normal(rows * width, 2.0);
        let (gain, bias) = (Random(2).normal(width, 1.0), Random(3).normal(width, 0.5));
        let wanted: Vec<f64> = x
            .chunks(width)
            .flat_map(|row| layer_normed(row, &gain, &bias, 1e-5))
            .collect();
        let [from, gain, bias] = [&x, &gain, &bias].map(|values| floats(&gpu, values));
        for dtype in DTYPES {
            let to = gpu.poisoned(rows * width * dtype.size());
            let params = LayerNormParams {
                from: from.address(),
                gain: gain.address(),
                bias: bias.address(),
                to: to.address(),
                rows: rows as u32,
                width: width as u32,
                epsilon: 1e-5,
                ..LayerNormParams::default()
            };
            let name = format!("layer_norm_{}", dtype.name());
            launch(&gpu, "layer_norm", &name, 2, 256, &params);
            let got = read(&gpu, &to, dtype);
            same_on_the_whole(&format!("{name} {rows}x{width}"), &got, &wanted, dtype);
        }
    }
}

/// A row has the same bits wherever it is.
#[test]
fn layer_norm_of_a_row_is_its_own() {
    let Some(gpu) = gpu(1) else { return };
    for (width, dtype) in [4, 33, 320, 1280, 2560]
        .into_iter()
        .flat_map(|width| DTYPES.map(|dtype| (width, dtype)))
    {
        let x = stream(1, width, 7);
        let gain = floats(&gpu, &Random(2).normal(width, 1.0));
        let kernel = format!("layer_norm_{}", dtype.name());
        let run = |rows: usize, blocks: usize| {
            let from = floats(&gpu, &x.repeat(rows));
            let to = gpu.poisoned(rows * width * dtype.size());
            let params = LayerNormParams {
                from: from.address(),
                gain: gain.address(),
                bias: gain.address(),
                to: to.address(),
                rows: rows as u32,
                width: width as u32,
                epsilon: 1e-5,
                ..LayerNormParams::default()
            };
            launch(&gpu, "layer_norm", &kernel, blocks, 256, &params);
            gpu.download(&to)
        };
        let alone = run(1, 1);
        for row in run(13, 3).chunks(width * dtype.size()) {
            assert!(row == alone, "{kernel}, width {width}");
        }
    }
}

#[test]
fn gelu_and_gated_gelu() {
    for seed in seeds() {
        let Some(gpu) = gpu(seed) else { return };
        for dtype in DTYPES {
            // All magnitudes: a fine grid beyond the range where the result is x or 0, and the
            // smallest numbers.
            let mut x: Vec<f32> = (-1500..=1500).map(|i| i as f32 * 0.01).collect();
            x.extend(Random(1).normal(500, 1e-3));
            x.extend([0.0, -0.0, 1e-20, -1e-20, 200.0, -200.0]);
            let x = rounded(&x, dtype);
            let wanted: Vec<f64> = x.iter().map(|x| gelu(f64::from(*x))).collect();
            for name in both("gelu", dtype) {
                let region = gpu.upload(&bytes(&x, dtype));
                let params = GeluParams {
                    values: region.address(),
                    count: x.len() as u64,
                };
                launch(&gpu, "gelu", &name, 2, 256, &params);
                let got = read(&gpu, &region, dtype);
                let mut worst: f64 = 0.0;
                for ((got, wanted), x) in got.iter().zip(&wanted).zip(&x) {
                    let digits = if dtype == DType::F32 { 5.0 } else { 1.04 };
                    // The unit is half a unit in the last place of the format's numbers of this
                    // size.
                    let least = match dtype {
                        DType::F16 => 2f64.powi(-14),
                        _ => 2f64.powi(-114), // 13 times the least normal number, below which 2^x is 0
                    };
                    let size = 2f64.powf(wanted.abs().max(least).log2().floor());
                    let off = (f64::from(*got) - wanted).abs() / (size * epsilon(dtype));
                    worst = worst.max(off);
                    // NaN fails this assertion.
                    assert!(
                        off <= digits * if dtype == DType::F32 { 2.0 } else { 1.0 },
                        "{name}({x}) = {got}, not {wanted:e}: {off}"
                    );
                }
                println!("{name}: {worst:.2} half units in the last place");
            }
            for (rows, width) in [(1, 1), (3, 4), (2, 33), (5, 320), (4, 3072)] {
                let from = rounded(&Random(5).normal(rows * 2 * width, 2.0), dtype);
                let wanted: Vec<f64> = (0..rows * width)
                    .map(|i| {
                        let at = i / width * 2 * width + i % width;
                        gelu(f64::from(from[at])) * f64::from(from[at + width])
                    })
                    .collect();
                let from = gpu.upload(&bytes(&from, dtype));
                for name in both("gated_gelu", dtype) {
                    let to = gpu.poisoned(rows * width * dtype.size());
                    let params = GatedGeluParams {
                        from: from.address(),
                        to: to.address(),
                        rows: rows as u32,
                        width: width as u32,
                    };
                    launch(&gpu, "gated_gelu", &name, 2, 256, &params);
                    let got = read(&gpu, &to, dtype);
                    let what = format!("{name} {rows}x{width}");
                    agree(&what, &got, &wanted, 4.0 * epsilon(dtype));
                    if got.len() >= ENOUGH {
                        same_on_the_whole(&what, &got, &wanted, dtype);
                    }
                }
            }
        }
    }
}

#[test]
fn gated_gelu_keeps_what_is_not_finite() {
    const INF: f32 = f32::INFINITY;
    const NAN: f32 = f32::NAN;
    // Pairs of gate and up.
    let bad = [(NAN, 1.0), (1.0, NAN), (INF, 2.0), (INF, -2.0), (2.0, -INF)];
    let pair = |i: usize| bad.get(i).copied().unwrap_or((1.0, 1.0));
    let Some(gpu) = gpu(0) else { return };
    for dtype in DTYPES {
        // Vectors of 8, and the remaining elements.
        for width in [5, 16] {
            let gates = (0..width).map(|i| pair(i).0);
            let from: Vec<f32> = gates.chain((0..width).map(|i| pair(i).1)).collect();
            let from = gpu.upload(&bytes(&from, dtype));
            for name in both("gated_gelu", dtype) {
                let to = gpu.poisoned(width * dtype.size());
                let params = GatedGeluParams {
                    from: from.address(),
                    to: to.address(),
                    rows: 1,
                    width: width as u32,
                };
                launch(&gpu, "gated_gelu", &name, 1, 256, &params);
                for (i, got) in read(&gpu, &to, dtype).into_iter().enumerate() {
                    let finite = i >= bad.len();
                    assert_eq!(got.is_finite(), finite, "{name}, {:?}: {got}", pair(i));
                }
            }
        }
    }
}

#[test]
fn gelu_keeps_what_is_not_finite() {
    let Some(gpu) = gpu(0) else { return };
    for dtype in DTYPES {
        let x = [f32::NAN, f32::NEG_INFINITY, f32::INFINITY, 1.0];
        let region = gpu.upload(&bytes(&x.repeat(3), dtype));
        let params = GeluParams {
            values: region.address(),
            count: 12,
        };
        launch(&gpu, "gelu", &both("gelu", dtype)[0], 1, 256, &params);
        for (i, y) in read(&gpu, &region, dtype).iter().enumerate() {
            assert_eq!(y.is_finite(), i % 4 == 3, "{dtype:?} {}: {y}", x[i % 4]);
        }
    }
}

/// Returns what `gemm_short` or its reference computes from x `[rows, depth]` and W `[outputs,
/// depth]`, stored to or added onto `onto`.
fn gemm_short(
    gpu: &Gpu,
    name: &str,
    (x, w, bias): (&[f32], &[f32], Option<&[f32]>),
    depth: usize,
    onto: Option<&[f32]>,
) -> Vec<f32> {
    let (rows, outputs) = (x.len() / depth, w.len() / depth);
    let (x, w, bias) = (floats(gpu, x), floats(gpu, w), bias.map(|b| floats(gpu, b)));
    let to = match onto {
        Some(onto) => floats(gpu, onto),
        None => gpu.poisoned(rows * outputs * 4),
    };
    let params = GemmShortParams {
        from: x.address(),
        weight: w.address(),
        bias: bias.as_ref().map_or(0, |b| b.address()),
        to: to.address(),
        rows: rows as u32,
        outputs: outputs as u32,
        depth: depth as u32,
        add: onto.is_some().into(),
    };
    let grid = match name {
        "gemm_short" => [outputs.div_ceil(64) as u32, rows.div_ceil(64) as u32, 1],
        _ => [2, 1, 1],
    };
    let function = gpu.function("gemm_short", name, 0);
    // SAFETY: the memory has these sizes, and only this stream accesses it.
    unsafe {
        gpu.stream
            .launch(&function, grid, [256, 1, 1], 0, &params)
            .unwrap();
    }
    gpu.stream.synchronize().unwrap();
    assert_eq!(gpu.findings(), "", "{name}");
    read(gpu, &to, DType::F32)
}

#[test]
fn gemm_short_is_nearly_as_exact_as_f64() {
    for seed in seeds() {
        let Some(gpu) = gpu(seed) else { return };
        for (rows, outputs, depth) in [
            (1, 1, 1),
            (3, 70, 33),
            (70, 8, 320),
            (65, 130, 94),
            (12, 64, 5120),
        ] {
            if seed > 0 && depth > 1000 {
                continue;
            }
            let (x, w) = (
                Random(1).normal(rows * depth, 1.0),
                Random(2).normal(outputs * depth, 1.0),
            );
            let (bias, stream) = (
                Random(3).normal(outputs, 3.0),
                Random(4).normal(rows * outputs, 300.0),
            );
            for (bias, onto) in [
                (None, None),
                (Some(&bias[..]), None),
                (Some(&bias[..]), Some(&stream[..])),
            ] {
                let wanted: Vec<f64> = (0..rows * outputs)
                    .map(|i| {
                        let (row, column) = (i / outputs, i % outputs);
                        let pairs = x[row * depth..][..depth]
                            .iter()
                            .zip(&w[column * depth..][..depth]);
                        let sum: f64 = pairs.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                        sum + bias.map_or(0.0, |b| f64::from(b[column]))
                            + onto.map_or(0.0, |o| f64::from(o[i]))
                    })
                    .collect();
                for name in ["gemm_short", "gemm_short_reference"] {
                    let got = gemm_short(&gpu, name, (&x, &w, bias), depth, onto);
                    // The bound covers chains of 8, and one or two roundings of the result.
                    let what = format!(
                        "{name} {rows}x{outputs}x{depth} {} {}",
                        bias.is_some(),
                        onto.is_some()
                    );
                    agree(&what, &got, &wanted, 1.3 * epsilon(DType::F32));
                }
            }
        }
    }
}

/// A row has the same bits wherever it is.
#[test]
fn gemm_short_of_a_row_is_its_own() {
    let Some(gpu) = gpu(1) else { return };
    let (rows, outputs, depth) = (131, 20, 72);
    let (x, w) = (
        Random(1).normal(rows * depth, 1.0),
        Random(2).normal(outputs * depth, 1.0),
    );
    let all = gemm_short(&gpu, "gemm_short", (&x, &w, None), depth, None);
    for row in [0, 1, 63, 64, 100, 130] {
        let one = &x[row * depth..][..depth];
        let alone = gemm_short(&gpu, "gemm_short", (one, &w, None), depth, None);
        assert_eq!(alone, all[row * outputs..][..outputs], "row {row}");
    }
}

#[test]
fn embed() {
    const VOCABULARY: usize = 37;
    for seed in seeds() {
        let Some(gpu) = gpu(seed) else { return };
        for (width, tokens) in [(4, 70), (33, 20), (320, 9), (1280, 17)] {
            let table = Random(1).normal(VOCABULARY * width, 1.0);
            let ids: Vec<u32> = (0..tokens).map(|t| (t * 31 % VOCABULARY) as u32).collect();
            let mut scale: Vec<f32> = Random(2).normal(tokens, 1.0);
            scale[3] = 0.0; // a mask
            let shift = Random(3).normal(width, 1.0);
            let on_device = floats(&gpu, &table);
            let (ids_there, scales, shifts) = (
                gpu.upload(&words(&ids)),
                floats(&gpu, &scale),
                floats(&gpu, &shift),
            );
            for shifted in [false, true] {
                let wanted: Vec<f64> = (0..tokens * width)
                    .map(|i| {
                        let (t, column) = (i / width, i % width);
                        let x = f64::from(table[ids[t] as usize * width + column]);
                        let add = if shifted {
                            f64::from(shift[column])
                        } else {
                            0.0
                        };
                        (x + add) * f64::from(scale[t])
                    })
                    .collect();
                for name in ["embed", "embed_reference"] {
                    let to = gpu.poisoned(tokens * width * 4);
                    let params = EmbedParams {
                        table: on_device.address(),
                        tokens: ids_there.address(),
                        scale: scales.address(),
                        shift: if shifted { shifts.address() } else { 0 },
                        to: to.address(),
                        count: tokens as u32,
                        width: width as u32,
                        vocabulary: VOCABULARY as u32,
                        padding: 0,
                    };
                    launch(&gpu, "embed", name, 1, 256, &params);
                    let got = read(&gpu, &to, DType::F32);
                    let what = format!("{name} {tokens}x{width}");
                    agree(&what, &got, &wanted, 2.0 * epsilon(DType::F32));
                    // A token past the vocabulary gives NaN, in that row alone.
                    let params = EmbedParams {
                        vocabulary: 36,
                        ..params
                    };
                    launch(&gpu, "embed", name, 3, 256, &params);
                    let rows = read(&gpu, &to, DType::F32);
                    for (row, id) in rows.chunks(width).zip(&ids) {
                        assert_eq!(row.iter().all(|x| x.is_nan()), *id == 36);
                    }
                }
            }
        }
    }
}

#[test]
fn rotary_table() {
    let Some(gpu) = gpu(0) else { return };
    let (positions, half) = (if gpu.real { 35000 } else { 1100 }, 12);
    let inv_freq: Vec<f32> = (0..half)
        .map(|i| 10000f32.powf(-(i as f32) / half as f32))
        .collect();
    let (from, table) = (floats(&gpu, &inv_freq), gpu.poisoned(positions * half * 8));
    let params = RotaryTableParams {
        inv_freq: from.address(),
        table: table.address(),
        positions: positions as u32,
        half: half as u32,
    };
    launch(&gpu, "rotary_table", "rotary_table", 2, 256, &params);
    for (i, pair) in read(&gpu, &table, DType::F32).chunks(2).enumerate() {
        let angle = (i / half) as f64 * f64::from(inv_freq[i % half]);
        // Values are rounded once: within half a unit, as far as f64's own cosine is right.
        for (got, wanted) in [(pair[0], angle.cos()), (pair[1], angle.sin())] {
            let off = (f64::from(got) - wanted).abs();
            assert!(
                off <= 0.5001 * 2f64.powi(-23) * wanted.abs() + 1e-15,
                "{i}: {got} {wanted}"
            );
        }
    }
}

#[test]
fn cast() {
    let Some(gpu) = gpu(0) else { return };
    let mut x = Random(1).normal(1000, 10.0);
    x.extend([0.0, -0.0, 65504.0, 1e-7, f32::INFINITY, f32::NEG_INFINITY]);
    for from in DTYPES {
        for to in DTYPES.into_iter().filter(|to| *to != from) {
            let x = rounded(&x, from);
            let (source, target) = (
                gpu.upload(&bytes(&x, from)),
                gpu.poisoned(x.len() * to.size()),
            );
            let params = CastParams {
                from: source.address(),
                to: target.address(),
                count: x.len() as u64,
            };
            let name = format!("cast_{}_{}", from.name(), to.name());
            launch(&gpu, "cast", &name, 2, 256, &params);
            assert_eq!(gpu.download(&target), bytes(&x, to), "{name}");
            // NaN stays NaN, whatever its bits.
            let source = gpu.upload(&bytes(&[f32::NAN, -f32::NAN, 1.0], from));
            let params = CastParams {
                from: source.address(),
                count: 3,
                ..params
            };
            launch(&gpu, "cast", &name, 1, 256, &params);
            let got = read(&gpu, &target, to);
            assert!(
                got[0].is_nan() && got[1].is_nan() && got[2] == 1.0,
                "{name}"
            );
        }
    }
}

#[test]
fn on_a_real_gpu() {
    cuda::real::again(module_path!());
}
