//! Files hashed by all threads of a pool: one alone takes several times as long as a device does to load them.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use rayon::prelude::*;

/// Bytes of a file that are read and hashed together.
const HASHED: usize = 32 << 20;
/// Bytes that a thread reads of them.
const PIECE: usize = 1 << 20;

/// Hashes the first `length` bytes of a file, by way of `buffer`.
pub(super) fn file(
    hasher: &mut blake3::Hasher,
    path: &Path,
    length: u64,
    buffer: &mut Vec<u8>,
) -> io::Result<()> {
    let mut start = 0;
    while start < length {
        let bytes = (length - start).min(HASHED as u64) as usize;
        buffer.resize(bytes, 0);
        let pieces = buffer.par_chunks_mut(PIECE).enumerate();
        pieces.try_for_each(|(i, piece)| {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(start + (i * PIECE) as u64))?;
            file.read_exact(piece)
        })?;
        hasher.update_rayon(buffer);
        start += bytes as u64;
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
        let mut buffer = Vec::new();
        for length in [0, 1, PIECE, HASHED, HASHED + 1, bytes.len()] {
            let mut hasher = blake3::Hasher::new();
            file(&mut hasher, &path, length as u64, &mut buffer).unwrap();
            assert_eq!(
                hasher.finalize(),
                blake3::hash(&bytes[..length]),
                "{length}"
            );
        }
        // A file that has become shorter is an error, not another hash.
        let longer = bytes.len() as u64 + 1;
        let error = file(&mut blake3::Hasher::new(), &path, longer, &mut buffer).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
