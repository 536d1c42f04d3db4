//! A table of algorithms as a file: what the cache holds, and what a job keeps in its output directory.

use super::algorithm::{Algorithm, Machine};
use super::error::GemmError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Changes where the meaning of what is written does.
const FORMAT: u32 = 1;

/// Products by name, and their algorithms, of one kind of device and version of cuBLASLt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    pub machine: Machine,
    pub products: BTreeMap<String, Algorithm>,
}

impl Table {
    pub fn new(machine: Machine) -> Self {
        Self {
            machine,
            products: BTreeMap::new(),
        }
    }

    /// Of the table as JSON on one line, all 64 digits.
    fn digest(&self) -> String {
        // Strings and numbers: nothing in it can fail to be written.
        let json = serde_json::to_string(self).unwrap_or_default();
        blake3::hash(json.as_bytes()).to_hex().to_string()
    }
}

/// As it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    device: String,
    table: Table,
    /// Algorithms are opaque, and a damaged one must not reach the library.
    digest: String,
}

/// Read before all else: a file of another format may have other fields.
#[derive(Deserialize)]
struct Version {
    format: u32,
}

/// A table of algorithms, and the name of the device that it is for.
///
/// ```text
/// {
///   "format": 1,
///   "device": "NVIDIA H100 80GB HBM3",
///   "table": {
///     "machine": { "capability": [9, 0], "cublaslt": 130002 },
///     "products": { "f16 3840x1280 store bias": { "algorithm": "<128 digits>", "workspace": 0 }, ... }
///   },
///   "digest": "<64 digits>"
/// }
/// ```
///
/// `digest` is the BLAKE3 hash of `table` as JSON on one line. Its first 32 digits are the
/// [`fingerprint`](Self::fingerprint), which is `gemm` in a job's job.json.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlgorithmTable {
    pub(super) device: String,
    pub(super) table: Table,
}

impl AlgorithmTable {
    /// The most bytes that a file is read of: a table of a hundred products has some 20 kB.
    pub const MOST_BYTES: u64 = 1 << 20;

    /// Reads what [`to_json`](Self::to_json) wrote.
    ///
    /// # Errors
    /// [`GemmError::Table`]
    pub fn parse(text: &str) -> Result<Self, GemmError> {
        let refuse = |reason: String| Err(GemmError::Table(reason));
        let Version { format } =
            serde_json::from_str(text).map_err(|e| GemmError::Table(e.to_string()))?;
        if format != FORMAT {
            return refuse(format!(
                "its format is {format}, and this version of seqstream reads format {FORMAT}"
            ));
        }
        let stored: Stored =
            serde_json::from_str(text).map_err(|e| GemmError::Table(e.to_string()))?;
        if stored.digest != stored.table.digest() {
            return refuse("its digest is not that of its content".into());
        }
        Ok(Self {
            device: stored.device,
            table: stored.table,
        })
    }

    /// The file's content: indented JSON with a last newline, the same for the same table.
    pub fn to_json(&self) -> String {
        let stored = Stored {
            format: FORMAT,
            device: self.device.clone(),
            digest: self.table.digest(),
            table: self.table.clone(),
        };
        // Strings and numbers, as above.
        let mut text = serde_json::to_string_pretty(&stored).unwrap_or_default();
        text.push('\n');
        text
    }

    /// A digest of the table: the library's version, the compute capability, and the algorithms of all products,
    /// which with the operands decide a product's bits.
    pub fn fingerprint(&self) -> String {
        let mut digest = self.table.digest();
        digest.truncate(32);
        digest
    }

    /// Whether `other` has every product of this table, with the same algorithm.
    pub fn is_part_of(&self, other: &Self) -> bool {
        let same = |(name, algorithm)| other.table.products.get(name) == Some(algorithm);
        self.table.machine == other.table.machine && self.table.products.iter().all(same)
    }
}
