//! The errors of the input. Each error has a place and a remedy.

use std::fmt;
use std::sync::Arc;

use super::Alphabet;
use super::intruder::Intruder;
use super::source::{Trailing, wants_memory};
use crate::remedy::{Action, Remedy};
use crate::system::files;
use crate::untrusted::Shown;
use crate::untrusted::shown;

/// A position in the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The input's name as the user gave it; `-` for standard input.
    pub file: Arc<str>,
    /// The number of the record within this file, from 1; 0 before the first record.
    pub record: u64,
    /// The record's id; empty if no id has been read yet.
    pub id: String,
    /// The line in the decompressed text, from 1; 0 if it is not known.
    pub line: u64,
    /// The byte offset in the decompressed text, from 0, if it is known.
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

/// A reason why `--strict` refuses a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unclean {
    /// A lower-case letter (soft masking).
    Lowercase(char),
    /// A stop `*` at the end of a protein.
    TrailingStop,
    /// White space inside the sequence.
    Whitespace,
    /// A character outside the alphabet.
    Unknown(char),
    /// A byte that is not UTF-8.
    NotUtf8(u8),
    /// A header without a name.
    Unnamed,
    /// A name that an earlier record has, too; the number of that record over the job, from 1.
    SharedName(u64),
    /// A gap character.
    Gap(char),
    /// The letter U in DNA.
    Uracil,
    /// A colon between two chains.
    ChainBreak,
    /// A sequence that looks like the other kind; the kind that the model reads.
    OtherAlphabet(Alphabet),
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
            Self::SharedName(record) => {
                write!(f, "a name that record {record} of the job has, too")
            }
            Self::Gap(c) => write!(f, "the gap character '{c}'"),
            Self::Uracil => write!(f, "the letter 'U' in DNA"),
            Self::ChainBreak => write!(f, "a ':' between two chains"),
            Self::OtherAlphabet(Alphabet::Protein) => {
                write!(f, "this looks like DNA, and the model reads proteins")
            }
            Self::OtherAlphabet(Alphabet::Dna) => {
                write!(f, "this looks like a protein, and the model reads DNA")
            }
        }
    }
}

/// An error in the input. It names the file, the record and the line, and [`SequenceError::remedy`]
/// says what to do.
#[derive(Debug, thiserror::Error)]
pub enum SequenceError {
    /// The input cannot be opened.
    #[error("{}: cannot be opened: {source}", shown::path(&**file))]
    Open {
        /// The input's name.
        file: Arc<str>,
        /// The cause.
        source: std::io::Error,
    },
    /// Reading failed: the disk failed, or a compressed stream is corrupt or cut short.
    #[error("{place}: cannot be read on{}: {source}", in_brackets(.compression))]
    Read {
        /// The position that reading has reached.
        place: Place,
        /// The compression of the input, if it is compressed.
        compression: Option<&'static str>,
        /// The cause.
        source: std::io::Error,
    },
    /// The file holds no record.
    #[error("{place}: no sequence in it")]
    NoRecords {
        /// The file.
        place: Place,
    },
    /// The file has text before its first header.
    #[error(
        "{place}: the text starts with '{start}', not with a '>' (FASTA) or '@' (FASTQ) header"
    )]
    NoHeader {
        /// The place of the text.
        place: Place,
        /// The first few characters, escaped.
        start: String,
        /// The kind of file that the bytes look like, if it is known.
        looks_like: Option<&'static str>,
    },
    /// A header has no sequence after it, or nothing of the sequence remains after cleaning.
    #[error("{place}: the sequence is {what}")]
    EmptySequence {
        /// The place of the header.
        place: Place,
        /// What there is: "empty", or "only" and what cleaning removes.
        what: &'static str,
    },
    /// A line is not sequence, or a header is not one of FASTA.
    #[error("{place}: {found}")]
    NotSequence {
        /// The place of the line.
        place: Place,
        /// What the line is.
        found: Intruder,
    },
    /// A file of bgzip blocks does not end in the empty block, and `strict` refuses it.
    #[error("{place}: the end marker of bgzip is missing")]
    NoEndMarker {
        /// The file.
        place: Place,
    },
    /// A `>` is inside a sequence line.
    #[error("{place}: '>' stands inside a sequence line (column {column})")]
    HeaderInsideLine {
        /// The place of the line.
        place: Place,
        /// The column of the `>`, from 1.
        column: u64,
    },
    /// A carriage return is inside a header, in a text whose lines end in another way.
    #[error("{place}: a carriage return stands inside the header")]
    StrayReturn {
        /// The place of the header.
        place: Place,
    },
    /// The input holds a NUL byte.
    #[error("{place}: a NUL byte, so this is not text")]
    Nul {
        /// The place of the byte.
        place: Place,
    },
    /// The input begins with a byte order mark of UTF-16, or of UTF-32 in little-endian order.
    #[error("{place}: the text is UTF-16")]
    Utf16 {
        /// The place of the mark.
        place: Place,
    },
    /// An id is not UTF-8.
    #[error("{place}: the record's name is not valid UTF-8")]
    IdNotUtf8 {
        /// The place of the header.
        place: Place,
    },
    /// An id is longer than [`MAX_ID`](super::MAX_ID).
    #[error("{place}: the record's name is longer than {limit} bytes")]
    IdTooLong {
        /// The place of the header.
        place: Place,
        /// The limit in bytes.
        limit: usize,
    },
    /// A sequence is longer than the reader's limit.
    #[error("{place}: the sequence is longer than {limit} bytes")]
    SequenceTooLong {
        /// The place of the record.
        place: Place,
        /// The limit in bytes.
        limit: usize,
    },
    /// The system gives no memory for a sequence.
    #[error(
        "{place}: there is no memory for the text of this sequence, of which {read} bytes are read"
    )]
    NoMemory {
        /// The place of the record.
        place: Place,
        /// The number of bytes read so far.
        read: usize,
    },
    /// Two contigs share a name, so that their fragments would share their ids.
    #[error("{place}: an earlier contig has the name \"{}\" too", Shown(name))]
    DuplicateId {
        /// The place of the second contig.
        place: Place,
        /// The name.
        name: String,
    },
    /// A FASTQ record breaks the format.
    #[error("{place}: malformed FASTQ: {reason}")]
    Fastq {
        /// The place of the fault.
        place: Place,
        /// The description of the fault.
        reason: String,
    },
    /// A record is not clean, and `--strict` refuses it.
    #[error("{place}{}: {found}{}", in_column(*.column), at_residue(*.position))]
    Strict {
        /// The record and the line. The line is 0 far into a record whose lines have many different
        /// lengths.
        place: Place,
        /// The byte column within the line, from 1; 0 if the line is not known.
        column: u64,
        /// The byte position within the joined lines of the sequence, from 1; 0 if the whole record
        /// is refused.
        position: u64,
        /// The reason to refuse the record.
        found: Unclean,
    },
}

/// The end of the reason where FASTA records follow FASTQ ones.
pub(super) const FASTA_FOLLOWS: &str = ": FASTA records follow FASTQ ones";

fn in_brackets(compression: &Option<&'static str>) -> String {
    compression.map(|c| format!(" ({c})")).unwrap_or_default()
}

fn at_residue(position: u64) -> String {
    match position {
        0 => String::new(),
        n => format!(" (residue {n})"),
    }
}

fn in_column(column: u64) -> String {
    match column {
        0 => String::new(),
        n => format!(", column {n}"),
    }
}

impl SequenceError {
    /// Returns the input's name as the user gave it.
    pub fn file(&self) -> &str {
        match self {
            Self::Open { file, .. } => file,
            other => other.place().map_or("", |p| &p.file),
        }
    }

    /// Returns the place of the error; `None` for an input that cannot be opened.
    pub fn place(&self) -> Option<&Place> {
        match self {
            Self::Open { .. } => None,
            Self::Read { place, .. }
            | Self::NoRecords { place }
            | Self::NoHeader { place, .. }
            | Self::EmptySequence { place, .. }
            | Self::NotSequence { place, .. }
            | Self::NoEndMarker { place }
            | Self::HeaderInsideLine { place, .. }
            | Self::StrayReturn { place }
            | Self::Nul { place }
            | Self::Utf16 { place }
            | Self::IdNotUtf8 { place }
            | Self::IdTooLong { place, .. }
            | Self::SequenceTooLong { place, .. }
            | Self::NoMemory { place, .. }
            | Self::Fastq { place, .. }
            | Self::DuplicateId { place, .. }
            | Self::Strict { place, .. } => Some(place),
        }
    }

    /// Whether the error is about one record alone, so that the records around it can be used. It
    /// is not where the file is damaged, cannot be read, or has another format, because then other
    /// records may be lost as well. FASTQ that is malformed does not show where a record ends.
    pub fn concerns_record(&self) -> bool {
        match self {
            Self::EmptySequence { .. }
            | Self::HeaderInsideLine { .. }
            | Self::IdNotUtf8 { .. }
            | Self::IdTooLong { .. }
            | Self::SequenceTooLong { .. }
            | Self::NoMemory { .. }
            | Self::Strict { .. } => true,
            Self::NotSequence { found, .. } => {
                !matches!(found, Intruder::Pir | Intruder::Start("@" | "+"))
            }
            Self::Open { .. }
            | Self::Read { .. }
            | Self::NoRecords { .. }
            | Self::NoHeader { .. }
            | Self::NoEndMarker { .. }
            | Self::StrayReturn { .. }
            | Self::Nul { .. }
            | Self::Utf16 { .. }
            | Self::DuplicateId { .. }
            | Self::Fastq { .. } => false,
        }
    }

    /// Returns what the user can do about the error, if a remedy is known.
    pub fn remedy(&self) -> Option<Remedy> {
        Some(match self {
            Self::Open { source, .. } => match source.kind() {
                std::io::ErrorKind::NotFound => Action::CheckInputPath.into(),
                std::io::ErrorKind::IsADirectory => "name the files in it, e.g. DIR/*.fasta".into(),
                std::io::ErrorKind::PermissionDenied => "check who may read the file".into(),
                _ => return files::advice(source).map(Into::into),
            },
            Self::SequenceTooLong { .. } => "split the sequence".into(),
            Self::DuplicateId { .. } => Remedy::any_of([
                "rename one of the contigs".into(),
                Action::NumberSharedNames.into(),
            ]),
            Self::NoMemory { .. } => {
                Remedy::any_of(["split the sequence".into(), Action::MoreMemory.into()])
            }
            Self::Strict { found, .. } => Remedy::any_of([
                match found {
                    Unclean::Unnamed => "name the record".into(),
                    Unclean::SharedName(_) => "give each record a name of its own".into(),
                    Unclean::OtherAlphabet(_) => "give the kind of sequence that the model reads".into(),
                    _ => "mend the sequence".into(),
                },
                Action::CleanText.into(),
            ]),
            Self::NoHeader {
                looks_like: Some(what),
                ..
            } => match *what {
                "a tar archive" => format!(
                    "this looks like {what}; unpack it, e.g. tar xf ARCHIVE, and give the files in it"
                )
                .into(),
                "a web page" => format!(
                    "this looks like {what}, perhaps an error page in place of the file: download the file again"
                )
                .into(),
                _ => format!("this looks like {what}; convert it to FASTA or FASTQ first").into(),
            },
            other if other.concerns_record() => {
                Remedy::any_of([other.advice()?.into(), Action::SkipBadRecords.into()])
            }
            other => other.advice()?.into(),
        })
    }

    /// Returns what to do with the text or the file, where this is the remedy.
    fn advice(&self) -> Option<&'static str> {
        Some(match self {
            Self::Read { source, .. } if Trailing::of(source) => {
                "decompress the file, e.g. gzip -dc IN > OUT, which ignores these bytes, or fetch the file again if it should be whole"
            }
            Self::Read {
                compression: Some("zstd"),
                source,
                ..
            } if wants_memory(source) => {
                "decompressing this file takes more memory than there is, because it was made with a large window: decompress it where there is more, e.g. zstd -dc -M2048MB IN > OUT, and give the result"
            }
            Self::Read { source, .. } if wants_memory(source) => {
                "decompressing this file takes more memory than it may have here (1 GiB for xz): decompress it first, e.g. xz -dc IN > OUT, and give the result"
            }
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
            Self::NoHeader { .. } => "put a line with '>' and a name before the sequence",
            Self::EmptySequence { .. } => "remove the record, or restore its sequence",
            Self::NotSequence { found, .. } => found.advice(),
            Self::NoEndMarker { .. } => {
                "the file may be cut short: compare its size or checksum with the source, or write it again with bgzip"
            }
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
                "shorten the name; by default it is the header up to the first space"
            }
            Self::Fastq { reason, .. } if reason.ends_with(FASTA_FOLLOWS) => {
                "FASTA records follow FASTQ ones: put them into a file of their own"
            }
            Self::Fastq { .. } => {
                "a record is '@' and a name, the sequence, '+', and as many quality characters as bases; check that the file is whole"
            }
            Self::Open { .. }
            | Self::SequenceTooLong { .. }
            | Self::NoMemory { .. }
            | Self::DuplicateId { .. }
            | Self::Strict { .. } => return None,
        })
    }
}
