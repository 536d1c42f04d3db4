//! A log of operations for debugging: which stream was given which operation. It is bounded and
//! kept in memory.

use crate::gpu::driver::{Observe, Operation, Stream, StreamName};
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// One operation that a stream was given, or that the host did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The operation's number, which counts all logged operations from 0, including dropped ones.
    pub number: u64,
    /// The time since the log was opened, on the host's clock.
    pub at: Duration,
    /// The device's ordinal.
    pub device: u32,
    /// The stream's kind and number, or `None` for the host.
    pub stream: Option<(StreamName, usize)>,
    /// The batch that the operation belongs to.
    pub batch: Option<u64>,
    /// The operation: `load 512 bytes`, `record loaded 1`, `wait for loaded 1`, `kernel embed`.
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
    /// Creates a log that keeps the latest `keep` operations, at least one.
    pub fn new(keep: usize) -> Self {
        Self {
            keep: keep.max(1),
            opened: Instant::now(),
            entries: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, (u64, VecDeque<Entry>)> {
        // An entry is added whole, so a panic elsewhere leaves the list valid.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an entry. If the log is full, the oldest entry is dropped.
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

    /// Returns the entries that are kept, oldest first.
    pub fn entries(&self) -> Vec<Entry> {
        self.lock().1.iter().cloned().collect()
    }

    /// Returns the latest `count` entries as text, one per line.
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
