//! The matrices and tables that the passes of a model work on: what a model asks for, and where it
//! lies on the device.

use super::error::CudaError;
use super::memory::{self, Capacity};
use super::weights::ParameterId;
use crate::backend::Role;
use crate::dtype::DType;
use crate::gpu::driver::{Arena, Region};

/// What the passes of a model need for each token, as the builder collects it.
#[derive(Default)]
pub(super) struct Activations {
    /// The role and the width of each matrix.
    pub matrices: Vec<(Role, usize)>,
    /// The tables of rotations: the frequencies that each is made from, and their number per
    /// position.
    pub tables: Vec<(ParameterId, usize)>,
    /// Scratch bytes per token, for the widest linear layer whose output is not stored directly.
    pub scratch: usize,
}

impl Activations {
    /// Returns the bytes of the device's memory per token in a dtype: the token's rows of all
    /// matrices, of scratch memory and of tables.
    pub fn bytes_per_token(&self, dtype: DType) -> usize {
        let t = dtype.size();
        let matrix = |(role, width): &(Role, usize)| match (role, dtype) {
            (_, DType::F32) | (Role::Residual, _) => 4 * width,
            (Role::Activation, _) => t * width,
            (Role::Both, _) => (4 + t) * width,
        };
        let tables: usize = self.tables.iter().map(|(_, half)| 8 * half).sum();
        self.matrices.iter().map(matrix).sum::<usize>() + self.scratch + tables
    }

    /// Returns the most bytes that are lost because each matrix, table and scratch region starts at
    /// a multiple of the alignment.
    pub fn alignment_bytes(&self) -> usize {
        (2 * self.matrices.len() + self.tables.len() + 3) * memory::ALIGN
    }

    /// Returns the width of a representation, which is the width of the residual stream.
    pub fn width(&self) -> usize {
        let stream = self.matrices.iter().find(|(r, _)| *r != Role::Activation);
        stream.map_or(0, |(_, width)| *width)
    }

    /// Gives each matrix and table its place in the arena.
    pub fn place(
        &self,
        arena: &mut Arena,
        dtype: DType,
        capacity: Capacity,
    ) -> Result<PlacedActivations, CudaError> {
        let matrix = |&(role, width): &(Role, usize)| -> Result<DeviceMatrix, CudaError> {
            let mut take = |size| arena.take("activations", capacity.tokens * width * size);
            let (stream, activation) = match role {
                _ if dtype == DType::F32 => {
                    let both = take(4)?;
                    (Some(both.clone()), Some(both))
                }
                Role::Residual => (Some(take(4)?), None),
                Role::Activation => (None, Some(take(dtype.size())?)),
                Role::Both => (Some(take(4)?), Some(take(dtype.size())?)),
            };
            Ok(DeviceMatrix {
                stream,
                activation,
                width,
            })
        };
        let matrices = self.matrices.iter().map(matrix);
        let matrices = matrices.collect::<Result<_, _>>()?;
        let table = |&(inv_freq, half): &(ParameterId, usize)| -> Result<RotaryTable, CudaError> {
            Ok(RotaryTable {
                inv_freq,
                half,
                region: arena.take("the table of rotations", capacity.tokens * half * 8)?,
            })
        };
        let tables = self.tables.iter().map(table).collect::<Result<_, _>>()?;
        let scratch = match self.scratch {
            0 => None,
            bytes => Some(arena.take("activations", capacity.tokens * bytes)?),
        };
        let sums = memory::sums(capacity.tokens, self.width());
        Ok(PlacedActivations {
            matrices,
            tables,
            scratch,
            sums: arena.take("sums of rows", sums)?,
        })
    }
}

/// Activations that have a place on the device. Only the compute stream touches them, so the same
/// memory serves all passes.
pub(super) struct PlacedActivations {
    /// The matrices, by number.
    pub matrices: Vec<DeviceMatrix>,
    /// The tables of rotations, by number.
    pub tables: Vec<RotaryTable>,
    /// Temporary memory: the output of a gated linear layer before its gate is applied, or a GEMM
    /// whose chains are summed before the sum is added to the residual stream.
    pub scratch: Option<Region>,
    /// Sums of rows from which means are computed: f64, `[capacity's tokens / 32 + 1, width]`.
    pub sums: Region,
}

impl PlacedActivations {
    /// Returns the address of the temporary memory, or 0 if there is none.
    pub fn scratch(&self) -> u64 {
        self.scratch.as_ref().map_or(0, Region::address)
    }
}

/// The memory of a matrix: as f32 for the residual stream, in the GEMMs' dtype, or both. In a job
/// in f32 the two are the same memory.
pub(super) struct DeviceMatrix {
    /// The f32 copy that the residual stream uses.
    pub stream: Option<Region>,
    /// The copy that GEMMs and attention use.
    pub activation: Option<Region>,
    /// The number of columns.
    pub width: usize,
}

impl DeviceMatrix {
    /// Returns the address of the residual copy, or 0 if there is none.
    pub fn stream(&self) -> u64 {
        self.stream.as_ref().map_or(0, Region::address)
    }

    /// Returns the address of the copy that GEMMs use, or 0 if there is none.
    pub fn activation(&self) -> u64 {
        self.activation.as_ref().map_or(0, Region::address)
    }
}

/// The table of the rotations of every position.
pub(super) struct RotaryTable {
    /// The frequencies.
    pub inv_freq: ParameterId,
    /// The number of values of `inv_freq`.
    pub half: usize,
    /// The table: f32, `[capacity's tokens, half, 2]`.
    pub region: Region,
}
