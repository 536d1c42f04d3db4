//! wgmma: descriptors, layouts in shared memory, fragments, and a whole pipeline.

use super::bench::{
    Bench, Half, Launch, bytes_f32, bytes16, bytes32, floats, poison, small, tensor,
};
use seqstream::gpu::driver::Swizzle;

const M: usize = 64;

/// The layout of an operand in shared memory: the positions of its elements, and its descriptor.
struct Layout {
    /// The span of the swizzle in bytes: 128, 64, 32, or 0.
    span: usize,
    leading: usize,
    stride: usize,
    /// The bytes from one group of 16 columns of K to the next.
    step: usize,
    /// Whether the rows in memory are rows of K.
    mn_major: bool,
}

impl Layout {
    /// A layout `[rows, k]` with the K elements of each row in one span; without swizzle, matrices
    /// of 8 rows and 16 bytes.
    fn k_major(span: usize, k: usize) -> Self {
        let dense = span == 0;
        Self {
            span,
            leading: if dense { 128 } else { 16 },
            stride: if dense { k / 8 * 128 } else { 8 * span },
            step: if dense { 256 } else { 32 },
            mn_major: false,
        }
    }

    /// A layout `[k, rows]` in spans of rows.
    fn mn_major(span: usize, k: usize) -> Self {
        Self {
            span,
            leading: k * span,
            stride: 8 * span,
            step: 16 * span,
            mn_major: true,
        }
    }

    /// Returns the byte offset of an element in the PTX ISA's canonical layouts.
    fn place(&self, row: usize, k: usize) -> usize {
        let plain = if self.span == 0 {
            row / 8 * self.stride + k / 8 * self.leading + row % 8 * 16 + k % 8 * 2
        } else if self.mn_major {
            let of_span = self.span / 2;
            row / of_span * self.leading
                + k / 8 * self.stride
                + k % 8 * self.span
                + row % of_span * 2
        } else {
            row / 8 * self.stride + row % 8 * self.span + k * 2
        };
        if self.span == 0 {
            return plain;
        }
        // The 16-byte unit, XOR the 128-byte line.
        plain ^ ((plain / 128 % (self.span / 16)) * 16)
    }
}

/// Computes a product of `steps` steps of K = 16, and checks all sums.
#[allow(clippy::too_many_arguments)] // the parts of a product
fn check(
    bench: &Bench,
    format: Half,
    n: usize,
    span: usize,
    steps: usize,
    registers: bool,
    transposed: bool,
    before: bool,
) {
    let k = 16 * steps;
    let a = |row: usize, k: usize| small(row * 64 + k, 4);
    let b = |row: usize, k: usize| small(row * 64 + k, 5);
    let a_layout = Layout::k_major(span, k);
    let b_layout = if transposed {
        Layout::mn_major(span, k)
    } else {
        Layout::k_major(span, k)
    };
    // Bytes without an element are NaN, so that reading them shows.
    let mut image = vec![0xffffu16; 32768 / 2 + n.next_multiple_of(64) * 64];
    for k in 0..k {
        for row in 0..M {
            image[a_layout.place(row, k) / 2] = format.bits(a(row, k));
        }
        for row in 0..n {
            image[(32768 + b_layout.place(row, k)) / 2] = format.bits(b(row, k));
        }
    }
    // For each step and thread, A in the layout of mma.m16n8k16, of the 16 rows of the warp.
    let mut a_registers = Vec::new();
    for step in 0..steps {
        for thread in 0..128 {
            for i in 0..4 {
                let row = thread / 32 * 16 + thread % 32 / 4 + i % 2 * 8;
                let column = step * 16 + thread % 4 * 2 + i / 2 * 8;
                a_registers.push(format.pair(a(row, column), a(row, column + 1)));
            }
        }
    }
    let c = |row: usize, column: usize| {
        if before {
            small(row * 256 + column, 6) * 32.0
        } else {
            0.0
        }
    };
    // PTX ISA, the D fragment of wgmma.m64nNk16.
    let owner = |thread: usize, i: usize| {
        let row = thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8;
        (row, i / 4 * 8 + thread % 4 * 2 + i % 2)
    };
    let sums: Vec<f32> = (0..128 * n / 2)
        .map(|at| owner(at / (n / 2), at % (n / 2)))
        .map(|(row, column)| c(row, column))
        .collect();
    let (image, a_registers, sums) = (bytes16(&image), bytes32(&a_registers), bytes_f32(&sums));
    let output = floats(&bench.run(Launch {
        name: &format!("conformance_wgmma_{}_{n}", format.name()),
        threads: 128,
        shared: image.len() as u32,
        inputs: [&image, &a_registers, if before { &sums } else { &[] }],
        n: [
            steps as u32,
            image.len() as u32 / 4,
            u32::from(registers) + 2 * u32::from(transposed),
            span as u32,
            (a_layout.leading | b_layout.leading << 16) as u32,
            (a_layout.stride | b_layout.stride << 16) as u32,
            (a_layout.step | b_layout.step << 16) as u32,
            0,
        ],
        output: poison(sums.len()),
        ..Launch::default()
    }));
    for (at, value) in output.iter().enumerate() {
        let (row, column) = owner(at / (n / 2), at % (n / 2));
        let product: f32 = (0..k).map(|k| a(row, k) * b(column, k)).sum();
        assert_eq!(
            *value,
            product + c(row, column),
            "{format:?}, N {n}, span {span}, {steps} steps, A in registers {registers}, B transposed {transposed}: \
             row {row}, column {column}"
        );
    }
}

#[test]
fn every_n_with_operands_in_spans_of_128_bytes() {
    let Some(bench) = Bench::hopper(10) else {
        return;
    };
    let f16 = [8, 16, 24, 32, 64, 96, 128, 192, 256].map(|n| (Half::F16, n));
    for (format, n) in f16.into_iter().chain([(Half::Bf16, 64), (Half::Bf16, 256)]) {
        for registers in [false, true] {
            for transposed in [false, true] {
                check(&bench, format, n, 128, 4, registers, transposed, true);
            }
        }
    }
}

#[test]
fn other_swizzles_and_none() {
    let Some(bench) = Bench::hopper(11) else {
        return;
    };
    for (span, steps) in [(64, 2), (32, 1), (0, 1), (0, 3)] {
        for n in [8, 64, 96] {
            check(&bench, Half::F16, n, span, steps, false, false, true);
            check(&bench, Half::F16, n, span, steps, true, false, true);
            if span > 0 {
                check(&bench, Half::F16, n, span, steps, false, true, true);
            }
        }
    }
    // Values of heads of 24 and 16 columns: fewer than a span has, or just as many.
    for (span, n) in [(64, 24), (64, 32), (32, 16)] {
        check(&bench, Half::F16, n, span, 2, true, true, true);
    }
}

/// With `scale_d` of 0 the registers' old contents do not count.
#[test]
fn sums_that_begin_at_zero() {
    let Some(bench) = Bench::hopper(12) else {
        return;
    };
    check(&bench, Half::F16, 64, 128, 4, false, false, false);
    check(&bench, Half::Bf16, 64, 128, 4, true, true, false);
}

#[test]
fn a_pipeline_of_copies_and_products() {
    for seed in 0..4 {
        let Some(bench) = Bench::hopper(seed) else {
            return;
        };
        for k in [64usize, 100, 300] {
            let a = |row: usize, k: usize| small(row * 300 + k, 7);
            let b = |k: usize, column: usize| small(k * 128 + column, 8);
            // A is [64, k] at a pitch of a multiple of 8; B is [k, 128]. The copy gives 0 past K.
            let pitch = k.next_multiple_of(8);
            let mut a_image = vec![0xffffu16; 64 * pitch];
            for row in 0..64 {
                for column in 0..k {
                    a_image[row * pitch + column] = Half::F16.bits(a(row, column));
                }
            }
            let b_image: Vec<u16> = (0..k * 128)
                .map(|i| Half::F16.bits(b(i / 128, i % 128)))
                .collect();
            let output = floats(&bench.run(Launch {
                name: "conformance_pipeline",
                threads: 160,
                shared: 2 * 24 * 1024,
                inputs: [&bytes16(&a_image), &bytes16(&b_image), &[]],
                tensors: [
                    Some(tensor(
                        &[k as u64, 64],
                        &[pitch as u64 * 2],
                        &[64, 64],
                        Swizzle::Bytes128,
                    )),
                    Some(tensor(
                        &[128, k as u64],
                        &[256],
                        &[64, 64],
                        Swizzle::Bytes128,
                    )),
                ],
                packed: None,
                n: [k.div_ceil(64) as u32, 0, 0, 0, 0, 0, 0, 0],
                output: poison(64 * 128 * 4),
            }));
            for (at, value) in output.iter().enumerate() {
                let product: f32 = (0..k).map(|k| a(at / 128, k) * b(k, at % 128)).sum();
                assert_eq!(*value, product, "seed {seed}, K {k}, element {at}");
            }
        }
    }
}
