//! The computing thread, which is the thread that called `run`: it hands batches to the model,
//! sends the results on in the order of the input, and watches for signals.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::Duration;

use super::messages::{Batch, Computed, InputEnd, ShardEnd, StopReason, Work};
use super::progress::Monitor;
use super::{JobError, Stop};
use crate::model::{Embedder, Request};
use crate::trace::{Args, Category, Measured, Trace, host};

/// How often a waiting job looks at the clock and checks for signals.
const TICK: Duration = Duration::from_millis(100);

/// The end of a run that did not fail.
pub(crate) enum RunEnd {
    /// The input was read to its end and everything was computed.
    Complete(InputEnd),
    /// This signal stopped the job.
    Stopped(i32),
}

/// Work that was submitted to the model and waits for its turn to be sent to the writer.
enum Submitted {
    Batch(Batch),
    ShardEnd(ShardEnd),
}

/// A model, and what it computes for each sequence of its lane.
pub(crate) struct ComputeLane<'a, E> {
    pub embedder: &'a mut E,
    pub request: &'a Request,
}

/// The computing thread's data.
pub(crate) struct Compute<'a, 'o, E> {
    /// The models. Each has its own queue on its device, so that their passes overlap.
    lanes: Vec<ComputeLane<'a, E>>,
    /// Whether any input is a pipe.
    piped: bool,
    stop: &'a Stop,
    monitor: &'a mut Monitor<'o>,
    work: Receiver<Result<Work, JobError>>,
    to_writer: SyncSender<Computed>,
    /// The submitted work in the order of the input. The model is computing the batches in it.
    submitted: VecDeque<Submitted>,
    /// Whether a batch of the current shard has been submitted.
    in_shard: bool,
    /// Whether the last shard that was read is not full, so that only the end of the input can
    /// follow.
    at_end: bool,
    trace: Trace,
}

impl<'a, 'o, E: Embedder> Compute<'a, 'o, E> {
    pub(crate) fn new(
        lanes: Vec<ComputeLane<'a, E>>,
        piped: bool,
        stop: &'a Stop,
        monitor: &'a mut Monitor<'o>,
        work: Receiver<Result<Work, JobError>>,
        to_writer: SyncSender<Computed>,
    ) -> Self {
        Self {
            lanes,
            piped,
            stop,
            monitor,
            work,
            to_writer,
            submitted: VecDeque::new(),
            in_shard: false,
            at_end: false,
            trace: Trace::off(),
        }
    }

    /// Records what this thread does in a trace. The shares of the summary are the lengths of the
    /// same intervals.
    pub(crate) fn traced(mut self, trace: Trace) -> Self {
        self.trace = trace;
        self
    }

    fn measure(&self, name: &'static str, category: Category) -> Measured {
        self.trace.measure(host::COMPUTING, name, category)
    }

    /// Computes until the input ends, or until a signal stops the job. At the end both channels are
    /// closed, which wakes a reader that waits for a free slot, and ends the writer.
    pub(crate) fn run(mut self) -> Result<RunEnd, StopReason> {
        loop {
            self.monitor.observe();
            let next = self.next_work();
            let stop = self.stop.requested();
            if let Some(signal) = stop {
                let ended = self.at_end || matches!(next, Ok(Ok(Work::InputEnd(_))));
                if !self.in_shard && !ended {
                    return self.stopped(signal);
                }
                self.monitor.stopping(signal);
            }
            match next {
                Err(RecvTimeoutError::Timeout) => self.forward()?,
                // A reader that is asked to stop while it reads finished shards ends without a
                // message.
                Err(RecvTimeoutError::Disconnected) => match stop {
                    Some(signal) => return self.stopped(signal),
                    None => return Err(internal("the reader thread ended early")),
                },
                Ok(Err(error)) => {
                    // The shards that were read completely before the error are finished.
                    self.drain()?;
                    return Err(StopReason::Failed(error));
                }
                Ok(Ok(Work::Batch(batch))) => self.submit(batch)?,
                Ok(Ok(Work::ShardEnd(end))) => {
                    // The same Ctrl-C may have ended the program that feeds the pipe, so this end
                    // of the input cannot be trusted.
                    if let Some(signal) = stop.filter(|_| end.short && self.piped) {
                        return self.stopped(signal);
                    }
                    self.in_shard = false;
                    self.at_end = end.short;
                    self.submitted.push_back(Submitted::ShardEnd(end));
                }
                Ok(Ok(Work::InputEnd(end))) => {
                    self.drain()?;
                    return Ok(match stop.filter(|_| self.piped) {
                        Some(signal) => RunEnd::Stopped(signal),
                        None => RunEnd::Complete(end),
                    });
                }
            }
        }
    }

    /// Waits for the next work. While batches are being computed it does not wait for the reader,
    /// so that the oldest batch can be collected instead.
    fn next_work(&mut self) -> Result<Result<Work, JobError>, RecvTimeoutError> {
        if !self.submitted.is_empty() {
            return self.work.recv_timeout(Duration::ZERO);
        }
        let waiting = self.measure("wait for the reader", Category::HostWait);
        self.monitor.set_idle(true);
        let next = self.work.recv_timeout(TICK);
        self.monitor
            .set_idle(matches!(next, Err(RecvTimeoutError::Timeout)));
        self.monitor.progress.starved += waiting.end();
        next
    }

    /// Hands a batch to the model of its lane. While that model takes no more batches, the oldest
    /// batch of all lanes is collected.
    fn submit(&mut self, batch: Batch) -> Result<(), StopReason> {
        self.in_shard = true;
        while self.lane(&batch)?.embedder.free_slots() == 0 && !self.submitted.is_empty() {
            self.forward()?;
        }
        let mut launching = self.measure("launch", Category::Stage);
        launching.note(|args| note(&batch, args));
        let lane = self.lane(&batch)?;
        lane.embedder.submit(&batch.packed, lane.request)?;
        self.monitor.progress.compute += launching.end();
        self.submitted.push_back(Submitted::Batch(batch));
        Ok(())
    }

    /// Returns the lane of a batch.
    fn lane(&mut self, batch: &Batch) -> Result<&mut ComputeLane<'a, E>, StopReason> {
        let lost = || internal("a batch of a model that the job has not");
        self.lanes.get_mut(batch.lane).ok_or_else(lost)
    }

    /// Waits for the oldest submitted work, if there is any, and sends it to the writer.
    fn forward(&mut self) -> Result<(), StopReason> {
        let computed = match self.submitted.pop_front() {
            None => return Ok(()),
            Some(Submitted::Batch(batch)) => {
                let mut collecting = self.measure("collect", Category::Stage);
                collecting.note(|args| note(&batch, args));
                let outputs = self.lane(&batch)?.embedder.collect()?;
                let progress = &mut self.monitor.progress;
                progress.compute += collecting.end();
                // All lanes have the same records.
                if batch.lane == 0 {
                    progress.records += batch.ids.len() as u64;
                }
                progress.tokens += batch.packed.total() as u64;
                let lost = || internal("the model has lost a batch");
                Computed::Batch(batch, outputs.ok_or_else(lost)?)
            }
            Some(Submitted::ShardEnd(end)) => {
                self.monitor.end_shard(end.facts.records());
                Computed::ShardEnd(end)
            }
        };
        let waiting = self.measure("wait for the writer", Category::HostWait);
        let sent = self.to_writer.send(computed);
        self.monitor.progress.held_up += waiting.end();
        Ok(sent?)
    }

    /// Sends all submitted work to the writer.
    fn drain(&mut self) -> Result<(), StopReason> {
        while !self.submitted.is_empty() {
            self.forward()?;
        }
        Ok(())
    }

    /// Ends the run after a signal. The submitted work is sent to the writer, and the shards that
    /// are complete with it are kept.
    fn stopped(&mut self, signal: i32) -> Result<RunEnd, StopReason> {
        self.drain()?;
        Ok(RunEnd::Stopped(signal))
    }
}

/// Notes what a batch holds.
fn note(batch: &Batch, args: &mut Args) {
    args.sequences = Some(batch.packed.len() as u64);
    args.tokens = Some(batch.packed.total() as u64);
}

fn internal(what: &str) -> StopReason {
    StopReason::Failed(JobError::Internal(what.into()))
}
