//! Weights on their way to the device: mapped file -> pinned ring -> device, chunk by chunk.

use super::copiers::{Conversion, Copiers, Copying};
use super::error::StreamError;
use super::job::Job;
use super::layers::LayerFences;
use super::manager::StreamSet;
use crate::gpu::driver::{Arena, At, DriverError, Fence, PinnedBuffer, Region, Stream};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Chunks start at multiples of this: no element of a format is cut.
const ALIGN: usize = 256;

/// How weights are brought up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadOptions {
    /// Pinned slots, 1 to 16: one is filled while others are copied.
    pub slots: usize,
    /// Bytes of a slot, which is a chunk; rounded up to 256.
    pub slot_bytes: usize,
    /// Threads that bring bytes from the mapping into a slot, 1 to 16: one core does some 10 GB/s, PCIe 5
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
struct UploadSlot {
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
    slots: Vec<UploadSlot>,
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
            Ok(UploadSlot {
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
        self.upload_as(source, Conversion::NONE, to, offset)
    }

    /// As [`upload`](Self::upload), of what `source` becomes by `conversion`, which the threads do
    /// that fill the slots. An incomplete last element is left out.
    ///
    /// # Errors
    /// As [`upload`](Self::upload).
    pub fn upload_as(
        &mut self,
        source: &[u8],
        conversion: Conversion,
        to: &Region,
        offset: usize,
    ) -> Result<(), StreamError> {
        let bytes = conversion.converted(source.len());
        let room = to.bytes().saturating_sub(offset);
        if bytes > room || offset > to.bytes() {
            return Err(StreamError::TooLarge {
                what: "a region of weights",
                bytes,
                room,
            });
        }
        let target = |start: usize, end| to.slice(offset + start..offset + end);
        self.chunks(source, conversion, target, |_| Ok(()))
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
        // The area is one: that the chunk before has been brought away is the stream's order.
        let target = |start, end| area.slice(0..end - start);
        self.chunks(source, Conversion::NONE, target, |chunk| bring(&chunk))
    }

    /// Records the next layer's fence after all that was uploaded so far.
    ///
    /// # Errors
    /// A failure.
    pub fn mark(&mut self, layers: &LayerFences) -> Result<u64, StreamError> {
        check(&self.job, &self.stop)?;
        layers.record(&self.stream)
    }

    /// Brings `source` chunk by chunk into slots, several at once, and from these, in order, to `target` of where a
    /// chunk, converted, starts and ends; then `sent` gets the chunk.
    fn chunks(
        &mut self,
        source: &[u8],
        conversion: Conversion,
        target: impl Fn(usize, usize) -> Region,
        mut sent: impl FnMut(Chunk<'_>) -> Result<(), DriverError>,
    ) -> Result<(), StreamError> {
        let Self {
            slots,
            next,
            copiers,
            stream,
            job,
            stop,
            ..
        } = self;
        let count = slots.len();
        // Of the source, and of a slot.
        let chunk = conversion.filling(slots[0].pinned.len());
        let size = conversion.converted(chunk);
        let (whole, _) = source.split_at(source.len() / conversion.from * conversion.from);
        let fail = |error: DriverError| {
            let at = At {
                device: Some(stream.context().ordinal()),
                operation: Some("loading weights".into()),
                ..At::default()
            };
            job.fail(error.at(&at).into())
        };
        let mut send = |slots: &mut [UploadSlot],
                        Filling {
                            slot,
                            start,
                            copying,
                        }: Filling| {
            let bytes = copying.wait();
            let staged = target(start, start + bytes);
            slots[slot].send(bytes, staged.clone(), stream)?;
            sent(Chunk {
                staged,
                start,
                stream,
            })
        };
        copiers.scope(|copiers| {
            // Slots in the order of their chunks: the first was begun first.
            let mut filling = VecDeque::new();
            for (i, chunk) in whole.chunks(chunk).enumerate() {
                check(job, stop)?;
                if filling.len() == count
                    && let Some(oldest) = filling.pop_front()
                {
                    send(slots, oldest).map_err(fail)?;
                }
                let slot = &slots[*next];
                // Of a slot that was never used this answers at once.
                slot.left.wait().map_err(fail)?;
                // SAFETY: the fence after the last copy out of the slot has been passed; its bytes are touched again
                // only after `send` has waited for the copiers, or, after an error, when the scope has.
                let copying = unsafe { copiers.copy(chunk, conversion, slot.pinned.as_ptr()) };
                filling.push_back(Filling {
                    slot: *next,
                    start: i * size,
                    copying,
                });
                *next = (*next + 1) % count;
            }
            for oldest in filling {
                send(slots, oldest).map_err(fail)?;
            }
            Ok(())
        })
    }
}

/// A chunk that threads are bringing into a slot, and where it starts once converted.
struct Filling {
    slot: usize,
    start: usize,
    copying: Copying,
}

fn check(job: &Job, stop: &AtomicBool) -> Result<(), StreamError> {
    job.check()?;
    if stop.load(Ordering::Acquire) {
        return Err(StreamError::Stopped);
    }
    Ok(())
}

impl UploadSlot {
    /// Its first bytes to the target.
    fn send(&mut self, bytes: usize, target: Region, stream: &Stream) -> Result<(), DriverError> {
        let target = self.target.insert(target);
        // SAFETY: the slot is written again, and the target let go of, after its fence. Until a
        // fence of the stream says that it has arrived, nobody else uses the target: their
        // launches promise that.
        unsafe { stream.load(&self.pinned, 0..bytes, target)? };
        stream.record(&self.left)
    }
}

impl Drop for Uploader {
    fn drop(&mut self) {
        // Nothing may read the slots when they go.
        self.job.drain([&self.stream]);
    }
}
