//! Writes per-token states in the safetensors format, one sequence at a time.

use std::path::PathBuf;

use super::file::{ShardFile, WrittenFile};
use super::{OutputDtype, OutputError};

/// Bytes reserved for the JSON header, which is padded with spaces as the format allows. With the 8
/// bytes of the length field before it, the data starts at a multiple of 64.
const HEADER: usize = 512 - 8;
/// Number of bytes before the data.
pub(crate) const BEFORE: usize = HEADER + 8;

/// Writes two tensors: `states`, `[tokens, width]`, and `offsets`, `[rows + 1]` (i64). The tokens
/// of row `i` are `states[offsets[i]..offsets[i + 1]]`. The offsets are kept in memory, the states
/// are not.
pub struct StatesWriter {
    file: ShardFile,
    dtype: OutputDtype,
    width: usize,
    offsets: Vec<i64>,
    buffer: Vec<u8>,
}

impl StatesWriter {
    /// Creates the file, which must not exist, and reserves the space for its header.
    pub fn create(
        path: PathBuf,
        shard: u64,
        dtype: OutputDtype,
        width: usize,
    ) -> Result<Self, OutputError> {
        let mut file = ShardFile::create(path, shard)?;
        file.write(&[0; HEADER + 8])?;
        Ok(Self {
            file,
            dtype,
            width,
            offsets: vec![0],
            buffer: Vec::new(),
        })
    }

    /// Appends the states of record `id`, `[tokens, width]`, from the output of `layer`.
    pub fn push(&mut self, id: &str, layer: usize, states: &[f32]) -> Result<(), OutputError> {
        debug_assert_eq!(states.len() % self.width.max(1), 0);
        // Each piece is bounded, since a record may have many thousand tokens.
        for piece in states.chunks(1 << 16) {
            self.buffer.clear();
            self.dtype
                .encode(piece, &mut self.buffer)
                .map_err(|value| OutputError::F16Overflow {
                    id: id.to_owned(),
                    layer,
                    value,
                })?;
            self.file.write(&self.buffer)?;
        }
        let tokens = (states.len() / self.width.max(1)) as i64;
        self.offsets.push(self.tokens() + tokens);
        Ok(())
    }

    /// Writes the offsets and the header.
    pub(crate) fn complete(mut self) -> Result<WrittenFile, OutputError> {
        let offsets: Vec<u8> = self.offsets.iter().flat_map(|o| o.to_le_bytes()).collect();
        self.file.write(&offsets)?;
        let header = header(self.dtype, self.tokens(), self.width, self.offsets.len());
        self.file.complete(&header)
    }

    fn tokens(&self) -> i64 {
        self.offsets.last().copied().unwrap_or(0)
    }
}

/// Returns the header of a file with `states` of `[tokens, width]` and `offsets` of `[offsets]`.
pub(crate) fn header(dtype: OutputDtype, tokens: i64, width: usize, offsets: usize) -> Vec<u8> {
    let name = match dtype {
        OutputDtype::F32 => "F32",
        OutputDtype::F16 => "F16",
    };
    let end = tokens as usize * width * dtype.size();
    let json = format!(
        "{{\"states\":{{\"dtype\":\"{name}\",\"shape\":[{tokens},{width}],\"data_offsets\":[0,{end}]}},\
         \"offsets\":{{\"dtype\":\"I64\",\"shape\":[{offsets}],\"data_offsets\":[{end},{}]}}}}",
        end + offsets * 8
    );
    let mut header = (HEADER as u64).to_le_bytes().to_vec();
    header.extend_from_slice(json.as_bytes());
    header.resize(HEADER + 8, b' ');
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::{Dtype, SafeTensors};

    #[test]
    fn the_safetensors_crate_reads_it_back() {
        for (dtype, of, size) in [
            (OutputDtype::F32, Dtype::F32, 4),
            (OutputDtype::F16, Dtype::F16, 2),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("layer_1.safetensors");
            let mut states = StatesWriter::create(path.clone(), 0, dtype, 2).unwrap();
            states.push("a", 1, &[1.0, 2.0, 3.0, 4.0]).unwrap();
            states.push("b", 1, &[5.0, 6.0]).unwrap();
            states.complete().unwrap();
            let bytes = std::fs::read(path).unwrap();
            let file = SafeTensors::deserialize(&bytes).unwrap();
            let states = file.tensor("states").unwrap();
            assert_eq!((states.dtype(), states.shape()), (of, &[3, 2][..]));
            assert_eq!(states.data().len(), 6 * size);
            let offsets = file.tensor("offsets").unwrap();
            assert_eq!((offsets.dtype(), offsets.shape()), (Dtype::I64, &[3][..]));
            let values: Vec<i64> = offsets
                .data()
                .chunks(8)
                .map(|c| i64::from_le_bytes(c.try_into().unwrap()))
                .collect();
            assert_eq!(values, [0, 2, 3]);
        }
    }

    #[test]
    fn the_largest_header_fits() {
        assert_eq!(
            header(OutputDtype::F16, i64::MAX / 1_000_000, 9999, 1 << 40).len(),
            HEADER + 8
        );
    }
}
