//! A product whose library or driver fails gives an error that says what failed, and leaks nothing.

use crate::support::cuda::products::*;
use seqstream::dtype::DType;
use seqstream::gpu::cublaslt::{Algorithms, Gemm, GemmError, Kind, Operands};
use seqstream::gpu::driver::{Observe, Operation, Stream, StreamName};
use std::sync::Arc;
use std::sync::Mutex;
/// The work that streams were given.
#[derive(Debug, Default)]
struct Log(Mutex<Vec<String>>);

impl Observe for Log {
    fn enqueued(&self, _: &Stream, what: Operation<'_>) {
        self.0.lock().unwrap().push(what.to_string());
    }
}

#[test]
fn an_observer_of_a_stream_is_told_of_products() {
    let Some(_simulator) = start(1, 3) else {
        return;
    };
    let mut rig = Rig::new(0);
    let spec = spec(16, 24, DType::F16, Kind::Store, false);
    let product = gemm(&rig.context).product(&spec).unwrap();
    let case = Case::new(&mut rig, &spec, 9);
    let log = Arc::new(Log::default());
    let stream = Stream::new(&rig.context, StreamName::Compute, 1).unwrap();
    let stream = stream.observed(log.clone());
    // SAFETY: as in `Case::run`.
    unsafe { product.run(&stream, &rig.workspace, case.operands(), 9) }.unwrap();
    stream.synchronize().unwrap();
    assert_eq!(*log.0.lock().unwrap(), ["kernel f16 16x24 store"]);
}

/// Runs the whole life of a product; returns its error.
fn life(rig: &Rig, case: &Case) -> Result<(), GemmError> {
    let gemm = Gemm::load(&rig.context, Arc::new(Algorithms::new(None)), TUNING)?;
    let product = gemm.product(&case.spec)?;
    for rows in [1, case.rows] {
        // SAFETY: as in `Case::run`.
        unsafe { product.run(&rig.stream, &rig.workspace, case.operands(), rows)? };
    }
    rig.stream.synchronize()?;
    Ok(())
}

#[test]
fn a_fault_at_any_call_of_the_library_is_an_error_that_names_it() {
    let Some(simulator) = start(1, 3) else { return };
    let mut rig = Rig::new(0);
    let spec = spec(16, 24, DType::F16, Kind::Accumulate, true);
    let case = Case::new(&mut rig, &spec, 9);
    life(&rig, &case).unwrap();
    let live = counter(&simulator, "live_allocations");
    for function in [
        "cublasLtCreate",
        "cublasLtMatmulDescCreate",
        "cublasLtMatmulDescSetAttribute",
        "cublasLtMatrixLayoutCreate",
        "cublasLtMatrixLayoutSetAttribute",
        "cublasLtMatmulPreferenceCreate",
        "cublasLtMatmulPreferenceSetAttribute",
        "cublasLtMatmulAlgoGetHeuristic",
        "cublasLtMatmulAlgoConfigGetAttribute",
        "cublasLtMatmulAlgoCheck",
        "cublasLtMatmul",
    ] {
        let mut nth = 0;
        loop {
            nth += 1;
            let faults = counter(&simulator, "faults");
            // This is a code that no driver has: the library reports a general failure.
            fault(&simulator, &format!("{function}#{nth}:54321"));
            let result = life(&rig, &case);
            fault(&simulator, "");
            assert_eq!(counter(&simulator, "live_cublaslt"), 0, "{function} {nth}");
            assert_eq!(
                counter(&simulator, "live_allocations"),
                live,
                "{function} {nth}"
            );
            assert_eq!(
                counter(&simulator, "live_host_allocations"),
                0,
                "{function} {nth}"
            );
            if counter(&simulator, "faults") == faults {
                result.unwrap();
                break;
            }
            let error = result.unwrap_err();
            let text = error.to_string();
            let begin = format!("{function} failed with 13 (CUBLAS_STATUS_EXECUTION_FAILED");
            assert!(
                text.starts_with(&begin) && text.contains("device 0"),
                "{text}"
            );
            assert!(
                error.remedy().unwrap().to_string().contains("resume"),
                "{text}"
            );
        }
        assert!(nth > 1, "{function} is never called");
    }
}

#[test]
fn a_fault_at_any_driver_call_leaks_nothing() {
    let Some(simulator) = start(1, 3) else { return };
    let mut rig = Rig::new(0);
    let spec = spec(16, 24, DType::F32, Kind::Store, false);
    let case = Case::new(&mut rig, &spec, 9);
    let before = counter(&simulator, "calls");
    life(&rig, &case).unwrap();
    let calls = counter(&simulator, "calls") - before;
    let live = counter(&simulator, "live_allocations");
    let mut errors = 0;
    // Test every call at first, then some of the many similar calls of the trials.
    for nth in (1..200).chain((200..calls).step_by(37)) {
        fault(&simulator, &format!("{nth}:2"));
        let result = life(&rig, &case);
        fault(&simulator, "");
        assert_eq!(counter(&simulator, "live_cublaslt"), 0, "call {nth}");
        assert_eq!(counter(&simulator, "live_allocations"), live, "call {nth}");
        assert_eq!(
            counter(&simulator, "live_host_allocations"),
            0,
            "call {nth}"
        );
        errors += u32::from(result.is_err());
    }
    assert!(errors > 150, "{errors}");
}

#[test]
fn an_error_names_product_rows_and_the_drivers_own_reason() {
    let Some(simulator) = start(2, 3) else { return };
    let mut rig = Rig::new(1);
    let spec = spec(16, 24, DType::F16, Kind::Accumulate, true);
    let case = Case::new(&mut rig, &spec, 9);
    let product = gemm(&rig.context).product(&spec).unwrap();
    rig.stream.set_batch(Some(7));
    // The library has a status of its own for the driver's code "out of memory".
    fault(&simulator, "cublasLtMatmul#1:2");
    // SAFETY: as in `Case::run`, here and below.
    let run = |operands, rows| unsafe { product.run(&rig.stream, &rig.workspace, operands, rows) };
    let text = run(case.operands(), 9).unwrap_err().to_string();
    assert_eq!(
        text,
        "cublasLtMatmul failed with 3 (CUBLAS_STATUS_ALLOC_FAILED), device 1, stream compute 0, in f16 16x24 accumulate bias of 9 rows, batch 7"
    );
    // Operands at invalid addresses are refused before the library sees them.
    let off = Operands {
        out: case.operands().out + 4,
        ..case.operands()
    };
    let text = run(off, 9).unwrap_err().to_string();
    assert!(
        text.contains("out at 0x") && text.contains("multiple of 16"),
        "{text}"
    );
    let none = Operands {
        bias: 0,
        ..case.operands()
    };
    assert!(
        run(none, 9)
            .unwrap_err()
            .to_string()
            .contains("bias at 0x0")
    );
    let small = rig.workspace.slice(0..4096);
    // SAFETY: as in `Case::run`.
    let error = unsafe { product.run(&rig.stream, &small, case.operands(), 9) };
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("workspace of 4096 bytes")
    );
    // A lost device is reported through the library, too.
    let lose = simulator.call::<extern "C" fn(u32, i32) -> i32>("seqstream_sim_lose_device");
    assert_eq!(lose(1, 700), 0);
    let error = run(case.operands(), 9).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{text}");
    assert!(error.remedy().unwrap().to_string().contains("resume"));
}
