//! Everything that travels between the threads of a job.
//!
//! | from | to | message | how many may wait |
//! |---|---|---|---|
//! | read | tokenize | [`Group`] | as many as may wait for the packing thread |
//! | tokenize | pack | [`PendingGroup`], in the order of the input | 2 per tokenizing thread |
//! | pack | compute | [`Work`], or the error that ends the input | 4 |
//! | compute | write | [`Computed`] | 2 to 8 |
//! | write | finish | [`WrittenShard`](crate::output::WrittenShard) | 1 to 8 |
//! | finish | write | [`ShardSlot`] | one per shard that may be open |
//!
//! Every message that holds records names their shard, and each channel keeps the order of the
//! input. With one tokenizing thread, the reader thread also tokenizes and packs, and the first two
//! channels do not exist.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvError, SendError, SyncSender};

use super::JobError;
use crate::batch::PackedBatch;
use crate::model::LayerOutput;
use crate::output::{BlockFacts, Lengths, Rejected};
use crate::sequence::{InputDigest, Record, SharedName};

/// The reason why a thread ends before the input does.
#[derive(Debug)]
pub(crate) enum StopReason {
    /// Nobody takes the messages of this thread any more, or nobody sends it what it waits for. The
    /// other side was stopped, or it has failed and reports the error itself.
    Disconnected,
    /// This thread has failed.
    Failed(JobError),
}

impl<E: Into<JobError>> From<E> for StopReason {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl<T> From<SendError<T>> for StopReason {
    fn from(_: SendError<T>) -> Self {
        Self::Disconnected
    }
}

impl From<RecvError> for StopReason {
    fn from(_: RecvError) -> Self {
        Self::Disconnected
    }
}

/// Consecutive cleaned records of one shard, and the event that follows them.
///
/// Most jobs have one model. A job with several models has a lane for each: every model reads its
/// own texts of the same records.
#[derive(Default)]
pub(crate) struct Group {
    /// The number of the shard.
    pub shard: u64,
    /// The records of each lane. Lanes without records may be missing.
    pub lanes: Vec<LaneGroup>,
    /// The number of bytes that the records of all lanes hold, ids included.
    pub bytes: usize,
    /// The event that follows the records, if there is one.
    pub end: Option<GroupEnd>,
}

/// The records of one lane of a group.
#[derive(Default)]
pub(crate) struct LaneGroup {
    /// The records. Tokenizing removes their text.
    pub records: Vec<Record>,
    /// The tokens of all records, special tokens included. It is empty before tokenizing.
    pub tokens: Vec<u32>,
    /// The end of each record in `tokens`.
    pub ends: Vec<usize>,
}

impl Group {
    /// Adds a record of shard `shard` to a lane.
    pub fn push(&mut self, shard: u64, lane: usize, record: Record) {
        self.shard = shard;
        self.bytes += record.bytes();
        if self.lanes.len() <= lane {
            self.lanes.resize_with(lane + 1, LaneGroup::default);
        }
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.records.push(record);
        }
    }

    /// Returns the number of records in all lanes.
    pub fn records(&self) -> usize {
        self.lanes.iter().map(|lane| lane.records.len()).sum()
    }

    /// Returns the number of tokens in all lanes.
    pub fn tokens(&self) -> usize {
        self.lanes.iter().map(|lane| lane.tokens.len()).sum()
    }
}

/// The event that follows the records of a group.
pub(crate) enum GroupEnd {
    /// Their shard has no more records.
    Shard(ShardEnd),
    /// The input has been read to its end.
    Input(InputEnd),
    /// The input pauses and the model has nothing to do, so the records so far are computed.
    Pause,
    /// The next record could not be read.
    Failed(JobError),
}

/// The end of a shard.
pub(crate) struct ShardEnd {
    /// The number of the shard.
    pub shard: u64,
    /// The facts for its shard.json. The packing thread adds its counts to those of the reader.
    pub facts: BlockFacts,
    /// The records that were skipped, by their numbers over the job.
    pub rejected: BTreeMap<u64, Rejected>,
    /// The names and the contents of the texts of the shard that the reader makes.
    pub texts: Vec<(&'static str, Vec<u8>)>,
    /// Whether the input ended before the shard was full.
    pub short: bool,
}

/// The end of the input.
pub(crate) struct InputEnd {
    /// The number of records in the whole input.
    pub records: u64,
    /// The digests of all inputs, in order.
    pub digests: Vec<InputDigest>,
    /// What to warn of.
    pub notes: InputNotes,
}

/// What the reader noticed in the input, besides the counts of the shards.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct InputNotes {
    /// The first name that two records of one shard share, among the records that were computed.
    pub shared_name: Option<SharedName>,
    /// The lengths of all sequences of the job's share, except those that were not read.
    pub lengths: Lengths,
    /// The names of the inputs that lack the end marker of bgzip.
    pub without_end: Vec<Arc<str>>,
}

/// A group that is being tokenized. The packing thread waits for the groups in the order in which
/// they were read. A group never arrives if the thread that tokenizes it panics.
pub(crate) type PendingGroup = Receiver<Group>;

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
    pub shard: u64,
    /// The lane, which is the number of the model that computes the batch.
    pub lane: usize,
    /// The tokens of the sequences.
    pub packed: PackedBatch,
    /// One entry per sequence of `packed`.
    pub pieces: Vec<Piece>,
    /// One id per piece that is the last piece of its record.
    pub ids: Vec<String>,
    /// The numbers of these records over the job, from 1.
    pub numbers: Vec<u64>,
}

/// A message to the computing thread.
pub(crate) enum Work {
    /// A batch to compute.
    Batch(Batch),
    /// All batches of the shard have been sent.
    ShardEnd(ShardEnd),
    /// The input has been read to its end.
    InputEnd(InputEnd),
}

/// The channel to the computing thread. An error is the last message.
pub(crate) type WorkSender = SyncSender<Result<Work, JobError>>;

/// A message to the writer thread.
pub(crate) enum Computed {
    /// A batch and its outputs, one per layer of the request.
    Batch(Batch, Vec<LayerOutput>),
    /// The shard has no more batches.
    ShardEnd(ShardEnd),
}

/// Permission to open the files of one shard. The finishing thread gives it back to the writer
/// thread once these files are closed.
pub(crate) struct ShardSlot;
