//! cuBLASLt's product against sums in f64.
#![allow(clippy::unwrap_used)] // what cannot go on in a test panics

mod common;

use std::ffi::{c_int, c_void};

use common::ffi::*;
use common::*;
use half::{bf16, f16};

unsafe extern "C" {
    fn cublasLtCreate(handle: *mut u64) -> c_int;
    fn cublasLtDestroy(handle: u64) -> c_int;
    fn cublasLtMatmulDescCreate(out: *mut u64, compute: c_int, scale: c_int) -> c_int;
    fn cublasLtMatmulDescDestroy(handle: u64) -> c_int;
    fn cublasLtMatmulDescSetAttribute(
        handle: u64,
        name: c_int,
        value: *const c_void,
        size: usize,
    ) -> c_int;
    fn cublasLtMatrixLayoutCreate(
        out: *mut u64,
        element: c_int,
        rows: u64,
        columns: u64,
        stride: i64,
    ) -> c_int;
    fn cublasLtMatrixLayoutDestroy(handle: u64) -> c_int;
    fn cublasLtMatmulPreferenceCreate(out: *mut u64) -> c_int;
    fn cublasLtMatmulPreferenceDestroy(handle: u64) -> c_int;
    fn cublasLtMatmulPreferenceSetAttribute(
        handle: u64,
        name: c_int,
        value: *const c_void,
        size: usize,
    ) -> c_int;
    fn cublasLtMatmulAlgoGetHeuristic(
        handle: u64,
        description: u64,
        a: u64,
        b: u64,
        c: u64,
        d: u64,
        preference: u64,
        wanted: c_int,
        results: *mut Heuristic,
        found: *mut c_int,
    ) -> c_int;
    fn cublasLtMatmulAlgoCheck(
        handle: u64,
        description: u64,
        a: u64,
        b: u64,
        c: u64,
        d: u64,
        algorithm: *const [u64; 8],
        result: *mut Heuristic,
    ) -> c_int;
    fn cublasLtMatmulAlgoConfigGetAttribute(
        algorithm: *const [u64; 8],
        name: c_int,
        value: *mut c_void,
        size: usize,
        written: *mut usize,
    ) -> c_int;
    fn cublasLtMatmul(
        handle: u64,
        description: u64,
        alpha: *const f32,
        a: u64,
        layout_a: u64,
        b: u64,
        layout_b: u64,
        beta: *const f32,
        c: u64,
        layout_c: u64,
        d: u64,
        layout_d: u64,
        algorithm: *const [u64; 8],
        workspace: u64,
        workspace_bytes: usize,
        stream: u64,
    ) -> c_int;
}

/// As the library's header has it.
#[repr(C)]
#[derive(Default, Clone, Copy)]
struct Heuristic {
    algorithm: [u64; 8],
    workspace: usize,
    state: c_int,
    waves: f32,
    reserved: [c_int; 4],
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Type {
    F32 = 0,
    F16 = 2,
    Bf16 = 14,
}

impl Type {
    fn bytes(self) -> usize {
        if self == Self::F32 { 4 } else { 2 }
    }

    /// Half a unit in the last place, relative.
    fn rounding(self) -> f64 {
        match self {
            Self::F32 => 2f64.powi(-24),
            Self::F16 => 2f64.powi(-11),
            Self::Bf16 => 2f64.powi(-8),
        }
    }

    fn encode(self, values: &[f32]) -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| match self {
                Self::F32 => value.to_le_bytes().to_vec(),
                Self::F16 => f16::from_f32(*value).to_le_bytes().to_vec(),
                Self::Bf16 => bf16::from_f32(*value).to_le_bytes().to_vec(),
            })
            .collect()
    }

    fn decode(self, data: &[u8]) -> Vec<f64> {
        data.chunks_exact(self.bytes())
            .map(|b| match self {
                Self::F32 => f64::from(f32::from_le_bytes(b.try_into().unwrap())),
                Self::F16 => f16::from_le_bytes(b.try_into().unwrap()).to_f64(),
                Self::Bf16 => bf16::from_le_bytes(b.try_into().unwrap()).to_f64(),
            })
            .collect()
    }
}

/// A matrix with one spare element a column: on the device, and as values.
struct Matrix {
    at: u64,
    layout: u64,
    values: Vec<f64>,
    stride: usize,
}

impl Matrix {
    fn new(of: Type, rows: usize, columns: usize, seed: u32) -> Self {
        let stride = rows + 1;
        let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
        let values: Vec<f32> = (0..stride * columns)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect();
        let data = of.encode(&values);
        let at = alloc(data.len());
        let mut layout = 0;
        // SAFETY: as declared.
        unsafe {
            ok(cuMemcpyHtoD_v2(at, data.as_ptr().cast(), data.len()));
            ok(cublasLtMatrixLayoutCreate(
                &mut layout,
                of as c_int,
                rows as u64,
                columns as u64,
                stride as i64,
            ));
            ok(cuCtxSynchronize());
        }
        Self {
            at,
            layout,
            values: of.decode(&data),
            stride,
        }
    }

    fn get(&self, row: usize, column: usize) -> f64 {
        self.values[column * self.stride + row]
    }
}

/// `cublasComputeType_t`: sums in f32; and the same of operands that are rounded to TF32.
const COMPUTE_32F: c_int = 68;
const COMPUTE_32F_FAST_TF32: c_int = 77;

struct Case {
    compute: c_int,
    types: (Type, Type),
    transposed: (bool, bool),
    beta: f32,
    bias: bool,
}

fn set<T>(description: u64, name: c_int, value: T) {
    // SAFETY: the value's own size.
    ok(unsafe {
        cublasLtMatmulDescSetAttribute(description, name, (&raw const value).cast(), size_of::<T>())
    });
}

/// Runs one product of 37 x 19 over 53 and compares each element; returns the worst error over its bound.
fn worst(case: &Case) -> f64 {
    let _sim = Sim::start(1, 0);
    let (m, n, k) = (37, 19, 53);
    let Case {
        compute,
        types: (input, output),
        transposed,
        beta,
        bias: with_bias,
    } = *case;
    let shape = |transposed, rows, columns| {
        if transposed {
            (columns, rows)
        } else {
            (rows, columns)
        }
    };
    let (a_shape, b_shape) = (shape(transposed.0, m, k), shape(transposed.1, k, n));
    let (mut handle, mut description, mut preference) = (0, 0, 0);
    let alpha = 0.75f32;
    // SAFETY: as declared; handles and memory are those made here.
    unsafe {
        ok(cublasLtCreate(&mut handle));
        let a = Matrix::new(input, a_shape.0, a_shape.1, 1);
        let b = Matrix::new(input, b_shape.0, b_shape.1, 2);
        let c = Matrix::new(output, m, n, 3);
        let d = Matrix::new(output, m, n, 4);
        let bias = Matrix::new(output, m, 1, 5);
        ok(cublasLtMatmulDescCreate(&mut description, compute, 0));
        set(description, 3, c_int::from(transposed.0));
        set(description, 4, c_int::from(transposed.1));
        if with_bias {
            set(description, 7, 4 as c_int);
            set(description, 8, bias.at);
        }
        ok(cublasLtMatmulPreferenceCreate(&mut preference));
        let capacity = 1usize << 20;
        ok(cublasLtMatmulPreferenceSetAttribute(
            preference,
            1,
            (&raw const capacity).cast(),
            8,
        ));
        let (mut result, mut found) = (Heuristic::default(), 0);
        ok(cublasLtMatmulAlgoGetHeuristic(
            handle,
            description,
            a.layout,
            b.layout,
            c.layout,
            d.layout,
            preference,
            1,
            &mut result,
            &mut found,
        ));
        assert_eq!((found, result.state), (1, 0));
        assert!(result.workspace <= capacity);
        let workspace = alloc(result.workspace);
        ok(cublasLtMatmul(
            handle,
            description,
            &alpha,
            a.at,
            a.layout,
            b.at,
            b.layout,
            &beta,
            c.at,
            c.layout,
            d.at,
            d.layout,
            &result.algorithm,
            workspace,
            result.workspace,
            0,
        ));
        let mut data = vec![0u8; d.values.len() * output.bytes()];
        ok(cuMemcpyDtoH_v2(data.as_mut_ptr().cast(), d.at, data.len()));
        let results = output.decode(&data);
        let mut worst = 0.0f64;
        for column in 0..n {
            for row in 0..m {
                let (mut sum, mut size) = (0.0, 0.0);
                for i in 0..k {
                    let a = if transposed.0 {
                        a.get(i, row)
                    } else {
                        a.get(row, i)
                    };
                    let b = if transposed.1 {
                        b.get(column, i)
                    } else {
                        b.get(i, column)
                    };
                    sum += a * b;
                    size += (a * b).abs();
                }
                let added = f64::from(beta) * if beta == 0.0 { 0.0 } else { c.get(row, column) }
                    + if with_bias { bias.get(row, 0) } else { 0.0 };
                let expected = f64::from(alpha) * sum + added;
                // k + 3 roundings in f32, one in the output's type.
                let bound = (k as f64 + 3.0) * 2f64.powi(-24) * (size + added.abs())
                    + output.rounding() * expected.abs() * 1.01
                    + 1e-7;
                worst = worst.max((results[column * d.stride + row] - expected).abs() / bound);
            }
            // The spare element of a column is not D's.
            assert_eq!(results[column * d.stride + m], d.get(m, column));
        }
        for layout in [a.layout, b.layout, c.layout, d.layout, bias.layout] {
            ok(cublasLtMatrixLayoutDestroy(layout));
        }
        ok(cublasLtMatmulPreferenceDestroy(preference));
        ok(cublasLtMatmulDescDestroy(description));
        ok(cublasLtDestroy(handle));
        assert_eq!((counters().live_cublaslt, counters().matmuls), (0, 1));
        worst
    }
}

#[test]
fn products_are_as_exact_as_f32_sums() {
    use Type::*;
    for types in [
        (F32, F32),
        (F16, F16),
        (F16, F32),
        (Bf16, Bf16),
        (Bf16, F32),
    ] {
        for transposed in [(false, false), (true, false), (false, true), (true, true)] {
            for (beta, bias) in [(0.0, false), (1.0, true), (0.5, false), (0.0, true)] {
                let worst = worst(&Case {
                    compute: COMPUTE_32F,
                    types,
                    transposed,
                    beta,
                    bias,
                });
                assert!(
                    worst < 1.0,
                    "{types:?} {transposed:?} beta {beta} bias {bias}: {worst} of the bound"
                );
            }
        }
    }
}

/// Whoever asks for TF32 gets it: f32 operands keep 10 bits behind the point. Of f16 and bf16,
/// which have no more, nothing is lost.
#[test]
fn tf32_rounds_operands_in_f32_and_no_others() {
    for input in [Type::F32, Type::F16, Type::Bf16] {
        let worst = worst(&Case {
            compute: COMPUTE_32F_FAST_TF32,
            types: (input, Type::F32),
            transposed: (true, false),
            beta: 0.0,
            bias: false,
        });
        // Two roundings by 2^-11 of each term, where all have the same sign, are 2^14 / (k + 3)
        // times the bound: 293.
        let rounded = (10.0..293.0).contains(&worst);
        assert_eq!(
            rounded,
            input == Type::F32,
            "{input:?}: {worst} of the bound"
        );
        assert!(rounded || worst < 1.0, "{input:?}: {worst} of the bound");
    }
}

#[test]
fn a_column_does_not_depend_on_how_many_there_are() {
    let _sim = Sim::start(1, 0);
    let run = |columns: usize| {
        let (mut handle, mut description) = (0, 0);
        let a = Matrix::new(Type::F16, 64, 32, 1);
        let b = Matrix::new(Type::F16, 64, columns, 2);
        let d = Matrix::new(Type::F16, 32, columns, 3);
        // SAFETY: as declared.
        unsafe {
            ok(cublasLtCreate(&mut handle));
            ok(cublasLtMatmulDescCreate(&mut description, 68, 0));
            set(description, 3, 1 as c_int);
            ok(cublasLtMatmul(
                handle,
                description,
                &1.0,
                a.at,
                a.layout,
                b.at,
                b.layout,
                &0.0,
                d.at,
                d.layout,
                d.at,
                d.layout,
                std::ptr::null(),
                0,
                0,
                0,
            ));
            let mut first = [0u8; 64];
            ok(cuMemcpyDtoH_v2(first.as_mut_ptr().cast(), d.at, 64));
            first
        }
    };
    assert_eq!(run(1), run(9));
}

#[test]
fn what_does_not_fit_is_refused() {
    let sim = Sim::start(1, 0);
    let (mut handle, mut description, mut wide) = (0, 0, 0);
    // SAFETY: as declared.
    unsafe {
        ok(cublasLtCreate(&mut handle));
        ok(cublasLtMatmulDescCreate(&mut description, 68, 0));
        let a = Matrix::new(Type::F16, 8, 8, 1);
        let b = Matrix::new(Type::F16, 7, 8, 2);
        let d = Matrix::new(Type::F16, 8, 8, 3);
        let run = |b: u64, layout_b, d, layout_d| {
            cublasLtMatmul(
                handle,
                description,
                &1.0,
                a.at,
                a.layout,
                b,
                layout_b,
                &0.0,
                d,
                layout_d,
                d,
                layout_d,
                std::ptr::null(),
                0,
                0,
                0,
            )
        };
        assert_eq!(run(b.at, b.layout, d.at, d.layout), 7, "k is 8 and 7");
        assert_eq!(run(a.at, a.layout, 0, d.layout), 7, "no D");
        assert_eq!(run(a.at, a.layout, d.at, 12345), 7, "no layout");
        assert_eq!(run(a.at, a.layout, d.at, d.layout), 0);
        // A D that is larger than its memory is the kernel's error.
        ok(cublasLtMatrixLayoutCreate(&mut wide, 2, 8, 8, 90));
        assert_eq!(run(a.at, a.layout, d.at, wide), 0);
        assert_eq!(cuCtxSynchronize(), 700);
        assert!(findings().contains("matmul's D"), "{}", findings());
        assert_eq!(
            run(a.at, a.layout, d.at, d.layout),
            13,
            "the context is lost"
        );
    }
    drop(sim);
}

/// A product of 16 x `columns` over 64, for which algorithms are asked.
struct Asked {
    handle: u64,
    description: u64,
    a: Matrix,
    b: Matrix,
    d: Matrix,
}

impl Asked {
    fn new(columns: usize) -> Self {
        let (mut handle, mut description) = (0, 0);
        // SAFETY: as declared.
        unsafe {
            ok(cublasLtCreate(&mut handle));
            ok(cublasLtMatmulDescCreate(&mut description, 68, 0));
        }
        set(description, 3, 1 as c_int);
        Self {
            handle,
            description,
            a: Matrix::new(Type::F32, 64, 16, 1),
            b: Matrix::new(Type::F32, 64, columns, 2),
            d: Matrix::new(Type::F32, 16, columns, 3),
        }
    }

    fn offers(&self, capacity: u64, schemes: u32) -> Vec<Heuristic> {
        let (mut preference, mut found) = (0, 0);
        let mut results = vec![Heuristic::default(); 20];
        let layouts = [&self.a, &self.b, &self.d].map(|m| m.layout);
        // SAFETY: as declared; 20 results fit.
        unsafe {
            ok(cublasLtMatmulPreferenceCreate(&mut preference));
            let set = cublasLtMatmulPreferenceSetAttribute;
            ok(set(preference, 1, (&raw const capacity).cast(), 8));
            ok(set(preference, 3, (&raw const schemes).cast(), 4));
            ok(cublasLtMatmulAlgoGetHeuristic(
                self.handle,
                self.description,
                layouts[0],
                layouts[1],
                layouts[2],
                layouts[2],
                preference,
                20,
                results.as_mut_ptr(),
                &mut found,
            ));
            ok(cublasLtMatmulPreferenceDestroy(preference));
        }
        results.truncate(found as usize);
        results
    }

    fn serves(&self, offer: &Heuristic) -> c_int {
        let mut result = Heuristic::default();
        // SAFETY: as declared.
        let status = unsafe {
            cublasLtMatmulAlgoCheck(
                self.handle,
                self.description,
                self.a.layout,
                self.b.layout,
                self.d.layout,
                self.d.layout,
                &offer.algorithm,
                &mut result,
            )
        };
        if status == 0 {
            assert_eq!(result.workspace, offer.workspace);
        }
        status
    }

    /// The first column that an algorithm gives.
    fn first_column(&self, offer: &Heuristic) -> [u8; 64] {
        let workspace = alloc(offer.workspace.max(1));
        let mut first = [0u8; 64];
        // SAFETY: as declared.
        unsafe {
            ok(cublasLtMatmul(
                self.handle,
                self.description,
                &1.0,
                self.a.at,
                self.a.layout,
                self.b.at,
                self.b.layout,
                &0.0,
                self.d.at,
                self.d.layout,
                self.d.at,
                self.d.layout,
                &offer.algorithm,
                workspace,
                offer.workspace,
                0,
            ));
            ok(cuMemcpyDtoH_v2(first.as_mut_ptr().cast(), self.d.at, 64));
        }
        first
    }
}

fn config(offer: &Heuristic, name: c_int) -> i32 {
    let (mut value, mut written) = (-1i32, 0);
    // SAFETY: as declared.
    ok(unsafe {
        let value = (&raw mut value).cast();
        cublasLtMatmulAlgoConfigGetAttribute(&offer.algorithm, name, value, 4, &mut written)
    });
    assert_eq!(written, 4);
    value
}

#[test]
fn several_algorithms_are_offered_and_some_are_traps() {
    let _sim = Sim::start(1, 0);
    let (few, many) = (Asked::new(1), Asked::new(40));
    let all = many.offers(1 << 30, 7);
    let small = many.offers(32 << 20, 7);
    let whole = many.offers(32 << 20, 0);
    assert_eq!((all.len(), small.len(), whole.len()), (8, 7, 6));
    assert!(whole.iter().all(|offer| config(offer, 3) == 0));
    assert!(small.iter().any(|offer| config(offer, 3) == 2));
    // What each does, against what it says: the splits among them give other bits to a lone column or to all.
    let plain = whole.last().unwrap();
    let (mut splits, mut unsaid, mut refused) = (0, 0, 0);
    for offer in &whole {
        if few.serves(offer) != 0 {
            assert_eq!((few.serves(offer), many.serves(offer)), (15, 0));
            refused += 1;
            continue;
        }
        let same = few.first_column(offer) == many.first_column(offer);
        let as_plain = many.first_column(offer) == many.first_column(plain);
        match (config(offer, 2), same, as_plain) {
            (1, true, true) => {}
            (2, true, false) => splits += 1,
            (1, false, false) => unsaid += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((splits, unsaid, refused), (1, 1, 1));
    // Bytes that are none of the library's.
    let mut broken = whole[0];
    broken.algorithm[1] = 99;
    assert_eq!(many.serves(&broken), 7);
}
