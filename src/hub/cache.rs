//! The local cache of the Hub, in the layout of `huggingface_hub`, so that every program finds what
//! another one has downloaded:
//!
//! ```text
//! models--OWNER--NAME/
//!   refs/REVISION             the commit that a branch or a tag meant when it was last asked for
//!   snapshots/COMMIT/FILE     a link to ../../blobs/ETAG
//!   blobs/ETAG                the content of a file
//! .locks/models--OWNER--NAME/ETAG.lock
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use super::name::is_commit;
use super::{HubError, Name};
use crate::untrusted::{file, json};

/// The files of weights that a model may have, in the order in which they are preferred. An index
/// stands for the shards that it lists.
pub const WEIGHTS: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

pub(super) const CONFIG: &str = "config.json";
pub(super) const TOKENIZER: &str = "tokenizer.json";

/// The longest index that is read, in bytes, and the most values in it.
const LONGEST_INDEX: u64 = 8 << 20;
const MOST_VALUES: usize = 1 << 20;
/// The longest config.json that is read, in bytes.
const LONGEST_CONFIG: u64 = 1 << 20;
/// The longest file in `refs` that is read, in bytes.
const LONGEST_REF: u64 = 200;

/// The local cache of the Hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    root: PathBuf,
}

/// What the cache has of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The commit.
    pub commit: String,
    /// The folder of its files.
    pub folder: PathBuf,
    /// Whether all files of weights are there.
    pub weights: bool,
    /// The files that the model needs and that are not there.
    pub lacks: Vec<String>,
}

impl Cache {
    /// The cache in a folder, which need not exist.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The folder of the cache.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// The folder of a model.
    pub fn folder(&self, id: &str) -> PathBuf {
        self.root.join(format!("models--{}", id.replace('/', "--")))
    }

    /// What the cache has of a model; `None` if it has nothing of that revision.
    ///
    /// # Errors
    /// [`HubError::Cache`] if the cache cannot be examined.
    pub fn find(&self, name: &Name) -> Result<Option<Snapshot>, HubError> {
        let folder = self.folder(&name.id);
        let commit = match name.is_pinned() {
            true => name.revision.clone(),
            false => {
                let path = folder.join("refs").join(&name.revision);
                if !is_file(&path)? {
                    return Ok(None);
                }
                let text = file::read_text(&path, LONGEST_REF).map_err(HubError::read(&path))?;
                // Only a commit is followed, so that nothing leads out of the cache.
                match is_commit(text.trim()) {
                    true => text.trim().to_owned(),
                    false => return Ok(None),
                }
            }
        };
        let folder = folder.join("snapshots").join(&commit);
        if !is_there(&folder)? {
            return Ok(None);
        }
        self.examine(folder, commit).map(Some)
    }

    /// Tells what a snapshot has and what it lacks.
    pub(super) fn examine(&self, folder: PathBuf, commit: String) -> Result<Snapshot, HubError> {
        let mut lacks = Vec::new();
        let config = folder.join(CONFIG);
        match is_file(&config)? {
            false => lacks.push(CONFIG.to_owned()),
            true if needs_tokenizer(&config)? && !is_file(&folder.join(TOKENIZER))? => {
                lacks.push(TOKENIZER.to_owned());
            }
            true => {}
        }
        let mut absent = vec![WEIGHTS[0].to_owned()];
        for name in WEIGHTS {
            let path = folder.join(name);
            if !is_file(&path)? {
                continue;
            }
            absent.clear();
            if name.ends_with(".json") {
                for shard in shards(&path)? {
                    if !is_file(&folder.join(&shard))? {
                        absent.push(shard);
                    }
                }
            }
            break;
        }
        let weights = absent.is_empty();
        lacks.extend(absent);
        Ok(Snapshot {
            commit,
            folder,
            weights,
            lacks,
        })
    }
}

/// Whether DNA cannot be read without tokenizer.json, as config.json has it: only ESM-2's tokenizer
/// is a part of the program. A config.json that cannot be read is for those to refuse who read all
/// of it.
fn needs_tokenizer(config: &Path) -> Result<bool, HubError> {
    let Ok(bytes) = file::read(config, LONGEST_CONFIG).map_err(HubError::read(config))? else {
        return Ok(false);
    };
    let kind = json::object(&bytes, &["model_type"], 10);
    let kind = kind.ok().and_then(|mut map| map.remove("model_type"));
    Ok(matches!(kind, Some(Value::String(kind)) if kind != "esm"))
}

/// The names of the files that an index lists. An index that is none lists no files; opening the
/// model refuses it with a reason.
pub(super) fn shards(index: &Path) -> Result<BTreeSet<String>, HubError> {
    let read = file::read(index, LONGEST_INDEX).map_err(HubError::read(index))?;
    let map = read.ok().and_then(|bytes| {
        let mut map = json::object(&bytes, &["weight_map"], MOST_VALUES).ok()?;
        map.remove("weight_map")
    });
    let Some(Value::Object(map)) = map else {
        return Ok(BTreeSet::new());
    };
    let names = map.into_iter().filter_map(|(_, name)| match name {
        Value::String(name) if is_plain(&name) => Some(name),
        _ => None,
    });
    Ok(names.collect())
}

/// Whether this is the name of a file, without folders.
pub(super) fn is_plain(name: &str) -> bool {
    let components = Path::new(name).components().collect::<Vec<_>>();
    matches!(components[..], [Component::Normal(_)]) && name.len() < 256 && !name.contains('\\')
}

fn is_there(path: &Path) -> Result<bool, HubError> {
    file::is_there(path).map_err(HubError::read(path))
}

/// Whether there is a file at `path`. A link into the cache that leads nowhere is no file: its
/// content has been removed, and can be downloaded again.
pub(super) fn is_file(path: &Path) -> Result<bool, HubError> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.is_file()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(HubError::read(path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "c731040fcd8d73dceaa04b0a8e6329b345b0f5df";

    fn name(revision: &str) -> Name {
        Name {
            id: "o/m".into(),
            revision: revision.into(),
        }
    }

    /// A cache that has these files of a model.
    fn cache(files: &[(&str, &str)]) -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().into());
        let folder = cache.folder("o/m");
        let snapshot = folder.join("snapshots").join(COMMIT);
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir_all(folder.join("refs/refs/pr")).unwrap();
        fs::write(folder.join("refs/main"), format!("{COMMIT}\n")).unwrap();
        fs::write(folder.join("refs/refs/pr/1"), COMMIT).unwrap();
        for (name, text) in files {
            fs::write(snapshot.join(name), text).unwrap();
        }
        (dir, cache)
    }

    fn lacks(files: &[(&str, &str)]) -> Vec<String> {
        let (_dir, cache) = cache(files);
        let found = cache.find(&name("main")).unwrap().unwrap();
        let weights: Vec<&String> = found
            .lacks
            .iter()
            .filter(|n| !n.ends_with(".json"))
            .collect();
        assert_eq!(found.weights, weights.is_empty(), "{found:?}");
        found.lacks
    }

    #[test]
    fn a_revision_is_a_reference_or_a_commit() {
        let (_dir, cache) = cache(&[]);
        for revision in ["main", "refs/pr/1", COMMIT] {
            let found = cache.find(&name(revision)).unwrap().unwrap();
            assert_eq!(found.commit, COMMIT);
            assert!(
                found
                    .folder
                    .ends_with(format!("models--o--m/snapshots/{COMMIT}"))
            );
        }
        for revision in ["v1", "refs", &COMMIT.replace('c', "d")] {
            assert_eq!(cache.find(&name(revision)).unwrap(), None, "{revision}");
        }
        for text in ["", "../x", "main"] {
            fs::write(cache.folder("o/m").join("refs/main"), text).unwrap();
            assert_eq!(cache.find(&name("main")).unwrap(), None, "{text}");
        }
        let other = Cache::new("/nowhere/at/all".into());
        assert_eq!(other.find(&name("main")).unwrap(), None);
    }

    #[test]
    fn what_a_snapshot_lacks_is_named() {
        let esm = (CONFIG, r#"{"model_type": "esm"}"#);
        let bert = (CONFIG, r#"{"model_type": "bert"}"#);
        let index = (
            "model.safetensors.index.json",
            r#"{"weight_map": {"a": "1.st", "b": "2.st", "c": "../x"}}"#,
        );
        assert_eq!(lacks(&[]), [CONFIG, "model.safetensors"]);
        assert_eq!(lacks(&[esm]), ["model.safetensors"]);
        assert_eq!(lacks(&[esm, ("model.safetensors", "")]), [""; 0]);
        assert_eq!(lacks(&[esm, ("pytorch_model.bin", "")]), [""; 0]);
        assert_eq!(lacks(&[esm, index]), ["1.st", "2.st"]);
        assert_eq!(lacks(&[esm, index, ("1.st", "")]), ["2.st"]);
        assert_eq!(lacks(&[esm, index, ("1.st", ""), ("2.st", "")]), [""; 0]);
        assert_eq!(lacks(&[bert, ("model.safetensors", "")]), [TOKENIZER]);
        assert_eq!(
            lacks(&[bert, ("model.safetensors", ""), (TOKENIZER, "")]),
            [""; 0]
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_link_that_leads_nowhere_is_no_file() {
        let (_dir, cache) = cache(&[(CONFIG, "{}")]);
        let folder = cache.find(&name("main")).unwrap().unwrap().folder;
        std::os::unix::fs::symlink("../../blobs/gone", folder.join(WEIGHTS[0])).unwrap();
        let found = cache.find(&name("main")).unwrap().unwrap();
        assert_eq!(
            (found.weights, found.lacks),
            (false, vec![WEIGHTS[0].to_owned()])
        );
    }
}
