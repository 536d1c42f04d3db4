//! Makes sure that only one job writes in an output directory. It uses a lock of the operating
//! system; on a file system without locks, it uses a file that only one job can create.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::OutputError;
use super::owner::{Owner, State};

/// The lock file, held by the running job where the file system has locks. It is empty and is never
/// removed.
pub(crate) const LOCK_FILE: &str = ".lock";
/// The file that names the running job where the file system has no locks. It is removed when the
/// job ends.
pub(crate) const RUNNING_FILE: &str = ".running";

/// The right to write in an output directory, valid during the lifetime of this value.
#[derive(Debug)]
pub(crate) struct Guard {
    lock: Option<File>,
    /// The path and the content of the file that replaces the lock.
    mark: Option<(PathBuf, String)>,
    /// Why there is no lock.
    reason: Option<String>,
}

impl Guard {
    /// Takes the lock of `dir`, or creates the file that replaces it.
    pub(crate) fn take(dir: &Path, owner: &Owner) -> Result<Self, OutputError> {
        let path = dir.join(LOCK_FILE);
        let open = || {
            File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
        };
        let file = open().map_err(|e| OutputError::io("create", &path, None, e))?;
        let reason = match file.try_lock() {
            Err(TryLockError::WouldBlock) => return Err(locked(dir, None)),
            Err(TryLockError::Error(e)) => Some(e.to_string()),
            // Some file systems grant a lock to every caller. A second handle reveals this.
            Ok(()) => match open().map(|second| second.try_lock()) {
                Ok(Err(TryLockError::WouldBlock)) => None,
                Ok(Ok(())) => Some("a lock is granted to two holders at once".to_owned()),
                Ok(Err(TryLockError::Error(e))) | Err(e) => Some(e.to_string()),
            },
        };
        // This check is needed even if this job has a lock: the other job may run on a machine
        // where the file system has no locks.
        refuse_running(dir)?;
        let mark = match &reason {
            None => None,
            Some(_) => Some(mark(dir, owner)?),
        };
        Ok(Self {
            lock: reason.is_none().then_some(file),
            mark,
            reason,
        })
    }

    /// Returns whether the operating system keeps other jobs out.
    pub(crate) fn is_lock(&self) -> bool {
        self.lock.is_some()
    }

    /// Returns a warning for the user if the directory has no locks.
    pub(crate) fn warning(&self, dir: &Path) -> Option<String> {
        let reason = self.reason.as_ref()?;
        Some(format!(
            "the file system of {} has no locks ({reason}); {RUNNING_FILE} there keeps other jobs out instead, \
             and stays behind if this job is killed",
            dir.display()
        ))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some((path, text)) = &self.mark
            && fs::read_to_string(path).is_ok_and(|there| there == *text)
        {
            // If the removal fails now, the next job on this machine removes the file.
            let _ = fs::remove_file(path);
        }
    }
}

/// Makes the error for a directory in which the job `by` is running.
pub(crate) fn locked(dir: &Path, by: Option<&Owner>) -> OutputError {
    OutputError::Locked {
        path: dir.to_path_buf(),
        by: by.map(Owner::describe),
    }
}

/// Refuses a directory whose [`RUNNING_FILE`] names a job that may still run. If that job has
/// ended, removes the file.
fn refuse_running(dir: &Path) -> Result<(), OutputError> {
    let path = dir.join(RUNNING_FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) if e.kind() == ErrorKind::InvalidData => String::new(),
        Err(e) => return Err(OutputError::io("read", &path, None, e)),
    };
    let owner = Owner::parse(text.trim_end());
    match owner.as_ref().map(Owner::state) {
        Some(State::Running | State::Ours) => Err(locked(dir, owner.as_ref())),
        Some(State::Ended) => remove_mark(&path, &text),
        Some(State::OutOfSight) | None => Err(OutputError::Marked {
            path,
            by: owner.map_or_else(|| "a job that it does not name".into(), |o| o.describe()),
        }),
    }
}

/// Removes the file of a job that has ended. Another job may be doing the same and may have created
/// its own file in the meantime, so the file is first renamed and then read again.
fn remove_mark(path: &Path, text: &str) -> Result<(), OutputError> {
    let aside = super::jobdir::partial_path(path, &Owner::new());
    let error = |action, e| OutputError::io(action, path, None, e);
    match fs::rename(path, &aside) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        renamed => renamed.map_err(|e| error("rename", e))?,
    }
    let there = fs::read_to_string(&aside).map_err(|e| error("read", e))?;
    if there != text {
        // The file belongs to another job and is restored at once. If a third job has created its
        // own file in the meantime, that file stays.
        let _ = fs::hard_link(&aside, path);
    }
    fs::remove_file(&aside).map_err(|e| error("remove", e))
}

/// Creates the file that only one job can create. Where the file system has hard links, the file
/// has its content from the start.
fn mark(dir: &Path, owner: &Owner) -> Result<(PathBuf, String), OutputError> {
    let path = dir.join(RUNNING_FILE);
    let text = format!("{owner}\n");
    let aside = super::jobdir::partial_path(&path, owner);
    let error = |e: io::Error| OutputError::io("create", &path, None, e);
    let linked = fs::write(&aside, &text).and_then(|()| fs::hard_link(&aside, &path));
    let _ = fs::remove_file(&aside);
    let taken = |e: &io::Error| e.kind() == ErrorKind::AlreadyExists;
    match linked {
        Ok(()) => return Ok((path, text)),
        Err(e) if taken(&e) => return Err(locked(dir, None)),
        // The file system may have no hard links.
        Err(_) => {}
    }
    let mut file = match File::create_new(&path) {
        Err(e) if taken(&e) => return Err(locked(dir, None)),
        file => file.map_err(error)?,
    };
    if let Err(e) = file.write_all(text.as_bytes()) {
        let _ = fs::remove_file(&path);
        return Err(error(e));
    }
    Ok((path, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes the guard as on a file system without locks.
    fn marked(dir: &Path) -> Result<Guard, OutputError> {
        refuse_running(dir)?;
        Ok(Guard {
            lock: None,
            mark: Some(mark(dir, &Owner::new())?),
            reason: Some("none".into()),
        })
    }

    #[test]
    fn a_file_stands_for_the_lock_until_its_job_ends() {
        let dir = tempfile::tempdir().unwrap();
        let first = marked(dir.path()).unwrap();
        let error = marked(dir.path()).unwrap_err();
        assert!(
            matches!(&error, OutputError::Locked { by: Some(_), .. }),
            "{error}"
        );
        // A job that has a lock checks this file as well.
        let error = Guard::take(dir.path(), &Owner::new()).unwrap_err();
        assert!(
            matches!(&error, OutputError::Locked { by: Some(_), .. }),
            "{error}"
        );
        drop(first);
        assert!(!dir.path().join(RUNNING_FILE).exists());
        marked(dir.path()).unwrap();
    }

    #[test]
    fn the_file_of_another_job_is_left_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(RUNNING_FILE);
        let first = marked(dir.path()).unwrap();
        fs::write(&path, "another's").unwrap();
        drop(first);
        assert_eq!(fs::read_to_string(&path).unwrap(), "another's");
        for text in ["", "another's", "host-00000000-1-0-00000000\n"] {
            fs::write(&path, text).unwrap();
            let error = marked(dir.path()).unwrap_err();
            assert!(matches!(&error, OutputError::Marked { .. }), "{error}");
            assert!(
                error.remedy().unwrap().to_string().contains("remove"),
                "{error}"
            );
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        // Another job has replaced the file of the ended job in the meantime.
        remove_mark(&path, "of a job that has ended").unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "host-00000000-1-0-00000000\n"
        );
        remove_mark(&path, "host-00000000-1-0-00000000\n").unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
