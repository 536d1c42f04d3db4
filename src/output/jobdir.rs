//! The output directory of a job: who may write there, and how a file appears in it at once.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::OutputError;

/// What was asked, written first.
pub const JOB_FILE: &str = "job.json";
/// What was done, written last.
pub const MANIFEST_FILE: &str = "manifest.json";
/// The GEMM algorithms of a job on CUDA, written before [`JOB_FILE`].
pub const ALGORITHMS_FILE: &str = "algorithms.json";
const LOCK_FILE: &str = ".lock";
/// Suffix of what is not whole yet.
const PARTIAL: &str = ".partial";

/// The directory name of block `b`.
pub fn shard_name(block: u64) -> String {
    format!("shard-{block:06}")
}

fn shard_number(name: &str) -> Option<u64> {
    let block = name.strip_prefix("shard-")?.parse().ok()?;
    (shard_name(block) == name).then_some(block)
}

/// The numbers of the shards that stand in a directory, ascending.
pub fn list_shards(path: &Path) -> Result<Vec<u64>, OutputError> {
    let mut blocks: Vec<u64> = names(path)?
        .iter()
        .filter_map(|n| shard_number(n))
        .collect();
    blocks.sort_unstable();
    Ok(blocks)
}

/// An output directory, locked against other jobs for as long as this lives.
#[derive(Debug)]
pub struct JobDir {
    path: PathBuf,
    _lock: Option<File>,
}

impl JobDir {
    /// Opens the directory, creating it where needed, and locks it.
    ///
    /// Refuses a directory in which anything stands that no job wrote, and one in which another
    /// job runs.
    pub fn open(path: &Path) -> Result<Self, OutputError> {
        fs::create_dir_all(path)
            .map_err(|e| OutputError::io("create the output directory", path, None, e))?;
        // Before the lock file is made: a foreign directory is left as it was found.
        refuse_foreign(path)?;
        let lock_path = path.join(LOCK_FILE);
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(|e| OutputError::io("create", &lock_path, None, e))?;
        let lock = match lock.try_lock() {
            Ok(()) => Some(lock),
            Err(TryLockError::WouldBlock) => {
                return Err(OutputError::Locked {
                    path: path.to_path_buf(),
                });
            }
            // A file system without locks: better to work there unguarded than not at all.
            Err(TryLockError::Error(_)) => None,
        };
        Ok(Self {
            path: path.to_path_buf(),
            _lock: lock,
        })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a job was begun here.
    pub fn holds_job(&self) -> bool {
        self.path.join(JOB_FILE).exists()
    }

    /// Where block `b` stands once it is whole.
    pub fn shard(&self, block: u64) -> PathBuf {
        self.path.join(shard_name(block))
    }

    /// Where block `b` is written.
    pub fn partial(&self, block: u64) -> PathBuf {
        self.path.join(format!(".{}{PARTIAL}", shard_name(block)))
    }

    /// The numbers of the shards that stand here, ascending.
    pub fn shards(&self) -> Result<Vec<u64>, OutputError> {
        list_shards(&self.path)
    }

    /// Removes what an interrupted job left unfinished.
    pub fn remove_partials(&self) -> Result<(), OutputError> {
        for name in names(&self.path)?.iter().filter(|n| n.ends_with(PARTIAL)) {
            let path = self.path.join(name);
            let removed = if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.map_err(|e| OutputError::io("remove", &path, None, e))?;
        }
        Ok(())
    }

    /// Makes the partial directory of block `b`, replacing one that was left there.
    pub fn begin_shard(&self, block: u64) -> Result<PathBuf, OutputError> {
        let path = self.partial(block);
        match fs::remove_dir_all(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(OutputError::io("remove", &path, Some(block), e));
            }
            _ => {}
        }
        fs::create_dir(&path).map_err(|e| OutputError::io("create", &path, Some(block), e))?;
        Ok(path)
    }

    /// Gives the partial directory of block `b`, whose files are synced, its name, durably.
    pub fn commit_shard(&self, block: u64) -> Result<(), OutputError> {
        self.sync_partial(block)?;
        self.name_shard(block)?;
        self.sync_names(block)
    }

    /// The first of three steps of [`commit_shard`](Self::commit_shard): which files stand in the
    /// partial directory outlives a power failure.
    pub(crate) fn sync_partial(&self, block: u64) -> Result<(), OutputError> {
        let partial = self.partial(block);
        sync_dir(&partial).map_err(|e| OutputError::io("sync", &partial, Some(block), e))
    }

    /// The second: it has its name.
    pub(crate) fn name_shard(&self, block: u64) -> Result<(), OutputError> {
        let path = self.shard(block);
        fs::rename(self.partial(block), &path)
            .map_err(|e| OutputError::io("rename to", &path, Some(block), e))
    }

    /// The third: names given so far, that of block `b` the last, outlive a power failure.
    pub(crate) fn sync_names(&self, block: u64) -> Result<(), OutputError> {
        sync_dir(&self.path).map_err(|e| OutputError::io("sync", &self.path, Some(block), e))
    }

    /// Drops what was written of block `b`; on a full disk that also makes room.
    pub fn abandon_shard(&self, block: u64) {
        // What cannot be removed now is removed by --resume.
        let _ = fs::remove_dir_all(self.partial(block));
    }

    /// Writes a file that appears whole or not at all.
    pub fn write_atomic<F>(&self, name: &str, fill: F) -> Result<(), OutputError>
    where
        F: FnOnce(&mut dyn Write) -> Result<(), OutputError>,
    {
        let partial = self.path.join(format!(".{name}{PARTIAL}"));
        let path = self.path.join(name);
        let error = |action, e| OutputError::io(action, &path, None, e);
        let file = File::create(&partial).map_err(|e| error("create", e))?;
        let mut out = std::io::BufWriter::new(file);
        let written = fill(&mut out).and_then(|()| {
            out.flush().map_err(|e| error("write", e))?;
            out.get_ref().sync_all().map_err(|e| error("sync", e))?;
            fs::rename(&partial, &path).map_err(|e| error("rename to", e))?;
            sync_dir(&self.path).map_err(|e| error("sync", e))
        });
        if written.is_err() {
            let _ = fs::remove_file(&partial);
        }
        written
    }
}

fn names(path: &Path) -> Result<Vec<String>, OutputError> {
    let list = || -> std::io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    };
    list().map_err(|e| OutputError::io("list", path, None, e))
}

fn refuse_foreign(path: &Path) -> Result<(), OutputError> {
    let ours = |name: &str| {
        [JOB_FILE, ALGORITHMS_FILE, MANIFEST_FILE, LOCK_FILE].contains(&name)
            || shard_number(name).is_some()
            || name
                .strip_prefix('.')
                .and_then(|n| n.strip_suffix(PARTIAL))
                .is_some_and(|n| {
                    [JOB_FILE, ALGORITHMS_FILE, MANIFEST_FILE].contains(&n)
                        || shard_number(n).is_some()
                })
    };
    match names(path)?.into_iter().find(|name| !ours(name)) {
        Some(name) => Err(OutputError::Foreign {
            path: path.to_path_buf(),
            name,
        }),
        None => Ok(()),
    }
}

/// Makes a rename or a creation in `path` outlive a power failure.
#[cfg(unix)]
fn sync_dir(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

/// Directories cannot be opened for syncing here; the file system's journal has to do.
#[cfg(not(unix))]
fn sync_dir(_: &Path) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_directory_is_refused_and_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.txt"), "dear").unwrap();
        let error = JobDir::open(dir.path()).unwrap_err();
        assert!(
            matches!(&error, OutputError::Foreign { name, .. } if name == "thesis.txt"),
            "{error}"
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn two_jobs_cannot_share_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let first = JobDir::open(dir.path()).unwrap();
        assert!(matches!(
            JobDir::open(dir.path()),
            Err(OutputError::Locked { .. })
        ));
        drop(first);
        JobDir::open(dir.path()).unwrap();
    }

    #[test]
    fn a_shard_is_there_only_once_committed_and_partials_go() {
        let dir = tempfile::tempdir().unwrap();
        let job = JobDir::open(dir.path()).unwrap();
        for block in [7, 1_234_567] {
            let partial = job.begin_shard(block).unwrap();
            fs::write(partial.join("ids.txt"), "a\n").unwrap();
            assert!(!job.shard(block).exists());
            job.commit_shard(block).unwrap();
            assert!(job.shard(block).join("ids.txt").exists());
        }
        job.begin_shard(8).unwrap();
        job.remove_partials().unwrap();
        assert!(!job.partial(8).exists());
        assert_eq!(job.shards().unwrap(), [7, 1_234_567]);
    }

    #[test]
    fn a_file_that_failed_leaves_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let job = JobDir::open(dir.path()).unwrap();
        let write = |text: &'static [u8]| {
            move |out: &mut dyn Write| {
                out.write_all(text)
                    .map_err(|e| OutputError::io("write", Path::new("x"), None, e))
            }
        };
        job.write_atomic(JOB_FILE, write(b"old")).unwrap();
        let failed = job.write_atomic(JOB_FILE, |_| {
            Err(OutputError::io(
                "write",
                Path::new("x"),
                None,
                ErrorKind::StorageFull.into(),
            ))
        });
        assert!(failed.unwrap_err().hint().unwrap().contains("--resume"));
        assert_eq!(fs::read(dir.path().join(JOB_FILE)).unwrap(), b"old");
        job.write_atomic(JOB_FILE, write(b"new")).unwrap();
        assert_eq!(fs::read(dir.path().join(JOB_FILE)).unwrap(), b"new");
    }
}
