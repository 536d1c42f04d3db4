//! Linear layers with GELU in the product's own epilogue (`kernels/gemm_gelu.cu`), on Hopper: cuBLASLt has GELU's tanh
//! form alone there, and a pass of its own over its result costs a quarter of the product.

use super::error::CudaError;
use super::functions::function;
use super::params::{GemmGeluParams, TensorMap as MapWords};
use crate::dtype::DType;
use crate::gpu::driver::{
    Context, DeviceInfo, Element, Function, Region, Stream, Swizzle, Tensor, TensorMap,
};

/// Threads of a block: a producer's warpgroup and two consumers'.
const THREADS: u32 = 384;
/// Dynamic shared memory: six steps of both operands, two slabs for each consumer, 14 barriers.
const SHARED: u32 = 6 * 2 * 16384 + 2 * 2 * 8192 + 14 * 8;
/// Tiles one above the other that are worked on at a time, so that both operands' tiles are met again in L2.
const BAND: u32 = 8;
/// Columns of every box: 128 bytes, the swizzle's span.
const BOX_COLUMNS: u32 = 64;

/// The two kernels for one dtype.
pub(super) struct Fused {
    element: Element,
    blocks: u32,
    plain: Function,
    gated: Function,
}

/// A linear layer's operands, as they lie on the device.
pub(super) struct GemmGeluOperands<'a> {
    /// [rows, depth]
    pub from: &'a Region,
    /// [width, depth], or [2·width, depth] with the gates first.
    pub weight: &'a Region,
    /// In the activations' dtype, one a row of the weight; 0 for none.
    pub bias: u64,
    /// [rows, width]
    pub to: &'a Region,
    pub rows: usize,
    pub width: usize,
    pub depth: usize,
    pub gated: bool,
}

impl Fused {
    /// `None` where the chip or the dtype has no such kernel.
    ///
    /// # Errors
    /// [`CudaError`]
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

    /// Whether it takes a layer of this shape.
    pub fn takes(width: usize, depth: usize) -> bool {
        width.is_multiple_of(8) && depth.is_multiple_of(8)
    }

    /// # Safety
    /// The regions hold these shapes, and nothing but this stream touches them until a fence recorded after it is
    /// passed.
    pub unsafe fn run(&self, stream: &Stream, o: &GemmGeluOperands<'_>) -> Result<(), CudaError> {
        if o.rows == 0 {
            return Ok(());
        }
        let outputs = o.width * if o.gated { 2 } else { 1 };
        let params = GemmGeluParams {
            from: self.map(o.from, [o.rows, o.depth], 128)?,
            weight: self.map(o.weight, [outputs, o.depth], 64)?,
            to: self.map(o.to, [o.rows, o.width], 64)?,
            bias: o.bias,
            rows: o.rows as u32,
            width: o.width as u32,
            depth: o.depth as u32,
            band: BAND,
            ..GemmGeluParams::default()
        };
        let function = if o.gated { &self.gated } else { &self.plain };
        // No more blocks than there are tiles, of 128 rows and at least 64 columns.
        let tiles = o.rows.div_ceil(128) * o.width.div_ceil(64);
        let blocks = self.blocks.min(tiles.max(1) as u32);
        let (grid, block) = ([blocks, 1, 1], [THREADS, 1, 1]);
        // SAFETY: the caller's; the maps end with the rows, so nothing behind them is touched.
        unsafe { stream.launch(function, grid, block, SHARED, &params)? };
        Ok(())
    }

    fn map(
        &self,
        region: &Region,
        [rows, columns]: [usize; 2],
        box_rows: u32,
    ) -> Result<MapWords, CudaError> {
        let tensor = Tensor {
            element: self.element,
            dims: &[columns as u64, rows as u64],
            strides: &[columns as u64 * 2],
            boxes: &[BOX_COLUMNS, box_rows],
            swizzle: Swizzle::Bytes128,
        };
        let map = TensorMap::new(region, 0, &tensor)?;
        // SAFETY: both are 128 bytes that have a meaning to the device alone.
        Ok(unsafe { std::mem::transmute::<TensorMap, MapWords>(map) })
    }
}
