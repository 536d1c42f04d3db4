//! Writes seeded random models of any size, in bounded memory.
//!
//! # The algorithm
//! Every value is a function of (seed, tensor name, index) alone. Any tensor can therefore be made
//! by itself, in parallel, in any order and on any machine, with the same bits:
//!
//! - the tensor's key is `mix(mix(seed) ^ fnv1a64(canonical name))`, where `mix` is splitmix64's
//!   finaliser;
//! - value `i` takes the 64 bits `mix(key + (i + 1) * 0x9e3779b97f4a7c15)`, splitmix64's `i`-th
//!   output;
//! - the four 16-bit words of these bits are added, and the sum is centred and divided by its
//!   standard deviation: this gives a near-normal value n of mean 0 and deviation 1 within ±3.47,
//!   without any function whose rounding differs between machines.
//!
//! The role of the tensor then decides which value is made of n:
//!
//! | role | value |
//! |---|---|
//! | matrix `[out, in]` | n / sqrt(in) |
//! | bias, LayerNorm bias | 0.1 n |
//! | LayerNorm gain | 1 + 0.1 n; four times this value in every 100th channel |
//! | embedding | 0.3 n; six times this value in every 100th channel |
//! | rotary frequency i | 1 / 10000^(2 i / head_dim), rounded through f16 as in published ESM-2 |
//!
//! "Every 100th channel" starts at `key % min(100, width)`, so that each such tensor has at least
//! one outlier channel. Values are computed in f32 and then rounded to the requested format. The
//! rotary frequencies are always stored in f32: rounded to bf16, they would turn far positions by
//! radians.
//!
//! Real models have LayerNorm gains and biases, linear biases and outlier channels, and zeros and
//! ones in their place would hide mistakes. Activations stay of order 1 to 100 through 48 layers.

use super::WeightsError;
use super::write::{Planned, SafetensorsWriter, file_rank, write_file};
use crate::architecture::layout::{Expected, TensorRole};
use crate::architecture::{ModelConfig, ModelKind, config_json, layout};
use crate::dtype::DType;
use crate::untrusted::file;
use half::f16;
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// Values that are made before they are written: at most 16 MiB of f32, whatever the model's size.
const BLOCK: usize = 1 << 22;
/// Values that one parallel task makes.
const TASK: usize = 1 << 16;

/// The random model to write.
#[derive(Debug, Clone, PartialEq)]
pub struct RandomSpec {
    /// Its architecture and sizes.
    pub config: ModelConfig,
    /// The most bytes of tensors in one file, which only a single larger tensor may exceed; `None`
    /// for one file.
    pub max_shard_bytes: Option<u64>,
}

impl From<ModelConfig> for RandomSpec {
    fn from(config: ModelConfig) -> Self {
        Self {
            config,
            max_shard_bytes: None,
        }
    }
}

/// Writes a random model as a Hugging Face folder: config.json, model.safetensors (or shards with
/// model.safetensors.index.json) and, for DNABERT, a made-up tokenizer.json.
///
/// As in the published models, ESM-2's tensors have the prefix `esm.` and DNABERT's have none.
/// Files of the same names are replaced: call [`standing_model`] first if they must not be.
///
/// # Errors
/// [`WeightsError::Spec`] for impossible sizes, [`WeightsError::Read`] if `dir` cannot be examined,
/// and [`WeightsError::Write`] if a file cannot be written or if `dir` already holds weights that
/// would be taken for this model's.
pub fn write_random(
    spec: &RandomSpec,
    seed: u64,
    dtype: DType,
    dir: &Path,
) -> Result<(), WeightsError> {
    let config = &spec.config;
    config
        .validate()
        .map_err(|what| WeightsError::Spec { what })?;
    if config.kind == ModelKind::Dnabert && config.vocab < 9 {
        let what = format!(
            "a vocabulary of {} is too small for five special tokens and A, C, G, T",
            config.vocab
        );
        return Err(WeightsError::Spec { what });
    }
    fs::create_dir_all(dir).map_err(WeightsError::write(dir))?;

    let tensors = layout::expected(config);
    let prefix = match config.kind {
        ModelKind::Esm2 => "esm.",
        ModelKind::Dnabert => "",
    };
    let limit = spec.max_shard_bytes.unwrap_or(u64::MAX);
    let shards = shards(&tensors, prefix, dtype, limit);
    let entry = match shards.len() {
        0 | 1 => "model.safetensors",
        _ => "model.safetensors.index.json",
    };
    refuse_other_weights(dir, shards.len() > 1)?;
    retire(&dir.join(entry))?;
    write_file(&dir.join("config.json"), &config_json::write(config, dtype))?;
    if config.kind == ModelKind::Dnabert {
        write_file(
            &dir.join("tokenizer.json"),
            &made_up_tokenizer(config.vocab),
        )?;
    }

    if let [only] = shards.as_slice() {
        return write_shard(config, only, seed, &dir.join(entry));
    }
    let mut weight_map = Map::new();
    let mut total = 0;
    for (number, shard) in shards.iter().enumerate() {
        let file = format!("model-{:05}-of-{:05}.safetensors", number + 1, shards.len());
        write_shard(config, shard, seed, &dir.join(&file))?;
        for (_, planned) in shard {
            total += planned.bytes();
            weight_map.insert(planned.name.clone(), file.clone().into());
        }
    }
    // The index is written last: without it, the shards are not a model.
    let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
    write_file(&dir.join(entry), &pretty(&index))
}

/// Writes a model without values: config.json, and a file of tensors that is a hole.
pub(super) fn write_hollow(
    config: &ModelConfig,
    dtype: DType,
    dir: &Path,
) -> Result<(), WeightsError> {
    config
        .validate()
        .map_err(|what| WeightsError::Spec { what })?;
    let tensors = layout::expected(config);
    write_file(&dir.join("config.json"), &config_json::write(config, dtype))?;
    let planned: Vec<Planned> = shards(&tensors, "", dtype, u64::MAX)
        .into_iter()
        .flatten()
        .map(|(_, planned)| planned)
        .collect();
    SafetensorsWriter::create(&dir.join("model.safetensors"), &planned)?.leave_hollow()
}

/// Fills `out` with the values of one tensor, starting at its value `first`. The same (seed, name,
/// index) always gives the same value; the module's description has the algorithm.
pub fn fill(tensor: &Expected, config: &ModelConfig, seed: u64, first: usize, out: &mut [f32]) {
    let key = mix(mix(seed) ^ fnv1a64(tensor.name.as_bytes()));
    let width = tensor.shape.last().copied().unwrap_or(1).max(1);
    let outlier = (key % width.min(100) as u64) as usize;
    let is_outlier = |index: usize| (index % width) % 100 == outlier;
    let scale = 1.0 / (width as f32).sqrt();
    for (offset, value) in out.iter_mut().enumerate() {
        let index = first + offset;
        let n = || {
            normal(mix(key.wrapping_add(
                (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            )))
        };
        *value = match tensor.role {
            TensorRole::Linear => n() * scale,
            TensorRole::Bias | TensorRole::Shift => 0.1 * n(),
            TensorRole::Gain => (1.0 + 0.1 * n()) * if is_outlier(index) { 4.0 } else { 1.0 },
            TensorRole::Embedding => 0.3 * n() * if is_outlier(index) { 6.0 } else { 1.0 },
            TensorRole::InvFreq => {
                f16::from_f64(1.0 / 10000f64.powf(2.0 * index as f64 / config.head_dim() as f64))
                    .to_f32()
            }
        };
    }
}

/// The finaliser of splitmix64 (Steele, Lea, Flood 2014).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The 64-bit FNV-1a hash (Fowler, Noll, Vo).
fn fnv1a64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| {
        (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// A near-normal value of mean 0 and deviation 1: the sum of four uniform 16-bit words, centred and
/// divided by its standard deviation, sqrt(4 (65536^2 - 1) / 12).
fn normal(bits: u64) -> f32 {
    let sum = (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
    (sum as i32 - 2 * 65535) as f32 * (1.0 / 37_837.227)
}

type Shard<'a> = Vec<(&'a Expected, Planned)>;

/// Splits the tensors, in order, into files of at most `limit` bytes of tensors, and sorts the
/// tensors of each file by [`file_rank`].
fn shards<'a>(tensors: &'a [Expected], prefix: &str, dtype: DType, limit: u64) -> Vec<Shard<'a>> {
    let mut shards = Vec::new();
    let mut shard: Shard = Vec::new();
    let mut size = 0u64;
    for tensor in tensors {
        let dtype = if tensor.role == TensorRole::InvFreq {
            DType::F32
        } else {
            dtype
        };
        let name = format!("{prefix}{}", tensor.name);
        let planned = Planned {
            name,
            dtype,
            shape: tensor.shape.clone(),
        };
        let bytes = planned.bytes();
        if !shard.is_empty() && size.saturating_add(bytes) > limit {
            shards.push(std::mem::take(&mut shard));
            size = 0;
        }
        size += bytes;
        shard.push((tensor, planned));
    }
    shards.push(shard);
    for shard in &mut shards {
        shard.sort_by_key(|(_, planned)| file_rank(planned));
    }
    shards
}

fn write_shard(
    config: &ModelConfig,
    shard: &Shard,
    seed: u64,
    path: &Path,
) -> Result<(), WeightsError> {
    let plan: Vec<Planned> = shard.iter().map(|(_, planned)| planned.clone()).collect();
    let mut writer = SafetensorsWriter::create(path, &plan)?;
    let mut bytes = Vec::new();
    for (tensor, planned) in shard {
        let values = planned.values() as usize;
        for first in (0..values).step_by(BLOCK) {
            let count = BLOCK.min(values - first);
            let size = planned.dtype.size();
            bytes.clear();
            bytes.resize(count * size, 0);
            bytes
                .par_chunks_mut(TASK * size)
                .enumerate()
                .for_each(|(task, out)| {
                    let mut floats = vec![0f32; out.len() / size];
                    fill(tensor, config, seed, first + task * TASK, &mut floats);
                    let mut encoded = Vec::new();
                    planned.dtype.encode(&floats, &mut encoded);
                    out.copy_from_slice(&encoded);
                });
            writer.write(&bytes)?;
        }
    }
    writer.finish()
}

/// Finds a file in `dir` that belongs to a model, if there is one: [`write_random`] would replace
/// this file, or it would be another model's file beside the new model.
///
/// # Errors
/// [`WeightsError::Read`] if the folder is there and cannot be listed.
pub fn standing_model(dir: &Path) -> Result<Option<PathBuf>, WeightsError> {
    const ENDS: [&str; 5] = [
        ".safetensors",
        ".safetensors.index.json",
        ".bin",
        ".bin.index.json",
        ".pt",
    ];
    let is_of_a_model = |name: &OsString| {
        let name = name.to_string_lossy();
        name == config_json::FILE
            || name == "tokenizer.json"
            || ENDS.iter().any(|end| name.ends_with(end))
    };
    use std::io::ErrorKind::{NotADirectory, NotFound};
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        // There is no folder yet, or none can be made; the attempt to make it gives the better
        // error.
        Err(error) if matches!(error.kind(), NotFound | NotADirectory) => return Ok(None),
        Err(error) => return Err(WeightsError::read(dir)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(WeightsError::read(dir))?.file_name());
    }
    names.retain(is_of_a_model);
    names.sort();
    Ok(names.first().map(|name| dir.join(name)))
}

/// Removes the file that makes a folder a model, before any other file is replaced. A program that
/// is stopped in the middle must not leave a folder that is read as a model of old and new parts.
fn retire(entry: &Path) -> Result<(), WeightsError> {
    match fs::remove_file(entry) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(WeightsError::write(entry)(error))
        }
        _ => Ok(()),
    }
}

/// Refuses to write one file of weights beside shards, or shards beside one file: a folder that has
/// both is read as the one file.
fn refuse_other_weights(dir: &Path, sharded: bool) -> Result<(), WeightsError> {
    let other = match sharded {
        true => "model.safetensors",
        false => "model.safetensors.index.json",
    };
    let path = dir.join(other);
    if !file::is_there(&path).map_err(WeightsError::read(&path))? {
        return Ok(());
    }
    Err(WeightsError::Write {
        path: dir.to_owned(),
        source: std::io::Error::new(
            std::io::ErrorKind::AlreadyExists,
            format!(
                "it already holds {other}, which would be confused with the new model; choose an empty folder"
            ),
        ),
    })
}

/// Makes a byte-pair tokenizer over ACGT with DNABERT-S's special tokens and template. Its words
/// are not learned but listed: all 2-mers, all 4-mers (each merged from two 2-mers), then 3-mers,
/// 5-mers and 6-mers, as far as `vocab` reaches.
fn made_up_tokenizer(vocab: usize) -> Vec<u8> {
    const SPECIAL: [&str; 5] = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"];
    let mers = |k: usize| {
        (0..4usize.pow(k as u32)).map(move |n| {
            (0..k)
                .rev()
                .map(|i| ['A', 'C', 'G', 'T'][n >> (2 * i) & 3])
                .collect::<String>()
        })
    };
    let mut table = Map::new();
    let mut merges: Vec<Value> = Vec::new();
    for token in SPECIAL.iter().map(|s| s.to_string()).chain(mers(1)) {
        table.insert(token, table.len().into());
    }
    for (length, left) in [(2, 1), (4, 2), (3, 2), (5, 4), (6, 4)] {
        for word in mers(length) {
            if table.len() >= vocab {
                break;
            }
            merges.push(format!("{} {}", &word[..left], &word[left..]).into());
            table.insert(word, table.len().into());
        }
    }
    let added: Vec<Value> = SPECIAL
        .iter()
        .enumerate()
        .map(|(id, content)| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect();
    let special = |token: &str, id: usize| json!({"id": token, "ids": [id], "tokens": [token]});
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                       {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
            "pair": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                     {"SpecialToken": {"id": "[SEP]", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}},
                     {"SpecialToken": {"id": "[SEP]", "type_id": 1}}],
            "special_tokens": {"[CLS]": special("[CLS]", 1), "[SEP]": special("[SEP]", 2)},
        },
        "decoder": null,
        "model": {"type": "BPE", "dropout": null, "unk_token": "[UNK]", "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "vocab": table, "merges": merges},
    });
    pretty(&tokenizer)
}

fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}
