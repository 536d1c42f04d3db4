//! Recognizes names of models on the Hugging Face Hub where a path was given, and folders of its
//! cache.

use std::fs;
use std::path::{Path, PathBuf};

use super::WeightsError;
use crate::architecture::foreign;
use crate::hub::Name;
use crate::untrusted::{Shown, file, shown};

/// The longest refs/main that is read, in bytes: it holds a hash of 40 digits.
const LONGEST_REF: u64 = 200;

/// The folder of the snapshot that a folder of the Hub's cache stands for, or `path` itself if it
/// is no such folder.
///
/// # Errors
/// [`WeightsError::Config`] if it is not clear which snapshot is meant.
pub(super) fn snapshot(path: &Path) -> Result<PathBuf, WeightsError> {
    let snapshots = path.join("snapshots");
    let is_cached =
        snapshots.is_dir() && (path.join("refs").is_dir() || path.join("blobs").is_dir());
    if !is_cached {
        return Ok(path.to_owned());
    }
    let names = listed(&snapshots)?;
    let reference = path.join("refs").join("main");
    if file::is_there(&reference).map_err(WeightsError::read(&reference))? {
        let text =
            file::read_text(&reference, LONGEST_REF).map_err(WeightsError::read(&reference))?;
        let hash = text.trim();
        // Only a name that is in the folder is followed, so that nothing leads out of it.
        if names.iter().any(|name| name == hash) {
            return Ok(snapshots.join(hash));
        }
        return Err(unclear(
            path,
            format!(
                "refs/main names the snapshot \"{}\", which is not in snapshots",
                Shown(hash)
            ),
            give_snapshot(&names),
        ));
    }
    match names.as_slice() {
        [only] => Ok(snapshots.join(only)),
        _ => Err(unclear(
            path,
            format!(
                "this is a folder of the Hugging Face Hub's cache with {} snapshots and no refs/main",
                names.len()
            ),
            give_snapshot(&names),
        )),
    }
}

fn give_snapshot(names: &[String]) -> String {
    match names.first() {
        Some(first) => format!(
            "give the folder of one snapshot: snapshots/{}",
            Shown(first)
        ),
        None => "download the model again".into(),
    }
}

fn unclear(path: &Path, what: String, hint: String) -> WeightsError {
    WeightsError::Config {
        path: path.to_owned(),
        what,
        hint,
    }
}

/// The names of the folders in a folder, in order.
fn listed(folder: &Path) -> Result<Vec<String>, WeightsError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(WeightsError::read(folder))? {
        let entry = entry.map_err(WeightsError::read(folder))?;
        if let Ok(name) = entry.file_name().into_string()
            && entry.path().is_dir()
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// The error for a folder without weights, if one of the folders in it has some.
///
/// # Errors
/// [`WeightsError::Read`] if the folder cannot be examined.
pub(super) fn weights_below(
    folder: &Path,
    known: &[&str],
) -> Result<Option<WeightsError>, WeightsError> {
    let names = listed(folder)?;
    let is_model = |name: &&String| {
        let inside = folder.join(name);
        name.starts_with("models--") || known.iter().any(|file| inside.join(file).is_file())
    };
    let Some(model) = names.iter().find(is_model) else {
        return Ok(None);
    };
    Ok(Some(unclear(
        folder,
        "the folder itself holds no weights, but folders in it do".into(),
        format!("give the folder of one model, such as {}", Shown(model)),
    )))
}

/// The error for a path where nothing is, if the path is the name of a model on the Hub.
pub(super) fn absent(path: &Path) -> Option<WeightsError> {
    let name = Name::parse(path.to_str()?)?.id;
    let folder = name.rsplit('/').next().unwrap_or(&name);
    Some(WeightsError::OnHub {
        path: path.to_owned(),
        folder: folder.to_owned(),
        name,
    })
}

/// The error for a folder with an adapter. `weights` is the file of weights beside it, if there is
/// one: nothing tells whether the adapter is merged into it.
///
/// # Errors
/// [`WeightsError::Read`] if the folder cannot be examined.
pub(super) fn adapter(
    folder: &Path,
    weights: Option<&str>,
) -> Result<Option<WeightsError>, WeightsError> {
    const CONFIG: &str = "adapter_config.json";
    /// The longest adapter_config.json that is read, in bytes.
    const LONGEST: u64 = 1 << 20;
    let path = folder.join(CONFIG);
    if !file::is_there(&path).map_err(WeightsError::read(&path))? {
        return Ok(None);
    }
    let keys = ["base_model_name_or_path", "peft_type"];
    // The file only gives the message its words, so that whatever is in it, the adapter is refused.
    let read = file::read(&path, LONGEST).ok().and_then(Result::ok);
    let config = read.and_then(|json| crate::untrusted::json::object(&json, &keys, 100).ok());
    let text = |key: &str| config.as_ref()?.get(key)?.as_str().map(shown::quoted);
    let kind = match text("peft_type").as_deref() {
        Some("LORA") => "a LoRA adapter".to_owned(),
        Some(other) => format!("an adapter ({other})"),
        None => "an adapter".to_owned(),
    };
    let base = text("base_model_name_or_path");
    let of = base.map_or_else(String::new, |base| format!(" for {base}"));
    let merge = foreign::MERGE;
    Ok(Some(match weights {
        None => unclear(
            folder,
            format!("this is {kind}{of} ({CONFIG}), not a model"),
            merge.into(),
        ),
        Some(weights) => unclear(
            folder,
            format!("beside {weights} stands {kind}{of} ({CONFIG})"),
            format!("if it is merged into {weights}, give that file by its path; if not, {merge}"),
        ),
    }))
}
