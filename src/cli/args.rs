//! The command line as the user types it. [`super::options`] checks and completes it.

use std::path::PathBuf;

use clap::builder::TypedValueParser;
use clap::{Args, ColorChoice, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use seqstream::backend::cuda::{LEAST_SLOTS, MOST_SLOTS, WeightMode};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  any other failure
  2  wrong usage, or a machine file that cannot be used
  3  bad input data
  4  bad model or weights
  5  the output could not be written, or a file of it not read
  6  resume, merge or algorithm table refused; or another job writes there
  7  the device is not available
  8  the device failed, or there is too little memory for the model; finished shards are kept
  9  the model could not be downloaded; what has arrived is kept
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

const VIRNUCPRO_EXAMPLES: &str = "\
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

/// Compute embeddings of protein and DNA sequences with ESM-2 and DNABERT-S.
#[derive(Debug, Parser)]
#[command(name = "seqstream", version, after_help = EXIT_CODES, arg_required_else_help = true)]
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
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Compute embeddings of sequences
    #[command(after_help = format!("{EMBED_EXAMPLES}\n\n{EXIT_CODES}"))]
    Embed(Box<EmbedArgs>),
    /// Score contigs as VirNucPro does: fragments, both models, classifier and tables in one pass
    #[command(after_help = format!("{VIRNUCPRO_EXAMPLES}\n\n{EXIT_CODES}"))]
    Virnucpro(Box<VirnucproArgs>),
    /// Join the outputs of `--share 1/n` to `n/n`, checking that every record is present once
    Merge(MergeArgs),
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
}

/// The arguments of `seqstream embed`.
#[derive(Debug, Args)]
pub struct EmbedArgs {
    /// FASTA or FASTQ files, plain or compressed with gzip, bzip2, xz or zstd; `-` is standard
    /// input
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<PathBuf>,
    /// Model folder (Hugging Face) or file (.safetensors, .bin, fair-esm .pt); or a name on the
    /// Hugging Face Hub, or a short one (`seqstream models`), with @REVISION or without
    #[arg(long, short, value_name = "MODEL")]
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
        value_name = "LIST",
        default_value = "mean",
        value_delimiter = ',',
        help_heading = "What to compute"
    )]
    pub pool: Vec<PoolArg>,
    /// Also keep the state of every token that the mean includes
    #[arg(long, help_heading = "What to compute")]
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
    #[arg(long, value_name = "N", value_parser = positive(), help_heading = "Sequences")]
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
    #[arg(long, value_name = "N", value_parser = threads(), help_heading = "Running")]
    pub threads: Option<usize>,
    /// Tokens computed at once; affects speed and memory, never a result [default: depends on the
    /// threads, at least 4096; on CUDA, on the device and its free memory]
    #[arg(long, value_name = "N", value_parser = token_budget(), help_heading = "Running")]
    pub token_budget: Option<usize>,
    /// Compute only share i of n, from 1/n to n/n; `merge` joins the shares
    #[arg(
        long,
        alias = "shard",
        value_name = "I/N",
        default_value = "1/1",
        help_heading = "Running"
    )]
    pub share: String,
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
}

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
    #[arg(long, value_name = "N", value_parser = threads(), help_heading = "Running")]
    pub threads: Option<usize>,
    /// Tokens computed at once by each model; affects speed and memory, never a result
    #[arg(long, value_name = "N", value_parser = token_budget(), help_heading = "Running")]
    pub token_budget: Option<usize>,
    /// Compute only share i of n, from 1/n to n/n; `merge` joins the shares and makes the tables
    #[arg(
        long,
        value_name = "I/N",
        default_value = "1/1",
        help_heading = "Running"
    )]
    pub share: String,
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
    #[arg(long, short, value_name = "MODEL")]
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

/// The arguments of `seqstream bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Model folder or file, or name of a model; the speed does not depend on the values of the weights. With
    /// --simulate also one of 8M, 35M, 150M, 650M, 3B, 15B and dnabert-s
    #[arg(long, short, value_name = "MODEL")]
    pub model: PathBuf,
    /// Device that computes: cpu, cuda (every CUDA device), or some CUDA devices, such as cuda:0,2
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: String,
    /// Data type of the computation [default: f32 on the CPU, f16 on CUDA]
    #[arg(long, value_name = "DTYPE")]
    pub dtype: Option<DtypeArg>,
    /// Whether loading, computing and storing overlap on a CUDA device
    #[arg(long, value_name = "ON|OFF", default_value = "on")]
    pub streams: SwitchArg,
    /// Where the weights stand on a CUDA device: `resident` keeps all layers there, `streamed` brings
    /// them from the files through SLOTS slots of one layer each during every pass (at least 2), and
    /// `auto` streams where the model does not fit beside a useful pass. The results have the same
    /// bits
    #[arg(
        long,
        value_name = "auto|resident|streamed[:SLOTS]",
        default_value = "auto"
    )]
    pub weights: WeightsArg,
    /// Print how the memory of the CUDA devices would be divided and what would bound the job, and
    /// stop; nothing is computed or written
    #[arg(long)]
    pub plan: bool,
    /// Predict the speed on the devices of this machine file instead, without computing anything:
    /// machines/ in the source has some
    #[arg(long, value_name = "FILE", conflicts_with_all = ["device", "breakdown", "fasta"])]
    pub simulate: Option<PathBuf>,
    /// Measure random sequences of these lengths, in tokens
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = bench_length())]
    pub lengths: Vec<usize>,
    /// Measure the sequences of these files, which are tokenized before the timing starts
    #[arg(long, value_name = "FILE")]
    pub fasta: Vec<PathBuf>,
    /// A record of these files that is bad by itself: `stop` with an error, or `skip` it
    #[arg(long, value_name = "HOW", default_value = "stop")]
    pub bad_records: BadRecordsArg,
    /// Minimum number of tokens per round [default: 405504]
    #[arg(long, value_name = "N", value_parser = up_to(1 << 28))]
    pub tokens: Option<usize>,
    /// Number of timed rounds, after one round that is not timed; the median is reported
    #[arg(long, value_name = "N", default_value = "5", value_parser = up_to(1 << 20))]
    pub rounds: usize,
    /// Also keep the states of every token, as `embed --per-token` does
    #[arg(long)]
    pub per_token: bool,
    /// Also measure the time per kind of operation, in a separate round (one CUDA device)
    #[arg(long)]
    pub breakdown: bool,
    /// Also measure, from cold starts, how much of the loading of weights is hidden behind
    /// computing (one CUDA device)
    #[arg(long)]
    pub cold: bool,
    /// Tokens computed at once
    #[arg(long, value_name = "N", value_parser = token_budget())]
    pub token_budget: Option<usize>,
    /// Number of CPU threads, at most 1024 [default: all cores]
    #[arg(long, value_name = "N", value_parser = threads())]
    pub threads: Option<usize>,
    /// Write a timeline of the run to FILE, for Perfetto and HolisticTraceAnalysis, and beside it
    /// FILE with the ending .seqstream.json, in the format of docs/overlap.md
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// The arguments of `seqstream overlap`.
#[derive(Debug, Args)]
pub struct OverlapArgs {
    /// Model folder or file, or name of a model; the speed does not depend on the values of the
    /// weights. With --simulate also one of 8M, 35M, 150M, 650M, 3B, 15B and dnabert-s
    #[arg(long, short, value_name = "MODEL")]
    pub model: PathBuf,
    /// The CUDA device that computes, such as cuda:0
    #[arg(long, value_name = "DEVICE", default_value = "cuda:0")]
    pub device: String,
    /// Predict the study on the first device of this machine file instead, without computing
    /// anything: machines/ in the source has some
    #[arg(long, value_name = "FILE", conflicts_with = "device")]
    pub simulate: Option<PathBuf>,
    /// Data type of the computation [default: f16]
    #[arg(long, value_name = "DTYPE")]
    pub dtype: Option<DtypeArg>,
    /// Lengths of the random sequences, in tokens
    #[arg(long, value_name = "N,...", value_delimiter = ',', required = true, value_parser = bench_length())]
    pub lengths: Vec<usize>,
    /// Number of timed rounds of each setting, whose median is reported; with --simulate there is
    /// one, because virtual time has no noise
    #[arg(long, value_name = "N", default_value = "3", value_parser = up_to(1000), conflicts_with = "simulate")]
    pub rounds: usize,
    /// Number of CPU threads, at most 1024 [default: all cores]
    #[arg(long, value_name = "N", value_parser = threads())]
    pub threads: Option<usize>,
    /// Directory, new or empty, for overlap.json, overlap.csv, the page overlap.html, and each
    /// figure as SVG
    #[arg(long, short, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
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

/// A layer as it was typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerArg {
    /// Every layer, and the embedding.
    All,
    /// The layer of this number; negative numbers count from the end.
    Number(i64),
}

impl std::str::FromStr for LayerArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::All);
        }
        let number = text.parse().map(Self::Number);
        number.map_err(|_| "write numbers such as 0,3,-1 (-1 is the last layer), or all".into())
    }
}

/// Where the weights stand, as it was typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WeightsArg(pub WeightMode);

impl std::str::FromStr for WeightsArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mode = match text.split_once(':') {
            None if text == "auto" => WeightMode::Auto,
            None if text == "resident" => WeightMode::Resident,
            None if text == "streamed" => WeightMode::Streamed { slots: None },
            Some(("streamed", slots)) => {
                let slots = slots.parse().map_err(|_| {
                    format!(
                        "write a number of slots after streamed:, such as streamed:{LEAST_SLOTS}"
                    )
                })?;
                if slots < LEAST_SLOTS {
                    return Err(format!(
                        "streaming needs at least {LEAST_SLOTS} slots: one layer is loaded while another is computed"
                    ));
                }
                if slots > MOST_SLOTS {
                    return Err(format!("give at most {MOST_SLOTS} slots"));
                }
                WeightMode::Streamed { slots: Some(slots) }
            }
            _ => return Err("write auto, resident, streamed, or streamed:3 for 3 slots".into()),
        };
        Ok(Self(mode))
    }
}

/// The values of `--pool`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum PoolArg {
    Mean,
    Cls,
    Max,
    None,
}

/// The values of `--long`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum LongArg {
    Truncate,
    Window,
    Error,
}

/// The values of `--clean`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum CleanArg {
    #[value(alias = "upper")]
    On,
    #[value(alias = "keep")]
    Off,
}

/// The values of `--gaps`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum GapsArg {
    Keep,
    Drop,
}

/// The values of `--names`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum NamesArg {
    First,
    Header,
}

/// The values of `--bad-records`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum BadRecordsArg {
    Stop,
    Skip,
}

/// The values of `--chains`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum ChainsArg {
    Keep,
    Split,
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

/// The values of `--streams`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum SwitchArg {
    On,
    Off,
}

/// The values of `--dtype`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum DtypeArg {
    F32,
    F16,
    Bf16,
}

/// The values of `--output-dtype`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum OutputDtypeArg {
    F32,
    F16,
}

/// Parses a number of threads, at most 1024: large machines have about that many cores. Threads
/// beyond the number of cores search for work in vain, and each takes longer the more of them there
/// are: on two cores, 2048 threads need minutes for work that one thread does at once.
fn threads() -> impl TypedValueParser<Value = usize> {
    up_to(1024)
}

/// Parses a token budget. The maximum is more than any device computes at once.
fn token_budget() -> impl TypedValueParser<Value = usize> {
    up_to(1 << 32)
}

fn up_to(most: u64) -> impl TypedValueParser<Value = usize> {
    clap::value_parser!(u64).range(1..=most).map(|n| n as usize)
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

fn bench_length() -> impl TypedValueParser<Value = usize> {
    clap::value_parser!(u64)
        .range(3..=1 << 20)
        .map(|n| n as usize)
}

fn positive() -> impl TypedValueParser<Value = usize> {
    up_to(1 << 40)
}
