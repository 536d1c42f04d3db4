//! A shard: the files of consecutive records. They appear together or not at all.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::file::{Encoded, ShardFile, WrittenFile};
use super::jobdir::{JobDir, shard_number};
use super::rejected::{REJECTED_FILE, REJECTED_HEADER, Rejected};
use super::states::{Task, TaskError};
use super::virnucpro::CHUNKS_COUNT;
use super::{FileEntry, NpyWriter, OutputDtype, OutputError, StatesWriter};
use crate::dtype::States;
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
    /// The files of a job of `seqstream virnucpro`, in place of the files of layers.
    pub virnucpro: Option<VirnucproFiles>,
}

/// The files of a shard of a job of `seqstream virnucpro`.
#[derive(Debug, Clone)]
pub struct VirnucproFiles {
    /// The name and the width of each array, in the order in which the rows are pushed.
    pub arrays: Vec<(String, usize)>,
    /// The names of the texts.
    pub texts: Vec<&'static str>,
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

    /// Returns the number of records: those with rows and those that were skipped. The records of
    /// `seqstream virnucpro` are chunks, which have any number of rows.
    pub fn records(&self) -> u64 {
        let counted = self.counts.get(CHUNKS_COUNT).copied();
        counted.unwrap_or_else(|| self.rows.saturating_add(self.rejected()))
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
    /// The name and the width of each file of pooled rows.
    pooled_files: Vec<(String, usize)>,
    job: Option<String>,
    ids: Option<ShardFile>,
    rejected: Option<ShardFile>,
    pooled: Vec<NpyWriter>,
    states: Vec<StatesWriter>,
    texts: Vec<(&'static str, ShardFile)>,
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
            texts: Vec::new(),
            done: false,
        };
        shard.ids = Some(ShardFile::create(path.join(IDS_FILE), block)?);
        for (name, width) in &shard.pooled_files {
            let path = path.join(name);
            let file = NpyWriter::create(path, block, layout.dtype, *width)?;
            shard.pooled.push(file);
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

    /// Appends the records of a batch. `states` has the states of the whole batch, per layer; it is
    /// used only if the layout includes it. After an error the shard can only be dropped.
    ///
    /// # Errors
    /// [`PushError::Row`] for the first record with a value that cannot be stored.
    pub fn push(
        &mut self,
        rows: &[Row<'_>],
        states: &[&States],
        workers: &Workers,
    ) -> Result<(), PushError> {
        let mut refused = None;
        for (i, row) in rows.iter().enumerate() {
            if let Some(ids) = &mut self.ids {
                ids.write(row.id.as_bytes())?;
                ids.write(b"\n")?;
            }
            for (file, values) in self.pooled.iter_mut().zip(&row.pooled) {
                if !file.push(values)? {
                    refused.get_or_insert(i);
                }
            }
        }
        let rows = &rows[..refused.map_or(rows.len(), |i| i + 1)];
        self.push_states(rows, states, workers, refused)
    }

    /// Appends the states of records, of which the last one is `refused`, if any is.
    fn push_states(
        &mut self,
        rows: &[Row<'_>],
        states: &[&States],
        workers: &Workers,
        refused: Option<usize>,
    ) -> Result<(), PushError> {
        let unflushed: Vec<_> = self.states.iter_mut().map(|f| f.unflushed()).collect();
        let flushes = self.states.iter().zip(unflushed);
        let flushes = flushes.map(|(file, part)| Job::Flush(file, part));
        let tasks = self.states.iter().zip(states).map(|(file, states)| {
            let tokens = rows.iter().map(|row| row.tokens.clone());
            file.tasks(states, tokens)
        });
        let tasks: Vec<Vec<_>> = tasks.collect();
        let counts: Vec<usize> = tasks.iter().map(Vec::len).collect();
        let jobs = flushes.chain(tasks.into_iter().flatten().map(Job::Encode));
        let mut encoded = Vec::new();
        let (mut refused, mut failed) = (refused, None);
        for done in workers.run(jobs.collect()) {
            match done {
                Ok(None) => {}
                Ok(Some(part)) => encoded.push(part),
                Err(TaskError::Row(i)) => refused = Some(refused.map_or(i, |first| first.min(i))),
                Err(TaskError::Output(error)) => failed = failed.or(Some(error)),
            }
        }
        if let Some(i) = refused {
            return Err(PushError::Row(i));
        }
        if let Some(error) = failed {
            return Err(error.into());
        }
        let mut encoded = encoded.into_iter();
        for (file, count) in self.states.iter_mut().zip(counts) {
            let tokens = rows.iter().map(|row| row.tokens.len());
            file.add(encoded.by_ref().take(count), tokens);
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

    /// Writes one of the texts of the layout, whole.
    pub fn text(&mut self, name: &'static str, text: &[u8]) -> Result<(), OutputError> {
        let mut file = ShardFile::create(self.path.join(name), self.block)?;
        file.write(text)?;
        self.texts.push((name, file));
        Ok(())
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
        for (file, (name, _)) in pooled.into_iter().zip(names) {
            files.push((name, file.complete()?));
        }
        for (name, file) in std::mem::take(&mut self.texts) {
            files.push((name.to_owned(), file.complete(&[])?));
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

/// One record of a batch.
pub struct Row<'a> {
    /// The id of the record.
    pub id: &'a str,
    /// The pooled rows, `[width]` each: those of a layer side by side, one per pooling. They are used
    /// only if the layout includes them.
    pub pooled: Vec<&'a [f32]>,
    /// The tokens of the record in the batch.
    pub tokens: Range<usize>,
}

/// Why the records of a batch could not be appended.
#[derive(Debug)]
pub enum PushError {
    /// A value of this record, counted within the batch, is not finite or is outside the range of
    /// the data type.
    Row(usize),
    /// A file could not be written.
    Output(OutputError),
}

impl From<OutputError> for PushError {
    fn from(error: OutputError) -> Self {
        Self::Output(error)
    }
}

/// The threads that encode, hash and write states.
pub struct Workers(Option<rayon::ThreadPool>);

impl Workers {
    /// Starts `threads` threads; with one thread, the caller does the work.
    ///
    /// # Errors
    /// The error of the thread pool.
    pub fn new(threads: usize) -> Result<Self, rayon::ThreadPoolBuildError> {
        if threads < 2 {
            return Ok(Self(None));
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        let pool = pool.thread_name(|i| format!("output {i}"));
        Ok(Self(Some(pool.build()?)))
    }

    /// Does the jobs, and returns what they have made, in their order.
    fn run(&self, jobs: Vec<Job<'_>>) -> Vec<Result<Option<Encoded>, TaskError>> {
        match &self.0 {
            None => jobs.into_iter().map(Job::run).collect(),
            Some(pool) => {
                let jobs = jobs.into_par_iter().with_max_len(1);
                pool.install(|| jobs.map(Job::run).collect())
            }
        }
    }
}

/// What a thread does for a file of states.
enum Job<'a> {
    Encode(Task<'a>),
    Flush(&'a StatesWriter, Range<u64>),
}

thread_local! {
    /// The memory of the blocks that this thread encodes.
    static BLOCK_MEMORY: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Job<'_> {
    fn run(self) -> Result<Option<Encoded>, TaskError> {
        match self {
            Self::Encode(task) => BLOCK_MEMORY.with_borrow_mut(|memory| {
                if memory.is_empty() {
                    *memory = Task::memory();
                }
                task.run(memory).map(Some)
            }),
            Self::Flush(file, part) => {
                file.flush(part);
                Ok(None)
            }
        }
    }
}

impl ShardLayout {
    /// Returns the number of data files per shard, not counting shard.json.
    pub fn files(&self) -> usize {
        let of_records = 1 + usize::from(self.rejects);
        if let Some(files) = &self.virnucpro {
            return of_records + files.arrays.len() + files.texts.len();
        }
        of_records + self.layers.len() * (self.pools.len() + usize::from(self.per_token))
    }

    /// Returns the name and the width of each file of pooled rows, in the order of their rows.
    pub(crate) fn pooled_files(&self) -> Vec<(String, usize)> {
        if let Some(files) = &self.virnucpro {
            return files.arrays.clone();
        }
        let of_layer = |layer: &usize| {
            let name = |pool: &String| match self.pools.len() {
                1 => pooled_name(*layer),
                _ => pool_name(*layer, pool),
            };
            let names = self.pools.iter().map(name);
            names.map(|name| (name, self.width)).collect::<Vec<_>>()
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
    /// Writes shard.json.
    fn describe(&mut self) -> Result<(), OutputError> {
        let entry = |(name, file): &(String, WrittenFile)| (name.clone(), file.entry().clone());
        let mut record = ShardRecord {
            name: super::shard_name(self.block),
            job: self.job.clone(),
            facts: self.facts.clone(),
            files: self.files.iter().map(entry).collect(),
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

/// Writes the shard.json of shards of one job, and renames them to their final names, in
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
            virnucpro: None,
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

    /// Returns a record of two layers.
    fn row(id: &str, tokens: Range<usize>) -> Row<'_> {
        Row {
            id,
            pooled: vec![&[1.0, 2.0], &[3.0, 4.0]],
            tokens,
        }
    }

    /// Vectors are looked at before states, but the first record is named.
    #[test]
    fn the_first_record_that_cannot_be_stored_is_named() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = JobDir::open(tmp.path()).unwrap();
        let states = |bad: &[usize]| -> States {
            let mut values = vec![0.5; 8];
            bad.iter().for_each(|i| values[*i] = f32::NAN);
            values.into()
        };
        for threads in [1, 3] {
            let workers = Workers::new(threads).unwrap();
            for (pooled, bad, first) in [
                (Some(2), [&[][..], &[]], Some(2)),
                (Some(2), [&[], &[3]], Some(1)),
                (Some(0), [&[3], &[3]], Some(0)),
                (Some(1), [&[7], &[5]], Some(1)),
                (None, [&[7], &[5]], Some(2)),
                (None, [&[7], &[]], Some(3)),
                (None, [&[], &[]], None),
            ] {
                let mut shard = ShardWriter::create(&dir, 5, &layout()).unwrap();
                let mut rows: Vec<_> = (0..4).map(|i| row("x", i..i + 1)).collect();
                if let Some(i) = pooled {
                    rows[i].pooled[1] = &[f32::INFINITY, 0.0];
                }
                let layers = bad.map(states);
                let pushed = shard.push(&rows, &[&layers[0], &layers[1]], &workers);
                let named = match pushed {
                    Ok(()) => None,
                    Err(PushError::Row(i)) => Some(i),
                    Err(PushError::Output(error)) => panic!("{error}"),
                };
                assert_eq!(named, first, "{pooled:?} {bad:?}");
            }
        }
    }

    #[test]
    fn a_finished_shard_says_what_it_holds() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = JobDir::open(tmp.path()).unwrap();
        let mut shard = ShardWriter::create(&dir, 5, &layout()).unwrap();
        shard
            .push(
                &[row("a", 0..1)],
                &[&vec![1.0, 2.0].into(), &vec![3.0, 4.0].into()],
                &Workers::new(1).unwrap(),
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
        let states: States = vec![1.0, 2.0, 3.0, 1e6, 5.0, 1e7].into();
        let fine = vec![0.0; 6].into();
        let rows = [row("a", 0..1), row("b", 1..2), row("c", 2..3)];
        let workers = Workers::new(2).unwrap();
        let refused = shard.push(&rows, &[&states, &fine], &workers);
        assert!(matches!(refused, Err(PushError::Row(1))), "{refused:?}");
        drop(shard);
        assert!(!dir.partial(5).exists() && !dir.shard(5).exists());
    }

    #[test]
    fn shards_get_their_names_up_to_the_first_that_fails() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = JobDir::open(tmp.path()).unwrap();
        let write = |block| {
            let mut shard = ShardWriter::create(&dir, block, &layout()).unwrap();
            let states = [&vec![1.0, 2.0].into(), &vec![3.0, 4.0].into()];
            let workers = Workers::new(1).unwrap();
            shard.push(&[row("a", 0..1)], &states, &workers).unwrap();
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
