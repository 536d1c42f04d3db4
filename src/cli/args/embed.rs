//! The arguments of `seqstream embed`.

use std::path::PathBuf;

use clap::Args;

use super::values::{
    BadRecordsArg, ChainsArg, CleanArg, DtypeArg, GapsArg, LayerArg, LongArg, NamesArg,
    OutputDtypeArg, PoolArg, SwitchArg, WeightsArg, positive, threads, token_budget,
};
use crate::cli::peers::PeerArgs;

/// The examples below the help.
pub const EXAMPLES: &str = "\
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

/// The arguments of `seqstream embed`.
#[derive(Debug, Args)]
pub struct EmbedArgs {
    /// FASTA or FASTQ files, plain or compressed with gzip, bzip2, xz or zstd; `-` is standard
    /// input
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<PathBuf>,
    /// Model folder (Hugging Face) or file (.safetensors, .bin, fair-esm .pt); or a name on the
    /// Hugging Face Hub, or a short one (`seqstream models`), with @REVISION or without
    #[arg(
        long,
        short,
        value_name = "MODEL",
        env = "SEQSTREAM_MODEL",
        hide_env_values = true
    )]
    pub model: PathBuf,
    /// Output directory: new or empty, or the directory of the job to resume
    #[arg(long, short, value_name = "DIR")]
    pub out: PathBuf,
    /// Continue the job in the output directory: finished shards are kept and not computed again
    #[arg(long)]
    pub resume: bool,

    /// One row per sequence: the `mean` over residues (ESM-2) or all tokens (DNABERT), their greatest
    /// values `max`, the `cls` state, or several of them with commas; or `none` (with --per-token)
    #[arg(
        long,
        alias = "pooling",
        value_name = "LIST",
        default_value = "mean",
        value_delimiter = ',',
        help_heading = "What to compute"
    )]
    pub pool: Vec<PoolArg>,
    /// Also keep the state of every token that the mean includes
    #[arg(long, aliases = ["per-residue", "per_residue"], help_heading = "What to compute")]
    pub per_token: bool,
    /// Layers, separated by commas, or `all`: 0 is the embedding, the last layer is taken after the
    /// final LayerNorm, and negative numbers count from the end
    #[arg(
        long,
        value_name = "LIST",
        default_value = "-1",
        value_delimiter = ',',
        allow_hyphen_values = true,
        help_heading = "What to compute"
    )]
    pub layers: Vec<LayerArg>,
    /// Data type of the stored values; f16 halves the size, and a value beyond its range is an
    /// error
    #[arg(
        long,
        value_name = "DTYPE",
        default_value = "f32",
        help_heading = "What to compute"
    )]
    pub output_dtype: OutputDtypeArg,

    /// Maximum length of a sequence in residues (ESM-2) or BPE tokens (DNABERT), not counting
    /// special tokens [default: no limit]
    #[arg(
        long,
        aliases = ["truncation_seq_length", "truncation-seq-length"],
        value_name = "N",
        value_parser = positive(),
        help_heading = "Sequences"
    )]
    pub max_length: Option<usize>,
    /// How to treat a longer sequence: keep its first N tokens, take the token-weighted mean over
    /// windows of N tokens, or report an error [default: truncate]
    #[arg(
        long,
        value_name = "HOW",
        requires = "max_length",
        help_heading = "Sequences"
    )]
    pub long: Option<LongArg>,
    /// Tokens from the start of one window to the start of the next [default: N, so that windows do
    /// not overlap]
    #[arg(long, value_name = "S", requires = "max_length", value_parser = positive(), help_heading = "Sequences")]
    pub stride: Option<usize>,
    /// `on` converts to upper case, drops a final `*` and counts unknown characters; `off` leaves
    /// the text as it is
    #[arg(
        long,
        alias = "case",
        value_name = "ON|OFF",
        default_value = "on",
        help_heading = "Sequences"
    )]
    pub clean: CleanArg,
    /// Gap characters `-` and `.`: keep their tokens or drop them; the models were not trained on
    /// alignments. The lower-case insertions of A3M are always kept as residues
    #[arg(
        long,
        value_name = "HOW",
        default_value = "keep",
        help_heading = "Sequences"
    )]
    pub gaps: GapsArg,
    /// Names in ids.txt: the `first` word of the header or the whole `header`
    #[arg(
        long,
        value_name = "HOW",
        default_value = "first",
        help_heading = "Sequences"
    )]
    pub names: NamesArg,
    /// A record that is bad by itself, such as one that holds only a stop codon: `stop` with an
    /// error, or `skip` it and list it in rejected.tsv
    #[arg(
        long,
        value_name = "HOW",
        default_value = "stop",
        help_heading = "Sequences"
    )]
    pub bad_records: BadRecordsArg,
    /// A record whose chains are joined by `:`: `keep` it whole, or `split` it into records whose
    /// names end in `:1`, `:2` and so on
    #[arg(
        long,
        value_name = "HOW",
        default_value = "keep",
        help_heading = "Sequences"
    )]
    pub chains: ChainsArg,
    /// Fail on any character that would be cleaned or counted as unknown, on gaps, on names that
    /// several records share, and on sequences of the other kind (DNA or proteins)
    #[arg(long, help_heading = "Sequences")]
    pub strict: bool,

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
    /// Data type of the computation; the CPU always computes in f32, whatever type the weights are
    /// stored in [default: f32 on the CPU, f16 on CUDA]
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
    /// Where the weights stand on a CUDA device: `resident` keeps all layers there, `streamed` brings
    /// them from the files through SLOTS slots of one layer each during every pass (at least 2), and
    /// `auto` streams where the model does not fit beside a useful pass. The results have the same
    /// bits
    #[arg(
        long,
        value_name = "auto|resident|streamed[:SLOTS]",
        default_value = "auto",
        help_heading = "Running"
    )]
    pub weights: WeightsArg,
    /// Print how the memory of the CUDA devices would be divided and what would bound the job, and
    /// stop; nothing is computed or written
    #[arg(long, help_heading = "Running")]
    pub plan: bool,
    /// Number of CPU threads, at most 1024; with CUDA a quarter of them, at most 8, tokenize, and
    /// half of them, at most 8, write the states of tokens [default: all cores]
    #[arg(
        long,
        value_name = "N",
        value_parser = threads(),
        env = "SEQSTREAM_THREADS",
        hide_env_values = true,
        help_heading = "Running"
    )]
    pub threads: Option<usize>,
    /// Tokens computed at once; affects speed and memory, never a result [default: depends on the
    /// threads, at least 4096; on CUDA, on the device and its free memory]
    #[arg(
        long,
        aliases = ["toks_per_batch", "toks-per-batch"],
        value_name = "N",
        value_parser = token_budget(),
        help_heading = "Running"
    )]
    pub token_budget: Option<usize>,
    /// Compute only share i of n, from 1/n to n/n; `merge` joins the shares. With `slurm`, the task
    /// of a Slurm job array computes its share of as many as the array has tasks
    #[arg(
        long,
        alias = "shard",
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
    /// algorithms.json in it. Shares of one job that run on different machines need the same
    /// algorithms
    #[arg(long, value_name = "DIR|FILE", help_heading = "Running")]
    pub gemm_algorithms: Option<PathBuf>,
    /// Sequences per shard of the output
    #[arg(long, value_name = "N", default_value = "2048", value_parser = positive(), help_heading = "Running")]
    pub shard_size: usize,
    /// Write a timeline of the run to FILE, for Perfetto and HolisticTraceAnalysis, and beside it
    /// FILE with the ending .seqstream.json, in the format of docs/overlap.md
    #[arg(long, value_name = "FILE", help_heading = "Running")]
    pub trace: Option<PathBuf>,
    /// Print the summary as one JSON object on standard output
    #[arg(long, help_heading = "Running")]
    pub json: bool,
    /// The options of other programs.
    #[command(flatten)]
    pub peers: PeerArgs,
}
