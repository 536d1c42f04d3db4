//! Joins the outputs of `--share 1/n` to `--share n/n` into the output of the whole job.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::resume::pool;
use super::verdicts::make_tables;
use super::{JobError, KeptAlgorithms, Share};
use crate::output::{
    Doubt, FORMAT, JobDir, JobSpec, ManifestHead, OutputError, SHARD_FILE, ShardLayout,
    ShardRecord, Totals, hash_file, list_shards, read_job, read_manifest, read_record, shard_name,
    write_algorithms, write_job, write_manifest,
};
use crate::remedy::{Action, Remedy};

/// The result of a merge.
#[derive(Debug, Clone, PartialEq)]
pub struct MergeReport {
    /// The number of shards in the output.
    pub shards: u64,
    /// The manifest of the whole job.
    pub manifest: ManifestHead,
    /// Warnings about the output directory, for the user.
    pub warnings: Vec<String>,
}

/// A share: the content of its manifest.json, which agrees with its job.json.
struct Source<'a> {
    path: &'a Path,
    head: ManifestHead,
    /// The digest of each shard that the manifest lists.
    listed: BTreeMap<u64, blake3::Hash>,
}

/// A shard of a share that has been checked.
struct Checked {
    path: PathBuf,
    digest: blake3::Hash,
}

/// Joins the complete jobs in the directories `sources` into the directory `out`. `out` must hold
/// no job, except the remains of a merge of the same jobs that was broken off.
///
/// Every record of the input must occur once. Every shard must be the shard that its job made and
/// that the manifest.json of its share lists. The result is byte for byte the output of one job
/// without `--share`. Shards are hard-linked where the file system allows this, and copied
/// otherwise.
///
/// # Errors
/// [`JobError::Merge`] if the jobs cannot be merged; [`JobError::Algorithms`] if a table of GEMM
/// algorithms is wrong; [`JobError::Output`] if a share cannot be read; [`JobError::MergeOutput`]
/// if `out` cannot be written.
pub fn merge(sources: &[PathBuf], out: &Path) -> Result<MergeReport, JobError> {
    let sources: Vec<Source<'_>> = sources
        .iter()
        .map(|path| source(path))
        .collect::<Result<_, _>>()?;
    let [first, rest @ ..] = sources.as_slice() else {
        return Err(refuse(
            "no output directory was named",
            "name the directories to join",
        ));
    };
    let mut whole = first.head.job.clone();
    whole.share = Share::ALL.to_string();
    for other in rest {
        let mut there = other.head.job.clone();
        there.share = Share::ALL.to_string();
        let different = whole.differences(&there);
        let gemm_alone = different.iter().all(|d| d.field == "gemm_algorithms");
        let mut differences: Vec<String> = different.iter().map(ToString::to_string).collect();
        if first.head.input_records != other.head.input_records {
            let (a, b) = (first.head.input_records, other.head.input_records);
            differences.push(format!("input_records was {a}, now {b}"));
        }
        if !differences.is_empty() {
            let reason = format!(
                "{} and {} come from different jobs: {}",
                first.path.display(),
                other.path.display(),
                differences.join("; ")
            );
            let remedy: Remedy = match gemm_alone && differences.len() == different.len() {
                true => Action::RecomputeWithAlgorithms {
                    of: first.path.to_owned(),
                }
                .into(),
                false => "run every share with the same model, options and inputs".into(),
            };
            return Err(refuse(reason, remedy));
        }
    }
    let table = algorithms(&sources, whole.gemm_algorithms.as_deref())?;
    let shards = collect(&sources, &first.head)?;
    let mut job = read_job(first.path)?;
    job.share = Share::ALL.to_string();
    let written = write(out, &job, &whole, table, first.head.input_records, &shards);
    let (manifest, warnings) = written.map_err(|error| match error {
        // A job's error advises to resume, which `merge` cannot do.
        JobError::Output(error) => JobError::MergeOutput(error),
        other => other,
    })?;
    Ok(MergeReport {
        shards: shards.len() as u64,
        manifest,
        warnings,
    })
}

fn refuse(reason: impl Into<String>, remedy: impl Into<Remedy>) -> JobError {
    JobError::Merge {
        reason: reason.into(),
        remedy: remedy.into(),
    }
}

fn said(there: &JobSpec, asked: &JobSpec) -> Vec<String> {
    let differences = there.differences(asked);
    differences.iter().map(ToString::to_string).collect()
}

/// Reads the description of a share from both of its files, and checks that they agree.
fn source(path: &Path) -> Result<Source<'_>, JobError> {
    let shown = path.display();
    let mut listed = BTreeMap::new();
    let mut totals = Totals::default();
    let read = read_manifest(path, &mut |record| {
        let name = record.name.escape_debug();
        let block = record
            .block()
            .ok_or_else(|| format!("\"{name}\" is no shard"))?;
        if listed.insert(block, record.digest()).is_some() {
            return Err(format!("it lists {name} twice"));
        }
        let added = totals.add(&record.facts);
        added.ok_or_else(|| "its counts add up to more than any input holds".into())
    });
    let head = match read {
        Err(OutputError::Io { source: e, .. }) if e.kind() == ErrorKind::NotFound => {
            let reason = format!("{shown} holds no manifest.json, so its job is not complete");
            return Err(refuse(reason, Action::ResumeThatJob));
        }
        other => other?,
    };
    let wrong = |what: &str| {
        refuse(
            format!("the manifest.json of {shown} {what}"),
            Remedy::all([
                Action::ResumeThatJob.into(),
                "a job writes this file anew when it ends".into(),
            ]),
        )
    };
    if !(1..=FORMAT).contains(&head.job.format) {
        let reason = format!(
            "{shown} has format {}, and this program knows 1 to {FORMAT}",
            head.job.format
        );
        return Err(refuse(
            reason,
            "merge with the seqstream that computed the shares",
        ));
    }
    let share: Share = head
        .job
        .share
        .parse()
        .map_err(|()| wrong("names no share"))?;
    if !head.complete || head.job.shard_size == 0 {
        return Err(wrong("is not that of a complete job"));
    }
    if let Some(block) = listed.keys().find(|b| !share.holds(**b)) {
        return Err(wrong(&format!(
            "lists {}, which is not in share {share}",
            shard_name(*block)
        )));
    }
    if totals != head.totals() {
        return Err(wrong("gives other totals than its shards add up to"));
    }
    let mut job = match read_job(path) {
        Err(OutputError::Io { source: e, .. }) if e.kind() == ErrorKind::NotFound => {
            let reason = format!("{shown} holds no job.json, so nothing says what its shards are");
            return Err(refuse(reason, Action::RecomputeShare));
        }
        other => other?,
    };
    // For an input that came through a pipe, only the manifest has the hash.
    for (input, read) in job.inputs.iter_mut().zip(&head.job.inputs) {
        input.blake3 = input.blake3.take().or_else(|| read.blake3.clone());
    }
    let differences = said(&job, &head.job);
    if !differences.is_empty() {
        let reason = format!(
            "the job.json and the manifest.json of {shown} are of different jobs: {}",
            differences.join("; ")
        );
        return Err(refuse(reason, Action::RecomputeShare));
    }
    Ok(Source { path, head, listed })
}

/// Returns the table of GEMM algorithms that the shares were computed with. There is none on the
/// CPU, and none if an older version of this program computed all shares. A share with another
/// table is refused, even if a share before it has the right table.
fn algorithms(
    sources: &[Source<'_>],
    digest: Option<&str>,
) -> Result<Option<KeptAlgorithms>, JobError> {
    let mut found = None;
    for source in sources {
        let kept = KeptAlgorithms::of_job(source.path, digest)?;
        found = found.or(kept);
    }
    Ok(found)
}

/// Returns the path and the digest of every shard of the job, each of them checked.
fn collect(
    sources: &[Source<'_>],
    head: &ManifestHead,
) -> Result<BTreeMap<u64, Checked>, JobError> {
    let (size, records) = (head.job.shard_size, head.input_records);
    // Returns the numbers, from 1, of a shard's first record and of its last record.
    let numbers = |block: u64| {
        let first = block.saturating_mul(size);
        (
            first.saturating_add(1),
            records.min(first.saturating_add(size)),
        )
    };
    let mut shards: BTreeMap<u64, (PathBuf, &Source<'_>)> = BTreeMap::new();
    for source in sources {
        let shown = source.path.display();
        let stand = list_shards(source.path)?;
        if let Some(missing) = source
            .listed
            .keys()
            .find(|b| stand.binary_search(b).is_err())
        {
            let name = shard_name(*missing);
            let reason =
                format!("{name} stands in the manifest.json of {shown}, and not beside it");
            return Err(refuse(reason, Action::ResumeThatJob));
        }
        for block in stand {
            let path = source.path.join(shard_name(block));
            if !source.listed.contains_key(&block) {
                let reason = format!("{} is not in the manifest.json beside it", path.display());
                return Err(refuse(
                    reason,
                    "move it elsewhere: its share is complete without it",
                ));
            }
            if let Some((earlier, _)) = shards.insert(block, (path.clone(), source)) {
                let (first, last) = numbers(block);
                let reason = format!(
                    "records {first} to {last} stand twice: in {} and in {}",
                    earlier.display(),
                    path.display()
                );
                return Err(refuse(reason, "name every share once"));
            }
        }
    }
    for block in 0..records.div_ceil(size) {
        if !shards.contains_key(&block) {
            let (first, last) = numbers(block);
            let reason = format!(
                "records {first} to {last} stand in none of them ({})",
                shard_name(block)
            );
            return Err(refuse(
                reason,
                "name the output directory of every share from 1/n to n/n",
            ));
        }
    }
    if let Some((_, (path, _))) = shards.range(records.div_ceil(size)..).next() {
        let reason = format!(
            "{} is beyond the {records} records of the input",
            path.display()
        );
        return Err(refuse(reason, "compute that share again"));
    }
    let layout = ShardLayout::of(&head.job);
    let check = |(block, (path, source)): (u64, (PathBuf, &Source<'_>))| {
        let record = verified(&layout, &path, block, source.listed.get(&block))?;
        let (first, last) = numbers(block);
        // Both numbers count from 1, and the last record is part of the shard.
        let rows = record.facts.records();
        let right = last - first + 1;
        if rows != right {
            let reason = format!(
                "{} holds {rows} records, where {right} belong",
                path.display()
            );
            return Err(refuse(reason, "compute that share again"));
        }
        let digest = record.digest();
        Ok((block, Checked { path, digest }))
    };
    let checked: Vec<_> = pool(0)?.install(|| {
        let shards: Vec<_> = shards.into_iter().collect();
        shards.into_par_iter().map(check).collect()
    });
    checked.into_iter().collect()
}

/// Returns the record of a shard, if a job of this layout made the shard and its manifest lists it.
fn verified(
    layout: &ShardLayout,
    path: &Path,
    block: u64,
    listed: Option<&blake3::Hash>,
) -> Result<ShardRecord, JobError> {
    let reason = match layout.verify(path, block) {
        Ok(record) if listed == Some(&record.digest()) => return Ok(record),
        Ok(_) => "it is not the one that manifest.json lists".into(),
        Err(Doubt::Unsound(reason)) => reason,
        Err(Doubt::Failed(error)) => return Err(error.into()),
    };
    Err(refuse(
        format!("{} is not what its job made: {reason}", path.display()),
        Remedy::all([
            Action::ResumeThatJob.into(),
            "it then computes this shard again".into(),
        ]),
    ))
}

/// Writes the whole job, or the part of it that a merge that was broken off has not written.
fn write(
    out: &Path,
    job: &JobSpec,
    whole: &JobSpec,
    algorithms: Option<KeptAlgorithms>,
    input_records: u64,
    shards: &BTreeMap<u64, Checked>,
) -> Result<(ManifestHead, Vec<String>), JobError> {
    let dir = JobDir::open(out)?;
    let stand = dir.shards()?;
    let taken = |why: &str| {
        refuse(
            format!("{} already holds {why}", out.display()),
            Action::EmptyOutput,
        )
    };
    if !dir.holds_job()? {
        if !stand.is_empty() || dir.holds_manifest()? {
            return Err(taken("shards without the job.json that says what they are"));
        }
        dir.remove_partials()?;
        // This file is written first, so that it exists wherever a job.json names it.
        if let Some(kept) = algorithms {
            write_algorithms(&dir, &kept.table.to_json())?;
        }
        write_job(&dir, job)?;
    } else if dir.holds_manifest()? {
        return Err(taken("a job"));
    } else {
        let differences = said(&read_job(out)?, job);
        if !differences.is_empty() {
            return Err(taken(&format!(
                "a job, and another one: {}",
                differences.join("; ")
            )));
        }
        if let Some(other) = stand.iter().find(|b| !shards.contains_key(b)) {
            return Err(taken(&format!(
                "{}, which is in no share",
                shard_name(*other)
            )));
        }
        dir.remove_partials()?;
    }
    let layout = ShardLayout::of(job);
    for (block, shard) in shards {
        if stand.binary_search(block).is_ok() {
            let there = layout.verify(&dir.shard(*block), *block);
            match there {
                Ok(record) if record.digest() == shard.digest => continue,
                Err(Doubt::Failed(error)) => return Err(error.into()),
                _ => dir.discard_shard(*block)?,
            }
        }
        let partial = dir.begin_shard(*block)?;
        let linked = link_all(shard, &partial, *block).and_then(|()| dir.commit_shard(*block));
        linked.inspect_err(|_| dir.abandon_shard(*block))?;
    }
    let blocks: Vec<u64> = shards.keys().copied().collect();
    make_tables(&dir, whole, &blocks)?;
    let manifest = write_manifest(&dir, whole, input_records, &blocks)?;
    Ok((manifest, dir.warnings()))
}

/// Links the files that the shard's record lists, and shard.json. Other files are not linked.
fn link_all(shard: &Checked, to: &Path, block: u64) -> Result<(), OutputError> {
    let error = |action, path: &Path, e| OutputError::Io {
        action,
        path: path.to_path_buf(),
        shard: Some(block),
        source: e,
    };
    let changed = |reason: &str| OutputError::Unsound {
        shard: shard.path.clone(),
        reason: reason.into(),
    };
    let record = read_record(&shard.path)?;
    if record.digest() != shard.digest {
        return Err(changed("its shard.json was changed while it was merged"));
    }
    let files = record.files.iter();
    let files = files.map(|(name, entry)| (name.as_str(), Some(entry)));
    for (name, entry) in files.chain([(SHARD_FILE, None)]) {
        let (source, target) = (shard.path.join(name), to.join(name));
        if fs::hard_link(&source, &target).is_ok() {
            continue;
        }
        let copied = fs::copy(&source, &target).and_then(|_| File::open(&target)?.sync_all());
        copied.map_err(|e| error("copy to", &target, e))?;
        // The copy is hashed, because it was made after its original was hashed.
        if let Some(entry) = entry
            && hash_file(&target, Some(block))? != *entry
        {
            return Err(changed(&format!("{name} was changed while it was merged")));
        }
    }
    Ok(())
}
