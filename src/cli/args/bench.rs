//! The arguments of `seqstream bench` and `seqstream overlap`.

use std::path::PathBuf;

use clap::Args;

use super::values::{
    BadRecordsArg, DtypeArg, SwitchArg, WeightsArg, bench_length, threads, token_budget, up_to,
};

/// The arguments of `seqstream bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Model folder or file, or name of a model; the speed does not depend on the values of the weights. With
    /// --simulate also one of 8M, 35M, 150M, 650M, 3B, 15B and dnabert-s
    #[arg(
        long,
        short,
        value_name = "MODEL",
        env = "SEQSTREAM_MODEL",
        hide_env_values = true
    )]
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
    /// Also measure each operation in a separate round: median time, spread, TFLOP/s or GB/s (on the
    /// CPU or one CUDA device), and on a CUDA device what it can do at most
    #[arg(long)]
    pub breakdown: bool,
    /// Draw the roofline of the operations to this SVG file; implies --breakdown
    #[arg(long, value_name = "FILE", conflicts_with = "simulate")]
    pub figure: Option<PathBuf>,
    /// Compare with an earlier measurement, a file that --json printed, and say what moved by more
    /// than the noise
    #[arg(long, value_name = "OLD.json")]
    pub compare: Option<PathBuf>,
    /// Also measure, from cold starts, how much of the loading of weights is hidden behind
    /// computing (one CUDA device)
    #[arg(long)]
    pub cold: bool,
    /// Tokens computed at once
    #[arg(long, value_name = "N", value_parser = token_budget())]
    pub token_budget: Option<usize>,
    /// Number of CPU threads, at most 1024 [default: all cores]
    #[arg(long, value_name = "N", value_parser = threads(), env = "SEQSTREAM_THREADS", hide_env_values = true)]
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
    #[arg(
        long,
        short,
        value_name = "MODEL",
        env = "SEQSTREAM_MODEL",
        hide_env_values = true
    )]
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
    #[arg(long, value_name = "N", value_parser = threads(), env = "SEQSTREAM_THREADS", hide_env_values = true)]
    pub threads: Option<usize>,
    /// Directory, new or empty, for overlap.json, overlap.csv, the page overlap.html, and each
    /// figure as SVG
    #[arg(long, short, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}
