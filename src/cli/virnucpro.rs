//! `seqstream virnucpro`: scores contigs as VirNucPro does.

use super::args::{DuplicateIdsArg, FeaturesArg, FormatArg, StyleArg, VectorsArg, VirnucproArgs};
use super::embed::{base_name, hash, holds_a_job, no_thread, resume_command};
use super::input::{counted, example};
use super::options::{self, usage};
use super::progress::{Display, count, duration, signal_name};
use super::{Console, Failure, algorithms, machine, model, share, trace};
use seqstream::architecture::ModelKind;
use seqstream::backend::cuda::WeightMode;
use seqstream::bytes::Bytes;
use seqstream::engine::{self, Device, Engine, Identity};
use seqstream::hub::Found;
use seqstream::model::{Pool, Request};
use seqstream::output::{
    FORMAT, Features, InputSpec, JobSpec, ManifestHead, ModelSpec, OutputDtype, Vectors,
    VirnucproSpec, list_shards,
};
use seqstream::pipeline::{
    self, Checks, Chunks, ContigNames, DuplicateIds, FragmentOptions, JobError, JoinOptions, Lane,
    MemoryCheck, PackOptions, ReadOptions, Records, Removed, Report, RunOptions, Score, Share,
    StandingShards, Stop, contig_size, rule_spec,
};
use seqstream::sequence::{
    BadRecords, Cleaning, Input, InputDigest, ReaderOptions, Record, SequenceError, SequenceReader,
    Tokenizer, only_once,
};
use seqstream::trace::Trace;
use seqstream::virnucpro::{Classifier, ContigRule, Style, TableCounts};
use seqstream::weights::Checkpoint;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The most residues of a protein of which the original takes the mean.
const MEAN_RESIDUES: usize = 1024;

/// Runs `seqstream virnucpro`.
pub fn run(args: VirnucproArgs, console: &Console) -> Result<(), Failure> {
    let options = Options::try_from(args)?;
    // Handlers stand from the beginning, as for `embed`.
    let stop = Stop::on_signals(options.stopped_code)
        .map_err(|e| Failure::Other(format!("cannot watch for signals: {e}")))?;
    options.warnings.iter().for_each(|text| console.warn(text));
    if let Some(text) = &options.notice {
        console.say(text);
    }
    // Cheap checks come first, because hashing the models and reading the inputs may take minutes.
    if !options.resume && holds_a_job(&options.out)? {
        return Err(JobError::Exists {
            path: options.out.clone(),
        }
        .into());
    }
    let path = options.trace.clone();
    trace::with(path.as_deref(), console, |trace| {
        job(&options, trace, &stop, console)
    })
}

/// The checked options.
#[derive(Debug)]
struct Options {
    inputs: Vec<Input>,
    out: PathBuf,
    resume: bool,
    dna_model: PathBuf,
    protein_model: PathBuf,
    features: Features,
    classifier: Option<PathBuf>,
    chunk: usize,
    duplicates: DuplicateIds,
    bad_records: BadRecords,
    keep_fragments: bool,
    style: Style,
    vectors: Vectors,
    torch_files: bool,
    rule: ContigRule,
    device: Device,
    weights: WeightMode,
    threads: usize,
    token_budget: Option<usize>,
    share: Share,
    /// Where the share comes from, if a job array gave it.
    notice: Option<String>,
    warnings: Vec<String>,
    /// The exit code of a job that a signal stopped, if the user gave one.
    stopped_code: Option<u8>,
    shard_size: u64,
    gemm_algorithms: Option<PathBuf>,
    trace: Option<PathBuf>,
    json: bool,
}

impl TryFrom<VirnucproArgs> for Options {
    type Error = Failure;

    fn try_from(args: VirnucproArgs) -> Result<Self, Failure> {
        let device = options::device(&args.device, args.dtype, args.streams)?;
        if args.gemm_algorithms.is_some() && device == Device::Cpu {
            return Err(usage(
                "--gemm-algorithms is for CUDA devices: on the CPU there is nothing to choose",
                "leave it out, or add --device cuda",
            ));
        }
        let weights = options::weights(args.weights, false, &device)?;
        let inputs: Vec<Input> = args.inputs.iter().map(Input::from).collect();
        if inputs.iter().filter(|i| matches!(i, Input::Stdin)).count() > 1 {
            return Err(usage(
                "standard input (-) can be read only once",
                "name it once",
            ));
        }
        let duplicates = match args.duplicate_ids {
            DuplicateIdsArg::Error => DuplicateIds::Error,
            DuplicateIdsArg::Suffix => DuplicateIds::Suffix,
        };
        if duplicates == DuplicateIds::Suffix && inputs.iter().any(only_once) {
            return Err(usage(
                "--duplicate-ids suffix needs to read the input twice, and a pipe can be read only once",
                "write the input to a file and give that",
            ));
        }
        let features = match args.features {
            FeaturesArg::Both => Features::Both,
            FeaturesArg::Dna => Features::Dna,
            FeaturesArg::Protein => Features::Protein,
        };
        if args.chunk < 3 {
            return Err(usage(
                format!("--chunk {} is shorter than a codon", args.chunk),
                "give 500 or 300, as the classifier was trained",
            ));
        }
        if args.chunk / 3 > MEAN_RESIDUES && features != Features::Dna {
            return Err(usage(
                format!(
                    "--chunk {}: of a protein of more than {MEAN_RESIDUES} residues VirNucPro describes only the first {MEAN_RESIDUES}, which this program does not do",
                    args.chunk
                ),
                format!("give at most {}, or --features dna", 3 * MEAN_RESIDUES + 2),
            ));
        }
        let torch_files = args.format == FormatArg::Virnucpro;
        let vectors = match (args.vectors, &args.classifier) {
            (Some(VectorsArg::None), None) => {
                return Err(usage(
                    "--vectors none without --classifier leaves nothing to write",
                    "give a classifier, or leave --vectors out",
                ));
            }
            (Some(VectorsArg::None | VectorsArg::Merged), _) if torch_files => {
                return Err(usage(
                    "--format virnucpro writes the vectors of each model, so --vectors must be all",
                    "leave --vectors out",
                ));
            }
            (_, _) if torch_files => Vectors::All,
            (Some(VectorsArg::None), _) | (None, Some(_)) => Vectors::None,
            (Some(VectorsArg::Merged), _) | (None, None) => Vectors::Merged,
            (Some(VectorsArg::All), _) => Vectors::All,
        };
        let asked = share::read(&args.share, &|name| {
            std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
        })?;
        Ok(Self {
            inputs,
            out: args.out,
            resume: args.resume,
            dna_model: args.dna_model,
            protein_model: args.protein_model,
            features,
            classifier: args.classifier,
            chunk: args.chunk,
            duplicates,
            bad_records: args.bad_records.into(),
            keep_fragments: args.keep_fragments,
            style: match args.style {
                StyleArg::Original => Style::Original,
                StyleArg::Broad => Style::Broad,
            },
            vectors,
            torch_files,
            rule: ContigRule {
                call_delta: args.call_delta,
                high_delta: args.high_delta,
                confident_above: args.confident_above,
                confident_below: args.confident_below,
                ambiguous_above: args.ambiguous_above,
                least_viral_share: args.least_viral_share,
                least_nonviral_share: args.least_nonviral_share,
                least_chunks: args.least_chunks,
            },
            device,
            weights,
            threads: args.threads.unwrap_or_else(options::cores),
            token_budget: args.token_budget,
            share: asked.share,
            notice: asked.notice,
            warnings: asked.warning.into_iter().collect(),
            stopped_code: args.stopped_code,
            shard_size: args.shard_size as u64,
            gemm_algorithms: args.gemm_algorithms,
            trace: args.trace,
            json: args.json,
        })
    }
}

/// A model whose files are open.
struct OpenModel {
    found: Found,
    checkpoint: Arc<Checkpoint>,
    tokenizer: Arc<Tokenizer>,
    request: Request,
    memory: Option<engine::HostMemory>,
    /// The most tokens of a sequence that it reads.
    longest: usize,
}

impl OpenModel {
    fn open(
        option: &str,
        given: &Path,
        kind: ModelKind,
        options: &Options,
        console: &Console,
    ) -> Result<Self, Failure> {
        let found = model::find(given, console)?;
        let checkpoint = model::open(&found.path, console)?;
        let config = checkpoint.config();
        if config.kind != kind {
            return Err(usage(
                format!(
                    "{option}: {} is {}, and {kind} is needed",
                    given.display(),
                    config.kind
                ),
                match kind {
                    ModelKind::Dnabert => "give DNABERT-S, or the protein model by --protein-model",
                    ModelKind::Esm2 => "give an ESM-2, or the DNA model by --dna-model",
                },
            ));
        }
        let tokenizer = Arc::new(engine::tokenizer(&found.path, &checkpoint)?);
        if tokenizer.vocab_size() > config.vocab {
            return Err(Failure::Vocabulary {
                tokenizer: tokenizer.vocab_size(),
                model: config.vocab,
            });
        }
        let request = Request {
            layers: vec![config.layers],
            pools: vec![Pool::Mean],
            per_token: false,
        };
        let memory = engine::host_memory(&options.device, &checkpoint, &request, options.threads)?;
        let letters = match kind {
            ModelKind::Dnabert => options.chunk,
            ModelKind::Esm2 => options.chunk / 3,
        };
        Ok(Self {
            found,
            checkpoint: Arc::new(checkpoint),
            tokenizer,
            request,
            memory,
            longest: letters + 2,
        })
    }

    fn width(&self) -> usize {
        self.checkpoint.config().hidden
    }

    /// The check of the memory that a fragment needs.
    fn check(&self) -> Option<MemoryCheck> {
        self.memory.map(|memory| MemoryCheck {
            memory,
            limit: None,
            alphabet: engine::alphabet(self.checkpoint.config().kind),
            cleaning: Cleaning::Off,
            tokenizer: Arc::clone(&self.tokenizer),
        })
    }
}

/// Runs the job.
fn job(options: &Options, trace: &Trace, stop: &Stop, console: &Console) -> Result<(), Failure> {
    let open =
        |option: &str, given: &Path, kind| OpenModel::open(option, given, kind, options, console);
    let dna = || open("--dna-model", &options.dna_model, ModelKind::Dnabert);
    let protein = || open("--protein-model", &options.protein_model, ModelKind::Esm2);
    let models = match options.features {
        Features::Both => vec![dna()?, protein()?],
        Features::Dna => vec![dna()?],
        Features::Protein => vec![protein()?],
    };
    let classifier = options.classifier.as_deref();
    let classifier = classifier
        .map(|path| classifier_for(path, &models))
        .transpose()?;
    let input = check_inputs(options, console)?;
    let choice = algorithms::Choice {
        device: &options.device,
        gemm_algorithms: options.gemm_algorithms.as_deref(),
        resume: options.resume,
        out: &options.out,
    };
    let algorithms = algorithms::of_job(choice, console)?;
    let load = |model: &OpenModel| {
        let job = engine::Job {
            request: model.request.clone(),
            half_states: false,
            token_budget: options.token_budget,
            threads: options.threads,
            longest: Some(model.longest),
            memory: model.memory,
            algorithms: Arc::clone(&algorithms),
            weights: match model.checkpoint.config().kind {
                ModelKind::Esm2 => options.weights,
                // It is small beside any ESM-2 that is worth streaming.
                ModelKind::Dnabert => WeightMode::Auto,
            },
            loading: Default::default(),
            trace: trace.clone(),
        };
        engine::load(&options.device, &model.checkpoint, &job).map_err(Failure::from)
    };
    let start = Instant::now();
    let (hashes, engines) = std::thread::scope(|scope| {
        let hash_all = || -> Result<Vec<String>, Failure> {
            let hashes = models.iter().map(|m| hash(&m.checkpoint, options.threads));
            hashes.collect()
        };
        let hashing = std::thread::Builder::new()
            .name("hash".into())
            .spawn_scoped(scope, hash_all)
            .map_err(no_thread)?;
        let engines: Result<Vec<Engine>, Failure> = models.iter().map(load).collect();
        let panicked = |_| Err(Failure::Other("the thread that hashes panicked".into()));
        Ok::<_, Failure>((hashing.join().unwrap_or_else(panicked), engines))
    })?;
    algorithms::warn(&algorithms, console);
    let (hashes, mut engines) = (hashes?, engines?);
    console.detail(&format!(
        "hashed the models and set them up in {}",
        duration(start.elapsed())
    ));
    for (engine, model) in engines.iter().zip(&models) {
        model::describe(engine, &model.checkpoint, console);
    }
    // The table of algorithms is shared, so the last model's digest is that of all GEMMs.
    let Some(identity) = engines.last().map(|engine| engine.identity.clone()) else {
        return Err(Failure::Other("a job without a model".into()));
    };
    let spec = spec(
        options,
        &models,
        hashes,
        &identity,
        classifier.as_deref(),
        &input,
    );
    let checks = Checks {
        threads: options.threads,
        input: input.standing,
    };
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
    let tokenizing = engines.iter().map(|e| e.tokenizing).max().unwrap_or(1);
    let writing = engines.iter().map(|e| e.writing).max().unwrap_or(1);
    let pack = |engine: &Engine| PackOptions {
        limit: None,
        capacity: engine.capacity,
        budget: engine.embedder.budget(),
        bad_records: BadRecords::Stop,
    };
    let (Some(first), Some(first_pack)) = (models.first(), engines.first().map(pack)) else {
        return Err(Failure::Other("a job without a model".into()));
    };
    let run_options = RunOptions {
        read: ReadOptions {
            alphabet: engine::alphabet(first.checkpoint.config().kind),
            cleaning: Cleaning::Off,
            strict: false,
            bad_records: options.bad_records,
            memory: None,
            shard_size: options.shard_size,
            share: options.share,
        },
        tokenize_threads: tokenizing,
        write_threads: writing,
        pack: first_pack,
        request: first.request.clone(),
        weights: models.iter().map(|m| Arc::clone(&m.checkpoint)).collect(),
        input_records: input.chunks,
        piped: !input.complete,
        trace: trace.clone(),
    };
    let mut memory = models.iter().map(OpenModel::check);
    let mut check = |of: Features| match options.features == of {
        true => None,
        false => memory.next().flatten(),
    };
    let fragments = FragmentOptions {
        chunk: options.chunk,
        features: options.features,
        keep: options.keep_fragments,
        // Without the DNA model, the first model is the protein model.
        memory: [check(Features::Protein), check(Features::Dna)],
    };
    let join = JoinOptions {
        features: options.features,
        vectors: options.vectors,
        score: classifier.as_ref().map(|classifier| -> Score {
            let classifier = Arc::clone(classifier);
            Arc::new(move |rows: &[f32]| classifier.scores_of_all(rows))
        }),
    };
    let lanes = engines.iter_mut().zip(&models).map(|(engine, model)| {
        let pack = pack(engine);
        Lane {
            embedder: &mut engine.embedder,
            tokenizer: Arc::clone(&model.tokenizer),
            pack,
            request: model.request.clone(),
        }
    });
    let chunks = input.chunks;
    let share = chunks.map(|chunks| options.share.records(chunks, options.shard_size));
    let mut display = Display::counting("chunks", console, share);
    let reader = SequenceReader::with_options(options.inputs.clone(), reader_options(options));
    stop.begin();
    let report = pipeline::run_fragments(
        &job,
        &run_options,
        lanes.collect(),
        (fragments, &join),
        Chunks::new(reader, options.chunk, input.names),
        &mut display,
        stop,
    );
    display.finish();
    let report = report?;
    for file in &report.notes.without_end {
        if !input.complete {
            warn_without_end(file, console);
        }
    }
    let summary = Summary::new(&report, options);
    console.say(&summary.to_string());
    if let Some(counts) = &summary.counts {
        warn_of_letters(counts, console);
    }
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
            console.warn(&format!(
                "to go on: {}",
                resume_command(std::env::args_os(), options.share)
            ));
            let code = u8::try_from(128 + signal).unwrap_or(1);
            let code = options.stopped_code.unwrap_or(code);
            Err(Failure::Stopped { code })
        }
    }
}

/// Warns where so many codons were dropped that the input is hardly DNA.
fn warn_of_letters(counts: &BTreeMap<String, u64>, console: &Console) {
    let of = |name: &str| counts.get(name).copied().unwrap_or(0);
    let (dropped, kept) = (of("dropped_codons"), of("protein_tokens"));
    if dropped > 0 && 10 * dropped > kept {
        console.warn(
            "more than one codon in ten was dropped for a letter other than A, C, G and T: RNA, proteins \
             and contigs with many ambiguous letters give fragments that mean nothing",
        );
    }
}

/// Opens the classifier, and compares its width with that of the features.
fn classifier_for(path: &Path, models: &[OpenModel]) -> Result<Arc<Classifier>, Failure> {
    let classifier = Classifier::open(path)?;
    let names = models
        .iter()
        .map(|model| model.checkpoint.config().kind.to_string());
    let names: Vec<String> = names.collect();
    let parts = names
        .iter()
        .map(String::as_str)
        .zip(models.iter().map(OpenModel::width));
    classifier.check_width(&parts.collect::<Vec<_>>())?;
    Ok(Arc::new(classifier))
}

fn reader_options(options: &Options) -> ReaderOptions {
    ReaderOptions {
        bad_records: options.bad_records,
        empty: true,
        ..ReaderOptions::default()
    }
}

/// What is known of the input before the job.
struct CheckedInput {
    names: ContigNames,
    digests: Vec<InputDigest>,
    /// Whether all inputs could be read.
    complete: bool,
    /// The number of chunks, as the shards count them, if all inputs could be read.
    chunks: Option<u64>,
    standing: Option<StandingShards>,
}

/// Reads every input that can be read twice to its end, so that a bad record or a shared name fails
/// the job now and not an hour later.
fn check_inputs(options: &Options, console: &Console) -> Result<CheckedInput, Failure> {
    let start = Instant::now();
    let inputs = options.inputs.iter().filter(|input| !only_once(input));
    let inputs: Vec<Input> = inputs.cloned().collect();
    let complete = inputs.len() == options.inputs.len();
    let mut names = ContigNames::new(options.duplicates);
    let mut reader = SequenceReader::with_options(inputs.clone(), reader_options(options));
    let mut record = Record::default();
    let (mut contigs, mut letters, mut chunks, mut empty) = (0, 0, 0, 0);
    let (mut rejected, mut first) = (0, None);
    loop {
        match reader.next_into(&mut record) {
            Ok(false) => break,
            Ok(true) => {
                names.take(&record)?;
                let (n, of) = contig_size(&record.sequence, options.chunk);
                contigs += 1;
                letters += n;
                chunks += if n == 0 { 0 } else { of };
                empty += u64::from(n == 0);
            }
            Err(error) => {
                let skips = options.bad_records == BadRecords::Skip;
                let error = JobError::from(error);
                let skipped = error.rejected().filter(|_| skips);
                let Some(skipped) = skipped else {
                    return Err(error.into());
                };
                rejected += 1;
                first.get_or_insert(skipped);
            }
        }
    }
    if let Some(first) = first {
        console.warn(&format!(
            "{}; rejected.tsv will list them (first: {})",
            counted(rejected, "bad record is skipped", "bad records are skipped"),
            example(&first)
        ));
    }
    for file in reader.without_end() {
        warn_without_end(file, console);
    }
    let digests = reader.digests().to_vec();
    if !complete {
        console.say("input: a pipe, which cannot be checked beforehand");
        return Ok(CheckedInput {
            names: ContigNames::new(options.duplicates),
            digests,
            complete,
            chunks: None,
            standing: None,
        });
    }
    let shared = names.finish().map_err(|taken| {
        usage(
            format!(
                "--duplicate-ids suffix would name a contig {taken:?}, and another contig has that name already"
            ),
            "rename one of them",
        )
    })?;
    if shared > 0 {
        console.warn(&format!(
            "{}; they become NAME/1, NAME/2 and so on",
            counted(
                shared as u64,
                "name is shared by several contigs",
                "names are shared by several contigs"
            )
        ));
    }
    console.say(&format!(
        "input: {}, {} bases, {}; read in {}",
        counted(contigs, "contig", "contigs"),
        count(letters),
        counted(chunks, "chunk", "chunks"),
        duration(start.elapsed())
    ));
    if empty > 0 {
        console.warn(&format!(
            "{} without bases",
            counted(empty, "contig is", "contigs are")
        ));
    }
    let standing = standing_shards(options, inputs, &names, console)?;
    Ok(CheckedInput {
        names,
        digests,
        complete,
        chunks: Some(chunks + empty + rejected),
        standing,
    })
}

/// Reads the input once more for the digests of the shards that stand already.
fn standing_shards(
    options: &Options,
    inputs: Vec<Input>,
    names: &ContigNames,
    console: &Console,
) -> Result<Option<StandingShards>, Failure> {
    if !options.resume || !options.out.exists() {
        return Ok(None);
    }
    let standing = list_shards(&options.out).map_err(JobError::from)?;
    let mut shards = StandingShards::new(options.shard_size, options.share, &standing);
    if !standing.is_empty() {
        console.say(&format!(
            "checking the shards that stand: {}",
            count(standing.len() as u64)
        ));
    }
    let reader = SequenceReader::with_options(inputs, reader_options(options));
    let mut chunks = Chunks::new(reader, options.chunk, names.clone());
    while let Some(read) = chunks.next_record() {
        match read {
            Ok(chunk) => shards.take(&chunk),
            Err(error) if skips(options, &error) => {
                shards.skip(error.place().map_or("", |place| &place.id));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Some(shards.finish()))
}

fn skips(options: &Options, error: &SequenceError) -> bool {
    options.bad_records == BadRecords::Skip && error.concerns_record()
}

fn warn_without_end(file: &str, console: &Console) {
    console.warn(&format!(
        "{file}: the end marker of bgzip is missing; the file may be cut short"
    ));
}

/// Collects everything that decides the bytes of the output.
fn spec(
    options: &Options,
    models: &[OpenModel],
    hashes: Vec<String>,
    identity: &Identity,
    classifier: Option<&Classifier>,
    input: &CheckedInput,
) -> JobSpec {
    let specs = models.iter().zip(hashes).map(|(model, blake3)| ModelSpec {
        id: model.found.id.clone(),
        blake3,
        config: model.checkpoint.config().clone(),
    });
    let mut specs: Vec<ModelSpec> = specs.collect();
    let protein_model = (specs.len() == 2).then(|| specs.remove(1));
    let model = specs.remove(0);
    let mut digests = input.digests.iter().peekable();
    let inputs = options.inputs.iter().map(|input| InputSpec {
        name: base_name(input),
        blake3: digests
            .next_if(|d| d.name == *input.name())
            .map(|d| d.blake3.clone()),
    });
    JobSpec {
        format: FORMAT,
        seqstream: env!("CARGO_PKG_VERSION").into(),
        layers: vec![model.config.layers],
        model,
        device: identity.device.into(),
        processor: identity.processor.clone(),
        gemm_algorithms: identity.gemm_algorithms.clone(),
        dtype: identity.dtype.into(),
        pool: "mean".into(),
        per_token: false,
        max_length: None,
        long: None,
        stride: None,
        // The models read the letters of the fragments as they are, as in the original.
        clean: false,
        strict: false,
        output_dtype: OutputDtype::F32,
        shard_size: options.shard_size,
        share: options.share.to_string(),
        names: "first".into(),
        gaps: "keep".into(),
        bad_records: match options.bad_records {
            BadRecords::Stop => "stop",
            BadRecords::Skip => "skip",
        }
        .into(),
        chains: "keep".into(),
        uracil: None,
        virnucpro: Some(VirnucproSpec {
            chunk: options.chunk,
            features: options.features,
            protein_model,
            classifier: classifier.map(|c| c.blake3().to_owned()),
            vectors: options.vectors,
            fragments: options.keep_fragments,
            torch_files: options.torch_files,
            duplicate_ids: match options.duplicates {
                DuplicateIds::Error => "error",
                DuplicateIds::Suffix => "suffix",
            }
            .into(),
            tables: rule_spec(options.style, &options.rule),
        }),
        inputs: inputs.collect(),
    }
}

/// What a job computed, and what its tables hold.
#[derive(Serialize)]
struct Summary {
    complete: bool,
    out: String,
    fragments_computed: u64,
    tokens: u64,
    fragments_reused: u64,
    shards_computed: u64,
    seconds: f64,
    tokens_per_second: f64,
    compute_share: f64,
    waiting_for_input_share: f64,
    waiting_for_output_share: f64,
    bound_by: pipeline::Bound,
    peak_memory_bytes: Option<u64>,
    /// The fragments of the whole job or share, if it is complete.
    fragments: Option<u64>,
    /// What the fragments were made of, if the job is complete.
    counts: Option<BTreeMap<String, u64>>,
    /// What the tables hold, if there are tables.
    verdicts: Option<Verdicts>,
    #[serde(skip)]
    share: Share,
}

/// What the tables hold.
#[derive(Serialize)]
struct Verdicts {
    viral_fragments: u64,
    viral_chunks: u64,
    chunks_with_fragments: u64,
    viral_contigs: u64,
    nonviral_contigs: u64,
    ambiguous_contigs: u64,
    contigs_without_fragment: u64,
}

impl From<TableCounts> for Verdicts {
    fn from(counts: TableCounts) -> Self {
        Self {
            viral_fragments: counts.viral_fragments,
            viral_chunks: counts.viral_chunks,
            chunks_with_fragments: counts.chunks,
            viral_contigs: counts.viral,
            nonviral_contigs: counts.nonviral,
            ambiguous_contigs: counts.ambiguous,
            contigs_without_fragment: counts.without_fragment,
        }
    }
}

impl Summary {
    fn new(report: &Report, options: &Options) -> Self {
        let p = &report.progress;
        let manifest: Option<&ManifestHead> = report.manifest.as_ref();
        Self {
            complete: manifest.is_some(),
            out: options.out.to_string_lossy().into_owned(),
            fragments_computed: p.records,
            tokens: p.tokens,
            fragments_reused: p.reused,
            shards_computed: p.shards,
            seconds: p.elapsed.as_secs_f64(),
            tokens_per_second: p.tokens_per_second(),
            compute_share: p.compute_share(),
            waiting_for_input_share: p.share(p.starved),
            waiting_for_output_share: p.share(p.held_up),
            bound_by: p.bound(),
            peak_memory_bytes: machine::peak_memory(),
            fragments: manifest.map(|m| m.records),
            counts: manifest.map(|m| m.counts.clone()),
            verdicts: report.tables.map(Verdicts::from),
            share: options.share,
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} fragments, {} tokens in {}: {} tokens/s, {:.0} % of the time computing",
            count(self.fragments_computed),
            count(self.tokens),
            duration(Duration::from_secs_f64(self.seconds)),
            count(self.tokens_per_second as u64),
            100.0 * self.compute_share
        )?;
        if let Some(peak) = self.peak_memory_bytes {
            write!(f, ", peak memory {}", Bytes(peak))?;
        }
        let (Some(counts), Some(fragments)) = (&self.counts, self.fragments) else {
            return Ok(());
        };
        let of = |name: &str| counts.get(name).copied().unwrap_or(0);
        write!(
            f,
            "\n{} of {}",
            counted(fragments, "fragment", "fragments"),
            counted(of("contigs"), "contig", "contigs"),
        )?;
        for (name, one, more) in [
            (
                "empty_contigs",
                "contig without bases",
                "contigs without bases",
            ),
            (
                "repeated_fragments",
                "fragment repeats another one of its shard",
                "fragments repeat another one of their shard",
            ),
            (
                "dropped_codons",
                "codon dropped for an ambiguous letter",
                "codons dropped for an ambiguous letter",
            ),
            ("rejected", "bad record skipped", "bad records skipped"),
        ] {
            if of(name) > 0 {
                write!(f, "; {}", counted(of(name), one, more))?;
            }
        }
        if let Some(v) = &self.verdicts {
            write!(
                f,
                "\n{} viral, {} not viral, {} ambiguous, {} without a fragment (no_fragment.tsv)",
                counted(v.viral_contigs, "contig", "contigs"),
                count(v.nonviral_contigs),
                count(v.ambiguous_contigs),
                count(v.contigs_without_fragment)
            )?;
        }
        write!(f, "\ncomplete: ")?;
        if self.share.of != 1 {
            write!(f, "share {}, ", self.share)?;
        }
        let shards = counted(self.shards_computed, "shard computed", "shards computed");
        write!(f, "{}; {shards}", self.out)?;
        if self.fragments_reused > 0 {
            write!(
                f,
                ", {} fragments stood already",
                count(self.fragments_reused)
            )?;
        }
        Ok(())
    }
}
