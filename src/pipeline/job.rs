//! Beginning a job, or going on with one.

use std::path::Path;

use super::JobError;
use crate::output::{ALGORITHMS_FILE, JobDir, JobSpec, read_job, write_algorithms, write_job};

/// A job whose directory is locked and whose job.json stands.
#[derive(Debug)]
pub struct OpenJob {
    /// Where it writes.
    pub dir: JobDir,
    /// What it does, as job.json says.
    pub spec: JobSpec,
    /// The shards that stand already, ascending.
    pub finished: Vec<u64>,
    /// Whether an earlier run was found.
    pub resumed: bool,
}

/// Compares the job in `out`, if there is one, with the job that is `asked` to go on with it.
///
/// # Errors
/// [`JobError::Differs`]
pub fn compare_job(out: &Path, asked: impl FnOnce(&JobSpec) -> JobSpec) -> Result<(), JobError> {
    let there = read_job(out)?;
    refuse_differences(out, &there, &asked(&there))
}

fn refuse_differences(out: &Path, there: &JobSpec, asked: &JobSpec) -> Result<(), JobError> {
    let differences = there.differences(asked);
    match differences.is_empty() {
        true => Ok(()),
        false => Err(JobError::Differs {
            path: out.to_path_buf(),
            differences,
        }),
    }
}

/// Opens the directory `out` for the job `asked`.
///
/// A directory that holds a job is refused unless `resume` is set and that job is this one.
/// `resume` on an empty directory begins the job: a script need not know which run is the first.
/// `algorithms` is what becomes algorithms.json, on CUDA: `asked.gemm` is its digest.
pub fn open_job(
    out: &Path,
    asked: JobSpec,
    resume: bool,
    algorithms: Option<&str>,
) -> Result<OpenJob, JobError> {
    let dir = JobDir::open(out)?;
    let finished = dir.shards()?;
    if !dir.holds_job() {
        // Shards without the job that made them: nothing says what they are.
        if !finished.is_empty() {
            return Err(JobError::Exists {
                path: out.to_path_buf(),
            });
        }
        dir.remove_partials()?;
        // First, so that it stands wherever a job.json does that names it.
        if let Some(text) = algorithms {
            write_algorithms(&dir, text)?;
        }
        write_job(&dir, &asked)?;
        return Ok(OpenJob {
            dir,
            spec: asked,
            finished,
            resumed: false,
        });
    }
    if !resume {
        return Err(JobError::Exists {
            path: out.to_path_buf(),
        });
    }
    let spec = read_job(out)?;
    refuse_differences(out, &spec, &asked)?;
    dir.remove_partials()?;
    // A job that an older version began has none yet. Another one than the job's cannot be here:
    // its digest would be a difference.
    if let Some(text) = algorithms
        && !dir.path().join(ALGORITHMS_FILE).exists()
    {
        write_algorithms(&dir, text)?;
    }
    Ok(OpenJob {
        dir,
        spec,
        finished,
        resumed: true,
    })
}
