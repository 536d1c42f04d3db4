//! The log: a line a call, a line an operation run, a line a finding. In memory, bounded; in a file too, if asked.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

const LINES_KEPT: usize = 200_000;

pub struct Log {
    lines: VecDeque<String>,
    file: Option<File>,
}

impl Log {
    pub fn new(path: Option<&Path>) -> Self {
        let file = path.and_then(|path| {
            // Appended to, since several processes of one test may name the same file.
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

    pub fn line(&mut self, line: String) {
        if let Some(file) = &mut self.file {
            // A log that cannot be written changes nothing in what is simulated.
            let _ = writeln!(file, "{line}");
        }
        if self.lines.len() == LINES_KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    pub fn text(&self) -> String {
        self.lines.iter().fold(String::new(), |mut text, line| {
            text.push_str(line);
            text.push('\n');
            text
        })
    }
}
