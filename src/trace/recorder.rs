//! Takes events from all threads of a job, and keeps them or writes them.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::clock::ClockReport;
use super::document::{Document, SCHEMA, VERSION};
use super::event::{Category, Event};
use super::file::{ArrayFile, TraceError};
use super::span::{Measured, Span};
use super::{chrome, document};

/// The most events that wait to be written: some 15 MB.
const WAITING: usize = 1 << 16;
/// How long an event waits at most before it is written.
const FLUSH: Duration = Duration::from_millis(500);

/// How many events a trace took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// The number of events that were recorded.
    pub recorded: u64,
    /// The number of events that found no place.
    pub dropped: u64,
}

/// The handle to a trace. A clone is cheap. Without a trace, which is the default, every call
/// returns at once.
#[derive(Clone, Default)]
pub struct Trace(Option<Arc<Recorder>>);

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_on() {
            "Trace(on)"
        } else {
            "Trace(off)"
        })
    }
}

#[derive(Debug)]
struct Recorder {
    shared: Arc<Shared>,
    correlations: AtomicU64,
    writer: Mutex<Option<JoinHandle<Result<(), TraceError>>>>,
}

#[derive(Debug)]
struct Shared {
    opened: Instant,
    opened_unix_ns: u64,
    /// The most events in `State::events`.
    most: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    events: Vec<Event>,
    counts: Counts,
    clocks: Vec<ClockReport>,
    /// Whether no more events are taken.
    ended: bool,
    /// Whether the run came to its end.
    whole: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // An event is added whole, so a panic elsewhere leaves the state valid.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn new(most: usize) -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            opened: Instant::now(),
            opened_unix_ns: unix.map_or(0, |t| t.as_nanos() as u64),
            most: most.max(1),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }
}

impl Trace {
    fn new(shared: Arc<Shared>, writer: Option<JoinHandle<Result<(), TraceError>>>) -> Self {
        Self(Some(Arc::new(Recorder {
            shared,
            correlations: AtomicU64::new(0),
            writer: Mutex::new(writer),
        })))
    }

    /// Returns the handle of no trace.
    pub fn off() -> Self {
        Self(None)
    }

    /// Opens a trace that keeps up to `most` events in memory, for [`Trace::document`].
    pub fn in_memory(most: usize) -> Self {
        Self::new(Arc::new(Shared::new(most)), None)
    }

    /// Opens a trace that a thread writes to two files while the job runs: `chrome` for Perfetto
    /// and HolisticTraceAnalysis, `own` in the schema of [`Document`]. A file that exists is
    /// overwritten only if it is such a trace.
    ///
    /// # Errors
    /// [`TraceError`] if a file cannot be created, or the thread cannot be started.
    pub fn to_files(chrome: &Path, own: &Path) -> Result<Self, TraceError> {
        let shared = Arc::new(Shared::new(WAITING));
        let opened = shared.opened_unix_ns;
        let mut files = Files {
            chrome: ArrayFile::create(
                chrome,
                chrome::MARK,
                &chrome::head(opened),
                &chrome::tail(false, 0, &[]),
            )?,
            own: ArrayFile::create(
                own,
                document::MARK,
                &document::head(opened),
                &document::tail(false, 0, &[]),
            )?,
            lines: chrome::Lines::default(),
            too_long: 0,
        };
        let theirs = Arc::clone(&shared);
        let writer = std::thread::Builder::new()
            .name("trace".into())
            .spawn(move || {
                let written = files.run(&theirs);
                if written.is_err() {
                    // Nobody writes events any more, so none are kept.
                    let mut state = lock(&theirs.state);
                    state.ended = true;
                    state.events = Vec::new();
                    return written;
                }
                files.finish(&theirs)
            })
            .map_err(|e| TraceError::Thread(e.to_string()))?;
        Ok(Self::new(shared, Some(writer)))
    }

    /// Returns whether there is a trace.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Returns the nanoseconds since the trace was opened, or 0 without a trace.
    pub fn now(&self) -> u64 {
        let recorder = self.0.as_ref();
        recorder.map_or(0, |r| r.shared.opened.elapsed().as_nanos() as u64)
    }

    /// Returns a number for a call of the driver and the work that it begins; 0 without a trace.
    pub fn correlation(&self) -> u64 {
        let next = |r: &Arc<Recorder>| r.correlations.fetch_add(1, Ordering::Relaxed) + 1;
        self.0.as_ref().map_or(0, next)
    }

    /// Adds an event, unless the trace is off or has ended.
    pub fn add(&self, event: Event) {
        let Some(recorder) = &self.0 else { return };
        let shared = &recorder.shared;
        let mut state = lock(&shared.state);
        if state.ended {
            return;
        }
        if state.events.len() >= shared.most {
            state.counts.dropped += 1;
            return;
        }
        state.counts.recorded += 1;
        state.events.push(event);
        let wake = state.events.len() == shared.most / 4;
        drop(state);
        if wake {
            shared.changed.notify_one();
        }
    }

    /// Counts events that could not be recorded.
    pub fn dropped(&self, count: u64) {
        if let Some(recorder) = &self.0 {
            lock(&recorder.shared.state).counts.dropped += count;
        }
    }

    /// Opens an interval of a stage on a host thread, given by its name in
    /// [`host`](super::host) and its number.
    pub fn stage(&self, thread: &'static str, number: usize, name: &'static str) -> Span {
        Span::new(self, (thread, number), name, Category::Stage)
    }

    /// Opens an interval of a category on a host thread.
    pub fn span(
        &self,
        thread: (&'static str, usize),
        name: &'static str,
        category: Category,
    ) -> Span {
        Span::new(self, thread, name, category)
    }

    /// Opens an interval whose length is needed also without a trace.
    pub fn measure(
        &self,
        thread: &'static str,
        name: &'static str,
        category: Category,
    ) -> Measured {
        Measured::new(Span::new(self, (thread, 0), name, category))
    }

    /// Sets what is known of a device's clock.
    pub fn clock(&self, report: ClockReport) {
        let Some(recorder) = &self.0 else { return };
        let mut state = lock(&recorder.shared.state);
        let known = state.clocks.iter_mut().find(|c| c.device == report.device);
        match known {
            Some(clock) => *clock = report,
            None => state.clocks.push(report),
        }
    }

    /// Drops the events of a trace that is kept in memory, so that it can take those of the next
    /// run.
    pub fn clear(&self) {
        let Some(recorder) = &self.0 else { return };
        let mut state = lock(&recorder.shared.state);
        state.events.clear();
        state.counts = Counts::default();
    }

    /// Returns how many events the trace took so far.
    pub fn counts(&self) -> Counts {
        let recorder = self.0.as_ref();
        recorder.map_or(Counts::default(), |r| lock(&r.shared.state).counts)
    }

    /// Returns a trace that is kept in memory; `None` if the trace is off. Of a trace in files, it
    /// has the events that are not written yet.
    pub fn document(&self) -> Option<Document> {
        let recorder = self.0.as_ref()?;
        let state = lock(&recorder.shared.state);
        Some(Document {
            schema: SCHEMA.into(),
            version: VERSION,
            seqstream: env!("CARGO_PKG_VERSION").into(),
            opened_unix_ns: recorder.shared.opened_unix_ns,
            events: state.events.clone(),
            whole: state.whole,
            dropped: state.counts.dropped,
            clocks: state.clocks.clone(),
        })
    }

    /// Ends the trace: the files are completed, and later events are ignored. Everything that may
    /// still add events of a device must have been dropped.
    ///
    /// # Errors
    /// [`TraceError`] if a file could not be written, now or earlier.
    pub fn finish(&self) -> Result<Counts, TraceError> {
        let Some(recorder) = &self.0 else {
            return Ok(Counts::default());
        };
        lock(&recorder.shared.state).whole = true;
        recorder.end()?;
        Ok(self.counts())
    }
}

impl Recorder {
    fn end(&self) -> Result<(), TraceError> {
        lock(&self.shared.state).ended = true;
        self.shared.changed.notify_all();
        let Some(writer) = lock(&self.writer).take() else {
            return Ok(());
        };
        let panicked = |_| Err(TraceError::Thread("its thread panicked".into()));
        writer.join().unwrap_or_else(panicked)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // Whoever cares for an error has called `finish`.
        let _ = self.end();
    }
}

/// The files of a trace, which a thread of their own writes.
struct Files {
    chrome: ArrayFile,
    own: ArrayFile,
    lines: chrome::Lines,
    /// The number of events that are too long for a line.
    too_long: u64,
}

impl Files {
    /// Writes events until the trace ends.
    fn run(&mut self, shared: &Shared) -> Result<(), TraceError> {
        let mut events = Vec::new();
        loop {
            let mut state = lock(&shared.state);
            if !state.ended && state.events.len() < shared.most / 4 {
                let waited = shared.changed.wait_timeout(state, FLUSH);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            std::mem::swap(&mut events, &mut state.events);
            let (ended, dropped) = (state.ended, state.counts.dropped + self.too_long);
            let clocks = state.clocks.clone();
            drop(state);
            let chrome_tail = chrome::tail(false, dropped, &clocks);
            let own_tail = document::tail(false, dropped, &clocks);
            for event in events.drain(..) {
                let chrome = &mut self.chrome;
                let lines = &mut self.lines;
                lines.of(&event, |line| chrome.push(line, &chrome_tail).map(drop))?;
                // Numbers and texts: this cannot fail.
                let line = serde_json::to_string(&event).unwrap_or_default();
                if line.is_empty() || !self.own.push(&line, &own_tail)? {
                    self.too_long += 1;
                }
            }
            self.chrome.flush(&chrome_tail)?;
            self.own.flush(&own_tail)?;
            if ended {
                return Ok(());
            }
        }
    }

    fn finish(self, shared: &Shared) -> Result<(), TraceError> {
        let state = lock(&shared.state);
        let (dropped, clocks) = (state.counts.dropped + self.too_long, state.clocks.clone());
        let whole = state.whole;
        drop(state);
        self.chrome.finish(&chrome::tail(whole, dropped, &clocks))?;
        self.own.finish(&document::tail(whole, dropped, &clocks))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Args, StreamKind, Track, host, stream_number};
    use super::*;

    fn kernel(start_ns: u64, end_ns: u64) -> Event {
        Event {
            track: Track::Stream {
                device: 1,
                stream: StreamKind::Compute,
                number: 0,
            },
            name: "attention".into(),
            category: Category::Kernel,
            start_ns,
            end_ns,
            args: Args {
                layer: Some(3),
                tokens: Some(77),
                stream: Some(stream_number(1, StreamKind::Compute, 0)),
                correlation: Some(9),
                ..Args::default()
            },
        }
    }

    #[test]
    fn without_a_trace_nothing_is_recorded_and_no_clock_is_read() {
        let trace = Trace::off();
        let mut span = trace.stage(host::READER, 0, "read");
        span.note(|_| panic!("there is nothing to note"));
        drop(span);
        trace.add(kernel(1, 2));
        assert_eq!((trace.now(), trace.correlation()), (0, 0));
        assert_eq!(trace.counts(), Counts::default());
        assert!(trace.document().is_none() && trace.finish().is_ok());
        // The handle is no more than a pointer.
        assert_eq!(size_of::<Trace>(), size_of::<usize>());
    }

    #[test]
    fn memory_is_bounded_and_what_is_missing_is_counted() {
        let trace = Trace::in_memory(3);
        for i in 0..5 {
            trace.add(kernel(i, i + 1));
        }
        let document = trace.document().unwrap();
        assert_eq!((document.events.len(), document.dropped), (3, 2));
        trace.finish().unwrap();
        trace.add(kernel(9, 9));
        assert_eq!(
            trace.counts(),
            Counts {
                recorded: 3,
                dropped: 2
            }
        );
    }

    #[test]
    fn the_files_hold_every_event_in_both_schemas() {
        let folder = tempfile::tempdir().unwrap();
        let (chrome, own) = (
            folder.path().join("t.json"),
            folder.path().join("t.own.json"),
        );
        let trace = Trace::to_files(&chrome, &own).unwrap();
        let mut span = trace.span((host::TOKENS, 2), "tokenize", Category::Stage);
        span.note(|args| args.tokens = Some(5));
        drop(span);
        trace.add(kernel(1_234_567, 2_000_001));
        trace.finish().unwrap();
        let own: Document = serde_json::from_slice(&std::fs::read(&own).unwrap()).unwrap();
        assert_eq!(
            (own.schema.as_str(), own.version, own.whole),
            (SCHEMA, VERSION, true)
        );
        assert_eq!(own.events[0].track, Track::host(host::TOKENS, 2));
        assert_eq!(own.events[1], kernel(1_234_567, 2_000_001));
        let text = std::fs::read_to_string(&chrome).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["distributedInfo"]["rank"], 0);
        let lines: Vec<&str> = text.lines().filter(|l| l.contains("\"ph\"")).collect();
        assert_eq!(lines.len(), 6, "{text}");
        assert_eq!(
            lines[5],
            r#",{"ph":"X","cat":"kernel","name":"attention","pid":1,"tid":120,"ts":1234.567,"dur":765.434,"args":{"stream":120,"correlation":9,"layer":3,"tokens":77}}"#
        );
    }
}
