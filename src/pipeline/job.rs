//! The begin and the end of a job: opens its directory, new or to be resumed, and completes it.

use std::path::Path;
use std::sync::Arc;

use super::JobError;
use super::messages::InputEnd;
use super::read::ReadOptions;
use super::resume::{Checks, Removed, keep_sound};
use super::verdicts::make_tables;
use crate::model::ModelError;
use crate::output::{
    ALGORITHMS_FILE, JobDir, JobSpec, ManifestHead, OutputError, read_job, write_algorithms,
    write_job, write_manifest,
};
use crate::untrusted::file;
use crate::virnucpro::TableCounts;
use crate::weights::Checkpoint;

/// A job whose directory is locked and whose job.json exists.
#[derive(Debug)]
pub struct OpenJob {
    /// The output directory.
    pub dir: JobDir,
    /// The job as job.json describes it.
    pub spec: JobSpec,
    /// The numbers of the shards that exist already, ascending, each verified.
    pub finished: Vec<u64>,
    /// The shards that existed but did not match this job, and were removed.
    pub removed: Vec<Removed>,
    /// Whether an earlier run began the job.
    pub resumed: bool,
}

/// Compares the job in `out` with the job that would resume it, which `asked` makes from the
/// description in job.json.
///
/// # Errors
/// [`JobError::Differs`] if the two jobs differ; [`JobError::Output`] if job.json cannot be read.
pub fn compare_job(out: &Path, asked: impl FnOnce(&JobSpec) -> JobSpec) -> Result<(), JobError> {
    let there = read_job(out)?;
    let mut asked = asked(&there);
    asked.format = older_format(&there, &asked);
    refuse_differences(out, &there, &asked)
}

/// Returns the format of a resumed job: a job of an older format keeps that format.
fn older_format(there: &JobSpec, asked: &JobSpec) -> u32 {
    there.format.max(1).min(asked.format)
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
/// A directory that holds a job is refused, unless `resume` is set and the job is the same. With
/// `resume` and an empty directory the job begins, so that a script need not know which run is the
/// first.
///
/// When a job is resumed, every existing shard is checked completely. A shard that is not the shard
/// that this job makes from this input is removed and computed again. `algorithms` is the content
/// of algorithms.json, on CUDA; `asked.gemm_algorithms` is its digest.
///
/// # Errors
/// [`JobError::Exists`], [`JobError::Nameless`], [`JobError::Differs`] or [`JobError::Surplus`] if
/// the content of the directory does not fit the job; [`JobError::Output`] if the directory cannot
/// be read or written.
pub fn open_job(
    out: &Path,
    mut asked: JobSpec,
    resume: bool,
    checks: &Checks,
    algorithms: Option<&str>,
) -> Result<OpenJob, JobError> {
    let dir = JobDir::open(out)?;
    let standing = dir.shards()?;
    if !dir.holds_job()? {
        // Without a job.json, nothing says which job made these shards.
        if !standing.is_empty() || dir.holds_manifest()? {
            return Err(JobError::Nameless {
                path: out.to_path_buf(),
            });
        }
        dir.remove_partials()?;
        // This file is written first, so that it exists wherever a job.json names it.
        if let Some(text) = algorithms {
            write_algorithms(&dir, text)?;
        }
        write_job(&dir, &asked)?;
        return Ok(OpenJob {
            dir,
            spec: asked,
            finished: standing,
            removed: Vec::new(),
            resumed: false,
        });
    }
    if !resume {
        return Err(JobError::Exists {
            path: out.to_path_buf(),
        });
    }
    let spec = read_job(out)?;
    asked.format = older_format(&spec, &asked);
    refuse_differences(out, &spec, &asked)?;
    dir.remove_partials()?;
    // The job of an older version has no table yet. `algorithms` cannot be another table than the
    // job's, because its digest would be a difference.
    if let Some(text) = algorithms {
        let path = dir.path().join(ALGORITHMS_FILE);
        if !file::is_there(&path).map_err(|e| OutputError::io("read", &path, None, e))? {
            write_algorithms(&dir, text)?;
        }
    }
    let (finished, removed) = keep_sound(&dir, &spec, standing, checks)?;
    Ok(OpenJob {
        dir,
        spec,
        finished,
        removed,
        resumed: true,
    })
}

/// Checks that the inputs match job.json and that the weights have not changed, and writes the
/// manifest.
pub(crate) fn complete(
    job: &OpenJob,
    options: &ReadOptions,
    weights: &[Arc<Checkpoint>],
    InputEnd {
        records, digests, ..
    }: &InputEnd,
) -> Result<(ManifestHead, Option<TableCounts>), JobError> {
    let mut spec = job.spec.clone();
    if digests.len() != spec.inputs.len() {
        return Err(JobError::Internal(format!(
            "{} of {} inputs hashed",
            digests.len(),
            spec.inputs.len()
        )));
    }
    for (input, digest) in spec.inputs.iter_mut().zip(digests) {
        if input.blake3.get_or_insert_with(|| digest.blake3.clone()) != &digest.blake3 {
            return Err(JobError::InputChanged {
                name: digest.name.clone(),
            });
        }
    }
    for weights in weights {
        weights.unchanged().map_err(ModelError::from)?;
    }
    let size = options.shard_size;
    let shards: Vec<u64> = (0..records.div_ceil(size))
        .filter(|n| options.share.holds(*n))
        .collect();
    let tables = make_tables(&job.dir, &spec, &shards)?;
    Ok((write_manifest(&job.dir, &spec, *records, &shards)?, tables))
}
