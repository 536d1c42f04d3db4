//! Checks whether a finished shard is the shard that its job made. File names and sizes are not
//! enough for that: a shard of another model can have the same names and sizes.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use rayon::prelude::*;

use super::jobdir::shard_name;
use super::rejected::{REJECTED_FILE, REJECTED_HEADER};
use super::shard::{IDS_FILE, SHARD_FILE, pool_name, pooled_name, states_name};
use super::{
    BlockFacts, CHUNKS_COUNT, JobSpec, OutputError, ShardLayout, ShardRecord, VirnucproFiles,
    hash_file, npy, read_record, states, virnucpro,
};

/// Why a shard is not accepted.
#[derive(Debug)]
pub enum Doubt {
    /// The shard is not what its job made; the string gives the reason as a clause.
    Unsound(String),
    /// The shard could not be read, or it contains an entry that no job wrote.
    Failed(OutputError),
}

impl From<OutputError> for Doubt {
    fn from(error: OutputError) -> Self {
        Self::Failed(error)
    }
}

fn unsound(reason: impl Into<String>) -> Doubt {
    Doubt::Unsound(reason.into())
}

/// The kind of data in a file of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Ids,
    Rejected,
    /// Rows of this width.
    Pooled(usize),
    States,
    Text,
}

impl ShardLayout {
    /// Returns the layout of the shards of the job `spec`.
    pub fn of(spec: &JobSpec) -> Self {
        Self {
            layers: spec.layers.clone(),
            width: spec.model.config.hidden,
            pools: match spec.pool.as_str() {
                "none" => Vec::new(),
                pools => pools.split(',').map(str::to_owned).collect(),
            },
            per_token: spec.per_token,
            rejects: spec.bad_records == "skip",
            dtype: spec.output_dtype,
            shard_size: spec.shard_size,
            job: spec.fingerprint(),
            virnucpro: spec.virnucpro.as_ref().map(|virnucpro| VirnucproFiles {
                arrays: virnucpro.arrays(&spec.model),
                texts: virnucpro.texts(),
            }),
        }
    }

    /// Returns the files of a shard, without shard.json.
    fn contents(&self, facts: &BlockFacts) -> Vec<(String, Content)> {
        let mut contents = vec![(IDS_FILE.to_owned(), Content::Ids)];
        if facts.rejected() > 0 {
            contents.push((REJECTED_FILE.to_owned(), Content::Rejected));
        }
        let pooled = self.pooled_files().into_iter();
        contents.extend(pooled.map(|(name, width)| (name, Content::Pooled(width))));
        if let Some(files) = &self.virnucpro {
            let texts = files.texts.iter();
            contents.extend(texts.map(|name| ((*name).to_owned(), Content::Text)));
            return contents;
        }
        for layer in &self.layers {
            if self.per_token {
                contents.push((states_name(*layer), Content::States));
            }
        }
        contents
    }

    /// Checks shard number `block` in the directory `path` completely: shard.json names this job
    /// and was not changed, the files are exactly those of the layout and have its shapes, and each
    /// file has the hash that shard.json gives. Shards of format 1, which name no job and have no
    /// seal, are accepted if all other checks pass.
    ///
    /// The files are hashed by all threads of the current rayon pool.
    pub fn verify(&self, path: &Path, block: u64) -> Result<ShardRecord, Doubt> {
        let record = self.examine(path, block)?;
        let files: Vec<_> = record.files.iter().collect();
        let doubt = files.par_iter().find_map_first(|(name, entry)| {
            let found = match hash_file(&path.join(name), Some(block)) {
                Ok(found) => found,
                Err(error) => return Some(error.into()),
            };
            let reason =
                || format!("{name} was changed: it has not the hash that {SHARD_FILE} gives");
            (found != **entry).then(|| unsound(reason()))
        });
        if let Some(doubt) = doubt {
            return Err(doubt);
        }
        let lines = count_lines(&path.join(IDS_FILE), block)?;
        if lines != record.facts.rows {
            let rows = record.facts.rows;
            return Err(unsound(format!(
                "{IDS_FILE} has {lines} ids where {SHARD_FILE} says {rows}"
            )));
        }
        let rejected = record.facts.rejected();
        let lines = match rejected {
            0 => 1,
            _ => count_lines(&path.join(REJECTED_FILE), block)?,
        };
        // The first line is the header.
        let listed = lines.saturating_sub(1);
        if listed != rejected {
            return Err(unsound(format!(
                "{REJECTED_FILE} has {listed} records where {SHARD_FILE} says {rejected}"
            )));
        }
        Ok(record)
    }

    /// Does the fast part of [`verify`](Self::verify): all checks except hashing the files and
    /// counting the ids.
    pub fn examine(&self, path: &Path, block: u64) -> Result<ShardRecord, Doubt> {
        let stand = files_in(path, block)?;
        if !stand.contains(SHARD_FILE) {
            return Err(unsound(format!("it has no {SHARD_FILE}")));
        }
        let record = match read_record(path) {
            Err(OutputError::Malformed { reason, .. }) => {
                return Err(unsound(format!(
                    "its {SHARD_FILE} is not what seqstream writes: {reason}"
                )));
            }
            other => other?,
        };
        self.check_record(&record, block)?;
        let contents = self.contents(&record.facts);
        for (name, content) in &contents {
            if !stand.contains(name) {
                return Err(unsound(format!("it has no {name}")));
            }
            self.check_file(path, name, *content, &record)?;
        }
        // Any other file belongs to another layer or kind: `files_in` accepts only names that some
        // job uses.
        let ours: BTreeSet<String> = contents.into_iter().map(|(name, _)| name).collect();
        let surplus = |name: &&String| *name != SHARD_FILE && !ours.contains(*name);
        if let Some(name) = stand.iter().find(surplus) {
            return Err(unsound(format!(
                "it has a {name}, which this job does not make"
            )));
        }
        if !record.files.keys().eq(&ours) {
            return Err(unsound(format!(
                "its {SHARD_FILE} lists other files than this job makes"
            )));
        }
        Ok(record)
    }

    fn check_record(&self, record: &ShardRecord, block: u64) -> Result<(), Doubt> {
        if record
            .seal
            .as_ref()
            .is_some_and(|seal| *seal != record.sealed())
        {
            return Err(unsound(format!("its {SHARD_FILE} was changed")));
        }
        if record.job != self.job {
            return Err(unsound("it was made by another job"));
        }
        if record.seal.is_some() != self.job.is_some() {
            return Err(unsound(format!("its {SHARD_FILE} has no seal")));
        }
        let facts = &record.facts;
        let first = block.checked_mul(self.shard_size);
        if record.name != shard_name(block) || Some(facts.first_record) != first {
            return Err(unsound("it holds the records of another shard"));
        }
        let rejected = facts.rejected();
        if rejected > 0 && !self.rejects {
            return Err(unsound("it skipped records, which this job does not do"));
        }
        if self.virnucpro.is_some() != facts.counts.contains_key(CHUNKS_COUNT) {
            return Err(unsound(
                "its records are of another kind than those of this job",
            ));
        }
        let rows = facts.records();
        if rows == 0 || rows > self.shard_size {
            let most = self.shard_size;
            return Err(unsound(format!(
                "its {SHARD_FILE} says {rows} records, not 1 to {most}"
            )));
        }
        Ok(())
    }

    /// Checks the size of a file, and the shape and the data type in its header.
    fn check_file(
        &self,
        shard: &Path,
        name: &str,
        content: Content,
        record: &ShardRecord,
    ) -> Result<(), Doubt> {
        let path = shard.join(name);
        let failed = |e| Doubt::Failed(OutputError::io("read", &path, None, e));
        let mut file = File::open(&path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        let listed = record.files.get(name).map(|entry| entry.bytes);
        if listed != Some(bytes) {
            let listed =
                listed.map_or_else(|| "lists no such file".into(), |n| format!("says {n}"));
            return Err(unsound(format!(
                "{name} has {bytes} bytes where {SHARD_FILE} {listed}"
            )));
        }
        let Some(header) = self.header(content, bytes, record.facts.rows) else {
            return Err(unsound(format!(
                "{name} has not the size of this job's files: {bytes} bytes"
            )));
        };
        let mut there = vec![0; header.len()];
        file.read_exact(&mut there).map_err(failed)?;
        if there != header {
            return Err(unsound(format!(
                "{name} has not the shape or the type of this job's files"
            )));
        }
        Ok(())
    }

    /// Returns the header that a file of `bytes` bytes must have. Returns `None` if no file of
    /// `rows` records has that size.
    fn header(&self, content: Content, bytes: u64, rows: u64) -> Option<Vec<u8>> {
        let row_of = |width: usize| (width as u64).checked_mul(self.dtype.size() as u64);
        match content {
            Content::Ids | Content::Text => Some(Vec::new()),
            Content::Rejected => Some(REJECTED_HEADER.into()),
            Content::Pooled(width) => {
                let size = rows
                    .checked_mul(row_of(width)?)?
                    .checked_add(npy::HEADER as u64)?;
                let rows = usize::try_from(rows).ok()?;
                (size == bytes).then(|| npy::header(self.dtype, rows, width))
            }
            Content::States => {
                let tokens = i64::try_from(self.tokens(bytes, rows)?).ok()?;
                let offsets = usize::try_from(rows.checked_add(1)?).ok()?;
                Some(states::header(self.dtype, tokens, self.width, offsets))
            }
        }
    }
}

impl ShardLayout {
    /// Returns the number of tokens whose states a file of `bytes` bytes holds. Returns `None` if
    /// no file with the states of `rows` records has that size.
    pub(crate) fn tokens(&self, bytes: u64, rows: u64) -> Option<u64> {
        let row = (self.width as u64).checked_mul(self.dtype.size() as u64)?;
        let offsets = rows.checked_add(1)?.checked_mul(8)?;
        let data = bytes.checked_sub(offsets.checked_add(states::BEFORE as u64)?)?;
        data.checked_div(row).filter(|n| n * row == data)
    }
}

/// Lists the files of a shard. Each must be a regular file, and some job must use its name.
fn files_in(path: &Path, block: u64) -> Result<BTreeSet<String>, Doubt> {
    let failed = |e: io::Error| Doubt::Failed(OutputError::io("read", path, Some(block), e));
    if !fs::symlink_metadata(path).map_err(failed)?.is_dir() {
        return Err(unsound("it is no directory"));
    }
    let mut names = BTreeSet::new();
    let mut special = None;
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !is_ours(&name) {
            // A foreign entry must be neither removed nor copied.
            let path = path.to_path_buf();
            return Err(OutputError::Foreign { path, name }.into());
        }
        if !entry.file_type().map_err(failed)?.is_file() {
            special.get_or_insert_with(|| name.clone());
        }
        names.insert(name);
    }
    match special {
        Some(name) => Err(unsound(format!("its {name} is no regular file"))),
        None => Ok(names),
    }
}

/// The poolings that a job may have.
const POOLS: [&str; 3] = ["mean", "cls", "max"];

/// Returns whether some job uses this name for a file of a shard.
fn is_ours(name: &str) -> bool {
    let layer = |end: &str| -> Option<usize> {
        name.strip_prefix("layer_")?.strip_suffix(end)?.parse().ok()
    };
    name == SHARD_FILE
        || name == IDS_FILE
        || name == REJECTED_FILE
        || virnucpro::FILES.contains(&name)
        || layer(".npy").is_some_and(|n| pooled_name(n) == name)
        || POOLS
            .iter()
            .any(|pool| layer(&format!("_{pool}.npy")).is_some_and(|n| pool_name(n, pool) == name))
        || layer(".safetensors").is_some_and(|n| states_name(n) == name)
}

fn count_lines(path: &Path, block: u64) -> Result<u64, OutputError> {
    let failed = |e| OutputError::io("read", path, Some(block), e);
    let mut file = File::open(path).map_err(failed)?;
    let mut buffer = vec![0; 1 << 16];
    let mut lines = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(lines),
            Ok(n) => lines += memchr::memchr_iter(b'\n', &buffer[..n]).count() as u64,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(failed(e)),
        }
    }
}

#[cfg(test)]
mod tests;
