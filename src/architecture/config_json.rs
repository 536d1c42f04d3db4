//! Reads and writes a model's config.json in Hugging Face's format.

use serde_json::{Map, Value, json};

use super::ModelConfig;
use super::ModelKind;
use super::foreign;
use crate::dtype::DType;
use crate::untrusted::Shown;
use crate::untrusted::json as bounded;
use crate::untrusted::shown;

/// The file name of a model's configuration.
pub const FILE: &str = "config.json";

/// Writes a config.json that Hugging Face's `EsmModel`, or DNABERT's own code, accepts. `dtype` is
/// the format that it gives for the weights.
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
    if let (Some(all), Value::Object(common)) = (all.as_object_mut(), common) {
        all.extend(common);
    }
    format!("{all:#}\n").into_bytes()
}

/// The longest config.json that is read, in bytes. Published files have 1 kB; files that list the
/// names of many labels have some hundred kB.
pub const LONGEST: u64 = 1 << 20;
/// The most JSON values that the kept keys may hold together: they are numbers, names, and one
/// small object.
const MOST_VALUES: usize = 1000;

/// The keys that are read. All other keys are skipped, whatever their values are.
const KEYS: [&str; 21] = [
    "model_type",
    "hidden_act",
    "position_embedding_type",
    "emb_layer_norm_before",
    "is_folding_model",
    "is_decoder",
    "add_cross_attention",
    "rope_theta",
    "rope_parameters",
    "rope_scaling",
    "mask_token_id",
    "pad_token_id",
    "add_bias_fnn",
    "quantization_config",
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "layer_norm_eps",
    "token_dropout",
];

/// Why a config.json is refused: what is wrong, and what the user can do about it.
type Refusal = (String, String);

fn refusal(what: impl Into<String>, hint: &str) -> Refusal {
    (what.into(), hint.into())
}

const DAMAGED: &str = "download config.json again; it must be the one published with these weights";
const NOT_COMPUTED: &str = foreign::GIVE_ANOTHER;
const OTHER_TOKENS: &str = "only ESM-2's own 33 tokens are read; where the weights are those of an ESM-2, download \
     config.json again";

/// Reads a config.json. `kind` is the architecture that the names of the tensors indicate. It
/// distinguishes DNABERT from plain BERT, which have the same `model_type`.
///
/// # Errors
/// The error says what is wrong, and the remedy, if the file is not a config.json or describes a
/// model that is not computed here.
pub fn read(json: &[u8], kind: Option<ModelKind>) -> Result<ModelConfig, Refusal> {
    let map = bounded::object(json, &KEYS, MOST_VALUES).map_err(|error| {
        let what = format!("this is no config.json: {}", shown::parser(&error));
        refusal(what, DAMAGED)
    })?;
    let config = Config(&map);
    let model_type = config.text("model_type")?;
    let kind = match (model_type, kind) {
        (Some("esm"), _) => ModelKind::Esm2,
        (Some("bert") | None, Some(ModelKind::Dnabert)) => ModelKind::Dnabert,
        (None, Some(ModelKind::Esm2)) => ModelKind::Esm2,
        (Some("bert"), _) => {
            return Err(refusal(
                "model_type is bert, but the tensors are not DNABERT's (attention.self.Wqkv, mlp.gated_layers); \
                 a plain BERT is not computed here",
                NOT_COMPUTED,
            ));
        }
        (Some(other), _) => {
            let what = match foreign::by_model_type(other) {
                Some(name) => format!(
                    "model_type is {}: this is {name}, which is not computed here",
                    Shown(other)
                ),
                None => format!("model_type is {}, which is not computed here", Shown(other)),
            };
            return Err(refusal(what, NOT_COMPUTED));
        }
        (None, None) => {
            return Err(refusal(
                "it has no model_type, and the tensors show none",
                NOT_COMPUTED,
            ));
        }
    };

    config.only("hidden_act", &[Value::Null, "gelu".into()])?;
    if !config.get("quantization_config").is_null() {
        return Err(refusal(
            "the weights are quantized (quantization_config), and only f32, f16 and bf16 are read",
            "give the model as it was before it was quantized",
        ));
    }
    if kind == ModelKind::Esm2 {
        if config.get("position_embedding_type") != &Value::from("rotary") {
            let found = config.get("position_embedding_type");
            return Err(refusal(
                format!(
                    "position_embedding_type is {}, and only rotary is computed (ESM-1b and ESM-1v have absolute ones)",
                    short(found)
                ),
                NOT_COMPUTED,
            ));
        }
        for flag in [
            "emb_layer_norm_before",
            "is_folding_model",
            "is_decoder",
            "add_cross_attention",
        ] {
            config.only(flag, &[Value::Null, false.into()])?;
        }
        config.only("add_bias_fnn", &[Value::Null, true.into()])?;
        config.only_token("mask_token_id", 32)?;
        config.only_token("pad_token_id", 1)?;
        config.only("rope_theta", &[Value::Null, 10000.into(), 10000.0.into()])?;
        config.only_plain_rotary("rope_parameters")?;
        config.only_plain_rotary("rope_scaling")?;
    }

    let mask_token = match config.get("mask_token_id") {
        Value::Null => {
            if kind == ModelKind::Esm2 {
                32
            } else {
                4
            }
        }
        id => id
            .as_u64()
            .and_then(|id| u32::try_from(id).ok())
            .ok_or_else(|| config.wrong("mask_token_id"))?,
    };
    Ok(ModelConfig {
        kind,
        layers: config.size("num_hidden_layers")?,
        hidden: config.size("hidden_size")?,
        heads: config.size("num_attention_heads")?,
        intermediate: config.size("intermediate_size")?,
        vocab: config.size("vocab_size")?,
        // Where these two keys are absent, the values are Hugging Face's defaults.
        layer_norm_eps: match config.get("layer_norm_eps") {
            Value::Null => 1e-12,
            eps => eps.as_f64().ok_or_else(|| config.wrong("layer_norm_eps"))?,
        },
        token_dropout: match config.get("token_dropout") {
            Value::Null => false,
            flag => {
                flag.as_bool()
                    .ok_or_else(|| config.wrong("token_dropout"))?
                    && kind == ModelKind::Esm2
            }
        },
        mask_token,
    })
}

struct Config<'a>(&'a Map<String, Value>);

impl<'a> Config<'a> {
    /// The value of a key, which is null if the key is absent.
    fn get(&self, key: &str) -> &'a Value {
        debug_assert!(KEYS.contains(&key), "{key} is read, but not kept");
        self.0.get(key).unwrap_or(&Value::Null)
    }

    fn wrong(&self, key: &str) -> Refusal {
        match self.0.get(key) {
            Some(value) => refusal(format!("{key} is {}", short(value)), DAMAGED),
            None => refusal(format!("{key} is missing"), DAMAGED),
        }
    }

    fn size(&self, key: &str) -> Result<usize, Refusal> {
        let size = self.get(key).as_u64().and_then(|n| usize::try_from(n).ok());
        size.ok_or_else(|| self.wrong(key))
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>, Refusal> {
        match self.get(key) {
            Value::Null => Ok(None),
            value => value.as_str().map(Some).ok_or_else(|| self.wrong(key)),
        }
    }

    fn only(&self, key: &str, computed: &[Value]) -> Result<(), Refusal> {
        let found = self.get(key);
        if computed.contains(found) {
            return Ok(());
        }
        let computed: Vec<String> = computed
            .iter()
            .filter(|v| !v.is_null())
            .map(short)
            .collect();
        let what = format!(
            "{key} is {}, and only {} is computed",
            short(found),
            computed.join(" or ")
        );
        Err(refusal(what, NOT_COMPUTED))
    }

    /// Checks the id of a token, which shows whether the vocabulary is ESM-2's.
    fn only_token(&self, key: &str, id: u32) -> Result<(), Refusal> {
        let found = self.get(key);
        if found.is_null() || found == &Value::from(id) {
            return Ok(());
        }
        let what = format!(
            "{key} is {}, and ESM-2's is {id}: the model reads other tokens than ESM-2",
            short(found)
        );
        Err(refusal(what, OTHER_TOKENS))
    }

    fn only_plain_rotary(&self, key: &str) -> Result<(), Refusal> {
        let plain = match self.get(key) {
            Value::Null => true,
            Value::Object(map) => map.iter().all(|(key, value)| match key.as_str() {
                "rope_type" | "type" => value == "default",
                "rope_theta" => value.as_f64() == Some(10000.0),
                _ => false,
            }),
            _ => false,
        };
        match plain {
            true => Ok(()),
            false => {
                let what = format!(
                    "{key} is {}, and only plain rotary positions of base 10000 are computed",
                    short(self.get(key))
                );
                Err(refusal(what, NOT_COMPUTED))
            }
        }
    }
}

/// Renders a value for a message, escaped and cut: a damaged file may hold anything.
fn short(value: &Value) -> String {
    shown::quoted(&value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(config: &ModelConfig, key: &str, value: Value) -> Result<ModelConfig, Refusal> {
        let mut json: Value = serde_json::from_slice(&write(config, DType::F32)).unwrap();
        json[key] = value;
        read(json.to_string().as_bytes(), Some(config.kind))
    }

    #[test]
    fn what_is_written_reads_back() {
        for name in ModelConfig::PRESETS {
            let mut config = ModelConfig::preset(name).unwrap();
            config.intermediate += 8;
            assert_eq!(
                read(&write(&config, DType::F16), Some(config.kind)),
                Ok(config)
            );
        }
    }

    #[test]
    fn models_that_are_not_computed_are_refused_by_key() {
        let esm = ModelConfig::esm2(2, 32, 4);
        for (key, value) in [
            ("position_embedding_type", json!("absolute")),
            ("position_embedding_type", Value::Null),
            ("emb_layer_norm_before", json!(true)),
            ("hidden_act", json!("gelu_new")),
            ("is_folding_model", json!(true)),
            ("add_cross_attention", json!(true)),
            ("rope_theta", json!(500000.0)),
            ("rope_parameters", json!({"rope_type": "yarn"})),
            ("model_type", json!("esmc")),
            ("mask_token_id", json!(4)),
            ("mask_token_id", json!("<mask>")),
            ("pad_token_id", json!(0)),
            ("add_bias_fnn", json!(false)),
            ("quantization_config", json!({"load_in_8bit": true})),
        ] {
            let (what, hint) = with(&esm, key, value).unwrap_err();
            assert!(what.contains(key) && !hint.is_empty(), "{key}: {what}");
        }
        assert!(
            with(
                &esm,
                "rope_parameters",
                json!({"rope_type": "default", "rope_theta": 10000.0})
            )
            .is_ok()
        );
        let plain_bert = write(&ModelConfig::dnabert(2, 32, 4), DType::F32);
        assert!(
            read(&plain_bert, None)
                .unwrap_err()
                .0
                .contains("plain BERT")
        );
    }

    #[test]
    fn damaged_values_are_refused_by_key() {
        let esm = ModelConfig::esm2(2, 32, 4);
        for (key, value) in [
            ("hidden_size", json!(-5)),
            ("hidden_size", Value::Null),
            ("num_hidden_layers", json!(2.5)),
            ("vocab_size", json!("33")),
            ("layer_norm_eps", json!([])),
            ("token_dropout", json!("yes")),
            ("mask_token_id", json!(1u64 << 40)),
            ("model_type", json!(7)),
        ] {
            let (what, _) = with(&esm, key, value).unwrap_err();
            assert!(what.contains(key), "{key}: {what}");
        }
        for text in ["", "[]", "{", "null", "{}"] {
            assert!(read(text.as_bytes(), None).is_err());
        }
    }

    #[test]
    fn a_key_that_is_read_stands_once() {
        let esm = ModelConfig::esm2(2, 32, 4);
        let json = String::from_utf8(write(&esm, DType::F32)).unwrap();
        let with = |more: &str| read(json.replacen('{', more, 1).as_bytes(), None);
        assert_eq!(with(r#"{"id2label": {"0": 1, "0": 2}, "x": [],"#), Ok(esm));
        let (what, _) = with(r#"{"token_dropout": false,"#).unwrap_err();
        assert!(
            what.contains("\"token_dropout\" stands twice at line"),
            "{what}"
        );
    }

    #[test]
    fn what_is_not_read_takes_no_memory() {
        let esm = ModelConfig::esm2(2, 32, 4);
        let json = String::from_utf8(write(&esm, DType::F32)).unwrap();
        let many = "{\"\":0},".repeat(100_000);
        let with = |key: &str| {
            let more = format!("{{\"{key}\": [{many}0],");
            read(json.replacen('{', &more, 1).as_bytes(), None)
        };
        assert_eq!(with("unknown"), Ok(esm.clone()));
        let (what, _) = with("rope_scaling").unwrap_err();
        assert!(what.contains("more values"), "{what}");
    }
}
