//! The writer thread: it merges windows, and has checked rows written into shards.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::Instant;

use super::JobError;
use super::join::{Join, Joiner};
use super::messages::{Batch, Computed, ShardSlot, StopReason};
use super::progress::Counters;
use crate::architecture::ModelKind;
use crate::model::LayerOutput;
use crate::output::{
    JobDir, OutputDtype, OutputError, PushError, Row, ShardLayout, ShardWriter, Workers,
    WrittenShard,
};
use crate::trace::{Category, Span, Trace, host};
use std::ops::Range;

/// The writer thread's data.
pub(crate) struct Writer<'a> {
    pub dir: &'a JobDir,
    pub layout: &'a ShardLayout,
    pub kind: ModelKind,
    /// Whether the model computes in f16.
    pub f16: bool,
    pub trace: &'a Trace,
    /// The threads that encode, hash and write states.
    pub workers: &'a Workers,
    /// How the rows of a job of `seqstream virnucpro` are joined.
    pub join: Option<Join<'a>>,
    pub counters: &'a Counters,
}

/// A record that all sequences of have been computed.
struct Record<'a> {
    id: &'a str,
    /// The number of the record in the input, from 1.
    number: u64,
    /// The pooled rows: those of a layer side by side, one per pooling.
    pooled: Vec<Pooled<'a>>,
    /// Its tokens in the batch, as far as their states are written.
    tokens: Range<usize>,
}

/// A pooled row as it was computed, or the mean over windows.
enum Pooled<'a> {
    Computed(&'a [f32]),
    Merged(Vec<f32>),
}

impl Pooled<'_> {
    fn values(&self) -> &[f32] {
        match self {
            Self::Computed(row) => row,
            Self::Merged(row) => row,
        }
    }
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
        let mut windows = Windows::of(self.layout);
        let joiner = |join: &Join<'a>| Joiner::new(join, self.f16);
        let mut joiner = self.join.as_ref().map(joiner).transpose()?;
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
                    if joiner.is_none() {
                        check_shapes(&batch, &outputs, self.layout)?;
                    }
                    let shard = match &mut current {
                        Some(shard) => shard,
                        None => {
                            self.waiting_for_disk(|| slots.recv())?;
                            current.insert(ShardWriter::create(self.dir, batch.shard, self.layout)?)
                        }
                    };
                    match &mut joiner {
                        Some(joiner) => joiner.push(batch, &outputs, shard, self.workers)?,
                        None => self.push(&batch, &outputs, shard, &mut windows)?,
                    }
                }
                Computed::ShardEnd(end) => {
                    let mut shard = match current.take() {
                        Some(shard) => shard,
                        // All records of the shard were skipped, or no chunk has a fragment.
                        None if !end.rejected.is_empty() || joiner.is_some() => {
                            self.waiting_for_disk(|| slots.recv())?;
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
                    if let Some(joiner) = &mut joiner {
                        joiner.end(end.facts.rows)?;
                    }
                    for (name, text) in &end.texts {
                        shard.text(name, text)?;
                    }
                    let written = shard.complete(end.facts)?;
                    drop(span);
                    if self.waiting_for_disk(|| to_finisher.send(written).is_err()) {
                        return Err(StopReason::Disconnected);
                    }
                }
            }
        }
    }

    /// Opens the interval of a wait in the trace.
    fn wait(&self, name: &'static str) -> Span {
        self.trace.span((host::WRITER, 0), name, Category::HostWait)
    }

    /// Waits for the finishing thread, which waits for the disk, and counts the time.
    fn waiting_for_disk<T>(&self, wait: impl FnOnce() -> T) -> T {
        let _span = self.wait("wait for the finisher");
        let start = Instant::now();
        let done = wait();
        let waited = start.elapsed().as_nanos() as u64;
        self.counters.disk.fetch_add(waited, Ordering::Relaxed);
        done
    }

    fn push(
        &self,
        batch: &Batch,
        outputs: &[LayerOutput],
        shard: &mut ShardWriter<'_>,
        windows: &mut Windows,
    ) -> Result<(), JobError> {
        let records = self.records(batch, outputs, windows)?;
        let rows: Vec<Row<'_>> = records
            .iter()
            .map(|record| Row {
                id: record.id,
                pooled: record.pooled.iter().map(Pooled::values).collect(),
                tokens: record.tokens.clone(),
            })
            .collect();
        let states: Vec<_> = match self.layout.per_token {
            true => outputs.iter().map(|o| &o.states).collect(),
            false => Vec::new(),
        };
        match shard.push(&rows, &states, self.workers) {
            Ok(()) => Ok(()),
            Err(PushError::Output(error)) => Err(error.into()),
            Err(PushError::Row(i)) => Err(self.refusal(&records[i], outputs)),
        }
    }

    /// Returns the records whose last sequence is in the batch.
    fn records<'b>(
        &self,
        batch: &'b Batch,
        outputs: &'b [LayerOutput],
        windows: &mut Windows,
    ) -> Result<Vec<Record<'b>>, JobError> {
        let d = self.layout.width;
        let mut ids = batch.ids.iter().zip(&batch.numbers);
        let mut records = Vec::with_capacity(batch.ids.len());
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
            records.push(Record {
                id,
                number: *number,
                pooled: match windows.take() {
                    Some(merged) => merged.into_iter().map(Pooled::Merged).collect(),
                    None => pooled.into_iter().map(Pooled::Computed).collect(),
                },
                tokens: self.kind.pooled_tokens(batch.packed.range(i)),
            });
        }
        Ok(records)
    }

    /// Returns the error of a record with a value that cannot be stored: of the first value that is
    /// not finite, or else of the first one that the output's data type cannot represent.
    fn refusal(&self, record: &Record<'_>, outputs: &[LayerOutput]) -> JobError {
        let (d, id, number) = (self.layout.width, record.id, record.number);
        let values = record.tokens.start * d..record.tokens.end * d;
        let pools = self.layout.pools.len();
        let layers = self.layout.layers.iter();
        let layers = layers.flat_map(|layer| std::iter::repeat_n(layer, pools));
        let pooled = record.pooled.iter().map(Pooled::values).zip(layers);
        let states = outputs.iter().filter(|_| self.layout.per_token);
        let states = states.zip(&self.layout.layers);
        let not_finite = |row: &[f32]| {
            let at = row.iter().position(|v| !v.is_finite())?;
            Some((at, row[at]))
        };
        let found = pooled
            .clone()
            .find_map(|(row, l)| Some((not_finite(row)?, *l)));
        let found = found.or_else(|| {
            let mut states = states.clone();
            states.find_map(|(o, l)| Some((o.states.non_finite(values.clone())?, *l)))
        });
        if let Some(((at, value), layer)) = found {
            return JobError::NonFinite {
                id: id.to_owned(),
                record: number,
                layer,
                dimension: at % d.max(1),
                value,
                f16: self.f16,
            };
        }
        let beyond = |row: &[f32]| row.iter().copied().find(|v| OutputDtype::F16.refuses(*v));
        let found = pooled.clone().find_map(|(row, l)| Some((beyond(row)?, *l)));
        let found = found.or_else(|| {
            let mut states = states.clone();
            states.find_map(|(o, l)| Some((o.states.beyond_f16(values.clone())?, *l)))
        });
        match found {
            Some((value, layer)) => JobError::Output(OutputError::F16Overflow {
                id: id.to_owned(),
                layer,
                value,
            }),
            None => internal(format!("record {number} was refused without a reason")),
        }
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

/// The mean over the windows of one record (for `max`, the greatest values), weighted by their
/// content tokens, in f64. The windows
/// of a record may be in several batches.
#[derive(Debug)]
pub struct Windows {
    /// What the windows make so far, per layer and pooling: the weighted sum, or the greatest
    /// values.
    sums: Vec<Vec<f64>>,
    /// Whether the greatest values are kept, per layer and pooling.
    maxima: Vec<bool>,
    weight: f64,
}

impl Windows {
    fn of(layout: &ShardLayout) -> Self {
        let pools = layout.pools.iter().map(|pool| pool == "max");
        Self::new(pools.collect(), layout.layers.len(), layout.width)
    }

    /// Starts with no window. `maxima` says of each pooling whether it keeps the greatest values.
    pub fn new(maxima: Vec<bool>, layers: usize, width: usize) -> Self {
        let rows = layers * maxima.len();
        let maxima: Vec<bool> = maxima.into_iter().cycle().take(rows).collect();
        Self {
            sums: vec![vec![0.0; width]; maxima.len()],
            maxima,
            weight: 0.0,
        }
    }

    /// Whether a window was added since the rows were last taken.
    pub fn open(&self) -> bool {
        self.weight > 0.0
    }

    /// Adds a window: its rows, those of a layer side by side, and its content tokens.
    pub fn add(&mut self, pooled: &[&[f32]], content: usize) {
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
    pub fn take(&mut self) -> Option<Vec<Vec<f32>>> {
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
