//! Loads the kernels of one device and launches them.

use super::attention::{AttentionKernel, AttentionKernels, WorkCounts, WorkList};
use super::error::CudaError;
use super::kernels;
use super::launch::{
    GEMM_SHORT_THREADS, GEMM_SHORT_TILE, LOOP_THREADS, REPRESENT_MEAN_COLUMNS, REPRESENT_ROWS,
};
use super::params::{
    AddParams, AttentionParams, CastParams, EmbedParams, GatedGeluParams, GeluParams,
    GemmShortParams, LayerNormParams, RepresentParams, RotaryTableParams,
};
use super::qkv::Qkv;
use crate::backend::{AttentionSpec, Position};
use crate::dtype::DType;
use crate::gpu::driver::{Context, DriverError, Function, Module, Stream};

/// Upper bound on the blocks per multiprocessor of grid-stride kernels: enough to fill it.
const BLOCKS_PER_MULTIPROCESSOR: u32 = 16;

/// Loads one kernel from the fatbin of `source`, with `shared` bytes of dynamic shared memory.
///
/// # Errors
/// Returns [`CudaError::NoKernel`] if this build has no such fatbin, or the driver's error.
pub(super) fn function(
    context: &Context,
    source: &str,
    name: &str,
    shared: u32,
) -> Result<Function, CudaError> {
    let image = kernels::fatbin(source).ok_or_else(|| CudaError::NoKernel { name: name.into() })?;
    Ok(Module::load(context, image)?.function(name, shared)?)
}

/// The kernels that run between the GEMMs, for one dtype of activations.
pub(super) struct Functions {
    dtype: DType,
    most_blocks: u32,
    /// The kernels `add` and `gemm_short`, which only f32 needs.
    f32_alone: Option<(Function, Function)>,
    embed: Function,
    layer_norm: Function,
    gelu: Function,
    gated_gelu: Function,
    represent: Function,
    represent_means: Function,
    represent_max: Function,
    represent_maxima: Function,
    rotary_table: Function,
}

impl Functions {
    /// Loads the kernels for activations in `dtype`.
    ///
    /// # Errors
    /// As for [`function`].
    pub fn load(context: &Context, dtype: DType, multiprocessors: u32) -> Result<Self, CudaError> {
        let t = dtype.name();
        let load = |source: &str, name: String| function(context, source, &name, 0);
        Ok(Self {
            dtype,
            most_blocks: multiprocessors.max(1) * BLOCKS_PER_MULTIPROCESSOR,
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
            represent_max: match dtype {
                DType::F32 => load("represent", "represent_max_f32".into())?,
                DType::F16 | DType::Bf16 => load("represent", "represent_max".into())?,
            },
            represent_maxima: load("represent", "represent_maxima".into())?,
            rotary_table: load("rotary_table", "rotary_table".into())?,
        })
    }

    fn f32_alone(&self, name: &str) -> Result<&(Function, Function), CudaError> {
        self.f32_alone
            .as_ref()
            .ok_or_else(|| CudaError::NoKernel { name: name.into() })
    }

    /// Returns the grid for `pieces` pieces of work, one per thread, within the bound of
    /// grid-stride kernels.
    fn blocks(&self, pieces: usize) -> [u32; 3] {
        let blocks = pieces.div_ceil(LOOP_THREADS as usize).max(1);
        [blocks.min(self.most_blocks as usize) as u32, 1, 1]
    }

    /// Launches the kernel `embed`.
    ///
    /// # Safety
    /// The addresses must be those of live device memory of the sizes that `params.h` states.
    /// Nothing but this stream may touch that memory until a fence that was recorded after this
    /// call has been passed. The same holds for all launches below.
    pub unsafe fn embed(&self, stream: &Stream, p: &EmbedParams) -> Result<(), CudaError> {
        // One warp per token.
        let grid = self.blocks(p.count as usize * 32);
        // SAFETY: the caller keeps the contract in this function's `# Safety` section.
        unsafe { stream.launch(&self.embed, grid, [LOOP_THREADS, 1, 1], 0, p)? };
        Ok(())
    }

    /// Launches the kernel `add`.
    ///
    /// # Safety
    /// As for [`Self::embed`].
    pub unsafe fn add(&self, stream: &Stream, p: &AddParams) -> Result<(), CudaError> {
        let (add, _) = self.f32_alone("add")?;
        let grid = self.blocks((p.count as usize).div_ceil(4));
        // SAFETY: the caller keeps the contract in this function's `# Safety` section.
        unsafe { stream.launch(add, grid, [LOOP_THREADS, 1, 1], 0, p)? };
        Ok(())
    }

    /// Launches the kernel `layer_norm`.
    ///
    /// # Safety
    /// As for [`Self::embed`].
    pub unsafe fn layer_norm(&self, stream: &Stream, p: &LayerNormParams) -> Result<(), CudaError> {
        // At least one warp per row.
        let grid = self.blocks(p.rows as usize * 32);
        // SAFETY: the caller keeps the contract in this function's `# Safety` section.
        unsafe { stream.launch(&self.layer_norm, grid, [LOOP_THREADS, 1, 1], 0, p)? };
        Ok(())
    }

    /// Launches the kernel `gelu`.
    ///
    /// # Safety
    /// As for [`Self::embed`].
    pub unsafe fn gelu(&self, stream: &Stream, p: &GeluParams) -> Result<(), CudaError> {
        let grid = self.blocks((p.count as usize * self.dtype.size()).div_ceil(16));
        // SAFETY: the caller keeps the contract in this function's `# Safety` section.
        unsafe { stream.launch(&self.gelu, grid, [LOOP_THREADS, 1, 1], 0, p)? };
        Ok(())
    }

    /// Launches the kernel `gated_gelu`.
    ///
    /// # Safety
    /// As for [`Self::embed`].
    pub unsafe fn gated_gelu(&self, stream: &Stream, p: &GatedGeluParams) -> Result<(), CudaError> {
        let bytes = p.rows as usize * p.width as usize * self.dtype.size();
        let grid = self.blocks(bytes.div_ceil(16));
        // SAFETY: the caller keeps the contract in this function's `# Safety` section.
        unsafe { stream.launch(&self.gated_gelu, grid, [LOOP_THREADS, 1, 1], 0, p)? };
        Ok(())
    }

    /// Launches the kernel `gemm_short`.
    ///
    /// # Safety
    /// As for [`Self::embed`].
    pub unsafe fn gemm_short(&self, stream: &Stream, p: &GemmShortParams) -> Result<(), CudaError> {
        let (_, gemm_short) = self.f32_alone("gemm_short")?;
        let grid = [
            p.outputs.div_ceil(GEMM_SHORT_TILE),
            p.rows.div_ceil(GEMM_SHORT_TILE),
            1,
        ];
        // SAFETY: the caller keeps the contract in this function's `# Safety` section.
        unsafe { stream.launch(gemm_short, grid, [GEMM_SHORT_THREADS, 1, 1], 0, p)? };
        Ok(())
    }

    /// Launches the kernel `represent` (`represent_f32` in f32) for a pass of `rows` rows, and then
    /// `represent_means`.
    ///
    /// # Safety
    /// As for [`Self::embed`].
    pub unsafe fn represent(
        &self,
        stream: &Stream,
        rows: usize,
        p: &RepresentParams,
    ) -> Result<(), CudaError> {
        let chunks = [(rows / REPRESENT_ROWS as usize) as u32 + p.sequences, 1, 1];
        let columns = [p.sequences * p.width.div_ceil(REPRESENT_MEAN_COLUMNS), 1, 1];
        // SAFETY: the caller keeps the contract in this function's `# Safety` section.
        unsafe {
            stream.launch(&self.represent, chunks, [LOOP_THREADS, 1, 1], 0, p)?;
            stream.launch(
                &self.represent_means,
                columns,
                [REPRESENT_MEAN_COLUMNS, 1, 1],
                0,
                p,
            )?;
        }
        Ok(())
    }

    /// Launches the kernel `represent_max` (`represent_max_f32` in f32) for a pass of `rows` rows,
    /// and then `represent_maxima`. If `p` wants states, `represent` comes first.
    ///
    /// # Safety
    /// As for [`Self::embed`].
    pub unsafe fn represent_max(
        &self,
        stream: &Stream,
        rows: usize,
        p: &RepresentParams,
    ) -> Result<(), CudaError> {
        let chunks = [(rows / REPRESENT_ROWS as usize) as u32 + p.sequences, 1, 1];
        let columns = [p.sequences * p.width.div_ceil(REPRESENT_MEAN_COLUMNS), 1, 1];
        let threads = [REPRESENT_MEAN_COLUMNS, 1, 1];
        if p.states != 0 {
            let states = RepresentParams { pooled: 0, ..*p };
            // SAFETY: the caller keeps the contract in this function's `# Safety` section.
            unsafe { self.represent(stream, rows, &states)? };
        }
        let maxima = RepresentParams { states: 0, ..*p };
        // SAFETY: the caller keeps the contract in this function's `# Safety` section.
        unsafe {
            stream.launch(
                &self.represent_max,
                chunks,
                [LOOP_THREADS, 1, 1],
                0,
                &maxima,
            )?;
            stream.launch(&self.represent_maxima, columns, threads, 0, &maxima)?;
        }
        Ok(())
    }

    /// Launches the kernel `rotary_table`.
    ///
    /// # Safety
    /// As for [`Self::embed`].
    pub unsafe fn rotary_table(
        &self,
        stream: &Stream,
        p: &RotaryTableParams,
    ) -> Result<(), CudaError> {
        let grid = self.blocks(p.positions as usize * p.half as usize);
        // SAFETY: the caller keeps the contract in this function's `# Safety` section.
        unsafe { stream.launch(&self.rotary_table, grid, [LOOP_THREADS, 1, 1], 0, p)? };
        Ok(())
    }
}

/// The kernels that convert weights from their stored format to another one.
pub(super) struct Casts(Vec<((DType, DType), Function)>);

impl Casts {
    /// Loads one kernel for each pair of different formats.
    ///
    /// # Errors
    /// As for [`function`].
    pub fn load(context: &Context) -> Result<Self, CudaError> {
        let all = [DType::F32, DType::F16, DType::Bf16];
        let pairs = all.into_iter().flat_map(|from| all.map(|to| (from, to)));
        let functions = pairs.filter(|(from, to)| from != to).map(|(from, to)| {
            let called = format!("cast_{}_{}", from.name(), to.name());
            Ok(((from, to), function(context, "cast", &called, 0)?))
        });
        Ok(Self(functions.collect::<Result<_, CudaError>>()?))
    }

    /// Launches the kernel that converts from the first format to the second one; equal formats
    /// launch nothing.
    ///
    /// # Safety
    /// As for [`Functions::embed`].
    pub unsafe fn run(
        &self,
        stream: &Stream,
        formats: (DType, DType),
        p: &CastParams,
    ) -> Result<(), DriverError> {
        let Some((_, function)) = self.0.iter().find(|(f, _)| *f == formats) else {
            return Ok(());
        };
        let blocks = (p.count as usize).div_ceil(4 * LOOP_THREADS as usize);
        let grid = [blocks.clamp(1, 1 << 16) as u32, 1, 1];
        // SAFETY: the caller keeps the contract in this function's `# Safety` section.
        unsafe { stream.launch(function, grid, [LOOP_THREADS, 1, 1], 0, p) }
    }
}

/// The attention kernels for the heads of a model.
pub(super) struct AttentionFunctions {
    /// The GEMM that rotates queries and keys, if the attention kernels do not.
    product: Option<Qkv>,
    kernels: AttentionKernels,
    /// In the order of [`AttentionKernels::launches`].
    functions: [Option<Function>; 4],
    dtype: DType,
    multiprocessors: u32,
}

impl AttentionFunctions {
    /// Loads the kernels for the heads of `spec` in `dtype`.
    ///
    /// # Errors
    /// Returns [`CudaError::HeadDim`] if no kernel takes heads of this width; otherwise as for
    /// [`function`].
    pub fn load(context: &Context, dtype: DType, spec: &AttentionSpec) -> Result<Self, CudaError> {
        let device = context.info()?;
        let head_dim = spec.head_dim;
        let rotary = matches!(spec.position, Position::Rotary(_));
        let product = match rotary {
            true => Qkv::load(context, &device, dtype, [spec.heads, head_dim])?,
            false => None,
        };
        let rotary = rotary && product.is_none();
        let kernels = AttentionKernels::new(head_dim, dtype, rotary, device.capability)
            .ok_or(CudaError::HeadDim { head_dim })?;
        let load = |k: &AttentionKernel| function(context, &k.source, &k.name, k.shared);
        let [rotate, far, long, short] = kernels.launches().map(|k| k.map(load).transpose());
        Ok(Self {
            product,
            functions: [rotate?, far?, long?, short?],
            kernels,
            dtype,
            multiprocessors: device.multiprocessors,
        })
    }

    /// Returns the GEMM that makes queries, keys and values, if it rotates queries and keys. The
    /// attention kernels must then get no table of rotations.
    pub fn product(&self) -> Option<&Qkv> {
        self.product.as_ref()
    }

    /// Returns what tells the bits of these kernels from the bits of the kernels of earlier
    /// versions, for the identity of a job; `None` where there were no others.
    pub fn bits(&self) -> Option<&'static str> {
        match self.product {
            // Queries and keys are rounded once, and not before and after they are rotated.
            Some(_) => Some("qkv90"),
            None => self.kernels.bits(),
        }
    }

    /// Builds the work list for a batch whose sequences start at `starts`.
    pub fn work(&self, starts: &[usize]) -> WorkList {
        self.kernels.work(starts)
    }

    /// Launches the attention kernels for long and for short sequences of a pass of this many
    /// tokens. `lists` holds the addresses of the items and of the slots of the work list. Keys of
    /// long sequences may be rotated in place before.
    ///
    /// # Safety
    /// As for [`Functions::embed`].
    pub unsafe fn run(
        &self,
        stream: &Stream,
        params: &AttentionParams,
        tokens: usize,
        lists: (u64, u64),
        counts: WorkCounts,
    ) -> Result<(), CudaError> {
        let launches = self.functions.iter().zip(self.kernels.launches());
        let lists = counts.lists(lists.0, lists.1);
        for ((function, kernel), (items, count)) in launches.zip(lists) {
            let (Some(function), Some(kernel), true) = (function, kernel, count > 0) else {
                continue;
            };
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
            let block = [kernel.threads, 1, 1];
            if let Some(tile) = &kernel.tensor {
                let params = AttentionKernel::tensor_params(tile, params, tokens, self.dtype)?;
                // SAFETY: as below. The map ends with the last token.
                unsafe { stream.launch(function, grid, block, kernel.shared, &params)? };
            } else {
                // SAFETY: the caller keeps the contract in this function's `# Safety` section.
                unsafe { stream.launch(function, grid, block, kernel.shared, &params)? };
            }
        }
        Ok(())
    }
}
