//! Turns contigs into chunks: the records of a job of `seqstream virnucpro`.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use super::Records;
use crate::sequence::{ChunkPlace, InputDigest, Record, SequenceError, chunk_ranges};
use crate::system::pause::OnPause;

/// Reads contigs from `contigs` and gives their chunks, one record each. A contig without letters
/// gives one record, so that it is counted.
pub struct Chunks<R> {
    contigs: R,
    chunk: usize,
    names: ContigNames,
    current: Option<Contig>,
}

/// The contig whose chunks are being given.
struct Contig {
    record: Record,
    chunks: u64,
    /// The number of the chunk that was given last.
    given: u64,
    ranges: Box<dyn Iterator<Item = Range<usize>> + Send>,
}

impl<R: Records> Chunks<R> {
    /// Cuts the contigs into chunks of `chunk` letters. `names` has the names that the contigs of
    /// the input share.
    pub fn new(contigs: R, chunk: usize, names: ContigNames) -> Self {
        Self {
            contigs,
            chunk: chunk.max(1),
            names,
            current: None,
        }
    }
}

impl<R: Records> Records for Chunks<R> {
    fn next_record(&mut self) -> Option<Result<Record, SequenceError>> {
        loop {
            if let Some(contig) = &mut self.current {
                if let Some(chunk) = contig.next() {
                    return Some(Ok(chunk));
                }
                self.current = None;
            }
            let mut record = match self.contigs.next_record()? {
                Ok(record) => record,
                Err(error) => return Some(Err(error)),
            };
            if let Err(error) = self.names.name(&mut record) {
                return Some(Err(error));
            }
            self.current = Some(Contig::new(record, self.chunk));
        }
    }

    fn digests(&self) -> Vec<InputDigest> {
        self.contigs.digests()
    }

    fn without_end(&self) -> Vec<Arc<str>> {
        self.contigs.without_end()
    }

    fn on_pause(&mut self, act: OnPause) {
        self.contigs.on_pause(act);
    }
}

impl Contig {
    fn new(mut record: Record, chunk: usize) -> Self {
        record.sequence.retain(|b| !is_blank(b));
        let ranges = chunk_ranges(record.sequence.len(), chunk);
        // A contig without letters has one chunk, which is empty.
        let chunks = ranges.len().max(1) as u64;
        let empty = record.sequence.is_empty().then_some(0..0);
        Self {
            record,
            chunks,
            given: 0,
            ranges: Box::new(ranges.chain(empty)),
        }
    }

    fn next(&mut self) -> Option<Record> {
        let range = self.ranges.next()?;
        self.given += 1;
        let contig = &self.record;
        let letters = contig.sequence.get(range.clone()).unwrap_or_default();
        Some(Record {
            id: contig.id.clone(),
            sequence: letters.to_vec(),
            file: contig.file,
            line: contig.line,
            index: 0,
            chain: 0,
            unnamed: contig.unnamed,
            source: contig.source.clone(),
            number: contig.number,
            layout: Default::default(),
            chunk: Some(ChunkPlace {
                number: self.given,
                of: self.chunks,
                start: range.start as u64,
                contig: contig.sequence.len() as u64,
            }),
        })
    }
}

/// What becomes of contigs that share a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DuplicateIds {
    /// The job fails before it computes anything, or, if the input is a pipe, when it meets the
    /// second contig of a name.
    Error,
    /// The contigs of a shared name become `name/1`, `name/2` and so on, in the order of the input.
    Suffix,
}

/// The names of the contigs, as far as several contigs share one. A hash of 128 bits stands for
/// each name.
#[derive(Debug, Clone)]
pub struct ContigNames {
    duplicates: DuplicateIds,
    /// How often each name has been met.
    met: HashMap<u128, u32>,
    /// The names of which a second contig was met, during the first reading.
    repeated: Vec<String>,
    /// The names that several contigs have; `None` while the input is read for the first time.
    shared: Option<HashSet<u128>>,
}

impl ContigNames {
    /// Begins without names.
    pub fn new(duplicates: DuplicateIds) -> Self {
        Self {
            duplicates,
            met: HashMap::new(),
            repeated: Vec::new(),
            shared: None,
        }
    }

    /// Takes the name of a contig, when the input is read before the job.
    ///
    /// # Errors
    /// An earlier contig has the name, and this is an error.
    pub fn take(&mut self, record: &Record) -> Result<(), SequenceError> {
        let met = self.met.entry(hash(&record.id)).or_default();
        *met = met.saturating_add(1);
        if *met == 2 {
            if self.duplicates == DuplicateIds::Error {
                let (place, name) = (record.place(), record.id.clone());
                return Err(SequenceError::DuplicateId { place, name });
            }
            self.repeated.push(record.id.clone());
        }
        Ok(())
    }

    /// Ends the first reading: the input has no more contigs. Only the names that several contigs
    /// share are kept, and their number is returned.
    ///
    /// # Errors
    /// A name that a suffix would make, and that another contig has already.
    pub fn finish(&mut self) -> Result<usize, String> {
        let met = std::mem::take(&mut self.met);
        let repeated = std::mem::take(&mut self.repeated);
        for name in &repeated {
            let times = met.get(&hash(name)).copied().unwrap_or(0);
            let made = (1..=times).map(|n| format!("{name}/{n}"));
            if let Some(taken) = made.into_iter().find(|made| met.contains_key(&hash(made))) {
                return Err(taken);
            }
        }
        self.shared = Some(repeated.iter().map(|name| hash(name)).collect());
        Ok(repeated.len())
    }

    /// Gives a contig its name.
    fn name(&mut self, record: &mut Record) -> Result<(), SequenceError> {
        let name = hash(&record.id);
        let Some(shared) = &self.shared else {
            // A pipe, which cannot be read before.
            return self.take(record);
        };
        if self.duplicates == DuplicateIds::Suffix && shared.contains(&name) {
            let met = self.met.entry(name).or_default();
            *met = met.saturating_add(1);
            record.id = format!("{}/{met}", record.id);
        }
        Ok(())
    }
}

/// Whether a byte is white space, which leaves the sequence, as in the original.
fn is_blank(byte: &u8) -> bool {
    byte.is_ascii_whitespace() || *byte == 0x0b
}

/// Returns the number of letters of a contig, and of the chunks that [`Chunks`] makes of it.
pub fn contig_size(sequence: &[u8], chunk: usize) -> (u64, u64) {
    let letters = sequence.iter().filter(|b| !is_blank(b)).count();
    let chunks = letters.div_ceil(chunk.max(1)).max(1);
    (letters as u64, chunks as u64)
}

fn hash(name: &str) -> u128 {
    let hash = blake3::hash(name.as_bytes());
    let mut half = [0; 16];
    half.copy_from_slice(&hash.as_bytes()[..16]);
    u128::from_le_bytes(half)
}
