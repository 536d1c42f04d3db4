//! Launches linear layers with GELU in the GEMM's own epilogue (`kernels/gemm_gelu.cu`), on Hopper.
//! There cuBLASLt's epilogue has only the tanh form of GELU, and a separate kernel over the GEMM's
//! result costs a quarter of the GEMM's time or more.

use super::error::CudaError;
use super::functions::function;
use super::params::{GemmGeluParams, TensorMap as MapWords};
use crate::dtype::DType;
use crate::gpu::driver::{
    Context, DeviceInfo, Element, Function, Region, Stream, Swizzle, Tensor, TensorMap,
};

/// Threads per block: one warpgroup of a producer and two of consumers.
const THREADS: u32 = 384;
/// Bytes of dynamic shared memory: four stages of both operands, three slabs of results for each
/// consumer, 10 barriers.
const SHARED: u32 = 4 * (128 + 192) * 128 + 2 * 3 * 8192 + 10 * 8;
/// Rows of the output per tile. A tile has 192 rows of the weight.
const TILE_ROWS: usize = 128;
/// Bytes of the input's rows that the tiles of a band share. The tiles of a band are worked on
/// together, so that the rows of both operands are still in L2 when they are read again.
const BAND_BYTES: usize = 10 << 20;
/// Columns per box of a tensor map: 128 bytes, the span of the swizzle. The gated kernel stores
/// half as many at once.
const BOX_COLUMNS: u32 = 64;

/// The two kernels, plain and gated, for one dtype.
pub(super) struct Fused {
    element: Element,
    blocks: u32,
    plain: Function,
    gated: Function,
}

/// The operands of a linear layer, where they lie on the device.
pub(super) struct GemmGeluOperands<'a> {
    /// The input, `[rows, depth]`.
    pub from: &'a Region,
    /// The weight, `[width, depth]`, or `[2·width, depth]` with the gates first.
    pub weight: &'a Region,
    /// The address of the bias in the activations' dtype, one value per row of the weight; 0 for
    /// none.
    pub bias: u64,
    /// The output, `[rows, width]`.
    pub to: &'a Region,
    /// The number of rows.
    pub rows: usize,
    /// The number of columns of the output, a multiple of 8.
    pub width: usize,
    /// The number of columns of the input, a multiple of 8.
    pub depth: usize,
    /// Whether the layer is gated.
    pub gated: bool,
}

impl Fused {
    /// Loads the kernels; returns `None` if the device or the dtype has none.
    ///
    /// # Errors
    /// Returns [`CudaError`] if a kernel cannot be loaded.
    pub fn load(
        context: &Context,
        device: &DeviceInfo,
        dtype: DType,
    ) -> Result<Option<Self>, CudaError> {
        let element = match dtype {
            DType::F16 => Element::F16,
            DType::Bf16 => Element::Bf16,
            DType::F32 => return Ok(None),
        };
        if device.capability != (9, 0) {
            return Ok(None);
        }
        let load = |form: &str| {
            let called = format!("{form}_{}", dtype.name());
            function(context, "gemm_gelu", &called, SHARED)
        };
        Ok(Some(Self {
            element,
            blocks: device.multiprocessors.max(1),
            plain: load("gemm_gelu")?,
            gated: load("gemm_gelu_gated")?,
        }))
    }

    /// Returns whether the kernels take a layer of this shape.
    pub fn takes(width: usize, depth: usize) -> bool {
        width.is_multiple_of(8) && depth.is_multiple_of(8)
    }

    /// Launches the kernel for one linear layer; no rows launch nothing.
    ///
    /// # Safety
    /// The regions must hold matrices of these shapes. Nothing but this stream may touch them until
    /// a fence that was recorded after this call has been passed.
    pub unsafe fn run(&self, stream: &Stream, o: &GemmGeluOperands<'_>) -> Result<(), CudaError> {
        if o.rows == 0 {
            return Ok(());
        }
        let halves = if o.gated { 2 } else { 1 };
        let (outputs, stored) = (o.width * halves, BOX_COLUMNS / halves as u32);
        let params = GemmGeluParams {
            from: self.map(o.from, [o.rows, o.depth], [128, BOX_COLUMNS])?,
            weight: self.map(o.weight, [outputs, o.depth], [96, BOX_COLUMNS])?,
            to: self.map(o.to, [o.rows, o.width], [64, stored])?,
            bias: o.bias,
            rows: o.rows as u32,
            width: o.width as u32,
            depth: o.depth as u32,
            band: band(o.depth),
            ..GemmGeluParams::default()
        };
        let function = if o.gated { &self.gated } else { &self.plain };
        // There are no more blocks than tiles.
        let tiles = o.rows.div_ceil(TILE_ROWS) * outputs.div_ceil(192);
        let blocks = self.blocks.min(tiles.max(1) as u32);
        let (grid, block) = ([blocks, 1, 1], [THREADS, 1, 1]);
        // SAFETY: the caller keeps the contract in this function's `# Safety` section. The tensor
        // maps end with the last row, so nothing behind the matrices is touched.
        unsafe { stream.launch(function, grid, block, SHARED, &params)? };
        Ok(())
    }

    fn map(
        &self,
        region: &Region,
        [rows, columns]: [usize; 2],
        [box_rows, box_columns]: [u32; 2],
    ) -> Result<MapWords, CudaError> {
        let tensor = Tensor {
            element: self.element,
            dims: &[columns as u64, rows as u64],
            strides: &[columns as u64 * 2],
            boxes: &[box_columns, box_rows],
            swizzle: match box_columns {
                BOX_COLUMNS => Swizzle::Bytes128,
                _ => Swizzle::Bytes64,
            },
        };
        let map = TensorMap::new(region, 0, &tensor)?;
        // SAFETY: both types are 128 bytes, which only the device interprets.
        Ok(unsafe { std::mem::transmute::<TensorMap, MapWords>(map) })
    }
}

/// Returns the number of tiles, one above the other, that are worked on together.
fn band(depth: usize) -> u32 {
    (BAND_BYTES / (TILE_ROWS * depth.max(1) * 2)).clamp(1, 32) as u32
}
