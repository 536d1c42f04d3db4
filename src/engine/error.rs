//! Why a model cannot be put on its devices.

use crate::backend::BackendError;
use crate::model::ModelError;
use crate::sequence::{SequenceError, TokenizerError};
use crate::weights::WeightsError;

/// What opening a model, or putting it on devices, can fail with.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Weights that cannot be used.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The model cannot be loaded.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A device cannot be used.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A tokenizer.json that cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A sequence that cannot be embedded.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// A layer that the model does not have.
    #[error("there is no layer {layer} in a model of {layers} layers")]
    NoLayer {
        /// The layer that was asked for; 0 is the embedding.
        layer: usize,
        /// The layers of the model.
        layers: usize,
    },
    /// A model folder that lacks its tokenizer.json.
    #[error("{model} has no tokenizer.json, without which DNA cannot be read")]
    NoTokenizer {
        /// The model, as it was named.
        model: String,
    },
    /// Too little memory for the model, or for a sequence.
    #[error("{message}")]
    Memory {
        /// What needs how much, and what there is.
        message: String,
        /// The remedy.
        hint: String,
    },
    /// Devices of different kinds in one job.
    #[error(
        "{first} and {other} would compute different bits, and a row must not depend on the device that computed it"
    )]
    MixedDevices {
        /// The first device's chip.
        first: String,
        /// The chip that differs.
        other: String,
    },
    /// No device was named.
    #[error("no device")]
    NoDevice,
}
