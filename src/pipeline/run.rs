//! Running a job: its threads, the channels between them, and what is said about it.

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

/// Batches read ahead of the computing one.
const READ_AHEAD: usize = 4;
/// Computed batches waiting to be written, at least; with the states of tokens no more.
const WRITE_BEHIND: usize = 2;
/// At most: a file system that is busy syncing may make a write wait.
const MOST_BEHIND: usize = 8;
/// Bytes of pooled rows that those may hold.
const BEHIND_BYTES: usize = 256 << 20;
/// How often a waiting job looks at the clock and at signals.
const TICK: Duration = Duration::from_millis(100);

/// What a run needs besides the job, the model and the records.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// How records become batches.
    pub feed: FeedOptions,
    /// What is computed for each.
    pub request: Request,
    /// Records in the whole input, where it was read before.
    pub input_records: Option<u64>,
    /// Whether any input is a pipe: its end, after a signal, may be no end.
    pub piped: bool,
    /// The files that the model is computed from, which must not change before what was computed has its name.
    pub weights: Option<Arc<Checkpoint>>,
}

/// How far a run has come.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Progress {
    /// Records computed by this run.
    pub records: u64,
    /// Tokens computed by this run, special tokens included.
    pub tokens: u64,
    /// Records of shards that stood already.
    pub reused: u64,
    /// Records of this job, where known.
    pub total: Option<u64>,
    /// Shards written by this run.
    pub shards: u64,
    /// Since the run began.
    pub elapsed: Duration,
    /// Spent in the model.
    pub compute: Duration,
    /// Spent waiting for the reader, with nothing under way.
    pub starved: Duration,
    /// Spent waiting for the writer.
    pub held_up: Duration,
}

impl Progress {
    /// Tokens a second, over the whole run.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// The share of time spent in the model, from 0 to 1.
    pub fn compute_share(&self) -> f64 {
        self.share(self.compute)
    }

    /// A share of the whole run, from 0 to 1.
    pub fn share(&self, part: Duration) -> f64 {
        part.as_secs_f64() / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// How long the rest takes at the speed so far.
    pub fn eta(&self) -> Option<Duration> {
        let rest = self.total?.saturating_sub(self.records + self.reused);
        if self.records == 0 {
            return None;
        }
        let seconds = self.elapsed.as_secs_f64() * rest as f64 / self.records as f64;
        Duration::try_from_secs_f64(seconds).ok()
    }
}

/// Someone who watches a run.
pub trait Observer {
    /// Called often: after each batch, and while waiting.
    fn progress(&mut self, progress: &Progress);
    /// A signal arrived; the shard in hand is being finished.
    fn stopping(&mut self, signal: i32);
}

/// Nobody watches.
#[derive(Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn progress(&mut self, _: &Progress) {}
    fn stopping(&mut self, _: i32) {}
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// What it did.
    pub progress: Progress,
    /// The manifest, if the job is complete.
    pub manifest: Option<ManifestHead>,
    /// The signal that stopped it, if it is not.
    pub stopped: Option<i32>,
}

/// Runs the job to its end, or until it is asked to stop.
///
/// # Errors
/// The first error of any of the threads. Finished shards stay; the one in hand is dropped.
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
    // Not scoped: it may sit in a read of a pipe that nobody will ever feed again.
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
            // The other end stands just above.
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
        // Wakes a reader that waits for room in the channel.
        drop(work);
        let panicked = |_| Err(JobError::Internal("the writer thread panicked".into()));
        let written = writing.join().unwrap_or_else(panicked);
        let finished = finishing.join().unwrap_or_else(panicked);
        // Of what comes first in the input, the finishing thread's error comes first, then the
        // writer's; where either failed, the threads before it only met a closed channel.
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

/// Computed batches that may wait to be written.
fn write_behind(options: &RunOptions, width: usize) -> usize {
    if options.request.per_token {
        return WRITE_BEHIND;
    }
    // A sequence has three tokens at least: cls, one of its own, eos.
    let rows = (options.feed.token_budget / 3).max(1);
    let row = options.request.layers.len().max(1) * width.max(1) * size_of::<f32>();
    let a_batch = rows.saturating_mul(row);
    (BEHIND_BYTES / a_batch).clamp(WRITE_BEHIND, MOST_BEHIND)
}

enum Ended {
    Complete {
        records: u64,
        digests: Vec<InputDigest>,
    },
    Stopped(i32),
    WriterGone,
}

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

/// What has been submitted, and waits for its turn to be written.
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
        // The last block was read, short: nothing but the end of the input can follow.
        let mut at_end = false;
        // In the order of the input. Batches in it are under way.
        let mut submitted = VecDeque::new();
        loop {
            self.observe();
            // While batches are under way, an empty channel is no reason to leave them lying.
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
                // A reader that is asked to stop while it reads past finished shards just ends.
                Err(RecvTimeoutError::Disconnected) => {
                    return match stop {
                        Some(signal) => self.stopped(signal, &mut submitted, &done),
                        None => Err(JobError::Internal("the reader thread ended early".into())),
                    };
                }
                Ok(Err(error)) => {
                    // Shards that were read whole before it are finished.
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

    /// Sends the oldest that was submitted on to the writer, after waiting for it; `false` if the
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

    /// The end after a signal: what was submitted is sent on, and of that whole shards stay.
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

    /// Sends on all that was submitted; `false` if the writer is gone.
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

/// Checks that what was read is what was promised, and writes the manifest.
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
