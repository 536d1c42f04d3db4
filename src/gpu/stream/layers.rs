//! Fences in a row that one thread records and another waits for: layers on their way.

use super::error::StreamError;
use super::job::{Job, JobGuard};
use super::manager::StreamSet;
use crate::gpu::driver::{Context, DriverError, Fence, Stream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Fences for a sequence of layers, recorded in order by one thread, for others to put before
/// their work.
///
/// To wait for an event that was never recorded is to wait for nothing, as the driver has it. So
/// whoever wants layer n first waits, as a thread, until the fence of layer n *has been recorded*,
/// and then lets the stream wait for it. Failures anywhere in the job wake it.
///
/// All layers resident: as many fences as layers. A ring of K buffers: layers are counted on and on
/// through the passes, the fences go around, and a second one of these goes the other way, which the
/// compute thread records when it is done with a layer, and the loader waits for before it writes
/// the layer's buffer again. A fence may be recorded again once everybody has waited for it.
#[derive(Debug)]
pub struct LayerFences {
    fences: Vec<Fence>,
    /// Layers whose fence has been recorded. Written under the job's lock.
    recorded: AtomicU64,
    /// No more will be recorded. Written under the job's lock.
    ended: AtomicBool,
    job: Arc<Job>,
}

impl LayerFences {
    /// `count` fences, at least one, called `name` in logs.
    ///
    /// # Errors
    /// [`StreamError::Driver`]
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
        })
    }

    /// The fence of a layer. Fewer than 2^64 fences: the remainder fits.
    fn fence(&self, layer: u64) -> &Fence {
        &self.fences[(layer % self.fences.len() as u64) as usize]
    }

    /// Layers whose fence has been recorded.
    pub fn recorded(&self) -> u64 {
        self.recorded.load(Ordering::Acquire)
    }

    /// Records the next layer's fence on `stream`: the layer is what the stream was given before.
    /// One thread records. The layer's number, from 0.
    ///
    /// # Errors
    /// A failure.
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

    /// Blocks the host until a layer's fence has been recorded; not until it is passed.
    ///
    /// # Errors
    /// The job's failure, as soon as there is one; [`StreamError::NotLoaded`] where the layer will
    /// never be.
    pub fn wait_enqueued(&self, layer: u64) -> Result<(), StreamError> {
        let mut held: JobGuard<'_> = self.job.lock();
        loop {
            if let Some(error) = &*held {
                return Err(error.clone());
            }
            let recorded = self.recorded();
            if layer < recorded {
                return Ok(());
            }
            if self.ended.load(Ordering::Acquire) {
                let loaded = recorded;
                return Err(StreamError::NotLoaded { layer, loaded });
            }
            held = self.job.wait(held);
        }
    }

    /// All that follows on `stream` waits until a layer is there. The host waits only until its
    /// fence has been recorded.
    ///
    /// # Errors
    /// As [`wait_enqueued`](Self::wait_enqueued), or of the driver.
    pub fn wait(&self, layer: u64, stream: &Stream) -> Result<(), StreamError> {
        self.wait_enqueued(layer)?;
        let enqueued = stream.wait(self.fence(layer));
        enqueued.map_err(|e| self.job.fail(e.into()))
    }

    /// No more layers will be recorded: whoever waits for one learns it.
    pub(super) fn end(&self) {
        let held = self.job.lock();
        self.ended.store(true, Ordering::Release);
        drop(held);
        self.job.wake();
    }
}
