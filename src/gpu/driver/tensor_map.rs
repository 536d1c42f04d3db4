//! Tensor maps: they tell the tensor copies (TMA) of a Hopper kernel how a matrix lies in global
//! memory.

use super::error::{DriverError, call};
use super::memory::Region;
use std::ffi::c_void;

/// A tensor map, which a kernel takes by value as part of its parameters.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub struct TensorMap([u64; 16]);

impl std::fmt::Debug for TensorMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TensorMap") // the content is opaque
    }
}

/// The number format of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// IEEE binary16, 16 bits.
    F16,
    /// bfloat16, the upper 16 bits of an f32.
    Bf16,
    /// IEEE binary32, 32 bits.
    F32,
}

impl Element {
    fn bytes(self) -> u64 {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }

    /// Returns the value of `CUtensorMapDataType`.
    fn code(self) -> i32 {
        match self {
            Self::F16 => 6,
            Self::F32 => 7,
            Self::Bf16 => 9,
        }
    }
}

/// How the units of 16 bytes are permuted within a box's rows, so that the units of one column lie
/// in different banks of shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swizzle {
    /// The rows are not permuted.
    None,
    /// Units are permuted within rows of 32 bytes.
    Bytes32,
    /// Units are permuted within rows of 64 bytes.
    Bytes64,
    /// Units are permuted within rows of 128 bytes.
    Bytes128,
}

/// A tensor in device memory, and the box that one copy transfers. The innermost dimension comes
/// first and is dense.
#[derive(Debug, Clone, Copy)]
pub struct Tensor<'a> {
    /// The number format of the elements.
    pub element: Element,
    /// The number of elements in each of the one to five dimensions.
    pub dims: &'a [u64],
    /// The distance in bytes from one index to the next, for all dimensions except the innermost.
    /// Each is a multiple of 16.
    pub strides: &'a [u64],
    /// The number of elements of the box in each dimension, at most 256. The innermost dimension of
    /// the box must be a multiple of 16 bytes.
    pub boxes: &'a [u32],
    /// The permutation of the box's rows. Except with [`Swizzle::None`], the box's innermost
    /// dimension must have the number of bytes that the variant names.
    pub swizzle: Swizzle,
}

/// A matrix whose rows are those of sequences, one sequence after the other, and whose columns are
/// blocks of equal width. One copy transfers rows of one sequence.
#[derive(Debug, Clone, Copy)]
pub struct PackedRows {
    /// The number format of the elements.
    pub element: Element,
    /// The address of the matrix in device memory. The driver only notes it.
    pub address: u64,
    /// The number of rows of all sequences together.
    pub rows: u64,
    /// The number of blocks in a row.
    pub blocks: u64,
    /// The number of columns of a block.
    pub columns: u64,
    /// The number of rows that one copy transfers, at most 256. The copy fills the rows after the
    /// end of the sequence with zeros.
    pub box_rows: u32,
    /// The number of columns that one copy transfers, at least `columns`. The copy fills the
    /// columns after the end of the block with zeros.
    pub box_columns: u32,
    /// The number of blocks that one copy transfers.
    pub box_blocks: u32,
    /// The permutation of the box's rows, as in [`Tensor`].
    pub swizzle: Swizzle,
}

impl TensorMap {
    /// Encodes a map with four dimensions: columns of a block, rows of a box, rows of the matrix,
    /// and blocks. A copy from the coordinates `(0, box_rows - n, row + n, block)` transfers the
    /// `n` rows from `row` on, for `n` of at least 1 and at most `box_rows`: the second and the
    /// third dimension have the same stride, the map begins `box_rows` rows before the matrix, and
    /// the second dimension ends after `n` rows. So a copy never reads the rows of the next
    /// sequence, although the hardware only knows the limits of dimensions.
    ///
    /// # Errors
    /// [`DriverError`], with code 1 if the driver refuses such a tensor, or if the numbers
    /// overflow.
    pub fn packed(rows: &PackedRows) -> Result<Self, DriverError> {
        let block_bytes = rows.columns.checked_mul(rows.element.bytes());
        let row_bytes = block_bytes.and_then(|bytes| bytes.checked_mul(rows.blocks));
        let before = row_bytes.and_then(|bytes| bytes.checked_mul(u64::from(rows.box_rows)));
        let start = before.and_then(|bytes| rows.address.checked_sub(bytes));
        let (Some(block_bytes), Some(row_bytes), Some(start)) = (block_bytes, row_bytes, start)
        else {
            return Self::encode(None, 0, L2_PROMOTION_256);
        };
        let dims = [
            rows.columns,
            u64::from(rows.box_rows),
            rows.rows.saturating_add(1),
            rows.blocks,
        ];
        let tensor = Tensor {
            element: rows.element,
            dims: &dims,
            strides: &[row_bytes, row_bytes, block_bytes],
            boxes: &[rows.box_columns, rows.box_rows, 1, rows.box_blocks],
            swizzle: rows.swizzle,
        };
        Self::encode(Some(&tensor), start, L2_PROMOTION_256)
    }

    /// Encodes a map of the tensor that begins `offset` bytes after the start of a region.
    ///
    /// # Errors
    /// [`DriverError`], with code 1 if the driver refuses such a tensor or the tensor does not end
    /// within the region.
    pub fn new(region: &Region, offset: u64, tensor: &Tensor) -> Result<Self, DriverError> {
        let rank = tensor.dims.len();
        let fits = rank >= 1
            && tensor.boxes.len() == rank
            && tensor.strides.len() + 1 == rank
            && end(tensor).is_some_and(|bytes| {
                offset
                    .checked_add(bytes)
                    .is_some_and(|end| end <= region.bytes() as u64)
            });
        Self::encode(
            fits.then_some(tensor),
            region.address().wrapping_add(offset),
            L2_PROMOTION_128,
        )
    }

    /// Encodes a map of a tensor whose arrays have as many elements as it has dimensions. `None`
    /// stands for a tensor that does not fit.
    fn encode(tensor: Option<&Tensor>, address: u64, promotion: i32) -> Result<Self, DriverError> {
        // A tensor that does not fit gets the rank 0, so that the driver refuses it.
        let rank = tensor.map_or(0, |tensor| tensor.dims.len() as u32);
        let none = Tensor {
            element: Element::F16,
            dims: &[],
            strides: &[],
            boxes: &[],
            swizzle: Swizzle::None,
        };
        let tensor = tensor.unwrap_or(&none);
        let mut map = Self([0; 16]);
        let ones = [1u32; 5];
        // SAFETY: the map is writable and aligned. The arrays have `rank` elements each, and the
        // strides have one element less. The driver only notes the address.
        unsafe {
            call!(cuTensorMapEncodeTiled(
                &mut map,
                tensor.element.code(),
                rank,
                address as *mut c_void,
                tensor.dims.as_ptr(),
                tensor.strides.as_ptr(),
                tensor.boxes.as_ptr(),
                ones.as_ptr(),
                0,
                tensor.swizzle as i32,
                promotion,
                0,
            ))
        }?;
        Ok(map)
    }
}

/// `CU_TENSOR_MAP_L2_PROMOTION_L2_128B`: a miss in L2 loads a whole line of 128 bytes.
const L2_PROMOTION_128: i32 = 2;
/// `CU_TENSOR_MAP_L2_PROMOTION_L2_256B`: a miss in L2 loads two lines.
const L2_PROMOTION_256: i32 = 3;

/// Returns the bytes from the start of the tensor's first element to the end of its last element.
/// The result is `None` if the number overflows, there is no dimension, or an outer dimension is 0.
fn end(tensor: &Tensor) -> Option<u64> {
    let mut end = tensor.dims.first()?.checked_mul(tensor.element.bytes())?;
    for (dim, stride) in tensor.dims[1..].iter().zip(tensor.strides) {
        end = end.checked_add(dim.checked_sub(1)?.checked_mul(*stride)?)?;
    }
    Some(end)
}
