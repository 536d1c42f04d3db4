//! The writer thread: a model's outputs become the rows of records, and those become shards. And
//! the finishing thread, which waits for the disk while the writer goes on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender};

use super::JobError;
use super::packing::Batch;
use crate::architecture::ModelKind;
use crate::model::{LayerOutput, ModelError};
use crate::output::{BlockFacts, JobDir, ShardLayout, ShardWriter, WrittenShard, name_shards};
use crate::weights::Checkpoint;

/// What the computing thread sends on.
pub(crate) enum Done {
    Batch(Batch, Vec<LayerOutput>),
    BlockEnd { block: u64, facts: BlockFacts },
}

/// What the writer counts for the progress display.
#[derive(Debug, Default)]
pub(crate) struct WriteCounts {
    /// Shards that stand since this run began.
    pub shards: AtomicU64,
}

pub(crate) struct Writer<'a> {
    pub dir: &'a JobDir,
    pub layout: &'a ShardLayout,
    pub kind: ModelKind,
    pub shard_size: u64,
    /// Whether the model computes in f16.
    pub f16: bool,
}

impl<'a> Writer<'a> {
    /// Writes until nothing more comes, and sends whole shards on. A block whose end does not come
    /// is dropped. A shard is begun where `slots` has one, which comes back once its files are closed.
    pub(crate) fn run(
        &self,
        from: Receiver<Done>,
        to: SyncSender<WrittenShard<'a>>,
        slots: &Receiver<()>,
    ) -> Result<(), JobError> {
        let mut shard: Option<ShardWriter<'_>> = None;
        let mut windows = Windows::new(self.layout);
        let mut row = 0;
        for done in from {
            match done {
                Done::Batch(batch, outputs) => {
                    check_shapes(&batch, &outputs, self.layout)?;
                    let shard = match &mut shard {
                        Some(shard) => shard,
                        None => {
                            if slots.recv().is_err() {
                                // The finishing thread has failed, and says so itself.
                                return Ok(());
                            }
                            row = batch.block * self.shard_size;
                            shard.insert(ShardWriter::create(self.dir, batch.block, self.layout)?)
                        }
                    };
                    self.push(&batch, &outputs, shard, &mut windows, &mut row)?;
                }
                Done::BlockEnd { block, facts } => {
                    let whole = shard.take();
                    let whole =
                        whole.ok_or_else(|| internal(format!("block {block} has no rows")))?;
                    if to.send(whole.complete(facts)?).is_err() {
                        // The finishing thread has failed, and says so itself.
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn push(
        &self,
        batch: &Batch,
        outputs: &[LayerOutput],
        shard: &mut ShardWriter<'_>,
        windows: &mut Windows,
        row: &mut u64,
    ) -> Result<(), JobError> {
        let d = self.layout.width;
        let mut ids = batch.ids.iter();
        for (i, piece) in batch.pieces.iter().enumerate() {
            let pooled: Vec<&[f32]> = match self.layout.pooled {
                true => outputs
                    .iter()
                    .map(|o| &o.pooled[i * d..(i + 1) * d])
                    .collect(),
                false => Vec::new(),
            };
            if !piece.last || windows.open() {
                windows.add(&pooled, piece.content);
            }
            if !piece.last {
                continue;
            }
            let id = ids
                .next()
                .ok_or_else(|| internal("a record without its id".into()))?;
            let merged = windows.take();
            let pooled: Vec<&[f32]> = match &merged {
                Some(merged) => merged.iter().map(Vec::as_slice).collect(),
                None => pooled,
            };
            let tokens = self.kind.pooled_tokens(batch.packed.range(i));
            let states: Vec<&[f32]> = match self.layout.per_token {
                true => outputs
                    .iter()
                    .map(|o| &o.states[tokens.start * d..tokens.end * d])
                    .collect(),
                false => Vec::new(),
            };
            *row += 1;
            for values in [&pooled, &states] {
                for (values, layer) in values.iter().zip(&self.layout.layers) {
                    check_finite(values, d, id, *row, *layer, self.f16)?;
                }
            }
            shard.push(id, &pooled, &states)?;
        }
        Ok(())
    }
}

/// Files of shards that wait for their names, open all of them, at most; or one shard's.
const WAITING_FILES: usize = 128;
/// Shards that wait for their names, at most: what is lost of a job that is killed.
const WAITING_SHARDS: usize = 8;

/// Shards that may wait for the finishing thread.
pub(crate) fn waiting_shards(layout: &ShardLayout) -> usize {
    (WAITING_FILES / layout.files()).clamp(1, WAITING_SHARDS)
}

/// Shards that may be open at once, where a process may open `left` files more: each has its files,
/// shard.json and, while it is synced, its directory; others are opened beside them.
pub(crate) fn open_shards(layout: &ShardLayout, left: Option<usize>) -> usize {
    /// An input, a file that is hashed, job.json or the manifest, and some for libraries.
    const OTHERS: usize = 6;
    // One that is written, one that waits to be sent on, those that wait, those that are finished.
    let wanted = 2 + waiting_shards(layout) + WAITING_SHARDS;
    let allowed = left.map_or(wanted, |n| n.saturating_sub(OTHERS) / (layout.files() + 2));
    allowed.clamp(1, wanted)
}

/// The finishing thread: hashes, syncs and names shards until no more come, all those that wait at
/// once. A disk that is slow to sync holds nothing up then: it is asked less often.
pub(crate) fn finish(
    from: Receiver<WrittenShard<'_>>,
    counts: &WriteCounts,
    weights: Option<&Checkpoint>,
    slots: &Sender<()>,
) -> Result<(), JobError> {
    while let Ok(first) = from.recv() {
        let waiting = from.try_iter().take(WAITING_SHARDS);
        let shards: Vec<_> = std::iter::once(first).chain(waiting).collect();
        // All that is in them was computed before this.
        if let Some(weights) = weights {
            weights.unchanged().map_err(ModelError::from)?;
        }
        let closed = shards.len();
        let (named, result) = name_shards(shards);
        counts.shards.fetch_add(named as u64, Ordering::Relaxed);
        result?;
        for _ in 0..closed {
            // A writer that has ended begins no more shards.
            let _ = slots.send(());
        }
    }
    Ok(())
}

fn internal(what: String) -> JobError {
    JobError::Internal(what)
}

/// Everything below slices by these sizes.
fn check_shapes(
    batch: &Batch,
    outputs: &[LayerOutput],
    layout: &ShardLayout,
) -> Result<(), JobError> {
    let sequences = if layout.pooled { batch.packed.len() } else { 0 };
    let tokens = if layout.per_token {
        batch.packed.total()
    } else {
        0
    };
    let right = outputs
        .iter()
        .map(|o| o.layer)
        .eq(layout.layers.iter().copied())
        && outputs
            .iter()
            .all(|o| !layout.pooled || o.pooled.len() == sequences * layout.width)
        && outputs
            .iter()
            .all(|o| !layout.per_token || o.states.len() == tokens * layout.width)
        && batch.pieces.len() == batch.packed.len();
    if right {
        Ok(())
    } else {
        Err(internal("the model's output has the wrong shape".into()))
    }
}

fn check_finite(
    values: &[f32],
    d: usize,
    id: &str,
    record: u64,
    layer: usize,
    f16: bool,
) -> Result<(), JobError> {
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(at) => Err(JobError::NonFinite {
            id: id.to_owned(),
            record,
            layer,
            dimension: at % d.max(1),
            value: values[at],
            f16,
        }),
    }
}

/// The mean over the windows of one record, weighted by their content tokens, in f64. Its windows
/// may stand in several batches.
struct Windows {
    /// Per layer: the weighted sum so far.
    sums: Vec<Vec<f64>>,
    weight: f64,
}

impl Windows {
    fn new(layout: &ShardLayout) -> Self {
        let layers = if layout.pooled {
            layout.layers.len()
        } else {
            0
        };
        Self {
            sums: vec![vec![0.0; layout.width]; layers],
            weight: 0.0,
        }
    }

    fn open(&self) -> bool {
        self.weight > 0.0
    }

    fn add(&mut self, pooled: &[&[f32]], content: usize) {
        let weight = content as f64;
        for (sum, row) in self.sums.iter_mut().zip(pooled) {
            sum.iter_mut()
                .zip(*row)
                .for_each(|(s, v)| *s += weight * f64::from(*v));
        }
        self.weight += weight;
    }

    /// The mean, if there was more than the one window; the sums start anew.
    fn take(&mut self) -> Option<Vec<Vec<f32>>> {
        if !self.open() {
            return None;
        }
        let weight = std::mem::take(&mut self.weight);
        let mean = |sum: &mut Vec<f64>| {
            sum.iter_mut()
                .map(|s| (std::mem::take(s) / weight) as f32)
                .collect()
        };
        Some(self.sums.iter_mut().map(mean).collect())
    }
}
