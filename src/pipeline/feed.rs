//! The reader thread: records in, packed batches out, block by block.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;

use super::length::pieces;
use super::{JobError, LengthLimit, Stop};
use crate::batch::PackedBatch;
use crate::output::{BlockFacts, ShardRecord, read_shard_at, shard_name};
use crate::sequence::{
    Alphabet, Case, CleanCounts, InputDigest, Record, SequenceError, SequenceReader, Tokenizer,
    clean,
};

/// Where records come from: a `SequenceReader`, or a list in a test.
pub trait Records: Send + 'static {
    /// The next record, in input order. After an error nothing more is asked for.
    fn next_record(&mut self) -> Option<Result<Record, SequenceError>>;
    /// What every input was, in order; called after the last record.
    fn digests(&self) -> Vec<InputDigest>;
}

impl Records for SequenceReader {
    fn next_record(&mut self) -> Option<Result<Record, SequenceError>> {
        self.next()
    }

    fn digests(&self) -> Vec<InputDigest> {
        SequenceReader::digests(self).to_vec()
    }
}

/// The share `index` of `of` that a job computes: the blocks b with b % of == index - 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// From 1.
    pub index: u64,
    /// At least 1.
    pub of: u64,
}

impl Share {
    /// The whole.
    pub const ALL: Self = Self { index: 1, of: 1 };

    /// Whether block `b` is in it.
    pub fn holds(self, block: u64) -> bool {
        block % self.of == self.index - 1
    }

    /// How many of `records` are in it.
    pub fn records(self, records: u64, shard_size: u64) -> u64 {
        let full = records / shard_size;
        let before = |blocks: u64| (blocks + self.of - self.index) / self.of;
        before(full) * shard_size
            + if self.holds(full) {
                records % shard_size
            } else {
                0
            }
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

/// How records become batches.
#[derive(Debug, Clone)]
pub struct FeedOptions {
    /// What the model reads.
    pub alphabet: Alphabet,
    /// Whether soft-masked text is upper-cased.
    pub case: Case,
    /// Whether what is not clean is refused.
    pub strict: bool,
    /// The most content tokens of a sequence, if limited.
    pub limit: Option<LengthLimit>,
    /// The most tokens of a sequence, special tokens included, that the model has room for.
    pub room: usize,
    /// The most tokens of a batch, special tokens included; a longer sequence is a batch alone.
    pub token_budget: usize,
    /// Records a block.
    pub shard_size: u64,
    /// Which blocks are computed.
    pub share: Share,
}

/// One sequence of a batch: a record, or one window of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Content tokens, cls and eos not counted: its weight among the windows of its record.
    pub content: usize,
    /// Whether its record ends with it.
    pub last: bool,
}

/// Consecutive sequences of one block.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub block: u64,
    pub packed: PackedBatch,
    /// One for each sequence of `packed`.
    pub pieces: Vec<Piece>,
    /// One for each piece that is the last of its record.
    pub ids: Vec<String>,
}

/// What the reader sends on.
pub(crate) enum Work {
    Batch(Batch),
    /// The block of the batches since the last such message is read to its end.
    BlockEnd {
        block: u64,
        facts: BlockFacts,
        /// Whether the input ended before the block was full.
        short: bool,
    },
    /// The input is read to its end.
    InputEnd {
        records: u64,
        digests: Vec<InputDigest>,
    },
}

/// What the reader counts for the progress display.
#[derive(Debug, Default)]
pub(crate) struct FeedCounts {
    /// Records of finished shards that were read past.
    pub reused: AtomicU64,
}

pub(crate) struct Feed<R> {
    pub records: R,
    pub tokenizer: Arc<Tokenizer>,
    pub options: FeedOptions,
    /// The output directory.
    pub out: PathBuf,
    /// Blocks that stand there, ascending.
    pub finished: Vec<u64>,
    pub counts: Arc<FeedCounts>,
    pub stop: Stop,
}

/// The receiving side is gone: it has stopped, or failed and says so itself.
struct Gone;

enum End {
    Gone,
    Failed(JobError),
}

impl From<Gone> for End {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl<E: Into<JobError>> From<E> for End {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

type Sender = SyncSender<Result<Work, JobError>>;

fn send(to: &Sender, work: Work) -> Result<(), Gone> {
    to.send(Ok(work)).map_err(|_| Gone)
}

/// The block being read.
struct Block {
    number: u64,
    /// The finished shard, where one stands.
    finished: Option<ShardRecord>,
    first_record: u64,
    rows: u64,
    tokens: u64,
    digest: blake3::Hasher,
    clean: CleanCounts,
    truncated: u64,
    windowed: u64,
}

impl<R: Records> Feed<R> {
    /// Reads to the end, to an error, or until nobody listens.
    pub(crate) fn run(mut self, to: &Sender) {
        if let Err(End::Failed(error)) = self.read_all(to) {
            // Nobody listening is no reason to complain.
            let _ = to.send(Err(error));
        }
    }

    fn read_all(&mut self, to: &Sender) -> Result<(), End> {
        let mut index = 0;
        let mut block: Option<Block> = None;
        let mut batch = Batch::default();
        let mut tokens = Vec::new();
        while let Some(record) = self.records.next_record() {
            let record = record?;
            let number = index / self.options.shard_size;
            index += 1;
            if self.options.share.holds(number) {
                let current = match &mut block {
                    Some(current) => current,
                    None => block.insert(self.begin(number, index - 1)?),
                };
                current.take(&record);
                match current.finished {
                    Some(_) => {
                        self.counts.reused.fetch_add(1, Ordering::Relaxed);
                    }
                    None => self.pack(record, current, &mut batch, &mut tokens, to)?,
                }
            }
            if index.is_multiple_of(self.options.shard_size)
                && let Some(full) = block.take()
            {
                self.end(full, &mut batch, false, to)?;
            }
            // Where nothing is sent, nobody tells us to stop.
            if block.as_ref().is_none_or(|b| b.finished.is_some())
                && self.stop.requested().is_some()
            {
                return Ok(());
            }
        }
        if let Some(short) = block.take() {
            self.end(short, &mut batch, true, to)?;
        }
        let blocks = index.div_ceil(self.options.shard_size);
        let ours = |b: &u64| *b < blocks && self.options.share.holds(*b);
        if let Some(surplus) = self.finished.iter().find(|b| !ours(b)) {
            let shard = self.out.join(shard_name(*surplus));
            return Err(JobError::Surplus {
                shard,
                records: index,
            }
            .into());
        }
        let digests = self.records.digests();
        send(
            to,
            Work::InputEnd {
                records: index,
                digests,
            },
        )?;
        Ok(())
    }

    fn begin(&self, number: u64, first_record: u64) -> Result<Block, JobError> {
        let finished = match self.finished.binary_search(&number) {
            Ok(_) => Some(read_shard_at(&self.out.join(shard_name(number)))?),
            Err(_) => None,
        };
        Ok(Block {
            number,
            finished,
            first_record,
            rows: 0,
            tokens: 0,
            digest: blake3::Hasher::new(),
            clean: CleanCounts::default(),
            truncated: 0,
            windowed: 0,
        })
    }

    /// Cleans, tokenises and appends one record, sending `batch` on whenever it is full.
    fn pack(
        &self,
        mut record: Record,
        block: &mut Block,
        batch: &mut Batch,
        tokens: &mut Vec<u32>,
        to: &Sender,
    ) -> Result<(), End> {
        let options = &self.options;
        block.clean += clean(options.alphabet, options.case, options.strict, &mut record)?;
        tokens.clear();
        self.tokenizer.encode(&record.sequence, tokens);
        let [cls, content @ .., eos] = tokens.as_slice() else {
            return Err(
                JobError::Internal(format!("record \"{}\" has no tokens", record.id)).into(),
            );
        };
        // Cleaning refuses what is empty; text that is kept as it is may still come to nothing.
        if content.is_empty() {
            return Err(SequenceError::EmptySequence {
                place: record.place(),
            }
            .into());
        }
        let Some(parts) = pieces(content.len(), options.limit) else {
            return Err(JobError::TooLong {
                place: record.place(),
                tokens: content.len(),
                max: options.limit.map_or(0, |l| l.max),
            }
            .into());
        };
        match parts.as_slice() {
            [one] if one.len() < content.len() => block.truncated += 1,
            [_] => {}
            _ => block.windowed += 1,
        }
        let mut sequence = Vec::new();
        let last = parts.len() - 1;
        for (i, part) in parts.into_iter().enumerate() {
            let length = part.len() + 2;
            if length > options.room {
                return Err(JobError::NoRoom {
                    place: record.place(),
                    tokens: length,
                    most: options.room,
                }
                .into());
            }
            if !batch.packed.is_empty() && batch.packed.total() + length > options.token_budget {
                send(to, Work::Batch(std::mem::take(batch)))?;
            }
            sequence.clear();
            sequence.push(*cls);
            sequence.extend_from_slice(content.get(part.clone()).unwrap_or_default());
            sequence.push(*eos);
            batch.block = block.number;
            batch.packed.push(&sequence);
            batch.pieces.push(Piece {
                content: part.len(),
                last: i == last,
            });
            block.tokens += length as u64;
        }
        batch.ids.push(record.id);
        Ok(())
    }

    fn end(&self, block: Block, batch: &mut Batch, short: bool, to: &Sender) -> Result<(), End> {
        let number = block.number;
        let (facts, finished) = block.facts();
        let Some(finished) = finished else {
            if !batch.packed.is_empty() {
                send(to, Work::Batch(std::mem::take(batch)))?;
            }
            send(
                to,
                Work::BlockEnd {
                    block: number,
                    facts,
                    short,
                },
            )?;
            return Ok(());
        };
        let there = &finished.facts;
        if (there.first_record, there.rows, &there.digest)
            != (facts.first_record, facts.rows, &facts.digest)
        {
            return Err(JobError::RecordsDiffer {
                shard: self.out.join(shard_name(number)),
                first: facts.first_record + 1,
                last: facts.first_record + facts.rows,
            }
            .into());
        }
        Ok(())
    }
}

impl Block {
    /// Counts a record, as read: before cleaning.
    fn take(&mut self, record: &Record) {
        self.rows += 1;
        for part in [record.id.as_bytes(), &record.sequence] {
            self.digest.update(&(part.len() as u64).to_le_bytes());
            self.digest.update(part);
        }
    }

    fn facts(self) -> (BlockFacts, Option<ShardRecord>) {
        let mut counts = named(&self.clean);
        counts.insert("truncated".into(), self.truncated);
        counts.insert("windowed".into(), self.windowed);
        let facts = BlockFacts {
            first_record: self.first_record,
            rows: self.rows,
            tokens: self.tokens,
            digest: self.digest.finalize().to_hex().to_string(),
            counts,
        };
        (facts, self.finished)
    }
}

/// The counts by the names they are serialised under.
fn named(counts: &CleanCounts) -> BTreeMap<String, u64> {
    let value = serde_json::to_value(counts).unwrap_or_default();
    let fields = value.as_object().cloned().unwrap_or_default();
    fields
        .into_iter()
        .filter_map(|(name, n)| Some((name, n.as_u64()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_divide_the_blocks() {
        for (records, size, of) in [(10, 3, 2), (12, 3, 5), (0, 4, 3), (1, 4, 3), (100, 7, 4)] {
            let shares: Vec<Share> = (1..=of).map(|index| Share { index, of }).collect();
            for block in 0..20 {
                assert_eq!(shares.iter().filter(|s| s.holds(block)).count(), 1);
            }
            for share in &shares {
                let counted = (0..records).filter(|r| share.holds(r / size)).count() as u64;
                assert_eq!(
                    share.records(records, size),
                    counted,
                    "{records} {size} {share}"
                );
            }
        }
    }
}
