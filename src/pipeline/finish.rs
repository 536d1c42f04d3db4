//! The finishing thread: it syncs and names shards, and so waits for the disk while the
//! writer thread continues.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender};

use super::messages::{ShardSlot, StopReason};
use super::progress::Counters;
use crate::model::ModelError;
use crate::output::{ShardLayout, WrittenShard, name_shards_traced};
use crate::trace::Trace;
use crate::weights::Checkpoint;

/// The most files of all shards that wait for their names, all of which are open. One shard may
/// have more.
const WAITING_FILES: usize = 128;
/// The most shards that wait for their names. A job that is killed loses these shards.
const WAITING_SHARDS: usize = 8;

/// Returns how many shards may wait for the finishing thread.
pub(crate) fn waiting_shards(layout: &ShardLayout) -> usize {
    (WAITING_FILES / layout.files()).clamp(1, WAITING_SHARDS)
}

/// Returns how many shards may be open at once, if the process may open `left` more files. Each
/// shard has its files, shard.json and, while it is synced, its directory. Other files are open
/// beside the shards.
pub(crate) fn open_shards(layout: &ShardLayout, left: Option<usize>) -> usize {
    /// An input, a file that is hashed, job.json or the manifest, and some files of libraries.
    const OTHERS: usize = 6;
    // One shard is written, one waits to be sent on, and others wait for the finishing thread or
    // are being finished by it.
    let wanted = 2 + waiting_shards(layout) + WAITING_SHARDS;
    let allowed = left.map_or(wanted, |n| n.saturating_sub(OTHERS) / (layout.files() + 2));
    allowed.clamp(1, wanted)
}

/// The finishing thread's data.
pub(crate) struct Finisher<'a> {
    /// The weights files of the models, which must not have changed when a shard gets its name.
    pub weights: &'a [Arc<Checkpoint>],
    pub counters: &'a Counters,
    pub trace: &'a Trace,
}

impl Finisher<'_> {
    /// Finishes shards until no more come, and takes all waiting shards at once. A disk that is
    /// slow to sync therefore does not hold the job up: it is asked less often.
    pub(crate) fn run(
        &self,
        from_writer: Receiver<WrittenShard<'_>>,
        slots: Sender<ShardSlot>,
    ) -> Result<(), StopReason> {
        while let Ok(first) = from_writer.recv() {
            let waiting = from_writer.try_iter().take(WAITING_SHARDS);
            let shards: Vec<_> = std::iter::once(first).chain(waiting).collect();
            // All values in these shards were computed before this check.
            for weights in self.weights {
                weights.unchanged().map_err(ModelError::from)?;
            }
            let closed = shards.len();
            let (named, result) = name_shards_traced(shards, self.trace);
            self.counters
                .shards
                .fetch_add(named as u64, Ordering::Relaxed);
            result?;
            for _ in 0..closed {
                // If the writer has ended, it begins no more shards.
                let _ = slots.send(ShardSlot);
            }
        }
        Ok(())
    }
}
