//! Tensor copies: boxes, swizzles, and parts outside of the tensor.

use super::bench::{Bench, Launch, bytes16, halves, poison, tensor};
use seqstream::gpu::driver::{DriverError, Element, PackedRows, Swizzle, Tensor};

/// Returns where a swizzle puts the byte at `offset` of a box: CUDA's documentation draws it as the
/// number of the 16-byte unit XOR the number of the 128-byte line.
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

/// The swizzles, and the number of columns of their boxes.
const SWIZZLES: [(Swizzle, usize); 5] = [
    (Swizzle::None, 16),
    (Swizzle::None, 64),
    (Swizzle::Bytes32, 16),
    (Swizzle::Bytes64, 32),
    (Swizzle::Bytes128, 64),
];

/// Copies a box of 24 rows at a corner, columns first.
fn copy_box(
    bench: &Bench,
    (swizzle, width): (Swizzle, usize),
    (c0, c1): (i32, i32),
) -> Result<Vec<u16>, DriverError> {
    let bytes = width * 24 * 2;
    let output = bench.try_run(Launch {
        name: "conformance_tma",
        threads: 128,
        shared: bytes as u32 + 1024,
        inputs: [&bytes16(&matrix()), &[], &[]],
        tensors: [
            Some(tensor(
                &[COLUMNS as u64, ROWS as u64],
                &[224],
                &[width as u32, 24],
                swizzle,
            )),
            None,
        ],
        packed: None,
        n: [2, bytes as u32, c0 as u32, c1 as u32, 0, 0, 0, 0],
        output: poison(bytes),
    });
    output.map(|bytes| halves(&bytes))
}

/// Tests boxes of every swizzle at these corners.
fn boxes_of_a_matrix(seed: u64, corners: &[(i32, i32)]) {
    let Some(bench) = Bench::hopper(seed) else {
        return;
    };
    let values = matrix();
    for (swizzle, width) in SWIZZLES {
        for &(c0, c1) in corners {
            let output = copy_box(&bench, (swizzle, width), (c0, c1))
                .unwrap_or_else(|e| panic!("{swizzle:?}, box of {width} at ({c0}, {c1}): {e}"));
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

/// A box must begin at a multiple of 16 bytes of a row. A violation loses the device's context, so
/// each one is tried in its own process, which runs this test again.
#[test]
fn boxes_at_other_columns_are_illegal_instructions() {
    const CASE: &str = "SEQSTREAM_TEST_BOX";
    const COLUMNS: [i32; 3] = [1, 95, -9];
    let this = "conformance::tensors::boxes_at_other_columns_are_illegal_instructions";
    let Some(bench) = Bench::hopper(8) else {
        return;
    };
    if let Ok(case) = std::env::var(CASE) {
        let case: usize = case.parse().unwrap();
        let swizzle = SWIZZLES[case / COLUMNS.len()];
        let copied = copy_box(&bench, swizzle, (COLUMNS[case % COLUMNS.len()], 0));
        println!("copied: {:?}", copied.map_err(|e| e.code));
        return;
    }
    drop(bench);
    for case in 0..SWIZZLES.len() * COLUMNS.len() {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", this, "--nocapture"])
            .env(CASE, case.to_string())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let (swizzle, column) = (
            SWIZZLES[case / COLUMNS.len()],
            COLUMNS[case % COLUMNS.len()],
        );
        assert!(
            said.contains("copied: Err(715)"),
            "{swizzle:?} at column {column}: {said}"
        );
    }
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
    // The tensor is [5, 6, 64]; boxes are [2, 3, 64] of 16 bits, and [2, 3, 32] of 32 bits.
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
                packed: None,
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

/// Tests boxes of 24 rows of which only some are the sequence's: the others are zeros, although
/// the next sequence's rows lie there.
#[test]
fn boxes_of_packed_rows_end_with_the_sequence() {
    let Some(bench) = Bench::hopper(10) else {
        return;
    };
    const BOX_ROWS: usize = 24;
    for (columns, width, box_blocks, swizzle) in [
        (16, 16, 1, Swizzle::Bytes32),
        (24, 32, 1, Swizzle::Bytes64),
        (64, 64, 1, Swizzle::Bytes128),
        (64, 64, 2, Swizzle::Bytes128),
    ] {
        const BLOCKS: usize = 4;
        let values: Vec<u16> = (0..ROWS * BLOCKS * columns).map(|i| i as u16 + 1).collect();
        let input = bytes16(&values);
        for (row, valid) in [(0, 24), (0, 1), (5, 7), (16, 24), (39, 1), (21, 19)] {
            for block in [0, 1, BLOCKS - box_blocks] {
                let bytes = BOX_ROWS * width * box_blocks * 2;
                let output = halves(&bench.run(Launch {
                    name: "conformance_tma",
                    threads: 128,
                    shared: bytes as u32 + 1024,
                    inputs: [&input, &[], &[]],
                    packed: Some(PackedRows {
                        element: Element::F16,
                        address: 0,
                        rows: ROWS as u64,
                        blocks: BLOCKS as u64,
                        columns: columns as u64,
                        box_rows: BOX_ROWS as u32,
                        box_columns: width as u32,
                        box_blocks: box_blocks as u32,
                        swizzle,
                    }),
                    n: [
                        4,
                        bytes as u32,
                        0,
                        (BOX_ROWS - valid) as u32,
                        (row + valid) as u32,
                        block as u32,
                        0,
                        0,
                    ],
                    output: poison(bytes),
                    ..Launch::default()
                }));
                for at in 0..bytes / 2 {
                    let column = at % width;
                    let (i, b) = (at / width % BOX_ROWS, block + at / width / BOX_ROWS);
                    let expected = if i < valid && column < columns {
                        values[((row + i) * BLOCKS + b) * columns + column]
                    } else {
                        0
                    };
                    let place = swizzled(at * 2, swizzle) / 2;
                    assert_eq!(
                        output[place], expected,
                        "{swizzle:?}, {valid} rows from {row} on, block {b}: row {i}, {column}"
                    );
                }
            }
        }
    }
}
