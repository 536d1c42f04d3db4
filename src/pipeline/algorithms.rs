//! Reads the table of GEMM algorithms in a job's output directory, and compares it with job.json.

use super::JobError;
use crate::gpu::cublaslt::AlgorithmTable;
use crate::output::{ALGORITHMS_FILE, OutputError, read_algorithms};
use std::path::{Path, PathBuf};

/// A table of GEMM algorithms, and the file that it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptAlgorithms {
    /// The path of the file.
    pub path: PathBuf,
    /// The table in the file.
    pub table: AlgorithmTable,
}

impl KeptAlgorithms {
    /// Reads a table. Returns `None` if the file does not exist.
    ///
    /// # Errors
    /// [`JobError::Algorithms`] if the file holds no table; [`JobError::Output`] if it cannot be
    /// read.
    pub fn read(path: &Path) -> Result<Option<Self>, JobError> {
        let refuse = |reason| JobError::Algorithms {
            path: path.to_path_buf(),
            reason,
        };
        let text = match read_algorithms(path, AlgorithmTable::MOST_BYTES) {
            Ok(None) => return Ok(None),
            Ok(Some(text)) => text,
            Err(OutputError::Malformed { reason, .. }) => return Err(refuse(reason)),
            Err(error) => return Err(error.into()),
        };
        let table = AlgorithmTable::parse(&text).map_err(|e| refuse(e.to_string()))?;
        Ok(Some(Self {
            path: path.to_path_buf(),
            table,
        }))
    }

    /// Reads the table of the job in `dir`. `gemm` is the digest of the table in job.json. Returns
    /// `None` if the job has no table: on the CPU, and if an older version of this program began
    /// the job.
    ///
    /// # Errors
    /// [`JobError::Algorithms`] if the file holds no table, or a table with another digest than
    /// `gemm`; [`JobError::Output`] if the file cannot be read.
    pub fn of_job(dir: &Path, gemm: Option<&str>) -> Result<Option<Self>, JobError> {
        let Some(gemm) = gemm else {
            return Ok(None);
        };
        let found = Self::read(&dir.join(ALGORITHMS_FILE))?;
        match found {
            Some(kept) if kept.table.fingerprint() != gemm => Err(JobError::Algorithms {
                reason: format!(
                    "its digest is {}, and \"gemm_algorithms\" in job.json, which says what the job was begun with, is {gemm}",
                    kept.table.fingerprint()
                ),
                path: kept.path,
            }),
            found => Ok(found),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_no_table_is_refused_by_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(ALGORITHMS_FILE);
        assert_eq!(KeptAlgorithms::read(&path).unwrap(), None);
        let refused = || {
            let error = KeptAlgorithms::read(&path).unwrap_err();
            assert!(matches!(error, JobError::Algorithms { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains(ALGORITHMS_FILE), "{text}");
            text
        };
        std::fs::write(&path, "{").unwrap();
        assert!(refused().contains("EOF while parsing"));
        std::fs::write(&path, "{\"format\": 7, \"new\": 1}").unwrap();
        assert!(refused().contains("its format is 7"));
        std::fs::write(&path, "x".repeat(2 << 20)).unwrap();
        assert!(refused().contains("more than 1048576 bytes"));
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(refused().contains("a directory"));
        // For a job on the CPU, the file is not looked at.
        assert_eq!(KeptAlgorithms::of_job(dir.path(), None).unwrap(), None);
    }
}
