//! Choices of algorithms on disk: a file a kind of device and library version.
//!
//! Nothing here is an error. A file that cannot be read counts as none, a file that cannot be written is left out, and
//! both are warned of. A file is written beside its final name and renamed, under a lock, so that several processes
//! add to one file and the first choice of a product stands.

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

/// How long the lock is waited for. Whoever holds it reads and writes one small file; who holds it for longer is
/// stopped, or on a file system that hangs.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two attempts.
const ATTEMPT: Duration = Duration::from_millis(20);

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

    /// The same, and it waits no longer than this for the lock.
    #[cfg(test)]
    pub fn patient(self, patience: Duration) -> Self {
        Self { patience, ..self }
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
        let text = match file::read_text(&self.file(), AlgorithmTable::MOST_BYTES) {
            Ok(text) => text,
            // What stands where the folder should be is told when something is to be kept in it.
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

    /// The lock, held until it is dropped. Its file stays: to remove it would let two processes lock two files.
    fn lock(&self) -> io::Result<File> {
        let path = self.folder.join(format!("{}.lock", self.stem));
        let at = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        // To open a pipe would wait for its other end.
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

    /// Keeps a choice, and says which one now stands: one that another process kept first, unless `replace`. The
    /// error is a warning.
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
            // Nothing that stands there is opened: whatever another process left is removed.
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
