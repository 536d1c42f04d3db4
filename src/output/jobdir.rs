//! The output directory of a job: who may write there, and how a file appears in it at once.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::OutputError;
use super::lock::{Guard, LOCK_FILE, RUNNING_FILE, locked};
use super::owner::{Owner, State};

/// What was asked, written first.
pub const JOB_FILE: &str = "job.json";
/// What was done, written last.
pub const MANIFEST_FILE: &str = "manifest.json";
/// The GEMM algorithms of a job on CUDA, written before [`JOB_FILE`].
pub const ALGORITHMS_FILE: &str = "algorithms.json";
/// Suffix of what is not whole yet.
const PARTIAL: &str = ".partial";

/// The directory name of block `b`.
pub fn shard_name(block: u64) -> String {
    format!("shard-{block:06}")
}

/// The block whose directory has this name.
pub(crate) fn shard_number(name: &str) -> Option<u64> {
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

/// Where the file or directory `path` is written until it is whole: a name of the owner's own, so that
/// no other job writes there, whatever locks are worth.
pub(crate) fn partial_path(path: &Path, owner: &Owner) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{owner}{PARTIAL}"))
}

/// What of such a name is the final name, and the owner; programs before this one gave none.
fn parse_partial(name: &str) -> Option<(&str, Option<Owner>)> {
    let name = name.strip_prefix('.')?.strip_suffix(PARTIAL)?;
    match name.rsplit_once('.').map(|(n, o)| (n, Owner::parse(o))) {
        Some((name, Some(owner))) => Some((name, Some(owner))),
        _ => Some((name, None)),
    }
}

/// An output directory, locked against other jobs for as long as this lives.
#[derive(Debug)]
pub struct JobDir {
    path: PathBuf,
    owner: Owner,
    guard: Guard,
}

impl JobDir {
    /// Opens the directory, creating it where needed, and locks it.
    ///
    /// Refuses a directory in which anything stands that no job wrote, and one in which another
    /// job runs.
    pub fn open(path: &Path) -> Result<Self, OutputError> {
        create_dir(path)
            .map_err(|e| OutputError::io("create the output directory", path, None, e))?;
        // Before the lock file is made: a foreign directory is left as it was found.
        refuse_foreign(path)?;
        let owner = Owner::new();
        let guard = Guard::take(path, &owner)?;
        // Someone may have removed the lock of a job that is running.
        for name in names(path)? {
            if let Some((_, Some(other))) = parse_partial(&name)
                && other.state() == State::Running
            {
                return Err(locked(path, Some(&other)));
            }
        }
        Ok(Self {
            path: path.to_path_buf(),
            owner,
            guard,
        })
    }

    /// What a user should know of this directory: that it has no locks, and what was left there.
    pub fn warnings(&self) -> Vec<String> {
        let left = names(&self.path).unwrap_or_default();
        let left = left.iter().filter_map(|name| match parse_partial(name)? {
            (_, Some(owner)) if !self.may_remove(&owner) => Some(format!(
                "{} is left where it is, since {} may still be writing it; remove it when that job has ended",
                self.path.join(name).display(),
                owner.describe()
            )),
            _ => None,
        });
        self.guard
            .warning(&self.path)
            .into_iter()
            .chain(left)
            .collect()
    }

    /// Whether what `owner` has not finished is of no use to anyone. Of a process that cannot be seen
    /// from here only a lock tells that it has ended.
    fn may_remove(&self, owner: &Owner) -> bool {
        match owner.state() {
            State::Ours | State::Ended => true,
            State::Running => false,
            State::OutOfSight => self.guard.is_lock(),
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a job was begun here.
    pub fn holds_job(&self) -> Result<bool, OutputError> {
        stands(&self.path.join(JOB_FILE))
    }

    /// Whether a job came to its end here.
    pub fn holds_manifest(&self) -> Result<bool, OutputError> {
        stands(&self.path.join(MANIFEST_FILE))
    }

    /// Where block `b` stands once it is whole.
    pub fn shard(&self, block: u64) -> PathBuf {
        self.path.join(shard_name(block))
    }

    /// Where this job writes block `b`.
    pub fn partial(&self, block: u64) -> PathBuf {
        partial_path(&self.shard(block), &self.owner)
    }

    /// The numbers of the shards that stand here, ascending.
    pub fn shards(&self) -> Result<Vec<u64>, OutputError> {
        list_shards(&self.path)
    }

    /// Removes what interrupted jobs left unfinished. What may belong to a job that is running stays.
    pub fn remove_partials(&self) -> Result<(), OutputError> {
        for name in names(&self.path)? {
            let Some((whole, owner)) = parse_partial(&name) else {
                continue;
            };
            if owner.as_ref().is_some_and(|o| !self.may_remove(o)) {
                continue;
            }
            let path = self.path.join(&name);
            // Under a name of ours first: if its job is running all the same, and is giving it its
            // final name now, then either all of it is there or none.
            let ours = partial_path(&self.path.join(whole), &self.owner);
            match fs::rename(&path, &ours) {
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                renamed => renamed.map_err(|e| OutputError::io("rename", &path, None, e))?,
            }
            let removed = if ours.is_dir() {
                fs::remove_dir_all(&ours)
            } else {
                fs::remove_file(&ours)
            };
            removed.map_err(|e| OutputError::io("remove", &ours, None, e))?;
        }
        Ok(())
    }

    /// Removes block `b`, whatever stands under its name: first the name, then the rest, so that no
    /// half of it is ever taken for a shard.
    pub fn discard_shard(&self, block: u64) -> Result<(), OutputError> {
        let (path, partial) = (self.shard(block), self.partial(block));
        let error = |action, e| OutputError::io(action, &path, Some(block), e);
        fs::rename(&path, &partial).map_err(|e| error("remove", e))?;
        self.sync_names(block)?;
        // A link is removed, and not what it points to.
        let directory = fs::symlink_metadata(&partial).map(|m| m.is_dir());
        let removed = match directory.map_err(|e| error("remove", e))? {
            true => fs::remove_dir_all(&partial),
            false => fs::remove_file(&partial),
        };
        removed.map_err(|e| error("remove", e))
    }

    /// Makes the partial directory of block `b`, replacing one that this job has left there.
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
        fs::rename(self.partial(block), &path).map_err(|e| match e.kind() {
            ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty => OutputError::Taken { path },
            _ => OutputError::io("rename to", &path, Some(block), e),
        })
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

    /// What `error` is due to, where it befell the partial directory of block `b`: another job may
    /// have removed that.
    pub(crate) fn explain(&self, block: u64, error: OutputError) -> OutputError {
        self.explain_at(self.partial(block), error)
    }

    fn explain_at(&self, path: PathBuf, error: OutputError) -> OutputError {
        let gone = path.symlink_metadata();
        let gone = gone.is_err_and(|e| e.kind() == ErrorKind::NotFound) && self.path.exists();
        match &error {
            OutputError::Io { source, .. } if gone && source.kind() == ErrorKind::NotFound => {
                OutputError::Removed { path }
            }
            _ => error,
        }
    }

    /// Writes a file that appears whole or not at all, in place of one that stands there.
    pub fn write_atomic<F>(&self, name: &str, fill: F) -> Result<(), OutputError>
    where
        F: FnOnce(&mut dyn Write) -> Result<(), OutputError>,
    {
        self.write_beside(name, fill, |partial, path| {
            fs::rename(partial, path).map_err(|e| OutputError::io("rename to", path, None, e))
        })
    }

    /// Writes a file that appears whole or not at all, and is an error where one stands there.
    pub fn write_new<F>(&self, name: &str, fill: F) -> Result<(), OutputError>
    where
        F: FnOnce(&mut dyn Write) -> Result<(), OutputError>,
    {
        self.write_beside(name, fill, |partial, path| {
            let error = |e: std::io::Error| match e.kind() {
                ErrorKind::AlreadyExists => OutputError::Taken {
                    path: path.to_path_buf(),
                },
                _ => OutputError::io("create", path, None, e),
            };
            match fs::hard_link(partial, path) {
                Ok(()) => fs::remove_file(partial).map_err(error),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => Err(error(e)),
                // A file system without links: there a moment is left in which another job may write.
                Err(_) => match path.symlink_metadata() {
                    Ok(_) => Err(error(ErrorKind::AlreadyExists.into())),
                    Err(e) if e.kind() == ErrorKind::NotFound => {
                        fs::rename(partial, path).map_err(error)
                    }
                    Err(e) => Err(error(e)),
                },
            }
        })
    }

    fn write_beside<F, N>(&self, name: &str, fill: F, give_name: N) -> Result<(), OutputError>
    where
        F: FnOnce(&mut dyn Write) -> Result<(), OutputError>,
        N: FnOnce(&Path, &Path) -> Result<(), OutputError>,
    {
        let path = self.path.join(name);
        let partial = partial_path(&path, &self.owner);
        let error = |action, e| OutputError::io(action, &path, None, e);
        let file = File::create(&partial).map_err(|e| error("create", e))?;
        let mut out = std::io::BufWriter::new(file);
        let written = fill(&mut out).and_then(|()| {
            out.flush().map_err(|e| error("write", e))?;
            out.get_ref().sync_all().map_err(|e| error("sync", e))?;
            give_name(&partial, &path)?;
            sync_dir(&self.path).map_err(|e| error("sync", e))
        });
        written.map_err(|error| {
            let error = self.explain_at(partial.clone(), error);
            let _ = fs::remove_file(&partial);
            error
        })
    }
}

/// Removes the manifest.json in `dir`, durably: the job there is no longer complete.
pub fn revoke_manifest(dir: &Path) -> Result<(), OutputError> {
    let path = dir.join(MANIFEST_FILE);
    match fs::remove_file(&path) {
        Ok(()) => sync_dir(dir).map_err(|e| OutputError::io("sync", dir, None, e)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(OutputError::io("remove", &path, None, e)),
    }
}

/// Whether something stands there. What cannot be looked at is not taken for absent.
fn stands(path: &Path) -> Result<bool, OutputError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(OutputError::io("read", path, None, e)),
    }
}

/// Creates a directory and those above it, so that they outlive a power failure.
fn create_dir(path: &Path) -> std::io::Result<()> {
    let missing = path
        .ancestors()
        .take_while(|p| !p.as_os_str().is_empty() && !p.exists());
    let missing: Vec<&Path> = missing.collect();
    fs::create_dir_all(path)?;
    for created in missing {
        match created.parent() {
            Some(parent) if parent.as_os_str().is_empty() => sync_dir(Path::new("."))?,
            Some(parent) => sync_dir(parent)?,
            None => {}
        }
    }
    Ok(())
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
    let whole = |name: &str| {
        [JOB_FILE, ALGORITHMS_FILE, MANIFEST_FILE, RUNNING_FILE].contains(&name)
            || shard_number(name).is_some()
    };
    let ours = |name: &str| {
        name == LOCK_FILE
            || whole(name)
            || parse_partial(name).is_some_and(|(name, _)| whole(name))
            // NFS keeps the content of a removed file so while a job has it open.
            || name.starts_with(".nfs")
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

    #[test]
    fn a_file_that_has_to_be_new_replaces_none() {
        let dir = tempfile::tempdir().unwrap();
        let job = JobDir::open(dir.path()).unwrap();
        let write = |text: &'static str| {
            job.write_new(JOB_FILE, move |out| {
                let written = out.write_all(text.as_bytes());
                written.map_err(|e| OutputError::io("write", Path::new("x"), None, e))
            })
        };
        write("first").unwrap();
        let error = write("second").unwrap_err();
        assert!(
            matches!(&error, OutputError::Taken { path } if path.ends_with(JOB_FILE)),
            "{error}"
        );
        assert_eq!(fs::read(dir.path().join(JOB_FILE)).unwrap(), b"first");
        assert_eq!(names(dir.path()).unwrap(), [LOCK_FILE, JOB_FILE]);
    }

    #[test]
    fn what_a_running_process_has_not_finished_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let here = |name: String| {
            fs::create_dir(dir.path().join(&name)).unwrap();
            name
        };
        let ours = Owner::new().to_string();
        // Another process, and the same number at another time, on this machine; and another machine.
        let parts: Vec<&str> = ours.rsplitn(4, '-').collect();
        let [_, start, process, machine] = parts[..] else {
            panic!("{ours}");
        };
        let ended = here(format!(
            ".shard-000001.{machine}-{process}-{start}0-00000000{PARTIAL}"
        ));
        let elsewhere = here(format!(
            ".shard-000002.other-00000000-{process}-{start}-00000000{PARTIAL}"
        ));
        let nameless = here(format!(".shard-000003{PARTIAL}"));
        let job = JobDir::open(dir.path()).unwrap();
        // A lock shows that nobody is there.
        assert_eq!(job.warnings(), Vec::<String>::new());
        job.remove_partials().unwrap();
        for gone in [ended, elsewhere, nameless] {
            assert!(!dir.path().join(&gone).exists(), "{gone}");
        }
        drop(job);
        #[cfg(target_os = "linux")]
        {
            let start = start_of_parent();
            let process = std::os::unix::process::parent_id();
            let running = here(format!(
                ".shard-000004.{machine}-{process}-{start:x}-00000000{PARTIAL}"
            ));
            let error = JobDir::open(dir.path()).unwrap_err();
            assert!(
                matches!(&error, OutputError::Locked { by: Some(by), .. } if by.contains(&process.to_string())),
                "{error}"
            );
            assert!(dir.path().join(running).exists());
        }
    }

    #[cfg(target_os = "linux")]
    fn start_of_parent() -> u64 {
        let stat = format!("/proc/{}/stat", std::os::unix::process::parent_id());
        let stat = fs::read_to_string(stat).unwrap();
        let after_name = stat.rsplit(')').next().unwrap();
        after_name
            .split_whitespace()
            .nth(19)
            .unwrap()
            .parse()
            .unwrap()
    }
}
