//! The file rejected.tsv: the records that a job skipped, and why. Each shard that skipped records
//! has such a file, and the one beside the manifest joins them.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, ErrorKind, Read};

use serde::{Deserialize, Serialize};

use super::OutputError;
use super::jobdir::JobDir;

/// The name of the file, in a shard and beside the manifest.
pub const REJECTED_FILE: &str = "rejected.tsv";

/// The first line of the file.
pub(crate) const REJECTED_HEADER: &str = "name\tfile\trecord\tline\treason\n";

/// The most characters of a name in the file. The number of the record says which record it is.
const NAME: usize = 1000;

/// How many records the manifest gives as examples.
const EXAMPLES: usize = 5;

/// The bytes of a shard's file in which examples are sought.
const BEGINNING: u64 = 64 << 10;

/// A record that a job skipped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// The name of the record; empty if the name itself could not be read.
    pub name: String,
    /// The name of the input without directories; `-` for standard input.
    pub file: String,
    /// The number of the record within its input, from 1.
    pub record: u64,
    /// The line of the input, from 1; 0 if it is not known.
    pub line: u64,
    /// Why the record was skipped, as a clause.
    pub reason: String,
}

impl fmt::Display for Rejected {
    /// Writes the record as a line of the file, without the line end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut = self.name.char_indices().nth(NAME).map(|(at, _)| at);
        write_escaped(
            f,
            cut.and_then(|at| self.name.get(..at)).unwrap_or(&self.name),
        )?;
        f.write_str(if cut.is_some() { "...\t" } else { "\t" })?;
        write_escaped(f, &self.file)?;
        write!(f, "\t{}\t{}\t", self.record, self.line)?;
        write_escaped(f, &self.reason)
    }
}

/// Writes text without tabs, line ends and other control characters, in the escapes of Rust.
fn write_escaped(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for c in text.chars() {
        match c {
            '\\' => f.write_str("\\\\")?,
            c if c.is_control() => write!(f, "{}", c.escape_default())?,
            c => f.write_char(c)?,
        }
    }
    Ok(())
}

impl Rejected {
    /// Reads a line of the file. Its texts stay escaped.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split('\t').map(str::to_owned);
        let mut next = || fields.next();
        Some(Self {
            name: next()?,
            file: next()?,
            record: next()?.parse().ok()?,
            line: next()?.parse().ok()?,
            reason: next()?,
        })
    }
}

/// Joins the files of the shards `blocks`, which are in ascending order, into the file beside the
/// manifest. Returns the first few records.
pub(crate) fn write_rejected(dir: &JobDir, blocks: &[u64]) -> Result<Vec<Rejected>, OutputError> {
    let path = dir.path().join(REJECTED_FILE);
    let mut examples = Vec::new();
    dir.write_atomic(REJECTED_FILE, |out| {
        let written = |e| OutputError::io("write", &path, None, e);
        out.write_all(REJECTED_HEADER.as_bytes()).map_err(written)?;
        for &block in blocks {
            let from = dir.shard(block).join(REJECTED_FILE);
            let failed = |e| OutputError::io("read", &from, Some(block), e);
            let mut file = match File::open(&from) {
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                file => file.map_err(failed)?,
            };
            let mut header = vec![0; REJECTED_HEADER.len()];
            file.read_exact(&mut header).map_err(failed)?;
            let mut beginning = Vec::new();
            let read = file.by_ref().take(BEGINNING).read_to_end(&mut beginning);
            read.map_err(failed)?;
            let whole = beginning.split_inclusive(|b| *b == b'\n');
            let lines = whole.filter_map(|line| line.strip_suffix(b"\n"));
            let wanted = EXAMPLES.saturating_sub(examples.len());
            let parsed = lines.filter_map(|line| Rejected::parse(str::from_utf8(line).ok()?));
            examples.extend(parsed.take(wanted));
            out.write_all(&beginning).map_err(written)?;
            io::copy(&mut file, out).map_err(written)?;
        }
        Ok(())
    })?;
    Ok(examples)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejected(name: &str) -> Rejected {
        Rejected {
            name: name.into(),
            file: "a\tb.fa".into(),
            record: 2,
            line: 3,
            reason: "the sequence is empty".into(),
        }
    }

    #[test]
    fn no_name_breaks_the_table() {
        let said = |name: &str| rejected(name).to_string();
        assert_eq!(said("k2"), "k2\ta\\tb.fa\t2\t3\tthe sequence is empty");
        assert!(said("a\tb\n\\c\u{1b}é").starts_with("a\\tb\\n\\\\c\\u{1b}é\ta"));
        let long = said(&"é".repeat(NAME + 1));
        assert!(long.starts_with(&format!("{}...\t", "é".repeat(NAME))));
        assert!(!said(&"é".repeat(NAME)).contains("..."));
    }

    #[test]
    fn a_line_is_read_back() {
        let mut there = rejected("k2");
        let back = Rejected::parse(&there.to_string()).unwrap();
        there.file = "a\\tb.fa".into();
        assert_eq!(back, there);
        assert_eq!(Rejected::parse("a\tb\tc"), None);
    }
}
