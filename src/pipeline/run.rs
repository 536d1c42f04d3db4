//! Runs a job: starts its threads, connects them by channels, and reports the progress.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

use super::feed::{Feed, FeedCounts};
use super::packing::{Batch, Work};
use super::rows::{Done, WriteCounts, Writer, finish, open_shards, waiting_shards};
use super::{FeedOptions, JobError, OpenJob, Records, Stop};
use crate::model::{Embedder, ModelError, Request};
use crate::output::{BlockFacts, ManifestHead, ShardLayout, write_manifest};
use crate::sequence::{InputDigest, Tokenizer};
use crate::system::files;
use crate::weights::Checkpoint;

/// How many batches are read ahead of the batch that is computed.
const READ_AHEAD: usize = 4;
/// The least number of computed batches that may wait to be written. With per-token states it is
/// also the greatest.
const WRITE_BEHIND: usize = 2;
/// The greatest number of computed batches that may wait: a file system that is busy syncing may
/// delay a write.
const MOST_BEHIND: usize = 8;
/// The most bytes of pooled rows that the waiting batches may hold.
const BEHIND_BYTES: usize = 256 << 20;
/// How often a waiting job looks at the clock and checks for signals.
const TICK: Duration = Duration::from_millis(100);

/// The options of a run, besides the job, the model and the records.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// How records become batches.
    pub feed: FeedOptions,
    /// The outputs that are computed for each sequence.
    pub request: Request,
    /// The number of records in the whole input, if the input was read before.
    pub input_records: Option<u64>,
    /// Whether any input is a pipe. After a signal, the end of a pipe may not be the end of the
    /// input.
    pub piped: bool,
    /// The weights files of the model. They must not change before the computed shards have their
    /// names.
    pub weights: Option<Arc<Checkpoint>>,
}

/// The progress of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Progress {
    /// Records that this run computed.
    pub records: u64,
    /// Tokens that this run computed, special tokens included.
    pub tokens: u64,
    /// Records of shards that existed already.
    pub reused: u64,
    /// Records of this job's share, if the number is known.
    pub total: Option<u64>,
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

    /// Returns the time to the end of the job at the speed so far; `None` if it is not known.
    pub fn eta(&self) -> Option<Duration> {
        let rest = self.total?.saturating_sub(self.records + self.reused);
        if self.records == 0 {
            return None;
        }
        let seconds = self.elapsed.as_secs_f64() * rest as f64 / self.records as f64;
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

/// The result of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The progress at the end of the run.
    pub progress: Progress,
    /// The manifest, if the job is complete.
    pub manifest: Option<ManifestHead>,
    /// The signal that stopped the run, if the job is not complete.
    pub stopped: Option<i32>,
}

/// Runs the job to its end, or until it is asked to stop.
///
/// # Errors
/// The first error of any of the threads. Finished shards are kept, and the current shard is
/// dropped.
pub fn run<E: Embedder, R: Records>(
    job: &OpenJob,
    options: &RunOptions,
    embedder: &mut E,
    tokenizer: Arc<Tokenizer>,
    records: R,
    observer: &mut dyn Observer,
    stop: &Stop,
) -> Result<Report, JobError> {
    let layout = ShardLayout::of(&job.spec);
    let feed_counts = Arc::new(FeedCounts::default());
    let write_counts = WriteCounts::default();
    let feed = Feed {
        records,
        tokenizer,
        options: options.feed.clone(),
        out: job.dir.path().to_path_buf(),
        finished: job.finished.clone(),
        revoked: false,
        counts: Arc::clone(&feed_counts),
        stop: stop.clone(),
    };
    let (work_to, work) = sync_channel(READ_AHEAD);
    // The thread is not scoped, because it may block in a read of a pipe that nobody will ever
    // write to again.
    std::thread::Builder::new()
        .name("reader".into())
        .spawn(move || feed.run(work_to))
        .map_err(|e| JobError::NoThread(e.to_string()))?;
    let writer = Writer {
        dir: &job.dir,
        layout: &layout,
        kind: embedder.config().kind,
        shard_size: options.feed.shard_size,
        f16: job.spec.dtype == "f16",
    };
    let mut compute = Compute {
        options,
        embedder,
        observer,
        stop,
        feed_counts: &feed_counts,
        write_counts: &write_counts,
        began: Instant::now(),
        announced: false,
        progress: Progress {
            total: options
                .input_records
                .map(|n| options.feed.share.records(n, options.feed.shard_size)),
            ..Progress::default()
        },
    };
    let ended = std::thread::scope(|scope| {
        let (done_to, done) = sync_channel(write_behind(options, layout.width));
        let (whole_to, whole) = sync_channel(waiting_shards(&layout));
        let no_thread = |e: std::io::Error| JobError::NoThread(e.to_string());
        let counts = &write_counts;
        let weights = options.weights.as_deref();
        let (slots_to, slots) = channel();
        for _ in 0..open_shards(&layout, files::left()) {
            // This cannot fail, because the receiver exists.
            let _ = slots_to.send(());
        }
        let finishing = std::thread::Builder::new()
            .name("finisher".into())
            .spawn_scoped(scope, move || finish(whole, counts, weights, &slots_to))
            .map_err(no_thread)?;
        let writing = std::thread::Builder::new()
            .name("writer".into())
            .spawn_scoped(scope, move || writer.run(done, whole_to, &slots))
            .map_err(no_thread)?;
        let ended = compute.run(&work, done_to);
        // This wakes a reader that waits for a free slot in the channel.
        drop(work);
        let panicked = |_| Err(JobError::Internal("the writer thread panicked".into()));
        let written = writing.join().unwrap_or_else(panicked);
        let finished = finishing.join().unwrap_or_else(panicked);
        // The finishing thread handles the earliest part of the input and the writer the next, so
        // their errors come first in this order. If one of them failed, the threads before it only
        // saw a closed channel.
        finished.and(written).and(ended)
    })?;
    compute.observe();
    let progress = compute.progress;
    match ended {
        Ended::Complete { records, digests } => {
            let manifest = complete(job, options, records, &digests)?;
            Ok(Report {
                progress,
                manifest: Some(manifest),
                stopped: None,
            })
        }
        Ended::Stopped(signal) => Ok(Report {
            progress,
            manifest: None,
            stopped: Some(signal),
        }),
        Ended::WriterGone => Err(JobError::Internal(
            "the writer stopped without an error".into(),
        )),
    }
}

/// Returns how many computed batches may wait to be written.
fn write_behind(options: &RunOptions, width: usize) -> usize {
    if options.request.per_token {
        return WRITE_BEHIND;
    }
    // A sequence has at least three tokens: cls, one content token, and eos.
    let rows = (options.feed.budget.tokens / 3).max(1);
    let row = options.request.layers.len().max(1) * width.max(1) * size_of::<f32>();
    let a_batch = rows.saturating_mul(row);
    (BEHIND_BYTES / a_batch).clamp(WRITE_BEHIND, MOST_BEHIND)
}

/// How the computing loop ended.
enum Ended {
    /// The input was read to its end and everything was computed.
    Complete {
        records: u64,
        digests: Vec<InputDigest>,
    },
    /// This signal stopped the job.
    Stopped(i32),
    /// The writer is gone. If it failed, its own error is reported.
    WriterGone,
}

/// The computing thread's data.
struct Compute<'a, E> {
    options: &'a RunOptions,
    embedder: &'a mut E,
    observer: &'a mut dyn Observer,
    stop: &'a Stop,
    feed_counts: &'a FeedCounts,
    write_counts: &'a WriteCounts,
    began: Instant,
    announced: bool,
    progress: Progress,
}

/// Work that was submitted and waits for its turn to be written.
enum Submitted {
    Batch(Batch),
    BlockEnd { block: u64, facts: BlockFacts },
}

impl<E: Embedder> Compute<'_, E> {
    fn run(
        &mut self,
        work: &Receiver<Result<Work, JobError>>,
        done: SyncSender<Done>,
    ) -> Result<Ended, JobError> {
        let mut in_shard = false;
        // The last shard that was read is not full, so only the end of the input can follow.
        let mut at_end = false;
        // The submitted work in the order of the input. The model is computing the batches in it.
        let mut submitted = VecDeque::new();
        loop {
            self.observe();
            // While batches are being computed, the loop does not wait for the reader: it collects
            // the oldest batch instead.
            let next = match submitted.is_empty() {
                true => {
                    let start = Instant::now();
                    self.feed_counts.idle.store(true, Ordering::Relaxed);
                    let next = work.recv_timeout(TICK);
                    let idle = matches!(next, Err(RecvTimeoutError::Timeout));
                    self.feed_counts.idle.store(idle, Ordering::Relaxed);
                    self.progress.starved += start.elapsed();
                    next
                }
                false => work.recv_timeout(Duration::ZERO),
            };
            let stop = self.stop.requested();
            if let Some(signal) = stop {
                let ended = at_end || matches!(next, Ok(Ok(Work::InputEnd { .. })));
                if !in_shard && !ended {
                    return self.stopped(signal, &mut submitted, &done);
                }
                if !std::mem::replace(&mut self.announced, true) {
                    self.observer.stopping(signal);
                }
            }
            match next {
                Err(RecvTimeoutError::Timeout) => {
                    if !self.forward(&mut submitted, &done)? {
                        return Ok(Ended::WriterGone);
                    }
                }
                // A reader that is asked to stop while it reads finished shards ends without a
                // message.
                Err(RecvTimeoutError::Disconnected) => {
                    return match stop {
                        Some(signal) => self.stopped(signal, &mut submitted, &done),
                        None => Err(JobError::Internal("the reader thread ended early".into())),
                    };
                }
                Ok(Err(error)) => {
                    // The shards that were read completely before the error are finished.
                    self.drain(&mut submitted, &done)?;
                    return Err(error);
                }
                Ok(Ok(work)) => match work {
                    Work::Batch(batch) => {
                        in_shard = true;
                        while self.embedder.free_slots() == 0 && !submitted.is_empty() {
                            if !self.forward(&mut submitted, &done)? {
                                return Ok(Ended::WriterGone);
                            }
                        }
                        let (request, packed) = (&self.options.request, &batch.packed);
                        let start = Instant::now();
                        self.embedder.submit(packed, request)?;
                        self.progress.compute += start.elapsed();
                        submitted.push_back(Submitted::Batch(batch));
                    }
                    Work::BlockEnd {
                        block,
                        facts,
                        short,
                    } => {
                        // The same Ctrl-C may have ended the program that feeds the pipe, so this
                        // end of the input cannot be trusted.
                        if let Some(signal) = stop.filter(|_| short && self.options.piped) {
                            return self.stopped(signal, &mut submitted, &done);
                        }
                        in_shard = false;
                        at_end = short;
                        submitted.push_back(Submitted::BlockEnd { block, facts });
                    }
                    Work::InputEnd { records, digests } => {
                        if !self.drain(&mut submitted, &done)? {
                            return Ok(Ended::WriterGone);
                        }
                        return Ok(match stop.filter(|_| self.options.piped) {
                            Some(signal) => Ended::Stopped(signal),
                            None => Ended::Complete { records, digests },
                        });
                    }
                },
            }
        }
    }

    /// Waits for the oldest submitted work and sends it to the writer. Returns `false` if the
    /// writer is gone.
    fn forward(
        &mut self,
        submitted: &mut VecDeque<Submitted>,
        done: &SyncSender<Done>,
    ) -> Result<bool, JobError> {
        let forward = match submitted.pop_front() {
            None => return Ok(true),
            Some(Submitted::Batch(batch)) => {
                let start = Instant::now();
                let outputs = self.embedder.collect()?;
                self.progress.compute += start.elapsed();
                self.progress.records += batch.ids.len() as u64;
                self.progress.tokens += batch.packed.total() as u64;
                let lost = || JobError::Internal("the model has lost a batch".into());
                Done::Batch(batch, outputs.ok_or_else(lost)?)
            }
            Some(Submitted::BlockEnd { block, facts }) => Done::BlockEnd { block, facts },
        };
        let start = Instant::now();
        let sent = done.send(forward).is_ok();
        self.progress.held_up += start.elapsed();
        Ok(sent)
    }

    /// Ends the run after a signal. The submitted work is sent to the writer, and the shards that
    /// are complete with it are kept.
    fn stopped(
        &mut self,
        signal: i32,
        submitted: &mut VecDeque<Submitted>,
        done: &SyncSender<Done>,
    ) -> Result<Ended, JobError> {
        Ok(match self.drain(submitted, done)? {
            true => Ended::Stopped(signal),
            false => Ended::WriterGone,
        })
    }

    /// Sends all submitted work to the writer. Returns `false` if the writer is gone.
    fn drain(
        &mut self,
        submitted: &mut VecDeque<Submitted>,
        done: &SyncSender<Done>,
    ) -> Result<bool, JobError> {
        while !submitted.is_empty() {
            if !self.forward(submitted, done)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn observe(&mut self) {
        self.progress.elapsed = self.began.elapsed();
        self.progress.reused = self.feed_counts.reused.load(Ordering::Relaxed);
        self.progress.shards = self.write_counts.shards.load(Ordering::Relaxed);
        self.observer.progress(&self.progress);
    }
}

/// Checks that the inputs match job.json and that the weights have not changed, and writes the
/// manifest.
fn complete(
    job: &OpenJob,
    options: &RunOptions,
    records: u64,
    digests: &[InputDigest],
) -> Result<ManifestHead, JobError> {
    let mut spec = job.spec.clone();
    if digests.len() != spec.inputs.len() {
        return Err(JobError::Internal(format!(
            "{} of {} inputs hashed",
            digests.len(),
            spec.inputs.len()
        )));
    }
    for (input, digest) in spec.inputs.iter_mut().zip(digests) {
        if input.blake3.get_or_insert_with(|| digest.blake3.clone()) != &digest.blake3 {
            return Err(JobError::InputChanged {
                name: digest.name.clone(),
            });
        }
    }
    if let Some(weights) = &options.weights {
        weights.unchanged().map_err(ModelError::from)?;
    }
    let size = options.feed.shard_size;
    let blocks: Vec<u64> = (0..records.div_ceil(size))
        .filter(|b| options.feed.share.holds(*b))
        .collect();
    Ok(write_manifest(&job.dir, &spec, records, &blocks)?)
}
