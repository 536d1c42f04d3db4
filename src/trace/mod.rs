//! Records what a job does as intervals on tracks, and writes them as timelines.
//!
//! | item | what it is |
//! |---|---|
//! | [`Event`] | one interval: a track, a name, a category, a start, an end, and arguments |
//! | [`Trace`] | the handle that all parts of a job hold; it is off unless somebody asked for a trace |
//! | [`Span`] | an interval of a host thread, which ends when the value is dropped |
//! | [`DeviceClock`] | translates the times of a device's events to the clock of the host |
//! | [`Document`] | a trace in the JSON schema of this project, `seqstream-trace` version 1 |
//!
//! A trace is kept in memory ([`Trace::in_memory`]), or written to two files while the job runs
//! ([`Trace::to_files`]): one for Perfetto and HolisticTraceAnalysis, and one in the schema of this
//! project. Both are valid JSON after every flush, so that the trace of a killed job can be read.
//!
//! While the trace is off, every call is one test of an `Option`: no clock is read and nothing is
//! allocated. While it is on, the memory is bounded: events that find no place are dropped and
//! counted.
//!
//! All times are nanoseconds since the trace was opened, on the monotonic clock of the host.

mod chrome;
mod clock;
mod document;
mod event;
mod file;
mod nvtx;
mod recorder;
mod span;

pub use chrome::{stream_number, tid};
pub use clock::{ClockReport, DeviceClock, Sync};
pub use document::{Document, SCHEMA, VERSION};
pub use event::{Args, Category, Event, StreamKind, Track, host};
pub use file::TraceError;
pub use recorder::{Counts, Trace};
pub use span::{Measured, Span};
