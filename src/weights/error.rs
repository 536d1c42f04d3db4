//! What can be wrong with a model's files.

use std::io;
use std::path::{Path, PathBuf};

use crate::untrusted::{Shown, shown};

/// Why weights could not be read or written. Every message names the file, and the tensor where
/// there is one; [`WeightsError::hint`] has the remedy.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// A file could not be opened, mapped or read.
    #[error("{}: cannot be read: {source}", shown::path(path))]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("{}: cannot be written: {source}", shown::path(path))]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A path leads to no one set of weights.
    #[error("{}: {what}", shown::path(path))]
    NoWeights {
        /// The folder or file asked for.
        path: PathBuf,
        /// What stands there instead.
        what: String,
    },
    /// A file is not what it should be.
    #[error("{}: {what}", shown::path(path))]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the byte offset where there is one.
        what: String,
        /// The remedy.
        hint: String,
    },
    /// The architecture is unknown, impossible or not computed here.
    #[error("{}: {what}", shown::path(path))]
    Config {
        /// The file that says so.
        path: PathBuf,
        /// What is wrong.
        what: String,
        /// The remedy.
        hint: String,
    },
    /// A tensor that the architecture needs is in no file.
    #[error("{}: tensor {} is missing, expected shape {}{}", shown::path(path), Shown(tensor), shown::shape(expected), and_more(*.more))]
    Missing {
        /// Canonical name.
        tensor: String,
        /// The file or folder searched.
        path: PathBuf,
        /// The shape the architecture gives it.
        expected: Vec<usize>,
        /// How many further tensors are missing.
        more: usize,
    },
    /// A tensor that the architecture has no place for.
    #[error("{}: tensor {} of shape {} has no place in this model ({model}), which expects no such tensor{}", shown::path(path), Shown(tensor), shown::shape(found), and_more(*.more))]
    Extra {
        /// Name as the file has it.
        tensor: String,
        /// The file it stands in.
        path: PathBuf,
        /// Its shape.
        found: Vec<usize>,
        /// The architecture in words.
        model: String,
        /// How many further tensors have no place.
        more: usize,
    },
    /// A tensor's shape is not the architecture's.
    #[error("{}: tensor {} has shape {}, expected {}{}", shown::path(path), Shown(tensor), shown::shape(found), shown::shape(expected), and_more(*.more))]
    Shape {
        /// Name as the file has it.
        tensor: String,
        /// The file it stands in.
        path: PathBuf,
        /// Its shape there.
        found: Vec<usize>,
        /// The shape the architecture gives it.
        expected: Vec<usize>,
        /// How many further tensors have a wrong shape.
        more: usize,
    },
    /// A tensor that is needed is stored in a way that cannot be used.
    #[error("{}: tensor {} {what}", shown::path(path), Shown(tensor))]
    Unusable {
        /// Name as the file has it.
        tensor: String,
        /// The file it stands in.
        path: PathBuf,
        /// Why, as the rest of a sentence.
        what: String,
        /// The remedy.
        hint: String,
    },
    /// Two tensors go by one name.
    #[error(
        "tensor {} stands twice: in {} and in {}",
        Shown(tensor),
        shown::path(first),
        shown::path(second)
    )]
    Twice {
        /// Canonical name.
        tensor: String,
        /// One file.
        first: PathBuf,
        /// The other, perhaps the same.
        second: PathBuf,
    },
    /// A model that was to be made cannot exist.
    #[error("no such model can be made: {what}")]
    Spec {
        /// Which size is wrong.
        what: String,
    },
}

fn and_more(more: usize) -> String {
    match more {
        0 => String::new(),
        n => format!(" (and {n} more like it)"),
    }
}

impl WeightsError {
    pub(crate) fn read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| WeightsError::Read { path, source }
    }

    pub(crate) fn write(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| WeightsError::Write { path, source }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            WeightsError::Read { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => {
                    "check the path; where it is a link, download what it leads to again".into()
                }
                io::ErrorKind::IsADirectory => {
                    "a folder stands where a file is expected: move it away, or name a file in it"
                        .into()
                }
                io::ErrorKind::InvalidInput => {
                    "weights are mapped: copy them to a regular file, and give that".into()
                }
                io::ErrorKind::PermissionDenied => "check the permissions of the file and its folders".into(),
                _ => return None,
            },
            WeightsError::Write { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    "free some space, or choose another --out".into()
                }
                io::ErrorKind::PermissionDenied => "choose a folder you may write to".into(),
                _ => return None,
            },
            WeightsError::NoWeights { .. } => "give a folder with model.safetensors or pytorch_model.bin \
                 (or one of them sharded, with its index), or a .safetensors, .bin or fair-esm .pt file"
                .into(),
            WeightsError::Format { hint, .. }
            | WeightsError::Config { hint, .. }
            | WeightsError::Unusable { hint, .. } => hint.clone(),
            WeightsError::Missing { .. } => "download the model again; of a sharded one every shard is needed, \
                 and config.json must be the one published with these weights"
                .into(),
            WeightsError::Extra { .. } | WeightsError::Shape { .. } => {
                "check that config.json is the one published with these weights".into()
            }
            WeightsError::Twice { .. } => "keep one of the two files".into(),
            WeightsError::Spec { .. } => {
                "choose a head count that divides the hidden size, and sizes of at least 1".into()
            }
        };
        Some(text)
    }
}
