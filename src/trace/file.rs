//! A JSON file that holds an array and is valid JSON whenever the process is killed.
//!
//! ```text
//! {"head": ..., "events": [      the head, then one event per line
//! {...}
//! ,{...}                         an event never crosses the border of a page of 4096 bytes:
//!                                the rest of the page is blank
//! (blanks)
//! ], "tail": ...}                the tail, in a page of its own at the end of the file
//! ```
//!
//! A process that is killed in the middle of a write leaves a whole number of pages of it. So each
//! write stays within one page and replaces blanks by whole events, or the tail by another tail.
//! Only when the blanks are used up, the tail moves further back, which takes two writes: for some
//! microseconds in every [`GROWTH`] bytes the file is not valid.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::remedy::Remedy;

/// Bytes that one write of the kernel does not divide.
const PAGE: u64 = 4096;
/// By how many bytes the file grows at a time.
const GROWTH: u64 = 1 << 20;

/// Why a trace cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file cannot be created or written.
    #[error("the trace cannot be written to {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The file holds something else than a trace.
    #[error("the trace cannot be written to {}: the file exists and is not a trace of seqstream", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The thread that writes the trace cannot be started, or has panicked.
    #[error("the trace cannot be written: {0}")]
    Thread(String),
}

impl TraceError {
    /// Returns what the user can do about the error, if anything.
    pub fn remedy(&self) -> Option<Remedy> {
        match self {
            Self::Write { .. } => {
                Some("give the path of a file in a folder that exists and can be written".into())
            }
            Self::Foreign { .. } => Some("remove the file, or give another path".into()),
            Self::Thread(_) => None,
        }
    }
}

/// The file.
#[derive(Debug)]
pub(super) struct ArrayFile {
    path: PathBuf,
    file: File,
    /// Where the next event goes.
    at: u64,
    /// Where the page of the tail is.
    tail_at: u64,
    /// Whether the array holds an event.
    any: bool,
    /// The page that is being filled, from its start, and how much of it is written.
    page: Vec<u8>,
    written: usize,
}

impl ArrayFile {
    /// Creates the file, or overwrites one that begins with `mark`, which `head` must begin with.
    /// The head ends with the bracket that opens the array, and the tail begins with the one that
    /// closes it.
    pub fn create(path: &Path, mark: &str, head: &str, tail: &str) -> Result<Self, TraceError> {
        debug_assert!(head.starts_with(mark));
        let failed = |source| TraceError::Write {
            path: path.to_path_buf(),
            source,
        };
        let foreign = || TraceError::Foreign {
            path: path.to_path_buf(),
        };
        // A device or a pipe cannot be written in place. Opening a pipe might wait, too.
        match std::fs::metadata(path) {
            Ok(there) if there.is_dir() => return Err(failed(io::ErrorKind::IsADirectory.into())),
            Ok(there) if !there.is_file() => return Err(foreign()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(path).map_err(failed)?;
        let mut there = Vec::new();
        let most = mark.len() as u64;
        (&mut file)
            .take(most)
            .read_to_end(&mut there)
            .map_err(failed)?;
        if !there.is_empty() && there != mark.as_bytes() {
            return Err(foreign());
        }
        file.set_len(0).map_err(failed)?;
        let at = head.len() as u64;
        let mut made = Self {
            path: path.to_path_buf(),
            file,
            at,
            tail_at: at.next_multiple_of(PAGE),
            any: false,
            page: Vec::with_capacity(PAGE as usize),
            written: 0,
        };
        let mut first = head.as_bytes().to_vec();
        first.resize(made.tail_at as usize, b' ');
        first.extend(page_of(tail));
        made.put(0, &first).map_err(failed)?;
        // The part of the head that shares a page with the first events.
        let start = at / PAGE * PAGE;
        made.page = head.as_bytes()[start as usize..].to_vec();
        made.written = made.page.len();
        Ok(made)
    }

    fn put(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(at))?;
        self.file.write_all(bytes)
    }

    fn failed(&self, source: io::Error) -> TraceError {
        TraceError::Write {
            path: self.path.clone(),
            source,
        }
    }

    /// Adds an element of the array, without a line end in it. An element that is longer than a
    /// page is left out: `false` is returned.
    pub fn push(&mut self, element: &str, tail: &str) -> Result<bool, TraceError> {
        let bytes = element.len() + 2; // a comma and a line end
        if bytes as u64 > PAGE {
            return Ok(false);
        }
        if self.page.len() + bytes > PAGE as usize {
            self.write_page().map_err(|e| self.failed(e))?;
            self.at = self.at / PAGE * PAGE + PAGE;
            self.page.clear();
            self.written = 0;
            if self.at == self.tail_at {
                self.grow(tail).map_err(|e| self.failed(e))?;
            }
        } else if self.at == self.tail_at {
            self.grow(tail).map_err(|e| self.failed(e))?;
        }
        if std::mem::replace(&mut self.any, true) {
            self.page.push(b',');
        }
        self.page.extend_from_slice(element.as_bytes());
        self.page.push(b'\n');
        Ok(true)
    }

    /// Writes the events of the page that are not written yet.
    fn write_page(&mut self) -> io::Result<()> {
        if self.written == self.page.len() {
            return Ok(());
        }
        let page_at = self.at / PAGE * PAGE;
        let bytes = std::mem::take(&mut self.page);
        let put = self.put(page_at + self.written as u64, &bytes[self.written..]);
        self.page = bytes;
        put?;
        self.written = self.page.len();
        Ok(())
    }

    /// Moves the tail back, and blanks the pages before it.
    fn grow(&mut self, tail: &str) -> io::Result<()> {
        let next = self.tail_at + GROWTH;
        // Blanks after the tail leave the file valid.
        self.put(self.tail_at + PAGE, &vec![b' '; (GROWTH - PAGE) as usize])?;
        self.put(next, &page_of(tail))?;
        self.put(self.tail_at, &[b' '; PAGE as usize])?;
        self.tail_at = next;
        Ok(())
    }

    /// Writes everything that was added, and the tail.
    pub fn flush(&mut self, tail: &str) -> Result<(), TraceError> {
        let written = self.write_page();
        let written = written.and_then(|()| self.put(self.tail_at, &page_of(tail)));
        written.map_err(|e| self.failed(e))
    }

    /// Ends the file: nothing lies between the last event and the tail any more.
    pub fn finish(mut self, tail: &str) -> Result<(), TraceError> {
        self.flush(tail)?;
        let end = self.at / PAGE * PAGE + self.page.len() as u64;
        let cut = self.put(end, tail.as_bytes());
        let cut = cut.and_then(|()| self.file.set_len(end + tail.len() as u64));
        cut.map_err(|e| self.failed(e))
    }
}

/// Returns the tail in a page of blanks. A tail that is longer than a page keeps its length.
fn page_of(tail: &str) -> Vec<u8> {
    let mut page = tail.as_bytes().to_vec();
    page.resize(page.len().next_multiple_of(PAGE as usize), b' ');
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    const MARK: &str = r#"{"made": "here","#;
    const HEAD: &str = "{\"made\": \"here\",\n\"events\": [\n";
    const TAIL: &str = "],\n\"whole\": false}\n";

    fn read(path: &Path) -> Value {
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    #[test]
    fn the_file_is_json_after_every_flush_and_wherever_a_write_of_pages_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        let mut file = ArrayFile::create(&path, MARK, HEAD, TAIL).unwrap();
        assert_eq!(read(&path)["events"].as_array().unwrap().len(), 0);
        let mut count = 0;
        for round in 0..60 {
            for i in 0..round * 7 {
                let text = format!("{{\"n\":{count},\"x\":\"{}\"}}", "y".repeat(i * 37 % 900));
                assert!(file.push(&text, TAIL).unwrap());
                count += 1;
                if i % 50 == 0 {
                    // Whole pages were written, but not the page that is being filled.
                    read(&path);
                }
            }
            file.flush(TAIL).unwrap();
            let there = read(&path);
            let events = there["events"].as_array().unwrap();
            assert_eq!(events.len(), count);
            assert!(events.iter().enumerate().all(|(i, e)| e["n"] == i));
        }
        assert!(std::fs::metadata(&path).unwrap().len() > 2 * GROWTH);
        // A write that is cut at the border of a page cuts no event.
        let text = std::fs::read(&path).unwrap();
        for page in text.chunks(PAGE as usize) {
            let lines = String::from_utf8_lossy(page);
            let opens = lines.matches("{\"n\"").count();
            assert_eq!(opens, lines.matches("\"}").count());
        }
        assert!(!file.push(&"z".repeat(4095), TAIL).unwrap());
        file.finish("],\n\"whole\": true}\n").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.ends_with("\n],\n\"whole\": true}\n"));
        assert_eq!(read(&path)["events"].as_array().unwrap().len(), count);
    }

    #[test]
    fn a_trace_is_overwritten_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        for _ in 0..2 {
            let file = ArrayFile::create(&path, MARK, HEAD, TAIL).unwrap();
            file.finish(TAIL).unwrap();
        }
        std::fs::write(&path, ">a\nMKV\n").unwrap();
        let refused = ArrayFile::create(&path, MARK, HEAD, TAIL).unwrap_err();
        assert!(matches!(refused, TraceError::Foreign { .. }), "{refused}");
        assert_eq!(std::fs::read(&path).unwrap(), b">a\nMKV\n");
        for other in [folder.path().to_path_buf(), folder.path().join("no/a.json")] {
            let refused = ArrayFile::create(&other, MARK, HEAD, TAIL).unwrap_err();
            assert!(matches!(refused, TraceError::Write { .. }), "{refused}");
        }
    }
}
