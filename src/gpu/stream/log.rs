//! The log of operations: what was put on which stream, for debugging. Bounded, in memory.

use crate::gpu::driver::{Observe, Operation, Stream, StreamName};
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// One thing that a stream was given, or that the host did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Counts all that were logged, from 0, those that were dropped since too.
    pub number: u64,
    /// Since the log was opened, on the host's clock.
    pub at: Duration,
    /// The device's ordinal.
    pub device: u32,
    /// The stream, or `None`: the host.
    pub stream: Option<(StreamName, usize)>,
    /// The batch it belongs to.
    pub batch: Option<u64>,
    /// `load 512 bytes`, `record loaded 1`, `wait for loaded 1`, `kernel embed`.
    pub what: String,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.at.as_micros();
        write!(f, "{} {micros} us device {} ", self.number, self.device)?;
        match self.stream {
            Some((name, number)) => write!(f, "{name} {number}")?,
            None => f.write_str("host")?,
        }
        match self.batch {
            Some(batch) => write!(f, " batch {batch}: {}", self.what),
            None => write!(f, ": {}", self.what),
        }
    }
}

/// The latest operations of a job.
#[derive(Debug)]
pub struct OperationLog {
    keep: usize,
    opened: Instant,
    entries: Mutex<(u64, VecDeque<Entry>)>,
}

impl OperationLog {
    /// Keeps the latest `keep`.
    pub fn new(keep: usize) -> Self {
        Self {
            keep: keep.max(1),
            opened: Instant::now(),
            entries: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, (u64, VecDeque<Entry>)> {
        // An entry is whole or not there: whoever panicked left the list as it was.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an entry; the oldest leaves when there are too many.
    pub fn add(
        &self,
        device: u32,
        stream: Option<(StreamName, usize)>,
        batch: Option<u64>,
        what: String,
    ) {
        let mut guard = self.lock();
        let (count, entries) = &mut *guard;
        if entries.len() == self.keep {
            entries.pop_front();
        }
        entries.push_back(Entry {
            number: *count,
            at: self.opened.elapsed(),
            device,
            stream,
            batch,
            what,
        });
        *count += 1;
    }

    /// Those that are kept, oldest first.
    pub fn entries(&self) -> Vec<Entry> {
        self.lock().1.iter().cloned().collect()
    }

    /// The latest `count`, a line each.
    pub fn tail(&self, count: usize) -> String {
        let guard = self.lock();
        let entries = &guard.1;
        let skip = entries.len().saturating_sub(count);
        let lines: Vec<String> = entries.iter().skip(skip).map(Entry::to_string).collect();
        lines.join("\n")
    }
}

impl Observe for OperationLog {
    fn enqueued(&self, stream: &Stream, what: Operation<'_>) {
        self.add(
            stream.context().ordinal(),
            Some((stream.name(), stream.number())),
            stream.batch(),
            what.to_string(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_kept_and_read_as_lines() {
        let log = OperationLog::new(2);
        log.add(
            1,
            Some((StreamName::Load, 0)),
            Some(7),
            "load 4 bytes".into(),
        );
        log.add(
            1,
            Some((StreamName::Load, 0)),
            Some(7),
            "record loaded 0".into(),
        );
        log.add(1, None, None, "drain".into());
        let entries = log.entries();
        assert_eq!(
            entries.iter().map(|e| e.number).collect::<Vec<_>>(),
            [1, 2],
            "bounded"
        );
        let text = log.tail(9);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("1 "), "{text}");
        assert!(
            lines[0].ends_with("us device 1 load 0 batch 7: record loaded 0"),
            "{text}"
        );
        assert!(lines[1].ends_with("us device 1 host: drain"), "{text}");
        assert_eq!(log.tail(1).lines().count(), 1);
    }
}
