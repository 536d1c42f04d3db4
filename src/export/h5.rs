//! HDF5 in the layout of UniProt's `per-protein.h5` and `per-residue.h5`: one dataset per record in
//! the root group, `[width]` or `[tokens, width]`, whose name is the key.

use std::fmt::Display;
use std::path::PathBuf;

use half::f16;
use hdf5_metno::types::VarLenUnicode;
use hdf5_metno::{File, H5Type};

use super::{Content, ExportError, Facts, Record, Sink};
use crate::output::{OutputDtype, Place};

pub(super) struct Datasets {
    path: PathBuf,
    file: File,
    dtype: OutputDtype,
    width: usize,
    per_token: bool,
}

impl Datasets {
    pub fn create(place: &Place, facts: &Facts<'_>) -> Result<Self, ExportError> {
        // Made here, so that a folder that cannot be written to is an error of the system.
        drop(place.create().map_err(ExportError::Write)?);
        let path = place.partial().to_path_buf();
        let failed = |e: hdf5_metno::Error| ExportError::library(&path, e);
        let file = File::create(&path).map_err(failed)?;
        let name: VarLenUnicode = model_name(facts)
            .parse()
            .map_err(|e: hdf5_metno::types::StringError| ExportError::library(&path, e))?;
        let attribute = file.new_attr::<VarLenUnicode>().create("model_name");
        let attribute = attribute.map_err(failed)?;
        attribute.write_scalar(&name).map_err(failed)?;
        Ok(Self {
            dtype: facts.dtype,
            width: facts.width,
            per_token: facts.per_token(),
            path,
            file,
        })
    }

    fn write<T: H5Type>(&self, record: &Record<'_>, values: &[T]) -> Result<(), ExportError> {
        let tokens = usize::try_from(record.rows).unwrap_or(usize::MAX);
        let new = self.file.new_dataset::<T>();
        let made = match self.per_token {
            true => new.shape((tokens, self.width)).create(record.key),
            false => new.shape(self.width).create(record.key),
        };
        let written = made.and_then(|dataset| dataset.write_raw(values));
        written.map_err(|e| self.failed(e))
    }

    fn failed(&self, error: impl Display) -> ExportError {
        ExportError::library(&self.path, error)
    }
}

impl Sink for Datasets {
    fn record(&mut self, record: &Record<'_>) -> Result<(), ExportError> {
        for values in record.parts {
            match self.dtype {
                OutputDtype::F32 => {
                    let values: Vec<f32> = self.dtype.decode(values).collect();
                    self.write(record, &values)?;
                }
                OutputDtype::F16 => {
                    let bits = values.chunks_exact(2);
                    let values: Vec<f16> = bits.map(|c| f16::from_le_bytes([c[0], c[1]])).collect();
                    self.write(record, &values)?;
                }
            }
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), ExportError> {
        self.file.flush().map_err(|e| self.failed(e))?;
        let Self { path, file, .. } = *self;
        file.close().map_err(|e| ExportError::library(&path, e))
    }
}

/// Returns what ProtSpace calls the embedding. It joins files of the same name, so other layers and
/// poolings have other names.
fn model_name(facts: &Facts<'_>) -> String {
    let model = &facts.finished.head().job.model;
    let hash = model.blake3.get(..8).unwrap_or_default();
    let mut name = match &model.id {
        Some(id) => {
            let (name, _) = id.split_once('@').unwrap_or((id, ""));
            name.rsplit('/').next().unwrap_or(name).to_owned()
        }
        None => format!("{}-{hash}", model.config.kind.title()),
    };
    for part in facts.parts {
        if part.layer != model.config.layers {
            name += &format!("-layer{}", part.layer);
        }
        match &part.content {
            Content::Pooled(pool) if pool != "mean" => name += &format!("-{pool}"),
            _ => {}
        }
    }
    // No text of HDF5 contains a zero.
    name.replace('\0', "")
}
