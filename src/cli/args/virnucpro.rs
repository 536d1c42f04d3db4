//! The arguments of `seqstream virnucpro`.

use std::path::PathBuf;

use clap::builder::TypedValueParser;
use clap::{Args, ValueEnum};

use super::values::*;

pub(super) const EXAMPLES: &str = "\
Examples:
  Tables for the contigs of an assembly:
    seqstream virnucpro contigs.fna.gz --classifier 500_model.pth --out verdicts --device cuda

  What stands downstream of the fork at the Broad Institute:
    seqstream virnucpro contigs.fna --classifier 500_model.pth --style broad --out verdicts

  Reads of 150 bases, whose mates share a name:
    seqstream virnucpro reads.fastq.gz --chunk 300 --classifier 300_model.pth \\
      --duplicate-ids suffix --out verdicts

  Vectors alone, in the .pt files of VirNucPro:
    seqstream virnucpro contigs.fna --format virnucpro --out vectors";

/// The arguments of `seqstream virnucpro`.
#[derive(Debug, Args)]
pub struct VirnucproArgs {
    /// Contigs or reads: FASTA or FASTQ files, plain or compressed with gzip, bzip2, xz or zstd; `-`
    /// is standard input
    #[arg(required = true, value_name = "CONTIGS")]
    pub inputs: Vec<PathBuf>,
    /// Output directory: new or empty, or the directory of the job to resume
    #[arg(long, short, value_name = "DIR")]
    pub out: PathBuf,
    /// Continue the job in the output directory: finished shards are kept and not computed again
    #[arg(long)]
    pub resume: bool,

    /// DNA model: a folder or file, or a name on the Hugging Face Hub
    #[arg(
        long,
        value_name = "MODEL",
        default_value = "zhihan1996/DNABERT-S",
        help_heading = "Models"
    )]
    pub dna_model: PathBuf,
    /// Protein model, any ESM-2: a folder or file, or a name on the Hugging Face Hub
    #[arg(
        long,
        value_name = "MODEL",
        default_value = "facebook/esm2_t36_3B_UR50D",
        help_heading = "Models"
    )]
    pub protein_model: PathBuf,
    /// Which models describe a fragment; the classifier must have been trained on the same
    #[arg(
        long,
        value_name = "WHICH",
        default_value = "both",
        help_heading = "Models"
    )]
    pub features: FeaturesArg,
    /// Classifier: VirNucPro's 300_model.pth or 500_model.pth, a state dict, a checkpoint of the 650M
    /// branch, or safetensors. Without one, only vectors are written
    #[arg(long, value_name = "FILE", help_heading = "Models")]
    pub classifier: Option<PathBuf>,

    /// Length of a chunk in bases, as the classifier was trained: 500 or 300
    #[arg(long, value_name = "N", default_value = "500", value_parser = up_to(1 << 30), help_heading = "Fragments")]
    pub chunk: usize,
    /// Contigs that share a name: stop with an `error` before the models run, or add a `suffix`, so
    /// that they become NAME/1, NAME/2 and so on
    #[arg(
        long,
        value_name = "HOW",
        default_value = "error",
        help_heading = "Fragments"
    )]
    pub duplicate_ids: DuplicateIdsArg,
    /// A record that is bad by itself, such as one with a `>` inside a line: `stop` with an error,
    /// or `skip` it and list it in rejected.tsv
    #[arg(
        long,
        value_name = "HOW",
        default_value = "stop",
        help_heading = "Fragments"
    )]
    pub bad_records: BadRecordsArg,
    /// Write the nucleotides and proteins of all fragments as FASTA, under the original's names
    #[arg(long, help_heading = "Fragments")]
    pub keep_fragments: bool,

    /// Text of the two result files: that of the `original` program, or that of the `broad` fork,
    /// which has the columns max_score_0 and max_score_1
    #[arg(
        long,
        value_name = "STYLE",
        default_value = "original",
        help_heading = "Results"
    )]
    pub style: StyleArg,
    /// Vectors to keep: `none`, `merged` (both models side by side), or `all` (an array per model)
    /// [default: none with a classifier, merged without]
    #[arg(long, value_name = "WHICH", help_heading = "Results")]
    pub vectors: Option<VectorsArg>,
    /// Form of the vectors: the project's `shards`, or also the .pt files of `virnucpro`
    #[arg(
        long,
        value_name = "FORM",
        default_value = "shards",
        help_heading = "Results"
    )]
    pub format: FormatArg,

    /// A contig is called if its weighted difference of the scores exceeds this
    #[arg(long, value_name = "X", default_value = "0.3", value_parser = fraction, help_heading = "Rule for contigs")]
    pub call_delta: f64,
    /// A call is of high confidence if the weighted difference exceeds this
    #[arg(long, value_name = "X", default_value = "0.6", value_parser = fraction, help_heading = "Rule for contigs")]
    pub high_delta: f64,
    /// A chunk is confident if one score exceeds this, and
    #[arg(long, value_name = "X", default_value = "0.8", value_parser = fraction, help_heading = "Rule for contigs")]
    pub confident_above: f64,
    /// the other score is below this
    #[arg(long, value_name = "X", default_value = "0.3", value_parser = fraction, help_heading = "Rule for contigs")]
    pub confident_below: f64,
    /// A chunk is ambiguous if both scores exceed this
    #[arg(long, value_name = "X", default_value = "0.7", value_parser = fraction, help_heading = "Rule for contigs")]
    pub ambiguous_above: f64,
    /// Least share of confident viral chunks for more than low confidence
    #[arg(long, value_name = "X", default_value = "0.1", value_parser = fraction, help_heading = "Rule for contigs")]
    pub least_viral_share: f64,
    /// Least share of confident chunks that are not viral, likewise
    #[arg(long, value_name = "X", default_value = "0.1", value_parser = fraction, help_heading = "Rule for contigs")]
    pub least_nonviral_share: f64,
    /// With fewer chunks, every call loses a level of confidence
    #[arg(long, value_name = "N", default_value = "5", value_parser = count(), help_heading = "Rule for contigs")]
    pub least_chunks: usize,

    /// Device that computes: cpu, cuda (every CUDA device), or some CUDA devices, such as cuda:0,2
    #[arg(
        long,
        value_name = "DEVICE",
        default_value = "cpu",
        env = "SEQSTREAM_DEVICE",
        hide_env_values = true,
        help_heading = "Running"
    )]
    pub device: String,
    /// Data type of the computation [default: f32 on the CPU, f16 on CUDA]
    #[arg(long, value_name = "DTYPE", help_heading = "Running")]
    pub dtype: Option<DtypeArg>,
    /// Whether loading, computing and storing overlap on a CUDA device; the results have the same
    /// bits
    #[arg(
        long,
        value_name = "ON|OFF",
        default_value = "on",
        help_heading = "Running"
    )]
    pub streams: SwitchArg,
    /// Where the weights of the protein model stand on a CUDA device, as for `embed`
    #[arg(
        long,
        value_name = "auto|resident|streamed[:SLOTS]",
        default_value = "auto",
        help_heading = "Running"
    )]
    pub weights: WeightsArg,
    /// Number of CPU threads, at most 1024 [default: all cores]
    #[arg(long, value_name = "N", value_parser = threads(), env = "SEQSTREAM_THREADS", hide_env_values = true, help_heading = "Running")]
    pub threads: Option<usize>,
    /// Tokens computed at once by each model; affects speed and memory, never a result
    #[arg(long, value_name = "N", value_parser = token_budget(), help_heading = "Running")]
    pub token_budget: Option<usize>,
    /// Compute only share i of n, from 1/n to n/n, or the share of this task of a `slurm` job array;
    /// `merge` joins the shares and makes the tables
    #[arg(
        long,
        value_name = "I/N|slurm",
        default_value = "1/1",
        help_heading = "Running"
    )]
    pub share: String,
    /// Exit code of a job that a signal stopped and that --resume continues: 85 lets HTCondor run it
    /// again (checkpoint_exit_code), 99 Grid Engine [default: 128 and the number of the signal]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(10..), help_heading = "Running")]
    pub stopped_code: Option<u8>,
    /// On CUDA, use the GEMM algorithms of another job: its output directory, or the
    /// algorithms.json in it
    #[arg(long, value_name = "DIR|FILE", help_heading = "Running")]
    pub gemm_algorithms: Option<PathBuf>,
    /// Chunks per shard of the output; a contig may go on in the next shard
    #[arg(long, value_name = "N", default_value = "4096", value_parser = positive(), help_heading = "Running")]
    pub shard_size: usize,
    /// Write a timeline of the run to FILE, as `embed` does
    #[arg(long, value_name = "FILE", help_heading = "Running")]
    pub trace: Option<PathBuf>,
    /// Print the summary as one JSON object on standard output
    #[arg(long, help_heading = "Running")]
    pub json: bool,
}

/// The values of `--features`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum FeaturesArg {
    Both,
    Dna,
    Protein,
}

/// The values of `--duplicate-ids`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum DuplicateIdsArg {
    Error,
    Suffix,
}

/// The values of `--style`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum StyleArg {
    Original,
    Broad,
}

/// The values of `--vectors`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum VectorsArg {
    None,
    Merged,
    All,
}

/// The values of `--format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum FormatArg {
    Shards,
    Virnucpro,
}

/// Parses a number of chunks, which may be 0.
fn count() -> impl TypedValueParser<Value = usize> {
    clap::value_parser!(u64)
        .range(0..=1 << 40)
        .map(|n| n as usize)
}

/// Parses a number from 0 to 1, as scores and shares are.
fn fraction(text: &str) -> Result<f64, String> {
    let number: f64 = text
        .parse()
        .map_err(|_| "write a number such as 0.3".to_owned())?;
    match (0.0..=1.0).contains(&number) {
        true => Ok(number),
        false => Err("write a number from 0 to 1".into()),
    }
}
