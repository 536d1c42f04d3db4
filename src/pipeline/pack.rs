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
///
/// Each lane has batches of its own. At the end of a shard the batches of all lanes are sent on, so
/// that the next shard begins only after the end of this one in every lane.
pub(crate) struct Packer {
    lanes: Vec<PackLane>,
    to_compute: WorkSender,
    counts: Counts,
    trace: Trace,
    /// The name of the track of the thread that packs.
    thread: &'static str,
    /// The records of the shard that were skipped here, by their numbers over the job.
    rejected: BTreeMap<u64, Rejected>,
}

/// The batch of a lane that is being packed.
struct PackLane {
    options: PackOptions,
    batch: Batch,
    /// The number of bytes of the ids in `batch`.
    id_bytes: usize,
    /// The number of batches sent on.
    sent: usize,
    /// The number of tokens of the lane in the shard that is being packed.
    tokens: u64,
}

/// The counts of the shard that is being packed.
#[derive(Default)]
struct Counts {
    truncated: u64,
    windowed: u64,
}

impl Packer {
    pub(crate) fn new(
        lanes: impl IntoIterator<Item = PackOptions>,
        to_compute: WorkSender,
    ) -> Self {
        let lane = |(lane, options)| PackLane {
            options,
            batch: Batch {
                lane,
                ..Batch::default()
            },
            id_bytes: 0,
            sent: 0,
            tokens: 0,
        };
        Self {
            lanes: lanes.into_iter().enumerate().map(lane).collect(),
            to_compute,
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
            args.sequences = Some(group.records() as u64);
            args.tokens = Some(group.tokens() as u64);
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
            Some(GroupEnd::Pause) => self.send_batches(),
            Some(GroupEnd::Shard(end)) => self.end(end),
            Some(GroupEnd::Input(end)) => self.send(Work::InputEnd(end)),
            Some(GroupEnd::Failed(error)) => Err(StopReason::Failed(error)),
        }
    }

    fn send(&self, work: Work) -> Result<(), StopReason> {
        let _wait = self.wait("wait for the computing thread");
        Ok(self.to_compute.send(Ok(work))?)
    }

    /// Sends the batch of each lane on, unless it is empty.
    fn send_batches(&mut self) -> Result<(), StopReason> {
        (0..self.lanes.len()).try_for_each(|lane| self.send_batch(lane))
    }

    /// Sends the batch of a lane on, unless it is empty.
    fn send_batch(&mut self, lane: usize) -> Result<(), StopReason> {
        let packing = &mut self.lanes[lane];
        if packing.batch.packed.is_empty() {
            return Ok(());
        }
        packing.sent += 1;
        packing.id_bytes = 0;
        let next = Batch {
            lane,
            ..Batch::default()
        };
        let batch = std::mem::replace(&mut packing.batch, next);
        self.send(Work::Batch(batch))
    }

    fn records(&mut self, group: Group) -> Result<(), StopReason> {
        for (lane, part) in group.lanes.into_iter().enumerate().take(self.lanes.len()) {
            let mut start = 0;
            for (record, end) in part.records.into_iter().zip(part.ends) {
                let tokens = part.tokens.get(start..end).unwrap_or_default();
                match self.lanes[lane].judge(&record, tokens) {
                    Ok(parts) => self.record(lane, group.shard, record, tokens, parts)?,
                    Err(error) => {
                        let skipped = error.rejected().filter(|_| self.skips());
                        let rejected = skipped.ok_or(StopReason::Failed(error))?;
                        self.rejected.insert(record.index, rejected);
                    }
                }
                start = end;
            }
        }
        Ok(())
    }

    fn skips(&self) -> bool {
        let skips = |lane: &PackLane| lane.options.bad_records == BadRecords::Skip;
        self.lanes.iter().any(skips)
    }

    /// Appends one record, and sends the batch on whenever it is full.
    fn record(
        &mut self,
        lane: usize,
        shard: u64,
        record: Record,
        tokens: &[u32],
        mut parts: Pieces,
    ) -> Result<(), StopReason> {
        let [cls, content @ .., eos] = tokens else {
            return Err(no_tokens(&record).into());
        };
        let limit = self.lanes[lane].options.limit;
        match limit.filter(|l| content.len() > l.max) {
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
            if self.lanes[lane].is_full(length, record.id.len()) {
                self.send_batch(lane)?;
            }
            let batch = &mut self.lanes[lane].batch;
            batch.shard = shard;
            if part.len() == content.len() {
                batch.packed.push(tokens);
            } else {
                sequence.clear();
                sequence.push(*cls);
                sequence.extend_from_slice(content.get(part.clone()).unwrap_or_default());
                sequence.push(*eos);
                batch.packed.push(&sequence);
            }
            batch.pieces.push(Piece {
                content: part.len(),
                last: parts.done(),
            });
            self.lanes[lane].tokens += length as u64;
        }
        let lane = &mut self.lanes[lane];
        lane.id_bytes += record.id.len();
        lane.batch.ids.push(record.id);
        lane.batch.numbers.push(record.index + 1);
        Ok(())
    }

    fn end(&mut self, mut end: ShardEnd) -> Result<(), StopReason> {
        self.send_batches()?;
        let counts = std::mem::take(&mut self.counts);
        let taken = |lane: &mut PackLane| std::mem::take(&mut lane.tokens);
        let tokens: Vec<u64> = self.lanes.iter_mut().map(taken).collect();
        end.facts.tokens = tokens.iter().sum();
        end.facts.rows -= self.rejected.len() as u64;
        end.rejected.append(&mut self.rejected);
        let named = &mut end.facts.counts;
        named.insert("truncated".into(), counts.truncated);
        named.insert("windowed".into(), counts.windowed);
        if let [dna, protein] = tokens[..] {
            named.insert("dna_tokens".into(), dna);
            named.insert("protein_tokens".into(), protein);
        }
        if self.skips() {
            named.insert(REJECTED_COUNT.into(), end.rejected.len() as u64);
        }
        self.send(Work::ShardEnd(end))
    }
}

impl PackLane {
    /// Returns whether a sequence of `tokens` tokens belongs into the next batch.
    fn is_full(&self, tokens: usize, id: usize) -> bool {
        let more_ids = self.id_bytes + id > BATCH_IDS;
        self.batch.packed.total() + tokens > self.options.budget.of_batch(self.sent) || more_ids
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
        Packer::new([options], to_compute)
    }

    /// Sends a group of one record with this many tokens.
    fn send(groups: &SyncSender<PendingGroup>, tokens: usize) {
        let (done, pending) = sync_channel(1);
        let mut group = Group {
            end: Some(GroupEnd::Pause),
            ..Group::default()
        };
        group.push(0, 0, Record::new("a", b"LAGV"));
        group.lanes[0].tokens = vec![5; tokens];
        group.lanes[0].ends = vec![tokens];
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
