//! The kernels of one device, loaded, and how each is launched.

use super::attention::{AttentionKernel, AttentionKernels, WorkCounts, WorkList};
use super::driver::{Context, DriverError, Function, Module, Stream};
use super::error::CudaError;
use super::kernels;
use super::params::{
    AddParams, AttentionParams, CastParams, EmbedParams, GatedGeluParams, GeluParams,
    GemmShortParams, LayerNormParams, RepresentParams, RotaryTableParams,
};
use crate::backend::{AttentionSpec, Position};
use crate::weights::DType;

/// Threads of a block of the kernels that go over elements or rows.
const THREADS: u32 = 256;
/// Rows, and columns, of a block of `gemm_short`.
const SHORT_TILE: u32 = 64;
/// Rows of a block of `represent`.
const REPRESENT_ROWS: usize = 64;
/// Columns, and threads, of a block of `represent_means`.
const MEAN_COLUMNS: u32 = 128;
/// Most blocks, a multiprocessor, of kernels that take any number: enough to fill it.
const BLOCKS_A_MULTIPROCESSOR: u32 = 16;

/// One kernel of a fatbin.
pub(super) fn function(
    context: &Context,
    source: &str,
    name: &str,
    shared: u32,
) -> Result<Function, CudaError> {
    let image = kernels::fatbin(source).ok_or_else(|| CudaError::NoKernel { name: name.into() })?;
    Ok(Module::load(context, image)?.function(name, shared)?)
}

/// The kernels between the products, for one dtype of activations.
pub(super) struct Functions {
    dtype: DType,
    most_blocks: u32,
    /// `add` and `gemm_short`: f32 alone has a use for them.
    f32_alone: Option<(Function, Function)>,
    embed: Function,
    layer_norm: Function,
    gelu: Function,
    gated_gelu: Function,
    represent: Function,
    represent_means: Function,
    rotary_table: Function,
}

impl Functions {
    pub fn load(context: &Context, dtype: DType, multiprocessors: u32) -> Result<Self, CudaError> {
        let t = dtype.name();
        let load = |source: &str, name: String| function(context, source, &name, 0);
        Ok(Self {
            dtype,
            most_blocks: multiprocessors.max(1) * BLOCKS_A_MULTIPROCESSOR,
            f32_alone: match dtype {
                DType::F32 => Some((
                    load("add", "add".into())?,
                    load("gemm_short", "gemm_short".into())?,
                )),
                DType::F16 | DType::Bf16 => None,
            },
            embed: load("embed", "embed".into())?,
            layer_norm: load("layer_norm", format!("layer_norm_{t}"))?,
            gelu: load("gelu", format!("gelu_{t}"))?,
            gated_gelu: load("gated_gelu", format!("gated_gelu_{t}"))?,
            represent: match dtype {
                DType::F32 => load("represent", "represent_f32".into())?,
                DType::F16 | DType::Bf16 => load("represent", "represent".into())?,
            },
            represent_means: load("represent", "represent_means".into())?,
            rotary_table: load("rotary_table", "rotary_table".into())?,
        })
    }

    fn f32_alone(&self, name: &str) -> Result<&(Function, Function), CudaError> {
        self.f32_alone
            .as_ref()
            .ok_or_else(|| CudaError::NoKernel { name: name.into() })
    }

    /// Blocks for so many pieces of work, one a thread.
    fn blocks(&self, pieces: usize) -> [u32; 3] {
        let blocks = pieces.div_ceil(THREADS as usize).max(1);
        [blocks.min(self.most_blocks as usize) as u32, 1, 1]
    }

    /// # Safety
    /// The addresses are of live device memory of the sizes that `params.h` says, which nothing but this stream
    /// touches until a fence recorded after it is passed. So for all that follow.
    pub unsafe fn embed(&self, stream: &Stream, p: &EmbedParams) -> Result<(), CudaError> {
        // A warp a token.
        let grid = self.blocks(p.count as usize * 32);
        // SAFETY: the caller's.
        unsafe { stream.launch(&self.embed, grid, [THREADS, 1, 1], 0, p)? };
        Ok(())
    }

    /// # Safety
    /// As [`Self::embed`].
    pub unsafe fn add(&self, stream: &Stream, p: &AddParams) -> Result<(), CudaError> {
        let (add, _) = self.f32_alone("add")?;
        let grid = self.blocks((p.count as usize).div_ceil(4));
        // SAFETY: the caller's.
        unsafe { stream.launch(add, grid, [THREADS, 1, 1], 0, p)? };
        Ok(())
    }

    /// # Safety
    /// As [`Self::embed`].
    pub unsafe fn layer_norm(&self, stream: &Stream, p: &LayerNormParams) -> Result<(), CudaError> {
        // At least a warp a row.
        let grid = self.blocks(p.rows as usize * 32);
        // SAFETY: the caller's.
        unsafe { stream.launch(&self.layer_norm, grid, [THREADS, 1, 1], 0, p)? };
        Ok(())
    }

    /// # Safety
    /// As [`Self::embed`].
    pub unsafe fn gelu(&self, stream: &Stream, p: &GeluParams) -> Result<(), CudaError> {
        let grid = self.blocks((p.count as usize * self.dtype.size()).div_ceil(16));
        // SAFETY: the caller's.
        unsafe { stream.launch(&self.gelu, grid, [THREADS, 1, 1], 0, p)? };
        Ok(())
    }

    /// # Safety
    /// As [`Self::embed`].
    pub unsafe fn gated_gelu(&self, stream: &Stream, p: &GatedGeluParams) -> Result<(), CudaError> {
        let bytes = p.rows as usize * p.width as usize * self.dtype.size();
        let grid = self.blocks(bytes.div_ceil(16));
        // SAFETY: the caller's.
        unsafe { stream.launch(&self.gated_gelu, grid, [THREADS, 1, 1], 0, p)? };
        Ok(())
    }

    /// # Safety
    /// As [`Self::embed`].
    pub unsafe fn gemm_short(&self, stream: &Stream, p: &GemmShortParams) -> Result<(), CudaError> {
        let (_, gemm_short) = self.f32_alone("gemm_short")?;
        let grid = [
            p.outputs.div_ceil(SHORT_TILE),
            p.rows.div_ceil(SHORT_TILE),
            1,
        ];
        // SAFETY: the caller's.
        unsafe { stream.launch(gemm_short, grid, [THREADS, 1, 1], 0, p)? };
        Ok(())
    }

    /// # Safety
    /// As [`Self::embed`].
    pub unsafe fn represent(
        &self,
        stream: &Stream,
        rows: usize,
        p: &RepresentParams,
    ) -> Result<(), CudaError> {
        let chunks = [(rows / REPRESENT_ROWS) as u32 + p.sequences, 1, 1];
        let columns = [p.sequences * p.width.div_ceil(MEAN_COLUMNS), 1, 1];
        // SAFETY: the caller's.
        unsafe {
            stream.launch(&self.represent, chunks, [THREADS, 1, 1], 0, p)?;
            stream.launch(&self.represent_means, columns, [MEAN_COLUMNS, 1, 1], 0, p)?;
        }
        Ok(())
    }

    /// # Safety
    /// As [`Self::embed`].
    pub unsafe fn rotary_table(
        &self,
        stream: &Stream,
        p: &RotaryTableParams,
    ) -> Result<(), CudaError> {
        let grid = self.blocks(p.positions as usize * p.half as usize);
        // SAFETY: the caller's.
        unsafe { stream.launch(&self.rotary_table, grid, [THREADS, 1, 1], 0, p)? };
        Ok(())
    }
}

/// The kernels that bring weights from the format they are stored in to another.
pub(super) struct Casts(Vec<((DType, DType), Function)>);

impl Casts {
    pub fn load(context: &Context) -> Result<Self, CudaError> {
        let all = [DType::F32, DType::F16, DType::Bf16];
        let pairs = all.into_iter().flat_map(|from| all.map(|to| (from, to)));
        let functions = pairs.filter(|(from, to)| from != to).map(|(from, to)| {
            let called = format!("cast_{}_{}", from.name(), to.name());
            Ok(((from, to), function(context, "cast", &called, 0)?))
        });
        Ok(Self(functions.collect::<Result<_, CudaError>>()?))
    }

    /// Two different formats.
    ///
    /// # Safety
    /// As [`Functions::embed`].
    pub unsafe fn run(
        &self,
        stream: &Stream,
        formats: (DType, DType),
        p: &CastParams,
    ) -> Result<(), DriverError> {
        let Some((_, function)) = self.0.iter().find(|(f, _)| *f == formats) else {
            return Ok(());
        };
        let blocks = (p.count as usize).div_ceil(4 * THREADS as usize);
        let grid = [blocks.clamp(1, 1 << 16) as u32, 1, 1];
        // SAFETY: the caller's.
        unsafe { stream.launch(function, grid, [THREADS, 1, 1], 0, p) }
    }
}

/// The attention kernels of a model's heads.
pub(super) struct AttentionFunctions {
    kernels: AttentionKernels,
    long: (Function, AttentionKernel),
    short: Option<(Function, AttentionKernel)>,
    rotate: Option<(Function, AttentionKernel)>,
    multiprocessors: u32,
}

impl AttentionFunctions {
    pub fn load(context: &Context, dtype: DType, spec: &AttentionSpec) -> Result<Self, CudaError> {
        let device = context.info()?;
        let head_dim = spec.head_dim;
        let rotary = matches!(spec.position, Position::Rotary(_));
        let kernels = AttentionKernels::new(head_dim, dtype, rotary, device.capability)
            .ok_or(CudaError::HeadDim { head_dim })?;
        let load = |k: &AttentionKernel| -> Result<_, CudaError> {
            Ok((function(context, &k.source, &k.name, k.shared)?, k.clone()))
        };
        Ok(Self {
            long: load(&kernels.long)?,
            short: kernels.short.as_ref().map(load).transpose()?,
            rotate: kernels.rotate.as_ref().map(load).transpose()?,
            kernels,
            multiprocessors: device.multiprocessors,
        })
    }

    /// [`AttentionKernels::bits`]
    pub fn bits(&self) -> Option<&'static str> {
        self.kernels.bits()
    }

    /// The work of a batch of these sequences.
    pub fn work(&self, starts: &[usize]) -> WorkList {
        self.kernels.work(starts)
    }

    /// `lists`: where the items and slots of the work lie. Keys of long sequences may be rotated where they lie.
    ///
    /// # Safety
    /// As [`Functions::embed`].
    pub unsafe fn run(
        &self,
        stream: &Stream,
        params: &AttentionParams,
        lists: (u64, u64),
        counts: WorkCounts,
    ) -> Result<(), CudaError> {
        let rotate = self.rotate.as_ref().filter(|_| counts.rotated);
        let launches = [
            (rotate, lists.0, counts.items),
            (Some(&self.long), lists.0, counts.items),
            (self.short.as_ref(), lists.1, counts.short_items),
        ];
        for (kernel, items, count) in launches {
            let Some((function, kernel)) = kernel.filter(|_| count > 0) else {
                continue;
            };
            let count = count as u32;
            let params = AttentionParams {
                items,
                count,
                ..*params
            };
            let grid = [
                kernel.blocks(params.heads, count, self.multiprocessors),
                1,
                1,
            ];
            // SAFETY: the caller's.
            unsafe {
                stream.launch(
                    function,
                    grid,
                    [kernel.threads, 1, 1],
                    kernel.shared,
                    &params,
                )?;
            }
        }
        Ok(())
    }
}
