//! Turns mapped weight files into named, checked tensors.
//!
//! | file | what it does |
//! |---|---|
//! | `checkpoint` | opens a model's weights, whatever files they are stored in: [`Checkpoint`] |
//! | `source` | finds the files behind a path |
//! | `hub` | names of the Hugging Face Hub, folders of its cache, and adapters |
//! | `format` | tells the format of a file, and names files that hold no weights |
//! | `safetensors`, `torch` | read the two formats: where in a file each tensor lies |
//! | `stored` | describes the tensors of a file, whatever its format |
//! | `backbone` | separates the model's tensors from heads and other things beside it |
//! | `vocabulary` | checks that a model reads ESM-2's tokens |
//! | `identify` | determines the architecture and checks the tensors against it |
//! | `frequencies` | checks that all layers have the same rotary frequencies |
//! | `mapped`, `tensor` | mapped files and the tensors in them; all `unsafe` code is in `mapped` |
//! | `hash` | hashes files with all threads of a pool |
//! | `summary` | gathers what `inspect` shows |
//! | [`random`], [`mod@write`] | write seeded random models, and safetensors files as a stream |
//! | [`torch_write`] | writes files that `torch.load` reads |
//! | `error` | [`WeightsError`] |
//!
//! Canonical names, the tensors of each architecture and config.json are in
//! [`crate::architecture`].
//!
//! Files are not trusted. A malformed file is an error that names the file, the place and the
//! remedy, and no pickle is executed. The fuzzers call [`read_index`], [`read_classifier_index`],
//! [`check_pickle`] and [`pickle_text`].

mod backbone;
mod checkpoint;
mod error;
mod format;
mod frequencies;
mod hash;
mod hub;
mod identify;
mod mapped;
pub mod random;
mod safetensors;
mod source;
mod stored;
mod summary;
mod tensor;
mod torch;
mod vocabulary;
pub mod write;

pub use checkpoint::{Checkpoint, TensorInfo};
pub use error::WeightsError;
pub use format::{read_classifier_index, read_index};
pub use mapped::Mapped;
pub use safetensors::read_header as read_safetensors_header;
pub use stored::{Malformed, StoredDType, StoredTensor};
pub use summary::Summary;
pub use tensor::{F32Data, Tensor, Weight};
pub use torch::write as torch_write;
pub use torch::{
    FairEsmSettings, TorchFile, check_pickle, pickle_text, read_index as read_torch_index,
};
