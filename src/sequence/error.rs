//! What can be wrong with the input, each with its place and its remedy.

use std::fmt;
use std::sync::Arc;

use crate::untrusted::{Shown, shown};

/// Where in the input something was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The input's name as the user gave it, `-` for standard input.
    pub file: Arc<str>,
    /// 1-based number of the record within this file; 0 before the first one.
    pub record: u64,
    /// The record's id, empty where none was read yet.
    pub id: String,
    /// 1-based line, in the decompressed text.
    pub line: u64,
    /// 0-based byte offset, in the decompressed text.
    pub byte: Option<u64>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if &*self.file == "-" {
            f.write_str("standard input")?;
        } else {
            write!(f, "{}", shown::path(&*self.file))?;
        }
        if self.record > 0 {
            write!(f, ", record {}", self.record)?;
            if !self.id.is_empty() {
                write!(f, " ('{}')", Shown(&self.id))?;
            }
        }
        if self.line > 0 {
            write!(f, ", line {}", self.line)?;
        }
        if let Some(byte) = self.byte {
            write!(f, ", byte {byte}")?;
        }
        Ok(())
    }
}

/// What `--strict` refuses, and where within its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unclean {
    /// A lower-case letter (soft masking).
    Lowercase(char),
    /// One stop at the end of a protein.
    TrailingStop,
    /// A space or tab inside the sequence.
    Whitespace,
    /// A character outside the alphabet.
    Unknown(char),
    /// A byte that is not UTF-8.
    NotUtf8(u8),
    /// A header without a name.
    Unnamed,
}

impl fmt::Display for Unclean {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lowercase(c) => write!(f, "the lower-case letter '{c}'"),
            Self::TrailingStop => write!(f, "a stop '*' at the end"),
            Self::Whitespace => write!(f, "white space inside the sequence"),
            Self::Unknown(c) => write!(
                f,
                "the character '{}' outside the alphabet",
                c.escape_debug()
            ),
            Self::NotUtf8(b) => write!(f, "the byte 0x{b:02x}, which is not text"),
            Self::Unnamed => write!(f, "a header without a name"),
        }
    }
}

/// Bad input: the file, the record, the line, and what to do about it ([`SequenceError::hint`]).
#[derive(Debug, thiserror::Error)]
pub enum SequenceError {
    /// A file that cannot be opened.
    #[error("{}: cannot be opened: {source}", shown::path(&**file))]
    Open {
        /// The input's name.
        file: Arc<str>,
        /// Why.
        source: std::io::Error,
    },
    /// Reading failed: the disk, or a compressed stream that is corrupt or cut short.
    #[error("{place}: cannot be read on{}: {source}", in_brackets(.compression))]
    Read {
        /// How far reading came.
        place: Place,
        /// The compression, where there is one.
        compression: Option<&'static str>,
        /// Why.
        source: std::io::Error,
    },
    /// No record in a file.
    #[error("{place}: no sequence in it")]
    NoRecords {
        /// The file.
        place: Place,
    },
    /// Text before the first header.
    #[error(
        "{place}: the text starts with '{start}', not with a '>' (FASTA) or '@' (FASTQ) header"
    )]
    NoHeader {
        /// Where.
        place: Place,
        /// The first few characters, escaped.
        start: String,
        /// What the bytes look like, where known.
        looks_like: Option<&'static str>,
    },
    /// A header with no sequence after it, or nothing left of it after cleaning.
    #[error("{place}: the sequence is empty")]
    EmptySequence {
        /// The header's place.
        place: Place,
    },
    /// `>` within a sequence.
    #[error("{place}: '>' stands inside a sequence line (column {column})")]
    HeaderInsideLine {
        /// Where.
        place: Place,
        /// 1-based column.
        column: u64,
    },
    /// A carriage return within a header, in a text whose lines end otherwise.
    #[error("{place}: a carriage return stands inside the header")]
    StrayReturn {
        /// Where.
        place: Place,
    },
    /// A NUL byte.
    #[error("{place}: a NUL byte, so this is not text")]
    Nul {
        /// Where.
        place: Place,
    },
    /// A UTF-16 or UTF-32 byte order mark.
    #[error("{place}: the text is UTF-16")]
    Utf16 {
        /// Where.
        place: Place,
    },
    /// An id that is not UTF-8.
    #[error("{place}: the record's name is not valid UTF-8")]
    IdNotUtf8 {
        /// Where.
        place: Place,
    },
    /// An id beyond [`MAX_ID`](super::MAX_ID).
    #[error("{place}: the record's name is longer than {limit} bytes")]
    IdTooLong {
        /// Where.
        place: Place,
        /// The limit, in bytes.
        limit: usize,
    },
    /// A sequence beyond the reader's limit.
    #[error("{place}: the sequence is longer than {limit} bytes")]
    SequenceTooLong {
        /// Where.
        place: Place,
        /// The limit, in bytes.
        limit: usize,
    },
    /// A FASTQ record that breaks the format.
    #[error("{place}: malformed FASTQ: {reason}")]
    Fastq {
        /// Where.
        place: Place,
        /// What is wrong.
        reason: String,
    },
    /// What `--strict` refuses.
    #[error("{place}, column {column}: {found} (residue {position})")]
    Strict {
        /// The record and the line.
        place: Place,
        /// 1-based byte column within the line.
        column: u64,
        /// 1-based byte position within the sequence, its lines joined.
        position: u64,
        /// What was found.
        found: Unclean,
    },
}

fn in_brackets(compression: &Option<&'static str>) -> String {
    compression.map(|c| format!(" ({c})")).unwrap_or_default()
}

impl SequenceError {
    /// The input's name, as the user gave it.
    pub fn file(&self) -> &str {
        match self {
            Self::Open { file, .. } => file,
            other => other.place().map_or("", |p| &p.file),
        }
    }

    /// Where, for all but a file that cannot be opened.
    pub fn place(&self) -> Option<&Place> {
        match self {
            Self::Open { .. } => None,
            Self::Read { place, .. }
            | Self::NoRecords { place }
            | Self::NoHeader { place, .. }
            | Self::EmptySequence { place }
            | Self::HeaderInsideLine { place, .. }
            | Self::StrayReturn { place }
            | Self::Nul { place }
            | Self::Utf16 { place }
            | Self::IdNotUtf8 { place }
            | Self::IdTooLong { place, .. }
            | Self::SequenceTooLong { place, .. }
            | Self::Fastq { place, .. }
            | Self::Strict { place, .. } => Some(place),
        }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Open { source, .. } => match source.kind() {
                std::io::ErrorKind::NotFound => "check the path; `-` reads standard input",
                std::io::ErrorKind::IsADirectory => "name the files in it, e.g. DIR/*.fasta",
                std::io::ErrorKind::PermissionDenied => "check who may read the file",
                _ => return None,
            },
            Self::Read {
                compression: Some(_),
                ..
            } => {
                "the file is damaged or was cut short: compare its size or checksum with the source, and fetch it again"
            }
            Self::Read { .. } => "check the disk or the program that feeds the pipe",
            Self::NoRecords { .. } => {
                "leave the file out, or check whether the step that wrote it failed"
            }
            Self::NoHeader {
                looks_like: Some(what),
                ..
            } => {
                return Some(format!(
                    "this looks like {what}; convert it to FASTA or FASTQ first"
                ));
            }
            Self::NoHeader { .. } => "put a line with '>' and a name before the sequence",
            Self::EmptySequence { .. } => "remove the record, or restore its sequence",
            Self::HeaderInsideLine { .. } => {
                "two records may have been joined by a lost line end: put the header on a line of its own"
            }
            Self::StrayReturn { .. } => {
                "the file mixes line ends of old Mac and others, so that records would be lost: convert it, e.g. tr '\\r' '\\n' < IN > OUT"
            }
            Self::Nul { .. } => {
                "the file is binary, damaged, or UTF-16 text: convert it to plain FASTA"
            }
            Self::Utf16 { .. } => "convert it: iconv -f UTF-16 -t UTF-8 IN > OUT",
            Self::IdNotUtf8 { .. } => {
                "rename the record, or convert the file: iconv -f LATIN1 -t UTF-8 IN > OUT"
            }
            Self::IdTooLong { .. } => {
                "the name is the header up to the first space: put a space after it"
            }
            Self::SequenceTooLong { .. } => "split the sequence",
            Self::Fastq { .. } => {
                "a record is '@' and a name, the sequence, '+', and as many quality characters as bases; check that the file is whole"
            }
            Self::Strict {
                found: Unclean::Unnamed,
                ..
            } => "name the record, or run without --strict",
            Self::Strict { .. } => {
                "mend the sequence, or run without --strict to have it cleaned and counted"
            }
        };
        Some(hint.to_owned())
    }
}
