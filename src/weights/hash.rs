//! Hashes files with all threads of a pool: one thread takes several times as long to hash them as
//! a device takes to load them.

use std::fs::File;
use std::io;

use rayon::prelude::*;

/// Bytes of a file that are read and hashed in one step.
const HASHED: usize = 32 << 20;
/// Bytes of a step that one thread reads at a time.
const PIECE: usize = 1 << 20;

/// Hashes the first `length` bytes of an open file with the threads of the pool in which this is
/// called. `buffer` takes the bytes that are read.
pub(super) fn file(
    hasher: &mut blake3::Hasher,
    file: &File,
    length: u64,
    buffer: &mut Vec<u8>,
) -> io::Result<()> {
    let mut start = 0;
    while start < length {
        let bytes = (length - start).min(HASHED as u64) as usize;
        buffer.resize(bytes, 0);
        let pieces = buffer.par_chunks_mut(PIECE).enumerate();
        pieces.try_for_each(|(i, piece)| read_at(file, piece, start + (i * PIECE) as u64))?;
        hasher.update_rayon(buffer);
        start += bytes as u64;
    }
    Ok(())
}

/// Does the same with the calling thread alone.
pub(super) fn file_alone(
    hasher: &mut blake3::Hasher,
    file: &File,
    length: u64,
    buffer: &mut Vec<u8>,
) -> io::Result<()> {
    let mut start = 0;
    while start < length {
        buffer.resize((length - start).min(PIECE as u64) as usize, 0);
        read_at(file, buffer, start)?;
        hasher.update(buffer);
        start += buffer.len() as u64;
    }
    Ok(())
}

/// Fills `buffer` from byte `start` of a file, without moving the position from which others read.
#[cfg(unix)]
pub(super) fn read_at(file: &File, buffer: &mut [u8], start: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, start)
}

#[cfg(windows)]
pub(super) fn read_at(file: &File, mut buffer: &mut [u8], mut start: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, buffer, start)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                buffer = &mut buffer[n..];
                start += n as u64;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_the_hash_of_the_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights");
        let bytes: Vec<u8> = (0..HASHED + 3 * PIECE + 77)
            .map(|i| ((i * i) >> 7) as u8)
            .collect();
        std::fs::write(&path, &bytes).unwrap();
        let opened = File::open(&path).unwrap();
        let mut buffer = Vec::new();
        for length in [0, 1, PIECE, HASHED, HASHED + 1, bytes.len()] {
            let mut hasher = blake3::Hasher::new();
            file(&mut hasher, &opened, length as u64, &mut buffer).unwrap();
            let wanted = blake3::hash(&bytes[..length]);
            assert_eq!(hasher.finalize(), wanted, "{length}");
            let mut alone = blake3::Hasher::new();
            file_alone(&mut alone, &opened, length as u64, &mut buffer).unwrap();
            assert_eq!(alone.finalize(), wanted, "{length}");
        }
        // A file that has become shorter is an error, not another hash.
        let longer = bytes.len() as u64 + 1;
        let error = file(&mut blake3::Hasher::new(), &opened, longer, &mut buffer).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
