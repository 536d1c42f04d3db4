//! A kernel of the program, emulated, through the driver's calls, and the conversions of number formats.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)] // the helpers of tests are tests

mod common;

use common::{Sim, alloc, device, launch, ok, read};

#[repr(C)]
struct CastParams {
    from: u64,
    to: u64,
    count: u64,
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
