//! Tensor copies: boxes, swizzles, what lies outside.

use crate::bench::{Bench, Launch, bytes16, halves, poison, tensor};
use seqstream::backend::cuda::driver::{Element, Swizzle, Tensor};

/// Where a swizzle puts the byte at `offset` of a box: CUDA's documentation draws it as XOR of the number of the unit
/// of 16 bytes with that of the line of 128.
fn swizzled(offset: usize, swizzle: Swizzle) -> usize {
    let (line, unit) = (offset / 128, offset / 16 % 8);
    let mask = match swizzle {
        Swizzle::None => 0,
        Swizzle::Bytes32 => 1,
        Swizzle::Bytes64 => 3,
        Swizzle::Bytes128 => 7,
    };
    line * 128 + (unit ^ (line & mask)) * 16 + offset % 16
}

const ROWS: usize = 40;
const COLUMNS: usize = 104; // stored at a pitch of 112

fn matrix() -> Vec<u16> {
    (0..ROWS * 112).map(|i| i as u16 + 1).collect()
}

/// Boxes of every swizzle at these corners: columns first.
fn boxes_of_a_matrix(seed: u64, corners: &[(i32, i32)]) {
    let Some(bench) = Bench::hopper(seed) else {
        return;
    };
    let values = matrix();
    let input = bytes16(&values);
    let swizzles = [
        (Swizzle::None, 16),
        (Swizzle::None, 64),
        (Swizzle::Bytes32, 16),
        (Swizzle::Bytes64, 32),
        (Swizzle::Bytes128, 64),
    ];
    for (swizzle, width) in swizzles {
        for &(c0, c1) in corners {
            let bytes = width * 24 * 2;
            let output = halves(&bench.run(Launch {
                name: "conformance_tma",
                threads: 128,
                shared: bytes as u32 + 1024,
                inputs: [&input, &[], &[]],
                tensors: [
                    Some(tensor(
                        &[COLUMNS as u64, ROWS as u64],
                        &[224],
                        &[width as u32, 24],
                        swizzle,
                    )),
                    None,
                ],
                n: [2, bytes as u32, c0 as u32, c1 as u32, 0, 0, 0, 0],
                output: poison(bytes),
            }));
            for row in 0..24 {
                for column in 0..width {
                    let (x, y) = (c0 + column as i32, c1 + row as i32);
                    let inside = (0..COLUMNS as i32).contains(&x) && (0..ROWS as i32).contains(&y);
                    let expected = if inside {
                        values[y as usize * 112 + x as usize]
                    } else {
                        0
                    };
                    let place = swizzled((row * width + column) * 2, swizzle) / 2;
                    assert_eq!(
                        output[place], expected,
                        "{swizzle:?}, box of {width} at ({c0}, {c1}): row {row}, column {column}"
                    );
                }
            }
        }
    }
}

#[test]
fn boxes_of_a_matrix_inside_and_over_its_edges() {
    boxes_of_a_matrix(8, &[(0, 0), (8, 5), (64, 30), (96, 39), (-8, -3)]);
}

#[test]
fn boxes_of_a_matrix_at_any_column() {
    boxes_of_a_matrix(8, &[(95, 39), (-9, -3), (1, 0)]);
}

#[test]
fn boxes_wholly_right_of_a_matrix() {
    boxes_of_a_matrix(8, &[(104, 0), (200, 0)]);
}

#[test]
fn boxes_wholly_below_a_matrix() {
    boxes_of_a_matrix(8, &[(0, 40), (0, 64)]);
}

#[test]
fn boxes_wholly_before_a_matrix() {
    boxes_of_a_matrix(8, &[(0, -24), (-64, 0)]);
}

#[test]
fn boxes_of_three_dimensions() {
    let Some(bench) = Bench::hopper(9) else {
        return;
    };
    // [5, 6, 64]; boxes of [2, 3, 64] of 16 bits, and of [2, 3, 32] of 32 bits.
    let values: Vec<u16> = (0..5 * 6 * 64).map(|i| i as u16 + 1).collect();
    let input = bytes16(&values);
    for (element, size) in [(Element::F16, 2usize), (Element::F32, 4)] {
        let width = 128 / size;
        for (c0, c1, c2) in [(0, 0, 0), (0, 2, 1), (16, 4, 4), (-8, -1, -1)] {
            let bytes = 2 * 3 * 128;
            let output = halves(&bench.run(Launch {
                name: "conformance_tma",
                threads: 128,
                shared: bytes as u32 + 1024,
                inputs: [&input, &[], &[]],
                tensors: [
                    Some(Tensor {
                        element,
                        dims: &[width as u64, 6, 5],
                        strides: &[128, 768],
                        boxes: &[width as u32, 3, 2],
                        swizzle: Swizzle::Bytes128,
                    }),
                    None,
                ],
                n: [3, bytes as u32, c0 as u32, c1 as u32, c2 as u32, 0, 0, 0],
                output: poison(bytes),
            }));
            for at in 0..bytes / 2 {
                let (plane, row, half) = (at / 192, at / 64 % 3, at % 64);
                let x = c0 + (half * 2 / size) as i32;
                let (y, z) = (c1 + row as i32, c2 + plane as i32);
                let inside =
                    (0..width as i32).contains(&x) && (0..6).contains(&y) && (0..5).contains(&z);
                let source = z * 384 + y * 64 + c0 * (size / 2) as i32 + half as i32;
                let expected = if inside { values[source as usize] } else { 0 };
                let place = swizzled(at * 2, Swizzle::Bytes128) / 2;
                assert_eq!(
                    output[place], expected,
                    "{element:?} at ({c0}, {c1}, {c2}): {at}"
                );
            }
        }
    }
}
