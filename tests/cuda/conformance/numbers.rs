//! Conversions, powers of two, shuffles.

use super::bench::{Bench, Half, Launch, bytes_f32, floats, poison, words};

/// ex2.approx.ftz.f32 is within 2 ulp; subnormal numbers become 0 both as input and as result.
#[test]
fn powers_of_two() {
    let Some(bench) = Bench::new(5) else {
        return;
    };
    let special = [
        (0.0, 1.0),
        (-0.0, 1.0),
        (f32::INFINITY, f32::INFINITY),
        (f32::NEG_INFINITY, 0.0),
        (128.0, f32::INFINITY),
        (-126.0, f32::MIN_POSITIVE),
        (-127.0, 0.0), // 2^-127 is subnormal
        (-1000.0, 0.0),
        (f32::from_bits(1), 1.0),
    ];
    let mut inputs: Vec<f32> = special.iter().map(|(x, _)| *x).collect();
    inputs.push(f32::NAN);
    inputs.extend((0..4000).map(|i| i as f32 * 0.0613 - 120.0));
    let input = bytes_f32(&inputs);
    let output = floats(&bench.run(Launch {
        name: "conformance_exp2",
        threads: 32,
        inputs: [&input, &[], &[]],
        n: [inputs.len() as u32, 0, 0, 0, 0, 0, 0, 0],
        output: poison(input.len()),
        ..Launch::default()
    }));
    for ((x, expected), value) in special.iter().zip(&output) {
        assert_eq!(value.to_bits(), expected.to_bits(), "2^{x}: {value}");
    }
    assert!(output[special.len()].is_nan());
    for (x, value) in inputs.iter().zip(&output).skip(special.len() + 1) {
        let exact = f64::from(*x).exp2();
        let error = (f64::from(*value) - exact).abs() / exact;
        assert!(error <= 2.0f64.powi(-22), "2^{x}: {value}, {exact}");
    }
}

/// Conversions round to nearest, ties to even; NaN becomes 0x7fff.
#[test]
fn conversions_to_sixteen_bits() {
    let Some(bench) = Bench::new(6) else {
        return;
    };
    let mut inputs = Vec::new();
    // All exponents and signs, and mantissas around the ties of both formats, including subnormal
    // results.
    for high in 0..512u32 {
        for low in [
            0u32, 1, 0x0fff, 0x1000, 0x1001, 0x2fff, 0x3000, 0x3001, 0x7fff, 0x8000, 0x8001,
            0x1_7fff, 0x1_8000, 0x1_8001, 0x40_0000, 0x40_1000, 0x7f_efff, 0x7f_f000, 0x7f_7fff,
            0x7f_8000, 0x7f_ffff,
        ] {
            inputs.push(f32::from_bits(high << 23 | low));
        }
    }
    let input = bytes_f32(&inputs);
    let pairs = inputs.len() / 2;
    for format in [Half::F16, Half::Bf16] {
        let output = words(&bench.run(Launch {
            name: &format!("conformance_convert_{}", format.name()),
            threads: 32,
            inputs: [&input, &[], &[]],
            n: [pairs as u32, 0, 0, 0, 0, 0, 0, 0],
            output: poison(pairs * 8),
            ..Launch::default()
        }));
        let mut differ = Vec::new();
        for i in 0..pairs {
            let bits = |x: f32| {
                if x.is_nan() {
                    0x7fff
                } else {
                    u32::from(format.bits(x))
                }
            };
            let expected = bits(inputs[2 * i]) | bits(inputs[2 * i + 1]) << 16;
            for (how, found) in [("pack2", output[2 * i]), ("from_f32", output[2 * i + 1])] {
                if found != expected {
                    let of = [2 * i, 2 * i + 1].map(|i| inputs[i].to_bits());
                    differ.push(format!("{how} of {of:08x?}: {found:08x}, {expected:08x}"));
                }
            }
        }
        let (count, first) = (differ.len(), differ.iter().take(24));
        let first: Vec<&str> = first.map(String::as_str).collect();
        assert!(
            differ.is_empty(),
            "{format:?}, {count} differ:\n{}",
            first.join("\n")
        );
    }
}

#[test]
fn shuffles_and_votes() {
    let Some(bench) = Bench::new(7) else {
        return;
    };
    let output = words(&bench.run(Launch {
        name: "conformance_shuffle",
        threads: 32,
        output: poison(32 * 9 * 4),
        ..Launch::default()
    }));
    let value = |lane: u32| lane * lane + 7;
    for lane in 0..32u32 {
        let expected = [
            value(lane ^ 5),
            value(11),
            value(if lane >= 3 { lane - 3 } else { lane }),
            value(if lane + 3 < 32 { lane + 3 } else { lane }),
            value(lane ^ 1),
            value(if lane % 8 + 2 < 8 { lane + 2 } else { lane }),
            0x4924_9249,
            1,
            // An index past a segment of 16 wraps around within it.
            value(if lane < 16 {
                (lane + 1) % 16
            } else {
                16 + (lane + 2) % 16
            }),
        ];
        for (i, expected) in expected.iter().enumerate() {
            assert_eq!(
                output[lane as usize * 9 + i],
                *expected,
                "lane {lane}, result {i}"
            );
        }
    }
}
