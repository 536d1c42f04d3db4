//! Turns named parameters into a running model: measures the free memory, takes it once, divides
//! it, and starts the loading of the weights.

use super::backend::{Cuda, CudaOptions, LOAD_STREAMS, SLOTS};
use super::error::CudaError;
use super::error::Shortage;
use super::functions::{Casts, Functions};
use super::fused::Fused;
use super::plan::{self, Capacity, Needs};
use super::resident::ParameterId;
use super::running::{DeviceMatrix, LinearLayer, RotaryTable, Running};
use super::weights;
use crate::backend::Role;
use crate::dtype::DType;
use crate::gpu::cublaslt::{Product, WORKSPACE};
use crate::gpu::driver::{Arena, DeviceInfo};
use crate::gpu::stream::{
    LayerFences, Loader, ProcessorOptions, StreamProcessor, UploadOptions, Uploader,
};
use std::sync::Arc;

/// Bytes per pinned upload slot for weights, unless the user sets another number.
const UPLOAD_SLOT: usize = 16 << 20;

impl Cuda {
    /// Returns the bytes of the device's memory per token in a dtype: the token's rows of all
    /// matrices, of scratch memory and of tables.
    fn bytes_a_token(&self, dtype: DType) -> usize {
        let t = dtype.size();
        let matrix = |(role, width): &(Role, usize)| match (role, dtype) {
            (_, DType::F32) | (Role::Residual, _) => 4 * width,
            (Role::Activation, _) => t * width,
            (Role::Both, _) => (4 + t) * width,
        };
        let tables: usize = self.tables.iter().map(|(_, half)| 8 * half).sum();
        self.matrices.iter().map(matrix).sum::<usize>() + self.scratch + tables
    }

    fn needs(&self, upload: &UploadOptions) -> Needs {
        let stream = self.matrices.iter().find(|(r, _)| *r != Role::Activation);
        // Each matrix, table and scratch region starts at a multiple of the alignment.
        let parts = 2 * self.matrices.len() + self.tables.len() + 3;
        Needs {
            fixed: self.resident.footprint()
                + Arena::footprint(WORKSPACE)
                + Arena::footprint(upload.device_bytes())
                + parts * plan::ALIGN,
            a_token: self.bytes_a_token(self.options.dtype),
            slots: SLOTS,
            width: stream.map_or(0, |(_, width)| *width),
            representations: self.options.representations,
            pooled: self.options.pooled,
            states: self.options.states,
        }
    }

    fn capacity(&self, needs: &Needs) -> Result<Capacity, CudaError> {
        let wanted = wanted_tokens(&self.options, &self.info);
        let (free, total) = self.context.memory()?;
        let usable = (free as usize).saturating_sub(plan::RESERVE);
        let wave = plan::wave(self.info.multiprocessors as usize);
        plan::capacity(needs, wanted, wave, usable).ok_or_else(|| {
            let tokens = plan::smallest(wanted);
            let longest = self.options.longest.unwrap_or(1);
            CudaError::Memory(Box::new(Shortage {
                device: self.context.ordinal(),
                free,
                total,
                needed: (Capacity::of_tokens(tokens).bytes(needs) + plan::RESERVE) as u64,
                tokens,
                fits_in_16_bits: self
                    .in_16_bits(needs)
                    .is_some_and(|needs| Capacity::of_tokens(tokens).bytes(&needs) <= usable),
                fewer_tokens: plan::most_below(needs, tokens, usable).filter(|n| *n >= longest),
            }))
        })
    }

    /// Returns about what the job would need at most in a dtype of 16 bits; `None` if it has such a
    /// dtype already.
    fn in_16_bits(&self, needs: &Needs) -> Option<Needs> {
        if self.options.dtype != DType::F32 {
            return None;
        }
        // Only the weights of linear layers and the matrices are counted in 16 bits. Gains and the
        // embedding table are f32 in any dtype; the biases of linear layers and scratch memory
        // count as f32, which makes this an upper bound.
        let half = |layer: &LinearLayer| self.resident.bytes(layer.weight) / 2;
        Some(Needs {
            fixed: needs.fixed - self.layers.iter().map(half).sum::<usize>(),
            a_token: self.bytes_a_token(DType::F16),
            ..*needs
        })
    }

    fn place(&self, arena: &mut Arena, capacity: Capacity) -> Result<Vec<DeviceMatrix>, CudaError> {
        let t = self.options.dtype;
        let place = |&(role, width): &(Role, usize)| {
            let mut take = |size| arena.take("activations", capacity.tokens * width * size);
            let (stream, activation) = match role {
                _ if t == DType::F32 => {
                    let both = take(4)?;
                    (Some(both.clone()), Some(both))
                }
                Role::Residual => (Some(take(4)?), None),
                Role::Activation => (None, Some(take(t.size())?)),
                Role::Both => (Some(take(4)?), Some(take(t.size())?)),
            };
            Ok(DeviceMatrix {
                stream,
                activation,
                width,
            })
        };
        self.matrices.iter().map(place).collect()
    }

    /// Chooses the algorithms of the GEMMs, takes and divides the device's memory, and starts the
    /// thread that loads the weights.
    pub(super) fn seal(&mut self) -> Result<Running, CudaError> {
        // This comes first, because choosing an algorithm borrows memory of the device.
        let products = self.specs.iter().map(|spec| self.gemm.product(spec));
        let products: Vec<Product> = products.collect::<Result<_, _>>()?;
        let functions =
            Functions::load(&self.context, self.options.dtype, self.info.multiprocessors)?;
        let casts = Arc::new(Casts::load(&self.context)?);
        let fused = Fused::load(&self.context, &self.info, self.options.dtype)?;
        let upload = UploadOptions {
            slot_bytes: self.options.upload_slot.unwrap_or(UPLOAD_SLOT),
            through: self.resident.any_cast(),
            threads: upload_threads(),
            ..UploadOptions::default()
        };
        let needs = self.needs(&upload);
        let capacity = self.capacity(&needs)?;
        let mut arena = Arena::new(&self.context, capacity.bytes(&needs))?;
        let group_bytes = self.resident.group_bytes();
        let groups = group_bytes.len();
        let placed = std::mem::take(&mut self.resident).place(&mut arena)?;
        let addresses = placed.addresses();
        let workspace = arena.take("the products' workspace", WORKSPACE)?;
        let places = self.place(&mut arena, capacity)?;
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
        let sums = arena.take("sums of rows", plan::sums(capacity.tokens, needs.width))?;
        let ordinal = self.context.ordinal();
        let streams = self.manager.streams(ordinal, 0)?;
        let ring = ProcessorOptions {
            slots: SLOTS,
            input_bytes: capacity.input(),
            output_bytes: capacity.output(&needs),
        };
        let processor = StreamProcessor::new(&streams, &mut arena, ring)?;
        let loading = self.manager.streams(ordinal, LOAD_STREAMS - 1)?;
        let uploader = Uploader::new(&loading, &mut arena, upload)?;
        let fences = Arc::new(LayerFences::new(&loading, "group", groups)?);
        let of_loader = Arc::clone(&casts);
        let loader = Loader::start(uploader, fences, move |up, fences| {
            weights::load(&placed, groups, &of_loader, up, fences)
        })?;
        Ok(Running {
            dtype: self.options.dtype,
            capacity,
            addresses,
            functions,
            fused,
            attention: std::mem::take(&mut self.attention),
            products,
            workspace,
            places,
            tables,
            scratch,
            sums,
            processor,
            group_bytes,
            arrived: 0,
            passes: 0,
            pass: None,
            ended: Default::default(),
            profile: None,
            loader,
            _casts: casts,
        })
    }
}

/// Returns the number of threads that copy weights out of the mapped file. One thread copies about
/// 3.5 GB/s where pages have to be faulted in, PCIe 5 takes 55 GB/s, and half of the cores stay
/// free for other work.
fn upload_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| (n.get() / 2).clamp(1, 8))
}

/// Returns the tokens of a pass, if the device has enough memory.
fn wanted_tokens(options: &CudaOptions, info: &DeviceInfo) -> usize {
    let multiprocessors = info.multiprocessors as usize;
    let default = match options.states {
        // Allocating the pinned memory for more states would take longer than the longer first pass
        // would hide.
        true => plan::default_tokens(multiprocessors),
        false => plan::first_tokens(multiprocessors),
    };
    let wanted = options.tokens.unwrap_or(default);
    wanted.max(options.longest.unwrap_or(0))
}
