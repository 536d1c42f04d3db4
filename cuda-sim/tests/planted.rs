//! Mistakes that kernels make, each planted in a small one (`kernels/planted.cu`): the emulator finds them all, and
//! finds nothing in the same kernels without them.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)] // the helpers of tests are tests

mod common;

use common::ffi::cuTensorMapEncodeTiled;
use common::{Sim, alloc, device, findings, launch, ok, read};

#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Params {
    map: [u64; 16],
    from: u64,
    to: u64,
    bug: u32,
    count: u32,
}

/// What came of one launch.
enum Outcome {
    Done(Vec<u32>),
    Failed(i32, String),
}

struct Case {
    kernel: &'static str,
    blocks: u32,
    threads: u32,
    shared: u32,
    output: usize,
}

const REVERSE: Case = Case {
    kernel: "planted_reverse",
    blocks: 3,
    threads: 256,
    shared: 1024,
    output: 768,
};
const VECTORS: Case = Case {
    kernel: "planted_vectors",
    blocks: 1,
    threads: 192,
    shared: 0,
    output: 768,
};
const COPY: Case = Case {
    kernel: "planted_copy",
    blocks: 1,
    threads: 192,
    shared: 192 * 16,
    output: 768,
};
const BARRIERS: Case = Case {
    kernel: "planted_barriers",
    blocks: 1,
    threads: 64,
    shared: 0,
    output: 64,
};
const TENSOR: Case = Case {
    kernel: "planted_tensor",
    blocks: 1,
    threads: 128,
    shared: 4096 + 1024,
    output: 1024,
};
const PRODUCT: Case = Case {
    kernel: "planted_product",
    blocks: 1,
    threads: 128,
    shared: 16384,
    output: 512,
};

/// `from` holds 1, 2, 3, and so on, 768 of them.
fn run(case: &Case, bug: u32, seed: u64) -> Outcome {
    let sim = Sim::start(1, seed);
    let numbers: Vec<u32> = (1..=768).collect();
    let mut params = Params {
        map: [0; 16],
        from: device(&numbers),
        to: alloc(case.output * 4),
        bug,
        count: 768,
    };
    if case.kernel == TENSOR.kernel {
        let (dims, strides, boxes, ones) = ([64u64, 24], [128u64], [64u32, 32], [1u32; 2]);
        // SAFETY: as cuTensorMapEncodeTiled wants them: 24 rows of 64 f16, boxes of 32, swizzle of 128 bytes.
        ok(unsafe {
            cuTensorMapEncodeTiled(
                params.map.as_mut_ptr().cast(),
                6,
                2,
                params.from as *mut _,
                dims.as_ptr(),
                strides.as_ptr(),
                boxes.as_ptr(),
                ones.as_ptr(),
                0,
                3,
                0,
                0,
            )
        });
    }
    let (grid, block) = ([case.blocks, 1, 1], [case.threads, 1, 1]);
    match launch(sim.function(case.kernel), grid, block, case.shared, &params) {
        0 => Outcome::Done(read(params.to, case.output)),
        code => Outcome::Failed(code, findings()),
    }
}

/// Without a mistake: what is expected, under every schedule.
fn right(case: &Case, expected: impl Fn(usize) -> u32) {
    for seed in 0..20 {
        match run(case, 0, seed) {
            Outcome::Done(output) => {
                for (i, value) in output.iter().enumerate() {
                    assert_eq!(*value, expected(i), "{}, seed {seed}, {i}", case.kernel);
                }
            }
            Outcome::Failed(code, text) => panic!("{}, seed {seed}: {code}: {text}", case.kernel),
        }
    }
}

/// With the mistake, under the first schedule: this code, and these words.
fn refused(case: &Case, bug: u32, code: i32, words: &[&str]) {
    match run(case, bug, 0) {
        Outcome::Done(_) => panic!("{} with mistake {bug}: nothing found", case.kernel),
        Outcome::Failed(found, text) => {
            assert_eq!(found, code, "{text}");
            assert!(text.contains(case.kernel), "{text}");
            for word in words {
                assert!(text.contains(word), "no {word:?} in {text}");
            }
        }
    }
}

/// With the mistake: wrong numbers under most schedules.
fn wrong(case: &Case, bug: u32, expected: impl Fn(usize) -> u32) {
    let is_wrong = |seed: &u64| match run(case, bug, *seed) {
        Outcome::Done(output) => output
            .iter()
            .enumerate()
            .any(|(i, value)| *value != expected(i)),
        Outcome::Failed(code, text) => panic!("{} with mistake {bug}: {code}: {text}", case.kernel),
    };
    let found = (0..20).filter(is_wrong).count();
    assert!(
        found >= 15,
        "{} with mistake {bug}: wrong in {found} of 20",
        case.kernel
    );
}

/// With the mistake: wrong numbers or an error, as the schedule has it, under most of them.
fn caught(case: &Case, bug: u32, expected: impl Fn(usize) -> u32) {
    let is_caught = |seed: &u64| match run(case, bug, *seed) {
        Outcome::Done(output) => output
            .iter()
            .enumerate()
            .any(|(i, value)| *value != expected(i)),
        Outcome::Failed(..) => true,
    };
    let found = (0..20).filter(is_caught).count();
    assert!(
        found >= 15,
        "{} with mistake {bug}: caught in {found} of 20",
        case.kernel
    );
}

fn reversed(i: usize) -> u32 {
    let (block, thread) = (i / 256, i % 256);
    (block * 256 + 255 - thread) as u32 + 1
}

#[test]
fn a_missing_barrier() {
    right(&REVERSE, reversed);
    wrong(&REVERSE, 1, reversed);
}

#[test]
fn shared_memory_that_nobody_wrote_is_nan() {
    wrong(&REVERSE, 4, reversed);
    match run(&REVERSE, 4, 0) {
        Outcome::Done(output) => assert!(output.iter().all(|bits| *bits == u32::MAX)),
        Outcome::Failed(code, text) => panic!("{code}: {text}"),
    }
    // Also where a block before it wrote.
    run(&REVERSE, 6, 0);
    wrong(&REVERSE, 4, reversed);
}

#[test]
fn accesses_beside_memory() {
    // (The block's dynamic shared memory is a multiple of its alignment: the next word is closed.)
    refused(&REVERSE, 2, 700, &["write", "beside shared memory"]);
    refused(&REVERSE, 3, 700, &["write", "beside shared memory"]);
    refused(&REVERSE, 5, 700, &["planted.cu:", "a null address"]);
    refused(&COPY, 4, 700, &["cp_async16", "thread [191, 0, 0]"]);
}

#[test]
fn a_write_into_the_rest_of_the_last_kilobyte() {
    let short = Case {
        shared: 1000,
        threads: 250,
        output: 750,
        ..REVERSE
    };
    refused(&short, 2, 700, &["behind the end of the 1000 bytes"]);
}

#[test]
fn misaligned_accesses() {
    right(&VECTORS, |i| i as u32 + 1);
    refused(&VECTORS, 1, 716, &["planted.cu:", "not aligned to 16"]);
    refused(
        &COPY,
        3,
        716,
        &["cp_async16", "not aligned to 16", "thread [5, 0, 0]"],
    );
}

#[test]
fn asynchronous_copies_that_nobody_waits_for() {
    let expected = |i| 768 - i as u32;
    right(&COPY, expected);
    wrong(&COPY, 1, expected);
    wrong(&COPY, 2, expected);
}

#[test]
fn barriers_that_are_misused() {
    right(&BARRIERS, |i| (i + (i ^ 1)) as u32);
    refused(
        &BARRIERS,
        1,
        702,
        &["deadlock", "named barrier 3", "__shfl_xor_sync"],
    );
    refused(&BARRIERS, 2, 719, &["__shfl_xor_sync", "have ended"]);
    refused(&BARRIERS, 3, 719, &["__syncwarp", "__shfl_xor_sync"]);
    caught(&BARRIERS, 4, |i| (i + (i ^ 1)) as u32);
}

#[test]
fn tensor_copies() {
    // Two 16-bit numbers a word; rows from 24 on are 0.
    let expected = |i: usize| if i < 768 { i as u32 + 1 } else { 0 };
    right(&TENSOR, expected);
    wrong(&TENSOR, 1, expected);
    wrong(&TENSOR, 5, expected);
    caught(&TENSOR, 6, expected);
    refused(
        &TENSOR,
        2,
        702,
        &["deadlock", "threads 0 to 127", "mbar_wait at", "parity 0"],
    );
    refused(&TENSOR, 3, 719, &["no mbarrier that was initialised"]);
    refused(&TENSOR, 4, 719, &["fence_mbar_init", "thread [0, 0, 0]"]);
    refused(&TENSOR, 7, 716, &["tma_load_2d", "not aligned"]);
    refused(&TENSOR, 8, 719, &["mbar_wait", "a parity of 2"]);
}

#[test]
fn products_that_nobody_waits_for() {
    let expected = |_| 3f32.to_bits();
    right(&PRODUCT, expected);
    wrong(&PRODUCT, 1, expected);
    wrong(&PRODUCT, 3, expected);
    refused(&PRODUCT, 2, 719, &["wg_fence"]);
    refused(&PRODUCT, 4, 719, &["wrote to the sums"]);
}

#[test]
fn more_threads_than_the_launch_bounds() {
    let many = Case {
        threads: 288,
        ..REVERSE
    };
    refused(&many, 0, 701, &["288 threads", "at most 256"]);
}

/// A kernel that failed leaves nothing behind for the next.
#[test]
fn after_a_failure_the_next_launch_is_as_before() {
    for bug in 1..=4 {
        run(&BARRIERS, bug, 0);
        right(&REVERSE, reversed);
        right(&BARRIERS, |i| (i + (i ^ 1)) as u32);
    }
}
