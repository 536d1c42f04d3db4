//! The writer thread: it merges windows, checks the values, and writes rows into shards.

use std::sync::mpsc::{Receiver, SyncSender};

use super::JobError;
use super::messages::{Batch, Computed, ShardSlot, StopReason};
use crate::architecture::ModelKind;
use crate::model::LayerOutput;
use crate::output::{JobDir, ShardLayout, ShardWriter, WrittenShard};
use crate::trace::{Category, Span, Trace, host};

/// The writer thread's data.
pub(crate) struct Writer<'a> {
    pub dir: &'a JobDir,
    pub layout: &'a ShardLayout,
    pub kind: ModelKind,
    /// Whether the model computes in f16.
    pub f16: bool,
    pub trace: &'a Trace,
}

impl<'a> Writer<'a> {
    /// Writes until no more messages come, and sends complete shards on. A shard whose end does not
    /// come is dropped. A shard is begun when `slots` gives a slot, which comes back once the files
    /// of the shard are closed.
    pub(crate) fn run(
        &self,
        from_compute: Receiver<Computed>,
        to_finisher: SyncSender<WrittenShard<'a>>,
        slots: Receiver<ShardSlot>,
    ) -> Result<(), StopReason> {
        let mut current: Option<ShardWriter<'_>> = None;
        let mut windows = Windows::new(self.layout);
        loop {
            let waiting = self.wait("wait for results");
            let Ok(computed) = from_compute.recv() else {
                waiting.cancel();
                return Ok(());
            };
            drop(waiting);
            match computed {
                Computed::Batch(batch, outputs) => {
                    let mut span = self.trace.stage(host::WRITER, 0, "write");
                    span.note(|args| {
                        args.sequences = Some(batch.packed.len() as u64);
                        args.tokens = Some(batch.packed.total() as u64);
                        let values = |o: &LayerOutput| o.pooled.len() + o.states.len();
                        args.bytes = Some(4 * outputs.iter().map(values).sum::<usize>() as u64);
                    });
                    check_shapes(&batch, &outputs, self.layout)?;
                    let shard = match &mut current {
                        Some(shard) => shard,
                        None => {
                            let waiting = self.wait("wait for the finisher");
                            slots.recv()?;
                            drop(waiting);
                            current.insert(ShardWriter::create(self.dir, batch.shard, self.layout)?)
                        }
                    };
                    self.push(&batch, &outputs, shard, &mut windows)?;
                }
                Computed::ShardEnd(end) => {
                    let mut shard = match current.take() {
                        Some(shard) => shard,
                        // All records of the shard were skipped.
                        None if !end.rejected.is_empty() => {
                            let waiting = self.wait("wait for the finisher");
                            slots.recv()?;
                            drop(waiting);
                            ShardWriter::create(self.dir, end.shard, self.layout)?
                        }
                        None => {
                            return Err(internal(format!("shard {} has no rows", end.shard)).into());
                        }
                    };
                    let span = self.trace.stage(host::WRITER, 0, "complete");
                    for rejected in end.rejected.values() {
                        shard.reject(rejected)?;
                    }
                    let written = shard.complete(end.facts)?;
                    drop(span);
                    let _waiting = self.wait("wait for the finisher");
                    to_finisher.send(written)?;
                }
            }
        }
    }

    /// Opens the interval of a wait in the trace.
    fn wait(&self, name: &'static str) -> Span {
        self.trace.span((host::WRITER, 0), name, Category::HostWait)
    }

    fn push(
        &self,
        batch: &Batch,
        outputs: &[LayerOutput],
        shard: &mut ShardWriter<'_>,
        windows: &mut Windows,
    ) -> Result<(), JobError> {
        let d = self.layout.width;
        let mut ids = batch.ids.iter().zip(&batch.numbers);
        for (i, piece) in batch.pieces.iter().enumerate() {
            let all = self.layout.pools.len() * d;
            let pooled: Vec<&[f32]> = outputs
                .iter()
                .flat_map(|o| o.pooled[i * all..(i + 1) * all].chunks_exact(d.max(1)))
                .collect();
            if !piece.last || windows.open() {
                windows.add(&pooled, piece.content);
            }
            if !piece.last {
                continue;
            }
            let (id, number) = ids
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
            let per_layer = self.layout.pools.len().max(1);
            for (values, rows) in [(&pooled, per_layer), (&states, 1)] {
                for (values, layer) in values.chunks(rows).zip(&self.layout.layers) {
                    for values in values {
                        check_finite(values, d, id, *number, *layer, self.f16)?;
                    }
                }
            }
            shard.push(id, &pooled, &states)?;
        }
        Ok(())
    }
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
    let sequences = batch.packed.len() * layout.pools.len();
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
            .all(|o| layout.pools.is_empty() || o.pooled.len() == sequences * layout.width)
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

/// The mean over the windows of one record (for `max`, the greatest values), weighted by their content tokens, in f64. The windows
/// of a record may be in several batches.
struct Windows {
    /// What the windows make so far, per layer and pooling: the weighted sum, or the greatest
    /// values.
    sums: Vec<Vec<f64>>,
    /// Whether the greatest values are kept, per layer and pooling.
    maxima: Vec<bool>,
    weight: f64,
}

impl Windows {
    fn new(layout: &ShardLayout) -> Self {
        let pools = layout.pools.iter().map(|pool| pool == "max");
        let maxima: Vec<bool> = pools
            .cycle()
            .take(layout.layers.len() * layout.pools.len())
            .collect();
        Self {
            sums: vec![vec![0.0; layout.width]; maxima.len()],
            maxima,
            weight: 0.0,
        }
    }

    fn open(&self) -> bool {
        self.weight > 0.0
    }

    fn add(&mut self, pooled: &[&[f32]], content: usize) {
        let weight = content as f64;
        for ((sum, row), max) in self.sums.iter_mut().zip(pooled).zip(&self.maxima) {
            if *max {
                for (s, v) in sum.iter_mut().zip(*row) {
                    // A value that is not a number stays.
                    let keeps = self.weight > 0.0 && (s.is_nan() || f64::from(*v) <= *s);
                    *s = if keeps { *s } else { f64::from(*v) };
                }
                continue;
            }
            sum.iter_mut()
                .zip(*row)
                .for_each(|(s, v)| *s += weight * f64::from(*v));
        }
        self.weight += weight;
    }

    /// Returns the means and the greatest values, and resets the sums; `None` if no window was added.
    fn take(&mut self) -> Option<Vec<Vec<f32>>> {
        if !self.open() {
            return None;
        }
        let weight = std::mem::take(&mut self.weight);
        let take = |(sum, max): (&mut Vec<f64>, &bool)| {
            let weight = if *max { 1.0 } else { weight };
            sum.iter_mut()
                .map(|s| (std::mem::take(s) / weight) as f32)
                .collect()
        };
        Some(self.sums.iter_mut().zip(&self.maxima).map(take).collect())
    }
}
