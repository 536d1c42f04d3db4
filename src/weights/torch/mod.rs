//! Reads PyTorch checkpoints: zip archives of uncompressed entries, one per storage, and a pickle
//! that describes the tensors.
//!
//! Nothing is unpacked: the archive is mapped, and a tensor is a range of its bytes.

mod contents;
mod module;
mod pickle;
mod value;
pub mod write;

use std::collections::{HashMap, HashSet};
use std::io::{self, Cursor, Read, Seek};
use std::ops::Range;

use zip::unstable::read::ZipIterable;
use zip::{CompressionMethod, ZipArchive};

use super::stored::{MOST_TENSORS, Malformed, StoredTensor, element_count, fitting_name};
use crate::untrusted::{Shown, shown};
pub use contents::FairEsmSettings;
use contents::{no_state_dict, settings, state_dict};
use pickle::Pickle;
use value::{Globals, Id, Storage, TensorView, Value};

/// The contents of a weights file.
#[derive(Debug)]
pub struct TorchFile {
    /// The tensors, in the order of the file.
    pub tensors: Vec<StoredTensor>,
    /// The settings that fair-esm stores beside the weights; empty in other files.
    pub settings: FairEsmSettings,
}

/// Returns whether these bytes begin a zip archive.
pub(super) fn is_archive(file: &[u8]) -> bool {
    file.starts_with(b"PK\x03\x04")
}

/// Reads the index of a PyTorch checkpoint. `file` is the whole file.
///
/// # Errors
/// [`Malformed`] if the archive or its pickle is malformed, or if the pickle asks for more than
/// data.
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
    Ok(TorchFile {
        tensors: state_tensors(&mut archive, &pickle)?,
        settings: settings(&pickle),
    })
}

/// Reads the index of a small classifier: a checkpoint, or a module that was saved as a whole,
/// whose tensors get the names that they have in its `state_dict()`. `file` is the whole file.
///
/// # Errors
/// [`Malformed`] if the archive or its pickle is malformed, or if the pickle asks for more than
/// data.
pub fn read_classifier(file: &[u8]) -> Result<TorchFile, Malformed> {
    if file.starts_with(&[0x80]) {
        return Err(Malformed::new(
            "this is a file in PyTorch's format from before 1.6, which is not read",
            "if you trust the file, load it where its class is defined, with torch.load(path, \
             map_location=\"cpu\", weights_only=False), which runs what the file asks for, and \
             torch.save its state_dict()",
        ));
    }
    let mut archive = Archive::open(file)?;
    archive.check_byte_order()?;
    let bytes = archive.pickle()?;
    let pickle = Pickle::read_with(&bytes, Globals::Classifier)?;
    let tensors = match pickle.get(pickle.root()) {
        Value::Object(_) => {
            let mut tensors = Vec::new();
            for (name, view) in module::tensors(&pickle, pickle.root())? {
                if let Value::Storage(storage) = pickle.get(view.storage) {
                    tensors.push(archive.tensor(&name, view, storage)?);
                }
            }
            tensors
        }
        _ => state_tensors(&mut archive, &pickle)?,
    };
    Ok(TorchFile {
        tensors,
        settings: FairEsmSettings::default(),
    })
}

/// The tensors of the dict of tensors that a checkpoint holds.
fn state_tensors(archive: &mut Archive, pickle: &Pickle) -> Result<Vec<StoredTensor>, Malformed> {
    let state = state_dict(pickle)?;
    let Value::Dict(pairs) = pickle.get(state) else {
        return Err(no_state_dict());
    };
    let mut tensors = Vec::new();
    let mut names = HashSet::new();
    for (name, tensor) in pairs {
        // Keys that are not strings, and values such as version numbers, are not tensors of a
        // model.
        if let (Value::Str(name), Value::Tensor(view)) = (pickle.get(*name), pickle.get(*tensor))
            && let Value::Storage(storage) = pickle.get(view.storage)
        {
            // The name is checked before anything is copied: thousands of pairs may have the same
            // name of a megabyte.
            fitting_name(name, tensors.len()).map_err(Malformed::damaged)?;
            if !names.insert(*name) {
                return Err(Malformed::damaged(format!(
                    "the pickle has tensor {} twice",
                    Shown(name)
                )));
            }
            tensors.push(archive.tensor(name, view, storage)?);
        }
    }
    if tensors.is_empty() {
        return Err(no_state_dict());
    }
    Ok(tensors)
}

/// Runs a pickle by itself, as the fuzzer does, and returns how many entries its dict of tensors
/// has.
///
/// # Errors
/// Fails as [`read_index`] does.
pub fn check_pickle(bytes: &[u8]) -> Result<usize, Malformed> {
    let pickle = Pickle::read(bytes)?;
    let _ = settings(&pickle);
    Ok(match pickle.get(state_dict(&pickle)?) {
        Value::Dict(pairs) => pairs.len(),
        _ => 0,
    })
}

/// Runs a pickle by itself and writes its value as text, which the fuzzer compares: a number by its
/// digits, a float by its bits, containers by their brackets. Values that are nested more than 64
/// deep, and text beyond one MiB, become "...".
///
/// # Errors
/// Fails as [`read_index`] does.
pub fn pickle_text(bytes: &[u8]) -> Result<String, Malformed> {
    let pickle = Pickle::read(bytes)?;
    let mut out = String::new();
    text(&pickle, pickle.root(), 0, &mut out);
    Ok(out)
}

/// The length in bytes at which [`pickle_text`] stops writing: a shared value is written out at
/// every place where it is used.
const LONGEST_TEXT: usize = 1 << 20;

fn text(pickle: &Pickle, id: Id, depth: usize, out: &mut String) {
    use std::fmt::Write;
    if depth > 64 || out.len() > LONGEST_TEXT {
        out.push_str("...");
        return;
    }
    // Writing to a String cannot fail.
    let _ = match pickle.get(id) {
        Value::None => write!(out, "none"),
        Value::Bool(b) => write!(out, "{b}"),
        Value::Int(n) => write!(out, "{n}"),
        Value::Float(x) => write!(out, "{:#018x}", x.to_bits()),
        Value::Str(s) => write!(out, "{s:?}"),
        Value::Opaque => write!(out, "?"),
        Value::Global(global) => write!(out, "{global:?}"),
        Value::Storage(s) => write!(out, "{:?} of {} in {}", s.key, s.len, s.dtype),
        Value::Object(state) => {
            out.push_str("object(");
            if let Some(state) = state {
                text(pickle, *state, depth + 1, out);
            }
            write!(out, ")")
        }
        Value::Sequence(items) => {
            out.push('[');
            for item in items {
                text(pickle, *item, depth + 1, out);
                out.push(',');
                // A list of a million items may be recalled a million times.
                if out.len() > LONGEST_TEXT {
                    break;
                }
            }
            write!(out, "]")
        }
        Value::Dict(pairs) => {
            out.push('{');
            for (key, value) in pairs {
                text(pickle, *key, depth + 1, out);
                out.push(':');
                text(pickle, *value, depth + 1, out);
                out.push(',');
                if out.len() > LONGEST_TEXT {
                    break;
                }
            }
            write!(out, "}}")
        }
        Value::Tensor(view) => {
            out.push_str("tensor(");
            text(pickle, view.storage, depth + 1, out);
            write!(
                out,
                ", {}, {:?}, {:?})",
                view.offset, view.shape, view.stride
            )
        }
    };
}

/// The zip archive that holds a checkpoint.
struct Archive<'a> {
    zip: ZipArchive<Cursor<&'a [u8]>>,
    /// The folder of all entries in the archive, with its slash.
    folder: String,
    /// The byte ranges of the storages that were looked up so far, by key.
    known: HashMap<String, Range<usize>>,
    /// The number of bytes of the file.
    size: usize,
}

impl<'a> Archive<'a> {
    fn open(file: &'a [u8]) -> Result<Self, Malformed> {
        check_directory(file)?;
        let zip = ZipArchive::new(Cursor::new(file)).map_err(|error| unreadable(file, &error))?;
        let folders = zip.file_names_raw().filter_map(|name| {
            let name = std::str::from_utf8(name).ok()?;
            let folder = name.strip_suffix("data.pkl")?;
            (folder.is_empty() || folder.ends_with('/')).then(|| folder.to_owned())
        });
        let mut folders: Vec<String> = folders.take(2).collect();
        if let [one, other] = folders.as_slice() {
            return Err(Malformed::damaged(format!(
                "the zip archive has two pickles, {}data.pkl and {}data.pkl",
                Shown(one),
                Shown(other)
            )));
        }
        let folder = folders.pop().ok_or_else(|| {
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

    /// Reads an entry of at most `most` bytes and verifies its checksum. Returns `None` if there is
    /// no such entry.
    fn read(&mut self, entry: &str, most: u64) -> Result<Option<Vec<u8>>, Malformed> {
        let name = format!("{}{entry}", self.folder);
        let Some(index) = self.zip.index_for_name(&name) else {
            return Ok(None);
        };
        self.stored(index, &name)?;
        let failed = |error: &dyn std::fmt::Display| {
            Malformed::damaged(format!(
                "the archive's entry {} cannot be read: {error}",
                Shown(&name)
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

    /// The range of an entry's bytes in the file. An entry that is compressed or encrypted is an
    /// error.
    fn stored(&mut self, index: usize, name: &str) -> Result<Range<usize>, Malformed> {
        let file = self.zip.by_index_raw(index).map_err(|error| {
            Malformed::damaged(format!(
                "the archive's entry {} cannot be found: {error}",
                Shown(name)
            ))
        })?;
        if file.compression() != CompressionMethod::Stored || file.encrypted() {
            return Err(Malformed::new(
                format!(
                    "the archive's entry {} is compressed or encrypted and cannot be mapped",
                    Shown(name)
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
                "the archive's entry {} reaches beyond the file's end",
                Shown(name)
            ))
        })
    }

    fn storage(&mut self, key: &str) -> Result<Range<usize>, Malformed> {
        if let Some(range) = self.known.get(key) {
            return Ok(range.clone());
        }
        let name = format!("{}data/{key}", self.folder);
        let index = self.zip.index_for_name(&name);
        let index = index.ok_or_else(|| {
            Malformed::damaged(format!("the archive has no entry {}", Shown(&name)))
        })?;
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
            malformed.what = format!("tensor {}: {}", Shown(name), malformed.what);
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
                "tensor {} of shape {} at offset {} reaches beyond its storage data/{} of {} bytes",
                Shown(name),
                shown::shape(&view.shape),
                view.offset,
                Shown(storage.key),
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
                "of shape {} has strides {}, and only row-major ones without gaps are mapped",
                shown::shape(&view.shape),
                shown::shape(&view.stride)
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

/// The most entries of an archive: one per storage, and a few more. The reader of archives takes
/// some 500 bytes for each entry that the archive's end record promises, whether the entry exists
/// or not.
const MOST_ENTRIES: usize = MOST_TENSORS + 64;

/// The longest name of an entry, in bytes. It is the name that the file had when it was saved,
/// which no file system here lets be longer than 255 bytes, followed by "/data/" and a number.
const LONGEST_ENTRY_NAME: usize = 1000;

fn unreadable(file: &[u8], error: &dyn std::fmt::Display) -> Malformed {
    Malformed::damaged(format!(
        "the zip archive of {} bytes cannot be read: {error}",
        file.len()
    ))
}

/// Goes through the archive's directory, which takes memory only for the names, and refuses what
/// [`ZipArchive`] would accept: more entries than a checkpoint can have, a name that is too long,
/// and a repeated name, of which `ZipArchive` would take the last entry and other readers the
/// first.
fn check_directory(file: &[u8]) -> Result<(), Malformed> {
    let failed = |error| unreadable(file, &error);
    let config = zip::read::Config::default();
    let mut archive = ZipIterable::try_new(Cursor::new(file), config).map_err(failed)?;
    if archive.len() > MOST_ENTRIES {
        return Err(Malformed::damaged(format!(
            "the zip archive gives itself {} entries, of which at most {MOST_ENTRIES} are read",
            archive.len()
        )));
    }
    let mut names = HashSet::new();
    // Every header is read: if a header cannot be read, `ZipArchive` would look for another
    // directory.
    for entry in archive.files().map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.name_raw();
        if name.len() > LONGEST_ENTRY_NAME {
            return Err(Malformed::damaged(format!(
                "an entry's name in the zip archive, {}, has {} bytes, of which \
                 {LONGEST_ENTRY_NAME} are read",
                Shown(&String::from_utf8_lossy(name)),
                name.len()
            )));
        }
        if !names.insert(name.to_vec()) {
            return Err(Malformed::damaged(format!(
                "the zip archive has two entries of the name {}",
                Shown(&String::from_utf8_lossy(name))
            )));
        }
    }
    Ok(())
}

/// An entry whose bytes do not match its checksum.
#[derive(Debug)]
pub(super) struct Corrupt {
    /// The name of the entry.
    pub entry: String,
    /// The range of its bytes in the file, if it is known.
    pub place: Option<Range<usize>>,
    /// The error that reading it gave.
    pub error: String,
}

/// Reads every entry of an archive, so that its checksum (CRC-32) is compared. Returns how many
/// entries there are, or the first entry that is corrupt.
///
/// # Errors
/// Fails if the file cannot be read.
pub(super) fn compare_checksums(file: impl Read + Seek) -> io::Result<Result<usize, Corrupt>> {
    let mut archive = ZipArchive::new(file)?;
    for index in 0..archive.len() {
        let mut corrupt = Corrupt {
            entry: String::new(),
            place: None,
            error: String::new(),
        };
        let copied = match archive.by_index(index) {
            Ok(mut entry) => {
                corrupt.entry = String::from_utf8_lossy(entry.name_raw()).into_owned();
                corrupt.place = place(&entry);
                io::copy(&mut entry, &mut io::sink()).map(|_| ())
            }
            Err(error) => Err(error.into()),
        };
        match copied {
            Ok(()) => {}
            // An error of the system says nothing about the content of the file.
            Err(error) if error.raw_os_error().is_some() => return Err(error),
            Err(error) => {
                corrupt.error = error.to_string();
                return Ok(Err(corrupt));
            }
        }
    }
    Ok(Ok(archive.len()))
}

fn place<R: Read>(entry: &zip::read::ZipFile<'_, R>) -> Option<Range<usize>> {
    let start = usize::try_from(entry.data_start()?).ok()?;
    let length = usize::try_from(entry.compressed_size()).ok()?;
    Some(start..start.checked_add(length)?)
}

/// Returns whether values lie row-major and without gaps. The stride of a dimension of size 1 is
/// never used.
fn contiguous(shape: &[usize], stride: &[usize]) -> bool {
    if shape.contains(&0) {
        return true;
    }
    let mut expected = 1usize;
    for (&size, &stride) in shape.iter().zip(stride).rev() {
        if size != 1 && stride != expected {
            return false;
        }
        // The caller has checked that the product does not overflow.
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
