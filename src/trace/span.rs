//! An interval of a host thread.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use super::event::{Args, Category, Event, Track};
use super::nvtx;
use super::recorder::Trace;

/// An interval of a host thread, from its creation to its end or its drop. Where the trace is off
/// it is empty.
#[must_use = "an interval that is not held ends at once"]
#[derive(Debug)]
pub struct Span {
    open: Option<Open>,
    _range: nvtx::Range,
}

#[derive(Debug)]
struct Open {
    trace: Trace,
    track: Track,
    name: Cow<'static, str>,
    category: Category,
    start_ns: u64,
    args: Args,
}

impl Span {
    pub(super) fn new(
        trace: &Trace,
        track: (&'static str, usize),
        name: &'static str,
        category: Category,
    ) -> Self {
        let open = trace.is_on().then(|| Open {
            trace: trace.clone(),
            track: Track::host(track.0, track.1),
            name: Cow::Borrowed(name),
            category,
            start_ns: trace.now(),
            args: Args::default(),
        });
        Self {
            open,
            _range: nvtx::Range::new(name),
        }
    }

    /// Adds to the arguments, if the trace is on.
    pub fn note(&mut self, note: impl FnOnce(&mut Args)) {
        if let Some(open) = &mut self.open {
            note(&mut open.args);
        }
    }

    /// Ends the interval without recording it.
    pub fn cancel(mut self) {
        self.open = None;
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            let end_ns = open.trace.now();
            open.trace.add(Event {
                track: open.track,
                name: open.name,
                category: open.category,
                start_ns: open.start_ns,
                end_ns,
                args: open.args,
            });
        }
    }
}

/// An interval whose length is needed whether or not the trace is on.
#[must_use = "an interval that is not held ends at once"]
#[derive(Debug)]
pub struct Measured {
    start: Instant,
    span: Span,
}

impl Measured {
    pub(super) fn new(span: Span) -> Self {
        Self {
            start: Instant::now(),
            span,
        }
    }

    /// Adds to the arguments, if the trace is on.
    pub fn note(&mut self, note: impl FnOnce(&mut Args)) {
        self.span.note(note);
    }

    /// Ends the interval and returns its length.
    pub fn end(self) -> Duration {
        self.start.elapsed()
    }
}
