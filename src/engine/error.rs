//! The errors of opening a model, putting it on its devices and running it.

use crate::backend::BackendError;
use crate::hub::HubError;
use crate::model::ModelError;
use crate::remedy::{Action, Remedy};
use crate::sequence::{SequenceError, TokenizerError};
use crate::weights::WeightsError;

/// Why a model cannot be opened, put on its devices, or run on a sequence.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The model was given by its name, and the name leads to no model, or the model could not be
    /// downloaded.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The weights cannot be used.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The model cannot be loaded or run.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A device cannot be used, or it failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A tokenizer.json cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A sequence cannot be embedded.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// The request names a layer twice.
    #[error("layer {layer} is requested twice")]
    RepeatedLayer {
        /// The layer.
        layer: usize,
    },
    /// A state or a pooled row is infinite or NaN.
    #[error("layer {layer} of sequence {sequence} has a value that is not finite")]
    NonFinite {
        /// The sequence, counted from 1.
        sequence: usize,
        /// The layer.
        layer: usize,
    },
    /// The request names a layer that the model does not have.
    #[error("there is no layer {layer} in a model of {layers} layers")]
    NoLayer {
        /// The requested layer; 0 is the embedding.
        layer: usize,
        /// The number of layers of the model.
        layers: usize,
    },
    /// The folder of a DNABERT model has no tokenizer.json.
    #[error("{model} has no tokenizer.json, without which DNA cannot be read")]
    NoTokenizer {
        /// The path of the model, as the user gave it.
        model: String,
    },
    /// There is too little memory for the model, or for a sequence.
    #[error("{message}")]
    Memory {
        /// How much memory is needed for what, and how much there is.
        message: String,
        /// What the user can do about it.
        remedy: Remedy,
    },
    /// The devices of one job are of different kinds.
    #[error(
        "{first} and {other} would compute different bits, and a row must not depend on the device that computed it"
    )]
    MixedDevices {
        /// The chip of the first device.
        first: String,
        /// A chip that differs from the first one.
        other: String,
    },
    /// No device was named.
    #[error("no device")]
    NoDevice,
}

impl EngineError {
    /// Returns what the user can do about the error, if a remedy is known.
    pub fn remedy(&self) -> Option<Remedy> {
        match self {
            Self::Hub(e) => e.remedy(),
            Self::Weights(e) => e.remedy(),
            Self::Model(e) => e.remedy(),
            Self::Backend(e) => e.remedy(),
            Self::Tokenizer(e) => e.remedy(),
            Self::Sequence(e) => e.remedy(),
            Self::Memory { remedy, .. } => Some(remedy.clone()),
            Self::NoTokenizer { .. } => Some(
                "download tokenizer.json from where the weights came from, into the same folder"
                    .into(),
            ),
            Self::MixedDevices { .. } => Some(Remedy::any_of([
                "name devices of one kind".into(),
                Action::DivideJob.into(),
            ])),
            Self::NoLayer { .. } | Self::RepeatedLayer { .. } => {
                Some("give layers that the model has, 0 for the embedding".into())
            }
            Self::NonFinite { .. } => Some(Action::VerifyWeights.into()),
            Self::NoDevice => None,
        }
    }
}
