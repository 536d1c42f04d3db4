//! How a job can fail.

use crate::model::ModelError;
use crate::output::{ALGORITHMS_FILE, Difference, OutputError};
use crate::sequence::{Place, SequenceError};
use crate::system::memory::Available;
use crate::system::memory::show;
use crate::untrusted::Shown;
use std::path::PathBuf;

/// A job that did not begin, or did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// Bad input.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// A sequence beyond `--max-length`, with `--long error`.
    #[error("{place}: the sequence has {tokens} tokens, and --max-length allows {max}")]
    TooLong {
        /// Which.
        place: Place,
        /// Its content tokens.
        tokens: usize,
        /// The limit.
        max: usize,
    },
    /// A record longer than the device has room for, even alone.
    #[error(
        "{place}: the sequence has {tokens} tokens, and the device has room for {most} at once"
    )]
    NoRoom {
        /// Where.
        place: Place,
        /// Its tokens, special ones included.
        tokens: usize,
        /// The device's limit.
        most: usize,
    },
    /// A record for which there is too little memory, even alone.
    #[error(
        "{place}: embedding this sequence of {letters} letters needs about {} of memory, and {} can be had {}",
        show(*needs), show(available.bytes), available.bound
    )]
    NoMemory {
        /// Where.
        place: Place,
        /// Residues or bases, as cleaned.
        letters: u64,
        /// Bytes.
        needs: u64,
        /// What there was when the job began.
        available: Available,
        /// Tokens of a sequence for which it would do.
        most: u64,
    },
    /// The second reading of an input gave other bytes than the first.
    #[error(
        "{name} changed while the job was running: what was written does not belong to one version of it"
    )]
    InputChanged {
        /// The input.
        name: String,
    },
    /// The model failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The model gave something that is no number.
    #[error(
        "record \"{}\" (record {record} of the input): layer {layer} gave {value} in dimension {dimension}",
        Shown(id)
    )]
    NonFinite {
        /// Id of the record.
        id: String,
        /// Its number over the whole input, from 1.
        record: u64,
        /// The layer.
        layer: usize,
        /// Where in the row, from 0.
        dimension: usize,
        /// NaN or an infinity.
        value: f32,
        /// Whether it was computed in f16, which ends at 65504.
        f16: bool,
    },
    /// The output could not be written, or not there.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// A job stands in the output directory, and it was not said that it is to go on.
    #[error("the output directory {} already holds a job", path.display())]
    Exists {
        /// The output directory.
        path: PathBuf,
    },
    /// Something of a job stands in the output directory, and nothing that says of which.
    #[error("the output directory {} holds a job's output, but no job.json that says which job made it", path.display())]
    Nameless {
        /// The output directory.
        path: PathBuf,
    },
    /// Another job than this one stands there.
    #[error("cannot resume: the job in {} is another one: {}", path.display(), list(differences))]
    Differs {
        /// The output directory.
        path: PathBuf,
        /// In what.
        differences: Vec<Difference>,
    },
    /// A finished shard was made from other records.
    #[error(
        "cannot resume: records {first} to {last} of the input are not those that {} was made from",
        shard.display()
    )]
    RecordsDiffer {
        /// The shard.
        shard: PathBuf,
        /// Number of the first record, from 1.
        first: u64,
        /// Number of the last one.
        last: u64,
    },
    /// A shard stands where the input, or this share of it, has no records.
    #[error("cannot resume: {} belongs to no part of this job, whose input has {records} records", shard.display())]
    Surplus {
        /// The shard.
        shard: PathBuf,
        /// Records in the input.
        records: u64,
    },
    /// A table of GEMM algorithms that a job cannot be computed with.
    #[error("the table of GEMM algorithms {} cannot be used: {reason}", path.display())]
    Algorithms {
        /// Its file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// Jobs that cannot be merged.
    #[error("cannot merge: {reason}")]
    Merge {
        /// Why not.
        reason: String,
        /// The remedy.
        hint: String,
    },
    /// The merged output could not be written.
    #[error(transparent)]
    MergeOutput(OutputError),
    /// A thread that the system would not start.
    #[error("cannot start a thread: {0}")]
    NoThread(String),
    /// A fault in this program.
    #[error("internal error: {0}")]
    Internal(String),
}

fn list(differences: &[Difference]) -> String {
    differences
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

impl JobError {
    /// The remedy, where one is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Sequence(e) => e.hint(),
            Self::Model(e) => e.hint(),
            Self::Output(e) => e.hint(),
            Self::TooLong { .. } => {
                Some("--long truncate keeps the first tokens, --long window averages over windows".into())
            }
            Self::InputChanged { .. } => Some(
                "put it back as it was and run the same command with --resume, which computes again what was made of changed text; or start again, with another --out".into(),
            ),
            Self::NoRoom { tokens, most, .. } => Some(
                ModelError::TooLong {
                    tokens: *tokens,
                    most: *most,
                }
                .hint()
                .unwrap_or_default(),
            ),
            Self::NoMemory { most, .. } => Some(match most {
                0..3 => "use a machine with more memory, or raise the limit".into(),
                most => format!(
                    "embed it in windows (--long window) or cut it (--long truncate), with --max-length {} at most; or give \
                     the job more memory",
                    most - 2
                ),
            }),
            Self::NonFinite { f16: true, .. } => {
                Some("values have probably overflowed in f16: use --dtype bf16 or f32; if that gives the same, `weights-tools verify MODEL` looks for values that are not finite".into())
            }
            Self::NonFinite { .. } => {
                Some("check the weights: `weights-tools verify MODEL` looks for values that are not finite".into())
            }
            Self::Exists { .. } => {
                Some("add --resume to go on with it, or give another --out to start anew".into())
            }
            // The directory's own table would have been used if it were there.
            Self::Differs { differences, .. } if differences.iter().all(|d| d.field == "gemm_algorithms") => Some(format!(
                "{ALGORITHMS_FILE}, which holds the job's GEMM algorithms, is missing there: put it back, or give that of another share of the same job by --gemm-algorithms, or another --out"
            )),
            Self::Differs { .. } => {
                Some("give the options, model and inputs of that job, or another --out".into())
            }
            Self::RecordsDiffer { shard, .. } => Some(format!(
                "give the input that the job was started with, or another --out; if this is that input, remove {}, and --resume computes it again",
                shard.display()
            )),
            Self::Surplus { shard, .. } => Some(format!(
                "give the input that the job was started with, or another --out; if this is that input, move {} elsewhere",
                shard.display()
            )),
            Self::Nameless { .. } => {
                Some("give an empty or a new directory as --out, or put the job.json back that stood there".into())
            }
            // Those that are right as they are.
            Self::MergeOutput(
                e @ (OutputError::Foreign { .. } | OutputError::Locked { .. } | OutputError::Unsound { .. }),
            ) => e.hint(),
            Self::MergeOutput(OutputError::Malformed { .. }) => {
                Some("give an empty or a new directory as --out".into())
            }
            Self::MergeOutput(OutputError::Marked { path, .. }) => Some(format!(
                "wait for it to end; if it was killed, remove {} and run the same merge again",
                path.display()
            )),
            Self::MergeOutput(OutputError::Taken { .. } | OutputError::Removed { .. }) => Some(
                "nothing of the other job was touched; give this merge an --out of its own".into(),
            ),
            Self::MergeOutput(OutputError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::StorageFull =>
            {
                Some("free some space, then run the same merge again: it goes on where it ended".into())
            }
            Self::MergeOutput(_) => {
                Some("when this is mended, run the same merge again: it goes on where it ended".into())
            }
            Self::Algorithms { .. } => Some(
                "put the file back as the job wrote it: all shares of one job have the same; or begin a new job, with another --out".into(),
            ),
            Self::Merge { hint, .. } => Some(hint.clone()),
            Self::NoThread(_) => {
                Some("raise the number of processes and threads that this user may have (ulimit -u), or give fewer --threads".into())
            }
            Self::Internal(_) => Some("please report this with the command that led to it".into()),
        }
    }
}
