//! The file algorithms.json: the table of GEMM algorithms that a job on CUDA computes with. The
//! field `gemm_algorithms` in job.json is the digest of this table.
//!
//! This module treats the table as text; `gpu::cublaslt` knows its contents.

use super::OutputError;
use super::jobdir::{ALGORITHMS_FILE, JobDir};
use crate::untrusted::file;
use std::io::ErrorKind;
use std::path::Path;

/// Writes `text` to algorithms.json, replacing an existing file.
pub fn write_algorithms(dir: &JobDir, text: &str) -> Result<(), OutputError> {
    let path = dir.path().join(ALGORITHMS_FILE);
    dir.write_atomic(ALGORITHMS_FILE, |out| {
        out.write_all(text.as_bytes())
            .map_err(|e| OutputError::io("write", &path, None, e))
    })
}

/// Reads a table of at most `most` bytes. Returns `None` if there is no file at `path`.
pub fn read_algorithms(path: &Path, most: u64) -> Result<Option<String>, OutputError> {
    match file::read_text(path, most) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) if e.kind() == ErrorKind::InvalidData => Err(OutputError::Malformed {
            path: path.to_path_buf(),
            reason: e.to_string(),
        }),
        Err(e) => Err(OutputError::io("read", path, None, e)),
    }
}
