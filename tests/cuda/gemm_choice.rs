//! Which algorithm a product gets, where the choice is kept, and where the library is found.

use crate::support::cuda;
use crate::support::cuda::algorithms::{place_in, sealed};
use crate::support::cuda::products::*;
use seqstream::dtype::DType;
use seqstream::gpu::cublaslt::AlgorithmTable;
use seqstream::gpu::cublaslt::Algorithms;
use seqstream::gpu::cublaslt::Gemm;
use seqstream::gpu::cublaslt::GemmError;
use seqstream::gpu::cublaslt::Kind;
use seqstream::gpu::cublaslt::ProductSpec;
use seqstream::gpu::cublaslt::Tuning;
use seqstream::gpu::cublaslt::cublaslt;
use seqstream::gpu::driver::Context;
use std::fs;
use std::sync::Arc;
#[test]
fn the_fastest_that_sums_k_whole_is_chosen_and_runs_allocate_nothing() {
    // This seed runs nothing early: under other seeds, work that has already run takes no simulated
    // time.
    let Some(simulator) = start(1, 0) else { return };
    let mut rig = Rig::new(0);
    let spec = spec(48, 96, DType::F16, Kind::Accumulate, true);
    let place = |tuning: Tuning| {
        let algorithms = Arc::new(Algorithms::new(None));
        let gemm = Gemm::load(&rig.context, Arc::clone(&algorithms), tuning).unwrap();
        gemm.product(&spec).unwrap();
        // The second word is the algorithm's index in the simulator's list.
        let json = algorithms.table().unwrap().to_json();
        json.as_bytes()[place_in(&json).end - 1] as char
    };
    // The list is in cuda-sim/src/cublaslt_algorithms.rs: five traps, a slow algorithm, the best,
    // another.
    assert_eq!(place(TUNING), '6');
    let gemm = gemm(&rig.context);
    let product = gemm.product(&spec).unwrap();
    let case = Case::new(&mut rig, &spec, 40);
    let before =
        ["allocations", "host_allocations", "live_cublaslt"].map(|n| counter(&simulator, n));
    for rows in [40, 1, 17, 40, 0] {
        // SAFETY: as in `Case::run`.
        unsafe {
            product
                .run(&rig.stream, &rig.workspace, case.operands(), rows)
                .unwrap();
        }
    }
    let after =
        ["allocations", "host_allocations", "live_cublaslt"].map(|n| counter(&simulator, n));
    assert_eq!(before, after);
    assert_eq!(counter(&simulator, "null_stream_operations"), 0);
    // The algorithm that the library itself would choose splits K; it is for measurements only.
    let first = gemm.library_choice(&spec, 64).unwrap();
    assert_ne!(first.algorithm(), product.algorithm());
}

#[test]
fn a_choice_is_kept_on_disk_and_not_made_again() {
    let Some(simulator) = start(1, 3) else { return };
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::new(0);
    let spec = spec(16, 32, DType::Bf16, Kind::Store, true);
    let choose = || {
        let before = counter(&simulator, "matmuls");
        let algorithms = Arc::new(Algorithms::new(Some(folder.path().to_owned())));
        let gemm = Gemm::load(&rig.context, Arc::clone(&algorithms), TUNING).unwrap();
        gemm.product(&spec).unwrap();
        gemm.product(&spec).unwrap();
        let warnings = algorithms.take_warnings();
        (
            gemm.fingerprint(),
            counter(&simulator, "matmuls") - before,
            warnings,
        )
    };
    let (first, trials, warnings) = choose();
    assert!(trials > 10, "{trials}");
    assert_eq!(warnings, [""; 0]);
    assert_eq!(choose(), (first.clone(), 0, vec![]));
    let files: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let file = files.iter().find(|f| f.extension().unwrap() == "json");
    let file = file.unwrap();
    let name = file.file_name().unwrap().to_string_lossy().into_owned();
    assert!(name.starts_with("gemm-simulated-h100-"), "{name}");
    assert!(name.ends_with("-sm90-130002.json"), "{name}");
    fs::write(file, "{\"format\": 1, ").unwrap();
    let (again, trials, warnings) = choose();
    assert_eq!(
        (again, trials > 10, warnings.len()),
        (first.clone(), true, 1)
    );
    assert!(warnings[0].contains(&name), "{warnings:?}");
    assert_eq!(choose(), (first, 0, vec![]), "written again");
}

#[test]
fn all_devices_of_a_job_use_one_table_and_so_does_its_resumption() {
    let Some(simulator) = start(3, 3) else { return };
    let spec = spec(40, 72, DType::F16, Kind::Store, true);
    let algorithms = Arc::new(Algorithms::new(None));
    let mut results = Vec::new();
    for device in 0..3 {
        let mut rig = Rig::new(device);
        let gemm = Gemm::load(&rig.context, Arc::clone(&algorithms), TUNING).unwrap();
        let before = counter(&simulator, "matmuls");
        let product = gemm.product(&spec).unwrap();
        let trials = counter(&simulator, "matmuls") - before;
        assert_eq!(trials > 0, device == 0, "device {device}: {trials}");
        results.push(Case::new(&mut rig, &spec, 33).run(&rig, &product));
    }
    assert!(results.iter().all(|bits| *bits == results[0]));
    let json = algorithms.table().unwrap().to_json();
    let imposed = |json: &str| {
        let table = AlgorithmTable::parse(json).unwrap();
        Arc::new(Algorithms::imposed(table, "the table T".into()))
    };
    let rig = Rig::new(2);
    let resumed = imposed(&json);
    let gemm = Gemm::load(&rig.context, Arc::clone(&resumed), TUNING).unwrap();
    let before = counter(&simulator, "matmuls");
    gemm.product(&spec).unwrap();
    assert_eq!(counter(&simulator, "matmuls"), before);
    assert_eq!(gemm.fingerprint(), algorithms.fingerprint());
    // A product that the table lacks, or should not have, is an error: no other algorithm is used
    // instead.
    let other = ProductSpec {
        bias: false,
        ..spec
    };
    let error = gemm.product(&other).unwrap_err().to_string();
    assert!(
        error.contains("device 2: it has no algorithm for the product f16 40x72 store"),
        "{error}"
    );
    for (place, reason) in [
        (2, "sums K in 2 parts"),
        (4, "does not serve 1 rows"),
        (99, "CUBLAS_STATUS_INVALID_VALUE"),
    ] {
        let mut bad = json.clone();
        bad.replace_range(place_in(&json), &format!("{place:016x}"));
        let gemm = Gemm::load(&rig.context, imposed(&sealed(&bad)), TUNING).unwrap();
        let error = gemm.product(&spec).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    let old = sealed(&json.replace("130002", "120805"));
    let error = Gemm::load(&rig.context, imposed(&old), TUNING).unwrap_err();
    assert!(matches!(error, GemmError::Imposed { .. }), "{error}");
    assert!(error.remedy().unwrap().to_string().contains("begun with"));
}

#[test]
fn a_missing_library_is_an_error_that_names_the_remedy() {
    let Some(_simulator) = start(1, 3) else {
        return;
    };
    let context = Context::new(0).unwrap();
    let load = |path: &str| {
        // SAFETY: as in `start`.
        unsafe { std::env::set_var("SEQSTREAM_LIBCUBLASLT", path) };
        let algorithms = Arc::new(Algorithms::new(None));
        Gemm::load(&context, algorithms, TUNING).unwrap_err()
    };
    let error = load("/nowhere/libcublasLt.so.13");
    assert!(matches!(error, GemmError::Missing { .. }), "{error}");
    assert!(error.to_string().contains("/nowhere/libcublasLt.so.13"));
    assert!(
        error
            .remedy()
            .unwrap()
            .to_string()
            .contains("SEQSTREAM_LIBCUBLASLT")
    );
    let error = load("libm.so.6");
    assert!(matches!(error, GemmError::Library { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("libm.so.6 cannot be used"), "{text}");
    assert!(text.contains("undefined symbol: cublasLt"), "{text}");
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.so");
    fs::write(&text, "not a library").unwrap();
    let error = load(text.to_str().unwrap()).to_string();
    assert!(error.contains("text.so: "), "{error}");
}

#[test]
fn the_library_is_found_below_the_python_in_use() {
    let Some(_simulator) = start(1, 3) else {
        return;
    };
    let context = Context::new(0).unwrap();
    let root = tempfile::tempdir().unwrap();
    let path = std::env::var_os("PATH").unwrap_or_default();
    for wheel in ["nvidia/cublas/lib", "nvidia/cu13/lib"] {
        let bin = root.path().join("bin");
        let packages = root.path().join("lib/python3.12/site-packages");
        fs::create_dir_all(&bin).unwrap();
        fs::create_dir_all(packages.join(wheel)).unwrap();
        fs::write(bin.join("python3"), "").unwrap();
        let library = packages.join(wheel).join("libcublasLt.so.13");
        std::os::unix::fs::symlink(cuda::library(), &library).unwrap();
        // SAFETY: as in `start`.
        unsafe {
            std::env::remove_var("SEQSTREAM_LIBCUBLASLT");
            std::env::set_var("PATH", &bin);
        }
        let gemm = Gemm::load(&context, Arc::new(Algorithms::new(None)), TUNING);
        // SAFETY: as in `start`.
        unsafe { std::env::set_var("PATH", &path) };
        let file = library.to_str().unwrap();
        assert_eq!(gemm.unwrap().library(), file);
        // SAFETY: as in `start`.
        unsafe { std::env::set_var("SEQSTREAM_LIBCUBLASLT", file) };
        assert_eq!(cublaslt().unwrap(), (file, "13.0.2".to_owned()));
        fs::remove_dir_all(packages).unwrap();
    }
}

#[test]
fn the_cache_is_where_the_environment_says() {
    let Some(_simulator) = start(1, 3) else {
        return;
    };
    let names = ["SEQSTREAM_CACHE", "XDG_CACHE_HOME", "HOME"];
    let kept = names.map(std::env::var_os);
    let set = |values: [Option<&str>; 3]| {
        for (name, value) in names.into_iter().zip(values) {
            // SAFETY: as in `start`.
            unsafe {
                match value {
                    Some(value) => std::env::set_var(name, value),
                    None => std::env::remove_var(name),
                }
            }
        }
        Algorithms::default_cache().map(|path| path.to_str().unwrap().to_owned())
    };
    let found = [
        set([Some("/a"), Some("/b"), Some("/c")]),
        set([Some(""), Some("/b"), Some("/c")]),
        set([None, None, Some("/c")]),
        set([None, None, None]),
    ];
    set(kept
        .each_ref()
        .map(|value| value.as_ref().map(|v| v.to_str().unwrap())));
    let expected = ["/a", "/b/seqstream", "/c/.cache/seqstream"];
    assert_eq!(found[..3], expected.map(|path| Some(path.to_owned())));
    assert_eq!(found[3], None);
}
