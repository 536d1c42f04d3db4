//! The content of job.json: everything that decides the bytes of the output, and nothing else.
//!
//! Threads, the token budget, paths and dates are not part of it, because they may change between
//! an interrupted run and its resumption.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{OutputDtype, VirnucproSpec};
use crate::architecture::ModelConfig;

/// Version of the output format that this program writes. In version 1, shard.json named no job and
/// had no seal. Jobs of version 1 can still be resumed and merged; they stay in version 1.
pub const FORMAT: u32 = 2;

/// What a job was asked to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    /// The format version; see [`FORMAT`].
    pub format: u32,
    /// The version of the program.
    pub seqstream: String,
    /// The model.
    pub model: ModelSpec,
    /// The kind of device that computes: "cpu" or "cuda".
    pub device: String,
    /// The instruction set (CPU) or the chip (CUDA) that computes, since the order of additions
    /// depends on it.
    #[serde(alias = "simd")]
    pub processor: String,
    /// On CUDA, the digest of the GEMM algorithms: they also decide bits of the result.
    #[serde(default, alias = "gemm", skip_serializing_if = "Option::is_none")]
    pub gemm_algorithms: Option<String>,
    /// The data type of the computation: "f32", "f16" or "bf16".
    pub dtype: String,
    /// The poolings: "mean", "cls", "max", several with commas, or "none".
    pub pool: String,
    /// Whether the states of every token are kept.
    pub per_token: bool,
    /// The layers, as indices from 0, in the requested order.
    pub layers: Vec<usize>,
    /// The maximum number of content tokens per sequence.
    pub max_length: Option<usize>,
    /// The treatment of longer sequences: "truncate", "window" or "error".
    pub long: Option<String>,
    /// Tokens from the start of one window to the start of the next.
    pub stride: Option<usize>,
    /// Whether text is cleaned. Jobs of format 1 have `case` instead, with the value "upper" or
    /// "keep".
    #[serde(alias = "case", deserialize_with = "clean_or_case")]
    pub clean: bool,
    /// Whether a character that would be cleaned or counted as unknown is an error.
    pub strict: bool,
    /// The data type of the stored values.
    pub output_dtype: OutputDtype,
    /// Records per shard.
    pub shard_size: u64,
    /// The share of the shards that this job computes: "i/n", from "1/n" to "n/n".
    #[serde(alias = "shard")]
    pub share: String,
    /// What the name of a record is: "first" (the first word of the header) or "header". Absent
    /// means "first", as in jobs of earlier versions.
    #[serde(default = "first", skip_serializing_if = "is_first")]
    pub names: String,
    /// Whether gap characters are kept: "keep" or "drop". Absent means "keep".
    #[serde(default = "keep", skip_serializing_if = "is_keep")]
    pub gaps: String,
    /// What becomes of a record that is bad by itself: "stop" or "skip". Absent means "stop".
    #[serde(default = "stop", skip_serializing_if = "is_stop")]
    pub bad_records: String,
    /// What becomes of a record of several chains: "keep" or "split". Absent means "keep".
    #[serde(default = "keep", skip_serializing_if = "is_keep")]
    pub chains: String,
    /// "T" if the input is known to hold a U that is read as T. Earlier versions made U an unknown
    /// token, and a job must not mix the two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uracil: Option<String>,
    /// What a job of `seqstream virnucpro` has beyond other jobs. Its records are chunks of contigs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virnucpro: Option<VirnucproSpec>,
    /// The inputs, in order.
    pub inputs: Vec<InputSpec>,
}

fn first() -> String {
    "first".into()
}

fn is_first(names: &String) -> bool {
    names == "first"
}

fn keep() -> String {
    "keep".into()
}

fn is_keep(value: &String) -> bool {
    value == "keep"
}

fn stop() -> String {
    "stop".into()
}

fn is_stop(bad_records: &String) -> bool {
    bad_records == "stop"
}

/// Reads `clean`, or the field `case` that format 1 has in its place.
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

/// Identifies a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// The name on the Hugging Face Hub and the commit, as `NAME@COMMIT`, if the model was given by
    /// its name. It is for the reader and decides nothing, as the hash says which model it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// BLAKE3 hash, in hex, over the files that decide the results of the model.
    pub blake3: String,
    /// The architecture and the sizes of the model.
    pub config: ModelConfig,
}

/// An input file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputSpec {
    /// The file name without directories. It is for the reader and decides nothing.
    pub name: String,
    /// BLAKE3 hash of the content, in hex. Absent if the input could not be read twice (a pipe).
    pub blake3: Option<String>,
}

/// A field in which two jobs differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The name of the field, with dots: `model.blake3`.
    pub field: String,
    /// The value in the job that is in the directory.
    pub there: String,
    /// The value in the job that was requested.
    pub asked: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} was {}, now {}", self.field, self.there, self.asked)
    }
}

impl JobSpec {
    /// Returns the BLAKE3 hash, in hex, of everything that decides what the job computes for a
    /// record; shard.json repeats it. The share is left out, since the shards of merged shares are
    /// those of the whole job. The inputs are left out, too, since each shard has a digest of its
    /// own records; and the name of the model, since its hash decides. Returns `None` for format 1, whose shards name no job.
    pub fn fingerprint(&self) -> Option<String> {
        if self.format < 2 {
            return None;
        }
        let mut spec = self.clone();
        spec.share.clear();
        spec.inputs.clear();
        spec.model.id = None;
        if let Some(virnucpro) = &mut spec.virnucpro {
            virnucpro.protein_model.iter_mut().for_each(|m| m.id = None);
            virnucpro.tables.style.clear();
            virnucpro.tables.rule.clear();
        }
        let text = serde_json::to_string(&spec).unwrap_or_default();
        Some(blake3::hash(text.as_bytes()).to_hex().to_string())
    }

    /// Returns the fields in which `asked` differs from this job. The names of inputs and of the
    /// model do not count.
    pub fn differences(&self, asked: &JobSpec) -> Vec<Difference> {
        let flat = |spec: &JobSpec| {
            let mut spec = spec.clone();
            spec.inputs.iter_mut().for_each(|i| i.name.clear());
            spec.model.id = None;
            if let Some(protein) = spec
                .virnucpro
                .as_mut()
                .and_then(|v| v.protein_model.as_mut())
            {
                protein.id = None;
            }
            let mut fields = Vec::new();
            // The values go through text, as the job on the disk did: a float may change by one
            // bit.
            let text = serde_json::to_string(&spec).unwrap_or_default();
            flatten(
                "",
                &serde_json::from_str(&text).unwrap_or_default(),
                &mut fields,
            );
            // job.json leaves these out where they have the values of earlier versions.
            for (name, value) in [
                ("names", &spec.names),
                ("gaps", &spec.gaps),
                ("bad_records", &spec.bad_records),
                ("chains", &spec.chains),
            ] {
                if !fields.iter().any(|(n, _)| n == name) {
                    fields.push((name.into(), format!("{value:?}")));
                }
            }
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

/// Turns objects into dotted names. Lists of plain values stay whole; the items of lists of objects
/// are numbered.
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
                id: None,
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
            names: "first".into(),
            gaps: "keep".into(),
            bad_records: "stop".into(),
            chains: "keep".into(),
            uracil: None,
            virnucpro: None,
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
        // The fingerprint must survive writing and reading for any number, since a digest tolerates
        // no difference.
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
    fn the_name_of_the_model_decides_nothing() {
        let named = |id: Option<&str>| {
            let mut spec = spec();
            spec.model.id = id.map(Into::into);
            spec
        };
        let (none, one, two) = (named(None), named(Some("a/b@1")), named(Some("a/b@2")));
        for other in [&one, &two] {
            assert_eq!(none.differences(other), []);
            assert_eq!(other.differences(&none), []);
            assert_eq!(none.fingerprint(), other.fingerprint());
        }
        // Without a name, a job is what it was in earlier versions, byte for byte.
        let text = serde_json::to_string(&none).unwrap();
        assert!(text.contains(r#""model":{"blake3":"#), "{text}");
        let back: JobSpec = serde_json::from_str(&serde_json::to_string(&one).unwrap()).unwrap();
        assert_eq!(back.model.id.as_deref(), Some("a/b@1"));
    }

    #[test]
    fn a_renamed_input_is_the_same_input() {
        let mut asked = spec();
        asked.inputs[0].name = "moved.fa".into();
        assert_eq!(spec().differences(&asked), []);
    }
}
