//! Threads that copy or convert bytes into pinned memory, several chunks at once.

use super::error::StreamError;
use crate::trace::{Args, Category, Event, Trace, Track, host};
use rayon::{ScopeFifo, ThreadPool, ThreadPoolBuilder};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, Thread};

/// The bytes of a source that a thread takes at a time. They are some 50 us of work, ten times the
/// cost of handing the part to a thread.
const PART: usize = 256 << 10;

/// How the elements of a source are converted on their way into a slot.
#[derive(Debug, Clone, Copy)]
pub struct Conversion {
    /// The size of an element in the source, 1 to 8 bytes.
    pub from: usize,
    /// The size of an element in the slot and on the device, 1 to 8 bytes.
    pub to: usize,
    /// Converts whole elements, as many as both slices hold.
    pub convert: fn(&[u8], &mut [u8]),
}

impl Conversion {
    /// Copies the bytes unchanged.
    pub const NONE: Self = Self {
        from: 1,
        to: 1,
        convert: |from, to| to.copy_from_slice(from),
    };

    /// Returns whether the bytes are copied as they are: every conversion changes the size of an
    /// element.
    pub(super) fn is_none(&self) -> bool {
        self.from == self.to
    }

    /// Returns the output bytes for this many input bytes. A partial element is dropped.
    pub(super) fn converted(&self, bytes: usize) -> usize {
        bytes / self.from * self.to
    }

    /// Returns the input bytes whose output fits in `bytes`.
    pub(super) fn filling(&self, bytes: usize) -> usize {
        bytes / self.to * self.from
    }
}

/// A pool of threads that copy. The threads are kept, since to start them for each chunk would take
/// as long as the chunk.
#[derive(Debug)]
pub(super) struct Copiers {
    pool: Option<ThreadPool>,
    trace: Trace,
    /// The device that the bytes are for.
    device: usize,
}

impl Copiers {
    /// Creates a pool. With fewer than two threads the caller's own thread copies.
    pub fn new(threads: usize) -> Result<Self, StreamError> {
        if threads < 2 {
            return Ok(Self::of(None));
        }
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("weights {i}"))
            .build();
        let pool = pool.map_err(|e| StreamError::Thread(e.to_string()))?;
        Ok(Self::of(Some(pool)))
    }

    fn of(pool: Option<ThreadPool>) -> Self {
        Self {
            pool,
            trace: Trace::off(),
            device: 0,
        }
    }

    /// Records each copy in a trace.
    pub fn traced(mut self, trace: Trace, device: u32) -> Self {
        (self.trace, self.device) = (trace, device as usize);
        self
    }

    /// Returns the interval of a copy that begins now, if there is a trace.
    fn event(&self, bytes: usize, slot: usize) -> Option<(Trace, Event)> {
        if !self.trace.is_on() {
            return None;
        }
        let now = self.trace.now();
        let event = Event {
            track: Track::host(host::UPLOAD, host::UPLOAD_SLOTS * self.device + slot),
            name: "file to pinned".into(),
            category: Category::Stage,
            start_ns: now,
            end_ns: now,
            args: Args {
                bytes: Some(bytes as u64),
                device: Some(self.device as u32),
                ..Args::default()
            },
        };
        Some((self.trace.clone(), event))
    }

    /// Runs `work` on the calling thread. All copies that `work` began are done when this returns.
    pub fn scope<'a, R>(&'a self, work: impl FnOnce(&Scope<'_, 'a>) -> R) -> R {
        match &self.pool {
            Some(pool) => pool.in_place_scope_fifo(|scope| work(&Scope(Some(scope), self))),
            None => work(&Scope(None, self)),
        }
    }
}

/// The scope in which copies are begun.
pub(super) struct Scope<'s, 'a>(Option<&'s ScopeFifo<'a>>, &'s Copiers);

/// A copy in progress.
#[derive(Debug)]
pub(super) struct Copying {
    left: Arc<Left>,
}

#[derive(Debug)]
struct Left {
    parts: AtomicUsize,
    waits: Thread,
    /// What the last part adds to the trace.
    traced: Option<(Trace, Event)>,
}

/// The address to which one part of a copy goes.
struct Destination(*mut u8);
// SAFETY: this is plain memory, and no two parts of a copy overlap.
unsafe impl Send for Destination {}

impl<'a> Scope<'_, 'a> {
    /// Begins to copy `from`, which holds whole elements of `conversion`, to `to`. Parts are copied
    /// in the order of the calls. Only the calling thread may wait for the copy. `slot` is the number
    /// of the slot that `to` belongs to, for a trace.
    ///
    /// # Safety
    /// `to` must be valid for the converted bytes of `from`, and initialised. Nobody else may touch
    /// those bytes until [`Copying::wait`] or [`Copiers::scope`] has returned.
    pub unsafe fn copy(
        &self,
        from: &'a [u8],
        conversion: Conversion,
        to: *mut u8,
        slot: usize,
    ) -> Copying {
        let part_bytes = PART / conversion.from * conversion.from;
        let parts = from.chunks(part_bytes).enumerate();
        let left = Arc::new(Left {
            parts: AtomicUsize::new(parts.len()),
            waits: thread::current(),
            traced: self.1.event(conversion.converted(from.len()), slot),
        });
        for (i, part) in parts {
            // SAFETY: the address is inside the caller's memory, and belongs to no other part.
            let place = Destination(unsafe { to.add(conversion.converted(i * part_bytes)) });
            let left = Arc::clone(&left);
            let copy = move || {
                let place = place; // moves the whole struct, which is `Send`
                let bytes = conversion.converted(part.len());
                // SAFETY: the caller promises that the memory is valid, and the parts do not
                // overlap.
                let place = unsafe { std::slice::from_raw_parts_mut(place.0, bytes) };
                (conversion.convert)(part, place);
                let ended_ns = left.traced.as_ref().map_or(0, |(trace, _)| trace.now());
                if left.parts.fetch_sub(1, Ordering::Release) == 1 {
                    if let Some((trace, event)) = &left.traced {
                        let event = event.clone();
                        trace.add(Event {
                            end_ns: ended_ns,
                            ..event
                        });
                    }
                    left.waits.unpark();
                }
            };
            match self.0 {
                Some(scope) if from.len() > PART => scope.spawn_fifo(move |_| copy()),
                _ => copy(),
            }
        }
        Copying { left }
    }
}

impl Copying {
    /// Waits until everything is copied.
    pub fn wait(self) {
        while self.left.parts.load(Ordering::Acquire) > 0 {
            thread::park();
        }
    }

    /// Returns whether everything is copied.
    pub fn is_done(&self) -> bool {
        self.left.parts.load(Ordering::Acquire) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_threads_copies_all_and_no_more() {
        let lengths = [0, 1, PART - 1, PART, 5 * PART + 3, 40 * PART];
        let all: Vec<Vec<u8>> = lengths
            .iter()
            .map(|n| (0..*n).map(|i| ((i * 7 + n) >> 3) as u8).collect())
            .collect();
        for threads in [1, 2, 4] {
            let copiers = Copiers::new(threads).unwrap();
            let mut to: Vec<Vec<u8>> = lengths.iter().map(|n| vec![0xee; n + 5]).collect();
            copiers.scope(|scope| {
                let mut begun = Vec::new();
                for (from, to) in all.iter().zip(&mut to) {
                    // SAFETY: `to` is long enough, and nothing else touches it before the scope
                    // ends.
                    begun.push(unsafe { scope.copy(from, Conversion::NONE, to.as_mut_ptr(), 0) });
                }
                begun.into_iter().for_each(Copying::wait);
            });
            for (from, to) in all.iter().zip(&to) {
                assert!(to[..from.len()] == from[..], "{threads} threads");
                assert_eq!(to[from.len()..], [0xee; 5]);
            }
        }
    }

    /// Elements of three bytes, a size that divides no power of two, become one byte: their sum.
    #[test]
    fn conversions_cut_no_element_and_keep_the_order() {
        let sums = Conversion {
            from: 3,
            to: 1,
            convert: |from, to| {
                assert_eq!(from.len(), 3 * to.len());
                for (sum, element) in to.iter_mut().zip(from.chunks(3)) {
                    *sum = element.iter().fold(0, |s, b| s.wrapping_add(*b));
                }
            },
        };
        let from: Vec<u8> = (0..3 * (PART + 5)).map(|i| ((i * 7) >> 3) as u8).collect();
        let mut expected = vec![0; from.len() / 3 + 5];
        (sums.convert)(&from, &mut expected[..from.len() / 3]);
        expected[from.len() / 3..].fill(0xee);
        for threads in [1, 3] {
            let mut to = vec![0xee; expected.len()];
            Copiers::new(threads).unwrap().scope(|scope| {
                // SAFETY: `to` is long enough, and nothing else touches it before the scope ends.
                let begun = unsafe { scope.copy(&from, sums, to.as_mut_ptr(), 0) };
                begun.wait();
            });
            assert!(to == expected, "{threads} threads");
        }
    }
}
