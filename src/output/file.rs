//! A single output file. It is streamed, its header is written last, then it is hashed and synced.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use half::f16;
use serde::{Deserialize, Serialize};

use super::OutputError;

/// The data type of the stored values. It does not depend on the data type of the computation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputDtype {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision; a value outside its range is an error.
    F16,
}

impl OutputDtype {
    /// Returns the size of a value in bytes.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }

    /// Appends `values` to `out` in little-endian order.
    ///
    /// # Errors
    /// Returns the first finite value that the type cannot represent. A NaN or an infinity in
    /// `values` is not an error here: the pipeline checks for non-finite values.
    pub(crate) fn encode(self, values: &[f32], out: &mut Vec<u8>) -> Result<(), f32> {
        out.reserve(values.len() * self.size());
        match self {
            Self::F32 => values
                .iter()
                .for_each(|v| out.extend_from_slice(&v.to_le_bytes())),
            Self::F16 => {
                for &v in values {
                    let half = f16::from_f32(v);
                    if half.is_infinite() && v.is_finite() {
                        return Err(v);
                    }
                    out.extend_from_slice(&half.to_le_bytes());
                }
            }
        }
        Ok(())
    }
}

/// The size and the hash of a finished file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// The length of the file in bytes.
    pub bytes: u64,
    /// The BLAKE3 hash of the content, in hex.
    pub blake3: String,
}

/// Hashes the file at `path` as it is on the disk. `shard` is the shard number for error messages.
pub fn hash_file(path: &Path, shard: Option<u64>) -> Result<FileEntry, OutputError> {
    let read = |e| OutputError::io("read", path, shard, e);
    let mut file = File::open(path).map_err(read)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 18];
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                hasher.update(&buffer[..n]);
                bytes += n as u64;
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(read(e)),
        }
    }
    Ok(FileEntry {
        bytes,
        blake3: hasher.finalize().to_hex().to_string(),
    })
}

/// A file of a shard that is being written.
pub(crate) struct ShardFile {
    path: PathBuf,
    shard: u64,
    out: BufWriter<File>,
}

impl ShardFile {
    /// Creates the file `path`, which must not exist.
    pub(crate) fn create(path: PathBuf, shard: u64) -> Result<Self, OutputError> {
        let file = File::create_new(&path)
            .map_err(|e| OutputError::io("create", &path, Some(shard), e))?;
        Ok(Self {
            path,
            shard,
            out: BufWriter::with_capacity(1 << 18, file),
        })
    }

    /// Appends `bytes` to the file.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), OutputError> {
        self.out
            .write_all(bytes)
            .map_err(|e| self.error("write", e))
    }

    /// Flushes the file and writes `header` over its first bytes, which the caller has reserved.
    pub(crate) fn complete(mut self, header: &[u8]) -> Result<WrittenFile, OutputError> {
        let wrote = self.out.flush().and_then(|()| {
            let file = self.out.get_mut();
            if !header.is_empty() {
                file.seek(SeekFrom::Start(0))?;
                file.write_all(header)?;
            }
            Ok(())
        });
        wrote.map_err(|e| self.error("write", e))?;
        // The buffer is empty after the flush.
        let (file, _) = self.out.into_parts();
        Ok(WrittenFile {
            path: self.path,
            shard: self.shard,
            file,
        })
    }

    fn error(&self, action: &'static str, source: std::io::Error) -> OutputError {
        OutputError::io(action, &self.path, Some(self.shard), source)
    }
}

/// A file whose writes are complete, but that may not be on the disk yet.
#[derive(Debug)]
pub(crate) struct WrittenFile {
    path: PathBuf,
    shard: u64,
    file: File,
}

impl WrittenFile {
    /// Returns the size and the hash. They are computed from the finished file and not while
    /// writing, because the header is written last.
    pub(crate) fn entry(&self) -> Result<FileEntry, OutputError> {
        hash_file(&self.path, Some(self.shard))
    }

    /// Waits until the file is on the disk.
    pub(crate) fn sync(&self) -> Result<(), OutputError> {
        let synced = self.file.sync_all();
        synced.map_err(|e| OutputError::io("sync", &self.path, Some(self.shard), e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f16_refuses_what_it_cannot_hold() {
        let mut out = Vec::new();
        assert_eq!(OutputDtype::F16.encode(&[1.0, 65504.0], &mut out), Ok(()));
        assert_eq!(out, [0x00, 0x3c, 0xff, 0x7b]);
        assert_eq!(
            OutputDtype::F16.encode(&[1.0, -70000.0], &mut out),
            Err(-70000.0)
        );
    }

    #[test]
    fn the_hash_is_of_the_bytes_on_disk_header_included() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let mut file = ShardFile::create(path.clone(), 3).unwrap();
        file.write(b"????tail").unwrap();
        let file = file.complete(b"head").unwrap();
        let entry = file.entry().unwrap();
        file.sync().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"headtail");
        assert_eq!(entry.bytes, 8);
        assert_eq!(entry.blake3, blake3::hash(b"headtail").to_hex().to_string());
        let again = ShardFile::create(path, 3).err().unwrap();
        assert!(again.to_string().contains("(shard 3)"), "{again}");
    }
}
