//! Keeps the choices of algorithms on disk, in one file per kind of device and library version.
//!
//! No failure here is an error. A file that cannot be read counts as absent, a file that cannot be
//! written is skipped, and both cases give a warning. A file is written beside its final name and
//! then renamed, under a lock, so that several processes can add to one file and the first choice
//! for a GEMM stands.

use super::algorithm::{Algorithm, Machine};
use super::error::GemmError;
use super::table::{AlgorithmTable, Table};
use crate::untrusted::file;
use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long the lock is waited for. A process that holds it only reads and writes one small file. A
/// process that holds it for longer is stopped, or works on a file system that hangs.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause between two attempts to take the lock.
const ATTEMPT: Duration = Duration::from_millis(20);

/// The cache file for one kind of device and one library version.
pub(super) struct Cache {
    folder: PathBuf,
    stem: String,
    device: String,
    machine: Machine,
    patience: Duration,
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
            patience: PATIENCE,
        }
    }

    /// Returns the same cache with another limit on the wait for the lock.
    #[cfg(test)]
    pub fn patient(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    fn file(&self) -> PathBuf {
        self.folder.join(format!("{}.json", self.stem))
    }

    /// Returns the choices that are kept for this machine, or none if there is no file. The error
    /// is the text of a warning.
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
        let text = match file::read_text(&self.file(), AlgorithmTable::MOST_BYTES) {
            Ok(text) => text,
            // If the folder's path is something else than a folder, `add` reports it.
            Err(error)
                if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) =>
            {
                return Ok(Products::new());
            }
            Err(error) => return Err(error.to_string()),
        };
        let kept = match AlgorithmTable::parse(&text) {
            Ok(kept) => kept,
            Err(GemmError::Table(reason)) => return Err(reason),
            Err(error) => return Err(error.to_string()),
        };
        if (&kept.device, kept.table.machine) != (&self.device, self.machine) {
            return Err(format!("it is of {}, {}", kept.device, kept.table.machine));
        }
        Ok(kept.table.products)
    }

    /// Takes the lock, which is held until the file is dropped. The lock's file is never removed,
    /// since two processes could then lock two different files.
    fn lock(&self) -> io::Result<File> {
        let path = self.folder.join(format!("{}.lock", self.stem));
        let at = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        // If the path were a pipe, opening it would wait for the pipe's other end.
        file::is_regular(&path).map_err(at)?;
        let mut options = File::options();
        let file = options.create(true).truncate(false).write(true);
        let lock = file.open(&path).map_err(at)?;
        let began = Instant::now();
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                Err(TryLockError::WouldBlock) if began.elapsed() < self.patience => sleep(ATTEMPT),
                Err(TryLockError::WouldBlock) => {
                    let reason = format!(
                        "another process, which may be stopped, has held {} for {:?} (`fuser` names it)",
                        path.display(),
                        self.patience
                    );
                    return Err(io::Error::new(ErrorKind::TimedOut, reason));
                }
                Err(TryLockError::Error(e)) => return Err(at(e)),
            }
        }
    }

    /// Keeps a choice, and returns the choice that now stands. If another process has kept a choice
    /// first, that one stands, unless `replace` is set. The error is the text of a warning.
    pub fn add(&self, name: &str, chosen: &Algorithm, replace: bool) -> Result<Algorithm, String> {
        let add = || -> io::Result<Algorithm> {
            fs::create_dir_all(&self.folder)?;
            let _lock = self.lock()?;
            // A file that cannot be read has been warned of, and is replaced.
            let mut products = self.parse().unwrap_or_default();
            if let Some(first) = products.get(name).filter(|_| !replace) {
                return Ok(first.clone());
            }
            products.insert(name.to_owned(), chosen.clone());
            let kept = AlgorithmTable {
                device: self.device.clone(),
                table: Table {
                    machine: self.machine,
                    products,
                },
            };
            // A partial file that another process left is removed and never opened.
            let beside = self.folder.join(format!("{}.partial", self.stem));
            match fs::remove_file(&beside) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let mut partial = File::create_new(&beside)?;
            io::Write::write_all(&mut partial, kept.to_json().as_bytes())?;
            fs::rename(&beside, self.file())?;
            Ok(chosen.clone())
        };
        add().map_err(|error| {
            format!(
                "GEMM algorithms cannot be kept in {}, so that the next job chooses its own, perhaps others: {error}",
                self.folder.display()
            )
        })
    }
}
