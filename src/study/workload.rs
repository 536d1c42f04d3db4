//! The sequences of a measurement.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::HumanCount;

use crate::architecture::{ModelConfig, ModelKind};
use crate::batch::PackedBatch;
use crate::engine::EngineError;
use crate::sequence::{
    Alphabet, BadRecords, Cleaning, Input, ReaderOptions, SequenceReader, Tokenizer, clean,
};

/// The sequences of a measurement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// The name of the workload in the report.
    pub name: String,
    /// The token ids of each sequence.
    pub sequences: Vec<Vec<u32>>,
}

/// What reading the sequences of a file took. It is displayed as a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// The number of sequences in the file.
    pub sequences: usize,
    /// The residues or bases in the file.
    pub letters: usize,
    /// The time that one thread took to tokenize them.
    pub tokenizing: Duration,
    /// The number of bad records that were skipped.
    pub skipped: usize,
}

impl Workload {
    /// Makes random sequences of `length` tokens each, special tokens included: the fewest that
    /// have `tokens` tokens together. They are the same in every run.
    pub fn random(config: &ModelConfig, length: usize, tokens: usize) -> Self {
        let count = tokens.div_ceil(length.max(1));
        let sequences = (0..count).map(|i| random(config, length, i as u64));
        Self {
            name: format!("length {length}"),
            sequences: sequences.collect(),
        }
    }

    /// Reads the sequences of a file, and repeats them until there are `tokens` tokens. There are no
    /// sequences if the file has no token.
    ///
    /// # Errors
    /// [`EngineError::Sequence`] if the file cannot be read or has a bad record.
    pub fn read(
        path: &Path,
        alphabet: Alphabet,
        tokenizer: &Tokenizer,
        tokens: usize,
        bad_records: BadRecords,
    ) -> Result<(Self, Reading), EngineError> {
        let mut once = Vec::new();
        let (mut letters, mut tokenizing) = (0, Duration::ZERO);
        let options = ReaderOptions {
            bad_records,
            ..ReaderOptions::default()
        };
        let mut skipped = 0;
        for read in SequenceReader::with_options(vec![Input::from(path)], options) {
            let cleaned = read.and_then(|mut record| {
                clean(alphabet, Cleaning::On, false, &mut record)?;
                Ok(record)
            });
            let record = match cleaned {
                Err(error) if bad_records == BadRecords::Skip && error.concerns_record() => {
                    skipped += 1;
                    continue;
                }
                cleaned => cleaned?,
            };
            let mut ids = Vec::new();
            let start = Instant::now();
            tokenizer.encode(&record.sequence, &mut ids);
            tokenizing += start.elapsed();
            letters += record.sequence.len();
            once.push(ids);
        }
        let reading = Reading {
            sequences: once.len(),
            letters,
            tokenizing,
            skipped,
        };
        let times = match once.iter().map(Vec::len).sum() {
            0 => 0,
            total => tokens.div_ceil(total).max(1),
        };
        let sequences = (0..times).flat_map(|_| once.iter().cloned()).collect();
        let name = path.file_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        Ok((Self { name, sequences }, reading))
    }

    /// Returns the number of tokens of the longest sequence.
    pub fn longest(&self) -> Option<usize> {
        self.sequences.iter().map(Vec::len).max()
    }

    /// Packs consecutive sequences into batches of up to `budget` tokens, as the pipeline does. A last
    /// batch that is not half full is left out: a round is short, and such a batch costs far more per
    /// token than the others, above all where it has to wait for streamed weights.
    pub(super) fn pack(&self, budget: usize) -> Vec<PackedBatch> {
        let mut batches = vec![PackedBatch::new()];
        for sequence in &self.sequences {
            let full = |b: &PackedBatch| !b.is_empty() && b.total() + sequence.len() > budget;
            if batches.last().is_some_and(full) {
                batches.push(PackedBatch::new());
            }
            if let Some(batch) = batches.last_mut() {
                batch.push(sequence);
            }
        }
        if batches.len() > 1 && batches.last().is_some_and(|b| 2 * b.total() < budget) {
            batches.pop();
        }
        batches
    }
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} sequences, tokenized at {:.1} MB/s by one thread",
            HumanCount(self.sequences as u64),
            self.letters as f64 / 1e6 / self.tokenizing.as_secs_f64().max(1e-9),
        )?;
        match self.skipped {
            0 => Ok(()),
            n => write!(f, "; {} bad records skipped", HumanCount(n as u64)),
        }
    }
}

/// Makes a random sequence of `length` tokens, including special tokens.
fn random(config: &ModelConfig, length: usize, seed: u64) -> Vec<u32> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d;
    let (first, last, from, to) = match config.kind {
        // The twenty standard amino acids.
        ModelKind::Esm2 => (0, 2, 4, 24),
        // Every token except the special tokens.
        ModelKind::Dnabert => (1, 2, 5, config.vocab as u64),
    };
    (0..length)
        .map(|i| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            match i {
                0 => first,
                _ if i + 1 == length => last,
                _ => (from + (x >> 11) % (to - from).max(1)) as u32,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_sequences_are_those_of_every_run_and_fill_their_batches() {
        let config = ModelConfig::esm2(4, 32, 4);
        let workload = Workload::random(&config, 10, 95);
        assert_eq!(workload, Workload::random(&config, 10, 95));
        assert_eq!(
            (workload.sequences.len(), workload.longest()),
            (10, Some(10))
        );
        assert_ne!(workload.sequences[0], workload.sequences[1]);
        for ids in &workload.sequences {
            assert_eq!((ids[0], ids[9]), (0, 2));
            assert!(ids[1..9].iter().all(|id| (4..24).contains(id)), "{ids:?}");
        }
        let totals = |budget| -> Vec<usize> {
            let batches = workload.pack(budget);
            batches.iter().map(PackedBatch::total).collect()
        };
        assert_eq!(totals(40), [40, 40, 20]);
        // The last batch is not half full.
        assert_eq!(totals(30), [30; 3]);
        assert_eq!(totals(1000), [100]);
        // A sequence that is longer than the budget is a batch of its own.
        assert_eq!(totals(9), [10; 10]);
    }

    #[test]
    fn sequences_of_a_file_are_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("two.fa");
        std::fs::write(&path, ">a\nMKTAY\n>b\nMKT\n").unwrap();
        let read = |tokens| {
            let stop = BadRecords::Stop;
            Workload::read(&path, Alphabet::Protein, &Tokenizer::esm2(), tokens, stop).unwrap()
        };
        let (workload, reading) = read(25);
        // Each reading of the file has 5 + 3 residues and 4 special tokens.
        assert_eq!(workload.name, "two.fa");
        assert_eq!((reading.sequences, reading.letters), (2, 8));
        assert_eq!(workload.sequences.len(), 6);
        assert_eq!(workload.sequences[0], workload.sequences[4]);
        assert_eq!(read(1).0.sequences.len(), 2);
    }
}
