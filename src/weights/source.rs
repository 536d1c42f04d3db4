//! Finds the files of one checkpoint behind a path.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

use super::WeightsError;
use super::hub;
use super::identify::Located;
use super::stored::fitting_name;
use crate::hub::WEIGHTS;
use crate::untrusted::{Shown, file, shown};

/// The longest index that is read, in bytes. The index of ESM-2 15B has 130 kB. The bound on the
/// number of tensors applies too.
const LONGEST_INDEX: u64 = 8 << 20;
/// The longest name of a file, in bytes: no file system here has a longer one.
const LONGEST_FILE_NAME: usize = 255;

/// The files of one checkpoint.
#[derive(Debug)]
pub(super) struct Source {
    /// The folder that holds the files.
    pub folder: PathBuf,
    /// The path by which the user names the checkpoint: the folder, the file or the index.
    pub root: PathBuf,
    /// The files that hold tensors, in the order of their names.
    pub files: Vec<PathBuf>,
    /// The path of a sharded checkpoint's index, and the file name that the index gives for each
    /// tensor.
    pub index: Option<(PathBuf, BTreeMap<String, String>)>,
}

impl Source {
    /// Finds the files behind `path`: a folder, one file of tensors, or an index.
    pub fn find(path: &Path) -> Result<Self, WeightsError> {
        let metadata = file::metadata(path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                hub::absent(path).unwrap_or_else(|| WeightsError::read(path)(error))
            }
            _ => WeightsError::read(path)(error),
        })?;
        if metadata.is_dir() {
            let folder = hub::snapshot(path)?;
            let inside = in_folder(&folder)?;
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
            check_shards(path, &folder, &names)?;
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

    /// Checks that every tensor of the index is in the file that the index gives for it.
    pub fn check_index(&self, stored: &[Located]) -> Result<(), WeightsError> {
        let Some((_, map)) = &self.index else {
            return Ok(());
        };
        let there: HashSet<(&str, &Path)> = stored
            .iter()
            .map(|t| (t.stored.name.as_str(), self.files[t.file].as_path()))
            .collect();
        for (tensor, name) in map {
            let path = self.folder.join(name);
            if !there.contains(&(tensor.as_str(), path.as_path())) {
                return Err(WeightsError::Format {
                    path,
                    what: format!(
                        "tensor {} is missing, which the index has in this file",
                        Shown(tensor)
                    ),
                    hint: "download this shard and the index again".into(),
                });
            }
        }
        Ok(())
    }

    /// The path of a file beside the weights, if the file is there.
    ///
    /// # Errors
    /// Fails if the file is there but is not a regular file, or if it cannot be examined: a link
    /// into a cache that has lost the file is not the same as no file.
    pub fn beside(&self, name: &str) -> Result<Option<PathBuf>, WeightsError> {
        let path = self.folder.join(name);
        let there = file::is_regular(&path).map_err(WeightsError::read(&path))?;
        Ok(there.then_some(path))
    }
}

/// Checks that the files that an index lists are there.
fn check_shards(
    index: &Path,
    folder: &Path,
    names: &BTreeSet<&String>,
) -> Result<(), WeightsError> {
    let mut absent = Vec::new();
    for name in names {
        let path = folder.join(name);
        if !file::is_there(&path).map_err(WeightsError::read(&path))? {
            absent.push(*name);
        }
    }
    let (first, more) = match absent.as_slice() {
        [] => return Ok(()),
        [only] => (only, " is not there".to_owned()),
        [first, rest @ ..] => (first, format!(" and {} more are not there", rest.len())),
    };
    Err(WeightsError::Format {
        path: index.to_owned(),
        what: format!(
            "the index lists {} files, {}{more}",
            names.len(),
            Shown(first)
        ),
        hint:
            "download what is missing into the same folder; every file of a sharded model is needed"
                .into(),
    })
}

/// Finds the one set of weights in a folder. If a folder has the same weights in several formats,
/// the first name of this list is taken.
fn in_folder(folder: &Path) -> Result<PathBuf, WeightsError> {
    for name in WEIGHTS {
        let path = folder.join(name);
        // A file that cannot be examined is an error: it must not give way to weights in another
        // format.
        if file::is_regular(&path).map_err(WeightsError::read(&path))? {
            return hub::adapter(folder, Some(name))?.map_or(Ok(path), Err);
        }
    }
    if let Some(error) = hub::adapter(folder, None)? {
        return Err(error);
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(WeightsError::read(folder))? {
        names.push(entry.map_err(WeightsError::read(folder))?.file_name());
    }
    names.sort();
    for extension in [".safetensors", ".pt"] {
        let of_this_sort: Vec<&OsString> = names
            .iter()
            .filter(|name| {
                let name = name.to_string_lossy();
                name.ends_with(extension) && !name.ends_with("-contact-regression.pt")
            })
            .collect();
        match of_this_sort.as_slice() {
            [] => {}
            [only] => return Ok(folder.join(only)),
            several => {
                let what = format!(
                    "the folder has several {extension} files and no index: {} and {}",
                    Shown(&several[0].to_string_lossy()),
                    Shown(&several[1].to_string_lossy())
                );
                return Err(WeightsError::NoWeights {
                    path: folder.to_owned(),
                    what,
                });
            }
        }
    }
    if let Some(error) = hub::weights_below(folder, &WEIGHTS)? {
        return Err(error);
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
    weight_map: WeightMap,
}

/// A map from the names of tensors to the names of files. No tensor occurs twice, and there are no
/// more tensors than a model can have.
struct WeightMap(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(WeightMapVisitor)
    }
}

struct WeightMapVisitor;

impl<'de> Visitor<'de> for WeightMapVisitor {
    type Value = WeightMap;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a map from tensor names to file names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WeightMap, A::Error> {
        let mut weight_map = BTreeMap::new();
        while let Some((tensor, file)) = map.next_entry::<String, String>()? {
            fitting_name(&tensor, weight_map.len()).map_err(A::Error::custom)?;
            // A downloaded index must not lead out of its folder.
            let plain = matches!(
                Path::new(&file).components().collect::<Vec<_>>()[..],
                [Component::Normal(_)]
            );
            if !plain || file.len() > LONGEST_FILE_NAME {
                let (tensor, file) = (Shown(&tensor), Shown(&file));
                return Err(A::Error::custom(format!(
                    "it has tensor {tensor} in \"{file}\", which is not a plain file name"
                )));
            }
            if weight_map.contains_key(&tensor) {
                let tensor = Shown(&tensor);
                return Err(A::Error::custom(format!("it has tensor {tensor} twice")));
            }
            weight_map.insert(tensor, file);
        }
        Ok(WeightMap(weight_map))
    }
}

fn weight_map(path: &Path) -> Result<BTreeMap<String, String>, WeightsError> {
    let wrong = |what: String, hint: &str| WeightsError::Format {
        path: path.to_owned(),
        what,
        hint: hint.into(),
    };
    const DAMAGED: &str = "the index is damaged or of another sort; download it again";
    let bytes = read_json(path, LONGEST_INDEX)?;
    let Index { weight_map } = serde_json::from_slice(&bytes).map_err(|error| {
        let what = format!(
            "this is no index of a sharded checkpoint: {}",
            shown::parser(&error)
        );
        // A folder's config.json, of which users give the path, is JSON as well.
        match error.to_string().starts_with("missing field") {
            true => wrong(
                what,
                "give the folder that holds the weights, or a file of weights",
            ),
            false => wrong(what, DAMAGED),
        }
    })?;
    if weight_map.0.is_empty() {
        return Err(wrong("the index lists no tensors".into(), DAMAGED));
    }
    Ok(weight_map.0)
}

/// Reads a JSON file of a model, which may have at most `longest` bytes.
pub(super) fn read_json(path: &Path, longest: u64) -> Result<Vec<u8>, WeightsError> {
    let read = file::read(path, longest).map_err(WeightsError::read(path))?;
    read.map_err(|length| WeightsError::Format {
        path: path.to_owned(),
        what: format!(
            "{length} bytes are too many for this JSON file, of which {longest} are read"
        ),
        hint: "the file is damaged or of another sort; download it again".into(),
    })
}
