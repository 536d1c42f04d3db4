//! Runs a job: makes its channels, starts its threads, and waits for their ends.

use std::sync::Arc;
use std::sync::mpsc::{channel, sync_channel};
use std::thread::{self, Builder};

use super::compute::{Compute, ComputeLane, RunEnd};
use super::finish::{Finisher, open_shards, waiting_shards};
use super::fragments::{FragmentOptions, FragmentStage};
use super::job::complete;
use super::join::{Join, JoinOptions};
use super::messages::{InputNotes, ShardSlot, StopReason, WorkSender};
use super::pack::{PackOptions, Packer};
use super::progress::{Chunked, Counters, Monitor, Observer, Progress};
use super::read::{ReadOptions, Reader, Records};
use super::tokenize::{GROUPS_PER_THREAD, GroupTokenizer, TokenizeStage};
use super::write::Writer;
use super::{JobError, OpenJob, Stop};
use crate::model::{Embedder, Request};
use crate::output::{Lengths, ManifestHead, ShardLayout, Workers};
use crate::sequence::Tokenizer;
use crate::system::files;
use crate::trace::{Trace, host};
use crate::virnucpro::TableCounts;
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

/// The options of a run, besides the job, the model and the records.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Which records are read, and how they are cleaned and checked.
    pub read: ReadOptions,
    /// The number of threads that tokenize. With one thread, the reader itself tokenizes.
    pub tokenize_threads: usize,
    /// The number of threads that encode, hash and write the states of tokens.
    pub write_threads: usize,
    /// How tokenized records become batches.
    pub pack: PackOptions,
    /// The outputs that are computed for each sequence.
    pub request: Request,
    /// The number of records in the whole input, if the input was read before.
    pub input_records: Option<u64>,
    /// Whether any input is a pipe. After a signal, the end of a pipe may not be the end of the
    /// input.
    pub piped: bool,
    /// The weights files of the models. They must not change before the computed shards have their
    /// names.
    pub weights: Vec<Arc<Checkpoint>>,
    /// The trace of the job, if there is one.
    pub trace: Trace,
}

/// The result of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The progress at the end of the run.
    pub progress: Progress,
    /// The manifest, if the job is complete.
    pub manifest: Option<ManifestHead>,
    /// What the tables hold, if the job is complete and has a classifier.
    pub tables: Option<TableCounts>,
    /// What the reader noticed, if the job is complete.
    pub notes: InputNotes,
    /// The signal that stopped the run, if the job is not complete.
    pub stopped: Option<i32>,
}

/// A model of a job, and how the texts that it reads become batches.
pub struct Lane<'a, E> {
    /// The model.
    pub embedder: &'a mut E,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// How tokenized records become batches.
    pub pack: PackOptions,
    /// What is computed for each sequence.
    pub request: Request,
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
    let lane = Lane {
        embedder,
        tokenizer,
        pack: options.pack.clone(),
        request: options.request.clone(),
    };
    run_lanes(job, options, vec![lane], None, records, observer, stop)
}

/// Runs a job of `seqstream virnucpro`, whose `records` are chunks of contigs ([`Chunks`]): makes
/// their fragments, embeds the texts of each fragment by the models of `lanes`, and joins the rows.
/// `options.pack` and `options.request` are those of the lanes.
///
/// [`Chunks`]: super::Chunks
///
/// # Errors
/// The first error of any of the threads. Finished shards are kept, and the current shard is
/// dropped.
pub fn run_fragments<E: Embedder, R: Records>(
    job: &OpenJob,
    options: &RunOptions,
    lanes: Vec<Lane<'_, E>>,
    (fragments, join): (FragmentOptions, &JoinOptions),
    records: R,
    observer: &mut dyn Observer,
    stop: &Stop,
) -> Result<Report, JobError> {
    let extra = Some((fragments, join));
    run_lanes(job, options, lanes, extra, records, observer, stop)
}

fn run_lanes<E: Embedder, R: Records>(
    job: &OpenJob,
    options: &RunOptions,
    lanes: Vec<Lane<'_, E>>,
    fragments: Option<(FragmentOptions, &JoinOptions)>,
    records: R,
    observer: &mut dyn Observer,
    stop: &Stop,
) -> Result<Report, JobError> {
    let (fragments, join) = fragments.unzip();
    let Some(first) = lanes.first() else {
        return Err(JobError::Internal("a job without a model".into()));
    };
    let kind = first.embedder.config().kind;
    let layout = ShardLayout::of(&job.spec);
    let counters = Arc::new(Counters::default());
    let (to_compute, work) = sync_channel(READ_AHEAD);
    let reader = Reader {
        records,
        options: options.read.clone(),
        out: job.dir.path().to_path_buf(),
        finished: job.finished.clone(),
        counters: Arc::clone(&counters),
        stop: stop.clone(),
        trace: options.trace.clone(),
        lengths: Lengths::default(),
        shared_name: None,
        fragments: fragments.map(FragmentStage::new),
    };
    start_reading(reader, &lanes, options, to_compute)?;
    let sizes = lanes.iter().map(|lane| {
        let layer = lane.request.layers.first().copied().unwrap_or(0);
        (lane.embedder.config().hidden, layer)
    });
    let sizes: Vec<(usize, usize)> = sizes.collect();
    let widest = sizes.iter().map(|(width, _)| *width).max();
    let threads = match layout.per_token {
        true => options.write_threads,
        false => 1,
    };
    let workers = Workers::new(threads).map_err(|e| JobError::NoThread(e.to_string()))?;
    let write_threads = options.write_threads;
    let writer = Writer {
        dir: &job.dir,
        layout: &layout,
        kind,
        f16: job.spec.dtype == "f16",
        trace: &options.trace,
        workers: &workers,
        join: join.map(|options| Join {
            options,
            lanes: sizes,
            threads: write_threads,
        }),
        counters: &counters,
    };
    let finisher = Finisher {
        weights: &options.weights,
        counters: &counters,
        trace: &options.trace,
    };
    let total = options
        .input_records
        .map(|n| options.read.share.records(n, options.read.shard_size));
    let mut monitor = Monitor::new(total, Arc::clone(&counters), observer);
    monitor.progress.chunks = join.map(|_| Chunked::default());
    let (to_writer, computed) = sync_channel(write_behind(options, widest.unwrap_or(layout.width)));
    let (to_finisher, written) = sync_channel(waiting_shards(&layout));
    let (to_slots, slots) = channel();
    for _ in 0..open_shards(&layout, files::left()) {
        // This cannot fail, because the receiver exists.
        let _ = to_slots.send(ShardSlot);
    }
    let mut lanes = lanes;
    let lanes = lanes.iter_mut().map(|lane| ComputeLane {
        embedder: &mut *lane.embedder,
        request: &lane.request,
    });
    let compute = Compute::new(
        lanes.collect(),
        options.piped,
        stop,
        &mut monitor,
        work,
        to_writer,
    )
    .traced(options.trace.clone());
    let end = thread::scope(|scope| {
        let finishing = Builder::new()
            .name("finisher".into())
            .spawn_scoped(scope, || finisher.run(written, to_slots))
            .map_err(no_thread)?;
        let writing = Builder::new()
            .name("writer".into())
            .spawn_scoped(scope, || writer.run(computed, to_finisher, slots))
            .map_err(no_thread)?;
        let computed = compute.run();
        let panicked = |_| Err(JobError::Internal("the writer thread panicked".into()).into());
        let written = writing.join().unwrap_or_else(panicked);
        let finished = finishing.join().unwrap_or_else(panicked);
        first_error(finished, written, computed)
    })?;
    monitor.observe();
    let progress = monitor.progress;
    let (manifest, tables, notes, stopped) = match end {
        RunEnd::Complete(input) => {
            let (manifest, tables) = complete(job, &options.read, &options.weights, &input)?;
            (Some(manifest), tables, input.notes, None)
        }
        RunEnd::Stopped(signal) => (None, None, InputNotes::default(), Some(signal)),
    };
    Ok(Report {
        progress,
        manifest,
        tables,
        notes,
        stopped,
    })
}

/// Starts the threads before the computing one: the reader, and where a pool tokenizes, the pool
/// and the packing thread. None of them is scoped, because the reader may block in a read of a pipe
/// that nobody will ever write to again.
fn start_reading<E, R: Records>(
    reader: Reader<R>,
    lanes: &[Lane<'_, E>],
    options: &RunOptions,
    to_compute: WorkSender,
) -> Result<(), JobError> {
    let tokenizers = lanes
        .iter()
        .map(|l| (Arc::clone(&l.tokenizer), l.pack.limit));
    let tokenizer = GroupTokenizer::new(tokenizers);
    // With one thread, the reader itself tokenizes and packs.
    let pooled = options.tokenize_threads > 1;
    let (tokens, packs) = match pooled {
        true => (host::TOKENS, host::PACKER),
        false => (host::READER, host::READER),
    };
    let tokenizer = tokenizer.traced(options.trace.clone(), tokens);
    let packer = Packer::new(lanes.iter().map(|lane| lane.pack.clone()), to_compute);
    let packer = packer.traced(options.trace.clone(), packs);
    let stage = match options.tokenize_threads {
        0 | 1 => TokenizeStage::inline(tokenizer, packer),
        threads => {
            let (to_packer, groups) = sync_channel(GROUPS_PER_THREAD * threads);
            let stage = TokenizeStage::pool(tokenizer, threads, to_packer)?;
            Builder::new()
                .name("packer".into())
                .spawn(move || packer.run(groups))
                .map_err(no_thread)?;
            stage
        }
    };
    Builder::new()
        .name("reader".into())
        .spawn(move || reader.run(stage))
        .map_err(no_thread)?;
    Ok(())
}

fn no_thread(error: std::io::Error) -> JobError {
    JobError::NoThread(error.to_string())
}

/// Returns the end of the run, or the error that is reported. The finishing thread handles the
/// earliest part of the input and the writer the next, so their errors come first, in this order.
/// If one of them failed, the threads before it only saw a closed channel.
fn first_error(
    finished: Result<(), StopReason>,
    written: Result<(), StopReason>,
    computed: Result<RunEnd, StopReason>,
) -> Result<RunEnd, JobError> {
    for end in [finished, written] {
        if let Err(StopReason::Failed(error)) = end {
            return Err(error);
        }
    }
    computed.map_err(|reason| match reason {
        StopReason::Failed(error) => error,
        StopReason::Disconnected => {
            JobError::Internal("the writer stopped without an error".into())
        }
    })
}

/// Returns how many computed batches may wait to be written.
fn write_behind(options: &RunOptions, width: usize) -> usize {
    if options.request.per_token {
        return WRITE_BEHIND;
    }
    // A sequence has at least three tokens: cls, one content token, and eos.
    let rows = (options.pack.budget.tokens / 3).max(1);
    let pools = options.request.pools.len().max(1);
    let row = options.request.layers.len().max(1) * pools * width.max(1) * size_of::<f32>();
    let a_batch = rows.saturating_mul(row);
    (BEHIND_BYTES / a_batch).clamp(WRITE_BEHIND, MOST_BEHIND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_the_earliest_part_of_the_input_is_reported() {
        let failed = |what: &str| StopReason::from(JobError::Internal(what.into()));
        let reported = |finished: Option<_>, written: Option<_>, computed: Option<_>| {
            let end = |reason: Option<StopReason>| reason.map_or(Ok(()), Err);
            let computed = end(computed).map(|()| RunEnd::Stopped(2));
            match first_error(end(finished), end(written), computed) {
                Ok(_) => "none".into(),
                Err(error) => error.to_string(),
            }
        };
        let gone = || Some(StopReason::Disconnected);
        let (f, w, c) = (
            || Some(failed("f")),
            || Some(failed("w")),
            || Some(failed("c")),
        );
        assert_eq!(reported(f(), w(), c()), "internal error: f");
        assert_eq!(reported(f(), gone(), gone()), "internal error: f");
        assert_eq!(reported(None, w(), c()), "internal error: w");
        assert_eq!(reported(None, w(), gone()), "internal error: w");
        assert_eq!(reported(None, None, c()), "internal error: c");
        assert_eq!(
            reported(None, None, gone()),
            "internal error: the writer stopped without an error"
        );
        assert_eq!(reported(None, None, None), "none");
    }
}
