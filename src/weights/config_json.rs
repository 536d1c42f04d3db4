//! config.json, as Hugging Face has it.

use serde_json::json;

use super::DType;
use crate::model::config::{ModelConfig, ModelKind};

/// The name of the file.
pub const FILE: &str = "config.json";

/// A config.json that Hugging Face's `EsmModel`, or DNABERT's own code, accepts.
pub fn write(config: &ModelConfig, dtype: DType) -> Vec<u8> {
    let common = json!({
        "hidden_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.intermediate,
        "vocab_size": config.vocab,
        "layer_norm_eps": config.layer_norm_eps,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "torch_dtype": dtype.torch_name(),
        "use_cache": true,
        "classifier_dropout": null,
    });
    let mut all = match config.kind {
        ModelKind::Esm2 => json!({
            "architectures": ["EsmModel"],
            "model_type": "esm",
            "position_embedding_type": "rotary",
            "emb_layer_norm_before": false,
            "token_dropout": config.token_dropout,
            "mask_token_id": config.mask_token,
            "pad_token_id": 1,
            "max_position_embeddings": 1026,
            "is_folding_model": false,
            "esmfold_config": null,
            "vocab_list": null,
        }),
        ModelKind::Dnabert => json!({
            "architectures": ["BertModel"],
            "model_type": "bert",
            "auto_map": {
                "AutoConfig": "configuration_bert.BertConfig",
                "AutoModel": "bert_layers.BertModel",
            },
            "alibi_starting_size": 512,
            "position_embedding_type": "absolute",
            "type_vocab_size": 2,
            "pad_token_id": 0,
            "max_position_embeddings": 512,
        }),
    };
    if let (Some(all), serde_json::Value::Object(common)) = (all.as_object_mut(), common) {
        all.extend(common);
    }
    format!("{all:#}\n").into_bytes()
}
