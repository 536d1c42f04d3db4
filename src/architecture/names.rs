//! Translates the names in files to canonical names: Hugging Face's names without `esm.` or
//! `bert.`, and without what wrappers put before them.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::layout::SHARED_INV_FREQ;

/// A set of names that tensors are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Hugging Face's names.
    HuggingFace,
    /// fair-esm's names.
    FairEsm,
}

/// How the tensors of a checkpoint are named: by which scheme, and what stands before the names of
/// the model's own tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Naming {
    /// The scheme of the names.
    pub scheme: Scheme,
    /// Stands before every name of the model itself, such as `module.esm.`.
    prefix: String,
    /// How many bytes of the prefix wrappers have put there, such as those of `module.`. The rest
    /// belongs to the scheme (`esm.`, `bert.`, `encoder.sentence_encoder.`).
    wrapper: usize,
}

/// Where a tensor belongs, by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Position {
    /// In the model itself, under this canonical name.
    Inside(String),
    /// Beside the model, as a head for a task is. The name is canonical as far as it has a
    /// translation.
    Beside(String),
}

/// Two models in one checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TwoModels {
    /// Stands before the names of one model.
    pub first: String,
    /// Stands before the names of another one.
    pub second: String,
}

impl Naming {
    /// Detects the scheme and the prefix. The embedding table and the tensors of the layers show
    /// them: both must have the same prefix.
    ///
    /// # Errors
    /// [`TwoModels`] if the names are those of several models.
    pub fn of<'a>(names: impl Iterator<Item = &'a str>) -> Result<Self, TwoModels> {
        // For each scheme: the prefixes of the tables, and those of the layers.
        let (mut tables, mut layers) = <([BTreeSet<String>; 2], [BTreeSet<String>; 2])>::default();
        for name in names {
            let name = unwrapped(name);
            for (n, table) in ["embeddings.word_embeddings.weight", "embed_tokens.weight"]
                .into_iter()
                .enumerate()
            {
                if let Some(prefix) = before(&name, table) {
                    tables[n].insert(prefix.to_owned());
                }
            }
            if let Some(prefix) = before_layer(&name, "encoder.layer.") {
                layers[0].insert(prefix.to_owned());
            }
            let norm = name.ends_with(".self_attn_layer_norm.weight");
            if norm && let Some(prefix) = before_layer(&name, "layers.") {
                layers[1].insert(prefix.to_owned());
            }
        }
        for (n, scheme) in [Scheme::HuggingFace, Scheme::FairEsm]
            .into_iter()
            .enumerate()
        {
            // Tables without layers are some other part, and so are layers without a table unless
            // there is no table at all.
            let whole: Vec<&String> = tables[n].intersection(&layers[n]).collect();
            let one = match (whole.as_slice(), layers[n].first(), layers[n].len()) {
                ([first, second, ..], _, _) => {
                    return Err(TwoModels {
                        first: (*first).clone(),
                        second: (*second).clone(),
                    });
                }
                ([only], _, _) => Some(*only),
                ([], Some(only), 1) => Some(only),
                ([], _, _) => None,
            };
            if let Some(prefix) = one {
                return Ok(Self::with(scheme, prefix));
            }
        }
        Ok(Self::with(Scheme::HuggingFace, ""))
    }

    fn with(scheme: Scheme, prefix: &str) -> Self {
        let own: &[&str] = match scheme {
            Scheme::HuggingFace => &["esm.", "bert."],
            Scheme::FairEsm => &["encoder.sentence_encoder.", "encoder."],
        };
        let own = own.iter().find(|own| before(prefix, own).is_some());
        Self {
            scheme,
            prefix: prefix.to_owned(),
            wrapper: prefix.len() - own.map_or(0, |own| own.len()),
        }
    }

    /// What stands before every name of the model itself.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Tells where a tensor belongs. A name that has no translation stays as it is, and the check
    /// against the architecture then finds no place for it.
    pub fn position(&self, name: &str) -> Position {
        let name = unwrapped(name);
        // Where nothing of the scheme stands before the names, a head begins like the model.
        let marked = self.wrapper < self.prefix.len();
        if let Some(stem) = name.strip_prefix(&self.prefix)
            && (marked || self.is_of_the_trunk(stem))
        {
            return Position::Inside(self.canonical(stem));
        }
        let wrapper = self.prefix.get(..self.wrapper).unwrap_or_default();
        let rest = name.strip_prefix(wrapper).unwrap_or(&name);
        let own: &[&str] = match self.scheme {
            Scheme::HuggingFace => &["esm.", "bert."],
            Scheme::FairEsm => &["encoder.sentence_encoder.", "encoder."],
        };
        let stem = own.iter().find_map(|own| rest.strip_prefix(own));
        Position::Beside(self.canonical(stem.unwrap_or(rest)))
    }

    /// Returns whether a name without its prefix belongs to the embedding or the layers, or to what
    /// might stand between them.
    fn is_of_the_trunk(&self, stem: &str) -> bool {
        let starts: &[&str] = match self.scheme {
            Scheme::HuggingFace => &["embeddings.", "encoder.", "rotary_embeddings."],
            Scheme::FairEsm => &["embed_", "layers.", "emb_layer_norm"],
        };
        starts.iter().any(|start| stem.starts_with(start))
    }

    fn canonical(&self, stem: &str) -> String {
        match self.scheme {
            Scheme::HuggingFace => from_hugging_face(stem),
            Scheme::FairEsm => from_fair_esm(stem),
        }
    }
}

/// Returns whether a canonical name is one of the embedding or of the layers, or looks like one. A
/// tensor of such a name that stands beside a model may be a part of it that lost its prefix.
pub fn is_of_the_layers(canonical: &str) -> bool {
    ["encoder.layer.", "encoder.emb_layer_norm", "embeddings."]
        .iter()
        .any(|start| canonical.starts_with(start))
}

/// Removes the parts of a name that PyTorch's wrappers put anywhere in it: `torch.compile`, FSDP
/// and activation checkpointing.
fn unwrapped(name: &str) -> Cow<'_, str> {
    const WRAPPERS: [&str; 3] = [
        "_orig_mod",
        "_fsdp_wrapped_module",
        "_checkpoint_wrapped_module",
    ];
    if !WRAPPERS.iter().any(|w| name.contains(w)) {
        return Cow::Borrowed(name);
    }
    let parts = name.split('.').filter(|part| !WRAPPERS.contains(part));
    Cow::Owned(parts.collect::<Vec<_>>().join("."))
}

/// What stands before `end`, if the name ends so: nothing, or whole parts with their dot.
fn before<'a>(name: &'a str, end: &str) -> Option<&'a str> {
    let prefix = name.strip_suffix(end)?;
    (prefix.is_empty() || prefix.ends_with('.')).then_some(prefix)
}

/// What stands before a layer's number and `layer`, where the name has both.
fn before_layer<'a>(name: &'a str, layer: &str) -> Option<&'a str> {
    let (at, _) = name
        .match_indices(layer)
        .find(|(at, _)| *at == 0 || name.as_bytes().get(at - 1) == Some(&b'.'))?;
    let (number, _) = name.get(at + layer.len()..)?.split_once('.')?;
    let is_number = number == "*" || number.bytes().all(|b| b.is_ascii_digit());
    (is_number && !number.is_empty()).then(|| &name[..at])
}

/// Undoes the changes that some releases of transformers make to names on saving: LayerNorm's gain
/// and shift get the names of BERT's first code, and rotary frequencies that all layers share get a
/// name with `*` as the layer (in 5.x).
fn from_hugging_face(stem: &str) -> String {
    if stem == "encoder.layer.*.attention.self.rotary_embeddings.inv_freq" {
        return SHARED_INV_FREQ.to_owned();
    }
    for (from, to) in [
        (".LayerNorm.gamma", ".LayerNorm.weight"),
        (".LayerNorm.beta", ".LayerNorm.bias"),
    ] {
        if let Some(start) = stem.strip_suffix(from) {
            return format!("{start}{to}");
        }
    }
    stem.to_owned()
}

fn from_fair_esm(stem: &str) -> String {
    const LAYER: [(&str, &str); 9] = [
        ("self_attn.q_proj.", "attention.self.query."),
        ("self_attn.k_proj.", "attention.self.key."),
        ("self_attn.v_proj.", "attention.self.value."),
        ("self_attn.out_proj.", "attention.output.dense."),
        ("self_attn.rot_emb.", "attention.self.rotary_embeddings."),
        ("self_attn_layer_norm.", "attention.LayerNorm."),
        ("fc1.", "intermediate.dense."),
        ("fc2.", "output.dense."),
        ("final_layer_norm.", "LayerNorm."),
    ];
    const WHOLE: [(&str, &str); 4] = [
        ("embed_tokens.", "embeddings.word_embeddings."),
        ("embed_positions.", "embeddings.position_embeddings."),
        ("emb_layer_norm_after.", "encoder.emb_layer_norm_after."),
        ("lm_head.weight", "lm_head.decoder.weight"),
    ];
    let renamed = |table: &[(&str, &str)], name: &str| {
        table
            .iter()
            .find_map(|(from, to)| name.strip_prefix(from).map(|rest| format!("{to}{rest}")))
    };
    if let Some((number, rest)) = stem.strip_prefix("layers.").and_then(|s| s.split_once('.'))
        && let Some(rest) = renamed(&LAYER, rest)
    {
        return format!("encoder.layer.{number}.{rest}");
    }
    renamed(&WHOLE, stem).unwrap_or_else(|| stem.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naming(names: &[&str]) -> Naming {
        Naming::of(names.iter().copied()).unwrap()
    }

    fn inside(name: &str) -> Position {
        Position::Inside(name.to_owned())
    }

    fn beside(name: &str) -> Position {
        Position::Beside(name.to_owned())
    }

    #[test]
    fn fair_esm_names_become_hugging_faces() {
        for prefix in [
            "",
            "encoder.",
            "encoder.sentence_encoder.",
            "model.encoder.",
            "module.",
        ] {
            let name = |name: &str| format!("{prefix}{name}");
            let names = [
                name("embed_tokens.weight"),
                name("layers.0.self_attn_layer_norm.weight"),
            ];
            let naming = Naming::of(names.iter().map(String::as_str)).unwrap();
            assert_eq!((naming.scheme, naming.prefix()), (Scheme::FairEsm, prefix));
            for (from, to) in [
                ("embed_tokens.weight", "embeddings.word_embeddings.weight"),
                (
                    "embed_positions.weight",
                    "embeddings.position_embeddings.weight",
                ),
                (
                    "layers.7.self_attn.q_proj.bias",
                    "encoder.layer.7.attention.self.query.bias",
                ),
                (
                    "layers.0.self_attn.rot_emb.inv_freq",
                    "encoder.layer.0.attention.self.rotary_embeddings.inv_freq",
                ),
                (
                    "layers.11.self_attn_layer_norm.weight",
                    "encoder.layer.11.attention.LayerNorm.weight",
                ),
                (
                    "layers.11.final_layer_norm.weight",
                    "encoder.layer.11.LayerNorm.weight",
                ),
                (
                    "layers.1.fc1.weight",
                    "encoder.layer.1.intermediate.dense.weight",
                ),
                (
                    "emb_layer_norm_after.bias",
                    "encoder.emb_layer_norm_after.bias",
                ),
                ("emb_layer_norm_before.bias", "emb_layer_norm_before.bias"),
                ("layers.1.self_attn.bias_k", "layers.1.self_attn.bias_k"),
            ] {
                assert_eq!(naming.position(&name(from)), inside(to), "{prefix}");
            }
        }
        let naming = naming(&[
            "encoder.sentence_encoder.embed_tokens.weight",
            "encoder.sentence_encoder.layers.0.self_attn_layer_norm.weight",
        ]);
        for (from, to) in [
            ("encoder.lm_head.weight", "lm_head.decoder.weight"),
            ("encoder.lm_head.layer_norm.bias", "lm_head.layer_norm.bias"),
            (
                "contact_head.regression.weight",
                "contact_head.regression.weight",
            ),
        ] {
            assert_eq!(naming.position(from), beside(to));
        }
    }

    #[test]
    fn what_wrappers_put_before_names_is_cut_off() {
        for (prefix, wrapper) in [
            ("", ""),
            ("esm.", ""),
            ("bert.", ""),
            ("module.", "module."),
            ("module.esm.", "module."),
            (
                "module.model._orig_mod.backbone.esm.",
                "module.model.backbone.",
            ),
            ("_fsdp_wrapped_module.esm.", ""),
            ("encoder.", "encoder."),
            ("student.encoder.bert.", "student.encoder."),
        ] {
            let name = |name: &str| format!("{prefix}{name}");
            let names = [
                name("embeddings.word_embeddings.weight"),
                name("encoder.layer.0._checkpoint_wrapped_module.attention.self.query.weight"),
                format!("{wrapper}head.weight"),
            ];
            let naming = Naming::of(names.iter().map(String::as_str)).unwrap();
            assert_eq!(naming.scheme, Scheme::HuggingFace);
            let canonical = "encoder.layer.0.attention.self.query.weight";
            assert_eq!(naming.position(&names[1]), inside(canonical), "{prefix}");
            assert_eq!(
                naming.position(&names[2]),
                beside("head.weight"),
                "{prefix}"
            );
            let head = format!("{wrapper}lm_head.bias");
            assert_eq!(naming.position(&head), beside("lm_head.bias"), "{prefix}");
            assert_eq!(
                naming.position("lm_head.bias"),
                beside("lm_head.bias"),
                "{prefix}"
            );
        }
        // A name that only looks wrapped stays as it is.
        let naming = naming(&["my_orig_mod.encoder.layer.0.x"]);
        assert_eq!(naming.prefix(), "my_orig_mod.");
        assert_eq!(
            naming.position("my_orig_mod.encoder.layer.1.y"),
            inside("encoder.layer.1.y")
        );
    }

    #[test]
    fn tensors_beside_the_model() {
        let esm = naming(&[
            "esm.embeddings.word_embeddings.weight",
            "esm.encoder.layer.0.x",
        ]);
        assert_eq!(
            esm.position("esm.regressor.weight"),
            inside("regressor.weight")
        );
        assert_eq!(esm.position("regressor.weight"), beside("regressor.weight"));
        assert_eq!(
            esm.position("encoder.layer.0.x"),
            beside("encoder.layer.0.x")
        );
        let bare = naming(&["embeddings.word_embeddings.weight", "encoder.layer.0.x"]);
        assert_eq!(
            bare.position("regressor.weight"),
            beside("regressor.weight")
        );
        assert_eq!(
            bare.position("embeddings.LayerNorm.bias"),
            inside("embeddings.LayerNorm.bias")
        );
        assert_eq!(
            bare.position("esm.encoder.layer.2.x"),
            beside("encoder.layer.2.x")
        );
        // A part with a table and no layers is no second model.
        let with = naming(&[
            "head.embeddings.word_embeddings.weight",
            "esm.embeddings.word_embeddings.weight",
            "esm.encoder.layer.0.x",
        ]);
        assert_eq!(with.prefix(), "esm.");
        // Without a table the layers show the prefix, so that the table is missed by its name.
        assert_eq!(
            naming(&["module.esm.encoder.layer.10.x"]).prefix(),
            "module.esm."
        );
    }

    #[test]
    fn two_models_are_not_mixed() {
        let names = ["student.", "teacher.esm."].map(|prefix| {
            [
                format!("{prefix}embeddings.word_embeddings.weight"),
                format!("{prefix}encoder.layer.0.x"),
            ]
        });
        let names = names.as_flattened();
        let two = Naming::of(names.iter().map(String::as_str)).unwrap_err();
        assert_eq!(
            (two.first.as_str(), two.second.as_str()),
            ("student.", "teacher.esm.")
        );
    }

    #[test]
    fn a_language_model_with_similar_names_is_not_fair_esms() {
        let llama = naming(&[
            "model.embed_tokens.weight",
            "model.layers.0.self_attn.q_proj.weight",
            "model.layers.0.input_layernorm.weight",
        ]);
        assert_eq!((llama.scheme, llama.prefix()), (Scheme::HuggingFace, ""));
    }

    #[test]
    fn names_that_transformers_changes_on_saving() {
        let naming = naming(&["esm.encoder.layer.0.x"]);
        for (from, to) in [
            (
                "esm.encoder.layer.3.LayerNorm.gamma",
                "encoder.layer.3.LayerNorm.weight",
            ),
            (
                "esm.encoder.layer.3.attention.LayerNorm.beta",
                "encoder.layer.3.attention.LayerNorm.bias",
            ),
            (
                "esm.encoder.layer.*.attention.self.rotary_embeddings.inv_freq",
                "rotary_embeddings.inv_freq",
            ),
        ] {
            assert_eq!(naming.position(from), inside(to));
        }
    }
}
