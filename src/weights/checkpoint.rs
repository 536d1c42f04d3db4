//! Opens a model's weights, whatever files they are stored in.

use super::backbone::{self, Sorted};
use super::format::read_index;
use super::identify::{Located, Tensors};
use super::mapped::{Mapped, Stamp, State};
use super::source::{Source, read_json};
use super::stored::{MOST_TENSORS, Malformed, StoredDType};
use super::torch::FairEsmSettings;
use super::vocabulary::{self, Vocabulary};
use super::{Tensor, WeightsError, frequencies, hash, identify, random, torch};
use crate::architecture::names::Scheme;
use crate::architecture::{ModelConfig, ModelKind, config_json, layout};
use crate::dtype::DType;
use crate::untrusted::{Shown, file};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::{fs, io};

/// A model's weights: the mapped files and an index of their tensors, checked against the
/// architecture.
///
/// Opening a checkpoint reads headers, and each layer's rotary frequencies. A checkpoint is cheap
/// to share behind a reference.
#[derive(Debug)]
pub struct Checkpoint {
    source: Source,
    files: Vec<Arc<Mapped>>,
    tensors: Tensors,
    /// Tensors beside the model, which are no known head of it.
    unused: Vec<Located>,
    config: ModelConfig,
    vocabulary_paths: Vec<PathBuf>,
    config_path: Option<PathBuf>,
    tokenizer_path: Option<PathBuf>,
    warnings: Vec<String>,
    /// The other files that [`hash`](Self::hash) may cover, opened before any file was read.
    beside: Vec<Beside>,
    /// The hash, once it was computed.
    hash: OnceLock<String>,
}

/// A file beside the weights, with its state when it was opened.
#[derive(Debug)]
struct Beside {
    path: PathBuf,
    file: File,
    stamp: Stamp,
}

impl Beside {
    fn open(path: PathBuf) -> Result<Self, WeightsError> {
        let file = file::open(&path).map_err(WeightsError::read(&path))?;
        let stamp = Stamp::of(&file.metadata().map_err(WeightsError::read(&path))?);
        Ok(Self { path, file, stamp })
    }
}

/// Reads the first bytes of a file (their number is the third argument) into a hasher, through a
/// buffer.
type HashFile = fn(&mut blake3::Hasher, &File, u64, &mut Vec<u8>) -> io::Result<()>;

/// The properties of a tensor that `inspect` shows.
#[derive(Debug, Clone, serde::Serialize)]
pub struct TensorInfo {
    /// The canonical name.
    pub name: String,
    /// The name in the file.
    pub stored_name: String,
    /// Number format.
    pub dtype: String,
    /// Row-major shape, outermost first.
    pub shape: Vec<usize>,
    /// The file that holds the tensor.
    #[serde(serialize_with = "crate::untrusted::shown::serialize_path")]
    pub file: PathBuf,
    /// Whether the model uses the tensor.
    pub used: bool,
}

impl Checkpoint {
    /// Opens a model and checks its tensors against the architecture. `path` is a Hugging Face
    /// folder, a file of tensors (safetensors, `pytorch_model.bin`, fair-esm's `.pt`), or the index
    /// of a sharded checkpoint. The architecture comes from the config.json beside the weights, or
    /// else from the names and shapes of the tensors.
    ///
    /// # Errors
    /// [`WeightsError`] of every kind except the kinds for writing.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let source = Source::find(path)?;
        let mut beside = Vec::new();
        let index = source.index.as_ref().map(|(path, _)| path.clone());
        let others = [source.beside(config_json::FILE)?, source.beside(TOKENIZER)?];
        for path in others.into_iter().chain([index]).flatten() {
            beside.push(Beside::open(path)?);
        }
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
            // Each file by itself has kept this limit; all files together must keep it, too.
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
        source.check_index(&stored)?;

        let naming = backbone::naming(&stored, &source.root)?;
        let Sorted {
            tensors,
            beside: unused,
            misplaced,
        } = backbone::sort(stored, &naming, &source.files)?;

        // fair-esm's files contain their own settings; a config.json beside them is another
        // model's, and so is a vocab.txt.
        let own_files = naming.scheme == Scheme::HuggingFace;
        let config_path = match own_files {
            true => source.beside(config_json::FILE)?,
            false => None,
        };
        let tokenizer_path = source.beside(TOKENIZER)?;
        let json = config_path
            .as_deref()
            .map(|path| read_json(path, config_json::LONGEST))
            .transpose()?;
        let given = config_path.as_deref().zip(json.as_deref());
        let config = identify::determine(
            &tensors,
            &unused,
            naming.scheme,
            &settings,
            given,
            &source.root,
        )
        .and_then(|config| {
            let file = |t: &Located| source.files[t.file].clone();
            identify::check(&config, &tensors, &misplaced, file, &source.root)?;
            Ok(config)
        })
        .map_err(|error| {
            let all = tensors.values().chain(&unused).chain(&misplaced);
            identify::named(error, all, &source.root)
        })?;
        frequencies::check(&config, &tensors, |t| &files[t.file])?;
        let mut warnings = frequencies::warnings(&config, &tensors);
        warnings.extend(backbone::warning(&unused));
        let mut vocabulary = Vocabulary::default();
        if config.kind == ModelKind::Esm2 {
            let extra = extra_rows(&tensors, &files);
            let own = own_files.then_some(&source);
            vocabulary = vocabulary::check(config.vocab, extra, own, given, &source.root)?;
            warnings.extend(vocabulary.warning);
        }
        Ok(Self {
            source,
            files,
            tensors,
            unused,
            config,
            vocabulary_paths: vocabulary.files,
            config_path,
            tokenizer_path,
            warnings,
            beside,
            hash: OnceLock::new(),
        })
    }

    /// Makes a model of this architecture without values, for studies in which nothing is computed.
    /// Its tensors lie in a file that is a hole, takes no space on the disk, and has no name when
    /// this returns.
    ///
    /// # Errors
    /// [`WeightsError::Spec`] for impossible sizes, and [`WeightsError::Write`] if no file can be
    /// made in the folder for temporary files.
    pub fn hollow(config: &ModelConfig, dtype: DType) -> Result<Self, WeightsError> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("seqstream-hollow-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        // The call fails if somebody else has made the folder, so nobody else can have put files
        // into it.
        fs::create_dir(&dir).map_err(WeightsError::write(&dir))?;
        let opened = random::write_hollow(config, dtype, &dir).and_then(|()| Self::open(&dir));
        // The mapping keeps the file. What cannot be removed is empty, and takes no space.
        let _ = fs::remove_dir_all(&dir);
        let mut opened = opened?;
        for file in opened.files.iter_mut().filter_map(Arc::get_mut) {
            file.hollow = true;
        }
        Ok(opened)
    }

    /// The architecture and sizes.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Finds a tensor by its canonical name: Hugging Face's name without `esm.` or `bert.`.
    ///
    /// # Errors
    /// [`WeightsError::Missing`] if there is no such tensor, and [`WeightsError::Unusable`] for a
    /// tensor that the model does not need and whose format is not read.
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
        identify::usable(located, file.path())?;
        match (&located.stored.dtype, &located.stored.place) {
            (StoredDType::Float(dtype), Ok(range)) => Ok(Tensor {
                name: canonical.to_owned(),
                dtype: *dtype,
                shape: located.stored.shape.clone(),
                file: Arc::clone(file),
                range: range.clone(),
            }),
            // `usable` has just refused all other cases.
            _ => Err(WeightsError::Missing {
                tensor: canonical.to_owned(),
                path: file.path().to_owned(),
                expected: located.stored.shape.clone(),
                more: 0,
            }),
        }
    }

    /// Finds a tensor by its canonical name, if it is there and usable.
    pub fn optional(&self, canonical: &str) -> Option<Tensor> {
        self.find(canonical)?;
        self.tensor(canonical).ok()
    }

    /// Finds a tensor by its canonical name. Rotary frequencies may be stored once for all layers.
    fn find(&self, canonical: &str) -> Option<&Located> {
        let shared = || {
            let rotary = canonical.ends_with(".attention.self.rotary_embeddings.inv_freq");
            rotary
                .then(|| self.tensors.get(layout::SHARED_INV_FREQ))
                .flatten()
        };
        self.tensors.get(canonical).or_else(shared)
    }

    /// The path of the tokenizer.json beside the weights, if there is one.
    pub fn tokenizer_path(&self) -> Option<PathBuf> {
        self.tokenizer_path.clone()
    }

    /// The paths of the files beside the weights that list the tokens of an ESM-2.
    pub fn vocabulary_paths(&self) -> &[PathBuf] {
        &self.vocabulary_paths
    }

    /// Whether the tensor that a file has under this name stands beside the model and is not used.
    pub fn is_beside(&self, stored_name: &str) -> bool {
        self.unused.iter().any(|t| t.stored.name == stored_name)
    }

    /// The path of the config.json that gave the architecture, if one did.
    pub fn config_path(&self) -> Option<&Path> {
        self.config_path.as_deref()
    }

    /// Messages for the user about problems that do not stop the use of the weights.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The files that hold tensors.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|f| f.path())
    }

    /// The size in bytes of all files that hold tensors.
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes().len() as u64).sum()
    }

    /// The bytes of memory that the model's weights take if they are computed in f32: 4 bytes per
    /// value of each used tensor that is stored in another format. Tensors in f32 are used where
    /// they are mapped.
    pub fn converted_bytes(&self) -> u64 {
        let used = layout::expected(&self.config).into_iter();
        let stored = used
            .filter(|e| e.need != layout::Need::Unused)
            .filter_map(|e| self.find(&e.name));
        let values = |t: &Located| t.stored.shape.iter().map(|n| *n as u64).product::<u64>();
        stored
            .filter(|t| t.stored.dtype != StoredDType::Float(DType::F32))
            .map(|t| 4 * values(t))
            .sum()
    }

    /// All tensors of the files, unused ones included, in the order of their canonical names with
    /// layers in numeric order.
    pub fn tensors(&self) -> Vec<TensorInfo> {
        let used: BTreeMap<String, bool> = layout::expected(&self.config)
            .into_iter()
            .map(|e| (e.name, e.need != layout::Need::Unused))
            .collect();
        let mut all: Vec<TensorInfo> = self
            .tensors
            .iter()
            .chain(self.unused.iter().map(|t| (&t.stored.name, t)))
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

    /// Compares the checksums that PyTorch's archives keep of their entries with the bytes of the
    /// entries, and returns how many entries were compared. safetensors files keep no checksums and
    /// count as 0 entries. The files are read from start to end.
    ///
    /// # Errors
    /// [`WeightsError::Read`] if a file cannot be read, and [`WeightsError::Format`] for the first
    /// entry that does not match its checksum.
    pub fn compare_checksums(&self) -> Result<usize, WeightsError> {
        let mut compared = 0;
        for (number, mapped) in self.files.iter().enumerate() {
            if !torch::is_archive(mapped.bytes()) {
                continue;
            }
            let path = mapped.path();
            // The file is not read through the mapping, so that none of it stays in this program's
            // memory.
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

    /// Hashes all files that decide the result: the files of weights with their index, config.json
    /// and tokenizer.json, by file name and content. Returns a BLAKE3 hash in hexadecimal.
    ///
    /// The files are read from start to end, some MiB at a time, by the threads of the rayon pool
    /// in which this is called. They are the files that were opened, whatever their paths lead to
    /// by now.
    ///
    /// # Errors
    /// [`WeightsError::Read`] if a file cannot be read, and [`WeightsError::Changed`] if a file is
    /// not what it was when the checkpoint was opened.
    pub fn hash(&self) -> Result<String, WeightsError> {
        let hash = self.hash_with(hash::file)?;
        // These files are read through their paths, both when the checkpoint is opened and by the
        // tokenizer, so the paths must still lead to the hashed files.
        for Beside { path, stamp, .. } in self.hashed_beside() {
            let now = Stamp::of(&fs::metadata(path).map_err(WeightsError::read(path))?);
            if stamp.state(&now) == State::Changed {
                return Err(WeightsError::Changed { path: path.clone() });
            }
        }
        // If the hash was computed before, that hash stays.
        let _ = self.hash.set(hash.clone());
        Ok(hash)
    }

    /// The files beside the weights that the hash covers. A config.json that did not give the
    /// architecture is no part of the model.
    fn hashed_beside(&self) -> impl Iterator<Item = &Beside> {
        let asked = self.config_path.is_some();
        let is_config = |b: &Beside| b.path.file_name().is_some_and(|n| n == config_json::FILE);
        self.beside.iter().filter(move |b| asked || !is_config(b))
    }

    fn hash_with(&self, hash_file: HashFile) -> Result<String, WeightsError> {
        let mut files: Vec<(&Path, &File)> =
            self.files.iter().map(|m| (m.path(), m.file())).collect();
        files.extend(self.hashed_beside().map(|b| (b.path.as_path(), &b.file)));
        files.sort_by_key(|(path, _)| *path);
        let mut hasher = blake3::Hasher::new();
        let mut buffer = Vec::new();
        for (path, file) in files {
            // Lengths come before contents, so that two different sets of files never hash the same
            // bytes.
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            hasher.update(&(name.len() as u64).to_le_bytes());
            hasher.update(name.as_bytes());
            let length = file.metadata().map_err(WeightsError::read(path))?.len();
            hasher.update(&length.to_le_bytes());
            hash_file(&mut hasher, file, length, &mut buffer).map_err(WeightsError::read(path))?;
        }
        for file in &self.files {
            if file.state().map_err(WeightsError::read(file.path()))?.0 == State::Changed {
                return Err(WeightsError::Changed {
                    path: file.path().to_owned(),
                });
            }
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// Checks that the mapped files still are what they were when they were opened. Sizes and times
    /// are compared; if only a file's name, owner or permissions changed and the checkpoint was
    /// hashed, its content is hashed again and compared. Call this after computing, and before the
    /// output counts as a result.
    ///
    /// # Errors
    /// [`WeightsError::Changed`] if a file changed, and [`WeightsError::Read`] if a file cannot be
    /// read.
    pub fn unchanged(&self) -> Result<(), WeightsError> {
        let mut touched = Vec::new();
        for file in &self.files {
            match file.state().map_err(WeightsError::read(file.path()))? {
                (State::Same, _) => {}
                (State::Touched, now) => touched.push((file, now)),
                (State::Changed, _) => {
                    return Err(WeightsError::Changed {
                        path: file.path().to_owned(),
                    });
                }
            }
        }
        let (Some((first, _)), Some(hash)) = (touched.first(), self.hash.get()) else {
            return Ok(());
        };
        // This thread hashes alone, since there may be no pool of threads here.
        if self.hash_with(hash::file_alone)? != *hash {
            return Err(WeightsError::Changed {
                path: first.path().to_owned(),
            });
        }
        for (file, now) in touched {
            file.accept(now);
        }
        Ok(())
    }
}

/// The file name of DNABERT's tokenizer.
const TOKENIZER: &str = "tokenizer.json";

/// The bytes of the embedding after the rows of ESM-2's tokens.
fn extra_rows<'a>(tensors: &Tensors, files: &'a [Arc<Mapped>]) -> &'a [u8] {
    let table = tensors.get("embeddings.word_embeddings.weight");
    let found = table.and_then(|t| {
        let range = t.stored.place.as_ref().ok()?;
        let row = range.len() / t.stored.shape.first()?;
        let start = range
            .start
            .checked_add(row.checked_mul(vocabulary::TOKENS)?)?;
        files.get(t.file)?.bytes().get(start..range.end)
    });
    found.unwrap_or_default()
}
