//! From a path to the files of one checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::WeightsError;

/// The longest JSON file that is read into memory.
const LONGEST_JSON: u64 = 64 << 20;

/// The files of one checkpoint.
#[derive(Debug)]
pub(super) struct Source {
    /// The folder that holds them.
    pub folder: PathBuf,
    /// What the user would call the checkpoint: the folder, the file or the index.
    pub root: PathBuf,
    /// The files with tensors, in the order of their names.
    pub files: Vec<PathBuf>,
    /// The index of a sharded checkpoint, with the file it gives each tensor.
    pub index: Option<(PathBuf, BTreeMap<String, String>)>,
}

impl Source {
    /// Finds the files behind `path`: a folder, one file of tensors, or an index.
    pub fn find(path: &Path) -> Result<Self, WeightsError> {
        if fs::metadata(path)
            .map_err(WeightsError::read(path))?
            .is_dir()
        {
            let inside = in_folder(path)?;
            return Source::file(&inside, path.to_owned());
        }
        Source::file(path, path.to_owned())
    }

    fn file(path: &Path, root: PathBuf) -> Result<Self, WeightsError> {
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        if path.extension().is_some_and(|e| e == "json") {
            let map = weight_map(path)?;
            let names: BTreeSet<&String> = map.values().collect();
            let files = names.into_iter().map(|name| folder.join(name)).collect();
            return Ok(Source {
                folder,
                root,
                files,
                index: Some((path.to_owned(), map)),
            });
        }
        Ok(Source {
            folder,
            root,
            files: vec![path.to_owned()],
            index: None,
        })
    }

    /// A file beside the weights, if it is there.
    pub fn beside(&self, name: &str) -> Option<PathBuf> {
        Some(self.folder.join(name)).filter(|path| path.is_file())
    }
}

/// The one set of weights in a folder. Where a folder has the same weights in several formats, the
/// first of these is taken.
fn in_folder(folder: &Path) -> Result<PathBuf, WeightsError> {
    const KNOWN: [&str; 4] = [
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
    ];
    if let Some(path) = KNOWN
        .iter()
        .map(|name| folder.join(name))
        .find(|path| path.is_file())
    {
        return Ok(path);
    }
    let mut names: Vec<String> = fs::read_dir(folder)
        .map_err(WeightsError::read(folder))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    for extension in [".safetensors", ".pt"] {
        let of_this_sort: Vec<&String> = names
            .iter()
            .filter(|name| name.ends_with(extension) && !name.ends_with("-contact-regression.pt"))
            .collect();
        match of_this_sort.as_slice() {
            [] => {}
            [only] => return Ok(folder.join(only)),
            several => {
                let what = format!(
                    "the folder has several {extension} files and no index: {} and {}",
                    several[0], several[1]
                );
                return Err(WeightsError::NoWeights {
                    path: folder.to_owned(),
                    what,
                });
            }
        }
    }
    let what = match names.is_empty() {
        true => "the folder is empty".to_owned(),
        false => format!(
            "the folder has {} files, but no weights among them",
            names.len()
        ),
    };
    Err(WeightsError::NoWeights {
        path: folder.to_owned(),
        what,
    })
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn weight_map(path: &Path) -> Result<BTreeMap<String, String>, WeightsError> {
    let wrong = |what: String| WeightsError::Format {
        path: path.to_owned(),
        what,
        hint: "the index is damaged or of another sort; download it again".into(),
    };
    let Index { weight_map } = serde_json::from_slice(&read_json(path)?)
        .map_err(|error| wrong(format!("this is no index of a sharded checkpoint: {error}")))?;
    if weight_map.is_empty() {
        return Err(wrong("the index lists no tensors".into()));
    }
    for (tensor, name) in &weight_map {
        // A downloaded index must not lead out of its folder.
        let plain = matches!(
            Path::new(name).components().collect::<Vec<_>>()[..],
            [Component::Normal(_)]
        );
        if !plain {
            return Err(wrong(format!(
                "the index has tensor {tensor} in {name:?}, which is not a plain file name"
            )));
        }
    }
    Ok(weight_map)
}

/// Reads a JSON file, unless it is too large to be one of a model's.
pub(super) fn read_json(path: &Path) -> Result<Vec<u8>, WeightsError> {
    let length = fs::metadata(path).map_err(WeightsError::read(path))?.len();
    if length > LONGEST_JSON {
        return Err(WeightsError::Format {
            path: path.to_owned(),
            what: format!("{length} bytes are too many for this JSON file"),
            hint: "the file is damaged or of another sort; download it again".into(),
        });
    }
    fs::read(path).map_err(WeightsError::read(path))
}
