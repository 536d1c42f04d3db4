//! Mapped files to named tensors.
//!
//! | file | what it does |
//! |---|---|
//! | `checkpoint` | a model's weights, whatever files they come in: [`Checkpoint`] |
//! | `source` | from a path to the files |
//! | `safetensors`, `torch` | the two formats: where in a file which tensor lies |
//! | `names`, [`layout`], `architecture` | canonical names; the tensors an architecture consists of; the check |
//! | [`config_json`], `frequencies` | config.json; rotary frequencies, the same in all layers |
//! | `mapped`, `tensor` | mapped files, tensors in them, the only `unsafe` |
//! | `summary` | what `inspect` shows |
//! | [`random`], [`mod@write`] | seeded random models; safetensors written as a stream |
//!
//! Files are not trusted: what is malformed is an error with file, place and remedy, and no pickle
//! is executed. [`read_index`], [`check_pickle`] and [`pickle_text`] are what the fuzzers drive.

mod architecture;
mod checkpoint;
pub mod config_json;
mod dtype;
mod error;
mod frequencies;
mod hash;
pub mod layout;
mod mapped;
mod names;
mod narrow;
pub mod random;
mod safetensors;
mod source;
mod stored;
mod summary;
mod tensor;
mod torch;
pub mod write;

pub use checkpoint::{Checkpoint, TensorInfo, read_index};
pub use dtype::DType;
pub use error::WeightsError;
pub use mapped::Mapped;
pub use safetensors::read_header as read_safetensors_header;
pub use stored::{Malformed, StoredDType, StoredTensor};
pub use summary::Summary;
pub use tensor::{F32Data, Tensor, Weight};
pub use torch::{
    FairEsmSettings, TorchFile, check_pickle, pickle_text, read_index as read_torch_index,
};
