//! The errors of exports.

use std::io;
use std::path::{Path, PathBuf};

use super::Format;
use crate::output::{FinishedError, OutputError};
use crate::remedy::{Action, Remedy};
use crate::system::files;
use crate::untrusted::Shown;

/// An output that could not be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The format needs a feature that this build lacks.
    #[error("this build cannot write {format}: it lacks the feature {feature}")]
    Feature {
        /// The format.
        format: Format,
        /// The feature.
        feature: &'static str,
    },
    /// The output cannot be read as a whole.
    #[error(transparent)]
    Finished(#[from] FinishedError),
    /// The output has several layers, and the format takes one.
    #[error(
        "the output has layers {}, and {format} takes one of them",
        listed(layers)
    )]
    Layers {
        /// The format.
        format: Format,
        /// The layers.
        layers: Vec<usize>,
    },
    /// The output does not have the layer.
    #[error("the output has no layer {layer}: it has {}", listed(layers))]
    NoLayer {
        /// The layer, as it was asked for.
        layer: i64,
        /// The layers of the output.
        layers: Vec<usize>,
    },
    /// The output has several poolings, and the format takes one.
    #[error("the output has the poolings {}, and {format} takes one of them", pools.join(", "))]
    Pools {
        /// The format.
        format: Format,
        /// The poolings.
        pools: Vec<String>,
    },
    /// The output does not have the pooling.
    #[error("the output has no pooling \"{}\": it has {}", Shown(pool), all(pools))]
    NoPool {
        /// The pooling that was asked for.
        pool: String,
        /// The poolings of the output.
        pools: Vec<String>,
    },
    /// The pooling has no place in the format.
    #[error("fair-esm's layout has no place for the pooling \"{}\"", Shown(pool))]
    NoPlaceForPool {
        /// The pooling.
        pool: String,
    },
    /// The output has no states of tokens.
    #[error("the output has no states of tokens: its job kept one row per sequence")]
    NoStates,
    /// The output has states of tokens alone, which the format cannot hold.
    #[error("{format} holds one row per sequence, and not the states of every token")]
    OnlyPooled {
        /// The format.
        format: Format,
    },
    /// Two records have the same key.
    #[error(
        "records {first} and {second} of the output have the same key \"{}\", and {format} needs a key for each record",
        Shown(key)
    )]
    Duplicate {
        /// The format.
        format: Format,
        /// The key.
        key: String,
        /// The number of the first record, from 1.
        first: u64,
        /// The number of the second record, from 1.
        second: u64,
        /// Whether the keys are accessions.
        accession: bool,
    },
    /// A key that has no place in the format.
    #[error(
        "record {number} of the output has the key \"{}\", which cannot be {what} of {format}: {reason}",
        Shown(key)
    )]
    BadKey {
        /// The format.
        format: Format,
        /// What the key becomes in the format.
        what: &'static str,
        /// The key.
        key: String,
        /// The number of the record, from 1.
        number: u64,
        /// The reason, as a clause.
        reason: &'static str,
    },
    /// A shard has fewer names than records.
    #[error("a shard has {names} names and {records} records")]
    Names {
        /// The number of names.
        names: u64,
        /// The number of records.
        records: u64,
    },
    /// The destination could not be written.
    #[error(transparent)]
    Write(OutputError),
    /// The library of a format failed.
    #[error("cannot write {}: {reason}", path.display())]
    Library {
        /// The file.
        path: PathBuf,
        /// What the library says.
        reason: String,
    },
}

fn all(pools: &[String]) -> String {
    match pools {
        [] => "none".into(),
        pools => pools.join(", "),
    }
}

fn listed(layers: &[usize]) -> String {
    let layers: Vec<String> = layers.iter().map(ToString::to_string).collect();
    layers.join(", ")
}

impl ExportError {
    /// A failed write of `path`.
    pub(super) fn write(path: &Path, source: io::Error) -> Self {
        Self::Write(OutputError::io("write", path, None, source))
    }

    /// A failure that a library reports.
    #[cfg(any(feature = "export-h5", feature = "export-parquet"))]
    pub(super) fn library(path: &Path, error: impl std::fmt::Display) -> Self {
        let text = error.to_string();
        Self::Library {
            path: path.to_path_buf(),
            reason: text
                .chars()
                .take(300)
                .flat_map(char::escape_debug)
                .collect(),
        }
    }

    /// Returns what the user can do about the error, if a remedy is known.
    pub fn remedy(&self) -> Option<Remedy> {
        Some(match self {
            Self::Feature { feature, .. } => Remedy::any_of([
                Action::BuildWith { feature }.into(),
                Action::ExportAsTable.into(),
            ]),
            Self::Finished(error) => return error.remedy(),
            Self::Layers { layers, .. } | Self::NoLayer { layers, .. } => Action::ChooseLayer {
                layer: layers.last().copied().unwrap_or_default(),
            }
            .into(),
            Self::NoPool { pools, .. } if pools.is_empty() => "export the states of tokens".into(),
            Self::Pools { pools, .. } | Self::NoPool { pools, .. } => Action::ChoosePool {
                pool: pools.first().cloned().unwrap_or_else(|| "mean".into()),
            }
            .into(),
            Self::NoPlaceForPool { .. } => Action::ExportAsTable.into(),
            Self::NoStates => Action::KeepStates.into(),
            Self::OnlyPooled { .. } => Action::ExportStates.into(),
            Self::Duplicate {
                accession: true, ..
            } => Remedy::any_of([Action::KeyById.into(), Action::ExportAsTable.into()]),
            Self::Duplicate { .. } | Self::BadKey { .. } => Remedy::any_of([
                Action::ExportAsTable.into(),
                "rename the records in the input and compute them again".into(),
            ]),
            Self::Names { .. } => Action::ResumeThatJob.into(),
            Self::Write(OutputError::Io { source, .. })
                if source.kind() == io::ErrorKind::StorageFull =>
            {
                Remedy::steps(["free some space".into(), Action::RunAgain.into()])
            }
            Self::Write(OutputError::Io { source, .. }) => match files::advice(source) {
                Some(advice) => Remedy::steps([advice.into(), Action::RunAgain.into()]),
                None => "see that the folder exists and can be written to".into(),
            },
            Self::Write(error) => return error.remedy(),
            Self::Library { .. } => Remedy::steps([
                "see that the disk has space and is sound".into(),
                Action::RunAgain.into(),
            ]),
        })
    }
}
