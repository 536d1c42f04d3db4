//! Maps files into memory. This file has the only `unsafe` code of the weights.

use std::fs::File;
use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use memmap2::Mmap;

use super::WeightsError;
use crate::system::signals::MappedRegion;
use crate::untrusted::file;

/// A whole file, mapped read-only. The system reads a page of it when the page is first touched,
/// and may drop the page again when memory is short.
///
/// The file must not be shortened while a program uses it: reading a page that is gone raises
/// SIGBUS, which ends the program (`system/signals.rs` then says which file it was).
#[derive(Debug)]
pub struct Mapped {
    path: PathBuf,
    /// This field comes before the mapping, since fields are dropped in the order of their
    /// declaration.
    _region: MappedRegion,
    map: Mmap,
    /// The mapped file itself, whatever its path leads to by now.
    file: File,
    /// Whether the file is a hole whose bytes nobody wants.
    pub(super) hollow: bool,
    /// The state of the file when it was mapped.
    stamp: Mutex<Stamp>,
}

/// Properties that distinguish one state of a file from another, without reading the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    /// The numbers of the device and the inode, on systems that have them.
    identity: (u64, u64),
    bytes: u64,
    modified: Option<SystemTime>,
    /// When anything about the file last changed, including its name and its times: seconds and
    /// nanoseconds.
    touched: (i64, i64),
}

/// How a file compares with its earlier state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing changed.
    Same,
    /// Only attributes such as its name, owner or permissions changed: its content may be the same.
    Touched,
    /// It is another file, or its size or its time of modification changed.
    Changed,
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        #[cfg(unix)]
        let (identity, touched) = {
            use std::os::unix::fs::MetadataExt;
            let m = metadata;
            ((m.dev(), m.ino()), (m.ctime(), m.ctime_nsec()))
        };
        #[cfg(not(unix))]
        let (identity, touched) = ((0, 0), (0, 0));
        Self {
            identity,
            bytes: metadata.len(),
            modified: metadata.modified().ok(),
            touched,
        }
    }

    pub(super) fn state(&self, now: &Self) -> State {
        let untouched = Self {
            touched: self.touched,
            ..*now
        };
        match (self == now, *self == untouched) {
            (true, _) => State::Same,
            (false, true) => State::Touched,
            (false, false) => State::Changed,
        }
    }
}

impl Mapped {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// [`WeightsError::Read`] if it is not a regular file, or cannot be opened or mapped.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let file = file::open(path).map_err(WeightsError::read(path))?;
        let metadata = file.metadata().map_err(WeightsError::read(path))?;
        // SAFETY: the mapping is read-only and private to `Mapped`, which hands out shared slices
        // bound to its own lifetime. If another process writes to the file, bytes change under us.
        // Every byte pattern is a valid u8 and f32, and all offsets were checked against the
        // mapping's length, so such a write can give wrong numbers, but no invalid value and no
        // access outside the mapping. Shortening the file raises SIGBUS, as documented above.
        // `state` detects that the bytes did change, before anything that was computed with them
        // gets its name.
        let map = unsafe { Mmap::map(&file) }.map_err(WeightsError::read(path))?;
        Ok(Self {
            path: path.to_owned(),
            _region: MappedRegion::watch(&map, path),
            map,
            file,
            hollow: false,
            stamp: Mutex::new(Stamp::of(&metadata)),
        })
    }

    /// The mapped file, for reading it in other ways.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Compares the file with its state when it was mapped, and also returns its state now.
    pub(super) fn state(&self) -> io::Result<(State, Stamp)> {
        let now = Stamp::of(&self.file.metadata()?);
        let stamp = self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((stamp.state(&now), now))
    }

    /// Accepts `now` as the state of the mapped file: it was touched, and holds the same bytes.
    pub(super) fn accept(&self, now: Stamp) {
        *self.stamp.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bytes of the file.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }
}

/// Views bytes as little-endian f32 values in place. Returns `None` if the bytes are not aligned to
/// 4 bytes or are not a whole number of values, or if this machine is big-endian.
pub fn as_f32(bytes: &[u8]) -> Option<&[f32]> {
    if cfg!(target_endian = "big") {
        return None;
    }
    // SAFETY: f32 has neither padding nor invalid bit patterns, and `align_to` itself puts only
    // aligned, whole values into the middle slice.
    let (before, values, after) = unsafe { bytes.align_to::<f32>() };
    (before.is_empty() && after.is_empty()).then_some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_aligned_values_are_seen_in_place() {
        let storage = [1.0f32, -2.5, 0.0];
        let bytes: Vec<u8> = storage.iter().flat_map(|v| v.to_le_bytes()).collect();
        // A Vec<u8> may start at any address, so find the aligned offset first.
        let start = bytes.as_ptr().align_offset(4);
        assert!(
            as_f32(&bytes[start..start + 8]).is_some_and(|v| v.len() == 2)
                || cfg!(target_endian = "big")
        );
        assert_eq!(as_f32(&bytes[start + 1..start + 5]), None);
        assert_eq!(as_f32(&bytes[start..start + 6]), None);
    }

    #[test]
    fn empty_files_and_folders() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("empty");
        std::fs::write(&path, b"").unwrap();
        assert_eq!(Mapped::open(&path).unwrap().bytes(), b"");
        assert!(Mapped::open(dir.path()).is_err());
        let error = Mapped::open(&dir.path().join("none")).unwrap_err();
        assert!(error.to_string().contains("none") && error.remedy().is_some());
    }
}
