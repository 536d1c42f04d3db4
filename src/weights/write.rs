//! Writes safetensors files as a stream: first the header, then the bytes of one tensor after
//! another.
//!
//! A file is written under a temporary name beside its final name, synced and then renamed, so that
//! the file under the final name is always whole.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::WeightsError;
use crate::dtype::DType;

/// A tensor that is going to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// The name that it gets in the file.
    pub name: String,
    /// Its number format.
    pub dtype: DType,
    /// Row-major shape, outermost first.
    pub shape: Vec<usize>,
}

impl Planned {
    /// Number of values.
    pub fn values(&self) -> u64 {
        self.shape.iter().map(|&n| n as u64).product()
    }

    /// Number of bytes.
    pub fn bytes(&self) -> u64 {
        self.values() * self.dtype.size() as u64
    }
}

/// The rank by which a file's tensors are sorted, with a stable sort: wider formats come first, so
/// that each tensor is aligned.
pub fn file_rank(tensor: &Planned) -> impl Ord + use<> {
    std::cmp::Reverse(tensor.dtype.size())
}

/// Writes one safetensors file.
#[derive(Debug)]
pub struct SafetensorsWriter {
    out: Replacement,
    written: u64,
    planned: u64,
}

impl SafetensorsWriter {
    /// Begins the file `path` with the header for `tensors`, whose bytes must follow in this order.
    ///
    /// # Errors
    /// [`WeightsError::Write`] if the file cannot be written.
    pub fn create(path: &Path, tensors: &[Planned]) -> Result<Self, WeightsError> {
        let mut header = Map::new();
        // transformers refuses a file that does not say for which framework it is laid out.
        header.insert("__metadata__".into(), json!({"format": "pt"}));
        let mut end = 0u64;
        for t in tensors {
            let start = end;
            end += t.bytes();
            let entry = json!({
                "dtype": t.dtype.safetensors_name(), "shape": t.shape, "data_offsets": [start, end],
            });
            header.insert(t.name.clone(), entry);
        }
        let mut header = Value::Object(header).to_string().into_bytes();
        // The data start at a multiple of 8 bytes, which keeps f32 aligned in a mapping.
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut out = Replacement::create(path)?;
        out.append(&(header.len() as u64).to_le_bytes())?;
        out.append(&header)?;
        Ok(Self {
            out,
            written: 0,
            planned: end,
        })
    }

    /// Appends bytes of the planned tensors.
    ///
    /// # Errors
    /// [`WeightsError::Write`] if the file cannot be written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), WeightsError> {
        self.written += bytes.len() as u64;
        self.out.append(bytes)
    }

    /// Leaves the bytes that were not written as a hole of the file, which takes no space on the
    /// disk, and gives the file its final name.
    ///
    /// # Errors
    /// [`WeightsError::Write`] if the file cannot be written.
    pub(super) fn leave_hollow(mut self) -> Result<(), WeightsError> {
        self.out.extend(self.planned - self.written)?;
        self.written = self.planned;
        self.finish()
    }

    /// Syncs the file and gives it its final name.
    ///
    /// # Errors
    /// [`WeightsError::Write`] if the file cannot be synced or renamed, or if the number of bytes
    /// written is not the planned number.
    pub fn finish(self) -> Result<(), WeightsError> {
        if self.written != self.planned {
            let what = format!(
                "{} bytes of tensors instead of {}",
                self.written, self.planned
            );
            return Err(WeightsError::write(&self.out.path)(io::Error::other(what)));
        }
        self.out.finish()
    }
}

/// Writes a small file under a temporary name beside its final name, syncs it and renames it.
///
/// # Errors
/// [`WeightsError::Write`] if the file cannot be written.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), WeightsError> {
    let mut out = Replacement::create(path)?;
    out.append(bytes)?;
    out.finish()
}

/// A file that is written under another name until it is whole. If it is dropped unfinished, it
/// leaves nothing behind.
#[derive(Debug)]
pub(super) struct Replacement {
    file: Option<BufWriter<File>>,
    path: PathBuf,
    beside: PathBuf,
}

impl Replacement {
    pub(super) fn create(path: &Path) -> Result<Self, WeightsError> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        // The process id keeps two writers of the same name apart.
        name.push(format!(".{}.partial", std::process::id()));
        let beside = path.with_file_name(name);
        let file = File::create(&beside).map_err(WeightsError::write(path))?;
        Ok(Self {
            file: Some(BufWriter::with_capacity(1 << 20, file)),
            path: path.to_owned(),
            beside,
        })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), WeightsError> {
        match &mut self.file {
            Some(file) => file
                .write_all(bytes)
                .map_err(WeightsError::write(&self.path)),
            None => Ok(()),
        }
    }

    /// Adds a hole of this many bytes.
    fn extend(&mut self, bytes: u64) -> Result<(), WeightsError> {
        let Some(buffered) = &mut self.file else {
            return Ok(());
        };
        let extended = buffered.flush().and_then(|()| {
            let file = buffered.get_ref();
            file.set_len(file.metadata()?.len() + bytes)
        });
        extended.map_err(WeightsError::write(&self.path))
    }

    pub(super) fn finish(mut self) -> Result<(), WeightsError> {
        if let Some(buffered) = self.file.take() {
            let result = buffered
                .into_inner()
                .map_err(io::IntoInnerError::into_error)
                .and_then(|file| file.sync_all())
                .and_then(|()| fs::rename(&self.beside, &self.path))
                .and_then(|()| sync_folder(&self.path));
            if let Err(error) = result {
                let _ = fs::remove_file(&self.beside);
                return Err(WeightsError::write(&self.path)(error));
            }
        }
        Ok(())
    }
}

impl Write for Replacement {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.file {
            Some(file) => file.write(bytes),
            None => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Seek for Replacement {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.as_mut().map_or(Ok(0), |file| file.seek(to))
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            // `into_parts` discards the buffer; a plain drop would write the rest of it first.
            drop(file.into_parts());
            let _ = fs::remove_file(&self.beside);
        }
    }
}

/// Makes a rename durable. On Unix the folder holds the name, so the folder is synced.
fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix)
        && let Some(folder) = path.parent()
    {
        let folder = if folder.as_os_str().is_empty() {
            Path::new(".")
        } else {
            folder
        };
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(name: &str, dtype: DType, shape: &[usize]) -> Planned {
        Planned {
            name: name.into(),
            dtype,
            shape: shape.to_vec(),
        }
    }

    #[test]
    fn the_safetensors_crate_reads_what_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.safetensors");
        let mut plan = [
            planned("half", DType::F16, &[3]),
            planned("single", DType::F32, &[1, 2]),
        ];
        plan.sort_by_key(file_rank);
        assert_eq!(
            plan[0].name, "single",
            "wider values first, so that they are aligned"
        );
        let mut w = SafetensorsWriter::create(&path, &plan).unwrap();
        w.write(&[1.5f32.to_le_bytes(), (-2f32).to_le_bytes()].concat())
            .unwrap();
        w.write(&[0, 0x3c, 0, 0x3c, 0, 0x3c]).unwrap();
        w.finish().unwrap();

        let bytes = fs::read(&path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(file.tensor("single").unwrap().shape(), [1, 2]);
        assert_eq!(
            file.tensor("single").unwrap().data(),
            [1.5f32.to_le_bytes(), (-2f32).to_le_bytes()].concat()
        );
        assert_eq!(
            file.tensor("half").unwrap().data(),
            [0, 0x3c, 0, 0x3c, 0, 0x3c]
        );
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
    }

    #[test]
    fn an_unfinished_or_short_file_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.safetensors");
        let plan = [planned("x", DType::F32, &[2])];
        drop(SafetensorsWriter::create(&path, &plan).unwrap());
        let mut w = SafetensorsWriter::create(&path, &plan).unwrap();
        w.write(&[0; 4]).unwrap();
        let message = w.finish().unwrap_err().to_string();
        assert!(
            message.contains("4 bytes of tensors instead of 8"),
            "{message}"
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
