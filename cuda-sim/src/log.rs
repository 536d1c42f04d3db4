//! The log: one line per call, per operation run and per finding. It is kept in memory, with a
//! bound, and in a file if one is set.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

const LINES_KEPT: usize = 200_000;

/// The log.
pub struct Log {
    lines: VecDeque<String>,
    file: Option<File>,
}

impl Log {
    /// Opens a log that also appends to `path`, if given.
    pub fn new(path: Option<&Path>) -> Self {
        let file = path.and_then(|path| {
            // The file is appended to, since several processes of one test may name the same file.
            let opened = File::options().create(true).append(true).open(path);
            opened
                .inspect_err(|error| eprintln!("cuda-sim: no log at {}: {error}", path.display()))
                .ok()
        });
        Self {
            lines: VecDeque::new(),
            file,
        }
    }

    /// Adds a line.
    pub fn line(&mut self, line: String) {
        if let Some(file) = &mut self.file {
            // A log that cannot be written does not change the simulation.
            let _ = writeln!(file, "{line}");
        }
        if self.lines.len() == LINES_KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// Returns the lines in memory.
    pub fn text(&self) -> String {
        self.lines.iter().fold(String::new(), |mut text, line| {
            text.push_str(line);
            text.push('\n');
            text
        })
    }
}
