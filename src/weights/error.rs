//! The errors of reading and writing a model's files.

use std::io;
use std::path::{Path, PathBuf};

use crate::remedy::{Action, Remedy};
use crate::system::files;
use crate::untrusted::Shown;
use crate::untrusted::shown;

/// Why weights could not be read or written. Every message names the file, and the tensor if there
/// is one; [`WeightsError::remedy`] says what to do.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// A file could not be opened, mapped or read.
    #[error("{}: cannot be read: {source}", shown::path(path))]
    Read {
        /// The file.
        path: PathBuf,
        /// The error that the system gave.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("{}: cannot be written: {source}", shown::path(path))]
    Write {
        /// The file.
        path: PathBuf,
        /// The error that the system gave.
        source: io::Error,
    },
    /// A path does not lead to exactly one set of weights.
    #[error("{}: {what}", shown::path(path))]
    NoWeights {
        /// The folder or file that was asked for.
        path: PathBuf,
        /// What was found there instead.
        what: String,
    },
    /// A file is malformed.
    #[error("{}: {what}", shown::path(path))]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the byte offset where there is one.
        what: String,
        /// What the user can do about it.
        hint: String,
    },
    /// The architecture is unknown, impossible or not computed here.
    #[error("{}: {what}", shown::path(path))]
    Config {
        /// The file that gives the architecture.
        path: PathBuf,
        /// What is wrong.
        what: String,
        /// What the user can do about it.
        hint: String,
    },
    /// Nothing is at the path, which looks like the name of a model on the Hugging Face Hub.
    #[error(
        "{}: there is no such file or folder; it looks like the name of a model on the Hugging Face Hub",
        shown::path(path)
    )]
    OnHub {
        /// The path that was given.
        path: PathBuf,
        /// The name on the Hub, such as `facebook/esm2_t6_8M_UR50D`.
        name: String,
        /// A name for a folder that the model may be downloaded to.
        folder: String,
    },
    /// A tensor that the architecture needs is in no file.
    #[error("{}: tensor {} is missing, expected shape {}{}", shown::path(path), Shown(tensor), shown::shape(expected), and_more(*.more))]
    Missing {
        /// The canonical name.
        tensor: String,
        /// The file or folder that was searched.
        path: PathBuf,
        /// The shape that the architecture gives it.
        expected: Vec<usize>,
        /// How many further tensors are missing.
        more: usize,
    },
    /// A file has a tensor that the architecture has no place for.
    #[error("{}: tensor {} of shape {} has no place in this model ({model}), which expects no such tensor{}", shown::path(path), Shown(tensor), shown::shape(found), and_more(*.more))]
    Extra {
        /// The name in the file.
        tensor: String,
        /// The file that holds the tensor.
        path: PathBuf,
        /// Its shape.
        found: Vec<usize>,
        /// The architecture, in words.
        model: String,
        /// How many further tensors have no place.
        more: usize,
    },
    /// A tensor does not have the shape that the architecture gives it.
    #[error("{}: tensor {} has shape {}, expected {}{}", shown::path(path), Shown(tensor), shown::shape(found), shown::shape(expected), and_more(*.more))]
    Shape {
        /// The name in the file.
        tensor: String,
        /// The file that holds the tensor.
        path: PathBuf,
        /// Its shape in the file.
        found: Vec<usize>,
        /// The shape that the architecture gives it.
        expected: Vec<usize>,
        /// How many further tensors have a wrong shape.
        more: usize,
    },
    /// A tensor that is asked for is stored in a way that cannot be used.
    #[error("{}: tensor {} {what}", shown::path(path), Shown(tensor))]
    Unusable {
        /// The name in the file.
        tensor: String,
        /// The file that holds the tensor.
        path: PathBuf,
        /// Why it cannot be used, as the rest of a sentence that begins with the tensor's name.
        what: String,
        /// What the user can do about it.
        hint: String,
    },
    /// Two tensors have the same canonical name.
    #[error(
        "tensor {} stands twice: in {} and in {}",
        Shown(tensor),
        shown::path(first),
        shown::path(second)
    )]
    Twice {
        /// The canonical name.
        tensor: String,
        /// The file of the first tensor.
        first: PathBuf,
        /// The file of the second tensor, perhaps the same file.
        second: PathBuf,
    },
    /// A file is not what it was when it was opened.
    #[error(
        "{} changed while the job was running: what was computed since may be of neither version",
        path.display()
    )]
    Changed {
        /// The file.
        path: PathBuf,
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

    /// Returns what the user can do about the error, if a remedy is known.
    pub fn remedy(&self) -> Option<Remedy> {
        Some(match self {
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
                io::ErrorKind::OutOfMemory => {
                    "the files of a model are mapped whole: raise the limit of the address space, ulimit -v unlimited".into()
                }
                _ => return files::advice(source).map(Into::into),
            },
            WeightsError::Write { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    Remedy::any_of(["free some space".into(), Action::OtherOutput.into()])
                }
                io::ErrorKind::PermissionDenied => "choose a folder you may write to".into(),
                _ => return files::advice(source).map(Into::into),
            },
            WeightsError::OnHub { name, folder, .. } => Remedy::any_of([
                Action::DownloadModel {
                    name: name.clone(),
                    folder: folder.clone(),
                }
                .into(),
                "check the path".into(),
            ]),
            WeightsError::NoWeights { .. } => "give a folder with model.safetensors or pytorch_model.bin \
                 (or one of them sharded, with its index), or a .safetensors, .bin or fair-esm .pt file"
                .into(),
            WeightsError::Format { hint, .. }
            | WeightsError::Config { hint, .. }
            | WeightsError::Unusable { hint, .. } => hint.clone().into(),
            WeightsError::Missing { .. } => "download the model again; of a sharded one every shard is needed, \
                 and config.json must be the one published with these weights"
                .into(),
            WeightsError::Extra { .. } | WeightsError::Shape { .. } => {
                "check that config.json is the one published with these weights".into()
            }
            WeightsError::Twice { .. } => "keep one of the two files".into(),
            WeightsError::Changed { .. } => Remedy::all([
                Remedy::any_of([
                    Remedy::steps([
                        "put the file back".into(),
                        Action::ResumeJob.into(),
                    ]),
                    Action::OtherOutput.into(),
                ]),
                "to replace a model that is in use, write the new file beside the old one and rename it"
                    .into(),
            ]),
            WeightsError::Spec { .. } => {
                "choose a head count that divides the hidden size, and sizes of at least 1".into()
            }
        })
    }
}
