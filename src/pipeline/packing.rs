//! Packs tokenized records into batches, in order and within a token budget.

use std::sync::mpsc::SyncSender;

use super::JobError;
use super::feed::FeedOptions;
use super::length::{LengthLimit, Long, pieces};
use super::tokenizing::{Group, GroupEnd};
use crate::batch::PackedBatch;
use crate::output::BlockFacts;
use crate::sequence::{InputDigest, Record, SequenceError};

/// One sequence of a batch: a record, or one window of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The number of content tokens, without cls and eos. This is the weight of the sequence among
    /// the windows of its record.
    pub content: usize,
    /// Whether it is the last sequence of its record.
    pub last: bool,
}

/// Consecutive sequences of one shard.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// The number of the shard.
    pub block: u64,
    /// The tokens of the sequences.
    pub packed: PackedBatch,
    /// One entry per sequence of `packed`.
    pub pieces: Vec<Piece>,
    /// One id per piece that is the last piece of its record.
    pub ids: Vec<String>,
}

/// A message to the computing thread.
pub(crate) enum Work {
    /// A batch to compute.
    Batch(Batch),
    /// All batches of the shard have been sent.
    BlockEnd {
        block: u64,
        facts: BlockFacts,
        /// Whether the input ended before the shard was full.
        short: bool,
    },
    /// The input has been read to its end.
    InputEnd {
        records: u64,
        digests: Vec<InputDigest>,
    },
}

/// The channel to the computing thread.
pub(crate) type WorkSender = SyncSender<Result<Work, JobError>>;

/// The receiving thread is gone. It has stopped, or it has failed and reports the error itself.
pub(crate) struct Gone;

/// The reason why reading or packing ends early.
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

/// The most bytes of ids in a batch, unless a single id has more. The ids of as many short
/// sequences as fit into a batch have fewer bytes, unless ids are thousands of letters long.
const BATCH_IDS: usize = 4 << 20;

/// Packs records into batches and sends the batches on.
pub(crate) struct Packer {
    options: FeedOptions,
    to: WorkSender,
    batch: Batch,
    /// The number of bytes of the ids in `batch`.
    id_bytes: usize,
    /// The number of batches sent on.
    sent: usize,
    counts: Counts,
}

/// The counts of the shard that is being packed.
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

    /// Packs a group that has been tokenized. A batch is sent on when it is full, and when the
    /// group ends the shard or pauses. An error in the group, or from packing it, is sent on as the
    /// last message.
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
                // If the receiver is gone, nobody needs the error.
                let _ = self.to.send(Err(error));
            }
            Gone
        })
    }

    /// Reports that a group was lost, because the thread that tokenized it panicked.
    pub(crate) fn fail(&mut self, error: JobError) {
        let _ = self.to.send(Err(error));
    }

    fn send(&self, work: Work) -> Result<(), Gone> {
        self.to.send(Ok(work)).map_err(|_| Gone)
    }

    /// Returns how many content tokens of a sequence are needed: the tokens that are kept, and one
    /// more that tells whether the sequence is longer.
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

    /// Appends one record, and sends the batch on whenever it is full.
    fn record(&mut self, block: u64, record: Record, tokens: &[u32]) -> Result<(), StopReason> {
        let options = &self.options;
        let [cls, content @ .., eos] = tokens else {
            return Err(
                JobError::Internal(format!("record \"{}\" has no tokens", record.id)).into(),
            );
        };
        // Cleaning refuses an empty sequence, but text that is not cleaned may still give no
        // tokens.
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
            if packed.total() + length > self.options.budget.of_batch(self.sent) || more_ids {
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
