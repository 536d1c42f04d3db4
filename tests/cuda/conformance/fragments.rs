//! ldmatrix, stmatrix, mma.sync and cp.async: the elements that each lane holds.

use super::bench::{
    Bench, Half, Launch, bytes_f32, bytes16, bytes32, floats, halves, poison, small, words,
};

/// PTX ISA, ldmatrix: thread l holds row l / 4, columns 2 (l % 4) and the next, of each matrix.
#[test]
fn ldmatrix_in_four_forms() {
    let Some(bench) = Bench::new(1) else {
        return;
    };
    let elements: Vec<u16> = (0..256).map(|i| 1000 + i).collect();
    let input = bytes16(&elements);
    for (form, matrices, transposed) in [(0, 4, false), (1, 4, true), (2, 2, false), (3, 2, true)] {
        let output = words(&bench.run(Launch {
            name: "conformance_ldmatrix",
            threads: 32,
            inputs: [&input, &[], &[]],
            n: [form, 0, 0, 0, 0, 0, 0, 0],
            output: poison(512),
            ..Launch::default()
        }));
        for lane in 0..32 {
            for matrix in 0..4 {
                let at = |i: usize| {
                    let (row, column) = (lane / 4, lane % 4 * 2 + i);
                    let (row, column) = if transposed {
                        (column, row)
                    } else {
                        (row, column)
                    };
                    u32::from(elements[matrix * 64 + row * 8 + column])
                };
                let expected = if matrix < matrices {
                    at(0) | at(1) << 16
                } else {
                    0
                };
                assert_eq!(
                    output[lane * 4 + matrix],
                    expected,
                    "form {form}, lane {lane}, matrix {matrix}"
                );
            }
        }
    }
}

#[test]
fn stmatrix_is_ldmatrix_the_other_way() {
    let Some(bench) = Bench::hopper(2) else {
        return;
    };
    let registers: Vec<u32> = (0..128)
        .map(|i| (2000 + 2 * i) | (2001 + 2 * i) << 16)
        .collect();
    let input = bytes32(&registers);
    for transposed in [false, true] {
        let output = halves(&bench.run(Launch {
            name: "conformance_stmatrix",
            threads: 32,
            inputs: [&input, &[], &[]],
            n: [u32::from(transposed), 0, 0, 0, 0, 0, 0, 0],
            output: poison(512),
            ..Launch::default()
        }));
        for matrix in 0..4 {
            for row in 0..8 {
                for column in 0..8 {
                    let (r, c) = if transposed {
                        (column, row)
                    } else {
                        (row, column)
                    };
                    let register = registers[(r * 4 + c / 2) * 4 + matrix];
                    let expected = (register >> (16 * (c % 2))) as u16;
                    assert_eq!(output[(matrix * 8 + row) * 8 + column], expected);
                }
            }
        }
    }
}

/// PTX ISA, the fragments of mma.m16n8k16 and m16n8k8: rows and columns by group (l / 4) and thread
/// in group (l % 4).
#[test]
fn mma_fragments() {
    let Some(bench) = Bench::new(3) else {
        return;
    };
    for format in [Half::F16, Half::Bf16] {
        for k in [16, 8] {
            let a = |row: usize, column: usize| small(row * 16 + column, 1);
            let b = |row: usize, column: usize| small(row * 8 + column, 2);
            let c = |row: usize, column: usize| small(row * 8 + column, 3) * 64.0;
            let (mut a_registers, mut b_registers, mut sums) = (vec![], vec![], vec![]);
            for lane in 0..32 {
                let (group, thread) = (lane / 4, lane % 4);
                for i in 0..4 {
                    // ai: row group for a0, a1 and a4, a5; columns from 8 on for a4 and above.
                    let (row, column) = (group + i % 2 * 8, thread * 2 + i / 2 * 8);
                    a_registers.push(format.pair(a(row, column), a(row, column + 1)));
                }
                for i in 0..2 {
                    let row = thread * 2 + i * 8;
                    b_registers.push(format.pair(b(row, group), b(row + 1, group)));
                }
                for i in 0..4 {
                    sums.push(c(group + i / 2 * 8, thread * 2 + i % 2));
                }
            }
            let output = floats(&bench.run(Launch {
                name: &format!("conformance_mma_{}", format.name()),
                threads: 32,
                inputs: [&bytes32(&a_registers), &bytes32(&b_registers), &[]],
                n: [k as u32, 0, 0, 0, 0, 0, 0, 0],
                output: bytes_f32(&sums),
                ..Launch::default()
            }));
            for (i, value) in output.iter().enumerate() {
                let (lane, i) = (i / 4, i % 4);
                let (row, column) = (lane / 4 + i / 2 * 8, lane % 4 * 2 + i % 2);
                let product: f32 = (0..k).map(|k| a(row, k) * b(k, column)).sum();
                assert_eq!(
                    *value,
                    product + c(row, column),
                    "{format:?}, k {k}, row {row}, column {column}"
                );
            }
        }
    }
}

#[test]
fn cp_async_copies_or_fills_with_zeroes() {
    let Some(bench) = Bench::new(4) else {
        return;
    };
    let input: Vec<u8> = (0..512).map(|i| (i * 7 + 1) as u8).collect();
    let valid = 0xa5c3_0f96u32;
    let output = bench.run(Launch {
        name: "conformance_cp_async",
        threads: 32,
        inputs: [&input, &[], &[]],
        n: [valid, 0, 0, 0, 0, 0, 0, 0],
        output: poison(512),
        ..Launch::default()
    });
    for (i, byte) in output.iter().enumerate() {
        let expected = if valid >> (i / 16) & 1 == 1 {
            input[i]
        } else {
            0
        };
        assert_eq!(*byte, expected, "byte {i}");
    }
}
