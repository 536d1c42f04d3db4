//! A folder of PyTorch files in the layout of fair-esm's `esm-extract`: one file per record, which
//! is named after its key and holds a dictionary.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;

use super::torch::{self, Tensor, Value};
use super::{Content, ExportError, Facts, Part, Record, Sink};
use crate::output::{OutputDtype, OutputError, Place};

/// The folder. Its keys are plain names of files.
pub(super) struct Folder<'a> {
    path: PathBuf,
    parts: &'a [Part],
    dtype: OutputDtype,
    width: u64,
}

impl<'a> Folder<'a> {
    pub fn create(place: &Place, facts: &'a Facts<'a>) -> Result<Self, ExportError> {
        place.create_dir().map_err(ExportError::Write)?;
        Ok(Self {
            path: place.partial().to_path_buf(),
            parts: facts.parts,
            dtype: facts.dtype,
            width: facts.width as u64,
        })
    }
}

/// The name that fair-esm gives to what is exported.
fn name(content: &Content) -> &'static str {
    match content {
        Content::States => "representations",
        Content::Pooled(pool) if pool == "cls" => "bos_representations",
        Content::Pooled(_) => "mean_representations",
    }
}

impl Sink for Folder<'_> {
    fn record(&mut self, record: &Record<'_>) -> Result<(), ExportError> {
        let path = self.path.join(format!("{}.pt", record.key));
        let created = File::create_new(&path);
        // On file systems that do not tell upper case from lower case, two keys may be one name.
        let file =
            created.map_err(|e| ExportError::Write(OutputError::io("create", &path, None, e)))?;
        let mut named: BTreeMap<&str, BTreeMap<usize, Tensor<'_>>> = BTreeMap::new();
        for (part, values) in self.parts.iter().zip(record.parts) {
            let shape = match part.content {
                Content::Pooled(_) => vec![self.width],
                Content::States => vec![record.rows, self.width],
            };
            let layers = named.entry(name(&part.content)).or_default();
            layers.insert(part.layer, Tensor { shape, values });
        }
        let mut entries = vec![("label", Value::Text(record.id))];
        entries.extend(named.into_iter().map(|(name, l)| (name, Value::Layers(l))));
        torch::write(&path, file, self.dtype, &entries)
    }

    fn finish(self: Box<Self>) -> Result<(), ExportError> {
        Ok(())
    }
}
