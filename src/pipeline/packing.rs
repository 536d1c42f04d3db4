//! Tokenized records become batches, within a budget, in order.

use std::sync::mpsc::SyncSender;

use super::JobError;
use super::feed::FeedOptions;
use super::length::{LengthLimit, Long, pieces};
use super::tokenizing::{Group, GroupEnd};
use crate::batch::PackedBatch;
use crate::output::BlockFacts;
use crate::sequence::{InputDigest, Record, SequenceError};

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

/// Where work goes: to the computing thread.
pub(crate) type WorkSender = SyncSender<Result<Work, JobError>>;

/// The receiving side is gone: it has stopped, or failed and says so itself.
pub(crate) struct Gone;

/// Why reading or packing ends early.
pub(crate) enum StopReason {
    Gone,
    Failed(JobError),
}

impl From<Gone> for StopReason {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl<E: Into<JobError>> From<E> for StopReason {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Bytes of names that a batch holds, if not one name has more. A batch of as many short sequences as fit
/// has less than that, unless names are thousands of letters long.
const BATCH_IDS: usize = 4 << 20;

/// Puts batches together.
pub(crate) struct Packer {
    options: FeedOptions,
    to: WorkSender,
    batch: Batch,
    /// Bytes of the names in it.
    id_bytes: usize,
    /// Batches sent on.
    sent: usize,
    counts: Counts,
}

/// Of the block being packed.
#[derive(Default)]
struct Counts {
    tokens: u64,
    truncated: u64,
    windowed: u64,
}

impl Packer {
    pub(crate) fn new(options: FeedOptions, to: WorkSender) -> Self {
        Self {
            options,
            to,
            batch: Batch::default(),
            id_bytes: 0,
            sent: 0,
            counts: Counts::default(),
        }
    }

    /// Packs a group that has been tokenized, and sends on what is full or ends. An error of it, or in it, goes on too,
    /// as the last of all.
    pub(crate) fn take(&mut self, mut group: Group) -> Result<(), Gone> {
        let then = group.end.take();
        let taken = self.records(group).and_then(|block| match then {
            None => Ok(()),
            Some(GroupEnd::Pause) => Ok(self.send_batch()?),
            Some(GroupEnd::BlockEnd { facts, short }) => Ok(self.end(block, facts, short)?),
            Some(GroupEnd::InputEnd { records, digests }) => {
                Ok(self.send(Work::InputEnd { records, digests })?)
            }
            Some(GroupEnd::Failed(error)) => Err(StopReason::Failed(error)),
        });
        taken.map_err(|end| {
            if let StopReason::Failed(error) = end {
                // Nobody listening is no reason to complain.
                let _ = self.to.send(Err(error));
            }
            Gone
        })
    }

    /// What became of the group where it was tokenized, if not this.
    pub(crate) fn fail(&mut self, error: JobError) {
        let _ = self.to.send(Err(error));
    }

    fn send(&self, work: Work) -> Result<(), Gone> {
        self.to.send(Ok(work)).map_err(|_| Gone)
    }

    fn budget(&self) -> usize {
        match self.sent < self.options.first_batches {
            true => self.options.first_budget,
            false => self.options.token_budget,
        }
    }

    /// Tokens of a sequence that are looked at: what is kept of it, and one more that says whether it is longer.
    pub(crate) fn most_tokens(&self) -> usize {
        match self.options.limit {
            Some(LengthLimit {
                max,
                long: Long::Truncate,
            }) => max.saturating_add(1),
            _ => usize::MAX,
        }
    }

    /// Sends the batch on, unless it is empty.
    fn send_batch(&mut self) -> Result<(), Gone> {
        if self.batch.packed.is_empty() {
            return Ok(());
        }
        self.sent += 1;
        self.id_bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        self.send(Work::Batch(batch))
    }

    fn records(&mut self, group: Group) -> Result<u64, StopReason> {
        let block = group.block;
        let mut start = 0;
        for (record, end) in group.records.into_iter().zip(group.ends) {
            let tokens = group.tokens.get(start..end).unwrap_or_default();
            self.record(block, record, tokens)?;
            start = end;
        }
        Ok(block)
    }

    /// Appends one record, sending the batch on whenever it is full.
    fn record(&mut self, block: u64, record: Record, tokens: &[u32]) -> Result<(), StopReason> {
        let options = &self.options;
        let [cls, content @ .., eos] = tokens else {
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
        let Some(mut parts) = pieces(content.len(), options.limit) else {
            return Err(JobError::TooLong {
                place: record.place(),
                tokens: content.len(),
                max: options.limit.map_or(0, |l| l.max),
            }
            .into());
        };
        match options.limit.filter(|l| content.len() > l.max) {
            None => {}
            Some(LengthLimit {
                long: Long::Window { .. },
                ..
            }) => self.counts.windowed += 1,
            Some(_) => self.counts.truncated += 1,
        }
        let mut sequence = Vec::new();
        while let Some(part) = parts.next() {
            let length = part.len() + 2;
            if length > self.options.room {
                return Err(JobError::NoRoom {
                    place: record.place(),
                    tokens: length,
                    most: self.options.room,
                }
                .into());
            }
            let packed = &self.batch.packed;
            let more_ids = self.id_bytes + record.id.len() > BATCH_IDS;
            if packed.total() + length > self.budget() || more_ids {
                self.send_batch()?;
            }
            self.batch.block = block;
            if part.len() == content.len() {
                self.batch.packed.push(tokens);
            } else {
                sequence.clear();
                sequence.push(*cls);
                sequence.extend_from_slice(content.get(part.clone()).unwrap_or_default());
                sequence.push(*eos);
                self.batch.packed.push(&sequence);
            }
            self.batch.pieces.push(Piece {
                content: part.len(),
                last: parts.done(),
            });
            self.counts.tokens += length as u64;
        }
        self.id_bytes += record.id.len();
        self.batch.ids.push(record.id);
        Ok(())
    }

    fn end(&mut self, block: u64, mut facts: BlockFacts, short: bool) -> Result<(), Gone> {
        self.send_batch()?;
        let counts = std::mem::take(&mut self.counts);
        facts.tokens = counts.tokens;
        facts.counts.insert("truncated".into(), counts.truncated);
        facts.counts.insert("windowed".into(), counts.windowed);
        self.send(Work::BlockEnd {
            block,
            facts,
            short,
        })
    }
}
