//! Faults: whichever call of a small embedding job fails, and however, the job ends with one error
//! that says which call failed, with which code, and on which device. Nothing of the job is left on
//! the device, and results collected before the failure are right.

use crate::support::cuda;
use crate::support::cuda::real::{not_run, wants_real};
use crate::support::cuda::{Simulator, library, simulator};
use crate::support::stream::{Reports, Watchdog, watchdog};
use seqstream::backend::cuda::{Cuda, CudaBuilder, CudaOptions, LOAD_STREAMS, WeightMode, kernels};
use seqstream::batch::PackedBatch;
use seqstream::dtype::DType;
use seqstream::gpu::cublaslt::{Algorithms, Gemm, Kind, ProductSpec, Tuning, WHOLE};
use seqstream::gpu::driver::Context;
use seqstream::model::{Embedder, Model, Pool, Request};
use seqstream::stream::{StreamManager, StreamOptions};
use seqstream::weights::Checkpoint;
use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::c_char;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Out of memory, illegal address, launch failure, a code unknown to the program, a code that no
/// driver has.
const CODES: [i32; 5] = [2, 700, 719, 999, 54321];
/// The codes among these that lose the context.
const STICKY: [i32; 2] = [700, 719];
/// Calls that submit work to a stream, which can fail later than the call.
const ASYNCHRONOUS: [&str; 4] = [
    "cuLaunchKernel",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cublasLtMatmul",
];

/// Returns the simulator if this test can run: it needs kernels, and a device that can be made to
/// fail.
fn start(seed: u64) -> Option<Simulator> {
    if wants_real() || kernels::FATBINS.is_empty() {
        not_run("it is of the simulated driver, and needs a build with kernels");
        return None;
    }
    let simulator = simulator(1, seed);
    // SAFETY: this test alone holds the simulator, and nothing else here reads the environment
    // meanwhile.
    unsafe { std::env::set_var("SEQSTREAM_LIBCUBLASLT", library()) };
    Some(simulator)
}

/// Returns the function whose call was made to fail, from the simulator's log: `call 17
/// cuMemAlloc_v2 ... [fault] = 2`.
fn failed_function(simulator: &Simulator) -> Option<String> {
    let get = simulator.call::<extern "C" fn(*mut c_char, usize) -> usize>("seqstream_sim_log");
    let mut text = vec![0u8; get(std::ptr::null_mut(), 0)];
    get(text.as_mut_ptr().cast(), text.len());
    let text = String::from_utf8_lossy(&text).into_owned();
    let line = text.lines().find(|line| line.contains(" [fault]"))?;
    line.split(' ').nth(2).map(Into::into)
}

/// Returns whether a function releases something; it has released it whatever it returns.
fn gives_back(function: &str) -> bool {
    ["Free", "Destroy", "Unload", "Release"]
        .iter()
        .any(|word| function.contains(word))
}

/// Returns short sequences, in more batches than there are slots.
fn batches() -> Vec<PackedBatch> {
    let lengths: [&[usize]; 4] = [&[3, 20], &[1], &[17, 2], &[9]];
    let one = |lengths: &&[usize]| {
        let mut batch = PackedBatch::new();
        for n in *lengths {
            let inside = (0..*n).map(|j| 4 + (j * j * 7 + j) as u32 % 20);
            let tokens: Vec<u32> = std::iter::once(0).chain(inside).chain([2]).collect();
            batch.push(&tokens);
        }
        batch
    };
    lengths.iter().map(one).collect()
}

/// The bits of a batch's means.
type Bits = Vec<u32>;

/// Runs a job from start to end; collected results go to `collected`, even if it fails. `done` is
/// called before everything is released.
fn job(
    checkpoint: &Checkpoint,
    algorithms: &Arc<Algorithms>,
    reports: &Reports,
    collected: &mut Vec<Bits>,
    done: impl FnOnce(),
) -> Result<(), Box<dyn Error>> {
    let context = Context::new(0)?;
    let mut manager = StreamManager::new(StreamOptions {
        load: LOAD_STREAMS,
        ..reports.options()
    })?;
    manager.create_streams(std::slice::from_ref(&context))?;
    let manager = Arc::new(manager);
    let options = CudaOptions {
        dtype: DType::F16,
        tokens: Some(128),
        longest: None,
        representations: 2,
        poolings: 1,
        states: false,
        half_states: false,
        upload_slot: None,
        loading: Default::default(),
        weights: WeightMode::Resident,
        deepest: None,
    };
    let streams = Arc::clone(&manager);
    let builder = CudaBuilder::new(streams, &context, Arc::clone(algorithms), options)?;
    let mut model = Model::load(builder, checkpoint.config(), checkpoint)?;
    let request = Request {
        layers: vec![0, 1],
        pools: vec![Pool::Mean],
        per_token: false,
    };
    let mut work = |model: &mut Model<Cuda>| -> Result<(), Box<dyn Error>> {
        let mut batches = batches().into_iter();
        loop {
            let next = match model.free_slots() {
                0 => None,
                _ => batches.next(),
            };
            match next {
                Some(batch) => model.submit(&batch, &request)?,
                None => match model.collect()? {
                    Some(outputs) => {
                        let values = outputs.iter().flat_map(|output| &output.pooled);
                        collected.push(values.map(|value| value.to_bits()).collect());
                    }
                    None => return Ok(()),
                },
            }
        }
    };
    let result = work(&mut model);
    if let Err(error) = &result {
        assert!(manager.check().is_err(), "the job goes on after: {error}");
        let again = model.submit(&batches()[0], &request);
        assert!(again.is_err(), "the model goes on after: {error}");
    }
    done();
    result
}

/// The outcome of faults.
#[derive(Default)]
struct Tally {
    faults: usize,
    errors: usize,
}

/// Tallies by name: a code or a function.
type Table = BTreeMap<String, Tally>;

fn count(table: &mut Table, name: &str, error: bool) {
    let tally = table.entry(name.to_owned()).or_default();
    tally.faults += 1;
    tally.errors += usize::from(error);
}

fn print(title: &str, table: &Table) {
    println!("\n| {title} | faults | errors | results all the same |\n|---|---|---|---|");
    for (name, Tally { faults, errors }) in table {
        println!("| {name} | {faults} | {errors} | {} |", faults - errors);
    }
}

/// Checks the error of a fault at a call of `function`, or of work that failed after its call if
/// `function` is `None`.
fn check_error(what: &str, text: &str, code: i32, function: Option<&str>) {
    let status = if code == 2 { 3 } else { 13 }; // CUBLAS_STATUS_ALLOC_FAILED, _EXECUTION_FAILED
    let driver = format!("failed with {code} (");
    let library = format!("failed with {status} (CUBLAS_STATUS_");
    let mut codes = text.contains(&driver);
    if function.is_none_or(|f| f.starts_with("cublasLt")) {
        codes |= text.contains(&library);
    }
    assert!(codes, "{what}: which code? {text}");
    // Another thread's next call may be the first to report that the context is lost.
    let same = function.is_none_or(|f| text.contains(&format!("{f} failed")));
    let named = same || STICKY.contains(&code);
    assert!(named, "{what}: which call? {text}");
    let of_no_device = ["cuInit", "cuDeviceGetCount"];
    let device = text.contains("device 0") || function.is_some_and(|f| of_no_device.contains(&f));
    assert!(device, "{what}: which device? {text}");
}

struct Sweep {
    checkpoint: Checkpoint,
    algorithms: Arc<Algorithms>,
    right: Vec<Bits>,
    /// The number of calls of a job before it releases what it holds.
    own: u64,
    by_code: Table,
    by_function: Table,
    watchdog: Watchdog,
}

impl Sweep {
    /// Runs a job without a fault first: it gives the right results, and chooses the products'
    /// algorithms.
    fn new() -> Option<Self> {
        let mut sweep = Self {
            checkpoint: cuda::model::random(1, 32, 2, 64),
            algorithms: Arc::new(Algorithms::new(None)),
            right: Vec::new(),
            own: 0,
            by_code: Table::new(),
            by_function: Table::new(),
            watchdog: watchdog("faults"),
        };
        for chosen in [false, true] {
            let simulator = start(0)?;
            let (mut right, mut own) = (Vec::new(), 0);
            let reports = Reports::default();
            let count = || own = simulator.counter("calls");
            job(
                &sweep.checkpoint,
                &sweep.algorithms,
                &reports,
                &mut right,
                count,
            )
            .unwrap();
            simulator.assert_nothing_held("without a fault");
            // Trials of algorithms release what they used; after them no implicit wait for the
            // device is allowed.
            if chosen {
                simulator.assert_nothing_left("without a fault");
            }
            assert_eq!(right.len(), batches().len());
            assert!(
                right
                    .iter()
                    .flatten()
                    .all(|v| f32::from_bits(*v).is_finite())
            );
            (sweep.right, sweep.own) = (right, own);
        }
        Some(sweep)
    }

    /// Runs one job with a fault at `place`, the n-th call of any function or of one function.
    /// Returns false if the job has no such call.
    fn fault(&mut self, place: &str, n: u64, code: i32, later: bool) -> bool {
        let simulator = start(n % 5).unwrap();
        self.watchdog.alive();
        let variant = if later { ":async" } else { "" };
        let what = format!("{place}:{code}{variant}");
        simulator.fault(&what);
        let (reports, mut collected, mut own) = (Reports::default(), Vec::new(), u64::MAX);
        let done = || own = simulator.counter("calls");
        let (checkpoint, algorithms) = (&self.checkpoint, &self.algorithms);
        let ended = catch_unwind(AssertUnwindSafe(|| {
            job(checkpoint, algorithms, &reports, &mut collected, done)
                .map_err(|error| error.to_string())
        }));
        let result = ended.unwrap_or_else(|_| panic!("{what}: it panics, see above"));
        if simulator.counter("faults") == 0 {
            assert_eq!(result, Ok(()), "{what}");
            return false;
        }
        let hit = failed_function(&simulator);
        let what = format!("{what} at {}", hit.as_deref().unwrap_or(place));
        simulator.assert_nothing_held(&what);
        assert_eq!(collected, self.right[..collected.len()], "{what}");
        match &result {
            Err(text) => check_error(&what, text, code, hit.as_deref()),
            Ok(()) => {
                assert_eq!(collected.len(), self.right.len(), "{what}");
                let harmless = match &hit {
                    Some(function) => gives_back(function) || n > own,
                    None => simulator.findings().contains("found no operation to fail"),
                };
                let told = reports.text().contains(&format!("failed with {code} "));
                assert!(harmless || told, "{what} of {own}: nobody was told");
            }
        }
        let function = match &hit {
            Some(function) => function.clone(),
            None => format!("{}, later", place.split('#').next().unwrap()),
        };
        count(&mut self.by_function, &function, result.is_err());
        count(
            &mut self.by_code,
            &format!("{code}{variant}"),
            result.is_err(),
        );
        true
    }
}

#[test]
fn a_fault_at_every_call_of_a_job_is_one_clean_error() {
    let Some(mut sweep) = Sweep::new() else {
        return;
    };
    // Tests each call with one code, and some calls with all codes.
    let mut calls = 0;
    'calls: for n in 1.. {
        let i = n as usize % CODES.len();
        let codes = match n % 41 {
            0 => &CODES[..],
            _ => &CODES[i..=i],
        };
        for code in codes {
            if !sweep.fault(&n.to_string(), n, *code, false) {
                break 'calls;
            }
        }
        calls = n;
    }
    for function in ASYNCHRONOUS {
        for n in 1.. {
            let code = CODES[n as usize % CODES.len()];
            if !sweep.fault(&format!("{function}#{n}"), n, code, true) {
                assert!(n > 1, "{function} is not called");
                break;
            }
        }
    }
    let own = sweep.own;
    println!("\n{calls} calls, of which {own} before the job gives back what it holds");
    print("code", &sweep.by_code);
    print("function", &sweep.by_function);
    let errors: usize = sweep.by_code.values().map(|tally| tally.errors).sum();
    assert!(calls >= own && errors as u64 > own / 2, "{errors} of {own}");
}

#[test]
fn a_fault_at_every_call_of_choosing_an_algorithm_is_one_clean_error() {
    let watchdog = watchdog("faults while choosing");
    let choose = || -> Result<(), Box<dyn Error>> {
        let context = Context::new(0)?;
        let tuning = Tuning {
            rows: 64,
            rounds: 1,
            flush: 1 << 10,
        };
        let gemm = Gemm::load(&context, Arc::new(Algorithms::new(None)), tuning)?;
        gemm.product(&ProductSpec {
            outputs: 16,
            inputs: 16,
            dtype: DType::F16,
            kind: Kind::Store,
            bias: true,
            chain: WHOLE,
        })?;
        Ok(())
    };
    let mut table = Table::new();
    for n in 1.. {
        watchdog.alive();
        let Some(simulator) = start(0) else {
            return;
        };
        let code = CODES[n as usize % CODES.len()];
        simulator.fault(&format!("{n}:{code}"));
        let ended = catch_unwind(|| choose().map_err(|error| error.to_string()));
        let Some(hit) = failed_function(&simulator) else {
            assert!(matches!(ended, Ok(Ok(()))));
            break;
        };
        let what = format!("{n}:{code} at {hit}");
        let result = ended.unwrap_or_else(|_| panic!("{what}: it panics, see above"));
        simulator.assert_nothing_held(&what);
        match &result {
            Err(text) => check_error(&what, text, code, Some(&hit)),
            // The call that makes the context current is also made for every free.
            Ok(()) => assert!(
                gives_back(&hit) || hit == "cuCtxSetCurrent",
                "{what}: nobody was told"
            ),
        }
        count(&mut table, &hit, result.is_err());
    }
    print("function, while choosing", &table);
}
