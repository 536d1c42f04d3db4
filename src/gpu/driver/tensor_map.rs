//! Tensor maps: how a Hopper kernel's tensor copies find a matrix in global memory.

use super::error::{DriverError, call};
use super::memory::Region;
use std::ffi::c_void;

/// A tensor map, as a kernel takes it by value in its parameters.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub struct TensorMap([u64; 16]);

impl std::fmt::Debug for TensorMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TensorMap") // opaque
    }
}

/// What a tensor's elements are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// 16 bits, IEEE.
    F16,
    /// 16 bits, the upper half of an f32.
    Bf16,
    /// 32 bits.
    F32,
}

impl Element {
    fn bytes(self) -> u64 {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }

    /// CUtensorMapDataType
    fn code(self) -> i32 {
        match self {
            Self::F16 => 6,
            Self::F32 => 7,
            Self::Bf16 => 9,
        }
    }
}

/// Bytes of a box's rows among which the units of 16 bytes are exchanged, so that a column's lie in different banks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swizzle {
    /// Rows lie as they are.
    None,
    /// Rows of 32 bytes.
    Bytes32,
    /// Rows of 64 bytes.
    Bytes64,
    /// Rows of 128 bytes.
    Bytes128,
}

/// A tensor in device memory, and the box that one copy takes of it. Innermost dimension first, which is dense.
#[derive(Debug, Clone, Copy)]
pub struct Tensor<'a> {
    /// What its elements are.
    pub element: Element,
    /// Elements of each dimension: one to five.
    pub dims: &'a [u64],
    /// Bytes from one index to the next, of all dimensions but the innermost: multiples of 16.
    pub strides: &'a [u64],
    /// Elements of the box: at most 256 in each dimension, the innermost a multiple of 16 bytes.
    pub boxes: &'a [u32],
    /// With one, the box's innermost dimension has as many bytes.
    pub swizzle: Swizzle,
}

impl TensorMap {
    /// A map of the tensor that begins `offset` bytes into a region.
    ///
    /// # Errors
    /// [`DriverError`]: code 1 where the driver does not take such a tensor, or it does not end within the region.
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
        // One that does not fit is for the driver to refuse: it gets a rank of 0.
        let rank = if fits { rank as u32 } else { 0 };
        let mut map = Self([0; 16]);
        let ones = [1u32; 5];
        // SAFETY: the map is writable and aligned; the arrays have `rank` elements each, the strides one less; the
        // address is only noted.
        unsafe {
            call!(cuTensorMapEncodeTiled(
                &mut map,
                tensor.element.code(),
                rank,
                (region.address() + offset) as *mut c_void,
                tensor.dims.as_ptr(),
                tensor.strides.as_ptr(),
                tensor.boxes.as_ptr(),
                ones.as_ptr(),
                0,
                tensor.swizzle as i32,
                L2_PROMOTION_128,
                0,
            ))
        }?;
        Ok(map)
    }
}

/// CU_TENSOR_MAP_L2_PROMOTION_L2_128B: a miss brings a whole line.
const L2_PROMOTION_128: i32 = 2;

/// Bytes from the tensor's first element to behind its last; `None` where they overflow.
fn end(tensor: &Tensor) -> Option<u64> {
    let mut end = tensor.dims.first()?.checked_mul(tensor.element.bytes())?;
    for (dim, stride) in tensor.dims[1..].iter().zip(tensor.strides) {
        end = end.checked_add(dim.checked_sub(1)?.checked_mul(*stride)?)?;
    }
    Some(end)
}
