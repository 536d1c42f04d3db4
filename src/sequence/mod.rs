//! Reads FASTA and FASTQ, cleans the sequences, and tokenizes them with one of two tokenizers.
//!
//! [`SequenceReader`] -> [`Record`] -> [`clean`] -> [`Tokenizer::encode`] -> token ids.
//!
//! This table lists how each kind of input is treated (`docs/input.md` is the table for users):
//!
//! | input | outcome |
//! |---|---|
//! | FASTA or FASTQ | accepted; the content decides which it is, never the file name |
//! | plain text, gzip, bzip2, xz or zstd, one member or several | accepted; decided by content |
//! | lines that end in LF or CRLF | accepted |
//! | lines that end in CR alone | accepted if the first 64 KiB hold no LF |
//! | a missing last line end, a UTF-8 byte order mark, blank lines | accepted |
//! | a CR inside a sequence line that ends in LF | white space |
//! | a CR inside a header that ends in LF | error: records would vanish in the header |
//! | `;` at the start of a line (FASTA) | the line is a comment and is skipped |
//! | id | the first word of the header; error if it is not UTF-8 or is longer than 1 MiB |
//! | `>` alone | the id is `record_<n>`, with n from 1 over the job; counted |
//! | duplicate ids | all records are kept, each with its row; counted within a shard |
//! | `>` inside a header | part of the header |
//! | `>` inside a sequence line | error, unless it ends a special token of ESM-2 such as `<mask>` |
//! | a line of other text ([`Intruder`]), such as `--` before a header or a sentence | error |
//! | text before a header, an empty file, an empty sequence | error |
//! | a NUL byte, UTF-16, binary data | error |
//! | FASTQ whose sequence has several lines | accepted |
//! | FASTQ without `+`, with unequal lengths, or cut short | error |
//! | truncated or corrupt compression | error |
//! | spaces, tabs and CRs inside a sequence | removed, counted |
//! | lower case | upper-cased, counted |
//! | one `*` at the end of a protein | dropped, counted |
//! | gap characters `-` and `.` | kept (unknown in DNA) or removed ([`Cleaning::Ungapped`]), counted |
//! | `U` in DNA | read as `T`, counted |
//! | `:` between chains | one unknown token, counted; or the record is split ([`Chains::Split`]) |
//! | DNA for a protein model, a protein for a DNA model | computed, counted |
//! | any other character outside the alphabet | one unknown token per character, counted |
//! | a byte that is not UTF-8 | one unknown token, counted |
//! | a sequence of which nothing remains after these rules | error |
//!
//! The last rules, from white space on, are the rules of [`clean`] in [`Cleaning::On`]. [`Cleaning::Off`] only counts
//! and changes nothing, so the token ids are the ids that Hugging Face gives for the same text.
//! The option `strict` makes each of these cases an error, and a record without a name too.
//!
//! In cleaned text, the byte [`UNKNOWN`] stands for each unknown character. This byte occurs in no
//! UTF-8 text, and the tokenizers turn it into exactly one unknown token, whatever its neighbours
//! are.

mod clean;
mod error;
mod fragments;
mod gzip;
mod intruder;
mod lines;
mod names;
mod parse;
mod reader;
mod scan;
mod source;
pub mod tokenizer;

use std::ops::AddAssign;
use std::sync::Arc;

pub use clean::clean;
pub use error::{Place, SequenceError, Unclean};
pub use fragments::{Fragment, Fragmenter, Frame, chunk_ranges};
pub use intruder::Intruder;
pub use names::{SeenNames, SharedName};
pub use reader::{BadRecords, Chains, MAX_ID, Names, ReaderOptions, SequenceReader};
pub use scan::{InputSummary, ScanOptions, only_once, scan, scan_each};
pub use source::{Input, InputDigest};
pub use tokenizer::{Tokenizer, TokenizerError};

/// The byte that stands for one unknown character in cleaned text.
pub const UNKNOWN: u8 = 0xff;

/// One sequence and its place in the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The first word of the header, or `record_<n>`. Several records may have the same id.
    pub id: String,
    /// The joined lines of the sequence, unchanged until [`clean`].
    pub sequence: Vec<u8>,
    /// The number of the input within the job, from 0.
    pub file: usize,
    /// The line of the header, from 1.
    pub line: u64,
    /// The number of the record over the whole job, from 0.
    pub index: u64,
    /// The number of the chain within its record, from 1; 0 if the record was not split.
    pub chain: u64,
    /// Whether the header had no name.
    pub unnamed: bool,
    /// The name of the input.
    pub source: Arc<str>,
    /// The number of the record within its file, from 1.
    pub number: u64,
    /// The positions at which the lines of the sequence begin, for messages.
    pub layout: Layout,
    /// The place in its contig, if the record is a chunk of a contig.
    pub chunk: Option<ChunkPlace>,
}

/// The place of a chunk in its contig.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkPlace {
    /// The number of the chunk, from 1.
    pub number: u64,
    /// The number of chunks of the contig; 1 for a contig without letters.
    pub of: u64,
    /// The position of the chunk's first letter in the contig, from 0.
    pub start: u64,
    /// The number of letters of the contig.
    pub contig: u64,
}

impl Default for Record {
    fn default() -> Self {
        Self::new("", Vec::new())
    }
}

impl Record {
    /// Makes a record that comes from no file.
    pub fn new(id: impl Into<String>, sequence: impl Into<Vec<u8>>) -> Self {
        Self {
            id: id.into(),
            sequence: sequence.into(),
            file: 0,
            line: 0,
            index: 0,
            chain: 0,
            unnamed: false,
            source: "".into(),
            number: 0,
            layout: Layout::default(),
            chunk: None,
        }
    }

    /// Returns the number of bytes of memory that the record takes.
    pub fn bytes(&self) -> usize {
        size_of::<Self>()
            + self.id.capacity()
            + self.sequence.capacity()
            + self.layout.runs.capacity() * size_of::<Run>()
    }

    /// Returns the place of the record's header.
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

/// Tells on which line of the file each byte of a sequence was. Lines of equal length, which nearly
/// all files have, share one entry.
///
/// If the lines have many different lengths, only the first entries are kept: a file with one
/// residue per line must not take forty times its size in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    runs: Vec<Run>,
    /// The bytes of the record before the sequence, if the record was split.
    before: u64,
    /// Whether the lines after the last run were left out.
    cut: bool,
}

/// The most runs of a layout, which take 160 KiB.
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
        self.before = 0;
        self.cut = false;
    }

    /// Notes that the bytes `start..end` of the sequence were on `line`.
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

    /// Returns the layout of the part of the sequence that begins after `before` bytes.
    fn after(&self, before: u64) -> Self {
        Self {
            before,
            ..self.clone()
        }
    }

    /// Whether `position` is on a line that was left out.
    fn ends_before(&self, position: u64) -> bool {
        let position = self.before + position;
        self.cut && self.runs.last().is_none_or(|r| r.end <= position)
    }

    /// Returns the line and the column, both from 1, of a byte of the sequence as it was read;
    /// `None` if the layout does not reach that byte.
    pub fn locate(&self, position: u64) -> Option<(u64, u64)> {
        if self.ends_before(position) {
            return None;
        }
        let position = self.before + position;
        let after = self.runs.partition_point(|r| r.start <= position);
        let run = self.runs.get(after.checked_sub(1)?)?;
        let within = position - run.start;
        let width = run.width.max(1);
        Some((run.line + within / width, within % width + 1))
    }
}

/// The kind of the letters of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Alphabet {
    /// ESM-2's letters `LAGVSERTIDPKQNFYMHWCXBUZO`, `.` and `-`, and its special tokens such as
    /// `<mask>`.
    Protein,
    /// The letters `ACGT`.
    Dna,
}

/// Whether text is cleaned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cleaning {
    /// Text is upper-cased and cleaned.
    #[default]
    On,
    /// Like `On`, and gap characters are removed.
    Ungapped,
    /// Text passes through unchanged.
    Off,
}

/// Counts of the changes that cleaning made. With [`Cleaning::Off`], these are counts of the cases
/// that were found and left unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct CleanCounts {
    /// Residues or bases after cleaning, including unknown characters and special tokens.
    pub residues: u64,
    /// Letters that were upper-cased.
    pub lowercase: u64,
    /// Stops that were dropped from the ends of proteins.
    pub stops_dropped: u64,
    /// Characters outside the alphabet, after upper-casing.
    pub unknown: u64,
    /// Characters counted in `unknown` that are not ASCII; a byte that is not UTF-8 counts as one.
    pub non_ascii: u64,
    /// Spaces, tabs and stray carriage returns inside sequences.
    pub whitespace: u64,
    /// Special tokens that are written out, such as `<mask>`.
    pub special_tokens: u64,
    /// Records whose header has no name.
    pub unnamed: u64,
    /// Gap characters, `-` and `.`, whether they are kept or removed.
    pub gaps: u64,
    /// The letters U of DNA that were read as T.
    pub uracil: u64,
    /// The colons counted in `unknown`, with which some programs join chains.
    pub chain_breaks: u64,
    /// Records that look like DNA where a protein should be, and the reverse.
    pub other_alphabet: u64,
    /// Records that share their name with another record of the same shard. [`clean`] sees only one
    /// record and leaves this count at 0.
    pub shared_names: u64,
    /// Chains that were records of their own because their record was split
    /// ([`Chains::Split`]).
    #[serde(skip_serializing_if = "is_zero")]
    pub chains: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
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
        self.gaps += other.gaps;
        self.uracil += other.uracil;
        self.chain_breaks += other.chain_breaks;
        self.other_alphabet += other.other_alphabet;
        self.shared_names += other.shared_names;
        self.chains += other.chains;
    }
}

/// Returns the first character of `text` and its length in bytes; `None` and 1 for a byte that
/// begins no UTF-8 character. The length has no meaning if `text` is empty.
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
