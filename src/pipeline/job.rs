//! Begins a job or resumes one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{JobError, StandingBlocks};
use crate::output::{
    ALGORITHMS_FILE, Doubt, JobDir, JobSpec, OutputError, ShardLayout, ShardRecord, read_job,
    read_manifest, revoke_manifest, write_algorithms, write_job,
};
use crate::untrusted::file;
use rayon::prelude::*;

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

/// A shard that existed but failed its check. It is computed again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// The path of the shard.
    pub shard: PathBuf,
    /// The reason, as a clause.
    pub reason: String,
}

/// How finished shards are checked when a job is resumed.
#[derive(Default)]
pub struct Checks {
    /// The number of threads that hash; 0 means one thread per core.
    pub threads: usize,
    /// The digests of the input's records, if the input could be read before the job.
    pub input: Option<StandingBlocks>,
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

/// Checks all existing shards, and removes the shards that do not belong to this job.
fn keep_sound(
    dir: &JobDir,
    spec: &JobSpec,
    standing: Vec<u64>,
    checks: &Checks,
) -> Result<(Vec<u64>, Vec<Removed>), JobError> {
    if let Some(input) = &checks.input
        && let Some(surplus) = standing.iter().find(|b| !input.has(**b))
    {
        return Err(JobError::Surplus {
            shard: dir.shard(*surplus),
            records: input.records(),
        });
    }
    let listed = listed(dir, &standing)?;
    let layout = ShardLayout::of(spec);
    let check = |block: &u64| -> Result<Option<String>, OutputError> {
        match layout.verify(&dir.shard(*block), *block) {
            Ok(record) => Ok(other_records(&record, *block, checks).or_else(|| {
                // Jobs of format 1 have nothing better that says which shards belong to them.
                let other = listed.get(block).is_some_and(|l| *l != record.digest());
                other.then(|| "it is not the one that manifest.json lists".into())
            })),
            Err(Doubt::Unsound(reason)) => Ok(Some(reason)),
            Err(Doubt::Failed(error)) => Err(error),
        }
    };
    let checked: Vec<_> =
        pool(checks.threads)?.install(|| standing.par_iter().map(check).collect());
    let (mut finished, mut removed) = (Vec::new(), Vec::new());
    for (block, reason) in standing.into_iter().zip(checked) {
        match reason? {
            None => finished.push(block),
            Some(reason) => removed.push((block, reason)),
        }
    }
    // The manifest goes first: a job with fewer shards is not complete.
    if !removed.is_empty() {
        revoke_manifest(dir.path())?;
    }
    for (block, _) in &removed {
        dir.discard_shard(*block)?;
    }
    let removed = removed.into_iter().map(|(block, reason)| Removed {
        shard: dir.shard(block),
        reason,
    });
    Ok((finished, removed.collect()))
}

/// Returns why a shard was not made from the records of the input; `None` if it was.
fn other_records(record: &ShardRecord, block: u64, checks: &Checks) -> Option<String> {
    let (rows, digest) = checks.input.as_ref()?.get(block)?;
    let same = (record.facts.rows, record.facts.digest.as_str()) == (rows, digest);
    (!same).then(|| "it was made from other records than those of the input".into())
}

/// Returns the digests of the shards that manifest.json lists, if the file exists. A manifest that
/// lists a missing shard, or that cannot be understood, is removed: the job is not complete.
fn listed(dir: &JobDir, standing: &[u64]) -> Result<BTreeMap<u64, blake3::Hash>, JobError> {
    let mut listed = BTreeMap::new();
    if !dir.holds_manifest()? {
        return Ok(listed);
    }
    let read = read_manifest(dir.path(), &mut |record| {
        let block = record.block().filter(|b| standing.binary_search(b).is_ok());
        let block = block.ok_or("it lists what does not stand")?;
        listed.insert(block, record.digest());
        Ok(())
    });
    match read {
        Ok(_) => Ok(listed),
        Err(OutputError::Malformed { .. }) => {
            revoke_manifest(dir.path())?;
            Ok(BTreeMap::new())
        }
        Err(error) => Err(error.into()),
    }
}

/// Makes a rayon pool with the given number of threads.
pub(crate) fn pool(threads: usize) -> Result<rayon::ThreadPool, JobError> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.map_err(|e| JobError::Internal(format!("cannot start a thread: {e}")))
}
