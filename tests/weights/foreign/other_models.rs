//! Other models, which are refused by their names.

use super::*;

/// A folder with a config.json and tensors of ones.
fn published(config: Value, tensors: &[(&str, &[usize])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let tensors: Vec<T> = tensors
        .iter()
        .map(|(name, shape)| T::new(name, shape))
        .collect();
    write_safetensors(&dir.path().join("model.safetensors"), &tensors);
    dir
}

#[test]
fn other_models_are_named() {
    let bert = |rows: usize| -> (Value, Vec<(&'static str, Vec<usize>)>) {
        (
            json!({"model_type": "bert", "vocab_size": rows}),
            vec![
                ("bert.embeddings.word_embeddings.weight", vec![rows, 8]),
                ("bert.embeddings.LayerNorm.weight", vec![8]),
                (
                    "bert.encoder.layer.0.attention.self.query.weight",
                    vec![8, 8],
                ),
            ],
        )
    };
    let (protbert, protbert_tensors) = bert(30);
    let (plain, plain_tensors) = bert(30522);
    let (kmers, kmers_tensors) = bert(4101);
    let of = |list: &[(&'static str, &[usize])]| -> Vec<(&'static str, Vec<usize>)> {
        list.iter()
            .map(|(name, shape)| (*name, shape.to_vec()))
            .collect()
    };
    for (config, tensors, name) in [
        (protbert, protbert_tensors, "ProtBert"),
        (plain, plain_tensors, "plain BERT"),
        (kmers, kmers_tensors, "first DNABERT"),
        (
            json!({"model_type": "t5"}),
            of(&[
                ("shared.weight", &[128, 8]),
                ("encoder.block.0.layer.0.SelfAttention.q.weight", &[8, 8]),
            ]),
            "ProtT5",
        ),
        (
            json!({"model_type": "hyenadna"}),
            of(&[
                ("backbone.embeddings.word_embeddings.weight", &[16, 8]),
                ("backbone.layers.0.mixer.filter_fn.bias", &[8]),
            ]),
            "HyenaDNA",
        ),
        (
            json!({"model_type": "ESMplusplus"}),
            of(&[
                ("embed.weight", &[64, 8]),
                ("transformer.blocks.0.attn.layernorm_qkv.1.weight", &[24, 8]),
            ]),
            "ESM C",
        ),
        (
            json!({"model_type": "esm", "position_embedding_type": "absolute"}),
            of(&[
                ("esm.embeddings.word_embeddings.weight", &[4105, 8]),
                ("esm.encoder.layer.0.attention.self.query.weight", &[8, 8]),
                ("esm.encoder.emb_layer_norm_after.weight", &[8]),
            ]),
            "Nucleotide Transformer",
        ),
        (
            json!({"model_type": "gpt2"}),
            of(&[("transformer.h.0.attn.c_attn.weight", &[8, 24])]),
            "ProtGPT2",
        ),
    ] {
        let borrowed: Vec<(&str, &[usize])> = tensors
            .iter()
            .map(|(name, shape)| (*name, shape.as_slice()))
            .collect();
        let dir = published(config, &borrowed);
        let (what, hint) = refused(dir.path());
        has(&what, &["config.json: ", name]);
        has(&hint, &["give an ESM-2, DNABERT-S or DNABERT-2 model"]);
        // The tensors alone are enough.
        fs::remove_file(dir.path().join("config.json")).unwrap();
        let (what, _) = refused(dir.path());
        has(&what, &[name, "not computed here"]);
    }
    // An MSA Transformer and an ESM C, as fair-esm and EvolutionaryScale publish them.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.pt");
    for (tensor, name) in [
        (
            "encoder.sentence_encoder.layers.0.row_self_attention.layer.q_proj.weight",
            "MSA Transformer",
        ),
        ("transformer.blocks.0.attn.layernorm_qkv.1.weight", "ESM C"),
        ("decoder.layers.0.self_attn.bias_k", "ESM-1 of 2019"),
    ] {
        torch_save(&path, &dict([("model", state(&[T::new(tensor, &[8, 8])]))]));
        has(&refused(&path).0, &["model.pt: ", name]);
    }
}

#[test]
fn a_nucleotide_transformer_v2_is_named() {
    let narrow =
        |name: &str| name.contains("intermediate.dense.bias") || name.contains("output.dense.bias");
    let mut model = Model::esm2();
    model
        .tensors
        .retain(|t| !narrow(&t.name) || t.name.contains("attention.output"));
    for t in &mut model.tensors {
        if t.name.ends_with("intermediate.dense.weight") {
            *t = T::new(&t.name, &[256, 32]);
        }
    }
    let model = model.write();
    let (what, hint) = model.refused();
    has(
        &what,
        &["by its tensors this is a Nucleotide Transformer v2, which is not computed here"],
    );
    assert!(!hint.contains("config.json"), "{hint}");
    let model = model.set("add_bias_fnn", json!(false));
    has(
        &model.refused().0,
        &[
            "config.json: add_bias_fnn is false",
            "a Nucleotide Transformer v2",
        ],
    );
}

/// A model of these tensors, `[8, 8]` each, with a config.json of this type and without one.
fn is_called(model_type: &str, names: &[&str], said: &str) {
    let tensors: Vec<(&str, &[usize])> = names.iter().map(|name| (*name, &[8, 8][..])).collect();
    let dir = published(json!({ "model_type": model_type }), &tensors);
    let with_config = refused(dir.path()).0;
    fs::remove_file(dir.path().join("config.json")).unwrap();
    for what in [with_config, refused(dir.path()).0] {
        has(&what, &[said, "not computed here"]);
    }
}

#[test]
fn every_model_that_the_page_names_is_told_by_its_tensors() {
    const QUERY: &str = "encoder.layer.0.attention.self.query.weight";
    let under = |prefix: &str| format!("{prefix}.{QUERY}");
    let (roberta, electra) = (under("roberta"), under("electra"));
    for (model_type, names, said) in [
        ("gvp_transformer", &["encoder.gvp.weight"][..], "an ESM-IF1"),
        (
            "esmfold",
            &["trunk.structure_module.ipa.linear_q.weight"],
            "an ESMFold",
        ),
        (
            "esm3",
            &["transformer.blocks.0.geom_attn.proj.weight"],
            "an ESM-3",
        ),
        (
            "nv_esm",
            &["esm.encoder.layers.0.layernorm_mlp.fc1_weight"],
            "NVIDIA's Transformer Engine",
        ),
        ("roberta", &[&roberta], "a RoBERTa"),
        (
            "albert",
            &["albert.encoder.albert_layer_groups.0.albert_layers.0.ffn.weight"],
            "an ALBERT",
        ),
        ("electra", &[&electra], "an ELECTRA"),
        (
            "modernbert",
            &[
                "model.layers.0.attn.Wqkv.weight",
                "model.layers.0.mlp.Wi.weight",
            ],
            "a ModernBERT",
        ),
        (
            "t5",
            &["encoder.block.0.layer.0.SelfAttention.q.weight"],
            "ProtT5, ProstT5 or Ankh",
        ),
        (
            "progen",
            &["transformer.h.0.attn.qkv_proj.weight"],
            "a ProGen",
        ),
        (
            "llama",
            &[
                "model.layers.0.self_attn.q_proj.weight",
                "model.layers.0.mlp.gate_proj.weight",
            ],
            "a Llama",
        ),
        (
            "caduceus",
            &["caduceus.backbone.layers.0.mixer.submodule.mamba_fwd.A_log"],
            "Caduceus",
        ),
        ("stripedhyena", &["backbone.blocks.0.filter.D"], "an Evo"),
    ] {
        is_called(model_type, names, said);
    }
}

#[test]
fn models_that_are_built_like_an_esm2_are_told_by_their_tokens() {
    for (tokens, said) in [
        (446, "a SaProt"),
        (4105, "a Nucleotide Transformer"),
        (4107, "a Nucleotide Transformer"),
        (8229, "a DPLM-2"),
    ] {
        let mut config = ModelConfig::esm2(1, 8, 2);
        config.vocab = tokens;
        let model = Model::new(config);
        has(&model.refused().0, &[said]);
        // Where config.json names a mask token of its own, that is what is refused first.
        has(
            &model.set("mask_token_id", json!(tokens - 1)).refused().0,
            &[said],
        );
    }
}
