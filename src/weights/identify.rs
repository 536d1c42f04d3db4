//! Determines the architecture of a set of tensors, from config.json or from the tensors
//! themselves, and checks that all its tensors are there and no others.

use super::WeightsError;
use super::stored::{StoredDType, StoredTensor};
use super::torch::FairEsmSettings;
use crate::architecture::layout::{Expected, Need};
use crate::architecture::names::Scheme;
use crate::architecture::{ModelConfig, ModelKind, config_json, foreign, layout};
use crate::untrusted::{Shown, shown};
use std::collections::BTreeMap;
use std::path::Path;

/// A tensor and the file that holds it.
#[derive(Debug)]
pub(super) struct Located {
    /// The tensor as its file describes it.
    pub stored: StoredTensor,
    /// The index of the file in the checkpoint's files.
    pub file: usize,
}

/// All tensors by canonical name.
pub(super) type Tensors = BTreeMap<String, Located>;

const GIVE_CONFIG: &str = "put the config.json published with the model beside the weights";

fn config_error(path: &Path, what: impl Into<String>, hint: &str) -> WeightsError {
    WeightsError::Config {
        path: path.to_owned(),
        what: what.into(),
        hint: hint.into(),
    }
}

/// Determines the architecture: from config.json if there is one and the names are Hugging Face's,
/// or else from names and shapes. `beside` are the tensors that are not of the model. `path` is named
/// in errors about the tensors.
pub(super) fn determine(
    tensors: &Tensors,
    beside: &[Located],
    scheme: Scheme,
    settings: &FairEsmSettings,
    config: Option<(&Path, &[u8])>,
    path: &Path,
) -> Result<ModelConfig, WeightsError> {
    let kind = kind_of_names(tensors);
    let (found, origin) = match config {
        Some((file, json)) if scheme == Scheme::HuggingFace => {
            let found =
                config_json::read(json, kind).map_err(|(what, hint)| WeightsError::Config {
                    path: file.to_owned(),
                    what,
                    hint,
                })?;
            (found, file)
        }
        _ => {
            if scheme == Scheme::FairEsm && kind == Some(ModelKind::Esm2) {
                refuse_esm1(tensors, settings, path)?;
            }
            let kind = kind.ok_or_else(|| unknown(tensors, beside, path))?;
            (infer(tensors, kind, settings, path)?, path)
        }
    };
    let own = crate::sequence::tokenizer::esm::VOCABULARY.len();
    if found.kind == ModelKind::Esm2 && (1..own).contains(&found.vocab) {
        let what = format!(
            "the vocabulary has {} tokens, and ESM-2's has {own}: the model reads other tokens than ESM-2",
            found.vocab
        );
        return Err(config_error(origin, what, foreign::GIVE_ANOTHER));
    }
    found
        .validate()
        .map_err(|what| config_error(origin, what, "the file is damaged; download it again"))?;
    // Each layer has tensors, so more layers than tensors are a mistake. This check also keeps a
    // large number of layers from making the list of expected tensors long.
    if found.layers > tensors.len() {
        let what = format!(
            "{} layers cannot be made of {} tensors",
            found.layers,
            tensors.len()
        );
        return Err(config_error(
            origin,
            what,
            "check that config.json is the one published with these weights",
        ));
    }
    Ok(found)
}

/// The architecture that the names alone indicate.
fn kind_of_names(tensors: &Tensors) -> Option<ModelKind> {
    if tensors.contains_key("encoder.layer.0.attention.self.Wqkv.weight") {
        Some(ModelKind::Dnabert)
    } else if tensors.contains_key("encoder.layer.0.attention.self.query.weight")
        && tensors.contains_key("encoder.emb_layer_norm_after.weight")
    {
        Some(ModelKind::Esm2)
    } else {
        None
    }
}

/// Refuses an ESM-1b or ESM-1v, which under fair-esm's names has the tensors of an ESM-2 and a table
/// of learned positions. Hugging Face's files of ESM-2 hold such a table as well, and do not use it;
/// fair-esm's do not hold one.
fn refuse_esm1(
    tensors: &Tensors,
    settings: &FairEsmSettings,
    path: &Path,
) -> Result<(), WeightsError> {
    let any = |test: fn(&str) -> bool| tensors.keys().any(|name| test(name));
    let positions = any(|name| name.starts_with("embeddings.position_embeddings."));
    let norm_before = any(|name| name.starts_with("emb_layer_norm_before"));
    // The name of the architecture alone says little: it is a setting of the training script.
    let arch = settings.arch.as_deref();
    let by_arch = arch == Some("roberta_large") && !any(|name| name.ends_with("inv_freq"));
    if !positions && !norm_before && !by_arch {
        return Ok(());
    }
    let signs = match (positions, norm_before) {
        (true, _) => "learned absolute positions",
        (_, true) => "a LayerNorm before the layers",
        _ => "no rotary positions",
    };
    let arch = arch.map_or_else(String::new, |arch| format!(", arch {}", Shown(arch)));
    let what = format!(
        "this is an ESM-1b or ESM-1v ({signs}{arch}); of these models only ESM-2 is computed"
    );
    Err(config_error(path, what, foreign::GIVE_ANOTHER))
}

/// Names the model in an error about tensors or config.json, where the tensors show which it is.
pub(super) fn named<'a>(
    error: WeightsError,
    all: impl Iterator<Item = &'a Located>,
    root: &Path,
) -> WeightsError {
    let tensors: Vec<(&str, &[usize])> = all
        .map(|t| (t.stored.name.as_str(), t.stored.shape.as_slice()))
        .collect();
    let Some(name) = foreign::by_tensors(&tensors) else {
        return error;
    };
    match error {
        WeightsError::Config { path, what, .. } if !what.contains("this is ") => {
            let what = format!("{what}; by its tensors this is {name}, which is not computed here");
            config_error(&path, what, foreign::GIVE_ANOTHER)
        }
        WeightsError::Missing { .. } | WeightsError::Extra { .. } | WeightsError::Shape { .. } => {
            let what = format!("by its tensors this is {name}, which is not computed here");
            config_error(root, what, foreign::GIVE_ANOTHER)
        }
        error => error,
    }
}

/// The error for tensors that show no architecture.
fn unknown(tensors: &Tensors, beside: &[Located], path: &Path) -> WeightsError {
    let names = beside.iter().map(|t| t.stored.name.as_str());
    let first = tensors.keys().map(String::as_str).chain(names).min();
    let what = format!(
        "these {} tensors are neither an ESM-2's nor a DNABERT-S's or DNABERT-2's (the first is {})",
        tensors.len() + beside.len(),
        Shown(first.unwrap_or("none"))
    );
    config_error(path, what, foreign::GIVE_ANOTHER)
}

fn infer(
    tensors: &Tensors,
    kind: ModelKind,
    settings: &FairEsmSettings,
    path: &Path,
) -> Result<ModelConfig, WeightsError> {
    let shape = |name: &str, dimensions: usize| match tensors
        .get(name)
        .map(|t| t.stored.shape.as_slice())
    {
        Some(shape) if shape.len() == dimensions => Ok(shape),
        Some(shape) => {
            let what = format!(
                "tensor {} has shape {}, where {dimensions} dimensions are expected",
                Shown(name),
                shown::shape(shape)
            );
            Err(config_error(path, what, GIVE_CONFIG))
        }
        None => Err(config_error(
            path,
            format!("without config.json, tensor {name} is needed to tell the sizes"),
            GIVE_CONFIG,
        )),
    };
    let embedding = shape("embeddings.word_embeddings.weight", 2)?;
    let (vocab, hidden) = (embedding[0], embedding[1]);
    let layers = tensors
        .keys()
        .filter_map(|name| layer_number(name))
        .max()
        .map_or(0, |n| n.saturating_add(1));
    if kind == ModelKind::Dnabert {
        let what = format!(
            "the tensors are those of a DNABERT of {layers} layers and width {hidden}, but its number of \
             attention heads shows in no tensor"
        );
        return Err(config_error(path, what, GIVE_CONFIG));
    }

    let feed_forward = shape("encoder.layer.0.intermediate.dense.weight", 2)?[0];
    let frequencies = [layout::inv_freq_name(0), layout::SHARED_INV_FREQ.to_owned()]
        .iter()
        .find_map(|name| tensors.get(name)?.stored.shape.first().copied());
    let by_frequencies = frequencies
        // A shape may have any number here if another of its sizes is 0.
        .and_then(|n| n.checked_mul(2))
        .filter(|width| *width > 0 && hidden.is_multiple_of(*width))
        .map(|width| hidden / width);
    let heads = match (settings.heads, by_frequencies) {
        (Some(heads), Some(other)) if heads != other => {
            let what =
                format!("its settings say {heads} attention heads, its rotary frequencies {other}");
            return Err(config_error(
                path,
                what,
                "the file is damaged; download it again",
            ));
        }
        (Some(heads), _) | (None, Some(heads)) => heads,
        (None, None) => {
            let what =
                "the number of attention heads shows neither in settings nor in rotary frequencies";
            return Err(config_error(path, what, GIVE_CONFIG));
        }
    };
    for (name, said, found) in [
        ("layers", settings.layers, layers),
        ("embed_dim", settings.hidden, hidden),
    ] {
        if said.is_some_and(|said| said != found) {
            let what = format!(
                "its settings say encoder_{name} {}, its tensors {found}",
                said.unwrap_or(0)
            );
            return Err(config_error(
                path,
                what,
                "the file is damaged; download it again",
            ));
        }
    }
    let mut config = ModelConfig::esm2(layers, hidden, heads);
    config.intermediate = feed_forward;
    config.vocab = vocab;
    config.token_dropout = settings.token_dropout.unwrap_or(true);
    Ok(config)
}

fn layer_number(name: &str) -> Option<usize> {
    name.strip_prefix("encoder.layer.")?
        .split_once('.')?
        .0
        .parse()
        .ok()
}

/// Checks the tensors against the architecture: every needed tensor is there, in its shape and in a
/// usable format, and there is no tensor without a place. `file` gives the file of a tensor; errors
/// about missing tensors name `root`. `misplaced` are tensors of the model's names that stand beside
/// it.
pub(super) fn check(
    config: &ModelConfig,
    tensors: &Tensors,
    misplaced: &[Located],
    file: impl Fn(&Located) -> std::path::PathBuf,
    root: &Path,
) -> Result<(), WeightsError> {
    let mut expected: BTreeMap<String, Expected> = layout::expected(config)
        .into_iter()
        .map(|e| (e.name.clone(), e))
        .collect();
    if let Some(one) = expected.get(&layout::inv_freq_name(0)) {
        let shared = Expected {
            name: layout::SHARED_INV_FREQ.into(),
            ..one.clone()
        };
        expected.insert(shared.name.clone(), shared);
    }

    let misshapen: Vec<(&Expected, &Located)> = expected
        .values()
        .filter_map(|e| tensors.get(&e.name).map(|t| (e, t)))
        .filter(|(e, t)| !e.fits(&t.stored.shape))
        .collect();
    if let Some((e, t)) = misshapen.first() {
        return Err(WeightsError::Shape {
            tensor: t.stored.name.clone(),
            path: file(t),
            found: t.stored.shape.clone(),
            expected: e.shape.clone(),
            more: misshapen.len() - 1,
        });
    }
    let missing: Vec<&Expected> = expected
        .values()
        .filter(|e| e.need == Need::Required && !tensors.contains_key(&e.name))
        .collect();
    if let Some(e) = missing.first() {
        return Err(WeightsError::Missing {
            tensor: e.name.clone(),
            path: root.to_owned(),
            expected: e.shape.clone(),
            more: missing.len() - 1,
        });
    }
    let extra: Vec<&Located> = tensors
        .iter()
        .filter(|(name, _)| !expected.contains_key(*name) && !layout::is_known_and_ignored(name))
        .map(|(_, t)| t)
        .chain(misplaced)
        .collect();
    if let Some(t) = extra.first() {
        return Err(WeightsError::Extra {
            tensor: t.stored.name.clone(),
            path: file(t),
            found: t.stored.shape.clone(),
            model: format!(
                "{} of {} layers and width {}",
                config.kind, config.layers, config.hidden
            ),
            more: extra.len() - 1,
        });
    }
    for e in expected.values().filter(|e| e.need != Need::Unused) {
        if let Some(t) = tensors.get(&e.name) {
            usable(t, &file(t))?;
        }
    }
    Ok(())
}

/// Checks that a tensor can be read at all.
pub(super) fn usable(t: &Located, path: &Path) -> Result<(), WeightsError> {
    let (what, hint) = match (&t.stored.dtype, &t.stored.place) {
        (StoredDType::Other(..), _) => (
            format!(
                "is stored in {}, and only f32, f16 and bf16 are read",
                t.stored.dtype
            ),
            "load the model in PyTorch, convert it with .float() and save it again",
        ),
        (_, Err(what)) => (
            what.clone(),
            "load the model in PyTorch, call .contiguous() on its tensors and save it again",
        ),
        (StoredDType::Float(_), Ok(_)) => return Ok(()),
    };
    Err(WeightsError::Unusable {
        tensor: t.stored.name.clone(),
        path: path.to_owned(),
        what,
        hint: hint.into(),
    })
}
