//! Reads and checks the whole input before a job spends hours on it.

use std::sync::Arc;

use super::{
    Alphabet, CleanCounts, Cleaning, Input, InputDigest, ReaderOptions, Record, SeenNames,
    SequenceError, SequenceReader, SharedName, clean,
};

/// The options that the job will read its records with.
#[derive(Debug, Clone)]
pub struct ScanOptions {
    /// The model's alphabet.
    pub alphabet: Alphabet,
    /// Whether text is cleaned.
    pub cleaning: Cleaning,
    /// Whether unclean text is an error.
    pub strict: bool,
    /// The number of records per shard: names are compared within a shard.
    pub shard_size: u64,
    /// The limits of the reader.
    pub reader: ReaderOptions,
}

/// A summary of the inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputSummary {
    /// The number of records.
    pub records: u64,
    /// The number of residues or bases after cleaning.
    pub residues: u64,
    /// The most residues in one record.
    pub longest: u64,
    /// The counts of the changes that cleaning makes.
    pub counts: CleanCounts,
    /// The first name that two records of one shard share.
    pub shared_name: Option<SharedName>,
    /// The digests of the inputs that were read, in order.
    pub inputs: Vec<InputDigest>,
    /// The names of the inputs that lack the end marker of bgzip.
    pub without_end: Vec<Arc<str>>,
    /// False if an input was left out because it cannot be read twice (standard input, a pipe).
    pub complete: bool,
}

/// Reads and checks all inputs that are regular files, and keeps nothing of them. Other inputs can
/// be read only once, by the job itself, and are left out.
///
/// # Errors
/// The first error that the job itself would report, and a regular file that cannot be opened.
pub fn scan(inputs: &[Input], options: &ScanOptions) -> Result<InputSummary, SequenceError> {
    scan_each(inputs, options, |_| {}, |_, _| Ok(()))
}

/// Scans like [`scan`] and shows each record to two callbacks: to `read` as it was read, and to
/// `cleaned` after cleaning, with the counts of the cleaning.
///
/// # Errors
/// The errors of [`scan`], and the first error of `cleaned`.
pub fn scan_each<E: From<SequenceError>>(
    inputs: &[Input],
    options: &ScanOptions,
    mut read: impl FnMut(&Record),
    mut cleaned: impl FnMut(&Record, &CleanCounts) -> Result<(), E>,
) -> Result<InputSummary, E> {
    // A path that does not exist is kept, so that opening it gives the error.
    let readable: Vec<Input> = inputs.iter().filter(|i| !only_once(i)).cloned().collect();
    let mut summary = InputSummary {
        records: 0,
        residues: 0,
        longest: 0,
        counts: CleanCounts::default(),
        shared_name: None,
        inputs: Vec::new(),
        without_end: Vec::new(),
        complete: readable.len() == inputs.len(),
    };
    let mut reader = SequenceReader::with_options(readable, options.reader.clone());
    let mut record = Record::default();
    let mut names = SeenNames::default();
    while reader.next_into(&mut record)? {
        read(&record);
        if record.index.is_multiple_of(options.shard_size) {
            names.clear();
        }
        let (shared, first) = names.take(&record, options.strict)?;
        summary.shared_name = summary.shared_name.or(first);
        let mut counts = clean(
            options.alphabet,
            options.cleaning,
            options.strict,
            &mut record,
        )?;
        counts.shared_names = shared;
        cleaned(&record, &counts)?;
        summary.longest = summary.longest.max(counts.residues);
        summary.counts += counts;
    }
    summary.records = reader.records();
    summary.residues = summary.counts.residues;
    summary.inputs = reader.digests().to_vec();
    summary.without_end = reader.without_end().to_vec();
    Ok(summary)
}

fn only_once(input: &Input) -> bool {
    match input {
        Input::Stdin => true,
        Input::Path(path) => std::fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir()),
    }
}
