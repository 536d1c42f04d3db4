//! The errors of reading a tokenizer.json.

use crate::remedy::Remedy;
use crate::untrusted::shown;

/// A `tokenizer.json` that cannot be used. The error names the file and the field, and
/// [`TokenizerError::remedy`] says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}", shown::path(file))]
    Read {
        /// The file.
        file: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is larger than any tokenizer this program supports.
    #[error(
        "{}: {bytes} bytes are more than a tokenizer.json may have ({limit})",
        shown::path(file)
    )]
    TooLarge {
        /// The file.
        file: String,
        /// Its size in bytes.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The file is not JSON.
    #[error("{}: not valid JSON: {}", shown::path(file), shown::parser(source))]
    Json {
        /// The file.
        file: String,
        /// The cause and its position in the file.
        source: serde_json::Error,
    },
    /// The file describes a tokenizer of another kind.
    #[error(
        "{}: `{field}` is {found}; only {supported} is supported",
        shown::path(file)
    )]
    Unsupported {
        /// The file.
        file: String,
        /// The field's path.
        field: String,
        /// The value of the field, shortened.
        found: String,
        /// The values that are supported.
        supported: &'static str,
    },
    /// The file contradicts itself.
    #[error("{}: `{field}`: {reason}", shown::path(file))]
    Invalid {
        /// The file.
        file: String,
        /// The field's path.
        field: String,
        /// The description of the fault.
        reason: String,
    },
}

impl TokenizerError {
    /// Returns what the user can do about the error.
    pub fn remedy(&self) -> Option<Remedy> {
        let advice = match self {
            Self::Read { source, .. } if source.kind() == std::io::ErrorKind::InvalidInput => {
                "copy it to a regular file, and give that"
            }
            Self::Read { .. } => "fetch the model's tokenizer.json and put it beside its weights",
            Self::Unsupported { .. } => {
                "the tokenizer.json of DNABERT-S and DNABERT-2 is supported; this one belongs to another model"
            }
            Self::TooLarge { .. } | Self::Json { .. } | Self::Invalid { .. } => {
                "the file is damaged or not a tokenizer.json: fetch it again from where the model is published"
            }
        };
        Some(advice.into())
    }
}
