//! Tells which model or which packaging a set of tensors is, where it is none that is computed
//! here.
//!
//! The tables below are facts about what others publish. They choose no architecture: they give an
//! error its name and its remedy. `docs/models.md` has the list for users.

/// A model that is not computed, or a packaging from which nothing is computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    /// What it is, as the rest of a sentence that begins with "this is".
    pub name: &'static str,
    /// What the user can do about it.
    pub hint: &'static str,
    /// Whether it is an adapter, which may also be stored without its model.
    pub adapter: bool,
}

/// The remedy where there is only another model.
pub const GIVE_ANOTHER: &str =
    "give an ESM-2, DNABERT-S or DNABERT-2 model; docs/models.md lists what is read";

/// The remedy for adapters that are not merged.
pub const MERGE: &str = "merge it into its model in Python: PeftModel.from_pretrained(model, adapter).merge_and_unload()\
     .save_pretrained(folder), and give that folder";
const SAVE_MERGED: &str = "merge it with model.merge_and_unload(), save that with save_pretrained(folder), and give that folder";
const SAVE_FLOAT: &str = "give the model as it was before it was quantized, in f32, f16 or bf16";

/// Parts of a tensor's name that tell of a change inside a model, whose other tensors may look
/// whole: nothing is computed without undoing the change.
const CHANGES: [(&str, &str, &str); 26] = [
    (
        ".lora_",
        "a model with a LoRA adapter that is not merged",
        SAVE_MERGED,
    ),
    (
        ".base_layer.",
        "a model with an adapter that is not merged",
        SAVE_MERGED,
    ),
    (
        ".hada_w1",
        "a model with a LoHa adapter that is not merged",
        SAVE_MERGED,
    ),
    (
        ".lokr_w",
        "a model with a LoKr adapter that is not merged",
        SAVE_MERGED,
    ),
    (
        ".ia3_l",
        "a model with an IA3 adapter that is not merged",
        SAVE_MERGED,
    ),
    (
        ".oft_",
        "a model with an OFT adapter that is not merged",
        SAVE_MERGED,
    ),
    (
        ".boft_",
        "a model with a BOFT adapter that is not merged",
        SAVE_MERGED,
    ),
    (
        ".vera_lambda",
        "a model with a VeRA adapter that is not merged",
        SAVE_MERGED,
    ),
    (
        ".modules_to_save.",
        "a model with an adapter that is not merged",
        SAVE_MERGED,
    ),
    (
        ".original_module.",
        "a model with an adapter that is not merged",
        SAVE_MERGED,
    ),
    (
        ".adapter",
        "a model with adapter layers, which are not computed here",
        "give the model without adapters, or one that was trained as a whole",
    ),
    (
        "prefix_tuning",
        "a model with trained prefixes, which are not computed here",
        "give the model without them, or one that was trained as a whole",
    ),
    (
        ".SCB",
        "a model quantized to int8 by bitsandbytes",
        SAVE_FLOAT,
    ),
    (
        ".weight_format",
        "a model quantized to int8 by bitsandbytes",
        SAVE_FLOAT,
    ),
    (
        ".absmax",
        "a model quantized to 4 bits by bitsandbytes",
        SAVE_FLOAT,
    ),
    (
        ".quant_map",
        "a model quantized to 4 bits by bitsandbytes",
        SAVE_FLOAT,
    ),
    (
        ".quant_state",
        "a model quantized to 4 bits by bitsandbytes",
        SAVE_FLOAT,
    ),
    (".qweight", "a model quantized by GPTQ or AWQ", SAVE_FLOAT),
    (".qzeros", "a model quantized by GPTQ or AWQ", SAVE_FLOAT),
    (
        "_packed_params",
        "a model quantized by torch.quantization",
        SAVE_FLOAT,
    ),
    (
        ".zero_point",
        "a model quantized by torch.quantization",
        SAVE_FLOAT,
    ),
    (
        ".weight_scale",
        "a model quantized to 8 bits or fewer",
        SAVE_FLOAT,
    ),
    (".weight._data", "a model quantized by quanto", SAVE_FLOAT),
    (
        ".parametrizations.",
        "a model with parametrized weights",
        "call torch.nn.utils.parametrize.remove_parametrizations on its layers and save it again",
    ),
    (
        ".weight_orig",
        "a pruned model whose masks are not applied, or one with spectral normalization",
        "call torch.nn.utils.prune.remove (or remove_spectral_norm) on its layers and save it again",
    ),
    (
        ".weight_g",
        "a model with weight normalization",
        "call torch.nn.utils.remove_weight_norm on its layers and save it again",
    ),
];

/// The change that the name of a tensor inside a model tells of, if any.
pub fn change(name: &str) -> Option<Foreign> {
    let (_, name, hint) = CHANGES.iter().find(|(part, ..)| name.contains(part))?;
    let adapter = *hint == SAVE_MERGED;
    Some(Foreign {
        name,
        hint,
        adapter,
    })
}

/// What the `model_type` of a config.json stands for, where it is another model's. In lower case.
const MODEL_TYPES: [(&str, &str); 30] = [
    ("t5", "a T5, such as ProtT5, ProstT5 or Ankh"),
    ("mt5", "a T5"),
    (
        "bert",
        "a plain BERT, such as ProtBert or the first DNABERT",
    ),
    ("albert", "an ALBERT, such as ProtAlbert"),
    ("electra", "an ELECTRA, such as ProtElectra"),
    ("xlnet", "an XLNet, such as ProtXLNet"),
    ("roberta", "a RoBERTa"),
    ("roformer", "a RoFormer, such as AntiBERTa 2"),
    ("convbert", "a ConvBERT"),
    ("distilbert", "a DistilBERT"),
    ("deberta-v2", "a DeBERTa"),
    ("modernbert", "a ModernBERT"),
    ("big_bird", "a BigBird, such as one of GENA-LM"),
    ("megatron-bert", "a Megatron-BERT"),
    ("esmc", "an ESM C"),
    ("esmplusplus", "an ESM C (ESM++)"),
    ("esm3", "an ESM-3"),
    ("hyenadna", "a HyenaDNA"),
    ("caduceus", "a Caduceus"),
    ("mamba", "a Mamba"),
    ("mamba2", "a Mamba"),
    ("stripedhyena", "an Evo"),
    ("evo2", "an Evo 2"),
    ("progen", "a ProGen"),
    ("gpt2", "a GPT-2, such as ProtGPT2"),
    ("llama", "a Llama, such as GENERator"),
    ("mistral", "a Mistral"),
    ("mixtral", "a Mixtral"),
    ("amplify", "an AMPLIFY"),
    (
        "nv_esm",
        "an ESM-2 in the layout of NVIDIA's Transformer Engine",
    ),
];

/// Names the model that a `model_type` stands for, as the rest of "this is".
pub fn by_model_type(model_type: &str) -> Option<&'static str> {
    let lower = model_type.to_ascii_lowercase();
    let found = MODEL_TYPES.iter().find(|(known, _)| *known == lower);
    found.map(|(_, name)| *name)
}

/// Models by parts of their tensors' names: all parts of the list must occur, each in some name.
const TENSORS: [(&[&str], &str); 26] = [
    (
        &["row_self_attention"],
        "an MSA Transformer (it reads alignments)",
    ),
    (&["geom_attn"], "an ESM-3"),
    (&["transformer.blocks.", "layernorm_qkv"], "an ESM C"),
    (&["trunk.structure_module"], "an ESMFold"),
    (&["gvp"], "an ESM-IF1"),
    (&["self_attn.bias_k"], "an ESM-1 of 2019"),
    (
        &["layernorm_mlp.fc1_weight"],
        "an ESM-2 in the layout of NVIDIA's Transformer Engine",
    ),
    (
        &["SelfAttention.q.weight"],
        "a T5, such as ProtT5, ProstT5 or Ankh",
    ),
    (&["mixer.filter_fn"], "a HyenaDNA"),
    (&["mixer.hyena_filter"], "a HyenaDNA"),
    (&["A_log"], "a Mamba, such as Caduceus"),
    (&["blocks.0.filter."], "an Evo"),
    (&["albert_layer_groups"], "an ALBERT, such as ProtAlbert"),
    (&["rel_attn"], "an XLNet, such as ProtXLNet"),
    (
        &["electra.", "attention.self.query"],
        "an ELECTRA, such as ProtElectra",
    ),
    (&["roberta.", "attention.self.query"], "a RoBERTa"),
    (&["pre_attention_ln"], "a GENA-LM"),
    (&["mlp.gated_layers", "attention.self.query"], "a JinaBERT"),
    (&["attn.c_attn"], "a GPT-2, such as ProtGPT2"),
    (&["attn.qkv_proj"], "a ProGen"),
    (
        &["self_attn.q_proj", "mlp.gate_proj"],
        "a Llama or a model built like it",
    ),
    (&["attn.Wqkv", "mlp.Wi"], "a ModernBERT"),
    (&["transformer_encoder.", "ffn."], "an AMPLIFY"),
    (&["attention.self.query_proj"], "a DeBERTa"),
    (
        &["embeddings.layer_norm.", "attention.self.query"],
        "an ESM-1b",
    ),
    (
        &["decoder.embed_positions", "decoder.layers.", "fc1"],
        "an OPT or a BART",
    ),
];

/// Names the model that has these tensors, by name and shape, where it is known and not computed.
/// Only tensors of which the architecture could not be made are to be asked about: an ESM-2 with a
/// part of another model beside it is an ESM-2.
pub fn by_tensors(tensors: &[(&str, &[usize])]) -> Option<&'static str> {
    let has = |part: &str| tensors.iter().any(|(name, _)| name.contains(part));
    let shape = |end: &str| {
        let found = tensors.iter().find(|(name, _)| name.ends_with(end));
        found.map(|(_, shape)| *shape)
    };
    let rows = shape("embeddings.word_embeddings.weight").and_then(|shape| shape.first().copied());
    let is_esm = has("attention.self.query.weight") && has("emb_layer_norm_after");
    if is_esm && let Some(name) = rows.and_then(by_vocabulary) {
        return Some(name);
    }
    // Two gates in one matrix, and no bias in any layer.
    if let Some([gated, _]) = shape("encoder.layer.0.intermediate.dense.weight")
        && let Some([_, inner]) = shape("encoder.layer.0.output.dense.weight")
        && inner.checked_mul(2) == Some(*gated)
        && !has("intermediate.dense.bias")
    {
        return Some("a Nucleotide Transformer v2");
    }
    let found = TENSORS
        .iter()
        .find(|(parts, _)| parts.iter().all(|part| has(part)));
    if let Some((_, name)) = found {
        return Some(name);
    }
    let is_bert = has("attention.self.query.weight") && has("embeddings.LayerNorm.");
    is_bert.then_some(match rows {
        Some(30) => "a ProtBert (a plain BERT of 30 tokens)",
        Some(69 | 261 | 1029 | 4101) => "a first DNABERT (a plain BERT of k-mers)",
        _ => "a plain BERT",
    })
}

/// Names the model that is built like an ESM and has this many tokens, where it is known.
pub fn by_vocabulary(tokens: usize) -> Option<&'static str> {
    match tokens {
        446 => Some("a SaProt (its 446 tokens are pairs of a residue and a structure)"),
        4105 | 4107 => Some("a Nucleotide Transformer (its tokens are 6-mers of DNA)"),
        8229 => Some("a DPLM-2 (its tokens are residues and structures)"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::{ModelConfig, layout};

    #[test]
    fn our_own_models_have_no_foreign_sign() {
        for config in [ModelConfig::esm2(2, 32, 4), ModelConfig::dnabert(2, 32, 4)] {
            let expected = layout::expected(&config);
            let tensors: Vec<(&str, &[usize])> = expected
                .iter()
                .map(|e| (e.name.as_str(), e.shape.as_slice()))
                .collect();
            assert_eq!(by_tensors(&tensors), None);
            // An incomplete file is missing a tensor, and no other model.
            for at in 0..tensors.len() {
                let mut fewer = tensors.clone();
                fewer.remove(at);
                assert_eq!(by_tensors(&fewer), None, "without {}", tensors[at].0);
            }
            for (name, _) in tensors {
                assert_eq!(change(name), None, "{name}");
            }
        }
        assert_eq!(by_model_type("esm"), None);
    }

    #[test]
    fn names_are_told_by_type_and_by_size() {
        assert!(by_model_type("T5").is_some_and(|name| name.contains("ProtT5")));
        assert!(by_model_type("ESMplusplus").is_some_and(|name| name.contains("ESM C")));
        assert_eq!(by_model_type("pear"), None);
        assert!(by_vocabulary(446).is_some_and(|name| name.contains("SaProt")));
        assert_eq!(by_vocabulary(33), None);
    }

    #[test]
    fn a_bert_is_told_by_its_vocabulary() {
        let bert = |rows| {
            let shape = [rows, 8];
            by_tensors(&[
                ("bert.embeddings.word_embeddings.weight", &shape),
                ("bert.embeddings.LayerNorm.weight", &[8]),
                ("bert.encoder.layer.0.attention.self.query.weight", &[8, 8]),
            ])
        };
        for (rows, name) in [(30, "ProtBert"), (4101, "DNABERT"), (30522, "plain BERT")] {
            assert!(
                bert(rows).is_some_and(|found| found.contains(name)),
                "{rows}"
            );
        }
    }
}
