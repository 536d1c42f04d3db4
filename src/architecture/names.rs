//! Translates the names in files to canonical names: Hugging Face's names without `esm.` or
//! `bert.`.

use super::layout::SHARED_INV_FREQ;

/// The naming scheme that a set of tensors follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// Hugging Face's names, with or without the prefix `esm.` or `bert.`.
    HuggingFace,
    /// fair-esm's names, with or without the prefix `encoder.` or `encoder.sentence_encoder.`.
    FairEsm,
}

impl Naming {
    /// Detects the naming scheme: only fair-esm calls its embedding `embed_tokens`.
    pub fn of<'a>(mut names: impl Iterator<Item = &'a str>) -> Self {
        match names.any(|name| fair_esm_stem(name) == "embed_tokens.weight") {
            true => Naming::FairEsm,
            false => Naming::HuggingFace,
        }
    }

    /// The canonical name of a tensor. A name that has no translation stays as it is, and the check
    /// against the architecture then finds no place for it.
    pub fn canonical(self, name: &str) -> String {
        match self {
            Naming::HuggingFace => {
                let stem = name
                    .strip_prefix("esm.")
                    .or_else(|| name.strip_prefix("bert."));
                from_hugging_face(stem.unwrap_or(name))
            }
            Naming::FairEsm => from_fair_esm(fair_esm_stem(name)),
        }
    }
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

fn fair_esm_stem(name: &str) -> &str {
    let stem = name.strip_prefix("encoder.sentence_encoder.");
    stem.or_else(|| name.strip_prefix("encoder."))
        .unwrap_or(name)
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

    #[test]
    fn fair_esm_names_become_hugging_faces() {
        let naming = Naming::of(["encoder.sentence_encoder.embed_tokens.weight"].into_iter());
        assert_eq!(naming, Naming::FairEsm);
        for (from, to) in [
            (
                "encoder.sentence_encoder.embed_tokens.weight",
                "embeddings.word_embeddings.weight",
            ),
            (
                "layers.7.self_attn.q_proj.bias",
                "encoder.layer.7.attention.self.query.bias",
            ),
            (
                "encoder.layers.0.self_attn.rot_emb.inv_freq",
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
                "encoder.emb_layer_norm_after.bias",
                "encoder.emb_layer_norm_after.bias",
            ),
            ("encoder.lm_head.weight", "lm_head.decoder.weight"),
            ("encoder.lm_head.layer_norm.bias", "lm_head.layer_norm.bias"),
            (
                "contact_head.regression.weight",
                "contact_head.regression.weight",
            ),
        ] {
            assert_eq!(naming.canonical(from), to);
        }
    }

    #[test]
    fn prefixes_are_stripped_once() {
        let naming = Naming::of(["esm.embeddings.word_embeddings.weight"].into_iter());
        assert_eq!(naming, Naming::HuggingFace);
        assert_eq!(
            naming.canonical("esm.encoder.layer.0.LayerNorm.bias"),
            "encoder.layer.0.LayerNorm.bias"
        );
        assert_eq!(
            naming.canonical("bert.pooler.dense.bias"),
            "pooler.dense.bias"
        );
        assert_eq!(
            naming.canonical("encoder.layer.0.LayerNorm.bias"),
            "encoder.layer.0.LayerNorm.bias"
        );
        assert_eq!(naming.canonical("esm.esm.x"), "esm.x");
    }

    #[test]
    fn names_that_transformers_changes_on_saving() {
        for (from, to) in [
            (
                "esm.encoder.layer.3.LayerNorm.gamma",
                "encoder.layer.3.LayerNorm.weight",
            ),
            (
                "encoder.layer.3.attention.LayerNorm.beta",
                "encoder.layer.3.attention.LayerNorm.bias",
            ),
            (
                "encoder.layer.*.attention.self.rotary_embeddings.inv_freq",
                "rotary_embeddings.inv_freq",
            ),
        ] {
            assert_eq!(Naming::HuggingFace.canonical(from), to);
        }
    }
}
