//! A file or directory outside a job that appears complete or not at all.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::OutputError;
use super::jobdir::{parse_partial, partial_path, sync_dir};
use super::owner::{Owner, State};
use crate::untrusted::file;

/// The place of a file or directory that is being written under another name beside it. If the
/// place is dropped before [`finish`](Self::finish), what was written is removed.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    partial: PathBuf,
    done: bool,
}

impl Place {
    /// Prepares to write `path`, which must not exist. What earlier processes have left unfinished
    /// there is removed.
    ///
    /// # Errors
    /// [`OutputError::Exists`] if there is anything at `path`.
    pub fn new(path: &Path) -> Result<Self, OutputError> {
        if file::is_there(path).map_err(|e| OutputError::io("look at", path, None, e))? {
            return Err(OutputError::Exists {
                path: path.to_path_buf(),
            });
        }
        Self::replacing(path)
    }

    /// Prepares to write `path`. A file of that name is replaced.
    pub fn replacing(path: &Path) -> Result<Self, OutputError> {
        if path.file_name().is_none() {
            let error = io::Error::new(ErrorKind::InvalidInput, "this path names no file");
            return Err(OutputError::io("create", path, None, error));
        }
        // A device, a pipe or a link would be replaced, too.
        if fs::symlink_metadata(path).is_ok_and(|there| !there.is_file()) {
            let error = io::Error::new(ErrorKind::InvalidInput, "it is no regular file");
            return Err(OutputError::io("replace", path, None, error));
        }
        remove_unfinished(path);
        Ok(Self {
            partial: partial_path(path, &Owner::new()),
            path: path.to_path_buf(),
            done: false,
        })
    }

    /// Returns the path to write to. Nothing is there yet.
    pub fn partial(&self) -> &Path {
        &self.partial
    }

    /// Creates the file.
    pub fn create(&self) -> Result<File, OutputError> {
        let created = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&self.partial);
        created.map_err(|e| OutputError::io("create", &self.path, None, e))
    }

    /// Creates the directory.
    pub fn create_dir(&self) -> Result<(), OutputError> {
        fs::create_dir(&self.partial).map_err(|e| OutputError::io("create", &self.path, None, e))
    }

    /// Syncs what was written and gives it its final name. `new` refuses to replace a file that
    /// has appeared meanwhile.
    fn name(&self, new: bool) -> Result<(), OutputError> {
        let failed = |action, e| OutputError::io(action, &self.path, None, e);
        sync(&self.partial).map_err(|e| failed("sync", e))?;
        let taken = || OutputError::Exists {
            path: self.path.clone(),
        };
        if new && !self.partial.is_dir() {
            match fs::hard_link(&self.partial, &self.path) {
                Ok(()) => fs::remove_file(&self.partial).map_err(|e| failed("create", e))?,
                Err(e) if e.kind() == ErrorKind::AlreadyExists => return Err(taken()),
                // The file system has no hard links.
                Err(_) => fs::rename(&self.partial, &self.path).map_err(|e| failed("create", e))?,
            }
        } else {
            fs::rename(&self.partial, &self.path).map_err(|e| match e.kind() {
                ErrorKind::AlreadyExists
                | ErrorKind::DirectoryNotEmpty
                | ErrorKind::NotADirectory => taken(),
                _ => failed("create", e),
            })?;
        }
        sync_dir(parent(&self.path)).map_err(|e| failed("sync", e))
    }

    /// Syncs what was written and gives it its final name, which must still be free.
    pub fn finish(mut self) -> Result<(), OutputError> {
        self.name(true)?;
        self.done = true;
        Ok(())
    }

    /// Syncs what was written and gives it its final name. A file of that name is replaced.
    pub fn replace(mut self) -> Result<(), OutputError> {
        self.name(false)?;
        self.done = true;
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.done {
            remove(&self.partial);
        }
    }
}

/// Removes a file or a directory. If that fails, the next process that writes there tries again.
fn remove(path: &Path) {
    let _ = match path.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Removes what processes that have ended left unfinished at `path`.
fn remove_unfinished(path: &Path) {
    let Some(name) = path.file_name().map(|n| n.to_string_lossy()) else {
        return;
    };
    for entry in fs::read_dir(parent(path)).into_iter().flatten().flatten() {
        let there = entry.file_name();
        let Some((whole, Some(owner))) = there.to_str().and_then(parse_partial) else {
            continue;
        };
        if whole == name && owner.state() == State::Ended {
            remove(&entry.path());
        }
    }
}

/// Waits until a file, or a directory with all its files, is on the disk.
fn sync(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    if !file.metadata()?.is_dir() {
        return file.sync_all();
    }
    // A directory may hold a million small files. One call for the whole file system is much faster
    // than one call per file.
    #[cfg(target_os = "linux")]
    rustix::fs::syncfs(&file)?;
    #[cfg(not(target_os = "linux"))]
    for entry in fs::read_dir(path)? {
        File::open(entry?.path())?.sync_all()?;
    }
    sync_dir(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_finished_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let place = Place::new(&path).unwrap();
        fs::write(place.partial(), "half").unwrap();
        drop(place);
        let place = Place::new(&path).unwrap();
        place.create_dir().unwrap();
        fs::write(place.partial().join("a"), "half").unwrap();
        drop(place);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_replace_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let place = Place::new(&path).unwrap();
        fs::write(place.partial(), "first").unwrap();
        let late = Place::new(&path).unwrap();
        fs::write(late.partial(), "late").unwrap();
        place.finish().unwrap();
        assert!(matches!(late.finish(), Err(OutputError::Exists { .. })));
        assert!(matches!(Place::new(&path), Err(OutputError::Exists { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"first");
        let again = Place::replacing(&path).unwrap();
        fs::write(again.partial(), "again").unwrap();
        again.replace().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"again");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_killed_process_left_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        // A number beyond every number that Linux gives to a process.
        let text = Owner::new().to_string();
        let mut parts: Vec<&str> = text.rsplitn(4, '-').collect();
        parts[2] = "4194304999";
        parts.reverse();
        let ended = dir.path().join(format!(".x.{}.partial", parts.join("-")));
        let running = partial_path(&path, &Owner::new());
        let other = dir.path().join(".y.partial");
        for file in [&ended, &running, &other] {
            fs::write(file, "half").unwrap();
        }
        drop(Place::new(&path).unwrap());
        assert!(!ended.exists() && running.exists() && other.exists());
    }
}
