//! Packs tokenized records into batches, in order and within a token budget.

use std::collections::BTreeMap;
use std::sync::mpsc::Receiver;

use super::length::{Pieces, pieces};
use super::messages::{
    Batch, Group, GroupEnd, PendingGroup, Piece, ShardEnd, StopReason, Work, WorkSender,
};
use super::{JobError, LengthLimit, Long};
use crate::batch::Budget;
use crate::output::{REJECTED_COUNT, Rejected};
use crate::sequence::{BadRecords, Record, SequenceError};
use crate::trace::{Category, Span, Trace, host};

/// The options that decide how tokenized records become batches.
#[derive(Debug, Clone)]
pub struct PackOptions {
    /// The most content tokens of a sequence, if they are limited, and the treatment of longer
    /// sequences.
    pub limit: Option<LengthLimit>,
    /// The most tokens of a sequence, special tokens included, that the model can take.
    pub capacity: usize,
    /// The most tokens of each batch, special tokens included. A longer sequence is a batch of its
    /// own.
    pub budget: Budget,
    /// What becomes of a record that is too long, or gives no tokens.
    pub bad_records: BadRecords,
}

/// The most bytes of ids in a batch, unless a single id has more. The ids of as many short
/// sequences as fit into a batch have fewer bytes, unless ids are thousands of letters long.
const BATCH_IDS: usize = 4 << 20;

/// Packs records into batches and sends the batches on.
pub(crate) struct Packer {
    options: PackOptions,
    to_compute: WorkSender,
    batch: Batch,
    /// The number of bytes of the ids in `batch`.
    id_bytes: usize,
    /// The number of batches sent on.
    sent: usize,
    counts: Counts,
    trace: Trace,
    /// The name of the track of the thread that packs.
    thread: &'static str,
    /// The records of the shard that were skipped here, by their numbers over the job.
    rejected: BTreeMap<u64, Rejected>,
}

/// The counts of the shard that is being packed.
#[derive(Default)]
struct Counts {
    tokens: u64,
    truncated: u64,
    windowed: u64,
}

impl Packer {
    pub(crate) fn new(options: PackOptions, to_compute: WorkSender) -> Self {
        Self {
            options,
            to_compute,
            batch: Batch::default(),
            id_bytes: 0,
            sent: 0,
            counts: Counts::default(),
            trace: Trace::off(),
            thread: host::PACKER,
            rejected: BTreeMap::new(),
        }
    }

    /// Records the packing of each group, and the waits of the packer, in a trace.
    pub(crate) fn traced(mut self, trace: Trace, thread: &'static str) -> Self {
        (self.trace, self.thread) = (trace, thread);
        self
    }

    /// Packs groups until no more come. This is the packing thread, where a pool tokenizes.
    pub(crate) fn run(mut self, groups: Receiver<PendingGroup>) {
        for pending in groups {
            let wait = self.wait("wait for tokens");
            let received = pending.recv();
            drop(wait);
            let taken = match received {
                Ok(group) => self.take(group),
                Err(_) => {
                    let error = "a thread that tokenizes panicked".into();
                    Err(self.report(JobError::Internal(error).into()))
                }
            };
            if taken.is_err() {
                return;
            }
        }
    }

    /// Opens the interval of a wait in the trace.
    fn wait(&self, name: &'static str) -> Span {
        let thread = (self.thread, 0);
        self.trace.span(thread, name, Category::HostWait)
    }

    /// Packs a group that has been tokenized. A batch is sent on when it is full, and when the
    /// group ends the shard or pauses.
    ///
    /// # Errors
    /// [`StopReason::Disconnected`] if no more groups are needed. An error in the group, or from
    /// packing it, is sent to the computing thread as the last message.
    pub(crate) fn take(&mut self, group: Group) -> Result<(), StopReason> {
        let mut span = self.trace.stage(self.thread, 0, "pack");
        span.note(|args| {
            args.sequences = Some(group.records.len() as u64);
            args.tokens = Some(group.tokens.len() as u64);
        });
        self.pack(group).map_err(|reason| self.report(reason))
    }

    /// Sends an error to the computing thread, which takes nothing more after it.
    fn report(&self, reason: StopReason) -> StopReason {
        if let StopReason::Failed(error) = reason {
            // If the computing thread has ended, nobody needs the error.
            let _ = self.to_compute.send(Err(error));
        }
        StopReason::Disconnected
    }

    fn pack(&mut self, mut group: Group) -> Result<(), StopReason> {
        let end = group.end.take();
        self.records(group)?;
        match end {
            None => Ok(()),
            Some(GroupEnd::Pause) => self.send_batch(),
            Some(GroupEnd::Shard(end)) => self.end(end),
            Some(GroupEnd::Input(end)) => self.send(Work::InputEnd(end)),
            Some(GroupEnd::Failed(error)) => Err(StopReason::Failed(error)),
        }
    }

    fn send(&self, work: Work) -> Result<(), StopReason> {
        let _wait = self.wait("wait for the computing thread");
        Ok(self.to_compute.send(Ok(work))?)
    }

    /// Sends the batch on, unless it is empty.
    fn send_batch(&mut self) -> Result<(), StopReason> {
        if self.batch.packed.is_empty() {
            return Ok(());
        }
        self.sent += 1;
        self.id_bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        self.send(Work::Batch(batch))
    }

    fn records(&mut self, group: Group) -> Result<(), StopReason> {
        let mut start = 0;
        for (record, end) in group.records.into_iter().zip(group.ends) {
            let tokens = group.tokens.get(start..end).unwrap_or_default();
            match self.judge(&record, tokens) {
                Ok(parts) => self.record(group.shard, record, tokens, parts)?,
                Err(error) => {
                    let skipped = error.rejected().filter(|_| self.skips());
                    let rejected = skipped.ok_or(StopReason::Failed(error))?;
                    self.rejected.insert(record.index, rejected);
                }
            }
            start = end;
        }
        Ok(())
    }

    fn skips(&self) -> bool {
        self.options.bad_records == BadRecords::Skip
    }

    /// Returns the parts of a record that are embedded.
    ///
    /// # Errors
    /// The record cannot be embedded.
    fn judge(&self, record: &Record, tokens: &[u32]) -> Result<Pieces, JobError> {
        let options = &self.options;
        let [_, content @ .., _] = tokens else {
            return Err(no_tokens(record));
        };
        // Cleaning refuses an empty sequence, but text that is not cleaned may still give no
        // tokens.
        if content.is_empty() {
            return Err(SequenceError::EmptySequence {
                place: record.place(),
                what: "empty",
            }
            .into());
        }
        let Some(parts) = pieces(content.len(), options.limit) else {
            return Err(JobError::TooLong {
                place: record.place(),
                tokens: content.len(),
                max: options.limit.map_or(0, |l| l.max),
            });
        };
        // No part is longer than the first, which has as many tokens as the limit allows.
        let longest = options
            .limit
            .map_or(content.len(), |l| content.len().min(l.max))
            + 2;
        if longest > options.capacity {
            return Err(JobError::OverCapacity {
                place: record.place(),
                tokens: longest,
                most: options.capacity,
            });
        }
        Ok(parts)
    }

    /// Appends one record, and sends the batch on whenever it is full.
    fn record(
        &mut self,
        shard: u64,
        record: Record,
        tokens: &[u32],
        mut parts: Pieces,
    ) -> Result<(), StopReason> {
        let options = &self.options;
        let [cls, content @ .., eos] = tokens else {
            return Err(no_tokens(&record).into());
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
            let packed = &self.batch.packed;
            let more_ids = self.id_bytes + record.id.len() > BATCH_IDS;
            if packed.total() + length > self.options.budget.of_batch(self.sent) || more_ids {
                self.send_batch()?;
            }
            self.batch.shard = shard;
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
        self.batch.numbers.push(record.index + 1);
        Ok(())
    }

    fn end(&mut self, mut end: ShardEnd) -> Result<(), StopReason> {
        self.send_batch()?;
        let counts = std::mem::take(&mut self.counts);
        end.facts.tokens = counts.tokens;
        end.facts.rows -= self.rejected.len() as u64;
        end.rejected.append(&mut self.rejected);
        let named = &mut end.facts.counts;
        named.insert("truncated".into(), counts.truncated);
        named.insert("windowed".into(), counts.windowed);
        if self.options.bad_records == BadRecords::Skip {
            named.insert(REJECTED_COUNT.into(), end.rejected.len() as u64);
        }
        self.send(Work::ShardEnd(end))
    }
}

fn no_tokens(record: &Record) -> JobError {
    JobError::Internal(format!("record \"{}\" has no tokens", record.id))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{SyncSender, sync_channel};

    use super::*;

    fn packer(to_compute: WorkSender) -> Packer {
        let options = PackOptions {
            limit: None,
            capacity: 10,
            budget: Budget::even(10),
            bad_records: BadRecords::Stop,
        };
        Packer::new(options, to_compute)
    }

    /// Sends a group of one record with this many tokens.
    fn send(groups: &SyncSender<PendingGroup>, tokens: usize) {
        let (done, pending) = sync_channel(1);
        let mut group = Group {
            tokens: vec![5; tokens],
            ends: vec![tokens],
            end: Some(GroupEnd::Pause),
            ..Group::default()
        };
        group.push(0, Record::new("a", b"LAGV"));
        done.send(group).unwrap();
        groups.send(pending).unwrap();
    }

    #[test]
    fn a_group_that_never_arrives_is_the_last_message_after_those_before_it() {
        let (to_compute, work) = sync_channel(9);
        let (groups, pending) = sync_channel(9);
        send(&groups, 6);
        let (lost, never) = sync_channel(1);
        drop(lost);
        groups.send(never).unwrap();
        send(&groups, 6);
        drop(groups);
        packer(to_compute).run(pending);
        let messages: Vec<_> = work.into_iter().collect();
        let [Ok(Work::Batch(batch)), Err(JobError::Internal(error))] = messages.as_slice() else {
            panic!("{} messages", messages.len());
        };
        assert_eq!(batch.packed.total(), 6);
        assert_eq!(error, "a thread that tokenizes panicked");
    }

    #[test]
    fn an_error_of_packing_is_sent_and_ends_the_packing() {
        let (to_compute, work) = sync_channel(9);
        let (groups, pending) = sync_channel(9);
        send(&groups, 11);
        send(&groups, 6);
        drop(groups);
        packer(to_compute).run(pending);
        let messages: Vec<_> = work.into_iter().collect();
        let [Err(JobError::OverCapacity { tokens, most, .. })] = messages.as_slice() else {
            panic!("{} messages", messages.len());
        };
        assert_eq!((*tokens, *most), (11, 10));
    }

    #[test]
    fn where_nobody_takes_batches_no_group_is_packed() {
        let (to_compute, work) = sync_channel(9);
        let (groups, pending) = sync_channel(9);
        send(&groups, 6);
        drop(work);
        let taken = packer(to_compute).take(pending.recv().unwrap().recv().unwrap());
        assert!(matches!(taken, Err(StopReason::Disconnected)));
    }
}
