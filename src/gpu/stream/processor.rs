//! One device's ring of slots: batches that are loaded, computed and stored beside each other.
//!
//! ```text
//!            load stream              compute stream          store stream        host
//! stage                                                                           writes staging
//! async_load staging -> input
//!            record loaded   ------>  wait loaded
//! (kernels)                           input -> output
//! finish                              record computed ----->  wait computed
//!                                                             output -> results
//!                                                             record stored --->
//! collect                                                                         waits for stored
//! ```
//!
//! **Why a slot that is used again is never overtaken.** A slot is staged again only after its
//! batch was collected. The host has then waited for `stored`, which the store stream passes after
//! its copy out of `output` and after `computed`; and `computed` is passed after all kernels that
//! read `input`, which waited for `loaded`, after which nothing reads the staging. So each of the
//! four memories of a slot is idle when the host writes its staging, by that one wait of the host,
//! and no event between `computed` and the next load is needed. (`tests/streams/overlap.rs` runs a
//! ring around many times; without the host's wait its results are wrong.)

use super::error::StreamError;
use super::job::Job;
use super::manager::StreamSet;
use super::timeline::{Timeline, Work, timed};
use crate::gpu::driver::{Arena, At, DriverError, Fence, PinnedBuffer, Region, Stream, StreamName};
use crate::trace::Args;
use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::Arc;

/// The sizes of a ring of slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessorOptions {
    /// The number of slots, 1 to 16. Two slots let the host prepare a batch while the device
    /// computes another. More than four slots only take memory.
    pub slots: usize,
    /// The largest size of a batch's inputs in bytes.
    pub input_bytes: usize,
    /// The largest size of a batch's results in bytes.
    pub output_bytes: usize,
}

impl ProcessorOptions {
    /// Returns the bytes that the ring takes from the device's arena.
    pub fn device_bytes(&self) -> usize {
        self.slots * (Arena::footprint(self.input_bytes) + Arena::footprint(self.output_bytes))
    }
}

/// Identifies a batch that was finished and can be collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// The number that the batch was staged with.
    pub batch: u64,
}

#[derive(Debug)]
struct Slot {
    staging: PinnedBuffer,
    input: Region,
    output: Region,
    results: PinnedBuffer,
    loaded: Fence,
    computed: Fence,
    stored: Fence,
}

/// The batch that is being assembled.
#[derive(Debug)]
struct OpenBatch {
    slot: usize,
    batch: u64,
    /// The number of staged bytes that are already being copied: the first bytes of the staging.
    loaded: usize,
}

/// A batch whose work has all been enqueued.
#[derive(Debug)]
struct InFlight {
    slot: usize,
    batch: u64,
    /// The size of the results in bytes.
    bytes: usize,
    /// Whether the host has waited for the fence `stored`.
    stored: bool,
}

/// A device's ring of slots. All its memory is allocated when it is created.
///
/// A batch goes through [`stage`](Self::stage), [`async_load`](Self::async_load), kernels on
/// [`compute`](Self::compute), [`finish`](Self::finish), and later [`collect`](Self::collect).
/// Batches are collected in the order of staging. Only `collect` waits for the device.
///
/// The first error, here or elsewhere in the job, ends the work: its diagnosis is reported, all
/// streams of the job are drained, and every later call returns that error. Results that were
/// collected before stay valid. The memory is freed when the ring is dropped, after its streams are
/// drained.
#[derive(Debug)]
pub struct StreamProcessor {
    slots: Vec<Slot>,
    open: Option<OpenBatch>,
    in_flight: VecDeque<InFlight>,
    /// The slot that is staged next.
    next: usize,
    load: Arc<Stream>,
    compute: Arc<Stream>,
    store: Arc<Stream>,
    job: Arc<Job>,
    timeline: Option<Arc<Timeline>>,
}

impl StreamProcessor {
    /// Allocates the memory of all slots, on the device from `arena`.
    ///
    /// # Errors
    /// [`StreamError::Option`] for no slot or more than 16 slots; [`StreamError::Driver`], with
    /// code 2 if too little of the arena is free; or the job's failure.
    pub fn new(
        streams: &StreamSet,
        arena: &mut Arena,
        options: ProcessorOptions,
    ) -> Result<Self, StreamError> {
        let job = Arc::clone(&streams.job);
        job.check()?;
        let (from, to) = (1, 16);
        if !(from..=to).contains(&options.slots) {
            return Err(StreamError::Option {
                what: "slots of a ring",
                value: options.slots,
                from,
                to,
            });
        }
        let compute = Arc::clone(&streams.compute);
        let slots = (0..options.slots)
            .map(|number| Slot::new(&compute, arena, &options, number))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| job.fail(e.into()))?;
        Ok(Self {
            slots,
            open: None,
            in_flight: VecDeque::with_capacity(options.slots),
            next: 0,
            load: Arc::clone(&streams.load),
            store: Arc::clone(&streams.store),
            compute,
            job,
            timeline: streams.timeline.clone(),
        })
    }

    /// Returns how many batches can be staged before one has to be collected.
    pub fn free_slots(&self) -> usize {
        self.slots.len() - self.in_flight.len() - usize::from(self.open.is_some())
    }

    /// Opens the next slot for a batch and lends its whole staging memory for the host to write.
    /// The memory's content is arbitrary. `batch` is the batch's number in the job, for errors and
    /// the log.
    ///
    /// # Errors
    /// [`StreamError::Full`] if every slot is in flight, [`StreamError::OutOfOrder`] if the
    /// previous batch was not finished, or the job's failure.
    pub fn stage(&mut self, batch: u64) -> Result<&mut [u8], StreamError> {
        self.check()?;
        if self.open.is_some() {
            return Err(StreamError::OutOfOrder {
                call: "stage",
                missing: "having finished the batch before",
            });
        }
        if self.free_slots() == 0 {
            let slots = self.slots.len();
            return Err(StreamError::Full { slots });
        }
        let slot = self.next;
        self.next = (self.next + 1) % self.slots.len();
        self.open = Some(OpenBatch {
            slot,
            batch,
            loaded: 0,
        });
        self.staging()
    }

    /// Lends the part of the open batch's staging memory that is not being copied yet.
    ///
    /// # Errors
    /// [`StreamError::OutOfOrder`] if no batch is open, or the job's failure.
    pub fn staging(&mut self) -> Result<&mut [u8], StreamError> {
        self.check()?;
        let Some(open) = &self.open else {
            return Err(not_staged("staging"));
        };
        // SAFETY: no copy out of this part is in progress. The copies of the slot's previous batch
        // have ended, as the head of this file shows, and this batch's copies only read the bytes
        // before this part.
        let all = unsafe { self.slots[open.slot].staging.bytes_mut() };
        Ok(&mut all[open.loaded..])
    }

    /// Enqueues a copy of the next `bytes` bytes of the staging memory to the same offset of
    /// [`input`](Self::input). Kernels that follow on [`compute`](Self::compute) see the bytes. The
    /// first call copies the first bytes.
    ///
    /// # Errors
    /// [`StreamError::TooLarge`], [`StreamError::OutOfOrder`] if no batch is open, or a failure.
    pub fn async_load(&mut self, bytes: usize) -> Result<(), StreamError> {
        self.check()?;
        let Some(open) = &mut self.open else {
            return Err(not_staged("async_load"));
        };
        let slot = &self.slots[open.slot];
        let capacity = slot.input.bytes() - open.loaded;
        if bytes > capacity {
            return Err(StreamError::TooLarge {
                what: "the inputs of a batch",
                bytes,
                capacity,
            });
        }
        let range = open.loaded..open.loaded + bytes;
        open.loaded = range.end;
        self.load.set_batch(Some(open.batch));
        self.compute.set_batch(Some(open.batch));
        let to = slot.input.slice(range.clone());
        let args = of_pass(open.batch);
        let timeline = self.timeline.as_ref();
        let load = || {
            // SAFETY: until the batch is collected, after `stored`, `staging` hands out only the
            // bytes that follow this range. On the device the range is touched by this copy, and
            // then by kernels behind `loaded`, whose launches promise that. Both memories live
            // until the streams are drained.
            unsafe { self.load.load(&slot.staging, range, &to) }
        };
        let enqueue = || {
            let work = || Work::load(bytes, args.pass);
            timed(timeline, &self.load, work, load)?;
            self.load.record(&slot.loaded)?;
            let work = || Work::wait("wait for the input", args);
            timed(timeline, &self.compute, work, || {
                self.compute.wait(&slot.loaded)
            })
        };
        enqueue().map_err(|e| self.fail(e))
    }

    /// Returns the open batch's inputs on the device, [`ProcessorOptions::input_bytes`] long.
    ///
    /// # Errors
    /// [`StreamError::OutOfOrder`] if no batch is open.
    pub fn input(&self) -> Result<&Region, StreamError> {
        Ok(&self.open_slot("input")?.input)
    }

    /// Returns the region for the open batch's results on the device,
    /// [`ProcessorOptions::output_bytes`] long.
    ///
    /// # Errors
    /// [`StreamError::OutOfOrder`] if no batch is open.
    pub fn output(&self) -> Result<&Region, StreamError> {
        Ok(&self.open_slot("output")?.output)
    }

    fn open_slot(&self, call: &'static str) -> Result<&Slot, StreamError> {
        let open = self.open.as_ref().ok_or(not_staged(call))?;
        Ok(&self.slots[open.slot])
    }

    /// Returns the stream that kernels run on. They may touch a slot's regions while its batch is
    /// open.
    pub fn compute(&self) -> &Stream {
        &self.compute
    }

    /// Returns what times the device's work, if there is a trace.
    pub fn timeline(&self) -> Option<&Arc<Timeline>> {
        self.timeline.as_ref()
    }

    /// Returns the compute stream, to keep.
    pub fn compute_stream(&self) -> &Arc<Stream> {
        &self.compute
    }

    /// Ends the open batch, and enqueues the copy of its results to the host. The results are the
    /// first `bytes` bytes of [`output`](Self::output).
    ///
    /// # Errors
    /// [`StreamError::TooLarge`], [`StreamError::OutOfOrder`] if no batch is open, or a failure.
    pub fn finish(&mut self, bytes: usize) -> Result<Ticket, StreamError> {
        self.check()?;
        let Some(open) = &self.open else {
            return Err(not_staged("finish"));
        };
        let slot = &self.slots[open.slot];
        let capacity = slot.output.bytes();
        if bytes > capacity {
            return Err(StreamError::TooLarge {
                what: "the results of a batch",
                bytes,
                capacity,
            });
        }
        self.store.set_batch(Some(open.batch));
        let args = of_pass(open.batch);
        let timeline = self.timeline.as_ref();
        let store = || {
            // SAFETY: nothing reads the results or writes the output until `stored` is passed: the
            // host waits for it in `collect`, and the slot is not staged before that. Both memories
            // live until the streams are drained.
            unsafe { self.store.store(&slot.output, &slot.results, 0..bytes) }
        };
        let enqueue = || {
            self.compute.record(&slot.computed)?;
            let work = || Work::wait("wait for the results", args);
            timed(timeline, &self.store, work, || {
                self.store.wait(&slot.computed)
            })?;
            let work = || Work::store(bytes, args.pass);
            timed(timeline, &self.store, work, store)?;
            self.store.record(&slot.stored)
        };
        enqueue().map_err(|e| self.fail(e))?;
        // `open` was checked above. It is taken only here, so that an error finds it.
        let Some(OpenBatch { slot, batch, .. }) = self.open.take() else {
            return Err(not_staged("finish"));
        };
        self.in_flight.push_back(InFlight {
            slot,
            batch,
            bytes,
            stored: false,
        });
        Ok(Ticket { batch })
    }

    /// Waits for the oldest finished batch. This is the only wait of the host for a batch. After
    /// it, further calls return at once until [`release`](Self::release) is called.
    ///
    /// # Errors
    /// [`StreamError::OutOfOrder`] if no batch is in flight, or a failure.
    pub fn wait(&mut self) -> Result<Ticket, StreamError> {
        self.check()?;
        let Some(oldest) = self.in_flight.front() else {
            return Err(StreamError::OutOfOrder {
                call: "collect",
                missing: "a batch in flight",
            });
        };
        let batch = oldest.batch;
        if !oldest.stored {
            let fence = &self.slots[oldest.slot].stored;
            self.note(batch, || format!("wait for {fence}"));
            let began = Timeline::now(self.timeline.as_ref());
            fence.wait().map_err(|e| {
                let at = At {
                    stream: Some((StreamName::Store, self.store.number())),
                    batch: Some(batch),
                    ..At::default()
                };
                self.fail(e.at(&at))
            })?;
            Timeline::waited(self.timeline.as_ref(), began, of_pass(batch));
        }
        if let Some(oldest) = self.in_flight.front_mut() {
            oldest.stored = true;
        }
        Ok(Ticket { batch })
    }

    /// Returns the results of the oldest batch, once the host has waited for it. They stay valid
    /// until the batch is released, whatever fails meanwhile.
    ///
    /// # Errors
    /// [`StreamError::OutOfOrder`] if the host has not waited.
    pub fn results(&self) -> Result<&[u8], StreamError> {
        match self.in_flight.front() {
            Some(oldest) if oldest.stored => {
                // SAFETY: the fence after the copy into the buffer has been passed. The next copy
                // comes after `release`, which cannot be called while the results are borrowed.
                let all = unsafe { self.slots[oldest.slot].results.bytes() };
                Ok(&all[..oldest.bytes])
            }
            _ => Err(StreamError::OutOfOrder {
                call: "results",
                missing: "having waited for the batch",
            }),
        }
    }

    /// Frees the slot of the oldest batch, if the host has waited for it.
    pub fn release(&mut self) {
        if self.in_flight.front().is_some_and(|oldest| oldest.stored) {
            self.in_flight.pop_front();
        }
    }

    /// Waits for the oldest finished batch and lends its results. Its slot is freed when the
    /// results are dropped.
    ///
    /// # Errors
    /// As for [`wait`](Self::wait).
    pub fn collect(&mut self) -> Result<Collected<'_>, StreamError> {
        let ticket = self.wait()?;
        Ok(Collected {
            ticket,
            processor: self,
        })
    }

    /// Gives up all batches that were not collected: waits until the device is done with them, and
    /// frees their slots. This serves a job that ends for reasons of its own.
    ///
    /// # Errors
    /// The job's failure.
    pub fn abandon(&mut self) -> Result<(), StreamError> {
        self.check()?;
        self.drain();
        self.open = None;
        self.in_flight.clear();
        self.next = 0;
        self.check()
    }

    /// Ends the job with an error of work on the compute stream, such as a launch or a GEMM:
    /// reports the diagnosis and drains all streams. Returns the job's first failure, which may be
    /// an earlier one.
    pub fn fail(&mut self, error: DriverError) -> StreamError {
        let at = At {
            device: Some(self.compute.context().ordinal()),
            batch: self.open.as_ref().map(|open| open.batch),
            ..At::default()
        };
        self.end_job(error.at(&at).into())
    }

    /// Ends the job as [`fail`](Self::fail) does, with an error that is not one of a driver call.
    pub fn end_job(&mut self, error: StreamError) -> StreamError {
        let first = self.job.fail(error);
        self.end();
        first
    }

    /// Returns the job's failure, if there is one.
    fn check(&mut self) -> Result<(), StreamError> {
        let checked = self.job.check();
        if checked.is_err() {
            self.end();
        }
        checked
    }

    /// Ends the batches of this ring, except those that the host has waited for.
    fn end(&mut self) {
        self.open = None;
        self.in_flight.retain(|batch| batch.stored);
    }

    fn drain(&self) {
        self.job.drain([&self.load, &self.compute, &self.store]);
    }

    /// Adds an entry of the host to the log.
    fn note(&self, batch: u64, what: impl FnOnce() -> String) {
        if let Some(log) = &self.job.log {
            let device = self.compute.context().ordinal();
            log.add(device, None, Some(batch), what());
        }
    }
}

impl Slot {
    fn new(
        compute: &Stream,
        arena: &mut Arena,
        options: &ProcessorOptions,
        number: usize,
    ) -> Result<Self, DriverError> {
        let context = compute.context();
        Ok(Self {
            staging: PinnedBuffer::new(context, options.input_bytes)?,
            input: arena.take("a batch's inputs", options.input_bytes)?,
            output: arena.take("a batch's results", options.output_bytes)?,
            results: PinnedBuffer::new(context, options.output_bytes)?,
            loaded: Fence::new(context)?.called("loaded", number),
            computed: Fence::new(context)?.called("computed", number),
            stored: Fence::for_host(context)?.called("stored", number),
        })
    }
}

/// Returns the arguments of an interval that belongs to a batch.
fn of_pass(batch: u64) -> Args {
    Args {
        pass: Some(batch),
        ..Args::default()
    }
}

fn not_staged(call: &'static str) -> StreamError {
    StreamError::OutOfOrder {
        call,
        missing: "a staged batch",
    }
}

impl Drop for StreamProcessor {
    fn drop(&mut self) {
        // Nothing may touch the slots when they are freed: neither batches that were not collected,
        // nor kernels that came after them, nor work that was enqueued while another thread failed.
        self.drain();
    }
}

/// The borrowed results of a batch. Its slot is freed when this is dropped.
#[derive(Debug)]
pub struct Collected<'a> {
    ticket: Ticket,
    processor: &'a mut StreamProcessor,
}

impl Collected<'_> {
    /// Returns which batch the results belong to.
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }
}

impl Deref for Collected<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // The host has waited, so `results` succeeds.
        self.processor.results().unwrap_or_default()
    }
}

impl Drop for Collected<'_> {
    fn drop(&mut self) {
        self.processor.release();
    }
}
