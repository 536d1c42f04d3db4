//! Products by cuBLASLt compared with sums in f64, and their bits.

use crate::support::cuda;
use crate::support::cuda::products::*;
use crate::support::cuda::real::wants_real;
use seqstream::dtype::DType;
use seqstream::gpu::cublaslt::{Kind, Operands, ProductSpec, WHOLE};
#[test]
fn products_are_as_exact_as_their_dtype_for_any_number_of_rows() {
    let Some(_held) = device() else { return };
    let mut rig = Rig::new(0);
    let gemm = gemm(&rig.context);
    let mut shapes = vec![(8, 8), (24, 40), (136, 64), (56, 200)];
    if wants_real() {
        shapes.extend([(1280, 1280), (320, 1280), (3072, 768)]);
    }
    for (outputs, inputs) in shapes {
        for spec in every(outputs, inputs) {
            let product = gemm.product(&spec).unwrap();
            for rows in [1, 3, 17, 130] {
                rig.empty();
                let case = Case::new(&mut rig, &spec, rows);
                let error = case.error(&case.run(&rig, &product));
                let bound = tolerance(&spec);
                assert!(
                    error <= bound,
                    "{spec}, {rows} rows: {error:.2e} > {bound:.2e}"
                );
            }
        }
    }
}

/// K in chains: the result is as exact as the length of the chains implies, and each chain of K is
/// computed exactly once, even if the last chain is shorter.
#[test]
fn chains_of_k_are_as_exact_as_they_are_short() {
    let Some(_held) = device() else { return };
    let mut rig = Rig::new(0);
    let gemm = gemm(&rig.context);
    for kind in [Kind::Store, Kind::Accumulate] {
        for (inputs, chain, chains) in [
            (2048, WHOLE, 1),
            (2048, 2048, 1),
            (2048, 32, 64),
            (2048, 256, 8),
            // The chains are 352 and 320 long here; below, 96, 96 and 4.
            (672, 512, 2),
            (196, 96, 3),
        ] {
            let spec = ProductSpec {
                chain,
                ..spec(40, inputs, DType::F32, kind, true)
            };
            assert_eq!(spec.chains(), chains, "{spec}");
            let product = gemm.product(&spec).unwrap();
            rig.empty();
            let case = Case::new(&mut rig, &spec, 40);
            let error = case.error(&case.run(&rig, &product));
            // The rounding error of a chain is that of its sums, which grow with the square root of
            // the number of summands; the sum over chains behaves in the same way.
            let roots = ((chain.min(inputs) / 2) as f64).sqrt() + ((chains / 2) as f64).sqrt();
            let bound = (roots + 1.0) * 0.55 * 2f64.powi(-24);
            println!("{spec}: {error:.2e} of {bound:.2e}");
            assert!(error <= bound, "{spec}: {error:.2e} > {bound:.2e}");
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_among_many() {
    let Some(_held) = device() else { return };
    let mut rig = Rig::new(0);
    let gemm = gemm(&rig.context);
    let (specs, most) = match wants_real() {
        true => {
            let shapes = [
                (40, 136),
                (3840, 1280),
                (1280, 1280),
                (1280, 5120),
                (768, 3072),
            ];
            let specs = shapes.into_iter().flat_map(|(n, k)| every(n, k));
            (specs.collect(), 2500)
        }
        false => (every(40, 136), 130),
    };
    let specs: Vec<ProductSpec> = specs;
    let chained = specs.iter().filter(|spec| spec.dtype == DType::F32);
    let chained: Vec<_> = chained
        .map(|spec| ProductSpec { chain: 64, ..*spec })
        .collect();
    let specs = specs.into_iter().chain(chained);
    for spec in specs {
        let product = gemm.product(&spec).unwrap();
        rig.empty();
        let case = Case::new(&mut rig, &spec, most);
        let all = case.run(&rig, &product);
        let (row_in, row_out) = (
            spec.inputs * spec.dtype.size(),
            spec.outputs * spec.out_dtype().size(),
        );
        for (first, rows) in [
            (0, 1),
            (1, 1),
            (most - 1, 1),
            (7, 3),
            (64, 66),
            (0, most - 1),
        ] {
            let from = first * row_out..(first + rows) * row_out;
            let out = rig.upload(&case.before[from.clone()]);
            let operands = Operands {
                x: case.operands().x + (first * row_in) as u64,
                out: out.address(),
                ..case.operands()
            };
            // SAFETY: as in `Case::run`.
            unsafe {
                product
                    .run(&rig.stream, &rig.workspace, operands, rows)
                    .unwrap();
            }
            assert!(
                rig.download(&out) == all[from],
                "{spec}: {rows} rows from row {first}"
            );
        }
    }
}

/// More rows than the algorithm was tried with are computed in parts, and this does not influence
/// any row.
#[test]
fn rows_beyond_the_trial_are_as_right() {
    let Some(held) = device() else { return };
    let mut rig = Rig::new(0);
    let gemm = gemm(&rig.context);
    for dtype in [DType::F16, DType::F32] {
        for kind in [Kind::Store, Kind::Accumulate] {
            let spec = spec(24, 40, dtype, kind, true);
            let product = gemm.product(&spec).unwrap();
            rig.empty();
            // The trial has 1024 rows here (`TUNING`).
            let case = Case::new(&mut rig, &spec, 2 * 1024 + 77);
            let before = held.counter("matmuls");
            let out = case.run(&rig, &product);
            let runs = held.counter("matmuls").zip(before).map(|(a, b)| a - b);
            assert!(runs.is_none_or(|runs| runs == 3), "{spec}: {runs:?}");
            let error = case.error(&out);
            assert!(error <= tolerance(&spec), "{spec}: {error:.2e}");
        }
    }
}

#[test]
fn two_streams_share_a_product() {
    let Some(_held) = device() else { return };
    let spec = spec(24, 40, DType::F16, Kind::Store, true);
    let mut rigs = [Rig::new(0), Rig::new(0)];
    let gemm = gemm(&rigs[0].context);
    let product = gemm.product(&spec).unwrap();
    // The cases have different rows and different biases.
    let cases: Vec<_> = rigs
        .iter_mut()
        .zip([5, 90])
        .map(|(rig, rows)| Case::new(rig, &spec, rows))
        .collect();
    std::thread::scope(|scope| {
        for (rig, case) in rigs.iter().zip(&cases) {
            let product = &product;
            scope.spawn(move || {
                for _ in 0..20 {
                    let error = case.error(&case.run(rig, product));
                    assert!(error <= tolerance(&spec), "{error}");
                }
            });
        }
    });
}

#[test]
fn on_a_real_gpu() {
    cuda::real::again(module_path!());
}
