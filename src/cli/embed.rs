//! `seqstream embed`: computes the embeddings of sequences.

use super::args::EmbedArgs;
use super::input::{Noticed, check_inputs, reader_options};
use super::options::EmbedOptions;
use super::progress::{Display, count, duration, signal_name};
use super::recording::Recording;
use super::summary::Summary;
use super::{Console, Failure, algorithms, model, options, share, trace};
use seqstream::architecture::ModelConfig;
use seqstream::bytes::Bytes;
use seqstream::engine::Identity;
use seqstream::model::{Pool, Request};
use seqstream::output::{
    FORMAT, InputSpec, JOB_FILE, JobSpec, ModelSpec, OutputDtype, OutputError,
};
use seqstream::pipeline::{
    Checks, JobError, LengthLimit, Long, MemoryCheck, PackOptions, ReadOptions, Removed,
    RunOptions, Share, Stop,
};
use seqstream::sequence::{
    BadRecords, Chains, Cleaning, Input, InputSummary, Names, SequenceReader,
};
use seqstream::trace::Trace;
use seqstream::untrusted::file;
use seqstream::weights::Checkpoint;
use seqstream::{engine, pipeline};
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
/// Runs `seqstream embed` until a signal stops it.
pub fn run(args: EmbedArgs, console: &Console) -> Result<(), Failure> {
    let options = EmbedOptions::try_from(args)?;
    let share = options.share;
    // Handlers stand from the beginning: without one, SIGUSR1 would end the process with no message
    // and no exit code, and batch systems send it whenever the time of the job is nearly up.
    let stop = Stop::on_signals(options.stopped_code)
        .map_err(|e| Failure::Other(format!("cannot watch for signals: {e}")))?;
    let done = run_until(options, console, &stop);
    if let Err(Failure::Stopped { .. }) = done {
        console.warn(&format!(
            "to go on: {}",
            resume_command(std::env::args_os(), share)
        ));
    }
    done
}

/// Runs the job until `stop` asks it to stop.
pub fn run_until(options: EmbedOptions, console: &Console, stop: &Stop) -> Result<(), Failure> {
    options.warnings.iter().for_each(|text| console.warn(text));
    if let Some(text) = &options.notice {
        console.say(text);
    }
    // Cheap checks come first, because hashing the model and reading the inputs may take minutes.
    if !options.resume && !options.plan && holds_a_job(&options.out)? {
        return Err(JobError::Exists {
            path: options.out.clone(),
        }
        .into());
    }
    let path = options.trace.clone();
    trace::with(path.as_deref(), console, |trace| {
        job(options, trace, stop, console)
    })
}

/// Runs the job. When this returns, nothing adds times of a device to the trace any more.
fn job(
    options: EmbedOptions,
    trace: &Trace,
    stop: &Stop,
    console: &Console,
) -> Result<(), Failure> {
    let found = model::find(&options.model, console)?;
    let checkpoint = model::open(&found.path, console)?;
    let config = checkpoint.config().clone();
    let request = options::request(&options, &config)?;
    let tokenizer = Arc::new(engine::tokenizer(&found.path, &checkpoint)?);
    if tokenizer.vocab_size() > config.vocab {
        return Err(Failure::Vocabulary {
            tokenizer: tokenizer.vocab_size(),
            model: config.vocab,
        });
    }
    let alphabet = engine::alphabet(config.kind);
    let memory = engine::host_memory(&options.device, &checkpoint, &request, options.threads)?;
    let check = |memory| MemoryCheck {
        memory,
        limit: options.limit,
        alphabet,
        cleaning: options.cleaning,
        tokenizer: Arc::clone(&tokenizer),
    };
    let read = ReadOptions {
        alphabet,
        cleaning: options.cleaning,
        strict: options.strict,
        bad_records: options.bad_records,
        memory: memory.map(check),
        shard_size: options.shard_size,
        share: options.share,
    };
    let (summary, input) = check_inputs(&options, &read, console)?;
    let algorithms = algorithms::of_job(&options, console)?;
    let job = engine::Job {
        request: request.clone(),
        half_states: options.output_dtype == OutputDtype::F16,
        token_budget: options.token_budget,
        threads: options.threads,
        longest: longest(&options, &summary),
        memory,
        algorithms: Arc::clone(&algorithms),
        weights: options.weights,
        loading: Default::default(),
        trace: trace.clone(),
    };
    if options.plan {
        let plan = engine::plan(&options.device, &checkpoint, &job)?;
        return console.report(&plan, options.json);
    }
    let checkpoint = Arc::new(checkpoint);
    let start = Instant::now();
    let (hash, engine) = std::thread::scope(|scope| {
        let hashing = std::thread::Builder::new()
            .name("hash".into())
            .spawn_scoped(scope, || hash(&checkpoint, options.threads))
            .map_err(no_thread)?;
        let engine = engine::load(&options.device, &checkpoint, &job).map_err(Failure::from);
        let panicked = |_| Err(Failure::Other("the thread that hashes panicked".into()));
        Ok::<_, Failure>((hashing.join().unwrap_or_else(panicked), engine))
    })?;
    // Warnings come before a failure, because a warning may explain the failure.
    algorithms::warn(&algorithms, console);
    let hash = hash?;
    let mut engine = match engine {
        Err(failure)
            if options.resume && failure.is_refused_table() && holds_a_job(&options.out)? =>
        {
            // The table may lack algorithms because the options differ from the options of the job.
            // In that case the error names these options.
            let asked = |there: &JobSpec| {
                let identity = Identity::of_job(there, &options.device);
                spec(&options, &config, &identity, hash, &request, &summary)
            };
            pipeline::compare_job(&options.out, asked)?;
            return Err(failure);
        }
        engine => engine?,
    };
    console.detail(&format!(
        "hashed the model and set it up in {}: {hash}",
        duration(start.elapsed())
    ));
    model::describe(&engine, &checkpoint, console);
    if request.per_token {
        console.detail(&format!(
            "states of tokens: {} threads write them, up to {} are in memory",
            engine.writing,
            Bytes(engine.states_bytes(&request, options.output_dtype))
        ));
    }
    let mut spec = spec(
        &options,
        &config,
        &engine.identity,
        hash,
        &request,
        &summary,
    );
    spec.model.id = found.id;
    let checks = Checks {
        threads: options.threads,
        input,
    };
    // Only CUDA has a table: on the CPU no matrix product asks for an algorithm.
    let table = algorithms.table().map(|table| table.to_json());
    let job = pipeline::open_job(
        &options.out,
        spec,
        options.resume,
        &checks,
        table.as_deref(),
    )?;
    drop(checks);
    job.dir.warnings().iter().for_each(|w| console.warn(w));
    for Removed { shard, reason } in &job.removed {
        console.warn(&format!("{} is computed again: {reason}", shard.display()));
    }
    if job.resumed {
        console.say(&format!(
            "resuming: {} shards stand already",
            count(job.finished.len() as u64)
        ));
    }
    let run_options = RunOptions {
        read,
        tokenize_threads: engine.tokenizing,
        write_threads: engine.writing,
        pack: PackOptions {
            limit: options.limit,
            capacity: engine.capacity,
            budget: engine.embedder.budget(),
            bad_records: options.bad_records,
        },
        request,
        weights: vec![Arc::clone(&checkpoint)],
        input_records: summary.complete.then_some(summary.records),
        piped: !summary.complete,
        trace: trace.clone(),
    };
    let share = summary
        .complete
        .then(|| options.share.records(summary.records, options.shard_size));
    let mut recording = Recording::begin(Display::new(console, share), &options);
    let records = SequenceReader::with_options(options.inputs.clone(), reader_options(&options));
    stop.begin();
    let report = pipeline::run(
        &job,
        &run_options,
        &mut engine.embedder,
        tokenizer,
        records,
        &mut recording,
        stop,
    );
    recording.finish();
    let report = report?;
    recording.write(&job.dir, &report, console);
    if !summary.complete
        && let Some(manifest) = &report.manifest
    {
        Noticed::of_job(manifest, &report.notes).warn(&options, alphabet, console);
    }
    let summary = Summary::new(&report, &options);
    console.say(&match console.is_verbose() {
        true => format!("{summary:#}"),
        false => summary.to_string(),
    });
    if options.json {
        console.report(&summary, true)?;
    }
    match report.stopped {
        None => Ok(()),
        Some(signal) => {
            console.warn(&format!(
                "stopped by {}; all finished shards are kept",
                signal_name(signal)
            ));
            let code = u8::try_from(128 + signal).unwrap_or(1);
            let code = options.stopped_code.unwrap_or(code);
            Err(Failure::Stopped { code })
        }
    }
}

/// Returns whether there is a job in `out`. If that cannot be determined, it is an error, and not
/// the answer "no".
pub(super) fn holds_a_job(out: &Path) -> Result<bool, Failure> {
    let path = out.join(JOB_FILE);
    match file::is_there(&path) {
        Ok(there) => Ok(there),
        // `out` is not a directory. Opening the job gives the better error message for that.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(false),
        Err(source) => {
            Err(JobError::Output(OutputError::io("look at", &path, None, source)).into())
        }
    }
}

/// Hashes the model on a thread pool of its own, so that other work can run at the same time.
pub(super) fn hash(checkpoint: &Checkpoint, threads: usize) -> Result<String, Failure> {
    // More threads than cores would only change the order in which the disk is read.
    let threads = threads.min(options::cores());
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.map_err(no_thread)?;
    Ok(pool.install(|| checkpoint.hash())?)
}

pub(super) fn no_thread(error: impl std::fmt::Display) -> Failure {
    JobError::NoThread(error.to_string()).into()
}

/// Returns an upper bound on the tokens of the longest sequence that the model will process.
/// Returns `None` if the input was not read in advance.
fn longest(options: &EmbedOptions, summary: &InputSummary) -> Option<usize> {
    // A token stands for one residue, or for one or more bases.
    let content = summary.complete.then_some(summary.longest as usize)?;
    Some(options.limit.map_or(content, |l| content.min(l.max)) + 2)
}

/// Collects everything that decides the bytes of the output.
fn spec(
    options: &EmbedOptions,
    config: &ModelConfig,
    identity: &Identity,
    hash: String,
    request: &Request,
    summary: &InputSummary,
) -> JobSpec {
    let (long, stride) = match options.limit.map(|l| l.long) {
        None => (None, None),
        Some(Long::Truncate) => (Some("truncate"), None),
        Some(Long::Error) => (Some("error"), None),
        Some(Long::Window { stride }) => (Some("window"), Some(stride)),
    };
    // The digests of the inputs that could be read, in order. Pipes have no digest.
    let mut digests = summary.inputs.iter().peekable();
    let inputs = options
        .inputs
        .iter()
        .map(|input| InputSpec {
            name: base_name(input),
            blake3: digests
                .next_if(|d| d.name == *input.name())
                .map(|d| d.blake3.clone()),
        })
        .collect();
    JobSpec {
        format: FORMAT,
        seqstream: env!("CARGO_PKG_VERSION").into(),
        model: ModelSpec {
            id: None,
            blake3: hash,
            config: config.clone(),
        },
        device: identity.device.into(),
        processor: identity.processor.clone(),
        gemm_algorithms: identity.gemm_algorithms.clone(),
        dtype: identity.dtype.into(),
        pool: pool_names(&request.pools),
        per_token: request.per_token,
        layers: request.layers.clone(),
        max_length: options.limit.map(|LengthLimit { max, .. }| max),
        long: long.map(Into::into),
        stride,
        clean: options.cleaning != Cleaning::Off,
        strict: options.strict,
        output_dtype: options.output_dtype,
        shard_size: options.shard_size,
        share: options.share.to_string(),
        names: match options.names {
            Names::First => "first",
            Names::Header => "header",
        }
        .into(),
        gaps: match options.cleaning {
            Cleaning::Ungapped => "drop",
            Cleaning::On | Cleaning::Off => "keep",
        }
        .into(),
        bad_records: match options.bad_records {
            BadRecords::Stop => "stop",
            BadRecords::Skip => "skip",
        }
        .into(),
        chains: match options.chains {
            Chains::Keep => "keep",
            Chains::Split => "split",
        }
        .into(),
        uracil: (summary.counts.uracil > 0).then(|| "T".into()),
        virnucpro: None,
        inputs,
    }
}

/// Returns the poolings as job.json names them.
fn pool_names(pools: &[Pool]) -> String {
    let name = |pool: &Pool| match pool {
        Pool::Mean => "mean",
        Pool::Cls => "cls",
        Pool::Max => "max",
    };
    let names: Vec<&str> = pools.iter().map(name).collect();
    match names.is_empty() {
        true => "none".into(),
        false => names.join(","),
    }
}

pub(super) fn base_name(input: &Input) -> String {
    match input {
        Input::Stdin => "-".into(),
        Input::Path(path) => path
            .file_name()
            .unwrap_or(path.as_os_str())
            .to_string_lossy()
            .into_owned(),
    }
}

/// Returns the command that the user typed, with --resume added. The share that a job array gave is
/// written as a number, so that the command also works outside of the array.
pub(super) fn resume_command(args: impl Iterator<Item = OsString>, share: Share) -> String {
    let mut words: Vec<String> = args.map(|a| quoted(&a.to_string_lossy())).collect();
    let flags = ["--share", "--shard"];
    for i in 1..words.len() {
        let of_array = match words[i].split_once('=') {
            Some((flag, share::SLURM)) => flags.contains(&flag),
            None => words[i] == share::SLURM && flags.contains(&&*words[i - 1]),
            Some(_) => false,
        };
        if of_array {
            words[i] = words[i].replace(share::SLURM, &share.to_string());
        }
    }
    if !words.iter().any(|w| w == "--resume") {
        words.push("--resume".into());
    }
    words.join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_resume_can_be_pasted() {
        let share = Share { index: 2, of: 4 };
        let said = |words: &[&str]| resume_command(words.iter().map(OsString::from), share);
        assert_eq!(
            said(&["seqstream", "embed", "a.fa"]),
            "seqstream embed a.fa --resume"
        );
        assert_eq!(
            said(&["x", "it's me.fa", "--resume", ""]),
            r"x 'it'\''s me.fa' --resume ''"
        );
        assert_eq!(
            said(&["x", "embed", "slurm", "--share", "slurm"]),
            "x embed slurm --share 2/4 --resume"
        );
        assert_eq!(
            said(&[
                "x",
                "embed",
                "--out",
                "slurm",
                "--shard=slurm",
                "--out=slurm"
            ]),
            "x embed --out slurm --shard=2/4 --out=slurm --resume"
        );
    }
}
