//! The file `.runs.jsonl` in an output directory: what each run of the job measured, a line of JSON
//! per run.
//!
//! The file is no part of the output: no hash covers it, merged outputs do not have it, and a job
//! without it is complete. So it may hold what differs from run to run, such as times.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{JobDir, OutputError};
use crate::untrusted::file;

/// The name of the file.
pub const RUNS_FILE: &str = ".runs.jsonl";

/// The longest line that is read. A run writes some 30 kB.
const LONGEST_LINE: u64 = 1 << 20;
/// The most runs that are read.
const MOST_RUNS: usize = 1000;

/// What a run of a job measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunRecord {
    /// The version of the program.
    pub seqstream: String,
    /// When the run began, in seconds since 1970.
    pub began_unix: u64,
    /// The devices that computed, as the user named them.
    pub device: String,
    /// The processor of the machine, if it is known.
    pub machine: Option<String>,
    /// The number of threads.
    pub threads: u64,
    /// Whether the job was complete after this run.
    pub complete: bool,
    /// The signal that stopped the run.
    pub stopped: Option<i32>,
    /// What bounded the speed: `model`, `input`, `output` or `disk`.
    pub bound_by: String,
    /// The peak memory in bytes.
    pub peak_memory: Option<u64>,
    /// The energy that the processors of the machine took during the run, in joules, with whatever
    /// else ran on them.
    pub processor_joules: Option<f64>,
    /// The progress at the end.
    pub end: Sample,
    /// The progress over time.
    pub samples: Vec<Sample>,
    /// The lengths of the sequences of the job, if the run read all of them.
    pub lengths: Option<Lengths>,
}

/// The progress of a run at one time. All times are in seconds since the run began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sample {
    /// The time.
    pub at: f64,
    /// Sequences that the run has computed.
    pub sequences: u64,
    /// Tokens that the run has computed, special tokens included.
    pub tokens: u64,
    /// Sequences that stood already.
    pub reused: u64,
    /// Time in the model.
    pub computing: f64,
    /// Time in which the computing thread waited for the reader.
    pub waiting_for_input: f64,
    /// Time in which the computing thread waited for the writer.
    pub waiting_for_output: f64,
    /// Time in which the writer waited for the disk.
    pub waiting_for_disk: f64,
}

/// Counts of sequences by their lengths in letters, as the input has them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lengths {
    /// The number of sequences.
    pub sequences: u64,
    /// The letters of all sequences together.
    pub letters: u64,
    /// The shortest length.
    pub shortest: u64,
    /// The longest length.
    pub longest: u64,
    /// The number of sequences per bin, see [`bin`](Self::bin).
    pub bins: Vec<u64>,
}

/// The number of bins per doubling of the length.
const PER_OCTAVE: u64 = 8;

impl Lengths {
    /// Counts a sequence.
    pub fn add(&mut self, length: u64) {
        let number = Self::number(length);
        if self.bins.len() <= number {
            self.bins.resize(number + 1, 0);
        }
        self.bins[number] += 1;
        self.shortest = match self.sequences {
            0 => length,
            _ => self.shortest.min(length),
        };
        self.longest = self.longest.max(length);
        self.sequences += 1;
        self.letters = self.letters.saturating_add(length);
    }

    /// The bin of a length. Lengths below 16 have bins of their own, and each doubling beyond has 8.
    fn number(length: u64) -> usize {
        if length < 2 * PER_OCTAVE {
            return length as usize;
        }
        let shift = length.ilog2() - PER_OCTAVE.ilog2();
        let octave = u64::from(shift) * PER_OCTAVE;
        (octave + (length >> shift)) as usize
    }

    /// Returns the first length of a bin.
    pub fn bin(number: usize) -> u64 {
        let number = number as u64;
        if number < 2 * PER_OCTAVE {
            return number;
        }
        let shift = number / PER_OCTAVE - 1;
        match shift {
            0..=60 => (PER_OCTAVE + number % PER_OCTAVE) << shift,
            // There is no such length, but a file may have such a bin.
            _ => u64::MAX,
        }
    }
}

/// Adds the line of a run. The directory must be that of the job that ran.
pub fn append_run(dir: &JobDir, run: &RunRecord) -> Result<(), OutputError> {
    let path = dir.path().join(RUNS_FILE);
    let failed = |e| OutputError::io("write", &path, None, e);
    // Only numbers and text: this cannot fail.
    let mut line = serde_json::to_vec(run).unwrap_or_default();
    line.push(b'\n');
    let mut file = File::options()
        .append(true)
        .create(true)
        .open(&path)
        .map_err(failed)?;
    file.write_all(&line).map_err(failed)
}

/// Reads the runs of the job in `dir`, in order. Lines that cannot be read, as a full disk leaves
/// them, are left out. Without the file there are none.
pub fn read_runs(dir: &Path) -> Result<Vec<RunRecord>, OutputError> {
    let path = dir.join(RUNS_FILE);
    let failed = |e| OutputError::io("read", &path, None, e);
    if !file::is_regular(&path).map_err(failed)? {
        return Ok(Vec::new());
    }
    let mut file = BufReader::new(file::open(&path).map_err(failed)?);
    let mut runs = Vec::new();
    while runs.len() < MOST_RUNS {
        let mut line = Vec::new();
        let read = file
            .by_ref()
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut line);
        if read.map_err(failed)? == 0 {
            break;
        }
        runs.extend(serde_json::from_slice::<RunRecord>(&line));
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_follow_each_other_and_hold_their_lengths() {
        let mut before = None;
        for length in 0..5000 {
            let number = Lengths::number(length);
            assert!(Lengths::bin(number) <= length, "{length}");
            assert!(length < Lengths::bin(number + 1), "{length}");
            assert!(
                before.is_none_or(|b| number == b || number == b + 1),
                "{length}"
            );
            before = Some(number);
        }
        assert_eq!(Lengths::bin(Lengths::number(1 << 40)), 1 << 40);
        assert!(Lengths::number(u64::MAX) < 520);
        assert_eq!(Lengths::bin(usize::MAX), u64::MAX);
    }

    #[test]
    fn runs_are_read_back_and_what_is_torn_is_left_out() {
        let tmp = tempfile::tempdir().unwrap();
        assert_eq!(read_runs(tmp.path()).unwrap(), []);
        let dir = JobDir::open(tmp.path()).unwrap();
        let mut run = RunRecord {
            device: "cpu".into(),
            lengths: Some(Lengths::default()),
            ..RunRecord::default()
        };
        for length in [7, 120, 33] {
            run.lengths.as_mut().unwrap().add(length);
        }
        append_run(&dir, &run).unwrap();
        let path = tmp.path().join(RUNS_FILE);
        let line = std::fs::read(&path).unwrap();
        std::fs::write(&path, [&line[..20], b"\n", &line, b"{}\n\xff\n"].concat()).unwrap();
        assert_eq!(
            read_runs(tmp.path()).unwrap(),
            [run.clone(), RunRecord::default()]
        );
        let lengths = run.lengths.unwrap();
        assert_eq!(
            (lengths.shortest, lengths.longest, lengths.letters),
            (7, 120, 160)
        );
        // A job goes on in a directory with this file.
        drop(dir);
        JobDir::open(tmp.path()).unwrap();
    }
}
