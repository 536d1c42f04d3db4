//! Reads the output of a complete job, shard by shard. Nothing is handed out that is not what the
//! job made.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::shard::{IDS_FILE, pool_name, pooled_name, states_name};
use super::{
    Doubt, FORMAT, JOB_FILE, MANIFEST_FILE, ManifestHead, OutputDtype, OutputError, ShardLayout,
    ShardRecord, Totals, list_shards, npy, read_job, read_manifest, shard_name, states,
};
use crate::remedy::{Action, Remedy};

/// An output that cannot be read as a whole.
#[derive(Debug, thiserror::Error)]
pub enum FinishedError {
    /// The directory has neither job.json nor manifest.json.
    #[error("{} holds no output of seqstream: it has no {JOB_FILE}", path.display())]
    NoJob {
        /// The directory.
        path: PathBuf,
    },
    /// A job was begun and not completed.
    #[error("the job in {} is not complete: it has {shards} finished shards and no {MANIFEST_FILE}", path.display())]
    Incomplete {
        /// The output directory.
        path: PathBuf,
        /// The number of finished shards.
        shards: usize,
    },
    /// The output has a format that this program does not know.
    #[error("{} has format {format}, and this program reads formats 1 to {FORMAT}", path.display())]
    Format {
        /// The output directory.
        path: PathBuf,
        /// The format.
        format: u32,
    },
    /// The output of a job of `virnucpro`.
    #[error("{} is an output of VirNucPro: its tables and arrays are files already, and nothing else is made of them", path.display())]
    Fragments {
        /// The output directory.
        path: PathBuf,
    },
    /// The manifest contradicts itself or job.json.
    #[error("the {MANIFEST_FILE} of {} {reason}", path.display())]
    Manifest {
        /// The output directory.
        path: PathBuf,
        /// The contradiction, as the rest of a sentence.
        reason: String,
    },
    /// A shard is not what the manifest says.
    #[error("{} is not what its job made: {reason}", shard.display())]
    Unsound {
        /// The directory of the shard.
        shard: PathBuf,
        /// The reason, as a clause.
        reason: String,
    },
    /// A file that could not be read, or is malformed.
    #[error(transparent)]
    Output(#[from] OutputError),
}

impl FinishedError {
    /// Returns what the user can do about the error, if a remedy is known.
    pub fn remedy(&self) -> Option<Remedy> {
        Some(match self {
            Self::NoJob { .. } => "give the output directory of a job".into(),
            Self::Incomplete { .. } => Action::ResumeThatJob.into(),
            Self::Format { .. } => "use the seqstream that computed this output".into(),
            Self::Fragments { .. } => "docs/virnucpro.md lists its files".into(),
            Self::Manifest { .. } => Remedy::all([
                Action::ResumeThatJob.into(),
                "a job writes this file anew when it ends".into(),
            ]),
            Self::Unsound { .. } => Remedy::all([
                Action::ResumeThatJob.into(),
                "it then computes this shard again".into(),
            ]),
            Self::Output(error) => return error.remedy(),
        })
    }
}

/// A shard that the manifest lists.
#[derive(Debug)]
pub struct Listed {
    block: u64,
    digest: blake3::Hash,
    /// The number of rows.
    pub rows: u64,
    /// The number of tokens that the shard was computed from, special tokens included.
    pub computed_tokens: u64,
    /// The number of tokens whose states the shard has; 0 if it has no states.
    pub tokens: u64,
    /// Whether all its files were compared with their hashes.
    verified: Cell<bool>,
}

/// The output of a complete job, or of one share of a job.
#[derive(Debug)]
pub struct Finished {
    path: PathBuf,
    head: ManifestHead,
    layout: ShardLayout,
    shards: Vec<Listed>,
}

impl Finished {
    /// Opens the output in `path`. The descriptions are read and compared, but no shard yet.
    ///
    /// # Errors
    /// Fails if the job is not complete, or if its descriptions contradict each other.
    pub fn open(path: &Path) -> Result<Self, FinishedError> {
        let own = || path.to_path_buf();
        let mut job = match read_job(path) {
            Err(OutputError::Io { source, .. })
                if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&source.kind()) =>
            {
                return Err(FinishedError::NoJob { path: own() });
            }
            other => other?,
        };
        if !(1..=FORMAT).contains(&job.format) {
            let format = job.format;
            return Err(FinishedError::Format {
                path: own(),
                format,
            });
        }
        if job.virnucpro.is_some() {
            return Err(FinishedError::Fragments { path: own() });
        }
        let layout = ShardLayout::of(&job);
        let mut shards: BTreeMap<u64, Listed> = BTreeMap::new();
        let mut totals = Totals::default();
        let read = read_manifest(path, &mut |record| {
            let name = record.name.escape_debug();
            let block = record
                .block()
                .ok_or_else(|| format!("\"{name}\" is no shard"))?;
            let tokens = match layout.layers.first().filter(|_| layout.per_token) {
                None => 0,
                Some(layer) => {
                    let file = record.files.get(&states_name(*layer));
                    let of_file = |bytes| layout.tokens(bytes, record.facts.rows);
                    file.and_then(|entry| of_file(entry.bytes))
                        .ok_or_else(|| format!("{name} has no states of the right size"))?
                }
            };
            let listed = Listed {
                block,
                digest: record.digest(),
                rows: record.facts.rows,
                computed_tokens: record.facts.tokens,
                tokens,
                verified: Cell::new(false),
            };
            if shards.insert(block, listed).is_some() {
                return Err(format!("it lists {name} twice"));
            }
            let added = totals.add(&record.facts);
            added.ok_or_else(|| "its counts add up to more than any input holds".into())
        });
        let head = match read {
            Err(OutputError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                return Err(FinishedError::Incomplete {
                    path: own(),
                    shards: list_shards(path)?.len(),
                });
            }
            other => other?,
        };
        let wrong = |reason: &str| FinishedError::Manifest {
            path: own(),
            reason: reason.into(),
        };
        if !head.complete {
            return Err(wrong("does not say that the job is complete"));
        }
        // For an input that came through a pipe, only the manifest has the hash.
        for (input, read) in job.inputs.iter_mut().zip(&head.job.inputs) {
            input.blake3 = input.blake3.take().or_else(|| read.blake3.clone());
        }
        let differences = job.differences(&head.job);
        if let Some(first) = differences.first() {
            return Err(wrong(&format!("is of another job than job.json: {first}")));
        }
        if totals != head.totals() {
            return Err(wrong("gives other totals than its shards add up to"));
        }
        Ok(Self {
            path: own(),
            head,
            layout,
            shards: shards.into_values().collect(),
        })
    }

    /// Returns the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the manifest, without its list of shards.
    pub fn head(&self) -> &ManifestHead {
        &self.head
    }

    /// Returns what the shards contain.
    pub fn layout(&self) -> &ShardLayout {
        &self.layout
    }

    /// Returns the shards in the order of the input.
    pub fn shards(&self) -> &[Listed] {
        &self.shards
    }

    /// Returns the number of all rows.
    pub fn rows(&self) -> u64 {
        self.head.records
    }

    /// Returns the number of all tokens whose states are stored.
    pub fn tokens(&self) -> u64 {
        self.shards
            .iter()
            .fold(0, |n, s| n.saturating_add(s.tokens))
    }

    /// Opens a shard. When a shard is opened for the first time, all its files are compared with
    /// their hashes and with the manifest.
    pub fn shard<'a>(&'a self, listed: &'a Listed) -> Result<FinishedShard<'a>, FinishedError> {
        let path = self.path.join(shard_name(listed.block));
        if !listed.verified.get() {
            let verified = self.layout.verify(&path, listed.block);
            self.accept(&path, listed, verified)?;
            listed.verified.set(true);
        }
        Ok(self.opened(path, listed))
    }

    /// Opens a shard without reading its files: their hashes are not compared. Its description is
    /// that of the manifest, and the files have the sizes and headers that it says.
    pub fn peek<'a>(&'a self, listed: &'a Listed) -> Result<FinishedShard<'a>, FinishedError> {
        let path = self.path.join(shard_name(listed.block));
        let examined = self.layout.examine(&path, listed.block);
        self.accept(&path, listed, examined)?;
        Ok(self.opened(path, listed))
    }

    /// Checks that an examined shard is the one that the manifest lists.
    fn accept(
        &self,
        path: &Path,
        listed: &Listed,
        examined: Result<ShardRecord, Doubt>,
    ) -> Result<(), FinishedError> {
        let reason = match examined {
            Ok(record) if record.digest() == listed.digest => return Ok(()),
            Ok(_) => format!("it is not the one that {MANIFEST_FILE} lists"),
            Err(Doubt::Unsound(reason)) => reason,
            Err(Doubt::Failed(OutputError::Io { source, .. }))
                if source.kind() == ErrorKind::NotFound =>
            {
                "it is not there".into()
            }
            Err(Doubt::Failed(error)) => return Err(error.into()),
        };
        let shard = path.to_path_buf();
        Err(FinishedError::Unsound { shard, reason })
    }

    fn opened<'a>(&'a self, path: PathBuf, listed: &'a Listed) -> FinishedShard<'a> {
        FinishedShard {
            path,
            layout: &self.layout,
            listed,
        }
    }
}

/// A shard whose files are what its job made.
#[derive(Debug)]
pub struct FinishedShard<'a> {
    path: PathBuf,
    layout: &'a ShardLayout,
    listed: &'a Listed,
}

impl FinishedShard<'_> {
    /// Returns the number of rows.
    pub fn rows(&self) -> u64 {
        self.listed.rows
    }

    /// Returns what the shard contains.
    pub fn layout(&self) -> &ShardLayout {
        self.layout
    }

    /// Opens the names of the rows.
    pub fn ids(&self) -> Result<Ids, FinishedError> {
        let path = self.path.join(IDS_FILE);
        let file = BufReader::new(open(&path)?);
        Ok(Ids { path, file })
    }

    /// Opens the pooled rows of a layer.
    pub fn pooled(&self, layer: usize, pool: &str) -> Result<Values, FinishedError> {
        let name = match self.layout.pools.len() {
            1 => pooled_name(layer),
            _ => pool_name(layer, pool),
        };
        Values::open(self.path.join(name), npy::HEADER as u64, self.layout)
    }

    /// Opens the states of the tokens of a layer. Returns also the number of tokens of each row.
    pub fn states(&self, layer: usize) -> Result<(Vec<u64>, Values), FinishedError> {
        let path = self.path.join(states_name(layer));
        let failed = |e| OutputError::io("read", &path, None, e);
        let mut file = open(&path)?;
        let offsets = self.listed.rows.saturating_add(1).saturating_mul(8);
        let length = file.metadata().map_err(failed)?.len();
        let at = length.saturating_sub(offsets);
        file.seek(SeekFrom::Start(at)).map_err(failed)?;
        let mut bytes = Vec::new();
        file.take(offsets).read_to_end(&mut bytes).map_err(failed)?;
        let numbers = bytes.chunks_exact(8).map(|chunk| {
            let mut number = [0; 8];
            number.copy_from_slice(chunk);
            u64::from_le_bytes(number)
        });
        let numbers: Vec<u64> = numbers.collect();
        let tokens = numbers.windows(2).map(|pair| pair[1].checked_sub(pair[0]));
        let tokens: Option<Vec<u64>> = tokens.collect();
        let whole = numbers.first() == Some(&0) && numbers.last() == Some(&self.listed.tokens);
        let counts = tokens.filter(|t| whole && t.len() as u64 == self.listed.rows);
        let counts = counts.ok_or_else(|| FinishedError::Unsound {
            shard: self.path.clone(),
            reason: format!("the offsets of {} are not in order", states_name(layer)),
        })?;
        Ok((
            counts,
            Values::open(path, states::BEFORE as u64, self.layout)?,
        ))
    }
}

fn open(path: &Path) -> Result<File, OutputError> {
    crate::untrusted::file::open(path).map_err(|e| OutputError::io("read", path, None, e))
}

/// The names of the rows of a shard.
#[derive(Debug)]
pub struct Ids {
    path: PathBuf,
    file: BufReader<File>,
}

impl Iterator for Ids {
    type Item = Result<String, FinishedError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = String::new();
        match self.file.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => {
                if line.ends_with('\n') {
                    line.pop();
                }
                Some(Ok(line))
            }
            Err(e) => Some(Err(OutputError::io("read", &self.path, None, e).into())),
        }
    }
}

/// Rows of values in a file, as they are stored: little-endian.
#[derive(Debug)]
pub struct Values {
    path: PathBuf,
    file: BufReader<File>,
    row: usize,
}

impl Values {
    fn open(path: PathBuf, skip: u64, layout: &ShardLayout) -> Result<Self, FinishedError> {
        let failed = |e| OutputError::io("read", &path, None, e);
        let mut file = open(&path)?;
        file.seek(SeekFrom::Start(skip)).map_err(failed)?;
        Ok(Self {
            file: BufReader::with_capacity(1 << 18, file),
            path,
            row: layout.width * layout.dtype.size(),
        })
    }

    /// Replaces the content of `into` by the next rows.
    pub fn read(&mut self, rows: u64, into: &mut Vec<u8>) -> Result<(), FinishedError> {
        let failed = |e| OutputError::io("read", &self.path, None, e);
        let bytes = rows.saturating_mul(self.row as u64);
        into.clear();
        let read = self.file.by_ref().take(bytes).read_to_end(into);
        if read.map_err(failed)? as u64 != bytes {
            return Err(failed(ErrorKind::UnexpectedEof.into()).into());
        }
        Ok(())
    }

    /// Skips rows.
    pub fn skip(&mut self, rows: u64) -> Result<(), FinishedError> {
        let bytes = i64::try_from(rows.saturating_mul(self.row as u64)).unwrap_or(i64::MAX);
        let skipped = self.file.seek_relative(bytes);
        Ok(skipped.map_err(|e| OutputError::io("read", &self.path, None, e))?)
    }
}

impl OutputDtype {
    /// Converts stored values to f32.
    pub fn decode<'a>(self, bytes: &'a [u8]) -> Box<dyn Iterator<Item = f32> + 'a> {
        match self {
            Self::F32 => Box::new(
                bytes
                    .chunks_exact(4)
                    .map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])),
            ),
            Self::F16 => Box::new(
                bytes
                    .chunks_exact(2)
                    .map(|c| half::f16::from_le_bytes([c[0], c[1]]).to_f32()),
            ),
        }
    }
}
