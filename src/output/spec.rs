//! job.json: everything that decides the bytes of the output, and nothing else.
//!
//! Threads, token budget, paths and dates are not in it: they may change between an interrupted
//! run and its resumption.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::OutputDtype;
use crate::architecture::ModelConfig;

/// Version of the layout that this program writes. In version 1, shard.json named no job and had
/// no seal; jobs of that version are still resumed and merged, as they are.
pub const FORMAT: u32 = 2;

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
    #[serde(alias = "simd")]
    pub processor: String,
    /// The digest of the algorithms of the matrix products, on CUDA: they decide bits too.
    #[serde(default, alias = "gemm", skip_serializing_if = "Option::is_none")]
    pub gemm_algorithms: Option<String>,
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
    /// Whether text is cleaned. Jobs of format 1 say `case`, which was "upper" or "keep".
    #[serde(alias = "case", deserialize_with = "clean_or_case")]
    pub clean: bool,
    /// Whether what is not clean is refused.
    pub strict: bool,
    /// How values are stored.
    pub output_dtype: OutputDtype,
    /// Records per shard.
    pub shard_size: u64,
    /// Which share of the shards: "i/n", from "1/n" to "n/n".
    #[serde(alias = "shard")]
    pub share: String,
    /// The inputs, in order.
    pub inputs: Vec<InputSpec>,
}

/// Reads `clean`, or what stood in its place in format 1.
fn clean_or_case<'de, D: serde::Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Clean(bool),
        Case(String),
    }
    match Either::deserialize(from)? {
        Either::Clean(clean) => Ok(clean),
        Either::Case(case) if case == "upper" => Ok(true),
        Either::Case(case) if case == "keep" => Ok(false),
        Either::Case(_) => Err(serde::de::Error::custom("case is neither upper nor keep")),
    }
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
    /// Hex BLAKE3 of everything that decides what the job makes of a record; shard.json repeats it.
    /// Which share is computed is not in it, since merged shards are those of the whole job. Nor are
    /// the inputs: a shard has a digest of its own records. Shards of format 1 name no job.
    pub fn fingerprint(&self) -> Option<String> {
        if self.format < 2 {
            return None;
        }
        let mut spec = self.clone();
        spec.share.clear();
        spec.inputs.clear();
        let text = serde_json::to_string(&spec).unwrap_or_default();
        Some(blake3::hash(text.as_bytes()).to_hex().to_string())
    }

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
    use crate::architecture::ModelKind;

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
            processor: "none".into(),
            gemm_algorithms: None,
            dtype: "f32".into(),
            pool: "mean".into(),
            per_token: false,
            layers: vec![2],
            max_length: None,
            long: None,
            stride: None,
            clean: true,
            strict: false,
            output_dtype: OutputDtype::F32,
            shard_size: 4,
            share: "1/1".into(),
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
    fn the_fingerprint_is_of_what_decides_a_shard() {
        let of = |change: &dyn Fn(&mut JobSpec)| {
            let mut spec = spec();
            change(&mut spec);
            spec.fingerprint()
        };
        let whole = of(&|_| {});
        assert_eq!(of(&|s| s.share = "2/3".into()), whole);
        assert_eq!(of(&|s| s.inputs.clear()), whole);
        assert_ne!(of(&|s| s.model.blake3 = "01".into()), whole);
        assert_ne!(of(&|s| s.layers = vec![1]), whole);
        assert_ne!(of(&|s| s.shard_size = 5), whole);
        assert_eq!(of(&|s| s.format = 1), None);
        // Through the disk and back, whatever the number: a digest is not forgiving.
        for eps in [
            1e-12,
            0.1 + 0.2,
            8.41e21,
            5e-324,
            1.0 / 3.0,
            9.109_383_713_9e-31,
        ] {
            let mut there = spec();
            there.model.config.layer_norm_eps = eps;
            let text = serde_json::to_string(&there).unwrap();
            let back: JobSpec = serde_json::from_str(&text).unwrap();
            assert_eq!(back.fingerprint(), there.fingerprint(), "{eps}");
        }
    }

    #[test]
    fn the_keys_of_format_1_are_still_read() {
        let mut spec = spec();
        spec.gemm_algorithms = Some("f00".into());
        let mut json = serde_json::to_value(&spec).unwrap();
        let fields = json.as_object_mut().unwrap();
        for (now, then) in [
            ("processor", "simd"),
            ("gemm_algorithms", "gemm"),
            ("share", "shard"),
        ] {
            let value = fields.remove(now).unwrap();
            fields.insert(then.into(), value);
        }
        fields.remove("clean");
        for (case, clean) in [("upper", true), ("keep", false)] {
            spec.clean = clean;
            json["case"] = case.into();
            let read: JobSpec = serde_json::from_value(json.clone()).unwrap();
            assert_eq!(read, spec);
        }
        json["case"] = "lower".into();
        assert!(serde_json::from_value::<JobSpec>(json).is_err());
    }

    #[test]
    fn a_renamed_input_is_the_same_input() {
        let mut asked = spec();
        asked.inputs[0].name = "moved.fa".into();
        assert_eq!(spec().differences(&asked), []);
    }
}
