//! Parquet: a row per record, with the key and a list of fixed size; or, with the states of tokens,
//! a list of such lists. Each shard is a row group.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::{
    ArrayRef, FixedSizeListArray, Float16Array, Float32Array, ListArray, RecordBatch,
};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{DataType, Field, Schema};
use half::f16;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use super::{ExportError, Facts, Record, Sink};
use crate::output::{OutputDtype, Place};

/// The bytes of values that are collected before they are encoded.
const BATCH: usize = 4 << 20;
/// The bytes after which a row group ends, even within a shard.
const GROUP: usize = 64 << 20;

pub(super) struct Rows {
    path: PathBuf,
    writer: ArrowWriter<File>,
    schema: Arc<Schema>,
    /// The type of a row of the model's width, and of what is in it.
    row: Arc<Field>,
    value: Arc<Field>,
    dtype: OutputDtype,
    width: i32,
    /// Whether a record has a list of rows.
    per_token: bool,
    keys: StringBuilder,
    values: Vec<u8>,
    /// The rows of each record that was collected.
    rows: Vec<usize>,
}

impl Rows {
    pub fn create(place: &Place, facts: &Facts<'_>) -> Result<Self, ExportError> {
        let file = place.create().map_err(ExportError::Write)?;
        let path = place.partial().to_path_buf();
        // A model is at most 65,536 wide.
        let width = i32::try_from(facts.width).unwrap_or(i32::MAX);
        let value = Arc::new(Field::new(
            "element",
            match facts.dtype {
                OutputDtype::F32 => DataType::Float32,
                OutputDtype::F16 => DataType::Float16,
            },
            false,
        ));
        let list = DataType::FixedSizeList(Arc::clone(&value), width);
        let row = Arc::new(Field::new("element", list.clone(), false));
        let column = match facts.per_token() {
            false => Field::new("embedding", list, false),
            true => Field::new("states", DataType::List(Arc::clone(&row)), false),
        };
        let id = Field::new("id", DataType::Utf8, false);
        let schema = Arc::new(Schema::new(vec![id, column]));
        let properties = WriterProperties::builder()
            // Compression and dictionaries save next to nothing on embeddings.
            .set_compression(Compression::UNCOMPRESSED)
            .set_dictionary_enabled(false)
            .set_statistics_enabled(EnabledStatistics::None)
            .set_max_row_group_row_count(None)
            .build();
        let writer = ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties));
        Ok(Self {
            writer: writer.map_err(|e| ExportError::library(&path, e))?,
            path,
            schema,
            row,
            value,
            dtype: facts.dtype,
            width,
            per_token: facts.per_token(),
            keys: StringBuilder::new(),
            values: Vec::new(),
            rows: Vec::new(),
        })
    }

    /// Encodes what was collected.
    fn encode(&mut self) -> Result<(), ExportError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let values: ArrayRef = match self.dtype {
            OutputDtype::F32 => Arc::new(Float32Array::from_iter_values(
                self.dtype.decode(&self.values),
            )),
            OutputDtype::F16 => {
                let bits = self.values.chunks_exact(2);
                let values = bits.map(|c| f16::from_le_bytes([c[0], c[1]]));
                Arc::new(Float16Array::from_iter_values(values))
            }
        };
        self.values.clear();
        let value = Arc::clone(&self.value);
        let lists = FixedSizeListArray::try_new(value, self.width, values, None);
        let mut column: ArrayRef =
            Arc::new(lists.map_err(|e| ExportError::library(&self.path, e))?);
        let rows = std::mem::take(&mut self.rows);
        if self.per_token {
            let offsets = OffsetBuffer::try_from_lengths(rows)
                .map_err(|e| ExportError::library(&self.path, e))?;
            let lists = ListArray::try_new(Arc::clone(&self.row), offsets, column, None);
            column = Arc::new(lists.map_err(|e| ExportError::library(&self.path, e))?);
        }
        let columns = vec![Arc::new(self.keys.finish()) as ArrayRef, column];
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns);
        let batch = batch.map_err(|e| ExportError::library(&self.path, e))?;
        let written = self.writer.write(&batch);
        written.map_err(|e| ExportError::library(&self.path, e))?;
        if self.writer.in_progress_size() > GROUP {
            self.end_group()?;
        }
        Ok(())
    }

    fn end_group(&mut self) -> Result<(), ExportError> {
        let flushed = self.writer.flush();
        flushed.map_err(|e| ExportError::library(&self.path, e))
    }
}

impl Sink for Rows {
    fn record(&mut self, record: &Record<'_>) -> Result<(), ExportError> {
        self.keys.append_value(record.key);
        self.rows
            .push(usize::try_from(record.rows).unwrap_or(usize::MAX));
        for values in record.parts {
            self.values.extend_from_slice(values);
        }
        match self.values.len() + self.keys.values_slice().len() > BATCH {
            true => self.encode(),
            false => Ok(()),
        }
    }

    fn shard_end(&mut self) -> Result<(), ExportError> {
        self.encode()?;
        self.end_group()
    }

    fn finish(mut self: Box<Self>) -> Result<(), ExportError> {
        self.encode()?;
        let Self { path, writer, .. } = *self;
        let closed = writer.close();
        closed.map(drop).map_err(|e| ExportError::library(&path, e))
    }
}
