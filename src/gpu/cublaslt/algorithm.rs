//! Which algorithm computes which GEMM. The choice decides the bits of the results, so a job keeps
//! it and all its devices share it.

use super::bindings as sys;
use super::cache::Cache;
use super::error::{GemmError, Refusal};
use super::library::version_text;
use super::product::{ProductSpec, WORKSPACE};
use super::table::{AlgorithmTable, Table};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// An algorithm of cuBLASLt with its configuration. The data is opaque, and valid only for the
/// library version that it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct Algorithm {
    data: [u64; 8],
    workspace: usize,
}

/// The written form of an [`Algorithm`]: eight words of sixteen hexadecimal digits each.
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
            // The digits are ASCII, as the check above has shown.
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
}

/// The kind of machine for which an algorithm's data is valid and on which it gives the same bits.
/// Neither the device's name nor its number of multiprocessors is part of it: without split-K,
/// those only decide which tile is computed where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The compute capability, (9, 0) for 9.0.
    pub capability: (u32, u32),
    /// The version of cuBLASLt, 130002 for 13.0.2.
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

/// The algorithms of one job, which all its devices share through an `Arc`. A GEMM is looked up
/// here first, and then in the given table or in the cache on disk. A missing algorithm is chosen
/// anew only if no table was given.
pub struct Algorithms {
    source: Source,
    inner: Mutex<Inner>,
}

/// Where an algorithm comes from that this job has not used before.
#[derive(Debug)]
enum Source {
    /// The folder that choices are kept in. Without a folder they are forgotten.
    Cache(Option<PathBuf>),
    /// Only this table. `name` says in errors which table it is.
    Given { table: AlgorithmTable, name: String },
}

#[derive(Default)]
struct Inner {
    /// The algorithms in use so far. The table names the first device that asked.
    used: Option<AlgorithmTable>,
    /// All warnings so far, each of them once.
    warnings: Vec<String>,
    /// How many of the warnings have been taken.
    taken: usize,
    /// Whether writing the cache has failed. It is not tried again, since the attempt may have
    /// waited for a lock.
    unwritable: bool,
}

impl Inner {
    fn used(&mut self, machine: Machine, device_name: &str) -> &mut AlgorithmTable {
        self.used.get_or_insert_with(|| AlgorithmTable {
            device: device_name.to_owned(),
            table: Table::new(machine),
        })
    }

    fn warn(&mut self, warning: String) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }
}

/// The device that asks for an algorithm.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asking<'a> {
    pub machine: Machine,
    pub device_name: &'a str,
    pub ordinal: u32,
}

impl Algorithms {
    /// Creates a store without algorithms. `cache` is the folder that choices are kept in
    /// ([`Algorithms::default_cache`]). Without it every process chooses again, and may choose
    /// other algorithms.
    pub fn new(cache: Option<PathBuf>) -> Self {
        Self {
            source: Source::Cache(cache),
            inner: Mutex::default(),
        }
    }

    /// Uses the algorithms of a job that was begun before, or of another share of the same job. An
    /// algorithm that is not in the table cannot be had. `name` says in errors which table it is,
    /// for example by its file.
    pub fn imposed(table: AlgorithmTable, name: String) -> Self {
        Self {
            source: Source::Given { table, name },
            inner: Mutex::default(),
        }
    }

    /// Returns `$SEQSTREAM_CACHE`, else `seqstream` in `$XDG_CACHE_HOME`, else
    /// `~/.cache/seqstream`, and `None` if `$HOME` is not set either.
    pub fn default_cache() -> Option<PathBuf> {
        let folder = |name: &str| {
            let value = std::env::var_os(name).filter(|value| !value.is_empty());
            value.map(PathBuf::from)
        };
        folder("SEQSTREAM_CACHE")
            .or_else(|| Some(folder("XDG_CACHE_HOME")?.join("seqstream")))
            .or_else(|| Some(folder("HOME")?.join(".cache/seqstream")))
    }

    /// Returns the table of all algorithms in use so far, or `None` before the first device asked.
    pub fn table(&self) -> Option<AlgorithmTable> {
        self.lock().used.clone()
    }

    /// Returns the [`AlgorithmTable::fingerprint`] of that table, or `none` before the first device
    /// asked.
    pub fn fingerprint(&self) -> String {
        let inner = self.lock();
        let used = inner.used.as_ref().map(AlgorithmTable::fingerprint);
        used.unwrap_or_else(|| "none".into())
    }

    /// Returns the warnings that are new since the last call, for example that the cache could not
    /// be read or written. Each warning is returned once.
    pub fn take_warnings(&self) -> Vec<String> {
        let mut inner = self.lock();
        let new = inner.warnings[inner.taken..].to_vec();
        inner.taken = inner.warnings.len();
        new
    }

    /// Checks that the job's algorithms serve a device. The first device that asks decides which
    /// machine they are for.
    pub(super) fn admit(&self, asking: Asking<'_>) -> Result<(), GemmError> {
        let mut inner = self.lock();
        if let Source::Given { table, .. } = &self.source
            && (table.table.machine, table.device.as_str()) != (asking.machine, asking.device_name)
        {
            let refusal = Refusal::Machine {
                of: format!("{}, {}", table.device, table.table.machine),
                here: format!("{}, {}", asking.device_name, asking.machine),
            };
            return Err(self.refuse(asking.ordinal, refusal));
        }
        let used = inner.used(asking.machine, asking.device_name);
        if used.table.machine != asking.machine {
            let refusal = Refusal::Machine {
                of: used.table.machine.to_string(),
                here: asking.machine.to_string(),
            };
            return Err(self.refuse(asking.ordinal, refusal));
        }
        Ok(())
    }

    fn refuse(&self, device: u32, refusal: Refusal) -> GemmError {
        let table = match &self.source {
            Source::Given { name, .. } => name.clone(),
            Source::Cache(_) => "the GEMM algorithms that the job's first device uses".into(),
        };
        GemmError::Imposed {
            table,
            device,
            refusal,
        }
    }

    /// Returns whether the algorithms of all these GEMMs are in the job's own table, the given
    /// table, or the cache. Whether they can still be used is not checked.
    pub(super) fn know(&self, specs: &[ProductSpec], asking: Asking<'_>) -> bool {
        let mut inner = self.lock();
        let used = &inner.used(asking.machine, asking.device_name).table;
        let unused = specs.iter().map(ProductSpec::to_string);
        let mut unused = unused.filter(|name| !used.products.contains_key(name));
        match &self.source {
            Source::Given { table, .. } => unused.all(|n| table.table.products.contains_key(&n)),
            Source::Cache(None) => unused.next().is_none(),
            Source::Cache(Some(folder)) => {
                let cache = Cache::new(folder, asking.device_name, asking.machine);
                // `get` warns of a cache that cannot be read.
                let kept = cache.read().unwrap_or_default();
                unused.all(|name| kept.contains_key(&name))
            }
        }
    }

    /// Returns the algorithm of a GEMM. It comes from the job's own table, else from the given
    /// table or the cache, else from `choose`. One caller at a time is served, so that all devices
    /// get the same algorithm. `usable` returns why an algorithm from outside cannot be used, or
    /// `None` if it can.
    pub(super) fn get(
        &self,
        spec: &ProductSpec,
        asking: Asking<'_>,
        usable: impl Fn(&Algorithm) -> Result<Option<String>, GemmError>,
        choose: impl FnOnce() -> Result<Algorithm, GemmError>,
    ) -> Result<Algorithm, GemmError> {
        let mut inner = self.lock();
        let name = spec.to_string();
        let used = inner.used(asking.machine, asking.device_name);
        let known = used.table.products.get(&name);
        let known = match &self.source {
            Source::Given { table, .. } => known.or(table.table.products.get(&name)),
            Source::Cache(_) => known,
        };
        let algorithm = match (known.cloned(), &self.source) {
            (Some(known), _) => match usable(&known)? {
                None => known,
                Some(reason) => {
                    let refusal = Refusal::Unusable { spec: name, reason };
                    return Err(self.refuse(asking.ordinal, refusal));
                }
            },
            (None, Source::Given { .. }) => {
                return Err(self.refuse(asking.ordinal, Refusal::Lacks { spec: name }));
            }
            (None, Source::Cache(folder)) => {
                let cache = folder
                    .as_deref()
                    .map(|folder| Cache::new(folder, asking.device_name, asking.machine));
                from_cache(&mut inner, cache.as_ref(), &name, usable, choose)?
            }
        };
        let used = inner.used(asking.machine, asking.device_name);
        used.table.products.insert(name, algorithm.clone());
        Ok(algorithm)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Entries are inserted whole, so a panic elsewhere leaves nothing half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the cache's algorithm for a GEMM, or the result of `choose`, which the cache then keeps.
fn from_cache(
    inner: &mut Inner,
    cache: Option<&Cache>,
    name: &str,
    usable: impl Fn(&Algorithm) -> Result<Option<String>, GemmError>,
    choose: impl FnOnce() -> Result<Algorithm, GemmError>,
) -> Result<Algorithm, GemmError> {
    let kept = cache.and_then(|cache| match cache.read() {
        Ok(products) => products.get(name).cloned(),
        Err(warning) => {
            inner.warn(warning);
            None
        }
    });
    let mut replace = false;
    if let Some(kept) = kept {
        match usable(&kept)? {
            None => return Ok(kept),
            Some(reason) => {
                replace = true;
                inner.warn(format!(
                    "the kept GEMM algorithm of {name} is not used: {reason}"
                ));
            }
        }
    }
    let chosen = choose()?;
    let Some(cache) = cache.filter(|_| !inner.unwritable) else {
        return Ok(chosen);
    };
    match cache.add(name, &chosen, replace) {
        // Another process may have been first. Then both processes use its choice.
        Ok(stands) if stands != chosen && usable(&stands)?.is_none() => Ok(stands),
        Ok(_) => Ok(chosen),
        Err(warning) => {
            inner.unwritable = true;
            inner.warn(warning);
            Ok(chosen)
        }
    }
}

impl std::fmt::Debug for Algorithms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Algorithms")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}
