//! The errors of classifiers and of tables.

use std::path::PathBuf;

use crate::output::OutputError;
use crate::remedy::{Action, Remedy};
use crate::sequence::Frame;
use crate::untrusted::{Shown, shown};
use crate::weights::WeightsError;

/// Why a file cannot be used as a classifier. Every message names the file.
#[derive(Debug, thiserror::Error)]
pub enum ClassifierError {
    /// The file cannot be read, or it is no file of weights.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A tensor of the classifier is not in the file.
    #[error(
        "{}: tensor {tensor} is missing, expected shape {expected}; {found}",
        shown::path(path)
    )]
    Missing {
        /// The file.
        path: PathBuf,
        /// The name of the tensor.
        tensor: &'static str,
        /// The shape that it should have, with letters for sizes that the file decides.
        expected: String,
        /// What the file holds instead, as a clause.
        found: String,
    },
    /// A tensor does not have the shape that it should have.
    #[error(
        "{}: tensor {tensor} has shape {}, expected {expected}",
        shown::path(path),
        shown::shape(found)
    )]
    Shape {
        /// The file.
        path: PathBuf,
        /// The name of the tensor.
        tensor: &'static str,
        /// Its shape in the file.
        found: Vec<usize>,
        /// The shape that it should have, with letters for sizes that the file decides.
        expected: String,
    },
    /// A tensor is stored in a way that cannot be used, or its values cannot be computed with.
    #[error("{}: tensor {tensor} {what}", shown::path(path))]
    Unusable {
        /// The file.
        path: PathBuf,
        /// The name of the tensor.
        tensor: &'static str,
        /// Why it cannot be used, as the rest of a sentence that begins with the tensor's name.
        what: String,
    },
    /// The vectors have another width than the classifier takes.
    #[error(
        "{}: this classifier was trained on vectors of {width} values, but the features have {found} values ({features})",
        shown::path(path)
    )]
    Width {
        /// The file.
        path: PathBuf,
        /// The width that the classifier takes.
        width: usize,
        /// The width of the features.
        found: usize,
        /// The parts of the features with their widths.
        features: String,
    },
}

impl ClassifierError {
    /// Returns what the user can do about the error, if a remedy is known.
    pub fn remedy(&self) -> Option<Remedy> {
        Some(match self {
            Self::Weights(WeightsError::NoWeights { .. }) => {
                "give the file of a classifier, such as 500_model.pth".into()
            }
            Self::Weights(error) => return error.remedy(),
            Self::Missing { .. } => {
                "give the file of a VirNucPro classifier, such as 500_model.pth: the whole module or \
                 its state_dict(), and not one of the two models that make the vectors"
                    .into()
            }
            Self::Shape { .. } => "download the classifier again, or save its state_dict() again; \
                 only classifiers with one hidden layer and two classes are known"
                .into(),
            Self::Unusable { .. } => {
                "load the classifier in PyTorch, check its values, and save its state_dict() again in \
                 float32"
                    .into()
            }
            Self::Width { width, .. } => match width {
                3328 => "it needs DNABERT-S (768) and ESM-2 3B (2560) together".into(),
                2048 => "it needs DNABERT-S (768) and ESM-2 650M (1280) together".into(),
                768 => "it needs DNABERT-S (768) alone".into(),
                1280 => "it needs ESM-2 650M (1280) alone".into(),
                2560 => "it needs ESM-2 3B (2560) alone".into(),
                _ => Remedy::from(
                    "use the models whose vectors the classifier was trained on, or another classifier",
                ),
            },
        })
    }
}

/// Why the tables of a job cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// A file cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// A score is no probability.
    #[error(
        "the scores of fragment {}_chunk_{chunk}{frame} are {others} and {virus}, which are no probabilities",
        Shown(contig)
    )]
    Score {
        /// The contig.
        contig: String,
        /// The number of the chunk.
        chunk: u32,
        /// The frame.
        frame: Frame,
        /// The first score.
        others: f32,
        /// The second score.
        virus: f32,
    },
    /// A contig has a name that would break the lines of a table.
    #[error(
        "contig \"{}\": a name with a tab or a line end cannot stand in a table",
        Shown(contig)
    )]
    Name {
        /// The contig.
        contig: String,
    },
    /// What the shards say about a contig does not fit together.
    #[error("contig \"{}\": {what}", Shown(contig))]
    Contradiction {
        /// The contig.
        contig: String,
        /// What does not fit, as a clause.
        what: String,
    },
}

impl TableError {
    /// Returns what the user can do about the error, if a remedy is known.
    pub fn remedy(&self) -> Option<Remedy> {
        Some(match self {
            Self::Output(error) => return error.remedy(),
            Self::Score { .. } => Remedy::any_of([
                Action::AvoidF16.into(),
                "check the classifier and both models for values that are not finite".into(),
            ]),
            Self::Name { .. } => "rename the contig in the input".into(),
            Self::Contradiction { .. } => Remedy::all([
                "the shards are not those of one job".into(),
                Action::OtherOutput.into(),
            ]),
        })
    }
}
