//! Finds the tensors of the model in what a checkpoint's pickle holds, and fair-esm's settings.

use std::collections::{HashMap, HashSet};

use super::super::stored::Malformed;
use super::pickle::Pickle;
use super::value::{Id, Value};
use crate::untrusted::Shown;

/// The settings of a fair-esm checkpoint's architecture, as far as they can be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FairEsmSettings {
    /// The name of the architecture: `arch`.
    pub arch: Option<String>,
    /// Number of layers: `encoder_layers`.
    pub layers: Option<usize>,
    /// Model width: `encoder_embed_dim`.
    pub hidden: Option<usize>,
    /// Number of attention heads: `encoder_attention_heads`.
    pub heads: Option<usize>,
    /// Whether the model uses token dropout: `token_dropout`.
    pub token_dropout: Option<bool>,
}

/// The keys under which a training script keeps the tensors of the model: fair-esm and others
/// write `model`, Lightning `state_dict`, PyTorch's tutorials `model_state_dict`, DeepSpeed
/// `module`.
const KEYS: [&str; 5] = [
    "model",
    "state_dict",
    "model_state_dict",
    "model_state",
    "module",
];
/// How many such keys may lead to each other, as in `{"model": {"state_dict": ...}}`.
const DEEPEST: usize = 4;
/// The most keys that an error lists.
const MOST_LISTED: usize = 5;
/// The longest name of an architecture that is kept, in bytes.
const LONGEST_ARCH: usize = 100;

pub(super) fn no_state_dict() -> Malformed {
    Malformed::new(
        "the checkpoint holds no dict of tensors",
        "save the model's state_dict() and not the model or the trainer itself",
    )
}

/// Finds the dict of tensors: what one of [`KEYS`] leads to, or else the root itself.
///
/// # Errors
/// [`Malformed`] if there is none, or if several keys lead to different ones.
pub(super) fn state_dict(pickle: &Pickle) -> Result<Id, Malformed> {
    let mut at = pickle.root();
    for _ in 0..DEEPEST {
        // A key that leads to no dict, such as the name of a model, is a setting.
        let nested = |key: &'static str| {
            let id = pickle.entry(at, key)?;
            matches!(pickle.get(id), Value::Dict(_)).then_some((key, id))
        };
        let found: Vec<(&str, Id)> = KEYS.into_iter().filter_map(nested).collect();
        let with_tensors =
            |(_, id): &&(&str, Id)| leads_to_tensors(pickle, *id, &mut HashSet::new());
        let whole: Vec<&(&str, Id)> = found.iter().filter(with_tensors).collect();
        at = match whole.as_slice() {
            [] => break,
            [(_, id)] => *id,
            [(_, id), rest @ ..] if rest.iter().all(|(_, other)| other == id) => *id,
            [(first, _), (second, _), ..] => {
                return Err(Malformed::new(
                    format!("the checkpoint holds tensors under {first} and under {second}"),
                    format!(
                        "save one of them by itself: torch.save(torch.load(path)[\"{first}\"], new_path)"
                    ),
                ));
            }
        };
    }
    if has_tensors(pickle, at) {
        return Ok(at);
    }
    let (keys, more) = keys_with_tensors(pickle, at);
    let Some(first) = keys.first() else {
        return Err(no_state_dict());
    };
    let more = match more {
        0 => String::new(),
        n => format!(" and {n} more keys"),
    };
    Err(Malformed::new(
        format!(
            "the checkpoint holds tensors under {}{more}, and under none of the keys that are known \
             for a model: {}",
            keys.join(", "),
            KEYS.join(", ")
        ),
        format!(
            "save the tensors of the model by themselves, such as \
             torch.save(torch.load(path)[\"{first}\"], new_path)"
        ),
    ))
}

/// Returns whether a value is a dict with at least one tensor under a string.
fn has_tensors(pickle: &Pickle, id: Id) -> bool {
    let Value::Dict(pairs) = pickle.get(id) else {
        return false;
    };
    let is_tensor = |(key, value): &(Id, Id)| {
        let pair = (pickle.get(*key), pickle.get(*value));
        matches!(pair, (Value::Str(_), Value::Tensor(_)))
    };
    pairs.iter().any(is_tensor)
}

/// Returns whether a value is a dict of tensors, or whether [`KEYS`] in it lead to one. Values in
/// `seen` have been looked at: dicts may hold each other.
fn leads_to_tensors(pickle: &Pickle, id: Id, seen: &mut HashSet<Id>) -> bool {
    if !seen.insert(id) {
        return false;
    }
    if has_tensors(pickle, id) {
        return true;
    }
    let nested: Vec<Id> = KEYS
        .iter()
        .filter_map(|key| pickle.entry(id, key))
        .collect();
    // A deeper one is not found either when the keys are followed.
    seen.len() <= KEYS.len() * DEEPEST
        && nested.iter().any(|id| leads_to_tensors(pickle, *id, seen))
}

/// The first keys of a dict, escaped, whose values are dicts of tensors, and how many more there
/// are.
fn keys_with_tensors(pickle: &Pickle, id: Id) -> (Vec<String>, usize) {
    let (mut keys, mut more) = (Vec::new(), 0);
    let Value::Dict(pairs) = pickle.get(id) else {
        return (keys, more);
    };
    // One dict may be the value of a million keys, and is looked at once.
    let mut known = HashMap::new();
    for (key, value) in pairs {
        let holds = known.entry(*value);
        let holds = *holds.or_insert_with(|| has_tensors(pickle, *value));
        if holds && let Value::Str(key) = pickle.get(*key) {
            match keys.len() < MOST_LISTED {
                true => keys.push(Shown(key).to_string()),
                false => more += 1,
            }
        }
    }
    (keys, more)
}

/// The settings that fair-esm stores beside the weights.
pub(super) fn settings(pickle: &Pickle) -> FairEsmSettings {
    let root = pickle.root();
    // omegaconf keeps the entries of a config under `_content`, and a value under `_val`.
    let inside = |id: Id| pickle.entry(id, "_content").unwrap_or(id);
    let model = match (pickle.entry(root, "cfg"), pickle.entry(root, "args")) {
        (Some(cfg), _) => pickle.entry(inside(cfg), "model").map(inside),
        (None, args) => args,
    };
    let field = |name: &str| {
        let id = pickle.entry(model?, name)?;
        Some(pickle.get(pickle.entry(id, "_val").unwrap_or(id)))
    };
    let number = |name: &str| match field(name) {
        Some(Value::Int(n)) => usize::try_from(*n).ok(),
        _ => None,
    };
    FairEsmSettings {
        arch: match field("arch") {
            Some(Value::Str(arch)) if arch.len() <= LONGEST_ARCH => Some((*arch).to_owned()),
            _ => None,
        },
        layers: number("encoder_layers"),
        hidden: number("encoder_embed_dim"),
        heads: number("encoder_attention_heads"),
        token_dropout: match field("token_dropout") {
            Some(Value::Bool(b)) => Some(*b),
            _ => None,
        },
    }
}
