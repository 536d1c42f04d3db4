//! Adapters, and models that adapters or quantization have changed.

use super::*;

fn lora(prefix: &str) -> [T; 2] {
    let name = |part| format!("{prefix}encoder.layer.0.attention.self.query.{part}.weight");
    [
        T::new(&name("lora_A"), &[4, 32]),
        T::new(&name("lora_B"), &[32, 4]),
    ]
}

#[test]
fn an_adapter_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let config =
        json!({"peft_type": "LORA", "base_model_name_or_path": "facebook/esm2_t6_8M_UR50D"});
    fs::write(at("adapter_config.json"), config.to_string()).unwrap();
    write_safetensors(
        &at("adapter_model.safetensors"),
        &lora("base_model.model.esm."),
    );
    let (what, hint) = refused(dir.path());
    let said =
        "this is a LoRA adapter for facebook/esm2_t6_8M_UR50D (adapter_config.json), not a model";
    assert_eq!(what, format!("{}: {said}", dir.path().display()));
    has(&hint, &["merge_and_unload()"]);
    let (what, hint) = refused(&at("adapter_model.safetensors"));
    has(
        &what,
        &["this is an adapter, not a model", "query.lora_A.weight"],
    );
    has(&hint, &["merge_and_unload()"]);
    for (config, said) in [
        ("{", "this is an adapter (adapter_config.json), not a model"),
        (r#"{"peft_type": "IA3"}"#, "this is an adapter (IA3)"),
    ] {
        fs::write(at("adapter_config.json"), config).unwrap();
        has(&refused(dir.path()).0, &[said]);
    }
    // Nothing tells whether an adapter beside weights is merged into them.
    let model = Model::esm2().beside("adapter_config.json", config.to_string());
    let (what, hint) = model.refused();
    has(
        &what,
        &["beside model.safetensors stands a LoRA adapter for facebook/esm2_t6_8M_UR50D"],
    );
    has(&hint, &["give that file by its path", "merge_and_unload()"]);
    Checkpoint::open(&model.at("model.safetensors")).unwrap();
}

#[test]
fn adapters_and_quantizations_inside_a_model_are_refused() {
    let merged = |name: &str| match name.contains("query.weight") {
        true => format!(
            "base_model.model.{}",
            name.replace("query.", "query.base_layer.")
        ),
        false => format!("base_model.model.{name}"),
    };
    let (what, hint) = Model::esm2().rename(merged).refused();
    has(&what, &["adapter that is not merged", "base_layer.weight"]);
    has(&hint, &["merge_and_unload()"]);
    let (what, _) = Model::esm2().with(lora("esm.")).refused();
    has(
        &what,
        &["a LoRA adapter that is not merged", "lora_A.weight"],
    );
    let inside = |part: &str| T::new(&format!("esm.encoder.layer.0.output.dense.{part}"), &[32]);
    for (part, said) in [
        ("SCB", "quantized to int8 by bitsandbytes"),
        ("weight.absmax", "quantized to 4 bits by bitsandbytes"),
        ("qweight", "quantized by GPTQ or AWQ"),
        ("_packed_params", "quantized by torch.quantization"),
        ("weight._data", "quantized by quanto"),
        ("ia3_l", "an IA3 adapter that is not merged"),
        ("weight_g", "weight normalization"),
        ("adapters.x.adapter_down.0.weight", "adapter layers"),
        ("parametrizations.weight.original0", "parametrized weights"),
        ("weight_orig", "pruned"),
    ] {
        let (what, hint) = Model::esm2().with([inside(part)]).refused();
        has(&what, &[said, "encoder.layer.0.output.dense."]);
        assert!(!hint.contains("config.json"), "{hint}");
    }
    let (what, _) = Model::esm2()
        .set("quantization_config", json!({"load_in_8bit": true}))
        .refused();
    has(&what, &["config.json: the weights are quantized"]);
    // An adapter of a head changes nothing in the model.
    let head = Model::esm2().with([T::new("classifier.lora_A.default.weight", &[4, 32])]);
    assert_eq!(head.open().config(), Model::esm2().open().config());
}
