//! A model's weights, whatever files they come in.

use std::collections::BTreeMap;
use std::fs;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::architecture::{self, Located, Tensors};
use super::mapped::Mapped;
use super::names::Naming;
use super::source::{Source, read_json};
use super::stored::{MOST_TENSORS, Malformed, StoredDType};
use super::torch::{self, FairEsmSettings, TorchFile};
use super::{DType, Tensor, WeightsError, config_json, layout, safetensors};
use super::{frequencies, hash};
use crate::model::config::{ModelConfig, ModelKind};
use crate::untrusted::{Shown, file};

/// A model's weights: mapped files and an index of the tensors in them, checked against the
/// architecture.
///
/// Opening one reads headers, and each layer's rotary frequencies. It is cheap to share behind a
/// reference.
#[derive(Debug)]
pub struct Checkpoint {
    source: Source,
    files: Vec<Arc<Mapped>>,
    tensors: Tensors,
    config: ModelConfig,
    config_path: Option<PathBuf>,
    tokenizer_path: Option<PathBuf>,
    warnings: Vec<String>,
}

/// A tensor as `inspect` shows it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct TensorInfo {
    /// Canonical name.
    pub name: String,
    /// Name as the file has it.
    pub stored_name: String,
    /// Number format.
    pub dtype: String,
    /// Row-major shape, outermost first.
    pub shape: Vec<usize>,
    /// The file it stands in.
    pub file: PathBuf,
    /// Whether the model is computed with it.
    pub used: bool,
}

impl Checkpoint {
    /// Opens a Hugging Face folder, a file of tensors (safetensors, `pytorch_model.bin`, fair-esm's
    /// `.pt`), or the index of a sharded checkpoint, and checks its tensors against the
    /// architecture, which config.json beside it gives, or else names and shapes.
    ///
    /// # Errors
    /// [`WeightsError`] of every sort but those of writing.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let source = Source::find(path)?;
        let mut files = Vec::new();
        let mut stored = Vec::new();
        let mut settings = FairEsmSettings::default();
        for path in &source.files {
            let file = Arc::new(Mapped::open(path)?);
            let index = read_index(file.bytes()).map_err(|Malformed { what, hint }| {
                WeightsError::Format {
                    path: path.clone(),
                    what,
                    hint,
                }
            })?;
            if source.files.len() == 1 {
                settings = index.settings;
            }
            stored.extend(index.tensors.into_iter().map(|stored| Located {
                stored,
                file: files.len(),
            }));
            files.push(file);
            // Each file was held to it; all together must be, too.
            if stored.len() > MOST_TENSORS {
                return Err(WeightsError::Format {
                    path: path.clone(),
                    what: format!(
                        "with this file there are {} tensors, and at most {MOST_TENSORS} are read",
                        stored.len()
                    ),
                    hint: "the files are no model's; download it again".into(),
                });
            }
        }
        check_index(&source, &stored)?;

        let naming = Naming::of(stored.iter().map(|t| t.stored.name.as_str()));
        let mut tensors = Tensors::new();
        for tensor in stored {
            let name = naming.canonical(&tensor.stored.name);
            let second = source.files[tensor.file].clone();
            if let Some(first) = tensors.insert(name.clone(), tensor) {
                return Err(WeightsError::Twice {
                    tensor: name,
                    first: source.files[first.file].clone(),
                    second,
                });
            }
        }

        // fair-esm's files carry their own settings; a config.json beside them is another model's.
        let config_path = match naming {
            Naming::HuggingFace => source.beside(config_json::FILE)?,
            Naming::FairEsm => None,
        };
        let tokenizer_path = source.beside("tokenizer.json")?;
        let json = config_path
            .as_deref()
            .map(|path| read_json(path, config_json::LONGEST))
            .transpose()?;
        let given = config_path.as_deref().zip(json.as_deref());
        let config = architecture::determine(&tensors, naming, settings, given, &source.root)?;
        architecture::check(
            &config,
            &tensors,
            |t| source.files[t.file].clone(),
            &source.root,
        )?;
        frequencies::check(&config, &tensors, |t| &files[t.file])?;
        let warnings = warnings(&config, &tensors);
        Ok(Self {
            source,
            files,
            tensors,
            config,
            config_path,
            tokenizer_path,
            warnings,
        })
    }

    /// The architecture.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// A tensor by canonical name: Hugging Face's, without `esm.` or `bert.`.
    ///
    /// # Errors
    /// [`WeightsError::Missing`], and [`WeightsError::Unusable`] for one that the model does not
    /// need and whose format is not read.
    pub fn tensor(&self, canonical: &str) -> Result<Tensor, WeightsError> {
        let Some(located) = self.find(canonical) else {
            return Err(WeightsError::Missing {
                tensor: canonical.to_owned(),
                path: self.source.root.clone(),
                expected: Vec::new(),
                more: 0,
            });
        };
        let file = &self.files[located.file];
        architecture::usable(located, file.path())?;
        match (&located.stored.dtype, &located.stored.place) {
            (StoredDType::Float(dtype), Ok(range)) => Ok(Tensor {
                name: canonical.to_owned(),
                dtype: *dtype,
                shape: located.stored.shape.clone(),
                file: Arc::clone(file),
                range: range.clone(),
            }),
            // `usable` has just said that it is none of the others.
            _ => Err(WeightsError::Missing {
                tensor: canonical.to_owned(),
                path: file.path().to_owned(),
                expected: located.stored.shape.clone(),
                more: 0,
            }),
        }
    }

    /// A tensor by canonical name, if it is there and usable.
    pub fn optional(&self, canonical: &str) -> Option<Tensor> {
        self.find(canonical)?;
        self.tensor(canonical).ok()
    }

    /// A layer's rotary frequencies may stand once for all layers.
    fn find(&self, canonical: &str) -> Option<&Located> {
        let shared = || {
            let rotary = canonical.ends_with(".attention.self.rotary_embeddings.inv_freq");
            rotary
                .then(|| self.tensors.get(layout::SHARED_INV_FREQ))
                .flatten()
        };
        self.tensors.get(canonical).or_else(shared)
    }

    /// tokenizer.json beside the weights, if it is there.
    pub fn tokenizer_path(&self) -> Option<PathBuf> {
        self.tokenizer_path.clone()
    }

    /// The config.json that gave the architecture, if one did.
    pub fn config_path(&self) -> Option<&Path> {
        self.config_path.as_deref()
    }

    /// What a user should know although it stops nothing.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The files that hold tensors.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|f| f.path())
    }

    /// Bytes of all files that hold tensors.
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes().len() as u64).sum()
    }

    /// All tensors of the files, those not used too, in the order of their canonical names with
    /// layers in numeric order.
    pub fn tensors(&self) -> Vec<TensorInfo> {
        let used: BTreeMap<String, bool> = layout::expected(&self.config)
            .into_iter()
            .map(|e| (e.name, e.need != layout::Need::Unused))
            .collect();
        let mut all: Vec<TensorInfo> = self
            .tensors
            .iter()
            .map(|(name, t)| TensorInfo {
                name: name.clone(),
                stored_name: t.stored.name.clone(),
                dtype: t.stored.dtype.to_string(),
                shape: t.stored.shape.clone(),
                file: self.files[t.file].path().to_owned(),
                used: used
                    .get(name)
                    .copied()
                    .unwrap_or(name == layout::SHARED_INV_FREQ),
            })
            .collect();
        let layer = |name: &str| {
            let rest = name.strip_prefix("encoder.layer.")?;
            rest.split_once('.')?.0.parse::<usize>().ok()
        };
        all.sort_by_cached_key(|t| (layer(&t.name), t.name.clone()));
        all
    }

    /// Compares the checksums that PyTorch's archives keep of their entries with the bytes that stand
    /// there, and returns how many entries there were: none in safetensors files, which keep no
    /// checksums. The files are read from start to end.
    ///
    /// # Errors
    /// [`WeightsError::Read`], and [`WeightsError::Format`] for the first entry that is not what it
    /// was when it was written.
    pub fn compare_checksums(&self) -> Result<usize, WeightsError> {
        let mut compared = 0;
        for (number, mapped) in self.files.iter().enumerate() {
            if !torch::is_archive(mapped.bytes()) {
                continue;
            }
            let path = mapped.path();
            // Not through the mapping, so that none of the file stays in this program's memory.
            let file = file::open(path).map_err(WeightsError::read(path))?;
            let file = BufReader::with_capacity(1 << 20, file);
            let corrupt = match torch::compare_checksums(file).map_err(WeightsError::read(path))? {
                Ok(entries) => {
                    compared += entries;
                    continue;
                }
                Err(corrupt) => corrupt,
            };
            let within = |t: &&Located| match (&t.stored.place, &corrupt.place) {
                (Ok(range), Some(place)) => {
                    t.file == number && range.start >= place.start && range.end <= place.end
                }
                _ => false,
            };
            let tensor = self.tensors.values().find(within);
            let tensor = tensor.map_or_else(String::new, |t| {
                format!(", tensor {},", Shown(&t.stored.name))
            });
            return Err(WeightsError::Format {
                path: path.to_owned(),
                what: format!(
                    "the archive's entry {}{tensor} is not what its checksum was made of ({})",
                    Shown(&corrupt.entry),
                    corrupt.error
                ),
                hint: "the file is damaged; download it again. One that was saved after \
                       torch.serialization.set_crc32_options(False) holds no checksums: save it again \
                       without that"
                    .into(),
            });
        }
        Ok(compared)
    }

    /// A hash of all that decides the result: the files of weights with their index, config.json
    /// and tokenizer.json, by file name and content. Hexadecimal BLAKE3.
    ///
    /// The files are read from start to end, some MiB at a time, by the threads of the rayon pool that this is called in.
    ///
    /// # Errors
    /// [`WeightsError::Read`].
    pub fn hash(&self) -> Result<String, WeightsError> {
        let index = self.source.index.as_ref().map(|(path, _)| path.clone());
        let mut files: Vec<PathBuf> = self.source.files.clone();
        files.extend(index);
        files.extend(self.config_path.clone());
        files.extend(self.tokenizer_path.clone());
        files.sort();
        let mut hasher = blake3::Hasher::new();
        let mut buffer = Vec::new();
        for path in files {
            // Lengths before contents, so that no two sets of files run together to the same bytes.
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            hasher.update(&(name.len() as u64).to_le_bytes());
            hasher.update(name.as_bytes());
            let length = fs::metadata(&path)
                .map_err(WeightsError::read(&path))?
                .len();
            hasher.update(&length.to_le_bytes());
            hash::file(&mut hasher, &path, length, &mut buffer)
                .map_err(WeightsError::read(&path))?;
        }
        Ok(hasher.finalize().to_hex().to_string())
    }
}

/// Reads the index of a weights file of either format, told apart by their first bytes.
///
/// # Errors
/// Where the bytes are no weights file, or a malformed one.
pub fn read_index(file: &[u8]) -> Result<TorchFile, Malformed> {
    if torch::is_archive(file) || file.starts_with(&[0x80]) && file.get(8) != Some(&b'{') {
        return torch::read_index(file);
    }
    if file.starts_with(b"version https://git-lfs") {
        return Err(Malformed::new(
            "this is a Git LFS pointer and not the file it points to",
            "run `git lfs pull` in the model's folder",
        ));
    }
    if file.trim_ascii_start().starts_with(b"<") && file.get(8) != Some(&b'{') {
        return Err(Malformed::new(
            "this is a web page and not a weights file",
            "download it again, from the address of the file itself",
        ));
    }
    let tensors = safetensors::read_header(file)?;
    Ok(TorchFile {
        tensors,
        settings: FairEsmSettings::default(),
    })
}

/// Every tensor that the index promises stands in the file it says.
fn check_index(source: &Source, stored: &[Located]) -> Result<(), WeightsError> {
    let Some((_, map)) = &source.index else {
        return Ok(());
    };
    let there: std::collections::HashSet<(&str, &Path)> = stored
        .iter()
        .map(|t| (t.stored.name.as_str(), source.files[t.file].as_path()))
        .collect();
    for (tensor, name) in map {
        let path = source.folder.join(name);
        if !there.contains(&(tensor.as_str(), path.as_path())) {
            return Err(WeightsError::Format {
                path,
                what: format!(
                    "tensor {} is missing, which the index has in this file",
                    Shown(tensor)
                ),
                hint: "download this shard and the index again".into(),
            });
        }
    }
    Ok(())
}

fn warnings(config: &ModelConfig, tensors: &Tensors) -> Vec<String> {
    let mut warnings = Vec::new();
    if config.kind != ModelKind::Esm2 {
        return warnings;
    }
    let frequencies = |layer| {
        let own = tensors.get(&layout::inv_freq_name(layer));
        own.or_else(|| tensors.get(layout::SHARED_INV_FREQ))
    };
    let absent = (0..config.layers)
        .filter(|layer| frequencies(*layer).is_none())
        .count();
    if absent > 0 {
        warnings.push(format!(
            "{absent} of {} layers have no rotary frequencies (inv_freq) in the file; they are computed in f32. \
             Published ESM-2 weights carry frequencies rounded to f16, from which these deviate",
            config.layers
        ));
    }
    let is_bf16 = |t: &Located| t.stored.dtype == StoredDType::Float(DType::Bf16);
    if (0..config.layers).filter_map(frequencies).any(is_bf16) {
        warnings.push(
            "the rotary frequencies (inv_freq) are stored in bf16, which turns far positions by radians; \
             results deviate from those of the published weights"
                .into(),
        );
    }
    warnings
}
