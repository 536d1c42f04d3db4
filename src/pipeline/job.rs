//! Beginning a job, or going on with one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::JobError;
use super::StandingBlocks;
use crate::output::ALGORITHMS_FILE;
use crate::output::Doubt;
use crate::output::JobDir;
use crate::output::JobSpec;
use crate::output::OutputError;
use crate::output::ShardLayout;
use crate::output::ShardRecord;
use crate::output::read_job;
use crate::output::read_manifest;
use crate::output::revoke_manifest;
use crate::output::write_algorithms;
use crate::output::write_job;
use rayon::prelude::*;

/// A job whose directory is locked and whose job.json stands.
#[derive(Debug)]
pub struct OpenJob {
    /// Where it writes.
    pub dir: JobDir,
    /// What it does, as job.json says.
    pub spec: JobSpec,
    /// The shards that stand already, ascending, each verified.
    pub finished: Vec<u64>,
    /// Those that stood, were not what this job made, and were removed.
    pub removed: Vec<Removed>,
    /// Whether an earlier run was found.
    pub resumed: bool,
}

/// A shard that was not believed. It is computed again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// Where it stood.
    pub shard: PathBuf,
    /// Why it was not believed, as a clause.
    pub reason: String,
}

/// How finished shards are checked when a job goes on.
#[derive(Default)]
pub struct Checks {
    /// Threads that hash; 0 is as many as there are cores.
    pub threads: usize,
    /// What the input holds, where it could be read before the job.
    pub input: Option<StandingBlocks>,
}

/// Compares the job in `out`, if there is one, with the job that is `asked` to go on with it.
///
/// # Errors
/// [`JobError::Differs`]
pub fn compare_job(out: &Path, asked: impl FnOnce(&JobSpec) -> JobSpec) -> Result<(), JobError> {
    let there = read_job(out)?;
    let mut asked = asked(&there);
    asked.format = older_format(&there, &asked);
    refuse_differences(out, &there, &asked)
}

/// A job of an older format goes on in that format.
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
/// A directory that holds a job is refused unless `resume` is set and that job is this one.
/// `resume` on an empty directory begins the job: a script need not know which run is the first.
///
/// Of a job that goes on, every shard that stands is checked whole, and what is not what this job
/// makes of this input is removed, to be computed again. `algorithms` is what becomes
/// algorithms.json, on CUDA: `asked.gemm_algorithms` is its digest.
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
        // Without the job that made them, nothing says what they are.
        if !standing.is_empty() || dir.holds_manifest()? {
            return Err(JobError::Nameless {
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
    // A job that an older version began has none yet. Another one than the job's cannot be here:
    // its digest would be a difference.
    if let Some(text) = algorithms
        && !dir.path().join(ALGORITHMS_FILE).exists()
    {
        write_algorithms(&dir, text)?;
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

/// Checks all shards that stand; removes those that are not this job's.
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
                // Jobs of format 1 have nothing better that says which shards are theirs.
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
    // The job is not complete before it has fewer shards.
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

/// Why a shard is not of the input's records, if it is not.
fn other_records(record: &ShardRecord, block: u64, checks: &Checks) -> Option<String> {
    let (rows, digest) = checks.input.as_ref()?.get(block)?;
    let same = (record.facts.rows, record.facts.digest.as_str()) == (rows, digest);
    (!same).then(|| "it was made from other records than those of the input".into())
}

/// Digests of what manifest.json lists, where one stands. One that lists what does not stand, or
/// cannot be understood, is removed: the job is not complete.
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

/// A rayon pool of so many threads.
pub(crate) fn pool(threads: usize) -> Result<rayon::ThreadPool, JobError> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.map_err(|e| JobError::Internal(format!("cannot start a thread: {e}")))
}
