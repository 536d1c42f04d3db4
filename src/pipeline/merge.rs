//! Joining the outputs of `--shard 1/n` to `--shard n/n` into that of the whole.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::{JobError, KeptAlgorithms, Share};
use crate::output::{
    JobDir, ManifestHead, OutputError, hash_file, list_shards, read_job, read_manifest_head,
    read_shard_at, shard_name, write_algorithms, write_job, write_manifest,
};

/// What a merge did.
#[derive(Debug, Clone, PartialEq)]
pub struct MergeReport {
    /// Shards in the output.
    pub shards: u64,
    /// The manifest of the whole.
    pub manifest: ManifestHead,
}

/// Joins the complete jobs `sources` in `out`, which must hold no job.
///
/// Every record of the input must stand once, and every file must have the hash its shard gives.
/// The result is byte for byte what one job without `--shard` leaves. Shards are hard-linked where
/// the file system allows, else copied.
pub fn merge(sources: &[PathBuf], out: &Path) -> Result<MergeReport, JobError> {
    let [first, rest @ ..] = sources else {
        return Err(refuse(
            "no output directory was named",
            "name the directories to join",
        ));
    };
    let mut manifest = manifest_of(first)?;
    manifest.job.shard = Share::ALL.to_string();
    for other in rest {
        let mut there = manifest_of(other)?;
        there.job.shard = Share::ALL.to_string();
        let different = manifest.job.differences(&there.job);
        let gemm_alone = different.iter().all(|d| d.field == "gemm");
        let mut differences: Vec<String> = different.iter().map(ToString::to_string).collect();
        if manifest.input_records != there.input_records {
            let (a, b) = (manifest.input_records, there.input_records);
            differences.push(format!("input_records was {a}, now {b}"));
        }
        if !differences.is_empty() {
            let reason = format!(
                "{} and {} come from different jobs: {}",
                first.display(),
                other.display(),
                differences.join("; ")
            );
            let hint = match gemm_alone && differences.len() == different.len() {
                true => format!(
                    "run one of them again, with another --out and `--gemm-algorithms {}`",
                    first.display()
                ),
                false => "run every share with the same model, options and inputs".into(),
            };
            return Err(refuse(reason, hint));
        }
    }
    let algorithms = algorithms(sources, manifest.job.gemm.as_deref())?;
    let shards = collect(sources, &manifest)?;
    let dir = JobDir::open(out)?;
    if dir.holds_job() || !dir.shards()?.is_empty() {
        return Err(refuse(
            format!("{} already holds a job", out.display()),
            "give an empty or a new directory as --out",
        ));
    }
    let mut job = read_job(first)?;
    job.shard = Share::ALL.to_string();
    if let Some(kept) = algorithms {
        write_algorithms(&dir, &kept.table.to_json())?;
    }
    write_job(&dir, &job)?;
    for (block, path) in &shards {
        let partial = dir.begin_shard(*block)?;
        let linked = link_all(path, &partial, *block).and_then(|()| dir.commit_shard(*block));
        linked.inspect_err(|_| dir.abandon_shard(*block))?;
    }
    let blocks: Vec<u64> = shards.keys().copied().collect();
    let manifest = write_manifest(&dir, &manifest.job, manifest.input_records, &blocks)?;
    Ok(MergeReport {
        shards: blocks.len() as u64,
        manifest,
    })
}

fn refuse(reason: impl Into<String>, hint: impl Into<String>) -> JobError {
    JobError::Merge {
        reason: reason.into(),
        hint: hint.into(),
    }
}

fn manifest_of(source: &Path) -> Result<ManifestHead, JobError> {
    match read_manifest_head(source) {
        Err(OutputError::Io { source: e, .. }) if e.kind() == std::io::ErrorKind::NotFound => {
            Err(refuse(
                format!(
                    "{} holds no manifest.json, so its job is not complete",
                    source.display()
                ),
                "finish it with --resume first",
            ))
        }
        other => Ok(other?),
    }
}

/// The table of GEMM algorithms that the shares were computed with; none on the CPU, and none where all shares are of an
/// older version of this program. A table that is another one is refused, wherever it stands.
fn algorithms(sources: &[PathBuf], gemm: Option<&str>) -> Result<Option<KeptAlgorithms>, JobError> {
    let mut found = None;
    for source in sources {
        let kept = KeptAlgorithms::of_job(source, gemm)?;
        found = found.or(kept);
    }
    Ok(found)
}

/// Where each block stands, every one checked.
fn collect(
    sources: &[PathBuf],
    manifest: &ManifestHead,
) -> Result<BTreeMap<u64, PathBuf>, JobError> {
    let size = manifest.job.shard_size.max(1);
    let records = manifest.input_records;
    let mut shards: BTreeMap<u64, PathBuf> = BTreeMap::new();
    for source in sources {
        for block in list_shards(source)? {
            let path = source.join(shard_name(block));
            if let Some(earlier) = shards.insert(block, path.clone()) {
                let reason = format!(
                    "records {} to {} stand twice: in {} and in {}",
                    block * size + 1,
                    records.min((block + 1) * size),
                    earlier.display(),
                    path.display()
                );
                return Err(refuse(reason, "name every share once"));
            }
        }
    }
    for block in 0..records.div_ceil(size) {
        let (first, last) = (block * size, records.min((block + 1) * size));
        let Some(path) = shards.get(&block) else {
            let reason = format!(
                "records {} to {last} stand in none of them ({})",
                first + 1,
                shard_name(block)
            );
            return Err(refuse(
                reason,
                "name the output directory of every share from 1/n to n/n",
            ));
        };
        let shard = read_shard_at(path)?;
        if (shard.facts.first_record, shard.facts.rows) != (first, last - first) {
            let (from, rows) = (shard.facts.first_record, shard.facts.rows);
            let reason = format!(
                "{} holds {rows} records from {} on, where {} from {} on belong",
                path.display(),
                from + 1,
                last - first,
                first + 1
            );
            return Err(refuse(reason, "compute that share again"));
        }
        for (name, entry) in &shard.files {
            let file = path.join(name);
            if hash_file(&file, None)? != *entry {
                let reason = format!(
                    "{} is not what its shard.json says: it was changed",
                    file.display()
                );
                return Err(refuse(
                    reason,
                    "remove its shard and run that share again with --resume",
                ));
            }
        }
    }
    if let Some((_, path)) = shards.range(records.div_ceil(size)..).next() {
        let reason = format!(
            "{} is beyond the {records} records of the input",
            path.display()
        );
        return Err(refuse(reason, "compute that share again"));
    }
    Ok(shards)
}

fn link_all(from: &Path, to: &Path, block: u64) -> Result<(), OutputError> {
    let error = |action, path: &Path, e| OutputError::Io {
        action,
        path: path.to_path_buf(),
        shard: Some(block),
        source: e,
    };
    for entry in fs::read_dir(from).map_err(|e| error("list", from, e))? {
        let entry = entry.map_err(|e| error("list", from, e))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if fs::hard_link(&source, &target).is_ok() {
            continue;
        }
        let copied = fs::copy(&source, &target).and_then(|_| File::open(&target)?.sync_all());
        copied.map_err(|e| error("copy to", &target, e))?;
    }
    Ok(())
}
