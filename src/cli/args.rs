//! The command line as typed. Checked and completed in [`super::options`].

use std::path::PathBuf;

use clap::builder::TypedValueParser;
use clap::{Args, ColorChoice, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  any other failure
  2  wrong usage
  3  bad input data
  4  bad model or weights
  5  the output could not be written, or a file of it not read
  6  resume or merge refused, a table of GEMM algorithms that cannot be used, or another job is writing in the directory
  7  the device is not available
  8  the device failed, or there is too little memory for the model; finished shards are kept
  130, 143  stopped by SIGINT or SIGTERM: after the shard in hand, by a second signal at once";

const EMBED_EXAMPLES: &str = "\
Examples:
  One row a protein, the mean over its residues after the last layer:
    seqstream embed proteins.fasta.gz --model esm2_t33_650M_UR50D --out embeddings

  Go on after a crash, a full disk or Ctrl-C:
    seqstream embed proteins.fasta.gz --model esm2_t33_650M_UR50D --out embeddings --resume

  The states of every residue, from three layers:
    seqstream embed proteins.fasta --model esm2_t6_8M_UR50D --out states --per-token --layers 0,3,-1

  DNA from a pipe:
    zcat contigs.fna.gz | seqstream embed - --model DNABERT-S --out contigs

  Two machines, then one result:
    seqstream embed all.fasta --model M --out part1 --share 1/2     (and 2/2 on the other)
    seqstream merge part1 part2 --out whole

  The same on GPUs, where both machines need the same GEMM algorithms:
    seqstream embed all.fasta --model M --out part2 --share 2/2 --device cuda \\
      --gemm-algorithms part1

In NumPy:
    import numpy as np
    rows = np.load(\"embeddings/shard-000000/layer_33.npy\")
    ids = open(\"embeddings/shard-000000/ids.txt\").read().split(\"\\n\")[:-1]";

/// Protein and DNA sequences in, embeddings out: ESM-2 and DNABERT-S.
#[derive(Debug, Parser)]
#[command(name = "seqstream", version, after_help = EXIT_CODES, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Options of every subcommand.
    #[command(flatten)]
    pub global: Global,
}

/// Options of every subcommand.
#[derive(Debug, Args)]
pub struct Global {
    /// Say more
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// Say nothing but warnings and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Colours in messages; `auto` means on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: ColorChoice,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Embed sequences
    #[command(after_help = format!("{EMBED_EXAMPLES}\n\n{EXIT_CODES}"))]
    Embed(Box<EmbedArgs>),
    /// Join the outputs of `embed --share 1/n` to `n/n`, checking that every record is there once
    Merge(MergeArgs),
    /// Show a model's architecture, tensors and size
    Inspect(InspectArgs),
    /// Show token ids, one JSON object a sequence
    Tokenize(TokenizeArgs),
    /// Measure how fast a model runs on a device, against its matrix products alone
    Bench(BenchArgs),
    /// Show this machine's devices and what this build can do
    Doctor(DoctorArgs),
    /// Print completions for a shell
    Completions(CompletionsArgs),
}

/// `seqstream embed`.
#[derive(Debug, Args)]
pub struct EmbedArgs {
    /// FASTA or FASTQ files, plain or gzip, bzip2, xz, zstd; `-` is standard input
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<PathBuf>,
    /// Model folder (Hugging Face) or file (.safetensors, .bin, fair-esm .pt)
    #[arg(long, short, value_name = "MODEL")]
    pub model: PathBuf,
    /// Output directory, new or empty; with --resume, that of the job to go on with
    #[arg(long, short, value_name = "DIR")]
    pub out: PathBuf,
    /// Go on with the job in --out: finished shards are kept, never computed twice
    #[arg(long)]
    pub resume: bool,

    /// One row a sequence: `mean` over residues (ESM-2) or all tokens (DNABERT), the `cls` state,
    /// or `none` (with --per-token)
    #[arg(
        long,
        value_name = "HOW",
        default_value = "mean",
        help_heading = "What to compute"
    )]
    pub pool: PoolArg,
    /// Also keep the state of every token that the mean is over
    #[arg(long, help_heading = "What to compute")]
    pub per_token: bool,
    /// Layers, separated by commas: 0 is the embedding, the last is after the final LayerNorm,
    /// negative ones count from the end
    #[arg(
        long,
        value_name = "LIST",
        default_value = "-1",
        value_delimiter = ',',
        allow_hyphen_values = true,
        help_heading = "What to compute"
    )]
    pub layers: Vec<i64>,
    /// How values are stored; f16 is half the size, and a value it cannot hold is an error
    #[arg(
        long,
        value_name = "DTYPE",
        default_value = "f32",
        help_heading = "What to compute"
    )]
    pub output_dtype: OutputDtypeArg,

    /// The most tokens of a sequence: residues (ESM-2) or BPE tokens (DNABERT), specials not counted
    /// [default: no limit]
    #[arg(long, value_name = "N", value_parser = positive(), help_heading = "Sequences")]
    pub max_length: Option<usize>,
    /// What becomes of a longer sequence: its first N tokens, the token-weighted mean over windows
    /// of N, or an error [default: truncate]
    #[arg(
        long,
        value_name = "HOW",
        requires = "max_length",
        help_heading = "Sequences"
    )]
    pub long: Option<LongArg>,
    /// Tokens from the start of one window to that of the next [default: N, so that windows do not
    /// overlap]
    #[arg(long, value_name = "S", requires = "max_length", value_parser = positive(), help_heading = "Sequences")]
    pub stride: Option<usize>,
    /// `on` upper-cases, drops a last `*` and counts unknown characters; `off` leaves the text as it
    /// is
    #[arg(
        long,
        alias = "case",
        value_name = "ON|OFF",
        default_value = "on",
        help_heading = "Sequences"
    )]
    pub clean: CleanArg,
    /// Fail on any character that would be cleaned or counted as unknown
    #[arg(long, help_heading = "Sequences")]
    pub strict: bool,

    /// Where to compute: cpu, cuda (every CUDA device), or some of them: cuda:0,2
    #[arg(
        long,
        value_name = "DEVICE",
        default_value = "cpu",
        help_heading = "Running"
    )]
    pub device: String,
    /// What to compute in; the CPU knows f32 alone, whatever the weights are stored in [default: f32
    /// on the CPU, f16 on CUDA]
    #[arg(long, value_name = "DTYPE", help_heading = "Running")]
    pub dtype: Option<DtypeArg>,
    /// Whether loading, computing and storing overlap on a CUDA device; the bits are the same
    #[arg(
        long,
        value_name = "ON|OFF",
        default_value = "on",
        help_heading = "Running"
    )]
    pub streams: SwitchArg,
    /// Threads that compute, at most 1024; with CUDA a quarter of them, at most 8, tokenize [default: all cores]
    #[arg(long, value_name = "N", value_parser = threads(), help_heading = "Running")]
    pub threads: Option<usize>,
    /// Tokens computed at once; decides speed and memory, never a result [default: by threads, from
    /// 4096; on CUDA by the device and its free memory]
    #[arg(long, value_name = "N", value_parser = token_budget(), help_heading = "Running")]
    pub token_budget: Option<usize>,
    /// Compute share i of n only, from 1/n to n/n; `merge` joins them
    #[arg(
        long,
        alias = "shard",
        value_name = "I/N",
        default_value = "1/1",
        help_heading = "Running"
    )]
    pub share: String,
    /// Compute with the GEMM algorithms of this job, on CUDA: its output directory, or the
    /// algorithms.json in it. Shares of one job that run on different machines need the same ones
    #[arg(long, value_name = "DIR|FILE", help_heading = "Running")]
    pub gemm_algorithms: Option<PathBuf>,
    /// Sequences in one shard of the output
    #[arg(long, value_name = "N", default_value = "2048", value_parser = positive(), help_heading = "Running")]
    pub shard_size: usize,
    /// Print the summary as one JSON object on standard output
    #[arg(long, help_heading = "Running")]
    pub json: bool,
}

/// `seqstream merge`.
#[derive(Debug, Args)]
pub struct MergeArgs {
    /// Output directories of every share, in any order
    #[arg(required = true, value_name = "DIR")]
    pub sources: Vec<PathBuf>,
    /// Directory for the whole, new or empty; shards are hard-linked where possible
    #[arg(long, short, value_name = "DIR")]
    pub out: PathBuf,
}

/// `seqstream inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Model folder or file
    pub model: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `seqstream tokenize`.
#[derive(Debug, Args)]
pub struct TokenizeArgs {
    /// FASTA or FASTQ files; `-` is standard input
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<PathBuf>,
    /// Model folder or file, or a tokenizer.json
    #[arg(long, short, value_name = "MODEL")]
    pub model: PathBuf,
    /// `on` cleans the text, `off` leaves it as it is
    #[arg(long, alias = "case", value_name = "ON|OFF", default_value = "on")]
    pub clean: CleanArg,
    /// Fail on any character that would be cleaned or counted as unknown
    #[arg(long)]
    pub strict: bool,
}

/// `seqstream bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Model folder or file; speed does not depend on its values
    #[arg(long, short, value_name = "MODEL")]
    pub model: PathBuf,
    /// Where to compute: cpu, cuda, or some devices: cuda:0,2
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: String,
    /// What to compute in [default: f32 on the CPU, f16 on CUDA]
    #[arg(long, value_name = "DTYPE")]
    pub dtype: Option<DtypeArg>,
    /// Whether loading, computing and storing overlap on a CUDA device
    #[arg(long, value_name = "ON|OFF", default_value = "on")]
    pub streams: SwitchArg,
    /// Sequences of these lengths, in tokens, of random content
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = bench_length())]
    pub lengths: Vec<usize>,
    /// The sequences of these files, tokenized before the clock starts
    #[arg(long, value_name = "FILE")]
    pub fasta: Vec<PathBuf>,
    /// Tokens of a round, at least [default: 405504]
    #[arg(long, value_name = "N", value_parser = up_to(1 << 28))]
    pub tokens: Option<usize>,
    /// Rounds that are timed, after one that is not; the median counts
    #[arg(long, value_name = "N", default_value = "5", value_parser = up_to(1 << 20))]
    pub rounds: usize,
    /// Keep the states of every token too, as `embed --per-token` does
    #[arg(long)]
    pub per_token: bool,
    /// Time by kind of operation, in a round of its own (one CUDA device)
    #[arg(long)]
    pub breakdown: bool,
    /// How much of the loading of weights hides behind computing, from cold starts (one CUDA device)
    #[arg(long)]
    pub cold: bool,
    /// Tokens computed at once
    #[arg(long, value_name = "N", value_parser = token_budget())]
    pub token_budget: Option<usize>,
    /// Threads of the CPU, at most 1024 [default: all cores]
    #[arg(long, value_name = "N", value_parser = threads())]
    pub threads: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `seqstream doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `seqstream completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// For which shell
    pub shell: Shell,
}

/// `--pool`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum PoolArg {
    Mean,
    Cls,
    None,
}

/// `--long`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum LongArg {
    Truncate,
    Window,
    Error,
}

/// `--clean`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum CleanArg {
    #[value(alias = "upper")]
    On,
    #[value(alias = "keep")]
    Off,
}

/// `--streams`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum SwitchArg {
    On,
    Off,
}

/// `--dtype`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum DtypeArg {
    F32,
    F16,
    Bf16,
}

/// `--output-dtype`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum OutputDtypeArg {
    F32,
    F16,
}

/// As many cores as large machines have. Threads beyond the cores look for work in vain, and the more of them there are,
/// the longer each takes: on two cores 2048 need minutes for what one does at once.
fn threads() -> impl TypedValueParser<Value = usize> {
    up_to(1024)
}

/// More tokens than any device computes at once.
fn token_budget() -> impl TypedValueParser<Value = usize> {
    up_to(1 << 32)
}

fn up_to(most: u64) -> impl TypedValueParser<Value = usize> {
    clap::value_parser!(u64).range(1..=most).map(|n| n as usize)
}

fn bench_length() -> impl TypedValueParser<Value = usize> {
    clap::value_parser!(u64)
        .range(3..=1 << 20)
        .map(|n| n as usize)
}

fn positive() -> impl TypedValueParser<Value = usize> {
    up_to(1 << 40)
}
