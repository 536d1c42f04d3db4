//! PyTorch checkpoints: zip archives of stored entries, one a storage, and a pickle that says which
//! tensor is which.
//!
//! Nothing is unpacked: the archive is mapped, and a tensor is a range of it.

mod pickle;
mod value;

use std::collections::HashMap;
use std::io::{Cursor, Read};
use std::ops::Range;

use zip::{CompressionMethod, ZipArchive};

use super::stored::{Malformed, StoredTensor, element_count};
use pickle::Pickle;
use value::{Id, Storage, TensorView, Value};

/// What a PyTorch checkpoint holds.
#[derive(Debug)]
pub struct TorchFile {
    /// Its tensors, in the file's order.
    pub tensors: Vec<StoredTensor>,
    /// The settings that fair-esm stores beside the weights.
    pub settings: FairEsmSettings,
}

/// What a fair-esm checkpoint says about its architecture, where it can be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FairEsmSettings {
    /// `encoder_layers`
    pub layers: Option<usize>,
    /// `encoder_embed_dim`
    pub hidden: Option<usize>,
    /// `encoder_attention_heads`
    pub heads: Option<usize>,
    /// `token_dropout`
    pub token_dropout: Option<bool>,
}

/// Reads the index of a whole PyTorch checkpoint.
///
/// # Errors
/// Where the archive or its pickle is malformed, or asks for more than data.
pub fn read_index(file: &[u8]) -> Result<TorchFile, Malformed> {
    if file.starts_with(&[0x80]) {
        return Err(Malformed::new(
            "this is a checkpoint in PyTorch's format from before 1.6, which cannot be mapped",
            "load it in PyTorch with torch.load(path, weights_only=True) and torch.save it again, or look for \
             the model in safetensors format",
        ));
    }
    let mut archive = Archive::open(file)?;
    archive.check_byte_order()?;
    let bytes = archive.pickle()?;
    let pickle = Pickle::read(&bytes)?;
    let state = state_dict(&pickle)?;
    let Value::Dict(pairs) = pickle.get(state) else {
        return Err(no_state_dict());
    };
    let mut tensors = Vec::new();
    for (name, tensor) in pairs {
        // Names of other types, and values such as version numbers, are no tensors of a model.
        if let (Value::Str(name), Value::Tensor(view)) = (pickle.get(*name), pickle.get(*tensor))
            && let Value::Storage(storage) = pickle.get(view.storage)
        {
            tensors.push(archive.tensor(name, view, storage)?);
        }
    }
    if tensors.is_empty() {
        return Err(no_state_dict());
    }
    Ok(TorchFile {
        tensors,
        settings: settings(&pickle),
    })
}

/// Runs a pickle by itself, as the fuzzer does: whether it can be read, and how many entries its
/// root has.
///
/// # Errors
/// As [`read_index`].
pub fn check_pickle(bytes: &[u8]) -> Result<usize, Malformed> {
    let pickle = Pickle::read(bytes)?;
    let _ = settings(&pickle);
    Ok(match pickle.get(state_dict(&pickle)?) {
        Value::Dict(pairs) => pairs.len(),
        _ => 0,
    })
}

fn no_state_dict() -> Malformed {
    Malformed::new(
        "the checkpoint holds no dict of tensors",
        "save the model's state_dict() and not the model or the trainer itself",
    )
}

/// The dict of tensors: the root itself, or what fair-esm keeps under `model` and others under
/// `state_dict`.
fn state_dict(pickle: &Pickle) -> Result<Id, Malformed> {
    let root = pickle.root();
    let nested = ["model", "state_dict"]
        .iter()
        .filter_map(|key| pickle.entry(root, key));
    let mut dicts = nested.filter(|id| matches!(pickle.get(*id), Value::Dict(_)));
    match (dicts.next(), pickle.get(root)) {
        (Some(id), _) => Ok(id),
        (None, Value::Dict(_)) => Ok(root),
        (None, _) => Err(no_state_dict()),
    }
}

fn settings(pickle: &Pickle) -> FairEsmSettings {
    let root = pickle.root();
    // omegaconf keeps the entries of a config under `_content`, and a value under `_val`.
    let inside = |id: Id| pickle.entry(id, "_content").unwrap_or(id);
    let model = match (pickle.entry(root, "cfg"), pickle.entry(root, "args")) {
        (Some(cfg), _) => pickle.entry(inside(cfg), "model").map(inside),
        (None, args) => args,
    };
    let field = |name: &str| {
        let id = pickle.entry(model?, name)?;
        Some(pickle.get(pickle.entry(id, "_val").unwrap_or(id)))
    };
    let number = |name: &str| match field(name) {
        Some(Value::Int(n)) => usize::try_from(*n).ok(),
        _ => None,
    };
    FairEsmSettings {
        layers: number("encoder_layers"),
        hidden: number("encoder_embed_dim"),
        heads: number("encoder_attention_heads"),
        token_dropout: match field("token_dropout") {
            Some(Value::Bool(b)) => Some(*b),
            _ => None,
        },
    }
}

/// The zip archive around a checkpoint.
struct Archive<'a> {
    zip: ZipArchive<Cursor<&'a [u8]>>,
    /// The folder all entries stand in, with its slash.
    folder: String,
    /// Where the storages asked for so far lie.
    known: HashMap<String, Range<usize>>,
    size: usize,
}

impl<'a> Archive<'a> {
    fn open(file: &'a [u8]) -> Result<Self, Malformed> {
        let zip = ZipArchive::new(Cursor::new(file)).map_err(|error| {
            Malformed::damaged(format!(
                "the zip archive of {} bytes cannot be read: {error}",
                file.len()
            ))
        })?;
        let pickle = zip.file_names_raw().find_map(|name| {
            let name = std::str::from_utf8(name).ok()?;
            let folder = name.strip_suffix("data.pkl")?;
            (folder.is_empty() || folder.ends_with('/')).then(|| folder.to_owned())
        });
        let folder = pickle.ok_or_else(|| {
            Malformed::new(
                "this zip archive is no PyTorch checkpoint: it has no entry data.pkl",
                "give a file written by torch.save; a zipped model folder must be unpacked first",
            )
        })?;
        Ok(Self {
            zip,
            folder,
            known: HashMap::new(),
            size: file.len(),
        })
    }

    /// Reads a small entry, its checksum verified.
    fn read(&mut self, entry: &str, most: u64) -> Result<Option<Vec<u8>>, Malformed> {
        let name = format!("{}{entry}", self.folder);
        let Some(index) = self.zip.index_for_name(&name) else {
            return Ok(None);
        };
        self.stored(index, &name)?;
        let failed = |error: &dyn std::fmt::Display| {
            Malformed::damaged(format!(
                "the archive's entry {name} cannot be read: {error}"
            ))
        };
        let file = self.zip.by_index(index).map_err(|e| failed(&e))?;
        if file.size() > most {
            return Err(failed(&format!(
                "it is {} bytes long, and at most {most} are read",
                file.size()
            )));
        }
        let mut bytes = Vec::new();
        file.take(most + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| failed(&e))?;
        Ok(Some(bytes))
    }

    fn pickle(&mut self) -> Result<Vec<u8>, Malformed> {
        self.read("data.pkl", pickle::LONGEST)?
            .ok_or_else(|| Malformed::damaged("the archive lost its data.pkl"))
    }

    fn check_byte_order(&mut self) -> Result<(), Malformed> {
        match self
            .read("byteorder", 16)?
            .as_deref()
            .map(<[u8]>::trim_ascii)
        {
            None | Some(b"little") => Ok(()),
            Some(order) => Err(Malformed::new(
                format!(
                    "the checkpoint's byte order is {}, and only little is read",
                    order.escape_ascii()
                ),
                "save it again on a little-endian machine, such as any x86 or ARM one",
            )),
        }
    }

    /// The bytes of an entry that is neither compressed nor encrypted.
    fn stored(&mut self, index: usize, name: &str) -> Result<Range<usize>, Malformed> {
        let file = self.zip.by_index_raw(index).map_err(|error| {
            Malformed::damaged(format!(
                "the archive's entry {name} cannot be found: {error}"
            ))
        })?;
        if file.compression() != CompressionMethod::Stored || file.encrypted() {
            return Err(Malformed::new(
                format!(
                    "the archive's entry {name} is compressed or encrypted and cannot be mapped"
                ),
                "load it in PyTorch and torch.save it again, which stores entries as they are",
            ));
        }
        let range = file.data_start().and_then(|start| {
            let start = usize::try_from(start).ok()?;
            let end = start.checked_add(usize::try_from(file.size()).ok()?)?;
            (file.size() == file.compressed_size() && end <= self.size).then_some(start..end)
        });
        range.ok_or_else(|| {
            Malformed::damaged(format!(
                "the archive's entry {name} reaches beyond the file's end"
            ))
        })
    }

    fn storage(&mut self, key: &str) -> Result<Range<usize>, Malformed> {
        if let Some(range) = self.known.get(key) {
            return Ok(range.clone());
        }
        let name = format!("{}data/{key}", self.folder);
        let index = self.zip.index_for_name(&name);
        let index =
            index.ok_or_else(|| Malformed::damaged(format!("the archive has no entry {name}")))?;
        let range = self.stored(index, &name)?;
        self.known.insert(key.to_owned(), range.clone());
        Ok(range)
    }

    fn tensor(
        &mut self,
        name: &str,
        view: &TensorView,
        storage: &Storage,
    ) -> Result<StoredTensor, Malformed> {
        let mut entry = self.storage(storage.key).map_err(|mut malformed| {
            malformed.what = format!("tensor {name}: {}", malformed.what);
            malformed
        })?;
        let Some(size) = storage.dtype.size() else {
            let place = Err("is stored in an unknown format".into());
            return Ok(StoredTensor {
                name: name.into(),
                dtype: storage.dtype,
                shape: view.shape.clone(),
                place,
            });
        };
        let outside = || {
            Malformed::damaged(format!(
                "tensor {name} of shape {:?} at offset {} reaches beyond its storage data/{} of {} bytes",
                view.shape,
                view.offset,
                storage.key,
                entry.len()
            ))
        };
        let bytes = |values: usize| values.checked_mul(size);
        if bytes(storage.len).is_none_or(|n| n > entry.len()) {
            return Err(outside());
        }
        let start = bytes(view.offset).ok_or_else(outside)?;
        let length = element_count(&view.shape)
            .and_then(bytes)
            .ok_or_else(outside)?;
        let end = start
            .checked_add(length)
            .filter(|end| *end <= entry.len())
            .ok_or_else(outside)?;
        let place = if contiguous(&view.shape, &view.stride) {
            let base = entry.start;
            entry = base + start..base + end;
            Ok(entry)
        } else {
            Err(format!(
                "of shape {:?} has strides {:?}, and only row-major ones without gaps are mapped",
                view.shape, view.stride
            ))
        };
        Ok(StoredTensor {
            name: name.into(),
            dtype: storage.dtype,
            shape: view.shape.clone(),
            place,
        })
    }
}

/// Whether values lie row-major and without gaps. The stride of a dimension of one is never used.
fn contiguous(shape: &[usize], stride: &[usize]) -> bool {
    if shape.contains(&0) {
        return true;
    }
    let mut expected = 1usize;
    for (&size, &stride) in shape.iter().zip(stride).rev() {
        if size != 1 && stride != expected {
            return false;
        }
        // The product was checked not to overflow.
        expected = expected.saturating_mul(size);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::contiguous;

    #[test]
    fn what_is_contiguous() {
        assert!(contiguous(&[2, 3], &[3, 1]));
        assert!(contiguous(&[], &[]));
        assert!(
            contiguous(&[1, 4], &[99, 1]),
            "the stride of a single row does not matter"
        );
        assert!(contiguous(&[0, 3], &[7, 7]));
        assert!(!contiguous(&[3, 2], &[1, 3]), "transposed");
        assert!(!contiguous(&[2, 3], &[4, 1]), "gaps between rows");
        assert!(!contiguous(&[4], &[0]), "expanded");
    }
}
