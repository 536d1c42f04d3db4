//! NumPy's archive of arrays: a zip file with an npy file per array, none of them compressed.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::keys;
use super::{ExportError, Facts, Record, Sink};
use crate::output::{OutputDtype, Place};

/// Starts a file of an archive. Nothing in the archive depends on the clock.
pub(super) fn start_file(
    zip: &mut ZipWriter<BufWriter<File>>,
    path: &Path,
    name: &str,
    bytes: u64,
) -> Result<(), ExportError> {
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(zip::DateTime::default())
        .with_alignment(64)
        // Some space is left for what an archive adds.
        .large_file(bytes > u64::from(u32::MAX) - (1 << 20));
    zip.start_file(name, options).map_err(|e| failed(path, e))
}

pub(super) fn failed(path: &Path, error: zip::result::ZipError) -> ExportError {
    ExportError::write(path, error.into())
}

/// The arrays `embeddings` `[records, width]` and `ids` `[records]`; or, with the states of tokens,
/// `states` `[tokens, width]`, `offsets` `[records + 1]` and `ids`.
pub(super) struct Npz<'a> {
    path: PathBuf,
    zip: ZipWriter<BufWriter<File>>,
    facts: &'a Facts<'a>,
    /// The end of the tokens of each record, if their states are exported.
    ends: Option<Vec<u64>>,
}

impl<'a> Npz<'a> {
    pub fn create(place: &Place, facts: &'a Facts<'a>) -> Result<Self, ExportError> {
        let file = place.create().map_err(ExportError::Write)?;
        let mut npz = Self {
            path: place.partial().to_path_buf(),
            zip: ZipWriter::new(BufWriter::with_capacity(1 << 18, file)),
            facts,
            ends: facts.per_token().then(|| vec![0]),
        };
        let descr = match facts.dtype {
            OutputDtype::F32 => "<f4",
            OutputDtype::F16 => "<f2",
        };
        let name = match npz.ends {
            None => "embeddings",
            Some(_) => "states",
        };
        let values = facts.rows.saturating_mul(facts.width as u64);
        let shape = format!("({}, {})", facts.rows, facts.width);
        npz.start(
            name,
            descr,
            &shape,
            values.saturating_mul(facts.dtype.size() as u64),
        )?;
        Ok(npz)
    }

    fn start(
        &mut self,
        name: &str,
        descr: &str,
        shape: &str,
        bytes: u64,
    ) -> Result<(), ExportError> {
        start_file(&mut self.zip, &self.path, &format!("{name}.npy"), bytes)?;
        self.write(&header(descr, shape))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ExportError> {
        let written = self.zip.write_all(bytes);
        written.map_err(|e| ExportError::write(&self.path, e))
    }

    fn write_ids(&mut self) -> Result<(), ExportError> {
        // NumPy has no elements without characters.
        let longest = self.facts.keys.longest.max(1);
        let records = self.facts.finished.rows();
        let bytes = records.saturating_mul(4 * longest as u64);
        self.start(
            "ids",
            &format!("<U{longest}"),
            &format!("({records},)"),
            bytes,
        )?;
        let mut element = vec![0; 4 * longest];
        let (finished, key) = (self.facts.finished, self.facts.key);
        keys::each(finished, key, &mut |_, text| {
            element.fill(0);
            for (place, c) in element.chunks_exact_mut(4).zip(text.chars()) {
                place.copy_from_slice(&u32::from(c).to_le_bytes());
            }
            self.write(&element)
        })
    }
}

impl Sink for Npz<'_> {
    fn record(&mut self, record: &Record<'_>) -> Result<(), ExportError> {
        if let Some(ends) = &mut self.ends {
            let end = ends.last().copied().unwrap_or_default();
            ends.push(end + record.rows);
        }
        record
            .parts
            .iter()
            .try_for_each(|values| self.write(values))
    }

    fn finish(mut self: Box<Self>) -> Result<(), ExportError> {
        if let Some(ends) = self.ends.take() {
            let bytes = 8 * ends.len() as u64;
            self.start("offsets", "<i8", &format!("({},)", ends.len()), bytes)?;
            for end in ends {
                self.write(&end.to_le_bytes())?;
            }
        }
        self.write_ids()?;
        let Self { path, zip, .. } = *self;
        let mut file = zip.finish().map_err(|e| failed(&path, e))?;
        file.flush().map_err(|e| ExportError::write(&path, e))
    }
}

/// Returns the header of an array, as the module `output` writes it for its own arrays.
fn header(descr: &str, shape: &str) -> Vec<u8> {
    let dict = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    // The magic number, the version and the length take 10 bytes, and the line end takes 1.
    let size = (10 + dict.len() + 1).next_multiple_of(64);
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend_from_slice(&((size - 10) as u16).to_le_bytes());
    header.extend_from_slice(dict.as_bytes());
    header.resize(size - 1, b' ');
    header.push(b'\n');
    header
}
