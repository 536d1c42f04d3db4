//! A sequence of fences that one thread records and another thread waits for, for layers that are
//! being loaded.

use super::error::StreamError;
use super::job::{Job, JobGuard};
use super::manager::StreamSet;
use super::timeline::{Timeline, Work, timed};
use crate::gpu::driver::{Context, DriverError, Fence, Stream};
use crate::trace::{Args, Category, Span, host};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Fences for a sequence of layers. One thread records them in order, and other threads make their
/// streams wait for them.
///
/// A stream that waits for an event that was never recorded does not wait at all: the driver treats
/// such an event as passed. So a thread that needs layer n first blocks on the host until the fence
/// of layer n *has been recorded*, and only then makes its stream wait for that fence. A failure
/// anywhere in the job wakes it.
///
/// If all layers are resident, there are as many fences as layers. With a ring of K buffers, the
/// layers are counted on through the passes and the fences are used in turn. A second `LayerFences`
/// then works in the opposite direction: the compute thread records it when it is done with a
/// layer, and the loader waits for it before it overwrites the layer's buffer. A fence may be
/// recorded again once everybody has waited for it.
#[derive(Debug)]
pub struct LayerFences {
    fences: Vec<Fence>,
    /// The number of layers whose fence has been recorded. It is written under the job's lock.
    recorded: AtomicU64,
    /// Whether no more fences will be recorded. It is written under the job's lock.
    ended: AtomicBool,
    job: Arc<Job>,
    timeline: Option<Arc<Timeline>>,
}

impl LayerFences {
    /// Creates `count` fences, at least one, which logs call `name`.
    ///
    /// # Errors
    /// [`StreamError::Driver`] if a fence cannot be created, or the job's failure.
    pub fn new(streams: &StreamSet, name: &'static str, count: usize) -> Result<Self, StreamError> {
        let job = Arc::clone(&streams.job);
        job.check()?;
        let fence = |context: &Context, number| Ok(Fence::new(context)?.called(name, number));
        let fences = (0..count.max(1))
            .map(|number| fence(streams.compute.context(), number))
            .collect::<Result<_, DriverError>>()
            .map_err(|e| job.fail(e.into()))?;
        Ok(Self {
            fences,
            recorded: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            job,
            timeline: streams.timeline.clone(),
        })
    }

    /// Returns the fence of a layer. There are fewer than 2^64 fences, so the remainder fits a
    /// `usize`.
    fn fence(&self, layer: u64) -> &Fence {
        &self.fences[(layer % self.fences.len() as u64) as usize]
    }

    /// Returns the number of layers whose fence has been recorded.
    fn recorded(&self) -> u64 {
        self.recorded.load(Ordering::Acquire)
    }

    /// Records the next layer's fence on `stream`, after the work that loads this layer. Only one
    /// thread may record. Returns the layer's number, counted from 0.
    ///
    /// # Errors
    /// The job's failure.
    pub fn record(&self, stream: &Stream) -> Result<u64, StreamError> {
        self.job.check()?;
        let layer = self.recorded();
        let enqueued = stream.record(self.fence(layer));
        enqueued.map_err(|e| self.job.fail(e.into()))?;
        let held = self.job.lock();
        self.recorded.store(layer + 1, Ordering::Release);
        drop(held);
        self.job.wake();
        Ok(layer)
    }

    /// Blocks the host until a layer's fence has been recorded, or `stop` is set by
    /// [`stop`](Self::stop). The fence need not be passed then.
    ///
    /// # Errors
    /// The job's failure, as soon as there is one; [`StreamError::NotLoaded`] if the layer's fence
    /// will never be recorded.
    fn wait_enqueued_unless(
        &self,
        layer: u64,
        stop: Option<&AtomicBool>,
    ) -> Result<(), StreamError> {
        let mut held: JobGuard<'_> = self.job.lock();
        loop {
            if let Some(error) = &*held {
                return Err(error.clone());
            }
            let recorded = self.recorded();
            if layer < recorded {
                return Ok(());
            }
            if stop.is_some_and(|stop| stop.load(Ordering::Acquire)) {
                return Err(StreamError::Stopped);
            }
            if self.ended.load(Ordering::Acquire) {
                let loaded = recorded;
                return Err(StreamError::NotLoaded { layer, loaded });
            }
            held = self.job.wait(held);
        }
    }

    /// Makes all later work on `stream` wait until a layer is loaded. The host only waits until the
    /// layer's fence has been recorded.
    ///
    /// # Errors
    /// The job's failure, as soon as there is one; [`StreamError::NotLoaded`] if the layer's fence
    /// will never be recorded; an error of the driver.
    pub fn wait(&self, layer: u64, stream: &Stream) -> Result<(), StreamError> {
        self.wait_unless(layer, stream, None)
    }

    /// Does the same as [`wait`](Self::wait), but the host's wait ends with
    /// [`StreamError::Stopped`] when `stop` is set.
    pub(super) fn wait_unless(
        &self,
        layer: u64,
        stream: &Stream,
        stop: Option<&AtomicBool>,
    ) -> Result<(), StreamError> {
        // Only a loader can be stopped.
        let (thread, name, fence) = match stop {
            None => (host::COMPUTING, "wait for the loader", "wait for weights"),
            Some(_) => (host::WEIGHTS, "wait for a pass", "wait for the last use"),
        };
        let waiting = (layer >= self.recorded()).then(|| self.waiting(thread, name, layer));
        self.wait_enqueued_unless(layer, stop)?;
        drop(waiting);
        let args = Args {
            layer: Some(layer),
            ..Args::default()
        };
        let work = || Work::wait(fence, args);
        let wait = || stream.wait(self.fence(layer));
        let enqueued = timed(self.timeline.as_ref(), stream, work, wait);
        enqueued.map_err(|e| self.job.fail(e.into()))
    }

    /// Sets the flag, and wakes the thread that waits unless it is set, on any fences of the job.
    pub(super) fn stop(&self, stop: &AtomicBool) {
        let held = self.job.lock();
        stop.store(true, Ordering::Release);
        drop(held);
        self.job.wake();
    }

    /// Opens the interval in which a host thread waits until a layer's fence is recorded, in the
    /// trace.
    fn waiting(&self, thread: &'static str, name: &'static str, layer: u64) -> Option<Span> {
        let trace = self.timeline.as_ref()?.trace();
        let mut span = trace.span((thread, 0), name, Category::HostWait);
        span.note(|args| args.layer = Some(layer));
        Some(span)
    }

    /// Says that no more layers will be recorded, and wakes the threads that wait for one.
    pub(super) fn end(&self) {
        let held = self.job.lock();
        self.ended.store(true, Ordering::Release);
        drop(held);
        self.job.wake();
    }
}
