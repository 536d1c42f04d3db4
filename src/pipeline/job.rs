//! Beginning a job, or going on with one.

use std::path::Path;

use super::JobError;
use crate::output::{JobDir, JobSpec, read_job, write_job};

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

/// Opens the directory `out` for the job `asked`.
///
/// A directory that holds a job is refused unless `resume` is set and that job is this one.
/// `resume` on an empty directory begins the job: a script need not know which run is the first.
pub fn open_job(out: &Path, asked: JobSpec, resume: bool) -> Result<OpenJob, JobError> {
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
    let differences = spec.differences(&asked);
    if !differences.is_empty() {
        return Err(JobError::Differs {
            path: out.to_path_buf(),
            differences,
        });
    }
    dir.remove_partials()?;
    Ok(OpenJob {
        dir,
        spec,
        finished,
        resumed: true,
    })
}
