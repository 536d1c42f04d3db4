//! Memory-mapped files. The only `unsafe` of the weights stands here.

use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::WeightsError;
use crate::untrusted::file;

/// A whole file, mapped read-only: its pages are read when first touched, and the system may drop
/// them again when memory is short.
///
/// The file must not be shortened while a program uses it; that ends the program with SIGBUS, as
/// with every mapped file.
#[derive(Debug)]
pub struct Mapped {
    path: PathBuf,
    map: Mmap,
}

impl Mapped {
    /// Maps `path`.
    ///
    /// # Errors
    /// [`WeightsError::Read`].
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let file = file::open(path).map_err(WeightsError::read(path))?;
        // SAFETY: the mapping is read-only and private to `Mapped`, which hands out shared slices
        // bound to its own lifetime. Another process writing to the file changes bytes under us:
        // every byte pattern is a valid u8 and f32, and all offsets were checked against the
        // mapping's length, so that this can give wrong numbers but no invalid value or access
        // inside the mapping. Shortening the file raises SIGBUS, as documented above.
        let map = unsafe { Mmap::map(&file) }.map_err(WeightsError::read(path))?;
        Ok(Self {
            path: path.to_owned(),
            map,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }
}

/// Reads bytes as little-endian f32 where they lie: `None` if they are not aligned to 4 bytes, are
/// no whole number of values, or if this machine is big-endian.
pub fn as_f32(bytes: &[u8]) -> Option<&[f32]> {
    if cfg!(target_endian = "big") {
        return None;
    }
    // SAFETY: f32 has neither padding nor invalid bit patterns, and `align_to` itself puts into the
    // middle slice only what is aligned and whole.
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
        // A Vec<u8> may lie anywhere, so find the aligned offset first.
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
        assert!(error.to_string().contains("none") && error.hint().is_some());
    }
}
