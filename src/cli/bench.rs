//! `seqstream bench`: measures the speed of a model on this machine, also compared with its matrix
//! products alone.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use super::args::{BenchArgs, SwitchArg};
use super::{Console, Failure, algorithms, model, options, trace};
use seqstream::backend::cuda::WeightMode;
use seqstream::engine;
use seqstream::engine::{Device, Job};
use seqstream::gpu::cublaslt::Algorithms;
use seqstream::model::{Pool, Request};
use seqstream::output::OutputError;
use seqstream::report::ReportError;
use seqstream::study::simulate::{self, SimulateOptions};
use seqstream::study::{
    self, BenchOptions, BenchReport, Comparison, Earlier, Note, Workload, figures,
};
use seqstream::trace::Trace;
use seqstream::untrusted::file;
use seqstream::weights::Checkpoint;

/// Number of tokens per round, by default: 12 batches. That is enough for filling and emptying the
/// pipeline to have little effect.
const TOKENS: usize = 12 * 33_792;

/// The most bytes of an earlier report.
const MOST_REPORT: u64 = 64 << 20;

/// Runs `seqstream bench`.
pub fn run(args: &BenchArgs, console: &Console) -> Result<(), Failure> {
    // What can be wrong with these files is said before anything is measured.
    let earlier = args.compare.as_deref().map(earlier).transpose()?;
    let figure = args.figure.as_deref().map(create).transpose()?;
    let path = args.trace.as_deref();
    trace::with(path, console, |trace| {
        let report = match &args.simulate {
            Some(machine) => predict(machine, args, trace, console)?,
            None => measure(args, trace, console)?,
        };
        // Only a plan was asked for.
        let Some(mut report) = report else {
            return Ok(());
        };
        report.comparison = earlier.as_ref().map(|old| Comparison::new(old, &report));
        if let (Some(mut file), Some(path)) = (figure, &args.figure) {
            let roofline = figures::roofline(&report).unwrap_or_default();
            let written = file.write_all(roofline.as_bytes());
            written.map_err(|e| unwritable(path, e))?;
        }
        console.report(&report, args.json)
    })
}

/// Reads an earlier report.
fn earlier(path: &Path) -> Result<Earlier, Failure> {
    let wrong = |reason: String| Failure::Usage {
        message: format!("--compare {}: {reason}", path.display()),
        hint: Some("give a file that seqstream bench --json has printed".into()),
    };
    let text = file::read_text(path, MOST_REPORT).map_err(|e| wrong(e.to_string()))?;
    serde_json::from_str(&text).map_err(|e| wrong(format!("it is no report of bench: {e}")))
}

fn create(path: &Path) -> Result<File, Failure> {
    File::create(path).map_err(|e| unwritable(path, e))
}

fn unwritable(path: &Path, source: io::Error) -> Failure {
    ReportError::Write(OutputError::io("write", path, None, source)).into()
}

fn measure(
    args: &BenchArgs,
    trace: &Trace,
    console: &Console,
) -> Result<Option<BenchReport>, Failure> {
    let device = options::device(&args.device, args.dtype, args.streams)?;
    let weights = options::weights(args.weights, args.plan, &device)?;
    let one = matches!(&device, Device::Cuda { devices, .. } if devices.len() == 1);
    if args.cold && !one {
        return Err(Failure::Usage {
            message: format!(
                "--cold --device {}: cold starts are those of one CUDA device",
                args.device
            ),
            hint: Some("give one device, such as --device cuda:0, or leave out --cold".into()),
        });
    }
    if (args.breakdown || args.figure.is_some()) && !one && device != Device::Cpu {
        return Err(Failure::Usage {
            message: format!(
                "--device {}: operations are timed on the CPU or on one CUDA device",
                args.device
            ),
            hint: Some("give one device, such as --device cuda:0".into()),
        });
    }
    let weights = match (weights, args.cold) {
        (WeightMode::Streamed { .. }, true) => {
            return Err(Failure::Usage {
                message: "--cold measures the loading of weights that stay on the device".into(),
                hint: Some("leave out --cold, or use --weights resident".into()),
            });
        }
        (WeightMode::Auto, true) => WeightMode::Resident,
        (weights, _) => weights,
    };
    let path = &model::find(&args.model, console)?.path;
    let checkpoint = model::open(path, console)?;
    let config = checkpoint.config();
    let workloads = workloads(args, path, &checkpoint, console)?;
    let threads = args.threads.unwrap_or_else(options::cores);
    let request = Request {
        layers: vec![config.layers],
        pools: vec![Pool::Mean],
        per_token: args.per_token,
    };
    let longest = workloads.iter().filter_map(Workload::longest).max();
    let memory = engine::host_memory(&device, &checkpoint, &request, threads)?;
    if let (Some(memory), Some(longest)) = (memory, longest) {
        engine::fits(&memory, longest)?;
    }
    let job = Job {
        memory,
        request,
        half_states: false,
        token_budget: args.token_budget,
        threads,
        longest,
        algorithms: match &device {
            Device::Cpu => Arc::new(Algorithms::new(None)),
            Device::Cuda { .. } => algorithms::from_cache(console),
        },
        weights,
        loading: Default::default(),
        trace: trace.clone(),
    };
    if args.plan {
        console.report(&engine::plan(&device, &checkpoint, &job)?, args.json)?;
        return Ok(None);
    }
    let options = BenchOptions {
        rounds: args.rounds,
        breakdown: args.breakdown || args.figure.is_some(),
        cold: args.cold,
    };
    let mut note = |note: Note<'_>| match note {
        Note::Loaded(engine) => model::describe(engine, &checkpoint, console),
        Note::Planned(plan) => model::plan(plan, console),
        Note::Measuring {
            workload,
            batches,
            budget,
        } => console.detail(&format!(
            "{workload}: {batches} batches of up to {budget} tokens"
        )),
    };
    let report = study::bench(&device, &checkpoint, &job, &workloads, options, &mut note);
    // Warnings come before a failure, because a warning may explain the failure.
    algorithms::warn(&job.algorithms, console);
    Ok(Some(report?))
}

/// Predicts the speed on a machine of which there is only a description.
fn predict(
    machine: &Path,
    args: &BenchArgs,
    trace: &Trace,
    console: &Console,
) -> Result<Option<BenchReport>, Failure> {
    let config = model::sizes(&args.model, console)?;
    let simulated = SimulateOptions {
        dtype: options::on_cuda(args.dtype),
        overlap: args.streams == SwitchArg::On,
        ..SimulateOptions::default()
    };
    let simulation = simulate::open(machine, &config, &simulated)?;
    let workloads = workloads(args, &args.model, &simulation.checkpoint, console)?;
    let job = Job {
        memory: None,
        request: Request {
            layers: vec![config.layers],
            pools: vec![Pool::Mean],
            per_token: args.per_token,
        },
        half_states: false,
        token_budget: args.token_budget,
        threads: args.threads.unwrap_or_else(options::cores),
        longest: workloads.iter().filter_map(Workload::longest).max(),
        // A choice of the simulated library is of no use to a later job.
        algorithms: Arc::new(Algorithms::new(None)),
        weights: options::weights(args.weights, args.plan, &simulation.device)?,
        loading: Default::default(),
        trace: trace.clone(),
    };
    if args.plan {
        let plan = engine::plan(&simulation.device, &simulation.checkpoint, &job)?;
        console.report(&plan, args.json)?;
        return Ok(None);
    }
    let first = workloads.first().filter(|_| args.cold);
    let cold = first.map(|first| simulate::cold(&simulation, &job, first));
    let cold_start = cold.transpose()?;
    let report = simulate::predict(&simulation, &job, &workloads, args.rounds)?;
    Ok(Some(BenchReport {
        cold_start,
        ..report
    }))
}

fn workloads(
    args: &BenchArgs,
    model: &Path,
    checkpoint: &Checkpoint,
    console: &Console,
) -> Result<Vec<Workload>, Failure> {
    if args.lengths.is_empty() && args.fasta.is_empty() {
        return Err(Failure::Usage {
            message: "there is nothing to measure".into(),
            hint: Some("add --lengths 350, or --fasta FILE, or both".into()),
        });
    }
    let tokens = args.tokens.unwrap_or(TOKENS);
    let random = |length: &usize| Workload::random(checkpoint.config(), *length, tokens);
    let mut found: Vec<Workload> = args.lengths.iter().map(random).collect();
    for path in &args.fasta {
        found.push(read(path, tokens, args, model, checkpoint, console)?);
    }
    Ok(found)
}

fn read(
    path: &Path,
    tokens: usize,
    args: &BenchArgs,
    model: &Path,
    checkpoint: &Checkpoint,
    console: &Console,
) -> Result<Workload, Failure> {
    let alphabet = engine::alphabet(checkpoint.config().kind);
    let tokenizer = engine::tokenizer(model, checkpoint)?;
    let (workload, reading) =
        Workload::read(path, alphabet, &tokenizer, tokens, args.bad_records.into())?;
    console.detail(&format!("{}: {reading}", path.display()));
    if workload.sequences.is_empty() {
        return Err(Failure::Usage {
            message: format!("{} holds no sequences", path.display()),
            hint: None,
        });
    }
    Ok(workload)
}
