//! Copies weights to the device: from the mapped file to a pinned ring to the device, in chunks.

use super::copiers::{Conversion, Copiers, Copying};
use super::error::StreamError;
use super::job::Job;
use super::layers::LayerFences;
use super::manager::StreamSet;
use super::timeline::{Timeline, Work, timed};
use crate::gpu::driver::{Arena, At, DriverError, Fence, PinnedBuffer, Region, Stream};
use crate::trace::Args;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Chunks start at multiples of this many bytes, so that no element of any format is cut.
const ALIGN: usize = 256;

/// How weights get to the device. Anything but the default is for studies: it is slower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Loading {
    /// Whether bytes that need no conversion are copied out of the mapped file by the driver, and not
    /// through pinned slots.
    pub pageable: bool,
    /// The most bytes per second that are sent, as on a slower bus; `None` for as many as the bus
    /// takes.
    pub bytes_per_second: Option<u64>,
}

/// The sizes of an upload ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadOptions {
    /// The number of pinned slots, 1 to 16. One slot is filled while others are copied.
    pub slots: usize,
    /// The size of a slot and thus of a chunk in bytes, rounded up to a multiple of 256.
    pub slot_bytes: usize,
    /// The number of threads that copy from the mapping into a slot, 1 to 16. One core copies some
    /// 10 GB/s, and PCIe 5 takes 55 GB/s.
    pub threads: usize,
    /// Whether there is a bounce buffer on the device, from which a kernel writes each chunk to its
    /// final place.
    pub through: bool,
    /// How the bytes get to the device.
    pub loading: Loading,
}

impl Default for UploadOptions {
    /// Four slots of 32 MiB, four threads, and no bounce buffer on the device.
    fn default() -> Self {
        Self {
            slots: 4,
            slot_bytes: 32 << 20,
            threads: 4,
            through: false,
            loading: Loading::default(),
        }
    }
}

impl UploadOptions {
    /// Returns the bytes that the upload takes from the device's arena.
    pub fn device_bytes(&self) -> usize {
        if self.through {
            self.slot_bytes.next_multiple_of(ALIGN)
        } else {
            0
        }
    }
}

/// A chunk that has arrived in the bounce buffer on the device, for a kernel to write to its final
/// place.
#[derive(Debug)]
pub struct Chunk<'a> {
    /// The bytes as they are in the source.
    pub staged: Region,
    /// The offset of the chunk in the source, a multiple of 256.
    pub start: usize,
    /// The stream to launch the kernel on. Earlier work on it has brought the chunk, and the next
    /// chunk comes after the kernel.
    pub stream: &'a Stream,
}

#[derive(Debug)]
struct UploadSlot {
    pinned: PinnedBuffer,
    /// The fence that is passed when the slot's last chunk has been copied out of it.
    left: Fence,
    /// The region that the slot's last chunk went to, kept alive until the copy has ended.
    target: Option<Region>,
}

/// Copies bytes to the device through a ring of pinned slots, on one load stream. The host waits
/// only for the slot that it is about to write again.
#[derive(Debug)]
pub struct Uploader {
    slots: Vec<UploadSlot>,
    next: usize,
    copiers: Copiers,
    area: Option<Region>,
    stream: Arc<Stream>,
    job: Arc<Job>,
    stop: Arc<AtomicBool>,
    timeline: Option<Arc<Timeline>>,
    pageable: bool,
    pace: Pace,
}

/// Sends no more bytes per second than it was told to.
#[derive(Debug)]
struct Pace {
    bytes_per_second: Option<u64>,
    /// When the next bytes may be sent.
    next: Instant,
}

impl Pace {
    /// Waits until bytes may be sent, and counts these.
    fn wait(&mut self, bytes: usize) {
        let Some(rate) = self.bytes_per_second else {
            return;
        };
        let now = Instant::now();
        if let Some(early) = self.next.checked_duration_since(now) {
            thread::sleep(early);
        }
        self.next = self.next.max(now) + Duration::from_secs_f64(bytes as f64 / rate as f64);
    }
}

impl Uploader {
    /// Creates a ring on the load stream of the set. Batches should use another load stream, since
    /// they would otherwise queue behind the weights.
    ///
    /// # Errors
    /// [`StreamError::Option`] for a number out of range, [`StreamError::Thread`] if a thread
    /// cannot be started, [`StreamError::Driver`] if memory cannot be allocated, or the job's
    /// failure.
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
        let timeline = streams.timeline.clone();
        let trace = timeline.as_ref().map(|t| t.trace().clone());
        let copiers = Copiers::new(options.threads).map_err(|e| job.fail(e))?;
        let copiers = copiers.traced(trace.unwrap_or_default(), stream.context().ordinal());
        Ok(Self {
            slots,
            next: 0,
            copiers,
            area,
            stream,
            job,
            stop: Arc::default(),
            timeline,
            pageable: options.loading.pageable,
            pace: Pace {
                bytes_per_second: options.loading.bytes_per_second.filter(|rate| *rate > 0),
                next: Instant::now(),
            },
        })
    }

    /// Ends the job with an error of the code that uploads. Returns the job's first failure.
    pub(super) fn end_job(&self, error: StreamError) -> StreamError {
        self.job.fail(error)
    }

    /// Returns the flag that makes uploads end with [`StreamError::Stopped`].
    pub(super) fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// Copies `source` into `to`, from byte `offset` on. The copies may still be in progress when
    /// this returns: work on `to` in another stream must wait for a fence that was recorded after
    /// them ([`mark`](Self::mark)). The source may be freed at once.
    ///
    /// # Errors
    /// [`StreamError::TooLarge`] if `to` is too small, [`StreamError::Stopped`], or a failure.
    pub fn upload(&mut self, source: &[u8], to: &Region, offset: usize) -> Result<(), StreamError> {
        self.upload_as(source, Conversion::NONE, to, offset)
    }

    /// Copies as [`upload`](Self::upload) does, and converts each element of `source` by
    /// `conversion`. The threads that fill the slots do the conversion. An incomplete last element
    /// is dropped.
    ///
    /// # Errors
    /// As for [`upload`](Self::upload).
    pub fn upload_as(
        &mut self,
        source: &[u8],
        conversion: Conversion,
        to: &Region,
        offset: usize,
    ) -> Result<(), StreamError> {
        let source = Source {
            bytes: source,
            conversion,
            offset,
        };
        self.upload_all(&[source], to)
    }

    /// Copies as [`upload_as`](Self::upload_as) does, one source after the other. Sources whose
    /// values lie close together in `to` share chunks, with the few bytes between them, and the
    /// threads go on to the next source while the last one is still being copied. So a layer of many
    /// small and large tensors takes hardly longer than one tensor of its size.
    ///
    /// # Errors
    /// As for [`upload`](Self::upload).
    pub fn upload_all(&mut self, sources: &[Source<'_>], to: &Region) -> Result<(), StreamError> {
        for source in sources {
            let bytes = source.conversion.converted(source.bytes.len());
            let capacity = to.bytes().saturating_sub(source.offset);
            if bytes > capacity || source.offset > to.bytes() {
                return Err(StreamError::TooLarge {
                    what: "a region of weights",
                    bytes,
                    capacity,
                });
            }
        }
        // Only the conversions of the host need a slot.
        if self.pageable && sources.iter().all(|s| s.conversion.is_none()) {
            return sources.iter().try_for_each(|s| self.pageable(s, to));
        }
        self.chunks(sources, |range| to.slice(range), |_| Ok(()))
    }

    /// Copies a source out of pageable memory, in chunks as large as a slot.
    fn pageable(&mut self, source: &Source<'_>, to: &Region) -> Result<(), StreamError> {
        let chunk = self.slots[0].pinned.len();
        for (bytes, number) in source.bytes.chunks(chunk).zip(0..) {
            check(&self.job, &self.stop)?;
            self.pace.wait(bytes.len());
            let at = source.offset + number * chunk;
            let target = to.slice(at..at + bytes.len());
            let work = || Work::load_pageable(bytes.len());
            // SAFETY: the target belongs to the arena, which outlives the job. Nobody else uses it
            // until a fence of the stream says that the chunk has arrived, since launches of kernels
            // promise that.
            let enqueue = || unsafe { self.stream.load_pageable(bytes, &target) };
            timed(self.timeline.as_ref(), &self.stream, work, enqueue)
                .map_err(|error| loading(&self.job, &self.stream, error))?;
        }
        Ok(())
    }

    /// Copies `source` to the bounce buffer on the device, chunk by chunk. `bring` is called for
    /// each chunk, and launches on the chunk's stream the kernel that writes it to its final place.
    ///
    /// # Errors
    /// [`StreamError::OutOfOrder`] without a bounce buffer, [`StreamError::Stopped`], or a failure,
    /// which may be one of `bring`.
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
        // There is only one bounce buffer. The stream's order ensures that the kernel has read a
        // chunk before the next chunk arrives.
        let target = |range: Range<usize>| area.slice(0..range.len());
        let source = Source {
            bytes: source,
            conversion: Conversion::NONE,
            offset: 0,
        };
        let timeline = self.timeline.clone();
        self.chunks(&[source], target, |chunk| {
            let bytes = Some(chunk.staged.bytes() as u64);
            let args = Args {
                bytes,
                ..Args::default()
            };
            let work = || Work::kernel("convert weights", args);
            timed(timeline.as_ref(), chunk.stream, work, || bring(&chunk))
        })
    }

    /// Records the next layer's fence after all uploads made so far. Returns the layer's number.
    ///
    /// # Errors
    /// The job's failure, or [`StreamError::Stopped`].
    pub fn mark(&mut self, layers: &LayerFences) -> Result<u64, StreamError> {
        check(&self.job, &self.stop)?;
        layers.record(&self.stream)
    }

    /// Makes all later copies wait for a fence: those of a loader that writes a buffer again wait
    /// for the fence after the last use of the buffer. The host only waits until the fence has been
    /// recorded.
    ///
    /// # Errors
    /// As for [`LayerFences::wait`], or [`StreamError::Stopped`].
    pub fn wait_for(&mut self, fences: &LayerFences, layer: u64) -> Result<(), StreamError> {
        fences.wait_unless(layer, &self.stream, Some(&self.stop))
    }

    /// Fills slots with chunks of the sources, several at once, and copies each chunk, in order, to
    /// `target`, which is asked for the chunk's range of bytes, as the offsets of the sources count
    /// them. Then it calls `sent` with the chunk.
    fn chunks(
        &mut self,
        sources: &[Source<'_>],
        target: impl Fn(Range<usize>) -> Region,
        mut sent: impl FnMut(Chunk<'_>) -> Result<(), DriverError>,
    ) -> Result<(), StreamError> {
        let Self {
            slots,
            next,
            copiers,
            stream,
            job,
            stop,
            timeline,
            pace,
            ..
        } = self;
        let count = slots.len();
        let slot_bytes = slots[0].pinned.len();
        let fail = |error: DriverError| loading(job, stream, error);
        let mut send = |slots: &mut [UploadSlot], filled: Filling| {
            filled.copying.into_iter().for_each(Copying::wait);
            let (slot, bytes) = (filled.slot, filled.range.len());
            pace.wait(bytes);
            let staged = target(filled.range.clone());
            let work = || Work::load(bytes, None);
            let target = staged.clone();
            let enqueue = || slots[slot].send(bytes, target, stream);
            timed(timeline.as_ref(), stream, work, enqueue)?;
            stream.record(&slots[slot].left)?;
            sent(Chunk {
                staged,
                start: filled.range.start,
                stream,
            })
        };
        copiers.scope(|copiers| {
            // The chunks that are being filled, in order: the first was begun first, and the last
            // may take more.
            let mut filling: VecDeque<Filling> = VecDeque::new();
            for source in sources {
                let (conversion, mut at) = (source.conversion, source.offset);
                let whole = source.bytes.len() / conversion.from * conversion.from;
                let mut rest = &source.bytes[..whole];
                while !rest.is_empty() {
                    let open = filling.back().and_then(|last| last.place(at));
                    let free = slot_bytes.saturating_sub(open.unwrap_or(0));
                    let mut part = conversion.filling(free).min(rest.len());
                    if open.is_none() || part == 0 {
                        check(job, stop)?;
                        while filling.len() == count
                            || filling.front().is_some_and(Filling::is_filled)
                        {
                            let Some(oldest) = filling.pop_front() else {
                                break;
                            };
                            send(slots, oldest).map_err(fail)?;
                        }
                        // For a slot that was never used this returns at once.
                        let began = Timeline::now(timeline.as_ref());
                        slots[*next].left.wait().map_err(fail)?;
                        Timeline::waited(timeline.as_ref(), began, Args::default());
                        part = conversion.filling(slot_bytes).min(rest.len());
                        filling.push_back(Filling::new(*next, at));
                        *next = (*next + 1) % count;
                    }
                    let Some(chunk) = filling.back_mut() else {
                        break; // not reached: a chunk was just begun, or is open
                    };
                    let (now, later) = rest.split_at(part);
                    let place = at - chunk.range.start;
                    // SAFETY: the converted part fits behind the place, and no other part of the
                    // chunk goes there.
                    let to = unsafe { slots[chunk.slot].pinned.as_ptr().add(place) };
                    // SAFETY: the fence after the last copy out of the slot has been passed. The
                    // slot's bytes are touched again only after `send` has waited for the copiers
                    // or, after an error, when the scope has waited.
                    chunk
                        .copying
                        .push(unsafe { copiers.copy(now, conversion, to, chunk.slot) });
                    at += conversion.converted(part);
                    chunk.range.end = at;
                    rest = later;
                }
            }
            for oldest in filling {
                send(slots, oldest).map_err(fail)?;
            }
            Ok(())
        })
    }
}

/// Bytes that are uploaded to a place in a region.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The bytes, as they are stored. An incomplete last element is dropped.
    pub bytes: &'a [u8],
    /// How the elements are converted.
    pub conversion: Conversion,
    /// The offset in the region at which the converted elements begin.
    pub offset: usize,
}

/// A chunk that threads are copying into a slot.
struct Filling {
    slot: usize,
    /// The range of the target's bytes that the chunk holds.
    range: Range<usize>,
    copying: Vec<Copying>,
}

impl Filling {
    /// Begins a chunk at an offset in the target.
    fn new(slot: usize, start: usize) -> Self {
        Self {
            slot,
            range: start..start,
            copying: Vec::new(),
        }
    }

    /// Returns the place in the slot of the target's byte `at`, if it follows the bytes that the
    /// chunk holds, after a gap that is smaller than the alignment of parameters.
    fn place(&self, at: usize) -> Option<usize> {
        let follows = self.range.end..self.range.end + ALIGN;
        follows.contains(&at).then(|| at - self.range.start)
    }

    /// Returns whether all that was begun has been copied into the slot.
    fn is_filled(&self) -> bool {
        self.copying.iter().all(Copying::is_done)
    }
}

/// Ends the job with a failure of loading.
fn loading(job: &Job, stream: &Stream, error: DriverError) -> StreamError {
    let at = At {
        device: Some(stream.context().ordinal()),
        operation: Some("loading weights".into()),
        ..At::default()
    };
    job.fail(error.at(&at).into())
}

fn check(job: &Job, stop: &AtomicBool) -> Result<(), StreamError> {
    job.check()?;
    if stop.load(Ordering::Acquire) {
        return Err(StreamError::Stopped);
    }
    Ok(())
}

impl UploadSlot {
    /// Enqueues the copy of the slot's first `bytes` bytes to `target`. The caller records the fence
    /// `left` after it.
    fn send(&mut self, bytes: usize, target: Region, stream: &Stream) -> Result<(), DriverError> {
        let target = self.target.insert(target);
        // SAFETY: the slot is written again, and the target released, only after the fence `left`.
        // Nobody else uses the target until a fence of the stream says that the chunk has arrived,
        // since launches of kernels promise that.
        unsafe { stream.load(&self.pinned, 0..bytes, target) }
    }
}

impl Drop for Uploader {
    fn drop(&mut self) {
        // No copy may still read the slots when they are freed.
        self.job.drain([&self.stream]);
    }
}
