//! The whole input read and checked before hours are spent on it.

use super::{
    Alphabet, CleanCounts, Cleaning, Input, InputDigest, ReaderOptions, Record, SequenceError,
    SequenceReader, clean,
};

/// How the job will read its records.
#[derive(Debug, Clone)]
pub struct ScanOptions {
    /// The model's alphabet.
    pub alphabet: Alphabet,
    /// Cleaned or kept.
    pub cleaning: Cleaning,
    /// Whether unclean text is refused.
    pub strict: bool,
    /// The reader's bounds.
    pub reader: ReaderOptions,
}

/// What stands in the inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputSummary {
    /// Records.
    pub records: u64,
    /// Residues or bases after cleaning.
    pub residues: u64,
    /// The most residues in one record.
    pub longest: u64,
    /// What cleaning does to them.
    pub counts: CleanCounts,
    /// One for each input that was read, in order.
    pub inputs: Vec<InputDigest>,
    /// False where an input cannot be read twice (standard input, a pipe) and was left out.
    pub complete: bool,
}

/// Reads and checks all inputs that are regular files, keeping nothing. The others can be read only once, by the
/// job itself, and are left out.
///
/// # Errors
/// The first thing that the job itself would refuse, and a regular file that cannot be opened.
pub fn scan(inputs: &[Input], options: &ScanOptions) -> Result<InputSummary, SequenceError> {
    scan_each(inputs, options, |_| {}, |_, _| Ok(()))
}

/// The same. `read` is shown each record as it was read; `cleaned` is shown it once it is cleaned,
/// and what cleaning counted in it.
///
/// # Errors
/// The errors of [`scan`], and the first error of `cleaned`.
pub fn scan_each<E: From<SequenceError>>(
    inputs: &[Input],
    options: &ScanOptions,
    mut read: impl FnMut(&Record),
    mut cleaned: impl FnMut(&Record, &CleanCounts) -> Result<(), E>,
) -> Result<InputSummary, E> {
    // A path that does not exist stays in, for its error.
    let readable: Vec<Input> = inputs.iter().filter(|i| !only_once(i)).cloned().collect();
    let mut summary = InputSummary {
        records: 0,
        residues: 0,
        longest: 0,
        counts: CleanCounts::default(),
        inputs: Vec::new(),
        complete: readable.len() == inputs.len(),
    };
    let mut reader = SequenceReader::with_options(readable, options.reader.clone());
    let mut record = Record::default();
    while reader.next_into(&mut record)? {
        read(&record);
        let counts = clean(
            options.alphabet,
            options.cleaning,
            options.strict,
            &mut record,
        )?;
        cleaned(&record, &counts)?;
        summary.longest = summary.longest.max(counts.residues);
        summary.counts += counts;
    }
    summary.records = reader.records();
    summary.residues = summary.counts.residues;
    summary.inputs = reader.digests().to_vec();
    Ok(summary)
}

fn only_once(input: &Input) -> bool {
    match input {
        Input::Stdin => true,
        Input::Path(path) => std::fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir()),
    }
}
