//! Why a tokenizer.json cannot be used.

use crate::untrusted::shown;

/// A `tokenizer.json` that cannot be used: the file, the field, and what to do ([`TokenizerError::hint`]).
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}", shown::path(file))]
    Read {
        /// The file.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file is larger than any tokeniser this program supports.
    #[error(
        "{}: {bytes} bytes are more than a tokenizer.json may have ({limit})",
        shown::path(file)
    )]
    TooLarge {
        /// The file.
        file: String,
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// Not JSON.
    #[error("{}: not valid JSON: {}", shown::path(file), shown::parser(source))]
    Json {
        /// The file.
        file: String,
        /// What and where.
        source: serde_json::Error,
    },
    /// A tokeniser of another kind.
    #[error(
        "{}: `{field}` is {found}; only {supported} is supported",
        shown::path(file)
    )]
    Unsupported {
        /// The file.
        file: String,
        /// The field's path.
        field: String,
        /// What stands there, shortened.
        found: String,
        /// What may stand there.
        supported: &'static str,
    },
    /// A file that contradicts itself.
    #[error("{}: `{field}`: {reason}", shown::path(file))]
    Invalid {
        /// The file.
        file: String,
        /// The field's path.
        field: String,
        /// What is wrong.
        reason: String,
    },
}

impl TokenizerError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
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
        Some(hint.to_owned())
    }
}
