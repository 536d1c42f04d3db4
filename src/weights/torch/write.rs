//! Writes files that `torch.load(path, weights_only=True)` reads: zip archives of stored entries
//! with one pickle, which describes the values, and one entry per storage of a tensor.
//!
//! ```
//! use seqstream::weights::torch_write::TorchWriter;
//!
//! let dir = tempfile::tempdir()?;
//! let mut file = TorchWriter::create(&dir.path().join("rows.pt"))?;
//! file.pickle(|p| {
//!     p.begin_dict()?;
//!     p.text("label")?;
//!     p.text("record 1")?;
//!     p.text("mean_representations")?;
//!     p.begin_dict()?;
//!     p.int(33)?;
//!     p.tensor_f32(0, &[3])?;
//!     p.end_dict()?;
//!     p.end_dict()
//! })?;
//! file.storage_f32(0, &[0.5, 1.0, -2.0])?;
//! file.finish()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The same calls write the same bytes: no entry has a time.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::super::WeightsError;
use super::super::write::Replacement;

/// The folder of all entries in the archive.
const FOLDER: &str = "archive";
/// The multiple of bytes at which the content of an entry begins, as in PyTorch's own files.
const ALIGNMENT: u16 = 64;
/// Values that are converted to bytes at a time.
const BLOCK: usize = 1 << 14;

/// Writes one file, which has its name only when it is whole. If the writer is dropped before
/// [`finish`](Self::finish), it leaves nothing behind.
pub struct TorchWriter {
    zip: ZipWriter<Replacement>,
    path: PathBuf,
}

impl TorchWriter {
    /// Begins the file `path`.
    ///
    /// # Errors
    /// [`WeightsError::Write`] if the file cannot be created.
    pub fn create(path: &Path) -> Result<Self, WeightsError> {
        Ok(Self {
            zip: ZipWriter::new(Replacement::create(path)?),
            path: path.to_owned(),
        })
    }

    /// Writes the pickle of the file's value, which `write` makes. A file has one pickle.
    ///
    /// # Errors
    /// [`WeightsError::Write`] if the file cannot be written, or if `write` fails.
    pub fn pickle(
        &mut self,
        write: impl FnOnce(&mut Pickler<'_>) -> io::Result<()>,
    ) -> Result<(), WeightsError> {
        let written = self.begin("data.pkl").and_then(|()| {
            let mut out = BufWriter::with_capacity(1 << 16, &mut self.zip);
            let mut pickler = Pickler {
                out: &mut out,
                known: Vec::new(),
            };
            // PROTO 2, as PyTorch writes it; STOP.
            pickler.put(b"\x80\x02")?;
            write(&mut pickler)?;
            pickler.put(b".")?;
            out.flush()
        });
        written.map_err(WeightsError::write(&self.path))
    }

    /// Writes the values of the storage of this number.
    ///
    /// # Errors
    /// [`WeightsError::Write`] if the file cannot be written.
    pub fn storage_f32(&mut self, number: usize, values: &[f32]) -> Result<(), WeightsError> {
        self.storage_f32_parts(number, [values])
    }

    /// Writes the values of the storage of this number, which come in parts.
    ///
    /// # Errors
    /// [`WeightsError::Write`] if the file cannot be written.
    pub fn storage_f32_parts<'v>(
        &mut self,
        number: usize,
        parts: impl IntoIterator<Item = &'v [f32]>,
    ) -> Result<(), WeightsError> {
        let written = self.begin(&format!("data/{number}")).and_then(|()| {
            let mut bytes = Vec::new();
            for block in parts.into_iter().flat_map(|part| part.chunks(BLOCK)) {
                bytes.clear();
                bytes.extend(block.iter().flat_map(|value| value.to_le_bytes()));
                self.zip.write_all(&bytes)?;
            }
            Ok(())
        });
        written.map_err(WeightsError::write(&self.path))
    }

    /// Syncs the file and gives it its name.
    ///
    /// # Errors
    /// [`WeightsError::Write`] if the file cannot be written.
    pub fn finish(mut self) -> Result<(), WeightsError> {
        let ended = [("byteorder", &b"little"[..]), ("version", b"3\n")]
            .into_iter()
            .try_for_each(|(entry, text)| {
                self.begin(entry)?;
                self.zip.write_all(text)
            })
            .and_then(|()| Ok(self.zip.finish()?));
        ended.map_err(WeightsError::write(&self.path))?.finish()
    }

    fn begin(&mut self, entry: &str) -> io::Result<()> {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .with_alignment(ALIGNMENT);
        Ok(self.zip.start_file(format!("{FOLDER}/{entry}"), options)?)
    }
}

/// Writes a value as a pickle, part by part. A dict is [`begin_dict`](Self::begin_dict), a key, its
/// value, further pairs, [`end_dict`](Self::end_dict); a list likewise.
pub struct Pickler<'a> {
    out: &'a mut dyn Write,
    /// What the pickle remembers, in the order of its numbers: instructions that would otherwise
    /// stand in it once per tensor.
    known: Vec<&'static [u8]>,
}

impl Pickler<'_> {
    /// Writes `None`.
    ///
    /// # Errors
    /// Fails if the file cannot be written; all methods do.
    pub fn none(&mut self) -> io::Result<()> {
        self.put(b"N")
    }

    /// Writes a truth value.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub fn bool(&mut self, value: bool) -> io::Result<()> {
        self.put(if value { b"\x88" } else { b"\x89" })
    }

    /// Writes an integer.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub fn int(&mut self, value: i64) -> io::Result<()> {
        // BININT1, BININT2, BININT, LONG1
        if let Ok(n) = u8::try_from(value) {
            self.put(&[b'K', n])
        } else if let Ok(n) = u16::try_from(value) {
            self.put(b"M")?;
            self.put(&n.to_le_bytes())
        } else if let Ok(n) = i32::try_from(value) {
            self.put(b"J")?;
            self.put(&n.to_le_bytes())
        } else {
            self.put(&[0x8a, 8])?;
            self.put(&value.to_le_bytes())
        }
    }

    /// Writes a float.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub fn float(&mut self, value: f64) -> io::Result<()> {
        self.put(b"G")?;
        self.put(&value.to_be_bytes())
    }

    /// Writes a text.
    ///
    /// # Errors
    /// Fails if the file cannot be written, or if the text has 4 GiB or more.
    pub fn text(&mut self, text: &str) -> io::Result<()> {
        let length = u32::try_from(text.len()).map_err(io::Error::other)?;
        self.put(b"X")?;
        self.put(&length.to_le_bytes())?;
        self.put(text.as_bytes())
    }

    /// Begins a dict.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub fn begin_dict(&mut self) -> io::Result<()> {
        self.put(b"}(")
    }

    /// Ends a dict.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub fn end_dict(&mut self) -> io::Result<()> {
        self.put(b"u")
    }

    /// Begins a list.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub fn begin_list(&mut self) -> io::Result<()> {
        self.put(b"](")
    }

    /// Ends a list.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub fn end_list(&mut self) -> io::Result<()> {
        self.put(b"e")
    }

    /// Writes a row-major f32 tensor that takes the whole storage of this number.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub fn tensor_f32(&mut self, storage: usize, shape: &[usize]) -> io::Result<()> {
        let size = |n: usize| i64::try_from(n).map_err(io::Error::other);
        self.once(b"ctorch._utils\n_rebuild_tensor_v2\n")?;
        // The arguments: the storage, by a persistent id, ...
        self.put(b"((")?;
        self.once(b"X\x07\0\0\0storage")?;
        self.once(b"ctorch\nFloatStorage\n")?;
        self.text(&storage.to_string())?;
        self.once(b"X\x03\0\0\0cpu")?;
        self.int(size(shape.iter().product())?)?;
        self.put(b"tQ")?;
        // ... the offset, the shape and the strides, ...
        self.int(0)?;
        self.put(b"(")?;
        for n in shape {
            self.int(size(*n)?)?;
        }
        self.put(b"t(")?;
        for dimension in 1..=shape.len() {
            self.int(size(shape.iter().skip(dimension).product())?)?;
        }
        // ... that no gradient is wanted, and an empty dict of hooks.
        self.put(b"t\x89")?;
        self.once(b"ccollections\nOrderedDict\n")?;
        self.put(b")RtR")
    }

    /// Writes an instruction that pushes one value. From its second time on, the value is recalled.
    fn once(&mut self, instruction: &'static [u8]) -> io::Result<()> {
        if let Some(number) = self.known.iter().position(|known| *known == instruction) {
            // BINGET. There are fewer instructions than 256.
            return self.put(&[b'h', number as u8]);
        }
        self.put(instruction)?;
        self.put(&[b'q', self.known.len() as u8])?;
        self.known.push(instruction);
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{pickle_text, read_index};
    use super::*;
    use crate::dtype::DType;
    use crate::weights::StoredDType;

    #[test]
    fn the_interpreter_reads_what_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pt");
        let mut file = TorchWriter::create(&path).unwrap();
        file.pickle(|p| {
            p.begin_dict()?;
            for (number, name) in ["first", "second"].into_iter().enumerate() {
                p.text(name)?;
                p.tensor_f32(number, &[2, 3])?;
            }
            p.text("values")?;
            p.begin_list()?;
            for n in [0, 255, 256, 65_535, 65_536, -1, i64::MAX, i64::MIN] {
                p.int(n)?;
            }
            p.float(0.1)?;
            p.bool(true)?;
            p.bool(false)?;
            p.none()?;
            p.text("\u{e9}\n")?;
            p.end_list()?;
            p.end_dict()
        })
        .unwrap();
        file.storage_f32(0, &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
            .unwrap();
        file.storage_f32(1, &[0.5; 6]).unwrap();
        file.finish().unwrap();

        let bytes = std::fs::read(&path).unwrap();
        let index = read_index(&bytes).unwrap();
        let found: Vec<_> = index
            .tensors
            .iter()
            .map(|t| (&*t.name, &*t.shape))
            .collect();
        assert_eq!(found, [("first", &[2, 3][..]), ("second", &[2, 3])]);
        let first = &index.tensors[0];
        assert_eq!(first.dtype, StoredDType::Float(DType::F32));
        let range = first.place.clone().unwrap();
        assert_eq!(range.start % usize::from(ALIGNMENT), 0);
        let wanted: Vec<u8> = (0..6u8).flat_map(|n| f32::from(n).to_le_bytes()).collect();
        assert_eq!(bytes[range], wanted);
        let mut zip = zip::ZipArchive::new(io::Cursor::new(&bytes)).unwrap();
        let mut pickle = Vec::new();
        io::copy(&mut zip.by_name("archive/data.pkl").unwrap(), &mut pickle).unwrap();
        let text = pickle_text(&pickle).unwrap();
        assert!(
            text.ends_with(
                "\"values\":[0,255,256,65535,65536,-1,9223372036854775807,-9223372036854775808,\
                 0x3fb999999999999a,true,false,none,\"é\\n\",],}"
            ),
            "{text}"
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_unfinished_file_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = TorchWriter::create(&dir.path().join("x.pt")).unwrap();
        file.pickle(Pickler::none).unwrap();
        drop(file);
        let mut file = TorchWriter::create(&dir.path().join("x.pt")).unwrap();
        let failed = file.pickle(|_| Err(io::Error::other("no value")));
        assert!(failed.unwrap_err().to_string().contains("no value"));
        drop(file);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
