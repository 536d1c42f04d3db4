//! The errors that end a job.

use crate::bytes::{Bytes, rounded_up};
use crate::model::ModelError;
use crate::output::{ALGORITHMS_FILE, Difference, OutputError, Rejected};
use crate::remedy::{Action, Remedy};
use crate::sequence::{Place, SequenceError};
use crate::system::memory::Available;
use crate::untrusted::Shown;
use crate::virnucpro::TableError;
use crate::weights::WeightsError;
use std::path::{Path, PathBuf};

/// The reason why a job did not begin or did not finish.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The input is bad.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// A sequence is longer than the job's limit, and the job is to fail then.
    #[error("{place}: the sequence has {tokens} tokens, and the job allows {max}")]
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
        rounded_up(*needs), Bytes(available.bytes), available.bound
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
    /// The output directory already holds a job, and is not to be resumed.
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
    /// The tables of the job could not be made.
    #[error(transparent)]
    Tables(#[from] TableError),
    /// The vectors could not be written in the original's files.
    #[error(transparent)]
    Vectors(WeightsError),
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
        /// What the user can do about it.
        remedy: Remedy,
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

/// The fields of job.json that say how the input is read, and are named as their options.
const READING: [&str; 4] = ["names", "gaps", "bad_records", "chains"];

impl JobError {
    /// Returns the record that the error is about, if it is about one record alone, so that a job
    /// can go on without this record.
    pub fn rejected(&self) -> Option<Rejected> {
        let place = match self {
            Self::Sequence(e) if e.concerns_record() => e.place()?,
            Self::TooLong { place, .. }
            | Self::OverCapacity { place, .. }
            | Self::NoMemory { place, .. } => place,
            _ => return None,
        };
        let said = self.to_string();
        let reason = said.strip_prefix(&place.to_string()).unwrap_or(&said);
        let file = Path::new(&*place.file).file_name().unwrap_or_default();
        Some(Rejected {
            name: place.id.clone(),
            file: file.to_string_lossy().into_owned(),
            record: place.record,
            line: place.line,
            reason: reason.trim_start_matches([':', ',', ' ']).to_owned(),
        })
    }

    /// Returns what the user can do about the error, if a remedy is known.
    pub fn remedy(&self) -> Option<Remedy> {
        Some(match self {
            Self::Sequence(e) => return e.remedy(),
            Self::Model(e) => return e.remedy(),
            Self::Output(e) => return e.remedy(),
            Self::Tables(e) => return e.remedy(),
            Self::Vectors(e) => return e.remedy(),
            Self::TooLong { .. } => Action::CutOrWindow.into(),
            Self::InputChanged { .. } => Remedy::any_of([
                Remedy::steps([
                    "put it back as it was".into(),
                    Action::ResumeAffected.into(),
                ]),
                Action::OtherOutput.into(),
            ]),
            Self::OverCapacity { .. } => Remedy::for_long_sequence(),
            Self::NoMemory { most: 0..3, .. } => {
                "use a machine with more memory, or raise the limit".into()
            }
            Self::NoMemory { most, .. } => Remedy::any_of([
                // Two of the tokens are the special tokens at the ends.
                Action::LimitLength { tokens: most - 2 }.into(),
                Action::MoreMemory.into(),
            ]),
            Self::NonFinite { f16: true, .. } => Remedy::all([
                Action::AvoidF16.into(),
                Remedy::when("if that gives the same", Action::VerifyWeights),
            ]),
            Self::NonFinite { .. } => Action::VerifyWeights.into(),
            Self::Exists { .. } => {
                Remedy::any_of([Action::ContinueJob.into(), Action::OtherOutput.into()])
            }
            // If the directory still held its own table, that table would have been used.
            Self::Differs { differences, .. }
                if differences.iter().all(|d| d.field == "gemm_algorithms") =>
            {
                Remedy::any_of([
                    format!("{ALGORITHMS_FILE}, which holds the job's GEMM algorithms, is missing there: put it back").into(),
                    Action::GiveAlgorithms.into(),
                    Action::OtherOutput.into(),
                ])
            }
            Self::Differs { differences, .. }
                if differences.iter().all(|d| READING.contains(&d.field.as_str())) =>
            {
                let same = |d: &Difference| {
                    Remedy::from(Action::SameReading {
                        option: d.field.clone(),
                        value: d.there.trim_matches('"').to_owned(),
                    })
                };
                Remedy::any_of([
                    Remedy::All(differences.iter().map(same).collect()),
                    Action::OtherOutput.into(),
                ])
            }
            Self::Differs { .. } => Remedy::any_of([
                "give the options, model and inputs of that job".into(),
                Action::OtherOutput.into(),
            ]),
            Self::RecordsDiffer { shard, .. } => or_the_first_input(Action::RecomputeShard {
                shard: shard.clone(),
            }),
            Self::Surplus { shard, .. } => or_the_first_input(Action::Advice(
                format!("move {} elsewhere", shard.display()).into(),
            )),
            Self::Nameless { .. } => Remedy::any_of([
                Action::EmptyOutput.into(),
                "put the job.json back that stood there".into(),
            ]),
            // The remedies of these errors also fit a merge.
            Self::MergeOutput(
                e @ (OutputError::Foreign { .. }
                | OutputError::Locked { .. }
                | OutputError::Marked { .. }
                | OutputError::Unsound { .. }),
            ) => return e.remedy(),
            Self::MergeOutput(OutputError::Malformed { .. }) => Action::EmptyOutput.into(),
            Self::MergeOutput(OutputError::Taken { .. } | OutputError::Removed { .. }) => {
                Remedy::all([
                    "nothing of the other job was touched".into(),
                    Action::EmptyOutput.into(),
                ])
            }
            Self::MergeOutput(OutputError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::StorageFull =>
            {
                Remedy::steps(["free some space".into(), Action::MergeAgain.into()])
            }
            Self::MergeOutput(_) => Remedy::when("when this is mended", Action::MergeAgain),
            Self::Algorithms { .. } => Remedy::any_of([
                "put the file back as the job wrote it: all shares of one job have the same".into(),
                Action::OtherOutput.into(),
            ]),
            Self::Merge { remedy, .. } => remedy.clone(),
            Self::NoThread(_) => Remedy::any_of([
                "raise the number of processes and threads that this user may have (ulimit -u)"
                    .into(),
                Action::FewerThreads.into(),
            ]),
            Self::Internal(_) => Action::ReportDefect.into(),
        })
    }
}

/// What helps where a shard was made from other records: the first input, another output, or `same`
/// if the input is the first one after all.
fn or_the_first_input(same: Action) -> Remedy {
    Remedy::all([
        Remedy::any_of([
            "give the input that the job was started with".into(),
            Action::OtherOutput.into(),
        ]),
        Remedy::when("if this is that input", same),
    ])
}
