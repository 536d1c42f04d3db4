//! Reads the records of several inputs in order; [`super::parse`] reads each of them.

use std::io::Read;
use std::sync::Arc;

use super::lines::Lines;
use super::parse::OpenInput;
use super::source::{Input, InputDigest, Source};
use super::{Place, Record, SequenceError};
use crate::system::pause::OnPause;

/// The most bytes of an id. A header may have any length, because only its first word is kept.
pub const MAX_ID: usize = 1 << 20;

/// What the name of a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Names {
    /// The first word of the header.
    #[default]
    First,
    /// The whole header, without blanks at its ends.
    Header,
}

/// What becomes of a record that is bad by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BadRecords {
    /// It ends the reading.
    #[default]
    Stop,
    /// It is left out, and the reading goes on with the next record.
    Skip,
}

/// What becomes of a record whose sequence holds a `:`, with which some programs join chains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Chains {
    /// It stays one record.
    #[default]
    Keep,
    /// Each chain is a record of its own, and its name is that of the record with `:1`, `:2` and so
    /// on after it.
    Split,
}

/// The limits of the reader.
#[derive(Debug, Clone)]
pub struct ReaderOptions {
    /// The most bytes of a sequence as written. The reader holds one record at a time in memory.
    pub max_sequence: usize,
    /// What the name of a record is.
    pub names: Names,
    /// Whether reading goes on after a record that is bad by itself
    /// ([`SequenceError::concerns_record`]).
    pub bad_records: BadRecords,
    /// What becomes of a record of several chains.
    pub chains: Chains,
    /// Whether a record may have no sequence, and an input no records. Otherwise both are errors.
    pub empty: bool,
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
            bad_records: BadRecords::Stop,
            chains: Chains::Keep,
            empty: false,
            strict: false,
            longest_piece: usize::MAX,
        }
    }
}

/// Reads the records of several inputs in order, as a stream. It holds two blocks of bytes and one
/// record in memory.
///
/// The iterator ends after an error, unless [`ReaderOptions::bad_records`] says that it goes on and
/// the error concerns one record. Such a record has a number, so that the numbers of the others are
/// those of the file.
pub struct SequenceReader {
    inputs: std::vec::IntoIter<Input>,
    options: ReaderOptions,
    current: Option<OpenInput>,
    /// The number of inputs opened so far.
    opened: usize,
    index: u64,
    /// The number of records read so far, where a record of several chains counts once.
    read: u64,
    /// A record of which some chains have not been returned yet.
    chains: Option<SplitRecord>,
    digests: Vec<InputDigest>,
    without_end: Vec<Arc<str>>,
    failed: bool,
    on_pause: Option<OnPause>,
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
            read: 0,
            chains: None,
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

    /// Returns the number of records read so far. Chains that are records of their own count each.
    pub fn records(&self) -> u64 {
        self.index
    }

    /// Reads the next record into `record` and reuses its memory. Returns false at the end of the
    /// last input.
    ///
    /// # Errors
    /// The input is bad. The reader has ended after such an error, unless it skips bad records and
    /// the error concerns only one.
    pub fn next_into(&mut self, record: &mut Record) -> Result<bool, SequenceError> {
        if self.failed {
            return Ok(false);
        }
        let result = self.advance(record);
        self.failed = result.as_ref().is_err_and(|error| !self.skips(error));
        result
    }

    fn skips(&self, error: &SequenceError) -> bool {
        self.options.bad_records == BadRecords::Skip && error.concerns_record()
    }

    fn advance(&mut self, record: &mut Record) -> Result<bool, SequenceError> {
        if self.next_chain(record) {
            return Ok(true);
        }
        loop {
            if let Some(open) = &mut self.current {
                record.chain = 0;
                let read = open.read(record, &self.options, self.read);
                if let Err(error) = &read
                    && self.options.bad_records == BadRecords::Skip
                    && error.concerns_record()
                {
                    open.skip_rest(&record.id)?;
                    self.index += 1;
                    self.read += 1;
                }
                if read? {
                    record.file = self.opened - 1;
                    record.index = self.index;
                    self.read += 1;
                    self.split(record);
                    self.index += 1;
                    return Ok(true);
                }
                if open.records == 0 && !self.options.empty {
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

    /// If the record is to be split, keeps it and puts its first chain in its place.
    fn split(&mut self, record: &mut Record) {
        if self.options.chains == Chains::Split && memchr::memchr(b':', &record.sequence).is_some()
        {
            let whole = std::mem::take(record);
            self.chains = Some(SplitRecord { whole, next: 0 });
            self.take_chain(record);
        }
    }

    /// Puts the next chain of a record that was split into `record`. Returns false if there is
    /// none.
    fn next_chain(&mut self, record: &mut Record) -> bool {
        let there = self.take_chain(record);
        self.index += u64::from(there);
        there
    }

    fn take_chain(&mut self, record: &mut Record) -> bool {
        let Some(split) = &mut self.chains else {
            return false;
        };
        let whole = &mut split.whole;
        let rest = whole.sequence.get(split.next..).unwrap_or_default();
        let end = memchr::memchr(b':', rest);
        let chain = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
        let number = whole.chain + 1;
        *record = Record {
            id: format!("{}:{number}", whole.id),
            sequence: chain.to_vec(),
            layout: whole.layout.after(split.next as u64),
            source: whole.source.clone(),
            chain: number,
            index: self.index,
            ..*whole
        };
        whole.chain = number;
        match end {
            Some(end) => split.next += end + 1,
            None => self.chains = None,
        }
        true
    }

    fn begin(&mut self, source: Source) -> Result<(), SequenceError> {
        self.opened += 1;
        let lines = Lines::new(source, self.options.longest_piece);
        self.current = Some(OpenInput::new(lines)?);
        Ok(())
    }
}

/// A record of several chains.
struct SplitRecord {
    whole: Record,
    /// Where the next chain begins.
    next: usize,
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
