//! Writes NumPy's .npy format, version 1.0, one row at a time.

use std::path::PathBuf;

use super::file::{ShardFile, WrittenFile};
use super::{OutputDtype, OutputError};

/// Header size in bytes, including the magic number. NumPy requires a multiple of 64; 128 is enough
/// for any shape.
pub(crate) const HEADER: usize = 128;

/// Writes an array of shape `[rows, width]`. The number of rows need not be known in advance, and
/// no rows are kept in memory.
pub struct NpyWriter {
    file: ShardFile,
    dtype: OutputDtype,
    width: usize,
    rows: usize,
    buffer: Vec<u8>,
}

impl NpyWriter {
    /// Creates the file, which must not exist, and reserves the space for its header.
    pub fn create(
        path: PathBuf,
        shard: u64,
        dtype: OutputDtype,
        width: usize,
    ) -> Result<Self, OutputError> {
        let mut file = ShardFile::create(path, shard)?;
        file.write(&[0; HEADER])?;
        Ok(Self {
            file,
            dtype,
            width,
            rows: 0,
            buffer: Vec::new(),
        })
    }

    /// Appends a row, `[width]`. Returns whether all its values are finite and in the range of the
    /// data type.
    pub fn push(&mut self, row: &[f32]) -> Result<bool, OutputError> {
        debug_assert_eq!(row.len(), self.width);
        self.buffer.resize(row.len() * self.dtype.size(), 0);
        let fits = self.dtype.encode(row, &mut self.buffer);
        self.file.write(&self.buffer)?;
        self.rows += 1;
        Ok(fits)
    }

    /// Writes the header, now that the number of rows is known.
    pub(crate) fn complete(self) -> Result<WrittenFile, OutputError> {
        let header = header(self.dtype, self.rows, self.width);
        self.file.complete(&header)
    }
}

/// Returns the header of an array of shape `[rows, width]`.
pub(crate) fn header(dtype: OutputDtype, rows: usize, width: usize) -> Vec<u8> {
    let descr = match dtype {
        OutputDtype::F32 => "<f4",
        OutputDtype::F16 => "<f2",
    };
    let dict =
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({rows}, {width}), }}");
    let mut header = Vec::with_capacity(HEADER);
    header.extend_from_slice(b"\x93NUMPY\x01\x00");
    header.extend_from_slice(&((HEADER - 10) as u16).to_le_bytes());
    header.extend_from_slice(dict.as_bytes());
    header.resize(HEADER - 1, b' ');
    header.push(b'\n');
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_what_numpy_writes() {
        let bytes = header(OutputDtype::F32, 3, 320);
        assert_eq!(bytes.len(), 128);
        assert_eq!(&bytes[..10], b"\x93NUMPY\x01\x00\x76\x00");
        assert!(
            bytes[10..]
                .starts_with(b"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 320), }   ")
        );
        assert_eq!(bytes[127], b'\n');
        // The largest possible shape still fits.
        assert_eq!(header(OutputDtype::F16, usize::MAX, 1 << 20).len(), 128);
    }

    #[test]
    fn rows_stand_in_order_behind_the_header() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("layer_1.npy");
        let mut npy = NpyWriter::create(path.clone(), 0, OutputDtype::F32, 2).unwrap();
        assert!(npy.push(&[1.0, 2.0]).unwrap());
        assert!(npy.push(&[3.0, -4.5]).unwrap());
        npy.complete().unwrap();
        let bytes = std::fs::read(path).unwrap();
        assert!(String::from_utf8_lossy(&bytes[..128]).contains("'shape': (2, 2)"));
        let values: Vec<f32> = bytes[128..]
            .chunks(4)
            .map(|c| f32::from_le_bytes(c.try_into().unwrap()))
            .collect();
        assert_eq!(values, [1.0, 2.0, 3.0, -4.5]);
    }

    #[test]
    fn what_a_row_cannot_hold_is_said() {
        let dir = tempfile::tempdir().unwrap();
        for (dtype, value, fits) in [
            (OutputDtype::F32, 65520.0, true),
            (OutputDtype::F16, 65520.0, false),
            (OutputDtype::F16, -65504.0, true),
            (OutputDtype::F32, f32::NAN, false),
            (OutputDtype::F16, f32::INFINITY, false),
        ] {
            let path = dir.path().join(format!("{dtype:?} {value}"));
            let mut npy = NpyWriter::create(path, 0, dtype, 2).unwrap();
            assert_eq!(npy.push(&[1.0, value]).unwrap(), fits, "{dtype:?} {value}");
        }
    }
}
