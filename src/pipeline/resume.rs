//! Checks what an earlier run of a job has left, so that a resumed job keeps what is right and
//! computes the rest again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use rayon::prelude::*;

use super::{JobError, Share};
use crate::output::{
    Doubt, JobDir, JobSpec, OutputError, ShardLayout, ShardRecord, read_manifest, revoke_manifest,
};
use crate::sequence::Record;

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
    pub input: Option<StandingShards>,
}

/// Checks all existing shards, and removes the shards that do not belong to this job.
pub(crate) fn keep_sound(
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
    let same = (record.facts.records(), record.facts.digest.as_str()) == (rows, digest);
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

/// The digest of consecutive records as they were read, before cleaning.
#[derive(Default)]
pub(crate) struct RecordsDigest(blake3::Hasher);

impl RecordsDigest {
    /// Adds a record. The lengths are digested too, so that the digest changes when a letter moves
    /// from one part to the next.
    pub(crate) fn take(&mut self, record: &Record) {
        // The place decides the ids of the fragments, and the index.
        if let Some(chunk) = record.chunk {
            for number in [chunk.number, chunk.of, chunk.start, chunk.contig] {
                self.0.update(&number.to_le_bytes());
            }
        }
        for part in [record.id.as_bytes(), &record.sequence] {
            self.0.update(&(part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
    }

    /// Adds a record that the reader skipped, of which only the name is known.
    pub(crate) fn skip(&mut self, name: &str) {
        self.0.update(&u64::MAX.to_le_bytes());
        self.0.update(&(name.len() as u64).to_le_bytes());
        self.0.update(name.as_bytes());
    }

    /// Returns the digest in hex.
    pub(crate) fn finish(&self) -> String {
        self.0.finalize().to_hex().to_string()
    }
}

/// The digests of the input's records for the shards that exist already. It is filled from an input
/// that is read before the job begins.
pub struct StandingShards {
    shard_size: u64,
    share: Share,
    standing: BTreeSet<u64>,
    records: u64,
    current: Option<(u64, u64, RecordsDigest)>,
    digests: BTreeMap<u64, (u64, String)>,
}

impl StandingShards {
    /// Starts without records. `standing` are the numbers of the existing shards.
    pub fn new(shard_size: u64, share: Share, standing: &[u64]) -> Self {
        Self {
            shard_size: shard_size.max(1),
            share,
            standing: standing.iter().copied().collect(),
            records: 0,
            current: None,
            digests: BTreeMap::new(),
        }
    }

    /// Takes the next record of the input as it was read.
    pub fn take(&mut self, record: &Record) {
        self.next(|digest| digest.take(record));
    }

    /// Takes the next record of the input, which the reader skipped.
    pub fn skip(&mut self, name: &str) {
        self.next(|digest| digest.skip(name));
    }

    fn next(&mut self, add: impl FnOnce(&mut RecordsDigest)) {
        let shard = self.records / self.shard_size;
        self.records += 1;
        if self
            .current
            .as_ref()
            .is_some_and(|(number, ..)| *number != shard)
        {
            self.close();
        }
        if self.share.holds(shard) && self.standing.contains(&shard) {
            let current = self
                .current
                .get_or_insert_with(|| (shard, 0, RecordsDigest::default()));
            current.1 += 1;
            add(&mut current.2);
        }
    }

    /// Ends the last shard: the input has no more records.
    pub fn finish(mut self) -> Self {
        self.close();
        self
    }

    fn close(&mut self) {
        if let Some((shard, rows, digest)) = self.current.take() {
            self.digests.insert(shard, (rows, digest.finish()));
        }
    }

    /// Returns the number of records in the input.
    pub(crate) fn records(&self) -> u64 {
        self.records
    }

    /// Whether shard number `shard` belongs to the share and the input has records for it.
    pub(crate) fn has(&self, shard: u64) -> bool {
        self.share.holds(shard) && shard < self.records.div_ceil(self.shard_size)
    }

    /// Returns the number of records and the digest of a shard, if the shard existed when the input
    /// was read.
    pub(crate) fn get(&self, shard: u64) -> Option<(u64, &str)> {
        let (rows, digest) = self.digests.get(&shard)?;
        Some((*rows, digest))
    }
}
