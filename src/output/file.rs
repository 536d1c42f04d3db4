//! A single output file. It is streamed and hashed meanwhile, its header is written last, then it is
//! synced.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use blake3::hazmat::ChainingValue;
use serde::{Deserialize, Serialize};

use super::OutputError;
use super::tree::{BLOCK, hash_block, hash_file_of};
use crate::dtype::encode;

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

    /// Returns whether the value is finite but outside the range of the data type.
    pub fn refuses(self, value: f32) -> bool {
        let mut bytes = [0; 4];
        value.is_finite() && !self.encode(&[value], &mut bytes[..self.size()])
    }

    /// Writes `values` to `to`, little-endian. Returns whether every value is finite and can be
    /// represented.
    pub(crate) fn encode(self, values: &[f32], to: &mut [u8]) -> bool {
        encode(values, self == Self::F16, to)
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

/// A file of a shard that is being written. Its blocks are hashed as they are written, so the file
/// is never read again.
pub(crate) struct ShardFile {
    path: PathBuf,
    shard: u64,
    file: File,
    /// The first block, once it is full. It is written last, because it begins with the header.
    first: Option<Vec<u8>>,
    /// The hashes of the blocks after the first, which are written.
    hashes: Vec<ChainingValue>,
    /// The bytes after the full blocks.
    tail: Vec<u8>,
    /// The number of bytes that the disk has been asked to write.
    flushed: u64,
}

impl ShardFile {
    /// Creates the file `path`, which must not exist.
    pub(crate) fn create(path: PathBuf, shard: u64) -> Result<Self, OutputError> {
        let file = File::create_new(&path)
            .map_err(|e| OutputError::io("create", &path, Some(shard), e))?;
        Ok(Self {
            path,
            shard,
            file,
            first: None,
            hashes: Vec::new(),
            tail: Vec::new(),
            flushed: 0,
        })
    }

    /// Appends `bytes` to the file.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> Result<(), OutputError> {
        while !bytes.is_empty() {
            if self.tail.len() == BLOCK {
                let mut block = std::mem::take(&mut self.tail);
                if self.blocks() == 0 {
                    self.first = Some(block);
                } else {
                    self.hashes.push(self.write_block(self.blocks(), &block)?);
                    block.clear();
                    self.tail = block;
                }
            }
            let fitting = bytes.len().min(BLOCK - self.tail.len());
            self.tail.extend_from_slice(&bytes[..fitting]);
            bytes = &bytes[fitting..];
        }
        Ok(())
    }

    /// Returns the bytes after the full blocks.
    pub(crate) fn tail(&self) -> &[u8] {
        &self.tail
    }

    /// Returns the number of full blocks.
    pub(crate) fn blocks(&self) -> u64 {
        u64::from(self.first.is_some()) + self.hashes.len() as u64
    }

    /// Writes a full block that is not the first, and returns its hash. Blocks may be written in
    /// any order, on several threads, if [`add`](Self::add) then gets all of them in order.
    pub(crate) fn write_block(
        &self,
        block: u64,
        bytes: &[u8],
    ) -> Result<ChainingValue, OutputError> {
        self.write_at(block * BLOCK as u64, bytes)?;
        Ok(hash_block(block, bytes))
    }

    /// Adds the next blocks, which begin with the tail and have been encoded elsewhere.
    pub(crate) fn add(&mut self, part: Encoded) {
        match part {
            Encoded::Written(hash) => {
                self.hashes.push(hash);
                self.tail.clear();
            }
            Encoded::First(block) => {
                self.first = Some(block);
                self.tail.clear();
            }
            Encoded::Tail(bytes) => self.tail = bytes,
        }
    }

    /// Returns the blocks that were written since the last call.
    pub(crate) fn unflushed(&mut self) -> Range<u64> {
        let end = self.blocks() * BLOCK as u64;
        // The first block is not written yet.
        let start = std::mem::replace(&mut self.flushed, end).max(BLOCK as u64);
        start..end.max(start)
    }

    /// Asks the system to begin to write this part to the disk, so that the disk has less to do
    /// when the file is synced. Where the system cannot, the sync does all.
    pub(crate) fn flush(&self, part: Range<u64>) {
        #[cfg(target_os = "linux")]
        if let Some(length) = std::num::NonZeroU64::new(part.end - part.start) {
            use rustix::fs::{Advice, fadvise};
            // Linux begins to write what it is told is not needed in memory any more.
            let _ = fadvise(&self.file, part.start, Some(length), Advice::DontNeed);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = part;
    }

    /// Writes what is not written yet. `header` takes the place of the first bytes, which the
    /// caller has reserved.
    pub(crate) fn complete(mut self, header: &[u8]) -> Result<WrittenFile, OutputError> {
        let end = self.blocks() * BLOCK as u64;
        let begin = self.first.as_mut().unwrap_or(&mut self.tail);
        begin[..header.len()].copy_from_slice(header);
        if let Some(first) = &self.first {
            self.write_at(0, first)?;
        }
        self.write_at(end, &self.tail)?;
        let hash = match &self.first {
            None => blake3::hash(&self.tail),
            Some(only) if self.hashes.is_empty() && self.tail.is_empty() => blake3::hash(only),
            Some(first) => {
                let mut blocks = vec![hash_block(0, first)];
                blocks.append(&mut self.hashes);
                if !self.tail.is_empty() {
                    blocks.push(hash_block(blocks.len() as u64, &self.tail));
                }
                hash_file_of(&blocks)
            }
        };
        Ok(WrittenFile {
            path: self.path,
            shard: self.shard,
            file: self.file,
            entry: FileEntry {
                bytes: end + self.tail.len() as u64,
                blake3: hash.to_hex().to_string(),
            },
        })
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> Result<(), OutputError> {
        let wrote = write_all_at(&self.file, bytes, at);
        wrote.map_err(|e| OutputError::io("write", &self.path, Some(self.shard), e))
    }
}

/// Writes `bytes` at `at`, without the position that the threads of a file would share.
#[cfg(unix)]
fn write_all_at(file: &File, bytes: &[u8], at: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at)
}

#[cfg(windows)]
fn write_all_at(file: &File, mut bytes: &[u8], mut at: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_write(file, bytes, at)? {
            0 => return Err(std::io::ErrorKind::WriteZero.into()),
            n => {
                bytes = &bytes[n..];
                at += n as u64;
            }
        }
    }
    Ok(())
}

/// A block that was encoded outside its [`ShardFile`], or what comes after the last full block.
pub(crate) enum Encoded {
    /// A block that was written, and its hash.
    Written(ChainingValue),
    /// The first block of the file.
    First(Vec<u8>),
    /// Bytes that are not a whole block.
    Tail(Vec<u8>),
}

/// A file whose writes are complete, but that may not be on the disk yet.
#[derive(Debug)]
pub(crate) struct WrittenFile {
    path: PathBuf,
    shard: u64,
    file: File,
    entry: FileEntry,
}

impl WrittenFile {
    /// Returns the size and the hash.
    pub(crate) fn entry(&self) -> &FileEntry {
        &self.entry
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
    fn the_hash_is_of_the_bytes_on_disk_header_included() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let mut file = ShardFile::create(path.clone(), 3).unwrap();
        file.write(b"????tail").unwrap();
        let file = file.complete(b"head").unwrap();
        let entry = file.entry().clone();
        file.sync().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"headtail");
        assert_eq!(entry.bytes, 8);
        assert_eq!(entry.blake3, blake3::hash(b"headtail").to_hex().to_string());
        let again = ShardFile::create(path.clone(), 3).err().unwrap();
        assert!(again.to_string().contains("(shard 3)"), "{again}");
    }

    #[test]
    fn files_of_any_number_of_blocks_are_hashed_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        for (number, length) in [4, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 5 * BLOCK + 77]
            .into_iter()
            .enumerate()
        {
            let mut bytes: Vec<u8> = (0..length).map(|i| (i * 13 % 241) as u8).collect();
            let path = dir.path().join(format!("{number}"));
            let mut file = ShardFile::create(path.clone(), 0).unwrap();
            for part in bytes.chunks(100_003) {
                file.write(part).unwrap();
            }
            bytes[..4].copy_from_slice(b"head");
            let file = file.complete(b"head").unwrap();
            assert!(std::fs::read(&path).unwrap() == bytes, "{length}");
            assert_eq!(*file.entry(), hash_file(&path, None).unwrap(), "{length}");
        }
    }
}
