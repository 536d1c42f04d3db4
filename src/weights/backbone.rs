//! Separates the tensors of the model itself from those that stand beside it in the same files.

use super::WeightsError;
use super::identify::{Located, Tensors};
use crate::architecture::names::{Naming, Position, TwoModels, is_of_the_layers};
use crate::architecture::{foreign, layout};
use crate::untrusted::{Shown, shown};
use std::path::{Path, PathBuf};

/// The most tensors that the warning about unused ones names.
const MOST_NAMED: usize = 3;

/// The tensors of a checkpoint, sorted by where they belong.
#[derive(Debug)]
pub(super) struct Sorted {
    /// The tensors of the model, and those of its known heads, by canonical name.
    pub tensors: Tensors,
    /// Tensors of the user's own beside the model, such as a head for a task.
    pub beside: Vec<Located>,
    /// Tensors that stand beside the model and have names of its layers.
    pub misplaced: Vec<Located>,
}

/// Detects the naming of all tensors. `path` is named in the error.
pub(super) fn naming(stored: &[Located], path: &Path) -> Result<Naming, WeightsError> {
    let names = stored.iter().map(|t| t.stored.name.as_str());
    Naming::of(names).map_err(|TwoModels { first, second }| {
        let named = |prefix: &str| match prefix {
            "" => "without a prefix".to_owned(),
            prefix => format!("under {}", Shown(prefix)),
        };
        WeightsError::Config {
            path: path.to_owned(),
            what: format!(
                "these are the tensors of several models: one {}, one {}",
                named(&first),
                named(&second)
            ),
            hint: "save the state_dict() of the one to be computed by itself".into(),
        }
    })
}

/// Sorts the tensors. `files` are the files that [`Located`] counts.
///
/// # Errors
/// [`WeightsError::Twice`] for two tensors of one name, and [`WeightsError::Config`] if an adapter
/// or a quantization has changed the model.
pub(super) fn sort(
    stored: Vec<Located>,
    naming: &Naming,
    files: &[PathBuf],
) -> Result<Sorted, WeightsError> {
    let mut sorted = Sorted {
        tensors: Tensors::new(),
        beside: Vec::new(),
        misplaced: Vec::new(),
    };
    let table = ["word_embeddings.", "embed_tokens."];
    let has_table = |t: &Located| table.iter().any(|part| t.stored.name.contains(part));
    let has_table = stored.iter().any(has_table);
    let mut heads = Vec::new();
    for tensor in stored {
        match naming.position(&tensor.stored.name) {
            Position::Inside(name) => {
                if let Some(change) = foreign::change(&name) {
                    return Err(changed(&tensor, &files[tensor.file], change, has_table));
                }
                let second = files[tensor.file].clone();
                if let Some(first) = sorted.tensors.insert(name.clone(), tensor) {
                    return Err(WeightsError::Twice {
                        tensor: name,
                        first: files[first.file].clone(),
                        second,
                    });
                }
            }
            Position::Beside(name) if layout::is_known_and_ignored(&name) => {
                heads.push((name, tensor));
            }
            Position::Beside(name) if is_of_the_layers(&name) => sorted.misplaced.push(tensor),
            Position::Beside(_) => sorted.beside.push(tensor),
        }
    }
    for (name, tensor) in heads {
        match sorted.tensors.contains_key(&name) {
            true => sorted.beside.push(tensor),
            false => {
                sorted.tensors.insert(name, tensor);
            }
        }
    }
    Ok(sorted)
}

fn changed(
    tensor: &Located,
    file: &Path,
    change: foreign::Foreign,
    has_table: bool,
) -> WeightsError {
    let name = Shown(&tensor.stored.name);
    let (what, hint) = match change.adapter && !has_table {
        true => (
            format!("this is an adapter, not a model (it has no embeddings, but tensor {name})"),
            foreign::MERGE,
        ),
        false => (
            format!("this is {} (tensor {name})", change.name),
            change.hint,
        ),
    };
    WeightsError::Config {
        path: file.to_owned(),
        what,
        hint: hint.into(),
    }
}

/// The warning about tensors that are not used, if there are some.
pub(super) fn warning(beside: &[Located]) -> Option<String> {
    let named = beside.iter().take(MOST_NAMED).map(|t| {
        format!(
            "{} {}",
            Shown(&t.stored.name),
            shown::shape(&t.stored.shape)
        )
    });
    let named = named.collect::<Vec<_>>().join(", ");
    let more = match beside.len().saturating_sub(MOST_NAMED) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    match beside.len() {
        0 => None,
        1 => Some(format!("a tensor beside the model is not used: {named}")),
        n => Some(format!(
            "{n} tensors beside the model are not used: {named}{more}"
        )),
    }
}
