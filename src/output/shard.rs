//! One shard: the files of a block of consecutive records, which appear together or not at all.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::file::ShardFile;
use super::jobdir::JobDir;
use super::{FileEntry, NpyWriter, OutputDtype, OutputError, StatesWriter};

/// What every shard of a job consists of.
#[derive(Debug, Clone)]
pub struct ShardLayout {
    /// The layers, in the order in which their values are pushed.
    pub layers: Vec<usize>,
    /// Values a row, the model's width.
    pub width: usize,
    /// Whether there is one pooled row a record.
    pub pooled: bool,
    /// Whether there are the states of every token.
    pub per_token: bool,
    /// How values are stored.
    pub dtype: OutputDtype,
}

/// What is known of a block apart from its values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockFacts {
    /// Index of its first record, over the whole input.
    pub first_record: u64,
    /// Its records.
    pub rows: u64,
    /// Tokens computed for it, special tokens included.
    pub tokens: u64,
    /// Hex BLAKE3 over ids and sequences, as read.
    pub digest: String,
    /// What cleaning and length limits did, by name.
    pub counts: BTreeMap<String, u64>,
}

/// The content of shard.json.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardRecord {
    /// The directory's name.
    pub name: String,
    /// What is known of its records.
    #[serde(flatten)]
    pub facts: BlockFacts,
    /// Its other files.
    pub files: BTreeMap<String, FileEntry>,
}

/// The file in which a [`ShardRecord`] stands.
pub(crate) const SHARD_FILE: &str = "shard.json";

/// The files of one shard being written. Dropped without [`finish`](Self::finish), it removes them.
pub struct ShardWriter<'a> {
    dir: &'a JobDir,
    block: u64,
    path: PathBuf,
    layers: Vec<usize>,
    ids: Option<ShardFile>,
    pooled: Vec<NpyWriter>,
    states: Vec<StatesWriter>,
    done: bool,
}

impl<'a> ShardWriter<'a> {
    /// Begins block `b`.
    pub fn create(dir: &'a JobDir, block: u64, layout: &ShardLayout) -> Result<Self, OutputError> {
        let path = dir.begin_shard(block)?;
        let mut shard = Self {
            dir,
            block,
            path: path.clone(),
            layers: layout.layers.clone(),
            ids: None,
            pooled: Vec::new(),
            states: Vec::new(),
            done: false,
        };
        shard.ids = Some(ShardFile::create(path.join("ids.txt"), block)?);
        for layer in &layout.layers {
            if layout.pooled {
                let path = path.join(pooled_name(*layer));
                shard
                    .pooled
                    .push(NpyWriter::create(path, block, layout.dtype, layout.width)?);
            }
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

    /// Appends one record: for each layer in turn its pooled row (`[width]`, where the layout has
    /// such) and its states (`[tokens, width]`, where the layout has such).
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
        for ((file, row), layer) in self.pooled.iter_mut().zip(pooled).zip(&self.layers) {
            file.push(id, *layer, row)?;
        }
        for ((file, tokens), layer) in self.states.iter_mut().zip(states).zip(&self.layers) {
            file.push(id, *layer, tokens)?;
        }
        Ok(())
    }

    /// Completes every file, writes shard.json, and gives the shard its name, durably.
    pub fn finish(mut self, facts: BlockFacts) -> Result<ShardRecord, OutputError> {
        let mut files = BTreeMap::new();
        if let Some(ids) = self.ids.take() {
            files.insert("ids.txt".to_owned(), ids.finish(&[])?);
        }
        let pooled = std::mem::take(&mut self.pooled);
        for (file, layer) in pooled.into_iter().zip(&self.layers) {
            files.insert(pooled_name(*layer), file.finish()?);
        }
        let states = std::mem::take(&mut self.states);
        for (file, layer) in states.into_iter().zip(&self.layers) {
            files.insert(states_name(*layer), file.finish()?);
        }
        let record = ShardRecord {
            name: super::shard_name(self.block),
            facts,
            files,
        };
        let mut file = ShardFile::create(self.path.join(SHARD_FILE), self.block)?;
        file.write(&super::manifest::pretty(&record))?;
        file.finish(&[])?;
        self.dir.commit_shard(self.block)?;
        self.done = true;
        Ok(record)
    }
}

impl Drop for ShardWriter<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.dir.abandon_shard(self.block);
        }
    }
}

fn pooled_name(layer: usize) -> String {
    format!("layer_{layer}.npy")
}

fn states_name(layer: usize) -> String {
    format!("layer_{layer}.safetensors")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> ShardLayout {
        ShardLayout {
            layers: vec![0, 2],
            width: 2,
            pooled: true,
            per_token: true,
            dtype: OutputDtype::F16,
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
        let record = shard.finish(facts()).unwrap();
        assert_eq!(record, super::super::read_shard(&dir, 5).unwrap());
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
}
