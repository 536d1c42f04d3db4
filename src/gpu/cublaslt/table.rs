//! A table of algorithms as a file: the format of the cache, and of the table that a job keeps in
//! its output directory.

use super::algorithm::{Algorithm, Machine};
use super::error::GemmError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The version of the file format. It changes whenever the meaning of the content does.
const FORMAT: u32 = 1;

/// The algorithms of GEMMs by name, for one kind of device and one version of cuBLASLt.
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

    /// Returns the BLAKE3 digest of the table as JSON on one line, as 64 hexadecimal digits.
    fn digest(&self) -> String {
        // The table holds strings and numbers only, so that writing it cannot fail.
        let json = serde_json::to_string(self).unwrap_or_default();
        blake3::hash(json.as_bytes()).to_hex().to_string()
    }
}

/// The written form of an [`AlgorithmTable`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    device: String,
    table: Table,
    /// The digest of `table`. Algorithms are opaque, and a damaged one must not reach the library.
    digest: String,
}

/// The format number, which is read before all else: a file of another format may have other
/// fields.
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
///     "products": {
///       "f16 3840x1280 store bias": { "algorithm": "<128 digits>", "workspace": 0 },
///       ...
///     }
///   },
///   "digest": "<64 digits>"
/// }
/// ```
///
/// `digest` is the BLAKE3 hash of `table` as JSON on one line. Its first 32 digits are the
/// [`fingerprint`](Self::fingerprint), which is `gemm_algorithms` in a job's job.json.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlgorithmTable {
    pub(super) device: String,
    pub(super) table: Table,
}

impl AlgorithmTable {
    /// The largest file that is read, in bytes. A table of a hundred GEMMs has some 20 kB.
    pub const MOST_BYTES: u64 = 1 << 20;

    /// Reads the text that [`to_json`](Self::to_json) wrote.
    ///
    /// # Errors
    /// [`GemmError::Table`] if the text is not such a table.
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

    /// Returns the content of the file: indented JSON that ends in a newline, the same for the same
    /// table.
    pub fn to_json(&self) -> String {
        let stored = Stored {
            format: FORMAT,
            device: self.device.clone(),
            digest: self.table.digest(),
            table: self.table.clone(),
        };
        // Writing cannot fail, as in `digest`.
        let mut text = serde_json::to_string_pretty(&stored).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Returns a digest of the library's version, the compute capability and the algorithms of all
    /// GEMMs. Together with the operands these decide the bits of a result.
    pub fn fingerprint(&self) -> String {
        let mut digest = self.table.digest();
        digest.truncate(32);
        digest
    }

    /// Returns whether `other` has every GEMM of this table, with the same algorithm, for the same
    /// machine.
    pub fn is_part_of(&self, other: &Self) -> bool {
        let same = |(name, algorithm)| other.table.products.get(name) == Some(algorithm);
        self.table.machine == other.table.machine && self.table.products.iter().all(same)
    }
}
