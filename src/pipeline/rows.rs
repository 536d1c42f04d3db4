//! The writer thread, which turns the outputs of a model into rows and shards, and the finishing
//! thread, which waits for the disk while the writer continues.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender};

use super::JobError;
use super::packing::Batch;
use crate::architecture::ModelKind;
use crate::model::{LayerOutput, ModelError};
use crate::output::{BlockFacts, JobDir, ShardLayout, ShardWriter, WrittenShard, name_shards};
use crate::weights::Checkpoint;

/// A message from the computing thread to the writer.
pub(crate) enum Done {
    /// A batch and its outputs, one per layer of the request.
    Batch(Batch, Vec<LayerOutput>),
    /// The shard has no more batches.
    BlockEnd { block: u64, facts: BlockFacts },
}

/// The counters of the writer for the progress display.
#[derive(Debug, Default)]
pub(crate) struct WriteCounts {
    /// The number of shards that got their names since this run began.
    pub shards: AtomicU64,
}

/// The writer thread's data.
pub(crate) struct Writer<'a> {
    pub dir: &'a JobDir,
    pub layout: &'a ShardLayout,
    pub kind: ModelKind,
    pub shard_size: u64,
    /// Whether the model computes in f16.
    pub f16: bool,
}

impl<'a> Writer<'a> {
    /// Writes until no more messages come, and sends complete shards on. A shard whose end does not
    /// come is dropped. A shard is begun when `slots` gives a slot, which comes back once the files
    /// of the shard are closed.
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
                                // The finishing thread has failed and reports the error itself.
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
                        // The finishing thread has failed and reports the error itself.
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

/// The finishing thread: it hashes, syncs and names shards until no more come, and takes all
/// waiting shards at once. A disk that is slow to sync therefore does not hold the job up: it is
/// asked less often.
pub(crate) fn finish(
    from: Receiver<WrittenShard<'_>>,
    counts: &WriteCounts,
    weights: Option<&Checkpoint>,
    slots: &Sender<()>,
) -> Result<(), JobError> {
    while let Ok(first) = from.recv() {
        let waiting = from.try_iter().take(WAITING_SHARDS);
        let shards: Vec<_> = std::iter::once(first).chain(waiting).collect();
        // All values in these shards were computed before this check.
        if let Some(weights) = weights {
            weights.unchanged().map_err(ModelError::from)?;
        }
        let closed = shards.len();
        let (named, result) = name_shards(shards);
        counts.shards.fetch_add(named as u64, Ordering::Relaxed);
        result?;
        for _ in 0..closed {
            // If the writer has ended, it begins no more shards.
            let _ = slots.send(());
        }
    }
    Ok(())
}

fn internal(what: String) -> JobError {
    JobError::Internal(what)
}

/// Checks the sizes by which the code below slices.
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

/// The mean over the windows of one record, weighted by their content tokens, in f64. The windows
/// of a record may be in several batches.
struct Windows {
    /// The weighted sum so far, per layer.
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

    /// Returns the mean and resets the sums; `None` if no window was added.
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
