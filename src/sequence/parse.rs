//! The state machine that reads the records of one FASTA or FASTQ text.

use super::error::FASTA_FOLLOWS;
use super::intruder::{Intruder, is_separator};
use super::lines::{LineError, Lines};
use super::reader::{MAX_ID, Names, ReaderOptions};
use super::source::{what_else, what_table};
use super::tokenizer::esm;
use super::{Place, Record, SequenceError};

/// How many bytes a message shows of a line that should be a header.
const SHOWN: usize = 20;

/// The reason where the next header comes before the `+` of a FASTQ record.
const NO_PLUS: &str = "the line with '+' is missing";

/// An input that is being read.
pub(super) struct OpenInput {
    pub lines: Lines,
    fastq: bool,
    /// The number of records read from this input.
    pub records: u64,
    /// Whether the header of the current record has not been read to its end.
    in_header: bool,
    /// The bases of the current record of FASTQ that have been read.
    bases: u64,
}

impl OpenInput {
    /// Looks at the beginning of the text.
    ///
    /// # Errors
    /// The beginning is neither FASTA nor FASTQ.
    pub fn new(lines: Lines) -> Result<Self, SequenceError> {
        let mut open = Self {
            lines,
            fastq: false,
            records: 0,
            in_header: false,
            bases: 0,
        };
        open.detect()?;
        Ok(open)
    }

    /// Returns the current position, in the record that is being read.
    pub fn place(&self, id: &str) -> Place {
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
    pub fn read(
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
        self.bases = 0;
        self.in_header = true;
        self.header(record, options.names)?;
        self.in_header = false;
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
                    let reason = NO_PLUS.to_owned();
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
        if record.sequence.is_empty() && !options.empty {
            return Err(SequenceError::EmptySequence {
                place: record.place(),
                what: "empty",
            });
        }
        if self.fastq {
            self.quality(&record.id)?;
        }
        Ok(true)
    }

    /// Skips what is left of a record after an error that concerns only this record.
    ///
    /// # Errors
    /// The text cannot be read, or what follows belongs to no record of this format.
    pub fn skip_rest(&mut self, id: &str) -> Result<(), SequenceError> {
        if self.lines.inside_line() {
            let rest = self.count_line(id)?;
            self.bases += if self.in_header { 0 } else { rest };
        }
        loop {
            match (self.peek(id)?, self.fastq) {
                (Some(b'>') | None, false) => return Ok(()),
                // Otherwise the records of another format would vanish in this one.
                (Some(b @ (b'@' | b'+')), false) => {
                    return Err(SequenceError::NotSequence {
                        place: self.place(id),
                        found: Intruder::Start(if b == b'@' { "@" } else { "+" }),
                    });
                }
                (Some(b'+') | None, true) => return self.quality(id),
                (Some(b'@'), true) => {
                    return Err(SequenceError::Fastq {
                        place: self.place(id),
                        reason: NO_PLUS.to_owned(),
                    });
                }
                (Some(_), _) => self.bases += self.count_line(id)?,
            }
        }
    }

    /// Skips a line, or the rest of one, and returns the number of its visible characters.
    fn count_line(&mut self, id: &str) -> Result<u64, SequenceError> {
        let mut count = 0;
        loop {
            match self.lines.piece() {
                Ok(piece) => {
                    count += visible(piece.bytes);
                    if piece.last {
                        return Ok(count);
                    }
                }
                Err(e) => return Err(self.failed(id, e)),
            }
        }
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
            if self.fastq {
                self.bases += visible(piece.bytes);
            }
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
    fn quality(&mut self, id: &str) -> Result<(), SequenceError> {
        let fastq = |open: &Self, reason: String| SequenceError::Fastq {
            place: open.place(id),
            reason,
        };
        if self.peek(id)?.is_none() {
            return Err(fastq(
                self,
                "the file ends before the line with '+'".to_owned(),
            ));
        }
        self.skip_line(id)?;
        let bases = self.bases;
        let mut qualities = 0;
        while qualities < bases {
            if self.peek(id)?.is_none() {
                return Err(fastq(
                    self,
                    format!("the file ends after {qualities} quality characters for {bases} bases"),
                ));
            }
            qualities += self.count_line(id)?;
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
