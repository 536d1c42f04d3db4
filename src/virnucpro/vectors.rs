//! Vectors in the three layouts of VirNucPro's `.pt` files, which `torch.load(path,
//! weights_only=True)` reads.
//!
//! | file | value | order |
//! |---|---|---|
//! | `{base}_nucleotide/output_{i}_DNABERT_S.pt` | `{'nucleotide': [id], 'data': [{'label': id, 'mean_representation': [float]}]}` | fragments |
//! | `{base}_protein/output_{i}_ESM.pt` | `{'proteins': [id], 'data': [FloatTensor[2560]]}`, each tensor with a storage of its own | by protein length, then fragments |
//! | `{base}_merged/output_{i}_merged.pt` | `{'ids': [id], 'data': FloatTensor[n, 3328]}`, one storage; a row is the DNA's and then the protein's | fragments |
//!
//! `i` counts from 1, and each file holds [`ROWS_PER_FILE`] fragments, except the last one. Memory:
//! the vectors of one file, 133 MB for DNABERT-S and ESM-2 3B.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::weights::WeightsError;
use crate::weights::torch_write::TorchWriter;

/// The number of fragments of a file.
pub const ROWS_PER_FILE: usize = 10_000;

/// The vectors of one fragment.
#[derive(Debug, Clone, Copy)]
pub struct VectorRow<'a> {
    /// The id of the fragment, such as `contig_chunk_1F1`.
    pub id: &'a str,
    /// The number of residues of its protein.
    pub residues: usize,
    /// The vector of its nucleotides, if there is a model for them.
    pub dna: Option<&'a [f32]>,
    /// The vector of its protein, if there is a model for it.
    pub protein: Option<&'a [f32]>,
}

/// Writes the vectors of fragments, which come in the order of the input. A file is written when it
/// has all of its rows, and has its name only when it is whole.
#[derive(Debug)]
pub struct VectorFiles {
    dir: PathBuf,
    base: String,
    /// The number of the file whose rows are coming, from 1.
    number: u64,
    ids: Vec<String>,
    residues: Vec<usize>,
    dna: Option<Rows>,
    protein: Option<Rows>,
}

/// The vectors of one model.
#[derive(Debug)]
struct Rows {
    width: usize,
    values: Vec<f32>,
}

impl Rows {
    fn get(&self, row: usize) -> &[f32] {
        let start = row * self.width;
        self.values
            .get(start..start + self.width)
            .unwrap_or_default()
    }
}

impl VectorFiles {
    /// Prepares to write below the directory `dir`. `base` is the beginning of the names of the
    /// folders.
    pub fn new(dir: &Path, base: &str) -> Self {
        Self {
            dir: dir.to_owned(),
            base: base.to_owned(),
            number: 1,
            ids: Vec::new(),
            residues: Vec::new(),
            dna: None,
            protein: None,
        }
    }

    /// Adds the next fragment.
    ///
    /// # Errors
    /// [`WeightsError::Write`] if a file cannot be written, or if the fragment has vectors of other
    /// models or other widths than the first one.
    pub fn push(&mut self, row: &VectorRow<'_>) -> Result<(), WeightsError> {
        let first = self.number == 1 && self.ids.is_empty();
        for (rows, vector) in [(&mut self.dna, row.dna), (&mut self.protein, row.protein)] {
            if first && let Some(vector) = vector {
                *rows = Some(Rows {
                    width: vector.len(),
                    values: Vec::new(),
                });
            }
            match (rows, vector) {
                (None, None) => {}
                (Some(rows), Some(vector)) if vector.len() == rows.width => {
                    rows.values.extend_from_slice(vector);
                }
                _ => {
                    let what = "a fragment has other vectors than the first one";
                    return Err(WeightsError::write(&self.dir)(io::Error::other(what)));
                }
            }
        }
        self.ids.push(row.id.to_owned());
        self.residues.push(row.residues);
        match self.ids.len() {
            ROWS_PER_FILE => self.write(),
            _ => Ok(()),
        }
    }

    /// Writes the last files, and returns how many there are of each kind.
    ///
    /// # Errors
    /// [`WeightsError::Write`] if a file cannot be written.
    pub fn finish(mut self) -> Result<u64, WeightsError> {
        if !self.ids.is_empty() {
            self.write()?;
        }
        Ok(self.number - 1)
    }

    fn write(&mut self) -> Result<(), WeightsError> {
        if let Some(dna) = &self.dna {
            self.write_dna(dna)?;
        }
        if let Some(protein) = &self.protein {
            self.write_protein(protein)?;
        }
        if let (Some(dna), Some(protein)) = (&self.dna, &self.protein) {
            self.write_merged(dna, protein)?;
        }
        self.number += 1;
        self.ids.clear();
        self.residues.clear();
        for rows in [&mut self.dna, &mut self.protein].into_iter().flatten() {
            rows.values.clear();
        }
        Ok(())
    }

    fn create(&self, kind: &str, suffix: &str) -> Result<TorchWriter, WeightsError> {
        let folder = self.dir.join(format!("{}_{kind}", self.base));
        fs::create_dir_all(&folder).map_err(WeightsError::write(&folder))?;
        TorchWriter::create(&folder.join(format!("output_{}_{suffix}.pt", self.number)))
    }

    fn write_dna(&self, rows: &Rows) -> Result<(), WeightsError> {
        let mut file = self.create("nucleotide", "DNABERT_S")?;
        file.pickle(|p| {
            p.begin_dict()?;
            p.text("nucleotide")?;
            p.begin_list()?;
            self.ids.iter().try_for_each(|id| p.text(id))?;
            p.end_list()?;
            p.text("data")?;
            p.begin_list()?;
            for (row, id) in self.ids.iter().enumerate() {
                p.begin_dict()?;
                p.text("label")?;
                p.text(id)?;
                p.text("mean_representation")?;
                p.begin_list()?;
                rows.get(row)
                    .iter()
                    .try_for_each(|v| p.float((*v).into()))?;
                p.end_list()?;
                p.end_dict()?;
            }
            p.end_list()?;
            p.end_dict()
        })?;
        file.finish()
    }

    fn write_protein(&self, rows: &Rows) -> Result<(), WeightsError> {
        // fair-esm sorts the sequences of a file by length, and those of equal length stay in order.
        let mut order: Vec<usize> = (0..self.ids.len()).collect();
        order.sort_by_key(|row| self.residues[*row]);
        let mut file = self.create("protein", "ESM")?;
        file.pickle(|p| {
            p.begin_dict()?;
            p.text("proteins")?;
            p.begin_list()?;
            order.iter().try_for_each(|row| p.text(&self.ids[*row]))?;
            p.end_list()?;
            p.text("data")?;
            p.begin_list()?;
            (0..order.len()).try_for_each(|number| p.tensor_f32(number, &[rows.width]))?;
            p.end_list()?;
            p.end_dict()
        })?;
        for (number, row) in order.iter().enumerate() {
            file.storage_f32(number, rows.get(*row))?;
        }
        file.finish()
    }

    fn write_merged(&self, dna: &Rows, protein: &Rows) -> Result<(), WeightsError> {
        let count = self.ids.len();
        let mut file = self.create("merged", "merged")?;
        file.pickle(|p| {
            p.begin_dict()?;
            p.text("ids")?;
            p.begin_list()?;
            self.ids.iter().try_for_each(|id| p.text(id))?;
            p.end_list()?;
            p.text("data")?;
            p.tensor_f32(0, &[count, dna.width + protein.width])?;
            p.end_dict()
        })?;
        let rows = (0..count).flat_map(|row| [dna.get(row), protein.get(row)]);
        file.storage_f32_parts(0, rows)?;
        file.finish()
    }
}
