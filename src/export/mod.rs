//! Writes the output of a complete job into the files that other programs load.
//!
//! | file | what it writes |
//! |---|---|
//! | `h5` | HDF5 in UniProt's layout: a dataset per record (feature `export-h5`) |
//! | `parquet` | Parquet: a row per record (feature `export-parquet`) |
//! | `pt` | a folder of PyTorch files in fair-esm's layout, one per record |
//! | `npz` | NumPy's archive of arrays |
//! | `csv` | text: a line per record |
//!
//! An export is never the format of a job: it is made from a complete output, one record after the
//! other, and each shard is compared with its hashes before it is read. Memory does not grow with
//! the output, except by 16 bytes per record where names must be unique, and by 8 bytes per record
//! for the offsets of token states in an npz file. A file that has its final name is complete.

mod csv;
mod error;
#[cfg(feature = "export-h5")]
mod h5;
mod keys;
mod npz;
#[cfg(feature = "export-parquet")]
mod parquet;
mod pt;
mod select;
mod torch;

use std::fmt;
use std::path::Path;

pub use error::ExportError;
pub use keys::Key;
pub use select::{Content, Part};

use crate::output::{Finished, OutputDtype, Place};
use keys::{KeyFacts, Rules};

/// A format of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// HDF5: a dataset per record, whose name is its key.
    H5,
    /// Parquet: a row per record.
    Parquet,
    /// A folder of PyTorch files: one per record, whose name is its key.
    Pt,
    /// NumPy's archive: the names, and one array of all rows.
    Npz,
    /// Text: a line per record.
    Csv,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::H5 => "h5",
            Self::Parquet => "parquet",
            Self::Pt => "pt",
            Self::Npz => "npz",
            Self::Csv => "csv",
        })
    }
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 5] = [Self::H5, Self::Parquet, Self::Pt, Self::Npz, Self::Csv];

    /// Returns the feature of the build that the format needs and that this build lacks.
    pub fn missing_feature(self) -> Option<&'static str> {
        match self {
            Self::H5 if !cfg!(feature = "export-h5") => Some("export-h5"),
            Self::Parquet if !cfg!(feature = "export-parquet") => Some("export-parquet"),
            _ => None,
        }
    }
}

/// What is exported, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportOptions {
    /// The format.
    pub format: Format,
    /// What names a record.
    pub key: Key,
    /// The layer; negative numbers count from the end. Needed if the output has several.
    pub layer: Option<i64>,
    /// The pooling. Needed if the output has several.
    pub pool: Option<String>,
    /// Whether the states of every token are exported in place of the pooled rows.
    pub per_token: bool,
}

/// What an export wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// The number of records.
    pub records: u64,
    /// The number of tokens whose states were written, if the states of tokens were exported.
    pub tokens: Option<u64>,
    /// The layers and poolings that were written.
    pub parts: Vec<Part>,
}

/// A record on its way into an export.
struct Record<'a> {
    key: &'a str,
    id: &'a str,
    /// The number of rows of each part: 1 if they are pooled, and else the number of tokens.
    rows: u64,
    /// The stored values of each part.
    parts: &'a [Vec<u8>],
}

/// What is known before the first record is written.
struct Facts<'a> {
    finished: &'a Finished,
    parts: &'a [Part],
    key: Key,
    keys: KeyFacts,
    /// The number of rows of all records together.
    rows: u64,
    width: usize,
    dtype: OutputDtype,
}

impl Facts<'_> {
    fn per_token(&self) -> bool {
        self.parts.iter().any(|p| p.content == Content::States)
    }
}

/// A format that takes one record after the other.
trait Sink {
    fn record(&mut self, record: &Record<'_>) -> Result<(), ExportError>;

    /// Called after the last record of each shard.
    fn shard_end(&mut self) -> Result<(), ExportError> {
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), ExportError>;
}

/// Exports the output in `out` to `dest`, which must not exist. `progress` is called after each
/// shard with the number of records so far and of all records.
///
/// # Errors
/// Fails if the job is not complete or a file of it was changed, if a name has no place in the
/// format, and if `dest` cannot be written. Nothing is left at `dest` then.
pub fn export(
    out: &Path,
    dest: &Path,
    options: &ExportOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Exported, ExportError> {
    let format = options.format;
    if let Some(feature) = format.missing_feature() {
        return Err(ExportError::Feature { format, feature });
    }
    let finished = Finished::open(out)?;
    let parts = select::parts(&finished, options)?;
    let place = Place::new(dest).map_err(ExportError::Write)?;
    let per_token = parts.iter().any(|p| p.content == Content::States);
    let rules = match format {
        Format::H5 => Rules::DATASET,
        Format::Pt => Rules::FILE,
        Format::Npz => Rules::ARRAY,
        Format::Parquet | Format::Csv => Rules::NONE,
    };
    let facts = Facts {
        keys: keys::check(&finished, options.key, rules, format)?,
        key: options.key,
        rows: match per_token {
            true => finished.tokens(),
            false => finished.rows(),
        },
        width: finished.layout().width,
        dtype: finished.layout().dtype,
        finished: &finished,
        parts: &parts,
    };
    let mut sink: Box<dyn Sink + '_> = match format {
        Format::Csv => Box::new(csv::Csv::create(&place, &facts)?),
        Format::Npz => Box::new(npz::Npz::create(&place, &facts)?),
        Format::Pt => Box::new(pt::Folder::create(&place, &facts)?),
        #[cfg(feature = "export-h5")]
        Format::H5 => Box::new(h5::Datasets::create(&place, &facts)?),
        #[cfg(feature = "export-parquet")]
        Format::Parquet => Box::new(parquet::Rows::create(&place, &facts)?),
        #[cfg(not(all(feature = "export-h5", feature = "export-parquet")))]
        _ => {
            let feature = format.missing_feature().unwrap_or("export");
            return Err(ExportError::Feature { format, feature });
        }
    };
    records(&facts, sink.as_mut(), progress)?;
    sink.finish()?;
    let records = finished.rows();
    let tokens = per_token.then(|| finished.tokens());
    place.finish().map_err(ExportError::Write)?;
    Ok(Exported {
        records,
        tokens,
        parts,
    })
}

/// Sends all records to the sink, in the order of the input.
fn records(
    facts: &Facts<'_>,
    sink: &mut dyn Sink,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), ExportError> {
    let finished = facts.finished;
    let mut number = 0;
    let mut values = vec![Vec::new(); facts.parts.len()];
    for listed in finished.shards() {
        let shard = finished.shard(listed)?;
        let mut files = Vec::with_capacity(facts.parts.len());
        // All layers have the same tokens.
        let mut tokens = None;
        for part in facts.parts {
            files.push(match &part.content {
                Content::Pooled(pool) => shard.pooled(part.layer, pool)?,
                Content::States => {
                    let (counts, file) = shard.states(part.layer)?;
                    tokens = Some(counts);
                    file
                }
            });
        }
        let mut ids = shard.ids()?;
        for row in 0..shard.rows() {
            let missing = || ExportError::Names {
                names: row,
                records: shard.rows(),
            };
            let id = ids.next().ok_or_else(missing)??;
            let rows = match &tokens {
                None => 1,
                Some(counts) => usize::try_from(row)
                    .ok()
                    .and_then(|i| counts.get(i).copied())
                    .ok_or_else(missing)?,
            };
            for (file, values) in files.iter_mut().zip(&mut values) {
                file.read(rows, values)?;
            }
            sink.record(&Record {
                key: facts.key.of(&id),
                id: &id,
                rows,
                parts: &values,
            })?;
            number += 1;
        }
        sink.shard_end()?;
        progress(number, finished.rows());
    }
    Ok(())
}
