//! Launches linear layers with GELU in the GEMM's own epilogue (`kernels/gemm/gemm_gelu.cu`), on
//! Hopper. There cuBLASLt's epilogue has only the tanh form of GELU, and a separate kernel over the
//! GEMM's result costs a quarter of the GEMM's time or more.

use super::error::CudaError;
use super::functions::function;
use super::launch::{
    GEMM_GELU_BAND_BYTES, GEMM_GELU_SHARED_BYTES, GEMM_GELU_SLAB_COLUMNS, GEMM_GELU_SLAB_ROWS,
    GEMM90_COLUMNS, GEMM90_ROWS, GEMM90_STEP, GEMM90_THREADS,
};
use super::params::GemmGeluParams;
use crate::dtype::DType;
use crate::gpu::driver::{
    Context, DeviceInfo, Element, Function, Region, Stream, Swizzle, Tensor, TensorMap,
};

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
        if !Self::is_on(device.capability) {
            return Ok(None);
        }
        let load = |form: &str| {
            let called = format!("{form}_{}", dtype.name());
            function(context, "gemm_gelu", &called, GEMM_GELU_SHARED_BYTES)
        };
        Ok(Some(Self {
            element,
            blocks: device.multiprocessors.max(1),
            plain: load("gemm_gelu")?,
            gated: load("gemm_gelu_gated")?,
        }))
    }

    /// Returns whether a device of this compute capability has the kernels.
    pub fn is_on(capability: (u32, u32)) -> bool {
        capability == (9, 0)
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
        let (outputs, stored) = (o.width * halves, GEMM_GELU_SLAB_COLUMNS / halves as u32);
        let map = |region, dims, boxes| matrix_map(self.element, region, dims, boxes);
        let params = GemmGeluParams {
            from: map(o.from, [o.rows, o.depth], [GEMM90_ROWS, GEMM90_STEP])?,
            weight: map(
                o.weight,
                [outputs, o.depth],
                [GEMM90_COLUMNS / 2, GEMM90_STEP],
            )?,
            to: map(o.to, [o.rows, o.width], [GEMM_GELU_SLAB_ROWS, stored])?,
            bias: o.bias,
            rows: o.rows as u32,
            width: o.width as u32,
            depth: o.depth as u32,
            band: band(o.depth),
            ..GemmGeluParams::default()
        };
        let function = if o.gated { &self.gated } else { &self.plain };
        // There are no more blocks than tiles.
        let tiles =
            o.rows.div_ceil(GEMM90_ROWS as usize) * outputs.div_ceil(GEMM90_COLUMNS as usize);
        let blocks = self.blocks.min(tiles.max(1) as u32);
        let (grid, block) = ([blocks, 1, 1], [GEMM90_THREADS, 1, 1]);
        // SAFETY: the caller keeps the contract in this function's `# Safety` section. The tensor
        // maps end with the last row, so nothing behind the matrices is touched.
        unsafe { stream.launch(function, grid, block, GEMM_GELU_SHARED_BYTES, &params)? };
        Ok(())
    }
}

/// Makes the tensor map of a matrix for the GEMMs of `gemm90.cuh`.
pub(super) fn matrix_map(
    element: Element,
    region: &Region,
    [rows, columns]: [usize; 2],
    [box_rows, box_columns]: [u32; 2],
) -> Result<TensorMap, CudaError> {
    let tensor = Tensor {
        element,
        dims: &[columns as u64, rows as u64],
        strides: &[columns as u64 * 2],
        boxes: &[box_columns, box_rows],
        swizzle: match box_columns {
            GEMM90_STEP => Swizzle::Bytes128,
            _ => Swizzle::Bytes64,
        },
    };
    Ok(TensorMap::new(region, 0, &tensor)?)
}

/// Returns the number of tiles, one above the other, that are worked on together.
pub(super) fn band(depth: usize) -> u32 {
    (GEMM_GELU_BAND_BYTES as usize / (GEMM90_ROWS as usize * depth.max(1) * 2)).clamp(1, 32) as u32
}
