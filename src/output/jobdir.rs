//! The output directory of a job: who may write there, and how files appear in it atomically.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::OutputError;
use super::lock::{Guard, LOCK_FILE, RUNNING_FILE, locked};
use super::owner::{Owner, State};
use super::rejected::REJECTED_FILE;
use super::runs::RUNS_FILE;
use super::virnucpro;
use crate::untrusted::file;

/// The file that says what was asked; it is written first.
pub const JOB_FILE: &str = "job.json";
/// The file that says what was done; it is written last.
pub const MANIFEST_FILE: &str = "manifest.json";
/// The GEMM algorithms of a job on CUDA; the file is written before [`JOB_FILE`].
pub const ALGORITHMS_FILE: &str = "algorithms.json";
/// The page about a complete job, which is made on request.
pub const REPORT_FILE: &str = "report.html";
/// The same for MultiQC, which looks for files whose names end so.
pub const MULTIQC_FILE: &str = "seqstream_mqc.json";
/// The suffix of files and directories that are not complete yet.
const PARTIAL: &str = ".partial";

/// Returns the directory name of shard number `block`.
pub fn shard_name(block: u64) -> String {
    format!("shard-{block:06}")
}

/// Returns the shard number of a directory name, or `None` if `name` is not the name of a shard.
pub(crate) fn shard_number(name: &str) -> Option<u64> {
    let block = name.strip_prefix("shard-")?.parse().ok()?;
    (shard_name(block) == name).then_some(block)
}

/// Lists the numbers of the shards in a directory, in ascending order.
pub fn list_shards(path: &Path) -> Result<Vec<u64>, OutputError> {
    let mut blocks: Vec<u64> = names(path)?
        .iter()
        .filter_map(|n| shard_number(n))
        .collect();
    blocks.sort_unstable();
    Ok(blocks)
}

/// Returns the path under which the file or directory `path` is written until it is complete. The
/// name contains the owner, so that no other job writes there even if locks do not work.
pub(crate) fn partial_path(path: &Path, owner: &Owner) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{owner}{PARTIAL}"))
}

/// Splits the name of a partial file or directory into the final name and the owner. Older versions
/// of the program wrote partial names without an owner.
pub(crate) fn parse_partial(name: &str) -> Option<(&str, Option<Owner>)> {
    let name = name.strip_prefix('.')?.strip_suffix(PARTIAL)?;
    match name.rsplit_once('.').map(|(n, o)| (n, Owner::parse(o))) {
        Some((name, Some(owner))) => Some((name, Some(owner))),
        _ => Some((name, None)),
    }
}

/// An output directory, locked against other jobs during the lifetime of this value.
#[derive(Debug)]
pub struct JobDir {
    path: PathBuf,
    owner: Owner,
    guard: Guard,
}

impl JobDir {
    /// Opens the directory, creates it if needed, and locks it.
    ///
    /// # Errors
    /// The directory is refused if it contains an entry that no job wrote, or if another job is
    /// running in it.
    pub fn open(path: &Path) -> Result<Self, OutputError> {
        create_dir(path)
            .map_err(|e| OutputError::io("create the output directory", path, None, e))?;
        // This check comes before the lock file is created, so that a foreign directory stays
        // unchanged.
        refuse_foreign(path)?;
        let owner = Owner::new();
        let guard = Guard::take(path, &owner)?;
        // Someone may have removed the lock file of a running job.
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

    /// Returns warnings for the user: that the file system has no locks, and which unfinished files
    /// and directories of other jobs remain.
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

    /// Returns whether the unfinished files of `owner` may be removed. For a process that cannot be
    /// seen from here, only a lock proves that it has ended.
    fn may_remove(&self, owner: &Owner) -> bool {
        match owner.state() {
            State::Ours | State::Ended => true,
            State::Running => false,
            State::OutOfSight => self.guard.is_lock(),
        }
    }

    /// Returns the path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether a job was started in this directory.
    pub fn holds_job(&self) -> Result<bool, OutputError> {
        stands(&self.path.join(JOB_FILE))
    }

    /// Returns whether a job was completed in this directory.
    pub fn holds_manifest(&self) -> Result<bool, OutputError> {
        stands(&self.path.join(MANIFEST_FILE))
    }

    /// Returns the final path of shard number `block`.
    pub fn shard(&self, block: u64) -> PathBuf {
        self.path.join(shard_name(block))
    }

    /// Returns the path at which this job writes shard number `block`.
    pub fn partial(&self, block: u64) -> PathBuf {
        partial_path(&self.shard(block), &self.owner)
    }

    /// Lists the numbers of the finished shards, in ascending order.
    pub fn shards(&self) -> Result<Vec<u64>, OutputError> {
        list_shards(&self.path)
    }

    /// Removes the unfinished files and directories of interrupted jobs. Those that may belong to a
    /// running job stay.
    pub fn remove_partials(&self) -> Result<(), OutputError> {
        for name in names(&self.path)? {
            let Some((whole, owner)) = parse_partial(&name) else {
                continue;
            };
            if owner.as_ref().is_some_and(|o| !self.may_remove(o)) {
                continue;
            }
            let path = self.path.join(&name);
            // The entry is first renamed to a name of this job. If its own job still runs after all
            // and is just renaming it to its final name, then the rename takes all of it or
            // nothing.
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

    /// Removes shard number `block`, whatever its directory contains. The name is removed first, so
    /// that a partly removed directory is never taken for a shard.
    pub fn discard_shard(&self, block: u64) -> Result<(), OutputError> {
        let (path, partial) = (self.shard(block), self.partial(block));
        let error = |action, e| OutputError::io(action, &path, Some(block), e);
        fs::rename(&path, &partial).map_err(|e| error("remove", e))?;
        self.sync_names(block)?;
        // A symbolic link is removed itself; its target stays.
        let directory = fs::symlink_metadata(&partial).map(|m| m.is_dir());
        let removed = match directory.map_err(|e| error("remove", e))? {
            true => fs::remove_dir_all(&partial),
            false => fs::remove_file(&partial),
        };
        removed.map_err(|e| error("remove", e))
    }

    /// Creates the partial directory of shard number `block`, replacing an earlier one of this job.
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

    /// Renames the partial directory of shard number `block`, whose files are already synced, to
    /// its final name. After that the shard survives a power failure.
    pub fn commit_shard(&self, block: u64) -> Result<(), OutputError> {
        self.sync_partial(block)?;
        self.name_shard(block)?;
        self.sync_names(block)
    }

    /// Does step 1 of [`commit_shard`](Self::commit_shard): makes the list of files in the partial
    /// directory survive a power failure.
    pub(crate) fn sync_partial(&self, block: u64) -> Result<(), OutputError> {
        let partial = self.partial(block);
        sync_dir(&partial).map_err(|e| OutputError::io("sync", &partial, Some(block), e))
    }

    /// Does step 2: renames the partial directory to its final name.
    pub(crate) fn name_shard(&self, block: u64) -> Result<(), OutputError> {
        let path = self.shard(block);
        fs::rename(self.partial(block), &path).map_err(|e| match e.kind() {
            ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty => OutputError::Taken { path },
            _ => OutputError::io("rename to", &path, Some(block), e),
        })
    }

    /// Does step 3: makes all renames so far, `block` being the last, survive a power failure.
    pub(crate) fn sync_names(&self, block: u64) -> Result<(), OutputError> {
        sync_dir(&self.path).map_err(|e| OutputError::io("sync", &self.path, Some(block), e))
    }

    /// Removes the partial directory of shard number `block`; on a full disk this also frees space.
    pub fn abandon_shard(&self, block: u64) {
        // If the removal fails now, --resume removes the directory.
        let _ = fs::remove_dir_all(self.partial(block));
    }

    /// Replaces `error` by [`OutputError::Removed`] if another job has removed the partial
    /// directory of shard number `block`.
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

    /// Writes a file that appears complete or not at all. It replaces an existing file of that
    /// name.
    pub fn write_atomic<F>(&self, name: &str, fill: F) -> Result<(), OutputError>
    where
        F: FnOnce(&mut dyn Write) -> Result<(), OutputError>,
    {
        self.write_beside(name, fill, |partial, path| {
            fs::rename(partial, path).map_err(|e| OutputError::io("rename to", path, None, e))
        })
    }

    /// Writes a file that appears complete or not at all.
    ///
    /// # Errors
    /// It is an error if a file of that name exists.
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
                // The file system has no hard links. Between this check and the rename another job
                // may create the file.
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

/// Removes the manifest.json in `dir`, so that the job no longer counts as complete. The removal
/// survives a power failure.
pub fn revoke_manifest(dir: &Path) -> Result<(), OutputError> {
    let path = dir.join(MANIFEST_FILE);
    match fs::remove_file(&path) {
        Ok(()) => sync_dir(dir).map_err(|e| OutputError::io("sync", dir, None, e)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(OutputError::io("remove", &path, None, e)),
    }
}

/// Returns whether an entry exists at `path`. If the path cannot be examined, that is an error, and
/// not the answer "absent".
fn stands(path: &Path) -> Result<bool, OutputError> {
    file::is_there(path).map_err(|e| OutputError::io("read", path, None, e))
}

/// Creates a directory and its missing parents, so that they survive a power failure.
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
    let names = names(path)?;
    // Without a job, these names are those of somebody else's files.
    let holds_job = names.iter().any(|name| name == JOB_FILE);
    let whole = |name: &str| {
        (holds_job && virnucpro::is_beside_shards(name))
            || [
                JOB_FILE,
                ALGORITHMS_FILE,
                REJECTED_FILE,
                MANIFEST_FILE,
                RUNNING_FILE,
                RUNS_FILE,
                REPORT_FILE,
                MULTIQC_FILE,
            ]
            .contains(&name)
            || shard_number(name).is_some()
    };
    let ours = |name: &str| {
        name == LOCK_FILE
            || whole(name)
            || parse_partial(name).is_some_and(|(name, _)| whole(name))
            // NFS keeps the content of a removed file under such a name while a process has it
            // open.
            || name.starts_with(".nfs")
    };
    match names.into_iter().find(|name| !ours(name)) {
        Some(name) => Err(OutputError::Foreign {
            path: path.to_path_buf(),
            name,
        }),
        None => Ok(()),
    }
}

/// Makes a rename or a creation in `path` survive a power failure.
#[cfg(unix)]
pub(crate) fn sync_dir(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

/// Does nothing: on this system a directory cannot be opened for syncing, and only the journal of
/// the file system protects a rename.
#[cfg(not(unix))]
pub(crate) fn sync_dir(_: &Path) -> std::io::Result<()> {
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
        assert!(
            failed
                .unwrap_err()
                .remedy()
                .unwrap()
                .to_string()
                .contains("resume")
        );
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
        // An ended process on this machine with the same process number but another start time, and
        // a process on another machine.
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
        // Holding the lock proves that no other job runs here.
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
