//! job.json, shard.json and manifest.json: written deterministically, read with suspicion.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::jobdir::{JOB_FILE, JobDir, MANIFEST_FILE};
use super::shard::SHARD_FILE;
use super::{JobSpec, OutputError, ShardRecord};

/// manifest.json but for its list of shards, which may be long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ManifestHead {
    /// True: a manifest stands only where every shard does.
    pub complete: bool,
    /// What was asked, the hashes of piped inputs included.
    pub job: JobSpec,
    /// Records in the whole input, those of other `--shard`s included.
    pub input_records: u64,
    /// Records in the shards listed.
    pub records: u64,
    /// Tokens computed for them, special tokens included.
    pub tokens: u64,
    /// What cleaning and length limits did to them, by name.
    pub counts: BTreeMap<String, u64>,
}

/// As JSON with a last newline.
pub(crate) fn pretty<T: Serialize>(value: &T) -> Vec<u8> {
    // Only maps with keys that are no strings, and failing Serialize impls, can fail here.
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    text
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, OutputError> {
    let file = File::open(path).map_err(|e| OutputError::io("read", path, None, e))?;
    serde_json::from_reader(BufReader::new(file)).map_err(|e| OutputError::Malformed {
        path: path.to_path_buf(),
        reason: e.to_string(),
    })
}

/// Writes job.json, where none stands.
pub fn write_job(dir: &JobDir, spec: &JobSpec) -> Result<(), OutputError> {
    let path = dir.path().join(JOB_FILE);
    dir.write_new(JOB_FILE, |out| {
        out.write_all(&pretty(spec))
            .map_err(|e| OutputError::io("write", &path, None, e))
    })
}

/// Reads the job.json in `dir`.
pub fn read_job(dir: &Path) -> Result<JobSpec, OutputError> {
    read(&dir.join(JOB_FILE))
}

/// Reads the manifest.json in `dir`, but for its shards.
pub fn read_manifest_head(dir: &Path) -> Result<ManifestHead, OutputError> {
    read(&dir.join(MANIFEST_FILE))
}

/// Reads the shard.json of block `b`, and checks that its files have the sizes it gives.
pub fn read_shard(dir: &JobDir, block: u64) -> Result<ShardRecord, OutputError> {
    read_shard_at(&dir.shard(block))
}

/// The same for a shard directory anywhere.
pub fn read_shard_at(path: &Path) -> Result<ShardRecord, OutputError> {
    let record: ShardRecord = read(&path.join(SHARD_FILE))?;
    for (name, entry) in &record.files {
        let file = path.join(name);
        let bytes = std::fs::metadata(&file)
            .map_err(|e| OutputError::io("read", &file, None, e))?
            .len();
        if bytes != entry.bytes {
            let reason = format!(
                "{bytes} bytes stand where {SHARD_FILE} says {}",
                entry.bytes
            );
            return Err(OutputError::Malformed { path: file, reason });
        }
    }
    Ok(record)
}

/// Writes manifest.json from the shards that stand in `dir`, which must be `blocks`, ascending.
///
/// The shards are read one at a time, so memory does not grow with their number.
pub fn write_manifest(
    dir: &JobDir,
    job: &JobSpec,
    input_records: u64,
    blocks: &[u64],
) -> Result<ManifestHead, OutputError> {
    let mut head = ManifestHead {
        complete: true,
        job: job.clone(),
        input_records,
        records: 0,
        tokens: 0,
        counts: BTreeMap::new(),
    };
    for &block in blocks {
        let facts = read_shard(dir, block)?.facts;
        head.records += facts.rows;
        head.tokens += facts.tokens;
        facts
            .counts
            .into_iter()
            .for_each(|(name, n)| *head.counts.entry(name).or_default() += n);
    }
    let path = dir.path().join(MANIFEST_FILE);
    dir.write_atomic(MANIFEST_FILE, |out| {
        let error = |e| OutputError::io("write", &path, None, e);
        let text = pretty(&head);
        // The head without its closing brace, then a line a shard.
        let open = text.strip_suffix(b"\n}\n").unwrap_or(&text);
        out.write_all(open).map_err(error)?;
        out.write_all(b",\n  \"shards\": [").map_err(error)?;
        for (i, &block) in blocks.iter().enumerate() {
            let line = serde_json::to_string(&read_shard(dir, block)?).map_err(|e| {
                OutputError::Malformed {
                    path: dir.shard(block),
                    reason: e.to_string(),
                }
            })?;
            let comma = if i == 0 { "" } else { "," };
            write!(out, "{comma}\n    {line}").map_err(error)?;
        }
        out.write_all(b"\n  ]\n}\n").map_err(error)
    })?;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::super::spec::tests::spec;
    use super::super::{BlockFacts, OutputDtype, ShardLayout, ShardWriter, name_shards};
    use super::*;

    #[test]
    fn the_manifest_adds_up_and_is_json() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = JobDir::open(tmp.path()).unwrap();
        let layout = ShardLayout {
            layers: vec![1],
            width: 1,
            pooled: true,
            per_token: false,
            dtype: OutputDtype::F32,
        };
        for block in 0..2 {
            let mut shard = ShardWriter::create(&dir, block, &layout).unwrap();
            shard.push("x", &[&[0.5]], &[]).unwrap();
            let counts = BTreeMap::from([("unknown".to_owned(), block + 1)]);
            let facts = BlockFacts {
                first_record: block,
                rows: 1,
                tokens: 5,
                digest: "d".into(),
                counts,
            };
            name_shards(vec![shard.complete(facts).unwrap()]).1.unwrap();
        }
        write_job(&dir, &spec()).unwrap();
        assert_eq!(read_job(dir.path()).unwrap(), spec());
        let head = write_manifest(&dir, &spec(), 2, &[0, 1]).unwrap();
        assert_eq!(
            (head.records, head.tokens, head.counts["unknown"]),
            (2, 10, 3)
        );
        assert_eq!(read_manifest_head(dir.path()).unwrap(), head);
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(tmp.path().join(MANIFEST_FILE)).unwrap())
                .unwrap();
        assert_eq!(json["shards"][1]["first_record"], 1);
        assert_eq!(json["shards"][1]["files"]["layer_1.npy"]["bytes"], 132);
        write_manifest(&dir, &spec(), 0, &[]).unwrap();
        assert!(read_manifest_head(dir.path()).is_ok());
    }

    #[test]
    fn a_shortened_file_is_noticed() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = JobDir::open(tmp.path()).unwrap();
        let layout = ShardLayout {
            layers: vec![],
            width: 1,
            pooled: true,
            per_token: false,
            dtype: OutputDtype::F32,
        };
        let mut shard = ShardWriter::create(&dir, 0, &layout).unwrap();
        shard.push("x", &[], &[]).unwrap();
        let facts = BlockFacts {
            first_record: 0,
            rows: 1,
            tokens: 5,
            digest: "d".into(),
            counts: BTreeMap::new(),
        };
        name_shards(vec![shard.complete(facts).unwrap()]).1.unwrap();
        assert!(read_shard(&dir, 0).is_ok());
        std::fs::write(dir.shard(0).join("ids.txt"), "").unwrap();
        let error = read_shard(&dir, 0).unwrap_err().to_string();
        assert!(
            error.contains("ids.txt") && error.contains("0 bytes stand where"),
            "{error}"
        );
    }
}
