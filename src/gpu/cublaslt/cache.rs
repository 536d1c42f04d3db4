//! Choices of algorithms on disk: a file a kind of device and library version.
//!
//! Never an error: a file that cannot be read is as none, one that cannot be written is not. Written beside and
//! renamed, under a lock, so that several processes add to one file and the first choice of a product stands.

use super::algorithm::{Algorithm, Machine, Table};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Changes where the meaning of what is written does.
const FORMAT: u32 = 1;
/// What nobody has written here is not read: a table of a hundred products has some 20 kB.
const MOST_BYTES: u64 = 1 << 20;

/// The file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    format: u32,
    device: String,
    table: Table,
    /// Of `table` as JSON: algorithms are opaque, and a damaged one must not reach the library.
    digest: String,
}

pub(super) struct Cache {
    folder: PathBuf,
    stem: String,
    device: String,
    machine: Machine,
}

type Products = BTreeMap<String, Algorithm>;

impl Cache {
    pub fn new(folder: &Path, device: &str, machine: Machine) -> Self {
        let plain = |c: char| match c.is_ascii_alphanumeric() {
            true => c.to_ascii_lowercase(),
            false => '-',
        };
        let name: String = device.chars().map(plain).take(100).collect();
        let ((major, minor), version) = (machine.capability, machine.cublaslt);
        Self {
            folder: folder.to_owned(),
            stem: format!("gemm-{name}-sm{major}{minor}-{version}"),
            device: device.to_owned(),
            machine,
        }
    }

    fn file(&self) -> PathBuf {
        self.folder.join(format!("{}.json", self.stem))
    }

    /// What is kept for this machine; nothing where there is no file. The error is a warning.
    pub fn read(&self) -> Result<Products, String> {
        self.parse().map_err(|reason| {
            let file = self.file();
            format!(
                "{} is not read, and GEMM algorithms are chosen anew: {reason}",
                file.display()
            )
        })
    }

    fn parse(&self) -> Result<Products, String> {
        let file = match fs::metadata(self.file()) {
            Ok(found) if found.len() > MOST_BYTES => return Err("it is too large".into()),
            Ok(_) => fs::read_to_string(self.file()),
            Err(error) => Err(error),
        };
        let text = match file {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Products::new()),
            Err(error) => return Err(error.to_string()),
        };
        let kept: Kept = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        if kept.format != FORMAT {
            return Err(format!("format {}, not {FORMAT}", kept.format));
        }
        if (&kept.device, kept.table.machine) != (&self.device, self.machine) {
            return Err(format!("it is of {}, {}", kept.device, kept.table.machine));
        }
        if kept.digest != digest(&kept.table) {
            return Err("its digest is another".into());
        }
        Ok(kept.table.products)
    }

    /// Keeps a choice, and says which one now stands: one that another process kept first, unless `replace`. The
    /// error is a warning.
    pub fn add(&self, name: &str, chosen: &Algorithm, replace: bool) -> Result<Algorithm, String> {
        let add = || -> io::Result<Algorithm> {
            fs::create_dir_all(&self.folder)?;
            // Held until it is dropped. It stays: to remove it would let two processes lock two files.
            let lock = File::create(self.folder.join(format!("{}.lock", self.stem)))?;
            lock.lock()?;
            // A file that cannot be read has been warned of, and is replaced.
            let mut products = self.parse().unwrap_or_default();
            if let Some(first) = products.get(name).filter(|_| !replace) {
                return Ok(first.clone());
            }
            products.insert(name.to_owned(), chosen.clone());
            let table = Table {
                machine: self.machine,
                products,
            };
            let kept = Kept {
                format: FORMAT,
                device: self.device.clone(),
                digest: digest(&table),
                table,
            };
            let beside = self.folder.join(format!("{}.partial", self.stem));
            fs::write(&beside, serde_json::to_string_pretty(&kept)?)?;
            fs::rename(&beside, self.file())?;
            Ok(chosen.clone())
        };
        add().map_err(|error| {
            let folder = self.folder.display();
            format!("GEMM algorithms cannot be kept in {folder}, and are chosen again next time: {error}")
        })
    }
}

fn digest(table: &Table) -> String {
    blake3::hash(table.to_json().as_bytes())
        .to_hex()
        .to_string()
}
