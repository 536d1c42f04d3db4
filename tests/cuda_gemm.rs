//! Products by cuBLASLt against sums in f64, their bits, and the choice of algorithms.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)] // the helpers of tests are tests

mod cuda_support;

use std::ffi::{CString, c_char};
use std::fs;
use std::sync::{Arc, Mutex};

use cuda_support::gpu::{Gpu, gpu, wants_real};
use cuda_support::{Simulator, simulator};
use seqstream::backend::cuda::driver::{
    Arena, Context, Observe, Operation, PinnedBuffer, Region, Stream, StreamName,
};
use seqstream::backend::cuda::gemm::{
    Algorithms, Gemm, GemmError, Kind, Operands, Product, ProductSpec, Tuning, WHOLE, WORKSPACE,
    cublaslt,
};
use seqstream::weights::DType;

/// A quick choice: few rows to time, nothing to flush.
const TUNING: Tuning = Tuning {
    rows: 64,
    rounds: 3,
    flush: 1 << 10,
};

/// The simulator; `None`, for a test that cannot do without it, where tests run on a real device.
fn start(devices: u32, seed: u64) -> Option<Simulator> {
    if wants_real() {
        eprintln!("not run: this test is of the simulated driver");
        return None;
    }
    let simulator = simulator(devices, seed);
    // SAFETY: tests hold the simulator, one at a time, before they touch the environment.
    unsafe { std::env::set_var("SEQSTREAM_LIBCUBLASLT", cuda_support::library()) };
    Some(simulator)
}

/// A device that one test holds, real where that is wanted.
enum Held {
    Real(#[expect(dead_code)] Gpu),
    Simulated(#[expect(dead_code)] Simulator),
}

fn device() -> Option<Held> {
    match wants_real() {
        true => gpu(3).map(Held::Real),
        false => start(1, 3).map(Held::Simulated),
    }
}

fn counter(simulator: &Simulator, name: &str) -> u64 {
    let name = CString::new(name).unwrap();
    let counter = simulator.call::<extern "C" fn(*const c_char) -> u64>("seqstream_sim_counter");
    counter(name.as_ptr())
}

fn fault(simulator: &Simulator, order: &str) {
    let order = CString::new(order).unwrap();
    let set = simulator.call::<extern "C" fn(*const c_char) -> i32>("seqstream_sim_set_fault");
    assert_eq!(set(order.as_ptr()), 0);
}

fn gemm(context: &Context) -> Gemm {
    Gemm::load(context, Arc::new(Algorithms::new(None)), TUNING).unwrap()
}

fn spec(outputs: usize, inputs: usize, dtype: DType, kind: Kind, bias: bool) -> ProductSpec {
    ProductSpec {
        outputs,
        inputs,
        dtype,
        kind,
        bias,
        chain: WHOLE,
    }
}

/// Every dtype and kind, with and without bias.
fn every(outputs: usize, inputs: usize) -> Vec<ProductSpec> {
    let mut all = Vec::new();
    for dtype in [DType::F16, DType::Bf16, DType::F32] {
        for kind in [Kind::Store, Kind::Accumulate] {
            for bias in [true, false] {
                all.push(spec(outputs, inputs, dtype, kind, bias));
            }
        }
    }
    all
}

/// Uniform in [-1, 1).
fn random(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

fn encode(dtype: DType, values: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    dtype.encode(values, &mut bytes);
    bytes
}

fn decode(dtype: DType, bytes: &[u8]) -> Vec<f64> {
    let mut values = Vec::new();
    dtype.decode(bytes, &mut values);
    values.into_iter().map(f64::from).collect()
}

/// A device with a stream and memory.
struct Rig {
    context: Context,
    stream: Stream,
    arena: Arena,
    workspace: Region,
}

impl Rig {
    fn new(device: u32) -> Self {
        let context = Context::new(device).unwrap();
        let mut arena = Arena::new(&context, WORKSPACE + (512 << 20)).unwrap();
        Self {
            stream: Stream::new(&context, StreamName::Compute, 0).unwrap(),
            workspace: arena.take("workspace", WORKSPACE).unwrap(),
            context,
            arena,
        }
    }

    /// Makes room: what was uploaded is freed with its last region.
    fn empty(&mut self) {
        let mut arena = Arena::new(&self.context, WORKSPACE + (512 << 20)).unwrap();
        self.workspace = arena.take("workspace", WORKSPACE).unwrap();
        self.arena = arena;
    }

    fn upload(&mut self, bytes: &[u8]) -> Region {
        let region = self.arena.take("operand", bytes.len()).unwrap();
        let mut pinned = PinnedBuffer::new(&self.context, bytes.len()).unwrap();
        // SAFETY: the copy is waited for before anything is touched again.
        unsafe {
            pinned.bytes_mut().copy_from_slice(bytes);
            self.stream.load(&pinned, 0..bytes.len(), &region).unwrap();
        }
        self.stream.synchronize().unwrap();
        region
    }

    fn download(&self, region: &Region) -> Vec<u8> {
        let pinned = PinnedBuffer::new(&self.context, region.bytes()).unwrap();
        // SAFETY: the copy is waited for before it is read.
        unsafe {
            self.stream
                .store(region, &pinned, 0..region.bytes())
                .unwrap();
            self.stream.synchronize().unwrap();
            pinned.bytes().to_vec()
        }
    }
}

/// Operands of a product on the device, and as they are there.
struct Case {
    spec: ProductSpec,
    rows: usize,
    x: Vec<u8>,
    w: Vec<u8>,
    bias: Vec<u8>,
    /// What `out` holds before: NaN if it is stored to.
    before: Vec<u8>,
    at: [Region; 4],
}

/// Bytes after `out`, which no product may touch.
const MARGIN: usize = 512;

impl Case {
    fn new(rig: &mut Rig, spec: &ProductSpec, rows: usize) -> Self {
        let (n, k) = (spec.outputs, spec.inputs);
        let seed = (n * k * rows) as u64;
        let x = encode(spec.dtype, &random(rows * k, seed + 1));
        let w = encode(spec.dtype, &random(n * k, seed + 2));
        let bias = encode(spec.bias_dtype(), &random(n, seed + 3));
        let mut before = match spec.kind {
            Kind::Store => vec![0xff; rows * n * spec.out_dtype().size()],
            Kind::Accumulate => encode(DType::F32, &random(rows * n, seed + 4)),
        };
        before.extend([0xaa; MARGIN]);
        let at = [&x, &w, &bias, &before].map(|bytes| rig.upload(bytes));
        Self {
            spec: *spec,
            rows,
            x,
            w,
            bias,
            before,
            at,
        }
    }

    fn operands(&self) -> Operands {
        let [x, w, bias, out] = [0, 1, 2, 3].map(|i| self.at[i].address());
        Operands { x, w, bias, out }
    }

    /// What the product makes of all rows.
    fn run(&self, rig: &Rig, product: &Product) -> Vec<u8> {
        // SAFETY: operands of these sizes, used on this stream alone.
        unsafe {
            product
                .run(&rig.stream, &rig.workspace, self.operands(), self.rows)
                .unwrap();
        }
        let mut out = rig.download(&self.at[3]);
        let margin = out.split_off(out.len() - MARGIN);
        assert!(margin.iter().all(|byte| *byte == 0xaa), "{}", self.spec);
        out
    }

    /// norm(out - reference) / norm(reference).
    fn error(&self, out: &[u8]) -> f64 {
        let (n, k) = (self.spec.outputs, self.spec.inputs);
        let [x, w] = [&self.x, &self.w].map(|bytes| decode(self.spec.dtype, bytes));
        let bias = decode(self.spec.bias_dtype(), &self.bias);
        let before = decode(self.spec.out_dtype(), &self.before);
        let out = decode(self.spec.out_dtype(), out);
        let (mut difference, mut size) = (0.0, 0.0);
        for row in 0..self.rows {
            for column in 0..n {
                let products = x[row * k..][..k].iter().zip(&w[column * k..][..k]);
                let mut expected: f64 = products.map(|(a, b)| a * b).sum();
                if self.spec.bias {
                    expected += bias[column];
                }
                if self.spec.kind == Kind::Accumulate {
                    expected += before[row * n + column];
                }
                difference += (out[row * n + column] - expected).powi(2);
                size += expected * expected;
            }
        }
        (difference / size).sqrt()
    }
}

/// Sums of `inputs` products in f32, in any order, and one rounding to the output's dtype.
fn tolerance(spec: &ProductSpec) -> f64 {
    let rounding = |dtype| match dtype {
        DType::F32 => 2f64.powi(-24),
        DType::F16 => 2f64.powi(-11),
        DType::Bf16 => 2f64.powi(-8),
    };
    (spec.inputs as f64).sqrt() * rounding(DType::F32) + rounding(spec.out_dtype())
}

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

/// K in chains: as exact as their length says, and each chain of K is there once, whatever is left for the last.
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
            // 352 and 320; 96, 96 and 4.
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
            // A chain's rounding is that of its sums, which grow with the root of what is summed; so is the chains'.
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

#[test]
fn the_fastest_that_sums_k_whole_is_chosen_and_runs_allocate_nothing() {
    // The seed that runs nothing early: under the others what has run already takes no simulated time.
    let Some(simulator) = start(1, 0) else { return };
    let mut rig = Rig::new(0);
    let spec = spec(48, 96, DType::F16, Kind::Accumulate, true);
    let place = |tuning| {
        let algorithms = Arc::new(Algorithms::new(None));
        let gemm = Gemm::load(&rig.context, Arc::clone(&algorithms), tuning).unwrap();
        gemm.product(&spec).unwrap();
        // The second word is the algorithm's place in the simulator's list.
        let json = algorithms.to_json().unwrap();
        let digits = json.find("\"algorithm\":\"").unwrap() + 13;
        json.as_bytes()[digits + 31] as char
    };
    // The list is in cuda-sim/src/cublaslt_algorithms.rs: five traps, a slow one, the best, another.
    assert_eq!(place(TUNING), '6');
    assert_eq!(
        place(Tuning::untimed(64)),
        '5',
        "the library's first that may be used"
    );
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
    // What the library would take by itself splits K: for measurements alone.
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
    let json = algorithms.to_json().unwrap();
    let rig = Rig::new(2);
    let resumed = Arc::new(Algorithms::imposed(&json).unwrap());
    let gemm = Gemm::load(&rig.context, Arc::clone(&resumed), TUNING).unwrap();
    let before = counter(&simulator, "matmuls");
    gemm.product(&spec).unwrap();
    assert_eq!(counter(&simulator, "matmuls"), before);
    assert_eq!(gemm.fingerprint(), algorithms.fingerprint());
    // What the table does not have, or has and should not, is an error: nothing else is taken instead.
    let other = ProductSpec {
        bias: false,
        ..spec
    };
    let error = gemm.product(&other).unwrap_err().to_string();
    assert!(
        error.contains("device 2: there is none for f16 40x72 store"),
        "{error}"
    );
    let word = |place: u64| format!("{place:016x}");
    for (place, reason) in [
        (2, "sums K in 2 parts"),
        (4, "does not serve 1 rows"),
        (99, "CUBLAS_STATUS_INVALID_VALUE"),
    ] {
        let digits = json.find("\"algorithm\":\"").unwrap() + 13;
        let mut bad = json.clone();
        bad.replace_range(digits + 16..digits + 32, &word(place));
        let bad = Arc::new(Algorithms::imposed(&bad).unwrap());
        let gemm = Gemm::load(&rig.context, bad, TUNING).unwrap();
        let error = gemm.product(&spec).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    let old = json.replace("130002", "120805");
    let old = Arc::new(Algorithms::imposed(&old).unwrap());
    let error = Gemm::load(&rig.context, old, TUNING).unwrap_err();
    assert!(matches!(error, GemmError::Imposed { .. }), "{error}");
    assert!(error.hint().unwrap().contains("begun with"));
}

#[test]
fn two_streams_share_a_product() {
    let Some(_held) = device() else { return };
    let spec = spec(24, 40, DType::F16, Kind::Store, true);
    let mut rigs = [Rig::new(0), Rig::new(0)];
    let gemm = gemm(&rigs[0].context);
    let product = gemm.product(&spec).unwrap();
    // Of different rows, with different biases.
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
    assert!(error.hint().unwrap().contains("SEQSTREAM_LIBCUBLASLT"));
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
        std::os::unix::fs::symlink(cuda_support::library(), &library).unwrap();
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

/// What streams were given.
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

/// All of a product's life; what went wrong.
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
            // A code that no driver has: the library answers that something failed.
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
            assert!(error.hint().unwrap().contains("--resume"), "{text}");
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
    // Every call at first, then some of the many of the trials, of which one is like the other.
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
    // A code that the library has and the driver calls out of memory.
    fault(&simulator, "cublasLtMatmul#1:2");
    // SAFETY: as in `Case::run`, here and below.
    let run = |operands, rows| unsafe { product.run(&rig.stream, &rig.workspace, operands, rows) };
    let text = run(case.operands(), 9).unwrap_err().to_string();
    assert_eq!(
        text,
        "cublasLtMatmul failed with 3 (CUBLAS_STATUS_ALLOC_FAILED), device 1, stream compute 0, in f16 16x24 accumulate bias of 9 rows, batch 7"
    );
    // Operands that are not where they have to be are refused before the library sees them.
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
    let small = rig.workspace.part(0..4096);
    // SAFETY: as in `Case::run`.
    let error = unsafe { product.run(&rig.stream, &small, case.operands(), 9) };
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("workspace of 4096 bytes")
    );
    // A device that is lost says so through the library too.
    let lose = simulator.call::<extern "C" fn(u32, i32) -> i32>("seqstream_sim_lose_device");
    assert_eq!(lose(1, 700), 0);
    let error = run(case.operands(), 9).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{text}");
    assert!(error.hint().unwrap().contains("--resume"));
}
