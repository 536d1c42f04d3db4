//! The state machine that reads FASTA and FASTQ from several inputs in order.

use std::io::Read;
use std::sync::Arc;

use super::error::FASTA_FOLLOWS;
use super::intruder::{Intruder, is_separator};
use super::lines::{LineError, Lines};
use super::source::{Input, InputDigest, Source, what_else, what_table};
use super::tokenizer::esm;
use super::{Place, Record, SequenceError};
use crate::system::pause::OnPause;

/// The most bytes of an id. A header may have any length, because only its first word is kept.
pub const MAX_ID: usize = 1 << 20;

/// How many bytes a message shows of a line that should be a header.
const SHOWN: usize = 20;

/// What the name of a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Names {
    /// The first word of the header.
    #[default]
    First,
    /// The whole header, without blanks at its ends.
    Header,
}

/// The limits of the reader.
#[derive(Debug, Clone)]
pub struct ReaderOptions {
    /// The most bytes of a sequence as written. The reader holds one record at a time in memory.
    pub max_sequence: usize,
    /// What the name of a record is.
    pub names: Names,
    /// Whether a file of bgzip blocks without its end marker is an error.
    pub strict: bool,
    /// The most bytes of a piece of a line. Tests set this to move the boundaries between the
    /// pieces; it changes no result.
    #[doc(hidden)]
    pub longest_piece: usize,
}

impl Default for ReaderOptions {
    fn default() -> Self {
        Self {
            max_sequence: 2 << 30,
            names: Names::First,
            strict: false,
            longest_piece: usize::MAX,
        }
    }
}

/// Reads the records of several inputs in order, as a stream. It holds two blocks of bytes and one
/// record in memory.
///
/// The iterator ends after an error.
pub struct SequenceReader {
    inputs: std::vec::IntoIter<Input>,
    options: ReaderOptions,
    current: Option<OpenInput>,
    /// The number of inputs opened so far.
    opened: usize,
    index: u64,
    digests: Vec<InputDigest>,
    without_end: Vec<Arc<str>>,
    failed: bool,
    on_pause: Option<OnPause>,
}

struct OpenInput {
    lines: Lines,
    fastq: bool,
    /// The number of records read from this input.
    records: u64,
}

impl SequenceReader {
    /// Makes a reader with the default limits. It opens no input yet.
    pub fn new(inputs: Vec<Input>) -> Self {
        Self::with_options(inputs, ReaderOptions::default())
    }

    /// Makes a reader with other limits.
    pub fn with_options(inputs: Vec<Input>, options: ReaderOptions) -> Self {
        Self {
            inputs: inputs.into_iter(),
            options,
            current: None,
            opened: 0,
            index: 0,
            digests: Vec::new(),
            without_end: Vec::new(),
            failed: false,
            on_pause: None,
        }
    }

    /// Calls `act` when standard input or a pipe has nothing to read, before waiting for it. This
    /// holds for inputs that are not open yet.
    pub fn on_pause(&mut self, act: OnPause) {
        self.on_pause = Some(act);
    }

    /// Reads one stream that is already open; `name` is its name in messages.
    ///
    /// # Errors
    /// The stream cannot be read, or its beginning is neither FASTA nor FASTQ.
    pub fn from_reader(
        name: &str,
        reader: impl Read + Send + 'static,
        options: ReaderOptions,
    ) -> Result<Self, SequenceError> {
        let name: Arc<str> = name.into();
        let source = Source::new(name.clone(), Box::new(reader))
            .map_err(|source| SequenceError::Open { file: name, source })?;
        let mut this = Self::with_options(Vec::new(), options);
        this.begin(source)?;
        Ok(this)
    }

    /// Returns the digests of the inputs that were read to their ends, in order. Once the reader
    /// has ended, these are all inputs.
    pub fn digests(&self) -> &[InputDigest] {
        &self.digests
    }

    /// Returns the names of the inputs that were read to their ends, consist of bgzip blocks, and
    /// lack the end marker of bgzip. Such a file may have been cut between two blocks.
    pub fn without_end(&self) -> &[Arc<str>] {
        &self.without_end
    }

    /// Returns the number of records read so far.
    pub fn records(&self) -> u64 {
        self.index
    }

    /// Reads the next record into `record` and reuses its memory. Returns false at the end of the
    /// last input.
    ///
    /// # Errors
    /// The input is bad. The reader has ended after such an error.
    pub fn next_into(&mut self, record: &mut Record) -> Result<bool, SequenceError> {
        if self.failed {
            return Ok(false);
        }
        let result = self.advance(record);
        self.failed = result.is_err();
        result
    }

    fn advance(&mut self, record: &mut Record) -> Result<bool, SequenceError> {
        loop {
            if let Some(open) = &mut self.current {
                if open.read(record, &self.options, self.index)? {
                    record.file = self.opened - 1;
                    self.index += 1;
                    return Ok(true);
                }
                if open.records == 0 {
                    return Err(SequenceError::NoRecords {
                        place: Place {
                            line: 0,
                            ..open.place("")
                        },
                    });
                }
                let source = open.lines.source();
                if source.lacks_end() {
                    if self.options.strict {
                        let place = Place {
                            record: 0,
                            line: 0,
                            ..open.place("")
                        };
                        return Err(SequenceError::NoEndMarker { place });
                    }
                    self.without_end.push(source.name.clone());
                }
                self.digests.push(source.digest());
                self.current = None;
            }
            let Some(input) = self.inputs.next() else {
                return Ok(false);
            };
            let source = Source::open(&input, self.on_pause.clone())?;
            self.begin(source)?;
        }
    }

    fn begin(&mut self, source: Source) -> Result<(), SequenceError> {
        self.opened += 1;
        let lines = Lines::new(source, self.options.longest_piece);
        let mut open = OpenInput {
            lines,
            fastq: false,
            records: 0,
        };
        open.detect()?;
        self.current = Some(open);
        Ok(())
    }
}

impl Iterator for SequenceReader {
    type Item = Result<Record, SequenceError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut record = Record::default();
        match self.next_into(&mut record) {
            Ok(true) => Some(Ok(record)),
            Ok(false) => None,
            Err(e) => Some(Err(e)),
        }
    }
}

impl OpenInput {
    /// Returns the current position, in the record that is being read.
    fn place(&self, id: &str) -> Place {
        Place {
            file: self.lines.source().name.clone(),
            record: self.records,
            id: id.to_owned(),
            line: self.lines.line(),
            byte: None,
        }
    }

    fn failed(&self, id: &str, error: LineError) -> SequenceError {
        let place = Place {
            byte: Some(self.lines.offset()),
            ..self.place(id)
        };
        match error {
            LineError::Io(source) => SequenceError::Read {
                place,
                compression: self.lines.source().compression,
                source,
            },
            LineError::Nul => SequenceError::Nul { place },
        }
    }

    fn peek(&mut self, id: &str) -> Result<Option<u8>, SequenceError> {
        self.lines.peek().map_err(|e| self.failed(id, e))
    }

    /// Tells FASTA from FASTQ by the first line that is neither blank nor a comment.
    fn detect(&mut self) -> Result<(), SequenceError> {
        let head = self.lines.held();
        if head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff") {
            return Err(SequenceError::Utf16 {
                place: self.place(""),
            });
        }
        let looks_like = what_else(head);
        let start = head
            .get(..head.len().min(SHOWN))
            .unwrap_or_default()
            .escape_ascii()
            .to_string();
        if looks_like.is_some() {
            return Err(SequenceError::NoHeader {
                place: self.place(""),
                start,
                looks_like,
            });
        }
        loop {
            match self.peek("")? {
                None | Some(b'>') => return Ok(()),
                Some(b'@') => {
                    self.fastq = true;
                    return Ok(());
                }
                Some(b';') => self.skip_line("")?,
                Some(_) => {
                    let place = self.place("");
                    let table = what_table(self.lines.held());
                    let Some(start) = self.skip_blank()? else {
                        continue;
                    };
                    let looks_like = match start.contains("\\x") {
                        true => Some("binary data"),
                        false => table,
                    };
                    return Err(SequenceError::NoHeader {
                        place,
                        start,
                        looks_like,
                    });
                }
            }
        }
    }

    fn skip_line(&mut self, id: &str) -> Result<(), SequenceError> {
        loop {
            match self.lines.piece() {
                Ok(piece) if piece.last => return Ok(()),
                Ok(_) => {}
                Err(e) => return Err(self.failed(id, e)),
            }
        }
    }

    /// Skips one line if it is blank. Otherwise returns the beginning of its text, escaped.
    fn skip_blank(&mut self) -> Result<Option<String>, SequenceError> {
        let mut start = Vec::new();
        loop {
            match self.lines.piece() {
                Ok(piece) => {
                    let mut text = piece.bytes;
                    if start.is_empty() {
                        text = text.trim_ascii_start();
                    } else {
                        start.extend(std::iter::repeat_n(b'\r', piece.returns));
                    }
                    start.extend_from_slice(text.get(..SHOWN).unwrap_or(text));
                    start.truncate(SHOWN);
                    if start.len() == SHOWN || (piece.last && !start.is_empty()) {
                        return Ok(Some(start.escape_ascii().to_string()));
                    }
                    if piece.last {
                        return Ok(None);
                    }
                }
                Err(e) => return Err(self.failed("", e)),
            }
        }
    }

    /// Reads the next record. Returns false at the end of this input.
    fn read(
        &mut self,
        record: &mut Record,
        options: &ReaderOptions,
        index: u64,
    ) -> Result<bool, SequenceError> {
        let marker = if self.fastq { b'@' } else { b'>' };
        loop {
            match self.peek("")? {
                None => return Ok(false),
                Some(b) if b == marker => break,
                Some(b';') if !self.fastq => self.skip_line("")?,
                Some(_) => {
                    let place = self.place("");
                    if let Some(start) = self.skip_blank()? {
                        let follows = match start.starts_with('>') {
                            true => FASTA_FOLLOWS,
                            false => "",
                        };
                        let reason =
                            format!("a header with '@' should stand here, not '{start}'{follows}");
                        return Err(SequenceError::Fastq { place, reason });
                    }
                }
            }
        }
        self.records += 1;
        record.index = index;
        record.number = self.records;
        record.source = self.lines.source().name.clone();
        record.line = self.lines.line();
        self.header(record, options.names)?;
        if !self.fastq && Intruder::is_pir(first_word(&record.id)) {
            return Err(SequenceError::NotSequence {
                place: record.place(),
                found: Intruder::Pir,
            });
        }
        record.unnamed = record.id.is_empty();
        if record.unnamed {
            record.id = format!("record_{}", index + 1);
        }
        record.sequence.clear();
        record.layout.clear();
        // The line of a `--` after which only blank lines and comments have come.
        let mut separator = None;
        loop {
            match self.peek(&record.id)? {
                None => break,
                Some(b'@') if self.fastq => {
                    let reason = "the line with '+' is missing".to_owned();
                    return Err(SequenceError::Fastq {
                        place: self.place(&record.id),
                        reason,
                    });
                }
                Some(b'+') if self.fastq => break,
                Some(b'>') if !self.fastq => match separator {
                    None => break,
                    Some(line) => {
                        return Err(SequenceError::NotSequence {
                            place: Place {
                                line,
                                ..record.place()
                            },
                            found: Intruder::Separator,
                        });
                    }
                },
                Some(b';') if !self.fastq => self.skip_line(&record.id)?,
                Some(_) => {
                    let line = self.lines.line();
                    let begin = record.sequence.len();
                    self.sequence_line(record, options)?;
                    let text = record.sequence.get(begin..).unwrap_or_default();
                    if let Some(found) = Intruder::of_line(text) {
                        return Err(SequenceError::NotSequence {
                            place: Place {
                                line,
                                ..record.place()
                            },
                            found,
                        });
                    }
                    if is_separator(text) {
                        separator = Some(line);
                    } else if !text.trim_ascii().is_empty() {
                        separator = None;
                    }
                }
            }
        }
        if record.sequence.is_empty() {
            return Err(SequenceError::EmptySequence {
                place: record.place(),
                what: "empty",
            });
        }
        if self.fastq {
            self.quality(record)?;
        }
        Ok(true)
    }

    /// Reads a header line and keeps its first word, or the whole header, as the id.
    fn header(&mut self, record: &mut Record, names: Names) -> Result<(), SequenceError> {
        let mut id = std::mem::take(&mut record.id).into_bytes();
        id.clear();
        let mut marker = true;
        let mut done = false;
        loop {
            let piece = match self.lines.piece() {
                Ok(piece) => piece,
                Err(e) => return Err(self.failed("", e)),
            };
            let mut text = piece.bytes;
            if marker {
                text = text.get(1..).unwrap_or_default();
                marker = false;
            }
            // There is old Mac text before or after other text. If it were taken as part of the
            // header, its records would vanish.
            if piece.returns > 0 || memchr::memchr(b'\r', text).is_some() {
                return Err(SequenceError::StrayReturn {
                    place: Place {
                        line: record.line,
                        ..self.place("")
                    },
                });
            }
            if !done {
                if id.is_empty() {
                    let skipped = text.iter().take_while(|b| is_space(**b)).count();
                    text = text.get(skipped..).unwrap_or_default();
                }
                let space = match names {
                    Names::First => text.iter().position(|b| is_space(*b)),
                    Names::Header => None,
                };
                let word = space.unwrap_or(text.len());
                done = word < text.len();
                id.extend_from_slice(text.get(..word).unwrap_or_default());
            }
            let last = piece.last;
            if id.len() > MAX_ID {
                let place = Place {
                    line: record.line,
                    ..self.place("")
                };
                return Err(SequenceError::IdTooLong {
                    place,
                    limit: MAX_ID,
                });
            }
            if last {
                break;
            }
        }
        while id.last().is_some_and(|b| is_space(*b)) {
            id.pop();
        }
        record.id = String::from_utf8(id).map_err(|_| SequenceError::IdNotUtf8 {
            place: Place {
                line: record.line,
                ..self.place("")
            },
        })?;
        Ok(())
    }

    fn sequence_line(
        &mut self,
        record: &mut Record,
        options: &ReaderOptions,
    ) -> Result<(), SequenceError> {
        let line = self.lines.line();
        let begin = record.sequence.len();
        loop {
            let piece = match self.lines.piece() {
                Ok(piece) => piece,
                Err(e) => return Err(self.failed(&record.id, e)),
            };
            let (returns, length, last) = (piece.returns, piece.bytes.len(), piece.last);
            if record.sequence.len().saturating_add(returns + length) > options.max_sequence {
                return Err(SequenceError::SequenceTooLong {
                    place: record.place(),
                    limit: options.max_sequence,
                });
            }
            if record.sequence.try_reserve(returns + length).is_err() {
                return Err(SequenceError::NoMemory {
                    place: record.place(),
                    read: record.sequence.len(),
                });
            }
            record.sequence.extend(std::iter::repeat_n(b'\r', returns));
            let joined = record.sequence.len();
            record.sequence.extend_from_slice(piece.bytes);
            if let Some(first) = memchr::memchr(b'>', piece.bytes) {
                // A protein may hold `<mask>`; any other '>' is a header that lost its line end.
                let sequence = record.sequence.get(joined + first..).unwrap_or_default();
                let stray = memchr::memchr_iter(b'>', sequence)
                    .map(|i| joined + first + i)
                    .find(|&i| {
                        !esm::ends_in_special(record.sequence.get(..=i).unwrap_or_default())
                    });
                if let Some(at) = stray {
                    return Err(SequenceError::HeaderInsideLine {
                        place: Place {
                            line,
                            ..self.place(&record.id)
                        },
                        column: (at - begin) as u64 + 1,
                    });
                }
            }
            if last {
                break;
            }
        }
        if record.sequence.len() > begin {
            record
                .layout
                .push(line, begin as u64, record.sequence.len() as u64);
        }
        Ok(())
    }

    /// Skips the `+` line and as many quality characters as the sequence has bases.
    fn quality(&mut self, record: &Record) -> Result<(), SequenceError> {
        let fastq = |open: &Self, reason: String| SequenceError::Fastq {
            place: open.place(&record.id),
            reason,
        };
        if self.peek(&record.id)?.is_none() {
            return Err(fastq(
                self,
                "the file ends before the line with '+'".to_owned(),
            ));
        }
        self.skip_line(&record.id)?;
        let bases = visible(&record.sequence);
        let mut qualities = 0;
        while qualities < bases {
            if self.peek(&record.id)?.is_none() {
                return Err(fastq(
                    self,
                    format!("the file ends after {qualities} quality characters for {bases} bases"),
                ));
            }
            loop {
                match self.lines.piece() {
                    Ok(piece) => {
                        qualities += visible(piece.bytes);
                        if piece.last {
                            break;
                        }
                    }
                    Err(e) => return Err(self.failed(&record.id, e)),
                }
            }
        }
        if qualities > bases {
            return Err(fastq(
                self,
                format!("{qualities} quality characters for {bases} bases"),
            ));
        }
        Ok(())
    }
}

fn first_word(name: &str) -> &str {
    name.split_ascii_whitespace().next().unwrap_or_default()
}

fn is_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t' | b'\r' | 0x0b | 0x0c)
}

fn visible(text: &[u8]) -> u64 {
    text.len() as u64
        - text
            .iter()
            .filter(|&&b| b == b' ' || b == b'\t' || b == b'\r')
            .count() as u64
}
