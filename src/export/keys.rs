//! What names a record in an export, and which names have a place in which format.

use std::collections::{HashMap, HashSet};

use super::{ExportError, Format};
use crate::output::Finished;

/// What names a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// Its name in ids.txt.
    Id,
    /// The accession in a name of the form `database|accession|entry`, as UniProt and NCBI write
    /// names. Other names are taken whole.
    Accession,
}

impl Key {
    /// Returns the key of a record.
    pub fn of(self, id: &str) -> &str {
        if self == Self::Id {
            return id;
        }
        // With the whole header as name, the accession is in its first word.
        let word = id.split_ascii_whitespace().next().unwrap_or(id);
        let mut parts = word.split('|');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(_), Some(accession), Some(_)) if !accession.is_empty() => accession,
            _ => word,
        }
    }
}

/// The rules for the keys of a format.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// What the key becomes.
    what: &'static str,
    unique: bool,
    check: fn(&str) -> Option<&'static str>,
    /// Whether the rules are looked at, or the length of the keys is needed.
    any: bool,
}

impl Rules {
    /// Any key will do.
    pub const NONE: Self = Self {
        what: "a value",
        unique: false,
        check: |_| None,
        any: false,
    };
    /// Keys are the names of datasets.
    pub const DATASET: Self = Self {
        what: "the name of a dataset",
        unique: true,
        check: dataset,
        any: true,
    };
    /// Keys are the names of files.
    pub const FILE: Self = Self {
        what: "the name of a file",
        unique: true,
        check: file,
        any: true,
    };
    /// Keys are elements of an array in which all have the size of the longest.
    pub const ARRAY: Self = Self {
        what: "an element of the array of names",
        unique: false,
        check: element,
        any: true,
    };
}

const SLASH: &str = "it contains a slash, which separates folders";

fn dataset(key: &str) -> Option<&'static str> {
    match key {
        "" => Some("it is empty"),
        "." => Some("a dot alone means the group itself"),
        _ if key.contains('/') => Some("it contains a slash, which separates groups"),
        _ if key.contains('\0') => Some("it contains a zero byte"),
        _ => None,
    }
}

/// The most bytes of a file's name on common file systems, without ".pt".
const LONGEST_FILE: usize = 255 - 3;

fn file(key: &str) -> Option<&'static str> {
    match key {
        "" => Some("it is empty"),
        _ if key.contains('/') => Some(SLASH),
        _ if key.contains('\\') => {
            Some("it contains a backslash, which separates folders on Windows")
        }
        _ if key.contains(char::is_control) => Some("it contains a control character"),
        _ if key.len() > LONGEST_FILE => Some("it has more than 252 bytes"),
        _ => None,
    }
}

/// The most characters of an element: a single long name would make every element as long.
const LONGEST_ELEMENT: usize = 4096;

fn element(key: &str) -> Option<&'static str> {
    // NumPy drops zeros at the end of an element.
    match key {
        _ if key.ends_with('\0') => Some("it ends with a zero byte"),
        _ if key.chars().count() > LONGEST_ELEMENT => Some("it has more than 4096 characters"),
        _ => None,
    }
}

/// What is known about all keys.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct KeyFacts {
    /// The characters of the longest key, if the format has rules.
    pub longest: usize,
}

/// Calls `take` with every key of the output and its number.
pub(super) fn each(
    finished: &Finished,
    key: Key,
    take: &mut dyn FnMut(u64, &str) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let mut number = 0;
    for listed in finished.shards() {
        for id in finished.shard(listed)?.ids()? {
            take(number, key.of(&id?))?;
            number += 1;
        }
    }
    Ok(())
}

/// Half of the hash of a key: two of 2^40 different keys have the same with a probability of 2^-49.
fn short(key: &str) -> u128 {
    let hash = blake3::hash(key.as_bytes());
    let mut half = [0; 16];
    half.copy_from_slice(&hash.as_bytes()[..16]);
    u128::from_le_bytes(half)
}

/// Checks every key.
pub(super) fn check(
    finished: &Finished,
    key: Key,
    rules: Rules,
    format: Format,
) -> Result<KeyFacts, ExportError> {
    let mut facts = KeyFacts::default();
    if !rules.any {
        return Ok(facts);
    }
    let mut hashes = Vec::new();
    each(finished, key, &mut |number, text| {
        if let Some(reason) = (rules.check)(text) {
            return Err(ExportError::BadKey {
                format,
                what: rules.what,
                key: text.to_owned(),
                number: number + 1,
                reason,
            });
        }
        facts.longest = facts.longest.max(text.chars().count());
        if rules.unique {
            hashes.push(short(text));
        }
        Ok(())
    })?;
    hashes.sort_unstable();
    let pairs = hashes.windows(2).filter(|pair| pair[0] == pair[1]);
    let repeated: HashSet<u128> = pairs.map(|pair| pair[0]).collect();
    drop(hashes);
    if repeated.is_empty() {
        return Ok(facts);
    }
    let mut seen: HashMap<u128, u64> = HashMap::new();
    each(finished, key, &mut |number, text| {
        let hash = short(text);
        if !repeated.contains(&hash) {
            return Ok(());
        }
        match seen.insert(hash, number) {
            None => Ok(()),
            Some(first) => Err(ExportError::Duplicate {
                format,
                key: text.to_owned(),
                first: first + 1,
                second: number + 1,
                accession: key == Key::Accession,
            }),
        }
    })?;
    Ok(facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accessions_are_found_in_names_of_databases() {
        for (id, accession) in [
            ("sp|P12345|AATM_RABIT", "P12345"),
            ("tr|A0A024R1R8|A0A024R1R8_HUMAN Protein", "A0A024R1R8"),
            ("gi|123|ref|NP_1.1|", "123"),
            ("P12345", "P12345"),
            ("P12345 some protein", "P12345"),
            ("a|b", "a|b"),
            ("a||c", "a||c"),
            ("", ""),
        ] {
            assert_eq!(Key::Accession.of(id), accession, "{id}");
            assert_eq!(Key::Id.of(id), id);
        }
    }

    #[test]
    fn names_that_would_leave_the_folder_are_refused() {
        for bad in [
            "",
            "a/b",
            "../x",
            "/etc/passwd",
            "a\\b",
            "a\0",
            "a\nb",
            "\u{1b}[2J",
        ] {
            assert!(file(bad).is_some(), "{bad:?}");
        }
        for bad in ["", ".", "a/b", "./a", "a\0b"] {
            assert!(dataset(bad).is_some(), "{bad:?}");
        }
        // With ".pt" behind them, these are plain names.
        for good in [".", "..", "a b", "sp|P1|X", "é", "-rf", &"x".repeat(252)] {
            assert_eq!(file(good), None, "{good:?}");
        }
        assert!(file(&"é".repeat(127)).is_some());
        assert!(element(&"x".repeat(4097)).is_some() && element("x\0").is_some());
        assert_eq!(element("a/b"), None);
    }
}
