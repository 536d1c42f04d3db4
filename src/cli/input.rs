//! Reads the input of `embed` before the job begins, and warns of what it holds.

use super::options::EmbedOptions;
use super::progress::{count, duration};
use super::{Console, Failure};
use seqstream::output::{ManifestHead, Rejected, list_shards};
use seqstream::pipeline::{InputNotes, JobError, ReadOptions, StandingShards};
use seqstream::sequence::{
    Alphabet, BadRecords, CleanCounts, Cleaning, InputSummary, Names, ReaderOptions, Record,
    ScanOptions, SequenceError, SharedName, scan_each,
};
use seqstream::untrusted::Shown;
use std::sync::Arc;
use std::time::Instant;

/// Reads every input that can be read twice to its end, so that a bad record fails the job now and
/// not an hour later.
pub fn check_inputs(
    options: &EmbedOptions,
    read: &ReadOptions,
    console: &Console,
) -> Result<(InputSummary, Option<StandingShards>), Failure> {
    let start = Instant::now();
    let standing = match options.resume && options.out.exists() {
        true => list_shards(&options.out).map_err(JobError::from)?,
        false => Vec::new(),
    };
    let mut shards = StandingShards::new(options.shard_size, options.share, &standing);
    let scan_options = ScanOptions {
        alphabet: read.alphabet,
        cleaning: read.cleaning,
        strict: read.strict,
        shard_size: options.shard_size,
        reader: reader_options(options),
    };
    let fits = |record: &Record, counts: &CleanCounts| match &read.memory {
        Some(memory) => memory.check(record, counts.residues).map_err(Failure::from),
        None => Ok(()),
    };
    let take = |read: Result<&Record, &SequenceError>| match read {
        Ok(record) => shards.take(record),
        Err(error) => shards.skip(error.place().map_or("", |place| &place.id)),
    };
    let mut first = None;
    let skip = |failure: Failure| match (options.bad_records, failure) {
        (BadRecords::Skip, Failure::Job(error)) => match error.rejected() {
            Some(rejected) => {
                first.get_or_insert(rejected);
                Ok(())
            }
            None => Err(error.into()),
        },
        (_, failure) => Err(failure),
    };
    let summary = scan_each(&options.inputs, &scan_options, take, fits, skip)?;
    Noticed::in_advance(&summary).warn(options, read.alphabet, console);
    if let Some(first) = first {
        console.warn(&format!(
            "{}; rejected.tsv will list them (first: {})",
            counted(
                summary.rejected,
                "bad record is skipped",
                "bad records are skipped"
            ),
            example(&first)
        ));
    }
    if summary.complete {
        console.say(&format!(
            "input: {} sequences, {} residues, the longest {}; read in {}",
            count(summary.records),
            count(summary.residues),
            count(summary.longest),
            duration(start.elapsed())
        ));
    } else {
        console.say("input: a pipe, which cannot be checked beforehand");
    }
    // If only a part of the input was read, the indices of the records are unknown.
    let shards = (options.resume && summary.complete).then(|| shards.finish());
    if !standing.is_empty() {
        console.say(&format!(
            "checking the shards that stand: {}",
            count(standing.len() as u64)
        ));
    }
    Ok((summary, shards))
}

/// What is to be warned of in the input.
pub struct Noticed {
    /// The number of sequences that were counted.
    sequences: u64,
    counts: CleanCounts,
    shared_name: Option<SharedName>,
    without_end: Vec<Arc<str>>,
}

impl Noticed {
    /// What was noticed when the input was read before the job.
    fn in_advance(summary: &InputSummary) -> Self {
        Self {
            sequences: summary.records - summary.rejected,
            counts: summary.counts,
            shared_name: summary.shared_name.clone(),
            without_end: summary.without_end.clone(),
        }
    }

    /// What the job itself noticed, which is the first to read a pipe.
    pub fn of_job(manifest: &ManifestHead, notes: &InputNotes) -> Self {
        let counts = manifest
            .counts
            .iter()
            .map(|(name, n)| (name.clone(), (*n).into()));
        let counts = serde_json::Value::Object(counts.collect());
        Self {
            sequences: manifest.records,
            // Counts that cleaning does not make are passed over.
            counts: serde_json::from_value(counts).unwrap_or_default(),
            shared_name: notes.shared_name.clone(),
            without_end: notes.without_end.clone(),
        }
    }

    /// Warns of input that is computed as it is, but is probably not what the user wants.
    pub fn warn(&self, options: &EmbedOptions, alphabet: Alphabet, console: &Console) {
        let counts = &self.counts;
        if counts.other_alphabet > 0 {
            let (found, reads) = match alphabet {
                Alphabet::Protein => ("DNA", "proteins"),
                Alphabet::Dna => ("proteins", "DNA"),
            };
            console.warn(&format!(
                "this looks like {found}, and the model reads {reads} ({} of {} sequences)",
                count(counts.other_alphabet),
                count(self.sequences)
            ));
        }
        if counts.shared_names > 0 {
            let first = self.shared_name.as_ref().map(
                |SharedName {
                     name,
                     records: [a, b],
                 }| {
                    format!(
                        " (first: {}, records {} and {})",
                        Shown(name),
                        count(*a),
                        count(*b)
                    )
                },
            );
            let keep = match options.names {
                Names::First => "; --names header keeps the whole header",
                Names::Header => "",
            };
            console.warn(&format!(
                "{} records share a name{}; rows go by position{keep}",
                count(counts.shared_names),
                first.unwrap_or_default()
            ));
        }
        if counts.gaps > 0 && options.cleaning != Cleaning::Ungapped {
            let tokens = match alphabet {
                Alphabet::Protein => "ESM-2 has tokens for gaps but was not trained on alignments",
                Alphabet::Dna => "they become unknown tokens",
            };
            console.warn(&format!(
                "gap characters are kept ({}): {tokens}; --gaps drop removes them",
                count(counts.gaps)
            ));
        }
        if counts.chain_breaks > 0 {
            console.warn(&format!(
            "colons between chains become unknown tokens ({}): --chains split makes a record of each chain",
            count(counts.chain_breaks)
        ));
        }
        for file in &self.without_end {
            console.warn(&format!(
                "{file}: the end marker of bgzip is missing; the file may be cut short"
            ));
        }
    }
}

/// Returns the number and the words that fit it.
pub fn counted(n: u64, one: &str, more: &str) -> String {
    format!("{} {}", count(n), if n == 1 { one } else { more })
}

/// Returns a skipped record in words.
pub fn example(rejected: &Rejected) -> String {
    let Rejected {
        name,
        file,
        record,
        line,
        reason,
    } = rejected;
    let name = match name.is_empty() {
        true => "",
        false => &format!(" ('{}')", Shown(name)),
    };
    let file = match file.as_str() {
        "-" => "standard input",
        file => &Shown(file).to_string(),
    };
    let line = match line {
        0 => "",
        n => &format!(", line {n}"),
    };
    format!("{file}, record {record}{name}{line}: {}", Shown(reason))
}

pub fn reader_options(options: &EmbedOptions) -> ReaderOptions {
    ReaderOptions {
        names: options.names,
        bad_records: options.bad_records,
        chains: options.chains,
        strict: options.strict,
        ..ReaderOptions::default()
    }
}
