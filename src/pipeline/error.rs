//! The errors that end a job.

use crate::model::ModelError;
use crate::output::{ALGORITHMS_FILE, Difference, OutputError};
use crate::sequence::{Place, SequenceError};
use crate::system::memory::Available;
use crate::system::memory::show;
use crate::untrusted::Shown;
use std::path::PathBuf;

/// The reason why a job did not begin or did not finish.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The input is bad.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// A sequence is longer than `--max-length` allows, with `--long error`.
    #[error("{place}: the sequence has {tokens} tokens, and --max-length allows {max}")]
    TooLong {
        /// The place of the record.
        place: Place,
        /// The number of content tokens of the sequence.
        tokens: usize,
        /// The limit in content tokens.
        max: usize,
    },
    /// A sequence has more tokens than the device can take, even in a batch of its own.
    #[error("{place}: the sequence has {tokens} tokens, and the device can take {most} at once")]
    OverCapacity {
        /// The place of the record.
        place: Place,
        /// The number of tokens of the sequence, special tokens included.
        tokens: usize,
        /// The device's limit in tokens.
        most: usize,
    },
    /// A sequence needs more memory than there is, even in a batch of its own.
    #[error(
        "{place}: embedding this sequence of {letters} letters needs about {} of memory, and {} can be had {}",
        show(*needs), show(available.bytes), available.bound
    )]
    NoMemory {
        /// The place of the record.
        place: Place,
        /// The number of residues or bases after cleaning.
        letters: u64,
        /// The memory that the sequence needs, in bytes.
        needs: u64,
        /// The memory that was available when the job began.
        available: Available,
        /// The most tokens of a sequence that this memory is enough for.
        most: u64,
    },
    /// An input gave other bytes at the second reading than at the first.
    #[error(
        "{name} changed while the job was running: what was written does not belong to one version of it"
    )]
    InputChanged {
        /// The name of the input.
        name: String,
    },
    /// The model failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The model gave a value that is not a finite number.
    #[error(
        "record \"{}\" (record {record} of the input): layer {layer} gave {value} in dimension {dimension}",
        Shown(id)
    )]
    NonFinite {
        /// The id of the record.
        id: String,
        /// The number of the record over the whole input, from 1.
        record: u64,
        /// The layer that gave the value.
        layer: usize,
        /// The position of the value in the row, from 0.
        dimension: usize,
        /// The value: NaN or an infinity.
        value: f32,
        /// Whether the value was computed in f16, whose largest value is 65504.
        f16: bool,
    },
    /// The output could not be written, or the output directory cannot be used.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The output directory already holds a job, and `--resume` was not given.
    #[error("the output directory {} already holds a job", path.display())]
    Exists {
        /// The output directory.
        path: PathBuf,
    },
    /// The output directory holds output of a job, but no job.json that says of which job.
    #[error("the output directory {} holds a job's output, but no job.json that says which job made it", path.display())]
    Nameless {
        /// The output directory.
        path: PathBuf,
    },
    /// The output directory holds another job.
    #[error("cannot resume: the job in {} is another one: {}", path.display(), list(differences))]
    Differs {
        /// The output directory.
        path: PathBuf,
        /// The differences between the two jobs.
        differences: Vec<Difference>,
    },
    /// A finished shard was made from other records than the records of the input.
    #[error(
        "cannot resume: records {first} to {last} of the input are not those that {} was made from",
        shard.display()
    )]
    RecordsDiffer {
        /// The path of the shard.
        shard: PathBuf,
        /// The number of the shard's first record, from 1.
        first: u64,
        /// The number of the shard's last record, from 1.
        last: u64,
    },
    /// A shard exists for which the input, or this share of it, has no records.
    #[error("cannot resume: {} belongs to no part of this job, whose input has {records} records", shard.display())]
    Surplus {
        /// The path of the shard.
        shard: PathBuf,
        /// The number of records in the input.
        records: u64,
    },
    /// A table of GEMM algorithms cannot be used for the job.
    #[error("the table of GEMM algorithms {} cannot be used: {reason}", path.display())]
    Algorithms {
        /// The path of the table.
        path: PathBuf,
        /// The reason, as a clause.
        reason: String,
    },
    /// The jobs cannot be merged.
    #[error("cannot merge: {reason}")]
    Merge {
        /// The reason, as a clause.
        reason: String,
        /// Advice for the user.
        hint: String,
    },
    /// The merged output could not be written.
    #[error(transparent)]
    MergeOutput(OutputError),
    /// The system did not start a thread.
    #[error("cannot start a thread: {0}")]
    NoThread(String),
    /// This program has a fault.
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
    /// Returns advice for the user, if there is any.
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
            Self::OverCapacity { tokens, most, .. } => Some(
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
            // If the directory still held its own table, that table would have been used.
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
            // The hints of these errors also fit a merge.
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
