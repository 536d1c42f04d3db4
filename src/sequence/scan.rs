//! Reads and checks the whole input before a job spends hours on it.

use std::sync::Arc;

use super::{
    Alphabet, BadRecords, CleanCounts, Cleaning, Input, InputDigest, ReaderOptions, Record,
    SeenNames, SequenceError, SequenceReader, SharedName, clean,
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
    /// The number of records, including those that are skipped.
    pub records: u64,
    /// The number of records that are skipped.
    pub rejected: u64,
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
    let skip = |error: SequenceError| {
        let skips = options.reader.bad_records == BadRecords::Skip && error.concerns_record();
        if skips { Ok(()) } else { Err(error) }
    };
    scan_each(inputs, options, |_| {}, |_, _| Ok(()), skip)
}

/// Scans like [`scan`] and shows each record to two callbacks: to `read` as it was read (or the
/// error for which the reader skipped it), and to `cleaned` after cleaning, with the counts of the
/// cleaning. A third callback decides whether a record is skipped for an error, or gives the error
/// back.
///
/// # Errors
/// The errors of [`scan`], and the first error of `cleaned`, unless `skip` takes them.
pub fn scan_each<E: From<SequenceError>>(
    inputs: &[Input],
    options: &ScanOptions,
    mut read: impl FnMut(Result<&Record, &SequenceError>),
    mut cleaned: impl FnMut(&Record, &CleanCounts) -> Result<(), E>,
    mut skip: impl FnMut(E) -> Result<(), E>,
) -> Result<InputSummary, E> {
    // A path that does not exist is kept, so that opening it gives the error.
    let readable: Vec<Input> = inputs.iter().filter(|i| !only_once(i)).cloned().collect();
    let mut summary = InputSummary {
        records: 0,
        rejected: 0,
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
    loop {
        let before = reader.records();
        let there = reader.next_into(&mut record);
        if reader.records() > before && before.is_multiple_of(options.shard_size) {
            names.clear();
        }
        let taken = match there {
            Ok(false) => break,
            Ok(true) => {
                read(Ok(&record));
                take(&mut record, options, &mut names, &mut summary, &mut cleaned)
            }
            Err(error) => {
                if reader.records() > before {
                    read(Err(&error));
                }
                Err(error.into())
            }
        };
        if let Err(error) = taken {
            skip(error)?;
            summary.rejected += 1;
        }
    }
    summary.records = reader.records();
    summary.residues = summary.counts.residues;
    summary.inputs = reader.digests().to_vec();
    summary.without_end = reader.without_end().to_vec();
    Ok(summary)
}

/// Cleans one record and adds it to the summary.
fn take<E: From<SequenceError>>(
    record: &mut Record,
    options: &ScanOptions,
    names: &mut SeenNames,
    summary: &mut InputSummary,
    cleaned: &mut impl FnMut(&Record, &CleanCounts) -> Result<(), E>,
) -> Result<(), E> {
    let mut counts = clean(options.alphabet, options.cleaning, options.strict, record)?;
    cleaned(record, &counts)?;
    // A record that is skipped shares its name with nobody.
    let (shared, first) = names.take(record, options.strict)?;
    counts.shared_names = shared;
    summary.shared_name = summary.shared_name.take().or(first);
    summary.longest = summary.longest.max(counts.residues);
    summary.counts += counts;
    Ok(())
}

/// Whether an input can be read only once, as standard input and pipes.
pub fn only_once(input: &Input) -> bool {
    match input {
        Input::Stdin => true,
        Input::Path(path) => std::fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir()),
    }
}
