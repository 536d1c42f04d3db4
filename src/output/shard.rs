//! A shard: the files of consecutive records. They appear together or not at all.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};

use super::file::{ShardFile, WrittenFile};
use super::jobdir::{JobDir, shard_number};
use super::rejected::{REJECTED_FILE, REJECTED_HEADER, Rejected};
use super::{FileEntry, NpyWriter, OutputDtype, OutputError, StatesWriter};
use crate::trace::{Trace, host};

/// The contents that every shard of a job has.
#[derive(Debug, Clone)]
pub struct ShardLayout {
    /// The layers, in the order in which their values are pushed.
    pub layers: Vec<usize>,
    /// Values per row: the width of the model.
    pub width: usize,
    /// The poolings: each has one row per record and layer.
    pub pools: Vec<String>,
    /// Whether the shard has the states of every token.
    pub per_token: bool,
    /// Whether bad records are skipped, so that a shard may have a list of them.
    pub rejects: bool,
    /// The data type of the stored values.
    pub dtype: OutputDtype,
    /// Records per shard; the last shard of a job may have fewer.
    pub shard_size: u64,
    /// The fingerprint of the job, which shard.json repeats; `None` in jobs of format 1.
    pub job: Option<String>,
}

/// What is known about a shard apart from its values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockFacts {
    /// Index of the first record of the shard, over the whole input.
    pub first_record: u64,
    /// Number of records in the shard.
    pub rows: u64,
    /// Number of tokens computed for the shard, including special tokens.
    pub tokens: u64,
    /// BLAKE3 hash over the ids and sequences as they were read, in hex.
    pub digest: String,
    /// What cleaning and length limits did to the records: a count per name.
    pub counts: BTreeMap<String, u64>,
}

/// The content of shard.json.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardRecord {
    /// The name of the shard's directory.
    pub name: String,
    /// The [`JobSpec::fingerprint`](super::JobSpec::fingerprint) of the job that made the shard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// What is known about the records of the shard.
    #[serde(flatten)]
    pub facts: BlockFacts,
    /// The other files of the shard, by name.
    pub files: BTreeMap<String, FileEntry>,
    /// BLAKE3 hash of shard.json without this field, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<String>,
}

/// The name of the count of the records that were skipped.
pub(crate) const REJECTED_COUNT: &str = "rejected";

impl BlockFacts {
    /// Returns the number of records that were skipped. They have no rows.
    pub fn rejected(&self) -> u64 {
        self.counts.get(REJECTED_COUNT).copied().unwrap_or(0)
    }
}

impl ShardRecord {
    /// Returns the number of the shard, if the record has the name of a shard.
    pub fn block(&self) -> Option<u64> {
        shard_number(&self.name)
    }

    /// Computes the correct value of the seal.
    pub(crate) fn sealed(&self) -> String {
        let open = Self {
            seal: None,
            ..self.clone()
        };
        let text = super::manifest::pretty(&open);
        blake3::hash(&text).to_hex().to_string()
    }

    /// Returns a digest of the whole record: two records have the same digest only if all their
    /// fields are equal.
    pub fn digest(&self) -> blake3::Hash {
        blake3::hash(&super::manifest::pretty(self))
    }
}

/// The name of the file that contains a [`ShardRecord`].
pub(crate) const SHARD_FILE: &str = "shard.json";
/// The name of the file with the ids, one per line.
pub(crate) const IDS_FILE: &str = "ids.txt";

/// Number of threads that sync files at the same time. They mostly wait for the disk.
const SYNCING: usize = 16;

/// The files of a shard that is being written. If it is dropped without
/// [`complete`](Self::complete), it removes the files.
pub struct ShardWriter<'a> {
    dir: &'a JobDir,
    block: u64,
    path: PathBuf,
    layers: Vec<usize>,
    /// The layer and the name of each file of pooled rows.
    pooled_files: Vec<(usize, String)>,
    job: Option<String>,
    ids: Option<ShardFile>,
    rejected: Option<ShardFile>,
    pooled: Vec<NpyWriter>,
    states: Vec<StatesWriter>,
    done: bool,
}

impl<'a> ShardWriter<'a> {
    /// Creates the files of shard number `block`.
    pub fn create(dir: &'a JobDir, block: u64, layout: &ShardLayout) -> Result<Self, OutputError> {
        Self::create_files(dir, block, layout).map_err(|e| dir.explain(block, e))
    }

    fn create_files(
        dir: &'a JobDir,
        block: u64,
        layout: &ShardLayout,
    ) -> Result<Self, OutputError> {
        let path = dir.begin_shard(block)?;
        let mut shard = Self {
            dir,
            block,
            path: path.clone(),
            layers: layout.layers.clone(),
            pooled_files: layout.pooled_files(),
            job: layout.job.clone(),
            ids: None,
            rejected: None,
            pooled: Vec::new(),
            states: Vec::new(),
            done: false,
        };
        shard.ids = Some(ShardFile::create(path.join(IDS_FILE), block)?);
        for (_, name) in &shard.pooled_files {
            let path = path.join(name);
            shard
                .pooled
                .push(NpyWriter::create(path, block, layout.dtype, layout.width)?);
        }
        for layer in &layout.layers {
            if layout.per_token {
                let path = path.join(states_name(*layer));
                shard.states.push(StatesWriter::create(
                    path,
                    block,
                    layout.dtype,
                    layout.width,
                )?);
            }
        }
        Ok(shard)
    }

    /// Appends one record. `pooled` has a row of `[width]` per layer and pooling, the poolings of a
    /// layer side by side, and `states` has `[tokens, width]` per layer; each is used only if the layout includes it.
    pub fn push(
        &mut self,
        id: &str,
        pooled: &[&[f32]],
        states: &[&[f32]],
    ) -> Result<(), OutputError> {
        if let Some(ids) = &mut self.ids {
            ids.write(id.as_bytes())?;
            ids.write(b"\n")?;
        }
        let files = self.pooled.iter_mut().zip(&self.pooled_files);
        for ((file, (layer, _)), row) in files.zip(pooled) {
            file.push(id, *layer, row)?;
        }
        for ((file, tokens), layer) in self.states.iter_mut().zip(states).zip(&self.layers) {
            file.push(id, *layer, tokens)?;
        }
        Ok(())
    }

    /// Notes a record that was skipped.
    pub fn reject(&mut self, rejected: &Rejected) -> Result<(), OutputError> {
        let file = match &mut self.rejected {
            Some(file) => file,
            None => {
                let path = self.path.join(REJECTED_FILE);
                let mut file = ShardFile::create(path, self.block)?;
                file.write(REJECTED_HEADER.as_bytes())?;
                self.rejected.insert(file)
            }
        };
        file.write(format!("{rejected}\n").as_bytes())
    }

    /// Finishes writing every file, without waiting for the disk.
    pub fn complete(mut self, facts: BlockFacts) -> Result<WrittenShard<'a>, OutputError> {
        let mut files = Vec::new();
        if let Some(ids) = self.ids.take() {
            files.push((IDS_FILE.to_owned(), ids.complete(&[])?));
        }
        if let Some(rejected) = self.rejected.take() {
            files.push((REJECTED_FILE.to_owned(), rejected.complete(&[])?));
        }
        let pooled = std::mem::take(&mut self.pooled);
        let names = std::mem::take(&mut self.pooled_files);
        for (file, (_, name)) in pooled.into_iter().zip(names) {
            files.push((name, file.complete()?));
        }
        let states = std::mem::take(&mut self.states);
        for (file, layer) in states.into_iter().zip(&self.layers) {
            files.push((states_name(*layer), file.complete()?));
        }
        self.done = true;
        Ok(WrittenShard {
            dir: self.dir,
            block: self.block,
            path: std::mem::take(&mut self.path),
            job: self.job.take(),
            facts,
            files,
            named: false,
        })
    }
}

impl ShardLayout {
    /// Returns the number of data files per shard, not counting shard.json.
    pub fn files(&self) -> usize {
        let of_records = 1 + usize::from(self.rejects);
        of_records + self.layers.len() * (self.pools.len() + usize::from(self.per_token))
    }

    /// Returns the layer and the name of each file of pooled rows, in the order of their rows.
    pub(crate) fn pooled_files(&self) -> Vec<(usize, String)> {
        let of_layer = |layer: &usize| {
            let name = |pool: &String| match self.pools.len() {
                1 => pooled_name(*layer),
                _ => pool_name(*layer, pool),
            };
            let layer = *layer;
            self.pools
                .iter()
                .map(move |pool| (layer, name(pool)))
                .collect::<Vec<_>>()
        };
        self.layers.iter().flat_map(of_layer).collect()
    }
}

/// A shard whose files are completely written, but may not be on the disk yet. If it is dropped
/// before [`name_shards`] has named it, it removes the files.
pub struct WrittenShard<'a> {
    dir: &'a JobDir,
    block: u64,
    path: PathBuf,
    job: Option<String>,
    facts: BlockFacts,
    files: Vec<(String, WrittenFile)>,
    named: bool,
}

impl WrittenShard<'_> {
    /// Hashes the files and writes shard.json.
    fn describe(&mut self) -> Result<(), OutputError> {
        let entry = |(name, file): &(String, WrittenFile)| Ok((name.clone(), file.entry()?));
        let mut record = ShardRecord {
            name: super::shard_name(self.block),
            job: self.job.clone(),
            facts: self.facts.clone(),
            files: self.files.iter().map(entry).collect::<Result<_, _>>()?,
            seal: None,
        };
        if record.job.is_some() {
            record.seal = Some(record.sealed());
        }
        let mut file = ShardFile::create(self.path.join(SHARD_FILE), self.block)?;
        file.write(&super::manifest::pretty(&record))?;
        self.files.push((SHARD_FILE.into(), file.complete(&[])?));
        Ok(())
    }
}

/// Hashes shards of one job, writes their shard.json, and renames them to their final names, in
/// order and so that they survive a power failure. Returns the number of shards that were renamed,
/// and the first error. Shards after that error are dropped.
///
/// All files are synced in parallel, and a single sync covers all renames. For a disk and the
/// journal of a file system, many syncs take hardly longer than one, and a single sync takes 50 ms
/// on some systems.
pub fn name_shards(shards: Vec<WrittenShard<'_>>) -> (usize, Result<(), OutputError>) {
    name_shards_traced(shards, &Trace::off())
}

/// Names shards as [`name_shards`] does, and records the hashing and the syncing in a trace.
pub fn name_shards_traced(
    mut shards: Vec<WrittenShard<'_>>,
    trace: &Trace,
) -> (usize, Result<(), OutputError>) {
    let rows: u64 = shards.iter().map(|s| s.facts.rows).sum();
    let stage = |name| {
        let mut span = trace.stage(host::FINISHER, 0, name);
        span.note(|args| args.sequences = Some(rows));
        span
    };
    let hashing = stage("hash");
    let mut result = Ok(());
    let mut keep = |shards: &mut Vec<WrittenShard<'_>>, whole: usize, error: OutputError| {
        result = Err(shards[whole].dir.explain(shards[whole].block, error));
        shards.truncate(whole);
    };
    let describe = |(i, shard): (usize, &mut WrittenShard<'_>)| Some((i, shard.describe().err()?));
    if let Some((i, error)) = shards.iter_mut().enumerate().find_map(describe) {
        keep(&mut shards, i, error);
    }
    drop(hashing);
    let _syncing = stage("sync");
    if let Some((i, error)) = sync_at_once(&shards) {
        keep(&mut shards, i, error);
    }
    let name = |(i, shard): (usize, &mut WrittenShard<'_>)| {
        let named = shard.dir.name_shard(shard.block);
        shard.named = named.is_ok();
        Some((i, named.err()?))
    };
    if let Some((i, error)) = shards.iter_mut().enumerate().find_map(name) {
        keep(&mut shards, i, error);
    }
    if let Some(last) = shards.last()
        && let Err(error) = last.dir.sync_names(last.block)
    {
        result = Err(error);
    }
    (shards.len(), result)
}

/// Syncs all files and directories of these shards. Returns the error of the first shard that
/// failed, and the index of that shard.
fn sync_at_once(shards: &[WrittenShard<'_>]) -> Option<(usize, OutputError)> {
    let tasks =
        |(i, shard): (usize, &'_ WrittenShard<'_>)| (0..=shard.files.len()).map(move |f| (i, f));
    let tasks: Vec<(usize, usize)> = shards.iter().enumerate().flat_map(tasks).collect();
    let next = AtomicUsize::new(0);
    let sync = || {
        let mut failed = Vec::new();
        while let Some(&(i, file)) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
            let shard = &shards[i];
            let synced = match shard.files.get(file) {
                Some((_, file)) => file.sync(),
                None => shard.dir.sync_partial(shard.block),
            };
            failed.extend(synced.err().map(|error| (i, error)));
        }
        failed
    };
    let failed = std::thread::scope(|scope| {
        let spawn = |_| {
            let thread = std::thread::Builder::new().name("sync".into());
            // If no more threads can be created, the existing threads do all the work.
            thread.spawn_scoped(scope, sync).ok()
        };
        let others: Vec<_> = (1..tasks.len().min(SYNCING)).map_while(spawn).collect();
        let mut failed = sync();
        for other in others {
            // The thread does not panic; but if it did, unsynced files must not count as synced.
            failed.extend(
                other
                    .join()
                    .unwrap_or_else(|p| std::panic::resume_unwind(p)),
            );
        }
        failed
    });
    failed.into_iter().min_by_key(|(i, _)| *i)
}

impl Drop for WrittenShard<'_> {
    fn drop(&mut self) {
        if !self.named {
            self.dir.abandon_shard(self.block);
        }
    }
}

impl Drop for ShardWriter<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.dir.abandon_shard(self.block);
        }
    }
}

/// Returns the name of the file with the pooled rows of a layer.
pub(crate) fn pooled_name(layer: usize) -> String {
    format!("layer_{layer}.npy")
}

/// Returns the name of the file with the pooled rows of a layer, if there are several poolings.
pub(crate) fn pool_name(layer: usize, pool: &str) -> String {
    format!("layer_{layer}_{pool}.npy")
}

/// Returns the name of the file with the token states of a layer.
pub(crate) fn states_name(layer: usize) -> String {
    format!("layer_{layer}.safetensors")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> ShardLayout {
        ShardLayout {
            layers: vec![0, 2],
            width: 2,
            pools: vec!["mean".into()],
            per_token: true,
            rejects: false,
            dtype: OutputDtype::F16,
            shard_size: 8,
            job: None,
        }
    }

    fn facts() -> BlockFacts {
        BlockFacts {
            first_record: 0,
            rows: 1,
            tokens: 3,
            digest: "d".into(),
            counts: BTreeMap::from([("lowercase".into(), 2)]),
        }
    }

    #[test]
    fn a_finished_shard_says_what_it_holds() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = JobDir::open(tmp.path()).unwrap();
        let mut shard = ShardWriter::create(&dir, 5, &layout()).unwrap();
        shard
            .push(
                "a",
                &[&[1.0, 2.0], &[3.0, 4.0]],
                &[&[1.0, 2.0], &[3.0, 4.0]],
            )
            .unwrap();
        let written = shard.complete(facts()).unwrap();
        assert!(dir.partial(5).exists() && !dir.shard(5).exists());
        assert!(matches!(name_shards(vec![written]), (1, Ok(()))));
        let record = super::super::read_record(&dir.shard(5)).unwrap();
        assert_eq!(
            (&record.name[..], &record.facts),
            ("shard-000005", &facts())
        );
        assert_eq!(
            record.files.keys().collect::<Vec<_>>(),
            [
                "ids.txt",
                "layer_0.npy",
                "layer_0.safetensors",
                "layer_2.npy",
                "layer_2.safetensors"
            ]
        );
        for (name, entry) in &record.files {
            assert_eq!(
                super::super::hash_file(&dir.shard(5).join(name), None).unwrap(),
                *entry
            );
        }
        assert_eq!(
            std::fs::read_to_string(dir.shard(5).join("ids.txt")).unwrap(),
            "a\n"
        );
    }

    #[test]
    fn an_abandoned_shard_leaves_nothing() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = JobDir::open(tmp.path()).unwrap();
        let mut shard = ShardWriter::create(&dir, 5, &layout()).unwrap();
        let error = shard
            .push("long", &[&[1.0, 2.0], &[3.0, 1e6]], &[&[], &[]])
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("record \"long\", layer 2: the value 1000000"),
            "{error}"
        );
        drop(shard);
        assert!(!dir.partial(5).exists() && !dir.shard(5).exists());
    }

    #[test]
    fn shards_get_their_names_up_to_the_first_that_fails() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = JobDir::open(tmp.path()).unwrap();
        let write = |block| {
            let mut shard = ShardWriter::create(&dir, block, &layout()).unwrap();
            let rows: [&[f32]; 2] = [&[1.0, 2.0], &[3.0, 4.0]];
            shard.push("a", &rows, &rows).unwrap();
            shard.complete(facts()).unwrap()
        };
        let stand = || dir.shards().unwrap();
        assert!(matches!(name_shards(vec![]), (0, Ok(()))));
        // The name is taken by a directory that is not empty.
        std::fs::create_dir_all(dir.shard(3).join("x")).unwrap();
        let (named, result) = name_shards((1..6).map(write).collect());
        let error = result.unwrap_err().to_string();
        assert!(error.contains("shard-000003"), "{error}");
        assert_eq!((named, stand()), (2, vec![1, 2, 3]));
        std::fs::remove_dir_all(dir.shard(3)).unwrap();
        // A shard.json that cannot be written.
        let written: Vec<_> = (3..6).map(write).collect();
        std::fs::create_dir(dir.partial(4).join(SHARD_FILE)).unwrap();
        let (named, result) = name_shards(written);
        let error = result.unwrap_err().to_string();
        assert!(error.contains("shard.json (shard 4)"), "{error}");
        assert_eq!((named, stand()), (1, vec![1, 2, 3]));
        for block in 1..6 {
            assert!(!dir.partial(block).exists(), "what has no name is removed");
        }
    }
}
