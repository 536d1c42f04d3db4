//! The progress of a run, and who observes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The progress of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Progress {
    /// Records that this run computed.
    pub records: u64,
    /// Tokens that this run computed, special tokens included.
    pub tokens: u64,
    /// Records of shards that existed already.
    pub reused: u64,
    /// Records of this job's share, if the number is known. In a job of `seqstream virnucpro` these
    /// are chunks.
    pub total: Option<u64>,
    /// In a job of `seqstream virnucpro`, the chunks of the shards that this run computed and of
    /// those that existed already. `records` and `reused` then count fragments.
    pub chunks: Option<Chunked>,
    /// Shards that this run wrote.
    pub shards: u64,
    /// The time since the run began.
    pub elapsed: Duration,
    /// The time spent in the model.
    pub compute: Duration,
    /// The time spent waiting for the reader while the model had no work.
    pub starved: Duration,
    /// The time spent waiting for the writer.
    pub held_up: Duration,
    /// The time for which the writer waited for the disk. Meanwhile the model may have computed.
    pub disk: Duration,
}

/// Chunks, as far as their shards are done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Chunked {
    /// The chunks of shards that this run computed.
    pub computed: u64,
    /// The chunks of shards that existed already.
    pub reused: u64,
}

/// What bounds the speed of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// The model on its device.
    Model,
    /// The input: reading, cleaning and tokenizing.
    Input,
    /// The output: checking, encoding, hashing and writing, before the disk is waited for.
    Output,
    /// The disk, which shards are synced to.
    Disk,
}

impl Progress {
    /// Returns the tokens per second over the whole run.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Returns the fraction of the time that was spent in the model, from 0 to 1.
    pub fn compute_share(&self) -> f64 {
        self.share(self.compute)
    }

    /// Returns `part` as a fraction of the whole run, from 0 to 1.
    pub fn share(&self, part: Duration) -> f64 {
        part.as_secs_f64() / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Returns what bounded the run: what the model waited for, if it waited for more than a tenth
    /// of the time, and else the model.
    pub fn bound(&self) -> Bound {
        // At the end of a run, the last shards are waited for.
        let others = self.compute + self.starved + self.held_up;
        let ending = self.elapsed.saturating_sub(others);
        let (held_up, disk) = (self.held_up + ending, self.disk + ending);
        let waited = self.starved.max(held_up);
        match () {
            () if self.share(waited) <= 0.1 => Bound::Model,
            () if self.starved > held_up => Bound::Input,
            // The rest of the time the writer thread was busy.
            () if 2 * disk > held_up => Bound::Disk,
            () => Bound::Output,
        }
    }

    /// Returns the time to the end of the job at the speed so far; `None` if it is not known.
    pub fn eta(&self) -> Option<Duration> {
        let (computed, reused) = match self.chunks {
            Some(chunks) => (chunks.computed, chunks.reused),
            None => (self.records, self.reused),
        };
        let rest = self.total?.saturating_sub(computed + reused);
        if computed == 0 {
            return None;
        }
        let seconds = self.elapsed.as_secs_f64() * rest as f64 / computed as f64;
        Duration::try_from_secs_f64(seconds).ok()
    }
}

/// An observer of a run.
pub trait Observer {
    /// Called often: after each batch, and while the run waits.
    fn progress(&mut self, progress: &Progress);
    /// Called when a signal has arrived and the current shard is being finished.
    fn stopping(&mut self, signal: i32);
}

/// An observer that does nothing.
#[derive(Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn progress(&mut self, _: &Progress) {}
    fn stopping(&mut self, _: i32) {}
}

/// What the threads tell each other without messages.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// The number of records of finished shards that the reader read without sending them on.
    pub reused: AtomicU64,
    /// The number of chunks in these shards, if the records are chunks.
    pub reused_chunks: AtomicU64,
    /// The number of shards that got their names since this run began.
    pub shards: AtomicU64,
    /// Whether the computing thread has nothing to do.
    pub idle: AtomicBool,
    /// The time in nanoseconds for which the writer thread has waited for the disk.
    pub disk: AtomicU64,
}

/// Collects the progress and shows it to the observer. The computing thread owns it.
pub(crate) struct Monitor<'a> {
    pub progress: Progress,
    counters: Arc<Counters>,
    observer: &'a mut dyn Observer,
    began: Instant,
    announced: bool,
}

impl<'a> Monitor<'a> {
    /// Starts the clock. `total` is the number of records of the job's share, if it is known.
    pub(crate) fn new(
        total: Option<u64>,
        counters: Arc<Counters>,
        observer: &'a mut dyn Observer,
    ) -> Self {
        Self {
            progress: Progress {
                total,
                ..Progress::default()
            },
            counters,
            observer,
            began: Instant::now(),
            announced: false,
        }
    }

    /// Shows the observer the progress so far.
    pub(crate) fn observe(&mut self) {
        self.progress.elapsed = self.began.elapsed();
        self.progress.reused = self.counters.reused.load(Ordering::Relaxed);
        if let Some(chunks) = &mut self.progress.chunks {
            chunks.reused = self.counters.reused_chunks.load(Ordering::Relaxed);
        }
        self.progress.shards = self.counters.shards.load(Ordering::Relaxed);
        self.progress.disk = Duration::from_nanos(self.counters.disk.load(Ordering::Relaxed));
        self.observer.progress(&self.progress);
    }

    /// Counts the chunks of a shard all of whose rows are on their way to the writer.
    pub(crate) fn end_shard(&mut self, records: u64) {
        if let Some(chunks) = &mut self.progress.chunks {
            chunks.computed += records;
        }
    }

    /// Tells the observer, once, that the current shard is being finished after a signal.
    pub(crate) fn stopping(&mut self, signal: i32) {
        if !std::mem::replace(&mut self.announced, true) {
            self.observer.stopping(signal);
        }
    }

    /// Tells the reader whether the computing thread has nothing to do.
    pub(crate) fn set_idle(&self, idle: bool) {
        self.counters.idle.store(idle, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_run_waited_for_bounded_it() {
        let bound = |starved, held_up, disk| {
            let seconds = Duration::from_secs;
            let progress = Progress {
                elapsed: seconds(100),
                compute: seconds(100 - starved - held_up),
                starved: seconds(starved),
                held_up: seconds(held_up),
                disk: seconds(disk),
                ..Progress::default()
            };
            progress.bound()
        };
        assert_eq!(bound(10, 10, 80), Bound::Model);
        assert_eq!(bound(40, 30, 30), Bound::Input);
        assert_eq!(bound(30, 40, 20), Bound::Output);
        assert_eq!(bound(30, 40, 21), Bound::Disk);
        let ending = Progress {
            elapsed: Duration::from_secs(100),
            compute: Duration::from_secs(80),
            ..Progress::default()
        };
        assert_eq!(ending.bound(), Bound::Disk);
    }
}
