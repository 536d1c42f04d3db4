//! Weights on their way to the device: mapped file -> pinned ring -> device, chunk by chunk.

use super::error::StreamError;
use super::job::Job;
use super::layers::LayerFences;
use super::manager::StreamSet;
use crate::backend::cuda::driver::{Arena, At, DriverError, Fence, PinnedBuffer, Region, Stream};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Chunks start at multiples of this: no element of a format is cut.
const ALIGN: usize = 256;
/// What a thread copies at a time: some 50 us of work, ten times what it takes to hand it over.
const PART: usize = 256 << 10;

/// How weights are brought up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadOptions {
    /// Pinned slots, 1 to 16: one is filled while others are copied.
    pub slots: usize,
    /// Bytes of a slot, which is a chunk; rounded up to 256.
    pub slot_bytes: usize,
    /// Threads that copy from the mapping into a slot, 1 to 16: one core does some 10 GB/s, PCIe 5
    /// takes 55.
    pub threads: usize,
    /// Whether there is an area on the device for chunks that a kernel brings to their place.
    pub through: bool,
}

impl Default for UploadOptions {
    /// Four slots of 32 MiB, four threads, no area.
    fn default() -> Self {
        Self {
            slots: 4,
            slot_bytes: 32 << 20,
            threads: 4,
            through: false,
        }
    }
}

impl UploadOptions {
    /// What it takes of the device's arena.
    pub fn device_bytes(&self) -> usize {
        if self.through {
            self.slot_bytes.next_multiple_of(ALIGN)
        } else {
            0
        }
    }
}

/// A chunk that has arrived in the area on the device, for a kernel to bring to its place.
#[derive(Debug)]
pub struct Chunk<'a> {
    /// The bytes as they are in the source.
    pub staged: Region,
    /// Where in the source they start: a multiple of 256.
    pub start: usize,
    /// Where the kernel goes. What it was given before has arrived; the next chunk comes after it.
    pub stream: &'a Stream,
}

#[derive(Debug)]
struct Slot {
    pinned: PinnedBuffer,
    /// Passed when the slot's last chunk has left it.
    left: Fence,
    /// Where its last chunk went: alive until the copy has ended.
    target: Option<Region>,
}

/// Brings bytes to the device over a ring of pinned slots, on one load stream. The host waits only
/// for the slot that it is about to write again.
#[derive(Debug)]
pub struct Uploader {
    slots: Vec<Slot>,
    next: usize,
    copiers: Copiers,
    area: Option<Region>,
    stream: Arc<Stream>,
    job: Arc<Job>,
    stop: Arc<AtomicBool>,
}

impl Uploader {
    /// A ring on the set's load stream, which should be another than that of the batches, or these
    /// queue behind the weights.
    ///
    /// # Errors
    /// [`StreamError::Option`], [`StreamError::Driver`]
    pub fn new(
        streams: &StreamSet,
        arena: &mut Arena,
        options: UploadOptions,
    ) -> Result<Self, StreamError> {
        let job = Arc::clone(&streams.job);
        job.check()?;
        let (from, to) = (1, 16);
        for (what, value) in [
            ("slots of an upload", options.slots),
            ("threads of an upload", options.threads),
        ] {
            if !(from..=to).contains(&value) {
                return Err(StreamError::Option {
                    what,
                    value,
                    from,
                    to,
                });
            }
        }
        let stream = Arc::clone(&streams.load);
        let context = stream.context();
        let bytes = options.slot_bytes.max(1).next_multiple_of(ALIGN);
        let slot = |number| {
            Ok(Slot {
                pinned: PinnedBuffer::new(context, bytes)?,
                left: Fence::for_host(context)?.called("chunk", number),
                target: None,
            })
        };
        let slots = (0..options.slots)
            .map(slot)
            .collect::<Result<Vec<_>, DriverError>>()
            .map_err(|e| job.fail(e.into()))?;
        let area = options
            .through
            .then(|| arena.take("weights to be converted", bytes))
            .transpose()
            .map_err(|e| job.fail(e.into()))?;
        let copiers = Copiers::new(options.threads).map_err(|e| job.fail(e))?;
        Ok(Self {
            slots,
            next: 0,
            copiers,
            area,
            stream,
            job,
            stop: Arc::default(),
        })
    }

    /// The stream that all goes on.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Ends the job with an error of whoever uploads. The first failure.
    pub(super) fn end_job(&self, error: StreamError) -> StreamError {
        self.job.fail(error)
    }

    /// What makes `upload` return [`StreamError::Stopped`].
    pub(super) fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// Copies `source` to `to`, from `offset` on. When this returns the copies may still be under
    /// way: whoever uses `to` on another stream waits for a fence that was recorded after them
    /// ([`mark`](Self::mark)). The source may go at once.
    ///
    /// # Errors
    /// [`StreamError::TooLarge`], [`StreamError::Stopped`], or a failure.
    pub fn upload(&mut self, source: &[u8], to: &Region, offset: usize) -> Result<(), StreamError> {
        let room = to.bytes().saturating_sub(offset);
        if source.len() > room || offset > to.bytes() {
            return Err(StreamError::TooLarge {
                what: "a region of weights",
                bytes: source.len(),
                room,
            });
        }
        let mut start = offset;
        for chunk in source.chunks(self.slots[0].pinned.len()) {
            let end = start + chunk.len();
            self.send(chunk, to.slice(start..end))?;
            start = end;
        }
        Ok(())
    }

    /// Copies `source` to the area on the device, chunk by chunk, and has `bring` launch, on the
    /// stream of each chunk, what brings it from there to its place.
    ///
    /// # Errors
    /// [`StreamError::OutOfOrder`] without an area, [`StreamError::Stopped`], or a failure, of
    /// `bring` too.
    pub fn upload_through(
        &mut self,
        source: &[u8],
        mut bring: impl FnMut(&Chunk<'_>) -> Result<(), DriverError>,
    ) -> Result<(), StreamError> {
        let Some(area) = self.area.clone() else {
            return Err(StreamError::OutOfOrder {
                call: "upload_through",
                missing: "an area on the device",
            });
        };
        let mut start = 0;
        for bytes in source.chunks(self.slots[0].pinned.len()) {
            // The area is one: that the chunk before has been brought away is the stream's order.
            let staged = area.slice(0..bytes.len());
            self.send(bytes, staged.clone())?;
            let chunk = Chunk {
                staged,
                start,
                stream: &self.stream,
            };
            bring(&chunk).map_err(|e| self.fail(e))?;
            start += bytes.len();
        }
        Ok(())
    }

    /// Records the next layer's fence after all that was uploaded so far.
    ///
    /// # Errors
    /// A failure.
    pub fn mark(&mut self, layers: &LayerFences) -> Result<u64, StreamError> {
        self.check()?;
        layers.record(&self.stream)
    }

    /// One chunk, no longer than a slot.
    fn send(&mut self, chunk: &[u8], target: Region) -> Result<(), StreamError> {
        self.check()?;
        let slot = &mut self.slots[self.next];
        let sent = slot.send(chunk, target, &self.stream, &self.copiers);
        self.next = (self.next + 1) % self.slots.len();
        sent.map_err(|e| self.fail(e))
    }

    fn check(&self) -> Result<(), StreamError> {
        self.job.check()?;
        if self.stop.load(Ordering::Acquire) {
            return Err(StreamError::Stopped);
        }
        Ok(())
    }

    fn fail(&self, error: DriverError) -> StreamError {
        let at = At {
            device: Some(self.stream.context().ordinal()),
            operation: Some("loading weights".into()),
            ..At::default()
        };
        self.end_job(error.at(&at).into())
    }
}

impl Slot {
    fn send(
        &mut self,
        chunk: &[u8],
        target: Region,
        stream: &Stream,
        copiers: &Copiers,
    ) -> Result<(), DriverError> {
        // Of a slot that was never used this answers at once.
        self.left.wait()?;
        // SAFETY: the fence after the last copy out of it has been passed.
        copiers.copy(chunk, unsafe { self.pinned.bytes_mut() });
        let target = self.target.insert(target);
        // SAFETY: the slot is written again, and the target let go of, after its fence. Until a
        // fence of the stream says that it has arrived, nobody else uses the target: their
        // launches promise that.
        unsafe { stream.load(&self.pinned, 0..chunk.len(), target)? };
        stream.record(&self.left)
    }
}

/// Threads that copy together. They stay: to start them for each chunk would take as long as the chunk.
#[derive(Debug)]
struct Copiers(Option<ThreadPool>);

impl Copiers {
    fn new(threads: usize) -> Result<Self, StreamError> {
        if threads < 2 {
            return Ok(Self(None)); // the caller's
        }
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("weights {i}"))
            .build();
        let pool = pool.map_err(|e| StreamError::Thread(e.to_string()))?;
        Ok(Self(Some(pool)))
    }

    /// Copies `from` to the start of `to`, which is no shorter.
    fn copy(&self, from: &[u8], to: &mut [u8]) {
        let to = &mut to[..from.len()];
        match &self.0 {
            Some(pool) if from.len() > PART => pool.install(|| {
                let parts = to.par_chunks_mut(PART).zip(from.par_chunks(PART));
                parts.for_each(|(to, from)| to.copy_from_slice(from));
            }),
            _ => to.copy_from_slice(from),
        }
    }
}

impl Drop for Uploader {
    fn drop(&mut self) {
        // Nothing may read the slots when they go.
        self.job.drain([&self.stream]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_threads_copies_all_and_no_more() {
        for length in [0, 1, PART - 1, PART, 5 * PART + 3] {
            let from: Vec<u8> = (0..length).map(|i| ((i * 7) >> 3) as u8).collect();
            for threads in [1, 2, 4] {
                let mut to = vec![0xee; length + 5];
                Copiers::new(threads).unwrap().copy(&from, &mut to);
                assert!(
                    to[..length] == from[..],
                    "{length} bytes, {threads} threads"
                );
                assert_eq!(to[length..], [0xee; 5]);
            }
        }
    }
}
