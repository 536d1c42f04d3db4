//! FASTA and FASTQ in, cleaning, the two tokenizers.
//!
//! [`SequenceReader`] -> [`Record`] -> [`clean`] -> [`Tokenizer::encode`] -> token ids.
//!
//! What becomes of each kind of input (`docs/input.md` is this table for users):
//!
//! | input | outcome |
//! |---|---|
//! | FASTA or FASTQ; plain, gzip, bzip2, xz, zstd, of several members or not | told apart by content, never by name |
//! | LF, CRLF; CR alone where the first 64 KiB hold no LF; a missing last line end; a UTF-8 BOM; blank lines | accepted |
//! | a CR inside a line that ends in LF | in a sequence white space; in a header error: records would vanish in it |
//! | `;` at a line start (FASTA) | the line is a comment, skipped |
//! | id | the header's first word; not UTF-8, or beyond 1 MiB: error |
//! | `>` alone | id `record_<n>`, n from 1 over the job; counted |
//! | duplicate ids | all kept, each with its row |
//! | `>` inside a header | part of it |
//! | `>` inside a sequence line | error, unless it closes one of ESM-2's special tokens such as `<mask>` |
//! | text before a header, an empty file, an empty sequence, a NUL byte, UTF-16, binary data | error |
//! | FASTQ without `+`, with unequal lengths, or cut short | error; several lines to a sequence: accepted |
//! | truncated or corrupt compression | error |
//! | spaces, tabs and CRs inside a sequence | removed, counted |
//! | lower case | upper-cased, counted |
//! | one `*` at the end of a protein | dropped, counted |
//! | any other character outside the alphabet | one unknown token each, counted; a byte that is not UTF-8 likewise |
//! | nothing left after that | error |
//!
//! The last five are [`clean`]'s in [`Cleaning::On`]; [`Cleaning::Off`] changes nothing and counts, so that the token
//! ids are those of Hugging Face on the same text; `strict` makes each of them, and an unnamed record, an error.
//!
//! In cleaned text one byte, [`UNKNOWN`], stands for each unknown character. It can stand in no UTF-8 text, and
//! the tokenizers turn it into exactly one unknown token, whatever stands beside it.

mod clean;
mod error;
mod lines;
mod reader;
mod scan;
mod source;
pub mod tokenizer;

use std::ops::AddAssign;
use std::sync::Arc;

pub use clean::clean;
pub use error::{Place, SequenceError, Unclean};
pub use reader::{MAX_ID, ReaderOptions, SequenceReader};
pub use scan::{InputSummary, ScanOptions, scan, scan_each};
pub use source::{Input, InputDigest};
pub use tokenizer::{Tokenizer, TokenizerError};

/// One unknown character in cleaned text.
pub const UNKNOWN: u8 = 0xff;

/// One sequence and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The first word of the header, or `record_<n>`. Need not be unique.
    pub id: String,
    /// The sequence's lines joined, and nothing else done to them until [`clean`].
    pub sequence: Vec<u8>,
    /// Which input of the job, from 0.
    pub file: usize,
    /// The header's line, from 1.
    pub line: u64,
    /// The record's number over the whole job, from 0.
    pub index: u64,
    /// Whether the header had no name.
    pub unnamed: bool,
    /// The input's name.
    pub source: Arc<str>,
    /// The record's number within its file, from 1.
    pub number: u64,
    /// Where the sequence's lines begin, for messages.
    pub layout: Layout,
}

impl Default for Record {
    fn default() -> Self {
        Self::new("", Vec::new())
    }
}

impl Record {
    /// A record from nowhere in particular.
    pub fn new(id: impl Into<String>, sequence: impl Into<Vec<u8>>) -> Self {
        Self {
            id: id.into(),
            sequence: sequence.into(),
            file: 0,
            line: 0,
            index: 0,
            unnamed: false,
            source: "".into(),
            number: 0,
            layout: Layout::default(),
        }
    }

    /// Bytes of memory that it takes.
    pub fn bytes(&self) -> usize {
        size_of::<Self>()
            + self.id.capacity()
            + self.sequence.capacity()
            + self.layout.runs.capacity() * size_of::<Run>()
    }

    /// The place of this record's header.
    pub fn place(&self) -> Place {
        Place {
            file: self.source.clone(),
            record: self.number,
            id: self.id.clone(),
            line: self.line,
            byte: None,
        }
    }
}

/// Which line each byte of a sequence stood on. Lines of equal length, which nearly all files have, share an entry.
///
/// Where lines are of many lengths, only the first ones are kept: a file of one residue a line must not take forty
/// times its size.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    runs: Vec<Run>,
    /// Whether lines beyond the runs were left out.
    cut: bool,
}

/// Runs of a layout, at most: 160 KiB.
const MAX_RUNS: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    start: u64,
    line: u64,
    width: u64,
    lines: u64,
    end: u64,
}

impl Layout {
    fn clear(&mut self) {
        self.runs.clear();
        self.cut = false;
    }

    /// The sequence's bytes `start..end` stood on `line`.
    fn push(&mut self, line: u64, start: u64, end: u64) {
        if self.cut {
            return;
        }
        if let Some(run) = self.runs.last_mut() {
            let full = run.end == run.start + run.lines * run.width;
            if full && line == run.line + run.lines && end - start <= run.width {
                run.lines += 1;
                run.end = end;
                return;
            }
        }
        self.cut = self.runs.len() == MAX_RUNS;
        if self.cut {
            return;
        }
        self.runs.push(Run {
            start,
            line,
            width: end - start,
            lines: 1,
            end,
        });
    }

    /// Whether the lines of what comes later in the sequence were not kept.
    fn ends_before(&self, position: u64) -> bool {
        self.cut && self.runs.last().is_none_or(|r| r.end <= position)
    }

    /// The 1-based line and column of a byte of the sequence as read; None where no layout was kept.
    pub fn locate(&self, position: u64) -> Option<(u64, u64)> {
        if self.ends_before(position) {
            return None;
        }
        let after = self.runs.partition_point(|r| r.start <= position);
        let run = self.runs.get(after.checked_sub(1)?)?;
        let within = position - run.start;
        let width = run.width.max(1);
        Some((run.line + within / width, within % width + 1))
    }
}

/// What the letters mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Alphabet {
    /// ESM-2's letters `LAGVSERTIDPKQNFYMHWCXBUZO`, `.` and `-`, and its special tokens such as `<mask>`.
    Protein,
    /// `ACGT`.
    Dna,
}

/// Whether text is cleaned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cleaning {
    /// Upper-cased and cleaned.
    #[default]
    On,
    /// Passed through unchanged.
    Off,
}

/// What cleaning did; in [`Cleaning::Off`], what was met and left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct CleanCounts {
    /// Residues or bases after cleaning, unknown ones and special tokens included.
    pub residues: u64,
    /// Letters upper-cased.
    pub lowercase: u64,
    /// Stops dropped from the ends of proteins.
    pub stops_dropped: u64,
    /// Characters outside the alphabet, after upper-casing.
    pub unknown: u64,
    /// Those of `unknown` that are not ASCII, a byte that is not UTF-8 counting as one.
    pub non_ascii: u64,
    /// Spaces, tabs and stray carriage returns inside sequences.
    pub whitespace: u64,
    /// Special tokens written out, such as `<mask>`.
    pub special_tokens: u64,
    /// Records whose header has no name.
    pub unnamed: u64,
}

impl AddAssign for CleanCounts {
    fn add_assign(&mut self, other: Self) {
        self.residues += other.residues;
        self.lowercase += other.lowercase;
        self.stops_dropped += other.stops_dropped;
        self.unknown += other.unknown;
        self.non_ascii += other.non_ascii;
        self.whitespace += other.whitespace;
        self.special_tokens += other.special_tokens;
        self.unnamed += other.unnamed;
    }
}

/// The first character of `text` and its length; None and 1 for a byte that begins no UTF-8 character.
/// `text` must not be empty for the length to mean anything.
fn decode(text: &[u8]) -> (Option<char>, usize) {
    let len = match text.first() {
        Some(0..=0x7f) | None => 1,
        Some(0xc2..=0xdf) => 2,
        Some(0xe0..=0xef) => 3,
        Some(0xf0..=0xf4) => 4,
        Some(_) => return (None, 1),
    };
    match text
        .get(..len)
        .and_then(|bytes| std::str::from_utf8(bytes).ok())
        .and_then(|s| s.chars().next())
    {
        Some(c) => (Some(c), len),
        None => (None, 1),
    }
}
