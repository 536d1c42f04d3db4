//! How a job can fail.

use crate::model::ModelError;
use crate::output::{Difference, OutputError};
use crate::sequence::{Place, SequenceError};
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
    /// Jobs that cannot be merged.
    #[error("cannot merge: {reason}")]
    Merge {
        /// Why not.
        reason: String,
        /// The remedy.
        hint: String,
    },
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
            Self::InputChanged { .. } => Some("start again, with another --out".into()),
            Self::NoRoom { tokens, most, .. } => Some(
                ModelError::TooLong {
                    tokens: *tokens,
                    most: *most,
                }
                .hint()
                .unwrap_or_default(),
            ),
            Self::NonFinite { f16: true, .. } => {
                Some("values have probably overflowed in f16: use --dtype bf16 or f32; if that gives the same, `weights-tools verify MODEL` looks for values that are not finite".into())
            }
            Self::NonFinite { .. } => {
                Some("check the weights: `weights-tools verify MODEL` looks for values that are not finite".into())
            }
            Self::Exists { .. } => {
                Some("add --resume to go on with it, or give another --out to start anew".into())
            }
            Self::Differs { .. } => {
                Some("give the options, model and inputs of that job, or another --out".into())
            }
            Self::RecordsDiffer { .. } | Self::Surplus { .. } => {
                Some("give the input that the job was started with, or another --out".into())
            }
            Self::Merge { hint, .. } => Some(hint.clone()),
            Self::Internal(_) => Some("please report this with the command that led to it".into()),
        }
    }
}
