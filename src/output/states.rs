//! Writes per-token states in the safetensors format, one batch of rows at a time.

use std::ops::Range;
use std::path::PathBuf;

use super::file::{Encoded, ShardFile, WrittenFile};
use super::tree::BLOCK;
use super::{OutputDtype, OutputError};
use crate::dtype::States;

/// Bytes reserved for the JSON header, which is padded with spaces as the format allows. With the 8
/// bytes of the length field before it, the data starts at a multiple of 64.
const HEADER: usize = 512 - 8;
/// Number of bytes before the data.
pub(crate) const BEFORE: usize = HEADER + 8;

/// Writes two tensors: `states`, `[tokens, width]`, and `offsets`, `[rows + 1]` (i64). The tokens
/// of row `i` are `states[offsets[i]..offsets[i + 1]]`. The offsets are kept in memory, the states
/// are not.
///
/// The states of a batch are cut at the borders of blocks into tasks, which can be done in any
/// order and on several threads.
pub struct StatesWriter {
    file: ShardFile,
    dtype: OutputDtype,
    width: usize,
    offsets: Vec<i64>,
}

/// The part of a block that comes from one row of a batch.
struct Piece {
    /// The row.
    row: usize,
    /// The values of the batch.
    values: Range<usize>,
}

/// One block of a file to encode, to hash and to write, or the bytes after the last full block.
pub(crate) struct Task<'a> {
    file: &'a ShardFile,
    dtype: OutputDtype,
    states: &'a States,
    /// The number of the block in the file.
    block: u64,
    /// The bytes of the block that came with earlier batches.
    begun: &'a [u8],
    pieces: Vec<Piece>,
}

/// Why a task was not done.
pub(crate) enum TaskError {
    /// This row has a value that cannot be stored.
    Row(usize),
    /// The file could not be written.
    Output(OutputError),
}

impl Task<'_> {
    /// Returns memory for [`run`](Self::run), which many tasks can use, one after the other.
    pub(crate) fn memory() -> Vec<u8> {
        vec![0; BLOCK]
    }

    /// Encodes and checks the values, and hashes and writes the block, all while it is in the cache.
    pub(crate) fn run(self, memory: &mut [u8]) -> Result<Encoded, TaskError> {
        let (begun, mut rest) = memory.split_at_mut(self.begun.len());
        begun.copy_from_slice(self.begun);
        let mut length = self.begun.len();
        for Piece { row, values } in self.pieces {
            let bytes = values.len() * self.dtype.size();
            let (to, after) = rest.split_at_mut(bytes);
            if !self
                .states
                .encode(self.dtype == OutputDtype::F16, values, to)
            {
                return Err(TaskError::Row(row));
            }
            (rest, length) = (after, length + bytes);
        }
        let bytes = &memory[..length];
        match (length, self.block) {
            (BLOCK, 0) => Ok(Encoded::First(bytes.to_vec())),
            (BLOCK, block) => {
                let written = self.file.write_block(block, bytes);
                written.map(Encoded::Written).map_err(TaskError::Output)
            }
            _ => Ok(Encoded::Tail(bytes.to_vec())),
        }
    }
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
        })
    }

    /// Returns the part of the file that the disk has not been asked to write.
    pub(crate) fn unflushed(&mut self) -> Range<u64> {
        self.file.unflushed()
    }

    /// Asks the system to begin to write a part of the file to the disk.
    pub(crate) fn flush(&self, part: Range<u64>) {
        self.file.flush(part);
    }

    /// Returns the tasks that append rows of `states`. Each row is a range of tokens.
    pub(crate) fn tasks<'a>(
        &'a self,
        states: &'a States,
        rows: impl Iterator<Item = Range<usize>>,
    ) -> Vec<Task<'a>> {
        let size = self.dtype.size();
        let task = |block: u64, begun: &'a [u8]| Task {
            file: &self.file,
            dtype: self.dtype,
            states,
            block,
            begun,
            pieces: Vec::new(),
        };
        let mut open = task(self.file.blocks(), self.file.tail());
        // Headers and blocks have room for whole values, so no value is cut.
        let mut room = (BLOCK - open.begun.len()) / size;
        let mut tasks = Vec::new();
        for (row, tokens) in rows.enumerate() {
            let mut values = tokens.start * self.width..tokens.end * self.width;
            while !values.is_empty() {
                if room == 0 {
                    let next = task(open.block + 1, &[]);
                    tasks.push(std::mem::replace(&mut open, next));
                    room = BLOCK / size;
                }
                let end = values.end.min(values.start + room);
                room -= end - values.start;
                open.pieces.push(Piece {
                    row,
                    values: values.start..end,
                });
                values.start = end;
            }
        }
        tasks.push(open);
        tasks
    }

    /// Takes what the tasks have made, in their order, and the number of tokens of each row.
    pub(crate) fn add(
        &mut self,
        encoded: impl Iterator<Item = Encoded>,
        tokens: impl Iterator<Item = usize>,
    ) {
        encoded.for_each(|part| self.file.add(part));
        for tokens in tokens {
            self.offsets.push(self.tokens() + tokens as i64);
        }
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

    /// Appends rows as a shard does, but does the tasks in reverse.
    fn push(to: &mut StatesWriter, states: &States, rows: &[Range<usize>]) {
        let tasks = to.tasks(states, rows.iter().cloned());
        let mut memory = Task::memory();
        let run = |task: Task<'_>| task.run(&mut memory).ok().unwrap();
        let mut done: Vec<Encoded> = tasks.into_iter().rev().map(run).collect();
        done.reverse();
        to.add(done.into_iter(), rows.iter().map(|tokens| tokens.len()));
    }

    /// The file is the same however rows are divided into batches, wherever their borders lie.
    #[test]
    fn blocks_are_cut_where_they_end() {
        let dir = tempfile::tempdir().unwrap();
        let width = 1000;
        // A row of exactly one block less the header, rows of several blocks, and empty rows.
        let tokens = 1500;
        let values: Vec<f32> = (0..tokens * width).map(|i| (i % 9973) as f32).collect();
        let states: States = values.clone().into();
        let rows = [0..65, 65..65, 65..70, 70..700, 700..701, 701..1500, 3..400];
        for dtype in [OutputDtype::F32, OutputDtype::F16] {
            let mut files = Vec::new();
            for batch in [1, 2, 3, 7] {
                let path = dir.path().join(format!("{dtype:?} {batch}"));
                let mut writer = StatesWriter::create(path.clone(), 0, dtype, width).unwrap();
                rows.chunks(batch)
                    .for_each(|rows| push(&mut writer, &states, rows));
                let written = writer.complete().unwrap();
                let bytes = std::fs::read(path).unwrap();
                let hash = blake3::hash(&bytes).to_hex().to_string();
                assert_eq!(written.entry().blake3, hash);
                files.push(bytes);
            }
            assert!(files.iter().all(|bytes| *bytes == files[0]));
            let file = SafeTensors::deserialize(&files[0]).unwrap();
            let mut wanted = Vec::new();
            for row in rows.clone() {
                let values = &values[row.start * width..row.end * width];
                let mut bytes = vec![0; values.len() * dtype.size()];
                assert!(dtype.encode(values, &mut bytes));
                wanted.extend(bytes);
            }
            assert!(file.tensor("states").unwrap().data() == wanted);
        }
    }

    #[test]
    fn the_safetensors_crate_reads_it_back() {
        for (dtype, of, size) in [
            (OutputDtype::F32, Dtype::F32, 4),
            (OutputDtype::F16, Dtype::F16, 2),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("layer_1.safetensors");
            let mut states = StatesWriter::create(path.clone(), 0, dtype, 2).unwrap();
            let values = vec![9.0, 9.0, 1.0, 2.0, 3.0, 4.0, 9.0, 9.0, 5.0, 6.0];
            push(&mut states, &values.into(), &[1..3, 4..5]);
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
