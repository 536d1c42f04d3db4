//! Which algorithm computes which product: a value that decides bits, so that a job keeps it and shares it.

use super::bindings as sys;
use super::cache::Cache;
use super::error::GemmError;
use super::library::version_text;
use super::product::{ProductSpec, WORKSPACE};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// An algorithm of cuBLASLt with its configuration: opaque, and of use to the very version that it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct Algorithm {
    data: [u64; 8],
    workspace: usize,
}

/// As it is written: eight words of sixteen hexadecimal digits.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    algorithm: String,
    workspace: usize,
}

impl From<Algorithm> for Stored {
    fn from(of: Algorithm) -> Self {
        Self {
            algorithm: of.data.iter().map(|word| format!("{word:016x}")).collect(),
            workspace: of.workspace,
        }
    }
}

impl TryFrom<Stored> for Algorithm {
    type Error = String;

    fn try_from(stored: Stored) -> Result<Self, String> {
        let text = &stored.algorithm;
        if text.len() != 128 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err("an algorithm is not of 128 hexadecimal digits".into());
        }
        if stored.workspace > WORKSPACE {
            return Err(format!("{} bytes of workspace", stored.workspace));
        }
        let mut data = [0; 8];
        for (word, digits) in data.iter_mut().zip(text.as_bytes().chunks(16)) {
            // ASCII digits, as was just seen.
            let digits = String::from_utf8_lossy(digits);
            *word = u64::from_str_radix(&digits, 16).map_err(|e| e.to_string())?;
        }
        Ok(Self {
            data,
            workspace: stored.workspace,
        })
    }
}

impl Algorithm {
    pub(super) fn new(algorithm: &sys::cublasLtMatmulAlgo_t, workspace: usize) -> Self {
        Self {
            data: algorithm.data,
            workspace,
        }
    }

    pub(super) fn library(&self) -> sys::cublasLtMatmulAlgo_t {
        sys::cublasLtMatmulAlgo_t { data: self.data }
    }

    /// Bytes of workspace that it uses, at most [`WORKSPACE`].
    pub fn workspace(&self) -> usize {
        self.workspace
    }
}

/// What an algorithm's bytes are valid for, and its bits the same on. Not the device's name nor its number of
/// multiprocessors: without split-K those decide only which tile is computed where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Compute capability, (9, 0).
    pub capability: (u32, u32),
    /// cuBLASLt's version, 130002 for 13.0.2.
    pub cublaslt: usize,
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (major, minor) = self.capability;
        let version = version_text(self.cublaslt);
        write!(
            f,
            "cuBLASLt {version} on compute capability {major}.{minor}"
        )
    }
}

/// Products by name, and their algorithms: as a job keeps it and as it lies on disk.
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

    pub fn to_json(&self) -> String {
        // Strings and numbers: nothing in it can fail to be written.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// The algorithms of one job, for all its devices: a product is looked up here, then in the cache on disk, and only
/// then chosen. Shared by `Arc`.
pub struct Algorithms {
    cache: Option<PathBuf>,
    imposed: bool,
    inner: Mutex<Inner>,
}

struct Inner {
    /// Of the first device that asked, or as imposed.
    table: Option<Table>,
    warnings: Vec<String>,
}

impl Algorithms {
    /// None yet. `cache` is the folder that choices are kept in ([`Algorithms::default_cache`]); without one they
    /// are made again by every process, and may differ.
    pub fn new(cache: Option<PathBuf>) -> Self {
        Self {
            cache,
            imposed: false,
            inner: Mutex::new(Inner {
                table: None,
                warnings: Vec::new(),
            }),
        }
    }

    /// Those of a job that was begun before, as [`Algorithms::to_json`] gave them: what is not in the table cannot be
    /// had.
    ///
    /// # Errors
    /// [`GemmError::Table`]
    pub fn imposed(json: &str) -> Result<Self, GemmError> {
        let table = serde_json::from_str(json).map_err(|e| GemmError::Table(e.to_string()))?;
        Ok(Self {
            cache: None,
            imposed: true,
            inner: Mutex::new(Inner {
                table: Some(table),
                warnings: Vec::new(),
            }),
        })
    }

    /// `$SEQSTREAM_CACHE`, or `seqstream` in `$XDG_CACHE_HOME`, or `~/.cache/seqstream`; `None` where there is no home.
    pub fn default_cache() -> Option<PathBuf> {
        let folder = |name: &str| {
            let value = std::env::var_os(name).filter(|value| !value.is_empty());
            value.map(PathBuf::from)
        };
        folder("SEQSTREAM_CACHE")
            .or_else(|| Some(folder("XDG_CACHE_HOME")?.join("seqstream")))
            .or_else(|| Some(folder("HOME")?.join(".cache/seqstream")))
    }

    /// The table of all products in use so far, as JSON on one line, for [`Algorithms::imposed`]. `None` before the
    /// first device.
    pub fn to_json(&self) -> Option<String> {
        self.lock().table.as_ref().map(Table::to_json)
    }

    /// A digest of the same: the library's version, the compute capability, and the algorithms of all products in
    /// use, which with the operands decide a product's bits. `none` before the first device.
    pub fn fingerprint(&self) -> String {
        let Some(json) = self.to_json() else {
            return "none".into();
        };
        blake3::hash(json.as_bytes()).to_hex()[..32].to_owned()
    }

    /// What went wrong without being an error: a cache that could not be read or written. Each is told once.
    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().warnings)
    }

    /// Whether the table serves a machine; it becomes the machine's if it was none's.
    pub(super) fn admit(&self, machine: Machine, device: u32) -> Result<(), GemmError> {
        let mut inner = self.lock();
        let table = inner.table.get_or_insert_with(|| Table::new(machine));
        match table.machine == machine {
            true => Ok(()),
            false => Err(GemmError::Imposed {
                device,
                reason: format!("they are for {}, and here is {machine}", table.machine),
            }),
        }
    }

    /// The algorithm of a product: the job's, or the cache's, or what `choose` answers, one caller at a time, so that
    /// all devices have the same. `usable` says why an algorithm that comes from outside is not (`None`: it is).
    pub(super) fn get(
        &self,
        spec: &ProductSpec,
        (machine, device_name, device): (Machine, &str, u32),
        usable: impl Fn(&Algorithm) -> Result<Option<String>, GemmError>,
        choose: impl FnOnce() -> Result<Algorithm, GemmError>,
    ) -> Result<Algorithm, GemmError> {
        let mut inner = self.lock();
        let Inner { table, warnings } = &mut *inner;
        let table = table.get_or_insert_with(|| Table::new(machine));
        let name = spec.to_string();
        if let Some(known) = table.products.get(&name) {
            let imposed = |reason| GemmError::Imposed { device, reason };
            return match usable(known)? {
                None => Ok(known.clone()),
                Some(reason) => Err(imposed(format!("{spec}: {reason}"))),
            };
        }
        if self.imposed {
            let reason = format!("there is none for {spec}");
            return Err(GemmError::Imposed { device, reason });
        }
        let cache = self.cache.as_deref();
        let cache = cache.map(|folder| Cache::new(folder, device_name, machine));
        let kept = cache.as_ref().and_then(|cache| {
            let products = cache.read().unwrap_or_else(|warning| {
                warnings.push(warning);
                BTreeMap::new()
            });
            products.get(&name).cloned()
        });
        let mut replace = false;
        if let Some(kept) = kept {
            match usable(&kept)? {
                None => {
                    table.products.insert(name, kept.clone());
                    return Ok(kept);
                }
                Some(reason) => {
                    replace = true;
                    warnings.push(format!(
                        "the kept GEMM algorithm of {spec} is not used: {reason}"
                    ));
                }
            }
        }
        let mut chosen = choose()?;
        if let Some(cache) = &cache {
            match cache.add(&name, &chosen, replace) {
                // Another process may have been first: both use its choice.
                Ok(stands) => {
                    if stands != chosen && usable(&stands)?.is_none() {
                        chosen = stands;
                    }
                }
                Err(warning) => warnings.push(warning),
            }
        }
        table.products.insert(name, chosen.clone());
        Ok(chosen)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Entries are inserted whole: a panic elsewhere leaves nothing half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Algorithms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Algorithms")
            .field("cache", &self.cache)
            .field("imposed", &self.imposed)
            .finish_non_exhaustive()
    }
}
