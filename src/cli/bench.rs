//! `seqstream bench`: measures the speed of a model on this machine, also compared with its matrix
//! products alone.

use super::args::BenchArgs;
use super::cold::cold;
use super::progress::count;
use super::{Console, Failure, algorithms, model, options};
use seqstream::architecture::{ModelConfig, ModelKind};
use seqstream::backend::BackendError;
use seqstream::backend::cuda::Cuda;
use seqstream::batch::PackedBatch;
use seqstream::dtype::DType;
use seqstream::engine::{Device, EngineError, Job};
use seqstream::gpu::cublaslt::Algorithms;
use seqstream::model::{Embedder, Model, Pool, Request};
use seqstream::sequence::{Cleaning, Input, SequenceReader, clean};
use seqstream::weights::Checkpoint;
use seqstream::{backend, engine};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Number of batches per round, by default. It is large enough that filling and emptying the
/// pipeline has little effect.
const BATCHES: usize = 12;

/// The sequences of a measurement.
pub(super) struct Workload {
    /// The name of the workload in the report.
    pub name: String,
    /// The token ids of each sequence.
    pub sequences: Vec<Vec<u32>>,
}

/// The measurements on one workload.
struct Measured {
    tokens: usize,
    batches: usize,
    /// Seconds of each round. All rounds do the same work.
    seconds: Vec<f64>,
    /// On CUDA: tokens per second of the matrix products alone, for each round.
    products: Vec<f64>,
    /// On CUDA: the name, milliseconds and number of calls of each operation, from a separate round
    /// with timed fences around each operation.
    operations: Vec<(String, f64, usize)>,
}

/// Runs `seqstream bench`.
pub fn run(args: &BenchArgs, console: &Console) -> Result<(), Failure> {
    let device = options::device(&args.device, args.dtype, args.streams)?;
    let checkpoint = model::open(&args.model, console)?;
    let config = checkpoint.config().clone();
    let workloads = workloads(args, &checkpoint, console)?;
    let threads = args.threads.unwrap_or_else(options::cores);
    let request = Request {
        layers: vec![config.layers],
        pool: Some(Pool::Mean),
        per_token: args.per_token,
    };
    let longest = workloads.iter().flat_map(|w| &w.sequences).map(Vec::len);
    let longest = longest.max();
    let memory = engine::host_memory(&device, &checkpoint, &request, threads)?;
    if let (Some(memory), Some(longest)) = (memory, longest) {
        engine::fits(&memory, longest)?;
    }
    let job = Job {
        memory,
        request: request.clone(),
        token_budget: args.token_budget,
        threads,
        longest,
        algorithms: match &device {
            Device::Cpu => Arc::new(Algorithms::new(None)),
            Device::Cuda { .. } => algorithms::from_cache(console),
        },
    };
    let measure = Measure {
        request,
        rounds: args.rounds,
        breakdown: args.breakdown,
        console,
    };
    let mut results = Vec::new();
    let (identity, budget, loading) = match &device {
        Device::Cuda {
            devices,
            dtype,
            overlap,
        } if devices.len() == 1 => {
            let on = (devices.as_slice(), *dtype, *overlap);
            let first = workloads.first().filter(|_| args.cold);
            let loading = first.map(|first| cold(on, &checkpoint, &job, first, &measure));
            let loading = loading.transpose()?;
            let mut model = one(on, &checkpoint, &job, console)?;
            let info = model.backend().device();
            let name = format!("{} {}", info.name, dtype.name());
            let budget = model.budget().tokens;
            for workload in &workloads {
                results.push(measure.on_cuda(&mut model, workload, budget)?);
            }
            (name, budget, loading)
        }
        _ => {
            let engine = engine::load(&device, &checkpoint, &job);
            algorithms::warn(&job.algorithms, console);
            let mut engine = engine?;
            model::describe(&engine, &checkpoint, console);
            let name = format!("{} {}", engine.place, engine.identity.dtype);
            let budget = engine.embedder.budget().tokens;
            for workload in &workloads {
                let batches = pack(&workload.sequences, budget);
                results.push(measure.rounds(&mut *engine.embedder, &batches)?);
            }
            (name, budget, None)
        }
    };
    let report = report(&config, &identity, budget, &workloads, &results, loading);
    if args.json {
        return console.print(|out| writeln!(out, "{report}").map_err(Failure::Stdout));
    }
    console.print(|out| table(out, &report).map_err(Failure::Stdout))
}

/// Sets up the model on a single CUDA device.
pub(super) fn one(
    on: (&[u32], DType, bool),
    checkpoint: &Checkpoint,
    job: &Job,
    console: &Console,
) -> Result<Model<Cuda>, Failure> {
    let models = engine::on_cuda(on, checkpoint, job);
    algorithms::warn(&job.algorithms, console);
    let models = models?;
    let model = models.into_iter().next();
    model.ok_or_else(|| EngineError::NoDevice.into())
}

/// The options that all measurements share.
pub(super) struct Measure<'a> {
    request: Request,
    rounds: usize,
    breakdown: bool,
    /// Where messages are printed.
    pub console: &'a Console,
}

impl Measure<'_> {
    /// Runs one round: computes all batches, several of them in flight at once. Returns the time in
    /// seconds.
    pub fn round(&self, model: &mut dyn Embedder, batches: &[PackedBatch]) -> Result<f64, Failure> {
        let start = Instant::now();
        let mut left = batches.len();
        for batch in batches {
            while model.free_slots() == 0 && left > 0 {
                model.collect()?;
                left -= 1;
            }
            model.submit(batch, &self.request)?;
        }
        while model.collect()?.is_some() {}
        Ok(start.elapsed().as_secs_f64())
    }

    fn rounds(
        &self,
        model: &mut dyn Embedder,
        batches: &[PackedBatch],
    ) -> Result<Measured, Failure> {
        // The first round warms up memory, caches and clocks.
        self.round(model, batches)?;
        let seconds: Result<Vec<f64>, Failure> = (0..self.rounds)
            .map(|_| self.round(model, batches))
            .collect();
        Ok(Measured {
            tokens: batches.iter().map(PackedBatch::total).sum(),
            batches: batches.len(),
            seconds: seconds?,
            products: Vec::new(),
            operations: Vec::new(),
        })
    }

    fn on_cuda(
        &self,
        model: &mut Model<Cuda>,
        workload: &Workload,
        budget: usize,
    ) -> Result<Measured, Failure> {
        let failed = |e| Failure::from(BackendError::from(e));
        let batches = pack(&workload.sequences, budget);
        self.console.detail(&format!(
            "{}: {} batches of up to {budget} tokens",
            workload.name,
            batches.len()
        ));
        let mut measured = self.rounds(model, &batches)?;
        for _ in 0..self.rounds {
            let mut milliseconds = 0.0;
            for batch in &batches {
                let time = model.backend_mut().gemms_alone(batch.total());
                milliseconds += f64::from(time.map_err(failed)?);
            }
            let seconds = milliseconds / 1e3;
            measured.products.push(measured.tokens as f64 / seconds);
        }
        if self.breakdown {
            model.backend_mut().profile(true).map_err(failed)?;
            self.round(model, &batches)?;
            let operations = model.backend_mut().profile(false);
            measured.operations = operations.map_err(failed)?;
        }
        Ok(measured)
    }
}

/// Packs consecutive sequences into batches of up to `budget` tokens, as the pipeline does.
pub(super) fn pack(sequences: &[Vec<u32>], budget: usize) -> Vec<PackedBatch> {
    let mut batches = vec![PackedBatch::new()];
    for sequence in sequences {
        let full = |b: &PackedBatch| !b.is_empty() && b.total() + sequence.len() > budget;
        if batches.last().is_some_and(full) {
            batches.push(PackedBatch::new());
        }
        if let Some(batch) = batches.last_mut() {
            batch.push(sequence);
        }
    }
    batches
}

fn workloads(
    args: &BenchArgs,
    checkpoint: &Checkpoint,
    console: &Console,
) -> Result<Vec<Workload>, Failure> {
    if args.lengths.is_empty() && args.fasta.is_empty() {
        return Err(Failure::Usage {
            message: "there is nothing to measure".into(),
            hint: Some("add --lengths 350, or --fasta FILE, or both".into()),
        });
    }
    let config = checkpoint.config();
    let mut found = Vec::new();
    for &length in &args.lengths {
        let tokens = args.tokens.unwrap_or(BATCHES * 33_792);
        let count = tokens.div_ceil(length);
        let sequences = (0..count).map(|i| random(config, length, i as u64));
        found.push(Workload {
            name: format!("length {length}"),
            sequences: sequences.collect(),
        });
    }
    for path in &args.fasta {
        found.push(from_file(path, args, checkpoint, console)?);
    }
    Ok(found)
}

/// Makes a random sequence of `length` tokens, including special tokens.
fn random(config: &ModelConfig, length: usize, seed: u64) -> Vec<u32> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d;
    let (first, last, from, to) = match config.kind {
        // The twenty standard amino acids.
        ModelKind::Esm2 => (0, 2, 4, 24),
        // Every token except the special tokens.
        ModelKind::Dnabert => (1, 2, 5, config.vocab as u64),
    };
    (0..length)
        .map(|i| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            match i {
                0 => first,
                _ if i + 1 == length => last,
                _ => (from + (x >> 11) % (to - from).max(1)) as u32,
            }
        })
        .collect()
}

/// Reads the sequences of a file and repeats them until there are enough tokens.
fn from_file(
    path: &PathBuf,
    args: &BenchArgs,
    checkpoint: &Checkpoint,
    console: &Console,
) -> Result<Workload, Failure> {
    let alphabet = engine::alphabet(checkpoint.config().kind);
    let tokenizer = engine::tokenizer(&args.model, checkpoint)?;
    let mut sequences = Vec::new();
    let (start, mut bases) = (Instant::now(), 0);
    let mut spent = Duration::ZERO;
    for record in SequenceReader::new(vec![Input::from(path)]) {
        let mut record = record?;
        clean(alphabet, Cleaning::On, false, &mut record)?;
        let mut ids = Vec::new();
        let before = start.elapsed();
        tokenizer.encode(&record.sequence, &mut ids);
        spent += start.elapsed() - before;
        bases += record.sequence.len();
        sequences.push(ids);
    }
    console.detail(&format!(
        "{}: {} sequences, tokenized at {:.1} MB/s by one thread",
        path.display(),
        count(sequences.len() as u64),
        bases as f64 / 1e6 / spent.as_secs_f64().max(1e-9),
    ));
    let once: usize = sequences.iter().map(Vec::len).sum();
    if once == 0 {
        return Err(Failure::Usage {
            message: format!("{} holds no sequences", path.display()),
            hint: None,
        });
    }
    let wanted = args.tokens.unwrap_or(BATCHES * 33_792);
    let again = wanted.div_ceil(once).max(1);
    let all = (0..again).flat_map(|_| sequences.iter().cloned());
    Ok(Workload {
        name: path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        sequences: all.collect(),
    })
}

/// Returns the median, or NaN if there are no values.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn report(
    config: &ModelConfig,
    place: &str,
    budget: usize,
    workloads: &[Workload],
    results: &[Measured],
    loading: Option<Value>,
) -> Value {
    let one = |(workload, m): (&Workload, &Measured)| {
        let rates: Vec<f64> = m.seconds.iter().map(|s| m.tokens as f64 / s).collect();
        let rate = median(&rates);
        let mut value = json!({
            "workload": workload.name,
            "tokens": m.tokens,
            "batches": m.batches,
            "tokens_per_second": rate,
            "rounds": rates,
        });
        if !m.products.is_empty() {
            let products = median(&m.products);
            value["products_alone_tokens_per_second"] = json!(products);
            value["of_products_alone"] = json!(rate / products);
        }
        if !m.operations.is_empty() {
            let total: f64 = m.operations.iter().map(|(_, ms, _)| ms).sum();
            let rows = m.operations.iter().map(|(name, ms, calls)| {
                json!({"operation": name, "milliseconds": ms, "calls": calls, "share": ms / total})
            });
            value["operations"] = rows.collect();
        }
        value
    };
    let mut report = json!({
        "model": format!("{} {}x{}", config.kind, config.layers, config.hidden),
        "place": place,
        "simd": backend::simd_name(),
        "token_budget": budget,
        "workloads": workloads.iter().zip(results).map(one).collect::<Vec<_>>(),
    });
    if let Some(loading) = loading {
        report["cold_start"] = loading;
    }
    report
}

fn table(out: &mut dyn std::io::Write, report: &Value) -> std::io::Result<()> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let number = |v: &Value| v.as_f64().unwrap_or(f64::NAN);
    writeln!(
        out,
        "{}, {}",
        text(&report["model"]),
        text(&report["place"])
    )?;
    for w in report["workloads"].as_array().into_iter().flatten() {
        write!(
            out,
            "{:<24} {:>12} tokens/s",
            text(&w["workload"]),
            count(number(&w["tokens_per_second"]) as u64)
        )?;
        if w["of_products_alone"].is_number() {
            write!(
                out,
                ", {:.1} % of the products alone ({})",
                100.0 * number(&w["of_products_alone"]),
                count(number(&w["products_alone_tokens_per_second"]) as u64)
            )?;
        }
        writeln!(out)?;
        for o in w["operations"].as_array().into_iter().flatten() {
            writeln!(
                out,
                "  {:<22} {:>10.2} ms {:>6.1} %, {} calls",
                text(&o["operation"]),
                number(&o["milliseconds"]),
                100.0 * number(&o["share"]),
                o["calls"]
            )?;
        }
    }
    let cold = &report["cold_start"];
    if cold.is_object() {
        writeln!(
            out,
            "cold start: {:.3} s to load, {:.3} s to compute, {:.3} s overlapped, of about {:.3} at least: {:.1} % of what could be \
             hidden is",
            number(&cold["load_seconds"]),
            number(&cold["compute_seconds"]),
            number(&cold["overlapped_seconds"]),
            number(&cold["least_seconds"]),
            100.0 * number(&cold["hidden_of_what_could_be"])
        )?;
    }
    Ok(())
}
