//! Kernels of the program, emulated, through the driver's calls. What they compute is tested elsewhere; here, that
//! launches, fibers and barriers carry them.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)] // the helpers of tests are tests

mod common;

use common::{Sim, alloc, device, findings, launch, ok, read};

#[repr(C)]
struct LayerNormParams {
    from: u64,
    gain: u64,
    bias: u64,
    to: u64,
    stream: u64,
    rows: u32,
    width: u32,
    epsilon: f32,
    padding: u32,
}

#[repr(C)]
struct CastParams {
    from: u64,
    to: u64,
    count: u64,
}

fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

#[test]
fn layer_norm_under_many_schedules() {
    const ROWS: usize = 7;
    for (seed, width) in [33, 320, 1280, 2560].into_iter().enumerate() {
        let sim = Sim::start(1, seed as u64);
        let x = numbers(ROWS * width, 1);
        let (gain, bias) = (numbers(width, 2), numbers(width, 3));
        let params = LayerNormParams {
            from: device(&x),
            gain: device(&gain),
            bias: device(&bias),
            to: alloc(x.len() * 4),
            stream: 0,
            rows: ROWS as u32,
            width: width as u32,
            epsilon: 1e-5,
            padding: 0,
        };
        let kernel = sim.function("layer_norm_f32");
        ok(launch(kernel, [ROWS as u32, 1, 1], [256, 1, 1], 0, &params));
        let out: Vec<f32> = read(params.to, x.len());
        for (row, out) in x.chunks(width).zip(out.chunks(width)) {
            let n = width as f64;
            let mean = row.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
            let variance = row
                .iter()
                .map(|v| (f64::from(*v) - mean).powi(2))
                .sum::<f64>()
                / n;
            for i in 0..width {
                let expected = (f64::from(row[i]) - mean) / (variance + 1e-5).sqrt()
                    * f64::from(gain[i])
                    + f64::from(bias[i]);
                let error = (f64::from(out[i]) - expected).abs();
                assert!(
                    error < 1e-5,
                    "width {width}, {i}: {} for {expected}",
                    out[i]
                );
            }
        }
        assert_eq!(findings(), "");
    }
}

/// Every f16 to f32, and every f32 of a large sample to f16 and bf16, bit for bit as the crate `half` has it.
#[test]
fn casts_round_to_nearest_even() {
    let sim = Sim::start(1, 0);
    let cast = |name: &str, from: u64, to: u64, count: usize| {
        let count = count as u64;
        let params = CastParams { from, to, count };
        ok(launch(
            sim.function(name),
            [3, 1, 1],
            [256, 1, 1],
            0,
            &params,
        ));
    };
    let halves: Vec<u16> = (0..=u16::MAX).collect();
    let (from, to) = (device(&halves), alloc(halves.len() * 4));
    for (name, bf16) in [("cast_f16_f32", false), ("cast_bf16_f32", true)] {
        cast(name, from, to, halves.len());
        let floats: Vec<f32> = read(to, halves.len());
        for (bits, float) in halves.iter().zip(floats) {
            let expected = match bf16 {
                true => half::bf16::from_bits(*bits).to_f32(),
                false => half::f16::from_bits(*bits).to_f32(),
            };
            let same = float.to_bits() == expected.to_bits() || float.is_nan() && expected.is_nan();
            assert!(same, "{name} of {bits:#06x}: {float}, not {expected}");
        }
    }
    // All exponents, and low bits around the ties of both formats.
    let mut floats = Vec::new();
    for high in 0..=u16::MAX {
        for low in [0u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
            floats.push(f32::from_bits(u32::from(high) << 16 | low));
        }
        for low in [0x0fffu32, 0x1000, 0x1001, 0x2fff, 0x3000, 0x3001] {
            floats.push(f32::from_bits(u32::from(high) << 16 | low));
        }
    }
    let (from, to) = (device(&floats), alloc(floats.len() * 2));
    for (name, bf16) in [("cast_f32_f16", false), ("cast_f32_bf16", true)] {
        cast(name, from, to, floats.len());
        let halves: Vec<u16> = read(to, floats.len());
        for (float, bits) in floats.iter().zip(halves) {
            let expected = match (float.is_nan(), bf16) {
                (true, _) => 0x7fff,
                (false, true) => half::bf16::from_f32(*float).to_bits(),
                (false, false) => half::f16::from_f32(*float).to_bits(),
            };
            assert_eq!(bits, expected, "{name} of {:#010x}", float.to_bits());
        }
    }
}
