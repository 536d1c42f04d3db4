//! Times what the streams of a device do, for a trace.
//!
//! A timed fence is recorded before and after the work. Nobody waits for these fences: they are
//! read when the host has waited for a finished batch anyway, in the order of each stream, up to
//! the first fence that is not passed. All fences are created before the run and used again.

use crate::gpu::driver::{DriverError, Fence, Stream, StreamName};
use crate::trace::{
    Args, Category, DeviceClock, Event, StreamKind, Sync, Trace, Track, host, stream_number,
};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Timed fences per device: two for each interval. Three passes of a model of 48 layers take 2,200.
const FENCES: usize = 8192;
/// How often the clocks are compared. The quickest of the comparisons counts.
const COMPARISONS: usize = 5;
/// From this time on, in milliseconds, a newer fence takes the place of the base: the driver
/// returns times as f32, which have a resolution of 60 ns after half a second.
const BASE_MILLISECONDS: f64 = 500.0;

/// What an interval on a stream is.
#[derive(Debug, Clone)]
pub struct Work {
    /// The name of the interval.
    pub name: Cow<'static, str>,
    /// The category of the interval.
    pub category: Category,
    /// What else is known: the pass, the layer, tokens, bytes.
    pub args: Args,
}

impl Work {
    /// Describes a copy of the host's pinned memory to the device.
    pub fn load(bytes: usize, pass: Option<u64>) -> Self {
        Self::copy("Memcpy HtoD (Pinned -> Device)", bytes, pass)
    }

    /// Describes a copy of the host's pageable memory to the device.
    pub fn load_pageable(bytes: usize) -> Self {
        Self::copy("Memcpy HtoD (Pageable -> Device)", bytes, None)
    }

    /// Describes a copy from the device to the host's pinned memory.
    pub fn store(bytes: usize, pass: Option<u64>) -> Self {
        Self::copy("Memcpy DtoH (Device -> Pinned)", bytes, pass)
    }

    fn copy(name: &'static str, bytes: usize, pass: Option<u64>) -> Self {
        let args = Args {
            bytes: Some(bytes as u64),
            pass,
            ..Args::default()
        };
        Self {
            name: name.into(),
            category: Category::Copy,
            args,
        }
    }

    /// Describes a wait for a fence.
    pub fn wait(fence: &'static str, args: Args) -> Self {
        Self {
            name: fence.into(),
            category: Category::FenceWait,
            args,
        }
    }

    /// Describes the kernels of an operation.
    pub fn kernel(name: &'static str, args: Args) -> Self {
        Self {
            name: name.into(),
            category: Category::Kernel,
            args,
        }
    }

    /// Returns the name of the host's call, as CUDA's runtime calls it: readers of traces look for
    /// these names.
    fn call(&self) -> &'static str {
        match self.category {
            Category::Copy => "cudaMemcpyAsync",
            Category::FenceWait => "cudaStreamWaitEvent",
            _ => "cudaLaunchKernel",
        }
    }
}

/// An interval whose fences are recorded and not read yet.
#[derive(Debug)]
struct Pending {
    start: Fence,
    end: Fence,
    event: Event,
}

impl Pending {
    /// Returns the milliseconds from the time of `base` to the start, and from the start to the end;
    /// `None` unless both fences are passed. The driver refuses to tell the time of another fence.
    fn times(&self, base: &Fence) -> Option<(f64, f64)> {
        let length = self.end.milliseconds_since(&self.start).ok()??;
        let since = self.start.milliseconds_since(base).ok()??;
        Some((since.into(), length.into()))
    }
}

/// The intervals of one stream, in the order of the stream.
#[derive(Debug)]
struct Queue {
    track: Track,
    pending: VecDeque<Pending>,
    /// The end of the last interval that was read.
    end_ns: u64,
}

#[derive(Debug)]
struct State {
    free: Vec<Fence>,
    queues: Vec<Queue>,
    /// The fence that times are read against, and its time on the device.
    base: Fence,
    base_ns: f64,
    clock: DeviceClock,
}

/// The timeline of one device: the fences that time it, and its clock.
#[derive(Debug)]
pub struct Timeline {
    trace: Trace,
    /// The stream that the clocks are compared on.
    stream: Arc<Stream>,
    /// Whether fences are created when none is free.
    grows: bool,
    state: Mutex<State>,
}

impl Timeline {
    /// Creates the fences, and compares the clocks on `stream`, which must be idle.
    ///
    /// # Errors
    /// [`DriverError`] if a fence cannot be created or recorded.
    pub fn new(trace: &Trace, stream: &Arc<Stream>) -> Result<Self, DriverError> {
        Self::with(trace, stream, FENCES, false)
    }

    /// Creates a timeline that times everything, and creates fences as it needs them.
    ///
    /// # Errors
    /// As for [`Timeline::new`].
    pub fn growing(trace: &Trace, stream: &Arc<Stream>) -> Result<Self, DriverError> {
        Self::with(trace, stream, 0, true)
    }

    fn with(
        trace: &Trace,
        stream: &Arc<Stream>,
        fences: usize,
        grows: bool,
    ) -> Result<Self, DriverError> {
        let context = stream.context();
        let free: Result<Vec<_>, _> = (0..fences).map(|_| Fence::timed(context)).collect();
        let base = Fence::timed(context)?;
        let (host_ns, within_ns) = seen(trace, stream, &base)?;
        let start = Sync {
            host_ns,
            device_ns: 0.0,
            within_ns,
        };
        let timeline = Self {
            trace: trace.clone(),
            stream: Arc::clone(stream),
            grows,
            state: Mutex::new(State {
                free: free?,
                queues: Vec::new(),
                base,
                base_ns: 0.0,
                clock: DeviceClock::new(context.ordinal(), start),
            }),
        };
        timeline.report();
        Ok(timeline)
    }

    /// Returns the trace.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Fences and queues are changed one by one, so a panic elsewhere leaves them valid.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self) {
        let report = self.lock().clock.report();
        self.trace.clock(report);
    }

    fn fence(&self) -> Option<Fence> {
        match self.lock().free.pop() {
            None if self.grows => Fence::timed(self.stream.context()).ok(),
            fence => fence,
        }
    }

    /// Runs `run`, which puts work on `stream`, and times that work. Where no fence is free, the
    /// work is not timed, and counts as dropped.
    ///
    /// # Errors
    /// The error of `run`, or of the driver.
    pub fn around<R, E: From<DriverError>>(
        &self,
        stream: &Stream,
        work: Work,
        run: impl FnOnce() -> Result<R, E>,
    ) -> Result<R, E> {
        let (Some(start), Some(end)) = (self.fence(), self.fence()) else {
            self.trace.dropped(1);
            return run();
        };
        let device = stream.context().ordinal();
        let kind = match stream.name() {
            StreamName::Load => StreamKind::Load,
            StreamName::Compute => StreamKind::Compute,
            StreamName::Store => StreamKind::Store,
        };
        let number = stream.number() as u32;
        let track = Track::Stream {
            device,
            stream: kind,
            number,
        };
        let call = work.call();
        // A wait begins nothing, so no call of the host belongs to it.
        let correlation = match work.category {
            Category::FenceWait => None,
            _ => Some(self.trace.correlation()),
        };
        let args = Args {
            device: Some(device),
            stream: Some(stream_number(device, kind, number)),
            correlation,
            ..work.args
        };
        let called = self.trace.now();
        stream.record(&start)?;
        let result = run()?;
        stream.record(&end)?;
        if correlation.is_some() {
            self.trace.add(Event {
                track: self.thread(),
                name: call.into(),
                category: Category::Runtime,
                start_ns: called,
                end_ns: self.trace.now(),
                args,
            });
        }
        let event = Event {
            track,
            name: work.name,
            category: work.category,
            start_ns: 0,
            end_ns: 0,
            args,
        };
        self.push(Pending { start, end, event });
        Ok(result)
    }

    fn push(&self, pending: Pending) {
        let mut state = self.lock();
        let track = &pending.event.track;
        let queue = match state.queues.iter().position(|q| q.track == *track) {
            Some(known) => known,
            None => {
                state.queues.push(Queue {
                    track: track.clone(),
                    pending: VecDeque::new(),
                    end_ns: 0,
                });
                state.queues.len() - 1
            }
        };
        state.queues[queue].pending.push_back(pending);
    }

    /// Returns the track of the calling thread: the thread that loads weights, or the thread that
    /// runs the job.
    fn thread(&self) -> Track {
        let current = std::thread::current();
        match current.name().is_some_and(|n| n.starts_with(host::WEIGHTS)) {
            true => Track::host(host::WEIGHTS, self.stream.context().ordinal() as usize),
            false => Track::host(host::COMPUTING, 0),
        }
    }

    /// Returns the time, for [`Timeline::waited`]; 0 without a timeline.
    pub fn now(timeline: Option<&Arc<Self>>) -> u64 {
        timeline.map_or(0, |t| t.trace.now())
    }

    /// Records that the host has waited for the device since `began`, and reads the intervals that
    /// have ended.
    pub fn waited(timeline: Option<&Arc<Self>>, began: u64, args: Args) {
        let Some(timeline) = timeline else { return };
        timeline.read();
        timeline.trace.add(Event {
            track: timeline.thread(),
            name: "cudaEventSynchronize".into(),
            category: Category::Runtime,
            start_ns: began,
            end_ns: timeline.trace.now(),
            args: Args {
                device: Some(timeline.stream.context().ordinal()),
                ..args
            },
        });
    }

    /// Reads the intervals that have ended, without waiting for any. This is called when the host
    /// has just waited for the device.
    pub fn read(&self) {
        let now = self.trace.now() as f64;
        let mut state = self.lock();
        if let Some(newest) = state.read(&self.trace) {
            state.clock.saw(newest, now);
        }
    }

    /// Compares the clocks once more, and reads what is left. The streams must have been drained.
    fn end(&self) -> Result<(), DriverError> {
        // Nothing is waited for on a device that has failed: these calls fail at once.
        let mark = Fence::timed(self.stream.context())?;
        let (host_ns, within_ns) = seen(&self.trace, &self.stream, &mark)?;
        let mut state = self.lock();
        let since = mark.milliseconds_since(&state.base)?;
        let device_ns = state.base_ns + f64::from(since.unwrap_or(0.0)) * 1e6;
        state.clock.end(Sync {
            host_ns,
            device_ns,
            within_ns,
        });
        state.read(&self.trace);
        let left: usize = state.queues.iter().map(|q| q.pending.len()).sum();
        self.trace.dropped(left as u64);
        drop(state);
        self.report();
        Ok(())
    }
}

impl State {
    /// Reads the intervals that have ended, and returns the newest end on the device.
    fn read(&mut self, trace: &Trace) -> Option<f64> {
        let mut newest: Option<f64> = None;
        for queue in &mut self.queues {
            while let Some(next) = queue.pending.front() {
                let Some((since, length)) = next.times(&self.base) else {
                    break;
                };
                let Some(Pending { start, end, event }) = queue.pending.pop_front() else {
                    break;
                };
                let start_ns = self.base_ns + since * 1e6;
                let end_ns = start_ns + length.max(0.0) * 1e6;
                newest = Some(newest.map_or(end_ns, |n| n.max(end_ns)));
                // The work of a stream runs in order: what rounding and a correction of the clock
                // change must not make two intervals overlap.
                let at = |ns: f64| self.clock.host_ns(ns).max(0.0).round() as u64;
                let from = at(start_ns).max(queue.end_ns);
                let to = at(end_ns).max(from);
                queue.end_ns = to;
                trace.add(Event {
                    start_ns: from,
                    end_ns: to,
                    ..event
                });
                self.free.push(end);
                if since > BASE_MILLISECONDS {
                    self.base_ns = start_ns;
                    self.free.push(std::mem::replace(&mut self.base, start));
                } else {
                    self.free.push(start);
                }
            }
        }
        newest
    }
}

/// Records `fence` on an idle stream, several times, and returns the time of the host at which it
/// was passed the last time, and how uncertain that is, in nanoseconds.
fn seen(trace: &Trace, stream: &Stream, fence: &Fence) -> Result<(f64, f64), DriverError> {
    let mut quickest = f64::INFINITY;
    for attempt in 1.. {
        let before = trace.now() as f64;
        stream.record(fence)?;
        fence.wait()?;
        let took = trace.now() as f64 - before;
        // The fence keeps the time of the last record only, so the attempts end with a quick one.
        if attempt >= COMPARISONS && took <= 2.0 * quickest || attempt == 10 * COMPARISONS {
            return Ok((before + took / 2.0, took / 2.0));
        }
        quickest = quickest.min(took);
    }
    Ok((trace.now() as f64, 0.0))
}

impl Drop for Timeline {
    fn drop(&mut self) {
        // A failure of the device has ended the job and is reported there.
        let _ = self.end();
    }
}

/// Runs `run`, and times it where there is a timeline.
pub(super) fn timed<R, E: From<DriverError>>(
    timeline: Option<&Arc<Timeline>>,
    stream: &Stream,
    work: impl FnOnce() -> Work,
    run: impl FnOnce() -> Result<R, E>,
) -> Result<R, E> {
    match timeline {
        None => run(),
        Some(timeline) => timeline.around(stream, work(), run),
    }
}
