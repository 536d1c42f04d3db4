//! Reads and writes job.json, shard.json and manifest.json. Writing is deterministic, and nothing
//! that is read is trusted.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use serde::de::{DeserializeOwned, DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::jobdir::{JOB_FILE, JobDir, MANIFEST_FILE};
use super::rejected::{Rejected, write_rejected};
use super::shard::SHARD_FILE;
use super::{BlockFacts, Doubt, JobSpec, OutputError, ShardLayout, ShardRecord};

/// The content of manifest.json without its list of shards, which may be long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ManifestHead {
    /// Always true: a manifest is written only when every shard exists.
    pub complete: bool,
    /// The job, including the hashes of piped inputs.
    pub job: JobSpec,
    /// Number of records in the whole input, including the records of other `--share`s.
    pub input_records: u64,
    /// Number of records in the listed shards.
    pub records: u64,
    /// Number of tokens computed for these records, including special tokens.
    pub tokens: u64,
    /// What cleaning and length limits did to these records: a count per name.
    pub counts: BTreeMap<String, u64>,
    /// The first of the records that were skipped, as rejected.tsv lists them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<Rejected>,
}

/// The sums of the counts of several shards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    records: u64,
    tokens: u64,
    counts: BTreeMap<String, u64>,
}

impl Totals {
    /// Adds the counts of a shard. Returns `None` if a sum overflows, which no real shard causes.
    pub fn add(&mut self, facts: &BlockFacts) -> Option<()> {
        self.records = self.records.checked_add(facts.rows)?;
        self.tokens = self.tokens.checked_add(facts.tokens)?;
        for (name, n) in &facts.counts {
            let sum = self.counts.entry(name.clone()).or_default();
            *sum = sum.checked_add(*n)?;
        }
        Some(())
    }
}

impl ManifestHead {
    /// Returns the sums that the counts of the listed shards must have.
    pub fn totals(&self) -> Totals {
        Totals {
            records: self.records,
            tokens: self.tokens,
            counts: self.counts.clone(),
        }
    }
}

/// Formats `value` as JSON with a newline at the end.
pub(crate) fn pretty<T: Serialize>(value: &T) -> Vec<u8> {
    // Only a map with keys that are not strings or a failing Serialize impl could fail here.
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    text
}

/// Opens a regular file and refuses any other kind: reading a pipe could wait forever.
fn open(path: &Path) -> Result<File, OutputError> {
    let failed = |e| OutputError::io("read", path, None, e);
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(malformed(path, "it is no regular file"));
    }
    File::open(path).map_err(failed)
}

fn malformed(path: &Path, reason: &str) -> OutputError {
    // The message of a parser may quote the file.
    let reason = reason
        .chars()
        .take(200)
        .flat_map(char::escape_debug)
        .collect();
    let path = path.to_path_buf();
    OutputError::Malformed { path, reason }
}

/// Converts an error of the JSON reader. A file that could not be read is not a malformed file.
fn json_error(path: &Path, error: serde_json::Error) -> OutputError {
    match error.is_io() {
        true => OutputError::io("read", path, None, error.into()),
        false => malformed(path, &error.to_string()),
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, OutputError> {
    let file = BufReader::new(open(path)?);
    serde_json::from_reader(file).map_err(|e| json_error(path, e))
}

/// Writes job.json, which must not exist.
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

/// Reads the manifest.json in `dir`. Each listed shard is passed to `each` and not kept. If `each`
/// returns an error, the manifest counts as malformed.
pub fn read_manifest(
    dir: &Path,
    each: &mut dyn FnMut(ShardRecord) -> Result<(), String>,
) -> Result<ManifestHead, OutputError> {
    let path = dir.join(MANIFEST_FILE);
    let failed = |e| json_error(&path, e);
    let mut text = serde_json::Deserializer::from_reader(BufReader::new(open(&path)?));
    let fields = text
        .deserialize_map(ManifestVisitor(each))
        .map_err(failed)?;
    text.end().map_err(failed)?;
    serde_json::from_value(fields.into()).map_err(failed)
}

struct ManifestVisitor<'a>(&'a mut dyn FnMut(ShardRecord) -> Result<(), String>);

impl<'de> Visitor<'de> for ManifestVisitor<'_> {
    type Value = serde_json::Map<String, serde_json::Value>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a manifest")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = serde_json::Map::new();
        let mut listed = false;
        while let Some(name) = map.next_key::<String>()? {
            let known = match name == "shards" {
                true => std::mem::replace(&mut listed, true),
                false => fields.contains_key(&name),
            };
            if known {
                return Err(A::Error::custom(format!("{name} stands in it twice")));
            }
            if name == "shards" {
                map.next_value_seed(ShardsSeed(&mut *self.0))?;
            } else {
                fields.insert(name, map.next_value()?);
            }
        }
        match listed {
            true => Ok(fields),
            false => Err(A::Error::custom("it lists no shards")),
        }
    }
}

struct ShardsSeed<'a>(&'a mut dyn FnMut(ShardRecord) -> Result<(), String>);

impl<'de> DeserializeSeed<'de> for ShardsSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, shards: D) -> Result<(), D::Error> {
        shards.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for ShardsSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list of shards")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut shards: A) -> Result<(), A::Error> {
        while let Some(shard) = shards.next_element()? {
            (self.0)(shard).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

/// The maximum size of shard.json in bytes: enough for about ten thousand files.
const SHARD_JSON: u64 = 4 << 20;

/// Reads the shard.json in the directory `shard`. The file must be byte for byte what seqstream
/// would write. This does not check the other files of the shard; [`ShardLayout::verify`] does.
pub fn read_record(shard: &Path) -> Result<ShardRecord, OutputError> {
    let path = shard.join(SHARD_FILE);
    let mut text = Vec::new();
    let read = open(&path)?.take(SHARD_JSON).read_to_end(&mut text);
    read.map_err(|e| OutputError::io("read", &path, None, e))?;
    let record: ShardRecord =
        serde_json::from_slice(&text).map_err(|e| malformed(&path, &e.to_string()))?;
    match pretty(&record) == text {
        true => Ok(record),
        false => Err(malformed(
            &path,
            "another spelling, or fields that it does not write",
        )),
    }
}

/// Writes manifest.json from the shards in `dir`. `blocks` must be the numbers of all its shards,
/// in ascending order.
///
/// The shards are read one at a time, so memory does not grow with their number. Each is examined
/// again, but its hashes are not: the caller must have verified them.
pub fn write_manifest(
    dir: &JobDir,
    job: &JobSpec,
    input_records: u64,
    blocks: &[u64],
) -> Result<ManifestHead, OutputError> {
    let layout = ShardLayout::of(job);
    let examined = |block| {
        let shard = dir.shard(block);
        layout.examine(&shard, block).map_err(|doubt| match doubt {
            Doubt::Failed(error) => error,
            Doubt::Unsound(reason) => OutputError::Unsound { shard, reason },
        })
    };
    let mut totals = Totals::default();
    for &block in blocks {
        totals
            .add(&examined(block)?.facts)
            .ok_or_else(|| OutputError::Unsound {
                shard: dir.shard(block),
                reason: "its counts add up to more than any input holds".into(),
            })?;
    }
    let rejected = match layout.rejects {
        true => write_rejected(dir, blocks)?,
        false => Vec::new(),
    };
    let head = ManifestHead {
        complete: true,
        job: job.clone(),
        input_records,
        records: totals.records,
        tokens: totals.tokens,
        counts: totals.counts,
        rejected,
    };
    let path = dir.path().join(MANIFEST_FILE);
    dir.write_atomic(MANIFEST_FILE, |out| {
        let error = |e| OutputError::io("write", &path, None, e);
        let text = pretty(&head);
        // The head without its closing brace, followed by one line per shard.
        let open = text.strip_suffix(b"\n}\n").unwrap_or(&text);
        out.write_all(open).map_err(error)?;
        out.write_all(b",\n  \"shards\": [").map_err(error)?;
        for (i, &block) in blocks.iter().enumerate() {
            let line =
                serde_json::to_string(&examined(block)?).map_err(|e| OutputError::Malformed {
                    path: dir.shard(block),
                    reason: e.to_string(),
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
    use super::super::{Row, ShardWriter, Workers, name_shards};
    use super::*;

    /// Makes shards 0 and 1 of the job.
    fn two_shards(dir: &JobDir, tokens: u64) {
        for block in 0..2 {
            let mut shard = ShardWriter::create(dir, block, &ShardLayout::of(&spec())).unwrap();
            let row = Row {
                id: "x",
                pooled: vec![&[0.5; 8]],
                tokens: 0..0,
            };
            shard.push(&[row], &[], &Workers::new(1).unwrap()).unwrap();
            let counts = BTreeMap::from([("unknown".to_owned(), block + 1)]);
            let facts = BlockFacts {
                first_record: 4 * block,
                rows: 1,
                tokens,
                digest: "d".into(),
                counts,
            };
            name_shards(vec![shard.complete(facts).unwrap()]).1.unwrap();
        }
    }

    #[test]
    fn the_manifest_adds_up_and_is_json() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = JobDir::open(tmp.path()).unwrap();
        two_shards(&dir, 5);
        write_job(&dir, &spec()).unwrap();
        assert_eq!(read_job(dir.path()).unwrap(), spec());
        let head = write_manifest(&dir, &spec(), 2, &[0, 1]).unwrap();
        assert_eq!(
            (head.records, head.tokens, head.counts["unknown"]),
            (2, 10, 3)
        );
        let mut listed = Vec::new();
        let mut keep = |record| {
            listed.push(record);
            Ok(())
        };
        assert_eq!(read_manifest(dir.path(), &mut keep).unwrap(), head);
        let stand = [0, 1].map(|block| read_record(&dir.shard(block)).unwrap());
        assert_eq!(listed, stand);
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(tmp.path().join(MANIFEST_FILE)).unwrap())
                .unwrap();
        assert_eq!(json["shards"][1]["first_record"], 4);
        assert_eq!(json["shards"][1]["files"]["layer_2.npy"]["bytes"], 160);
        write_manifest(&dir, &spec(), 0, &[]).unwrap();
        assert!(read_manifest(dir.path(), &mut |_| Err("one".into())).is_ok());
    }

    #[test]
    fn a_manifest_that_is_none_is_refused() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = JobDir::open(tmp.path()).unwrap();
        two_shards(&dir, 5);
        write_manifest(&dir, &spec(), 2, &[0, 1]).unwrap();
        let path = tmp.path().join(MANIFEST_FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        let refused = |text: String| {
            std::fs::write(&path, text).unwrap();
            let error = read_manifest(tmp.path(), &mut |_| Ok(())).unwrap_err();
            assert!(matches!(error, OutputError::Malformed { .. }), "{error}");
            error.to_string()
        };
        assert!(refused(text.clone() + "{}").contains("trailing"));
        assert!(refused(text.replace("\"shards\"", "\"others\"")).contains("lists no shards"));
        let twice = text.replacen('{', "{\"shards\": [],", 1);
        assert!(refused(twice).contains("shards stands in it twice"));
        let twice = text.replacen('{', "{\"complete\": false,", 1);
        assert!(refused(twice).contains("complete stands in it twice"));
        assert!(refused(text.replace("\"input_records\": 2,", "")).contains("input_records"));
        assert!(refused(text.replace("\"rows\":1", "\"rows\":-1")).contains("-1"));
        std::fs::write(&path, &text).unwrap();
        let error = read_manifest(tmp.path(), &mut |_| Err("not this".into())).unwrap_err();
        assert!(error.to_string().contains("not this"), "{error}");
    }

    #[test]
    fn counts_beyond_all_bounds_are_no_panic() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = JobDir::open(tmp.path()).unwrap();
        two_shards(&dir, u64::MAX);
        let error = write_manifest(&dir, &spec(), 2, &[0, 1]).unwrap_err();
        assert!(error.to_string().contains("add up to more"), "{error}");
        assert!(!tmp.path().join(MANIFEST_FILE).exists());
    }

    #[test]
    fn a_shard_that_was_changed_is_in_no_manifest() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = JobDir::open(tmp.path()).unwrap();
        two_shards(&dir, 5);
        std::fs::write(dir.shard(1).join("ids.txt"), "").unwrap();
        let error = write_manifest(&dir, &spec(), 2, &[0, 1]).unwrap_err();
        assert!(matches!(error, OutputError::Unsound { .. }), "{error}");
        assert!(error.to_string().contains("ids.txt has 0 bytes"), "{error}");
        assert!(error.remedy().unwrap().to_string().contains("resume"));
    }

    #[test]
    fn what_cannot_be_read_is_not_called_damaged() {
        struct Fails;
        impl Read for Fails {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                Err(std::io::Error::from_raw_os_error(5))
            }
        }
        let error = serde_json::from_reader::<_, JobSpec>(Fails).unwrap_err();
        match json_error(Path::new("job.json"), error) {
            OutputError::Io {
                action: "read",
                source,
                ..
            } => {
                assert_eq!(source.raw_os_error(), Some(5));
            }
            other => panic!("{other}"),
        }
    }
}
