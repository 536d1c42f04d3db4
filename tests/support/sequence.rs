//! Text that is read and cleaned, for tests.

use std::io::Cursor;
use std::path::PathBuf;

use seqstream::sequence::{
    Alphabet, CleanCounts, Cleaning, ReaderOptions, Record, SequenceError, SequenceReader, clean,
};

pub fn open(text: &[u8]) -> Result<SequenceReader, SequenceError> {
    SequenceReader::from_reader(
        "in.fa",
        Cursor::new(text.to_vec()),
        ReaderOptions::default(),
    )
}

pub fn read(text: &[u8]) -> Result<Vec<Record>, SequenceError> {
    open(text)?.collect()
}

/// Returns ids and sequences.
pub fn pairs(text: &[u8]) -> Vec<(String, String)> {
    let records = read(text).unwrap_or_else(|e| panic!("{e}"));
    records
        .into_iter()
        .map(|r| (r.id, String::from_utf8(r.sequence).unwrap()))
        .collect()
}

pub fn own(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(a, b)| (a.to_string(), b.to_string()))
        .collect()
}

/// Returns the error of bad text, after a check that it names its file and a remedy.
pub fn error(text: &[u8]) -> SequenceError {
    let error = read(text).expect_err("this text is bad");
    assert_eq!(error.file(), "in.fa");
    assert!(error.to_string().starts_with("in.fa"), "{error}");
    assert!(error.remedy().is_some(), "{error}");
    error
}

/// Returns the record (1-based, in its file) and the line of an error.
pub fn at(error: &SequenceError) -> (u64, u64) {
    error.place().map(|p| (p.record, p.line)).unwrap()
}

pub fn cleaned(alphabet: Alphabet, text: &[u8]) -> (Vec<u8>, CleanCounts) {
    let mut record = Record::new("r", text);
    let counts = clean(alphabet, Cleaning::On, false, &mut record).unwrap();
    (record.sequence, counts)
}

pub fn temporary(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    (folder, path)
}
