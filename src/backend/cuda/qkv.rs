//! Launches the GEMM that makes queries, keys and values and rotates queries and keys in its own
//! epilogue (`kernels/gemm/gemm_qkv.cu`), on Hopper. Attention then needs no rotation, and its
//! faster kernels are used for all sequences.

use super::error::CudaError;
use super::functions::function;
use super::fused::{band, matrix_map};
use super::launch::{
    GEMM_QKV_SHARED_BYTES, GEMM90_COLUMNS, GEMM90_ROWS, GEMM90_STEP, GEMM90_THREADS,
};
use super::params::GemmQkvParams;
use crate::dtype::DType;
use crate::gpu::driver::{Context, DeviceInfo, Element, Function, Region, Stream};

/// The widths of heads that have a kernel.
const HEAD_DIMS: [usize; 4] = [16, 32, 64, 128];

/// The kernel for heads of one width and dtype.
pub(super) struct Qkv {
    element: Element,
    blocks: u32,
    function: Function,
    head_dim: usize,
}

/// The operands of the GEMM, where they lie on the device.
pub(super) struct QkvOperands<'a> {
    /// The input, `[rows, depth]`.
    pub from: &'a Region,
    /// The weight, `[width, depth]`.
    pub weight: &'a Region,
    /// The address of the bias in the activations' dtype; 0 for none.
    pub bias: u64,
    /// The address of the position of each row in its sequence: u32, `[rows]`.
    pub positions: u64,
    /// The address of the table of rotations.
    pub rotary: u64,
    /// The output, `[rows, width]`: queries, keys and values.
    pub to: &'a Region,
    /// The number of rows.
    pub rows: usize,
    /// The number of columns of the output.
    pub width: usize,
    /// The number of columns of the input, a multiple of 8.
    pub depth: usize,
}

impl Qkv {
    /// Returns whether a device of this capability has the kernel for heads of this number and
    /// width.
    pub fn is_on(capability: (u32, u32), dtype: DType, heads: [usize; 2]) -> bool {
        capability == (9, 0) && dtype != DType::F32 && takes(heads)
    }

    /// Loads the kernel; returns `None` if the device, the dtype or the heads have none.
    ///
    /// # Errors
    /// Returns [`CudaError`] if the kernel cannot be loaded.
    pub fn load(
        context: &Context,
        device: &DeviceInfo,
        dtype: DType,
        heads: [usize; 2],
    ) -> Result<Option<Self>, CudaError> {
        let element = match dtype {
            DType::F16 => Element::F16,
            DType::Bf16 => Element::Bf16,
            DType::F32 => return Ok(None),
        };
        if !Self::is_on(device.capability, dtype, heads) {
            return Ok(None);
        }
        let [_, head_dim] = heads;
        let called = format!("gemm_qkv_{}_{head_dim}", dtype.name());
        Ok(Some(Self {
            element,
            blocks: device.multiprocessors.max(1),
            function: function(context, "gemm_qkv", &called, GEMM_QKV_SHARED_BYTES)?,
            head_dim,
        }))
    }

    /// Launches the kernel; no rows launch nothing.
    ///
    /// # Safety
    /// The regions must hold matrices of these shapes, and every position must be in the table.
    /// Nothing but this stream may touch them until a fence that was recorded after this call has
    /// been passed.
    pub unsafe fn run(&self, stream: &Stream, o: &QkvOperands<'_>) -> Result<(), CudaError> {
        if o.rows == 0 {
            return Ok(());
        }
        // With heads of 128 the two halves of a head are loaded and stored separately.
        let (weights, stored) = match self.head_dim {
            128 => (32, 32),
            _ => (GEMM90_COLUMNS / 2, 64),
        };
        let map = |region, dims, boxes| matrix_map(self.element, region, dims, boxes);
        let params = GemmQkvParams {
            from: map(o.from, [o.rows, o.depth], [GEMM90_ROWS, GEMM90_STEP])?,
            weight: map(o.weight, [o.width, o.depth], [weights, GEMM90_STEP])?,
            to: map(o.to, [o.rows, o.width], [64, stored])?,
            bias: o.bias,
            positions: o.positions,
            rotary: o.rotary,
            rows: o.rows as u32,
            width: o.width as u32,
            depth: o.depth as u32,
            band: band(o.depth),
            ..GemmQkvParams::default()
        };
        // There are no more blocks than tiles.
        let tiles =
            o.rows.div_ceil(GEMM90_ROWS as usize) * o.width.div_ceil(GEMM90_COLUMNS as usize);
        let blocks = self.blocks.min(tiles.max(1) as u32);
        let (grid, block) = ([blocks, 1, 1], [GEMM90_THREADS, 1, 1]);
        // SAFETY: the caller keeps the contract in this function's `# Safety` section. The tensor
        // maps end with the last row, so nothing behind the matrices is touched.
        unsafe { stream.launch(&self.function, grid, block, GEMM_QKV_SHARED_BYTES, &params)? };
        Ok(())
    }
}

/// Returns whether a kernel takes this number of heads of this width. The kernel's epilogue works on
/// 32 columns at a time, which must be all queries, all keys or all values.
fn takes([heads, head_dim]: [usize; 2]) -> bool {
    HEAD_DIMS.contains(&head_dim) && (heads * head_dim).is_multiple_of(32)
}
