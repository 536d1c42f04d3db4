//! Mapped files to named tensors.

pub mod config_json;
mod dtype;
mod error;
pub mod layout;
pub mod random;
pub mod write;

pub use dtype::DType;
pub use error::WeightsError;
