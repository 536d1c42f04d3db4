//! `seqstream bench`: measures the speed of a model on this machine, also compared with its matrix
//! products alone.

use std::path::Path;
use std::sync::Arc;

use super::args::BenchArgs;
use super::{Console, Failure, algorithms, model, options};
use seqstream::engine;
use seqstream::engine::{Device, Job};
use seqstream::gpu::cublaslt::Algorithms;
use seqstream::model::{Pool, Request};
use seqstream::study::{self, BenchOptions, Note, Workload};
use seqstream::weights::Checkpoint;

/// Number of tokens per round, by default: 12 batches. That is enough for filling and emptying the
/// pipeline to have little effect.
const TOKENS: usize = 12 * 33_792;

/// Runs `seqstream bench`.
pub fn run(args: &BenchArgs, console: &Console) -> Result<(), Failure> {
    let device = options::device(&args.device, args.dtype, args.streams)?;
    let checkpoint = model::open(&args.model, console)?;
    let config = checkpoint.config();
    let workloads = workloads(args, &checkpoint, console)?;
    let threads = args.threads.unwrap_or_else(options::cores);
    let request = Request {
        layers: vec![config.layers],
        pool: Some(Pool::Mean),
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
    };
    let options = BenchOptions {
        rounds: args.rounds,
        breakdown: args.breakdown,
        cold: args.cold,
    };
    let mut note = |note: Note<'_>| match note {
        Note::Loaded(engine) => model::describe(engine, &checkpoint, console),
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
    console.report(&report?, args.json)
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
    let tokens = args.tokens.unwrap_or(TOKENS);
    let random = |length: &usize| Workload::random(checkpoint.config(), *length, tokens);
    let mut found: Vec<Workload> = args.lengths.iter().map(random).collect();
    for path in &args.fasta {
        found.push(read(path, tokens, args, checkpoint, console)?);
    }
    Ok(found)
}

fn read(
    path: &Path,
    tokens: usize,
    args: &BenchArgs,
    checkpoint: &Checkpoint,
    console: &Console,
) -> Result<Workload, Failure> {
    let alphabet = engine::alphabet(checkpoint.config().kind);
    let tokenizer = engine::tokenizer(&args.model, checkpoint)?;
    let (workload, reading) = Workload::read(path, alphabet, &tokenizer, tokens)?;
    console.detail(&format!("{}: {reading}", path.display()));
    if workload.sequences.is_empty() {
        return Err(Failure::Usage {
            message: format!("{} holds no sequences", path.display()),
            hint: None,
        });
    }
    Ok(workload)
}
