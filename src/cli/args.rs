//! The command line as the user types it. [`super::options`] checks and completes it.

mod bench;
mod embed;
mod values;
mod virnucpro;

use std::path::PathBuf;

use super::export::{EXPORT_EXAMPLES, ExportArgs};
use super::report::ReportArgs;
use clap::{Args, ColorChoice, Parser, Subcommand};
use clap_complete::Shell;

use super::version;
pub use bench::{BenchArgs, OverlapArgs};
pub use embed::EmbedArgs;
pub use values::*;
pub use virnucpro::{DuplicateIdsArg, FeaturesArg, FormatArg, StyleArg, VectorsArg, VirnucproArgs};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  any other failure
  2  wrong usage, or a machine file that cannot be used
  3  bad input data
  4  bad model or weights
  5  the output could not be written, or a file of it not read
  6  resume, merge, export, report or algorithm table refused; or another job writes there
  7  the device is not available
  8  the device failed, or there is too little memory for the model; finished shards are kept
  9  the model could not be downloaded; what has arrived is kept
  130, 143, 138, 140  stopped by SIGINT, SIGTERM, SIGUSR1 or SIGUSR2 (--stopped-code replaces them)";

/// Compute embeddings of protein and DNA sequences with ESM-2 and DNABERT-S.
#[derive(Debug, Parser)]
#[command(
    name = "seqstream",
    version,
    long_version = version::long(),
    after_help = EXIT_CODES,
    arg_required_else_help = true
)]
pub struct Cli {
    /// The subcommand.
    #[command(subcommand)]
    pub command: Command,
    /// The options that all subcommands share.
    #[command(flatten)]
    pub global: Global,
}

/// The options that all subcommands share.
#[derive(Debug, Args)]
pub struct Global {
    /// Print more messages
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// Print only warnings and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Use colours in messages; `auto` means on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: ColorChoice,
    /// Never use the network: take models from the local cache only, as HF_HUB_OFFLINE=1 does
    #[arg(long, global = true)]
    pub offline: bool,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Compute embeddings of sequences
    #[command(after_help = format!("{}\n\n{EXIT_CODES}", embed::EXAMPLES))]
    Embed(Box<EmbedArgs>),
    /// Score contigs as VirNucPro does: fragments, both models, classifier and tables in one pass
    #[command(after_help = format!("{}\n\n{EXIT_CODES}", virnucpro::EXAMPLES))]
    Virnucpro(Box<VirnucproArgs>),
    /// Join the outputs of `--share 1/n` to `n/n`, checking that every record is present once
    Merge(MergeArgs),
    /// Write the output of a complete job into a file of another format: HDF5, Parquet, PyTorch,
    /// NumPy, CSV
    #[command(after_help = EXPORT_EXAMPLES)]
    Export(ExportArgs),
    /// Write a page about a complete job, and a file for MultiQC
    Report(ReportArgs),
    /// Show a model's architecture, tensors and size
    Inspect(InspectArgs),
    /// List the models that are known by name, and what the cache has of them
    Models(ModelsArgs),
    /// Print token ids, one JSON object per sequence
    Tokenize(TokenizeArgs),
    /// Measure the speed of a model on a device, also compared with its matrix products alone
    Bench(BenchArgs),
    /// Study how much of the movement of data hides behind computing on a GPU, over many settings
    Overlap(OverlapArgs),
    /// Show the devices of this machine and what this build supports
    Doctor(DoctorArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Write the manual pages of the program and of its commands
    Man(ManArgs),
}

/// The arguments of `seqstream merge`.
#[derive(Debug, Args)]
pub struct MergeArgs {
    /// Output directories of all shares, in any order
    #[arg(required = true, value_name = "DIR")]
    pub sources: Vec<PathBuf>,
    /// Directory for the joined output, new or empty; shards are hard-linked where possible
    #[arg(long, short, value_name = "DIR")]
    pub out: PathBuf,
}

/// The arguments of `seqstream models`.
#[derive(Debug, Args)]
pub struct ModelsArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// The arguments of `seqstream inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Model folder or file, or name of a model
    pub model: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// The arguments of `seqstream tokenize`.
#[derive(Debug, Args)]
pub struct TokenizeArgs {
    /// FASTA or FASTQ files; `-` is standard input
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<PathBuf>,
    /// Model folder or file, name of a model, or a tokenizer.json file
    #[arg(
        long,
        short,
        value_name = "MODEL",
        env = "SEQSTREAM_MODEL",
        hide_env_values = true
    )]
    pub model: PathBuf,
    /// `on` cleans the text, `off` leaves it as it is
    #[arg(long, alias = "case", value_name = "ON|OFF", default_value = "on")]
    pub clean: CleanArg,
    /// Gap characters `-` and `.`: keep their tokens or drop them
    #[arg(long, value_name = "HOW", default_value = "keep")]
    pub gaps: GapsArg,
    /// Names: the `first` word of the header or the whole `header`
    #[arg(long, value_name = "HOW", default_value = "first")]
    pub names: NamesArg,
    /// A record that is bad by itself: `stop` with an error, or `skip` it with a warning
    #[arg(long, value_name = "HOW", default_value = "stop")]
    pub bad_records: BadRecordsArg,
    /// A record whose chains are joined by `:`: `keep` it whole, or `split` it into records whose
    /// names end in `:1`, `:2` and so on
    #[arg(long, value_name = "HOW", default_value = "keep")]
    pub chains: ChainsArg,
    /// Fail on any character that would be cleaned or counted as unknown, on gaps, and on sequences
    /// of the other kind (DNA or proteins)
    #[arg(long)]
    pub strict: bool,
}

/// The arguments of `seqstream doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// The arguments of `seqstream completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: Shell,
}

/// The arguments of `seqstream man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Folder for the pages, such as ~/.local/share/man/man1; it is created if it is not there
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}
