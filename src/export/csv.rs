//! Text: a line per record, with the key and the values.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use super::{ExportError, Facts, Record, Sink};
use crate::output::{OutputDtype, Place};

/// A CSV file as RFC 4180 describes it, but with line ends of one character. The first line has the
/// names of the columns: `id`, `e0`, `e1` and so on.
pub(super) struct Csv {
    path: PathBuf,
    file: BufWriter<File>,
    dtype: OutputDtype,
    line: Vec<u8>,
}

impl Csv {
    pub fn create(place: &Place, facts: &Facts<'_>) -> Result<Self, ExportError> {
        let file = place.create().map_err(ExportError::Write)?;
        let mut csv = Self {
            path: place.partial().to_path_buf(),
            file: BufWriter::with_capacity(1 << 18, file),
            dtype: facts.dtype,
            line: b"id".to_vec(),
        };
        for i in 0..facts.width {
            csv.line.extend(format!(",e{i}").bytes());
        }
        csv.end_line()?;
        Ok(csv)
    }

    fn end_line(&mut self) -> Result<(), ExportError> {
        self.line.push(b'\n');
        let written = self.file.write_all(&self.line);
        self.line.clear();
        written.map_err(|e| ExportError::write(&self.path, e))
    }
}

impl Sink for Csv {
    fn record(&mut self, record: &Record<'_>) -> Result<(), ExportError> {
        quote(record.key, &mut self.line);
        for value in record.parts.iter().flat_map(|v| self.dtype.decode(v)) {
            // The shortest text that is read back as the same f32. Writing to memory cannot fail.
            let _ = write!(self.line, ",{value:?}");
        }
        self.end_line()
    }

    fn finish(mut self: Box<Self>) -> Result<(), ExportError> {
        let flushed = self.file.flush();
        flushed.map_err(|e| ExportError::write(&self.path, e))
    }
}

/// Adds a field. It is put between quotes if a reader would else divide or trim it.
fn quote(text: &str, line: &mut Vec<u8>) {
    let special = |c: char| [',', '"', '\n', '\r', '#'].contains(&c);
    let trimmed = text.trim().len() != text.len() || text.is_empty();
    if !trimmed && !text.contains(special) {
        line.extend_from_slice(text.as_bytes());
        return;
    }
    line.push(b'"');
    line.extend(text.replace('"', "\"\"").bytes());
    line.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_where_they_must_be() {
        for (name, field) in [
            ("sp|P1|X", "sp|P1|X"),
            ("a,b", "\"a,b\""),
            ("a \"b\"", "\"a \"\"b\"\"\""),
            (" a", "\" a\""),
            ("", "\"\""),
            ("#a", "\"#a\""),
            ("a\rb", "\"a\rb\""),
        ] {
            let mut line = Vec::new();
            quote(name, &mut line);
            assert_eq!(String::from_utf8(line).unwrap(), field);
        }
    }
}
