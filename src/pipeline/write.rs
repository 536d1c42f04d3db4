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
    pub shard_size: u64,
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
        let mut row = 0;
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
                            row = batch.shard * self.shard_size;
                            current.insert(ShardWriter::create(self.dir, batch.shard, self.layout)?)
                        }
                    };
                    self.push(&batch, &outputs, shard, &mut windows, &mut row)?;
                }
                Computed::ShardEnd(end) => {
                    let no_rows = || internal(format!("shard {} has no rows", end.shard));
                    let shard = current.take().ok_or_else(no_rows)?;
                    let span = self.trace.stage(host::WRITER, 0, "complete");
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
