//! job.json: everything that decides the bytes of the output, and nothing else.
//!
//! Threads, token budget, paths and dates are not in it: they may change between an interrupted
//! run and its resumption.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::OutputDtype;
use crate::model::config::ModelConfig;

/// Version of the layout that this program writes.
pub const FORMAT: u32 = 1;

/// What a job was asked to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    /// [`FORMAT`].
    pub format: u32,
    /// Version of the program.
    pub seqstream: String,
    /// The model.
    pub model: ModelSpec,
    /// Where it computes: "cpu", "cuda".
    pub device: String,
    /// With which instructions (CPU) or on which chip (CUDA), since the order of additions depends on it.
    pub simd: String,
    /// The algorithms of the matrix products on CUDA, and the attention kernels where these gave other bits once: they
    /// decide bits too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gemm: Option<String>,
    /// In what it computes: "f32", "f16", "bf16".
    pub dtype: String,
    /// "mean", "cls" or "none".
    pub pool: String,
    /// Whether the states of every token are kept.
    pub per_token: bool,
    /// The layers, as indices from 0, in the order asked for.
    pub layers: Vec<usize>,
    /// The most content tokens of one sequence.
    pub max_length: Option<usize>,
    /// What becomes of a longer one: "truncate", "window" or "error".
    pub long: Option<String>,
    /// Tokens between the starts of two windows.
    pub stride: Option<usize>,
    /// "upper" or "keep".
    pub case: String,
    /// Whether what is not clean is refused.
    pub strict: bool,
    /// How values are stored.
    pub output_dtype: OutputDtype,
    /// Records a shard.
    pub shard_size: u64,
    /// Which share of the shards: "i/n", from "1/n" to "n/n".
    pub shard: String,
    /// The inputs, in order.
    pub inputs: Vec<InputSpec>,
}

/// Which model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// Hex BLAKE3 over the files that decide its results.
    pub blake3: String,
    /// Its architecture and sizes.
    pub config: ModelConfig,
}

/// One input file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputSpec {
    /// Its name without directories; tells the reader which, decides nothing.
    pub name: String,
    /// Hex BLAKE3 of its content, absent where it could not be read twice (a pipe).
    pub blake3: Option<String>,
}

/// A field in which two jobs differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Its name, with dots: `model.blake3`.
    pub field: String,
    /// Its value in the job that stands in the directory.
    pub there: String,
    /// Its value in the job that was asked for.
    pub asked: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} was {}, now {}", self.field, self.there, self.asked)
    }
}

impl JobSpec {
    /// The fields in which `asked` differs from this one, names of inputs apart.
    pub fn differences(&self, asked: &JobSpec) -> Vec<Difference> {
        let flat = |spec: &JobSpec| {
            let mut spec = spec.clone();
            spec.inputs.iter_mut().for_each(|i| i.name.clear());
            let mut fields = Vec::new();
            // Through text, as the one on disk went: a float may come back one bit off.
            let text = serde_json::to_string(&spec).unwrap_or_default();
            flatten(
                "",
                &serde_json::from_str(&text).unwrap_or_default(),
                &mut fields,
            );
            fields
        };
        let (there, asked) = (flat(self), flat(asked));
        let value = |fields: &[(String, String)], name: &str| {
            fields
                .iter()
                .find(|(n, _)| n == name)
                .map_or_else(|| "absent".to_owned(), |(_, v)| v.clone())
        };
        let mut names: Vec<&String> = there.iter().map(|(n, _)| n).collect();
        names.extend(
            asked
                .iter()
                .map(|(n, _)| n)
                .filter(|n| !there.iter().any(|(m, _)| m == *n)),
        );
        names
            .into_iter()
            .map(|n| Difference {
                field: n.clone(),
                there: value(&there, n),
                asked: value(&asked, n),
            })
            .filter(|d| d.there != d.asked)
            .collect()
    }
}

/// Objects become dotted names; lists of plain values stay together; lists of objects are numbered.
fn flatten(prefix: &str, value: &Value, out: &mut Vec<(String, String)>) {
    let join = |key: &str| {
        if prefix.is_empty() {
            key.to_owned()
        } else {
            format!("{prefix}.{key}")
        }
    };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(k, v)| flatten(&join(k), v, out)),
        Value::Array(items) if items.iter().any(Value::is_object) => {
            items
                .iter()
                .enumerate()
                .for_each(|(i, v)| flatten(&join(&(i + 1).to_string()), v, out));
        }
        other => out.push((prefix.to_owned(), other.to_string())),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::config::ModelKind;

    pub(crate) fn spec() -> JobSpec {
        JobSpec {
            format: FORMAT,
            seqstream: "0.1.0".into(),
            model: ModelSpec {
                blake3: "00".into(),
                config: serde_json::from_value(serde_json::json!({
                    "kind": ModelKind::Esm2, "layers": 2, "hidden": 8, "heads": 2, "intermediate": 16,
                    "vocab": 33, "layer_norm_eps": 1e-5, "token_dropout": true, "mask_token": 32
                }))
                .unwrap(),
            },
            device: "cpu".into(),
            simd: "none".into(),
            gemm: None,
            dtype: "f32".into(),
            pool: "mean".into(),
            per_token: false,
            layers: vec![2],
            max_length: None,
            long: None,
            stride: None,
            case: "upper".into(),
            strict: false,
            output_dtype: OutputDtype::F32,
            shard_size: 4,
            shard: "1/1".into(),
            inputs: vec![InputSpec { name: "a.fa".into(), blake3: Some("11".into()) }],
        }
    }

    #[test]
    fn differences_are_named_with_both_values() {
        let there = spec();
        let mut asked = spec();
        assert_eq!(there.differences(&asked), []);
        asked.layers = vec![1, 2];
        asked.model.blake3 = "ff".into();
        asked.inputs.push(InputSpec {
            name: "b.fa".into(),
            blake3: None,
        });
        asked.max_length = Some(9);
        let said: Vec<String> = there
            .differences(&asked)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            said,
            [
                "model.blake3 was \"00\", now \"ff\"",
                "layers was [2], now [1,2]",
                "max_length was null, now 9",
                "inputs.2.name was absent, now \"\"",
                "inputs.2.blake3 was absent, now null",
            ]
        );
    }

    #[test]
    fn a_renamed_input_is_the_same_input() {
        let mut asked = spec();
        asked.inputs[0].name = "moved.fa".into();
        assert_eq!(spec().differences(&asked), []);
    }
}
