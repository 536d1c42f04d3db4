//! Names the weights and matrices of a model on one CUDA device, and builds the backend from them.
//!
//! Nothing is allocated while weights and matrices are named. [`Builder::build`] then chooses the
//! algorithms of the GEMMs, measures the free memory, decides which layers stay on the device and
//! which are streamed, takes the device's memory once, divides it, and starts the thread that
//! uploads the weights. [`CudaBuilder::plan`] only says what `build` would decide.

use super::activations::Activations;
use super::backend::{Cuda, StatesMemory};
use super::chains;
use super::error::{CudaError, Shortage};
use super::functions::{AttentionFunctions, Casts, Functions};
use super::fused::Fused;
use super::memory::{self, Capacity, Needs};
use super::placement::{LEAST_SLOTS, Placement, WeightMode};
use super::plan::{DevicePlan, Estimates, OneMoreSlot};
use super::rates::Rates;
use super::weights::{NamedWeights, Parameter, ParameterId, Piece, PlacedWeights, Residency};
use crate::backend::{
    AttentionSpec, BackendError, Builder, LinearKind, LinearPart, Position, Role,
};
use crate::dtype::DType;
use crate::gpu::cublaslt::{Algorithms, Gemm, Kind, Product, ProductSpec, Tuning, WORKSPACE};
use crate::gpu::driver::{Arena, Context, DeviceInfo, devices};
use crate::gpu::stream::{
    Loading, ProcessorOptions, StreamManager, StreamProcessor, UploadOptions, Uploader,
};
use crate::weights::Weight;
use std::sync::Arc;
use std::thread;

/// Bytes per pinned upload slot for weights, unless another number is set. To pin memory takes 0.6 ms
/// per MiB, and the bus takes 0.08 ms for a slot, ten times what it costs to queue a copy.
const UPLOAD_SLOT: usize = 4 << 20;
/// Number of these slots: some are copied to the device while others are filled.
const UPLOAD_SLOTS: usize = 8;
/// Number of passes that may be under way at once: one is computed while the host writes the next
/// one and reads the last one.
pub const SLOTS: usize = 3;
/// Number of load streams per device. Weights have a load stream of their own, because batches
/// would otherwise queue behind them.
pub const LOAD_STREAMS: usize = 2;

/// How a model runs on a device.
#[derive(Debug, Clone, Copy)]
pub struct CudaOptions {
    /// The dtype of weights and activations. Sums and the residual stream are f32.
    pub dtype: DType,
    /// The most tokens per pass. By default a pass has as many tokens as fill the device well;
    /// where states are not wanted it has twice as many, so that the first pass is long enough to
    /// hide the loading of the weights.
    pub tokens: Option<usize>,
    /// The tokens of the longest sequence to come, if they are known. A pass has capacity for that
    /// sequence if the device has enough memory.
    pub longest: Option<usize>,
    /// The most matrices of which a pass produces representations. Each pooling of a matrix is a
    /// representation of its own, and the first of them has the states.
    pub representations: usize,
    /// How many poolings each of these matrices has.
    pub poolings: usize,
    /// Whether the representations have the states of all tokens.
    pub states: bool,
    /// Whether the states are rounded to f16 on the device, so that half the bytes come to the host.
    pub half_states: bool,
    /// Bytes of each of the pinned slots through which the weights are uploaded (`slot_bytes` of
    /// [`UploadOptions`](crate::stream::UploadOptions)), by default 4 MiB. A longer tensor is
    /// uploaded in several chunks. Smaller slots take less pinned memory, and less of the device's
    /// memory if weights are converted there, but every chunk costs a copy of its own. The bits are
    /// the same.
    pub upload_slot: Option<usize>,
    /// Where the weights stand: on the device, or in the mapped files, from which they are streamed.
    pub weights: WeightMode,
    /// How the weights get to the device.
    pub loading: Loading,
    /// The deepest layer that passes reach, if it is known: 0 is the embedding. Weights of deeper
    /// layers are not loaded.
    pub deepest: Option<usize>,
}

/// A matrix, by its number.
#[derive(Debug)]
pub struct Matrix(pub(super) usize);

/// A linear layer whose parameters have been named.
#[derive(Debug, Clone, Copy)]
pub struct Linear {
    /// The weight, `[outputs, inputs]`.
    pub(super) weight: ParameterId,
    /// The bias, `[outputs]`, if there is one.
    pub(super) bias: Option<ParameterId>,
    /// The number of its GEMM.
    pub(super) gemm: usize,
    /// Whether its output is added to the residual stream.
    pub(super) adds: bool,
}

/// What attention needs besides q, k and v.
#[derive(Debug)]
pub struct Attention {
    /// The number of the attention kernels.
    pub(super) kernels: usize,
    /// The number of heads.
    pub(super) heads: usize,
    /// The width of a head.
    pub(super) head_dim: usize,
    /// The number of the table of rotations, for rotary positions.
    pub(super) rotary: Option<usize>,
    /// The slopes, for ALiBi.
    pub(super) slopes: Option<ParameterId>,
}

/// Builds the CUDA backend of a model on one device.
pub struct CudaBuilder {
    context: Context,
    info: DeviceInfo,
    options: CudaOptions,
    manager: Arc<StreamManager>,
    gemm: Gemm,
    weights: NamedWeights,
    activations: Activations,
    /// The different GEMMs of the linear layers.
    specs: Vec<ProductSpec>,
    /// The linear layers, in the order in which they were named.
    linears: Vec<Linear>,
    /// The attention kernels.
    attention: Vec<AttentionFunctions>,
}

impl CudaBuilder {
    /// Creates the builder for a device of `manager`. The manager must have created the device's
    /// streams, [`LOAD_STREAMS`] of them for loading. `algorithms` is shared by all devices of a
    /// job.
    ///
    /// # Errors
    /// Returns [`CudaError`] if the device or cuBLASLt cannot be used.
    pub fn new(
        manager: Arc<StreamManager>,
        context: &Context,
        algorithms: Arc<Algorithms>,
        options: CudaOptions,
    ) -> Result<Self, CudaError> {
        let device = context.ordinal();
        let info = devices()?.into_iter().find(|d| d.ordinal == device);
        let info = info.ok_or(CudaError::NotListed { device })?;
        // These are not the tokens of this job: a choice is kept for all jobs, and the bits must
        // not depend on which job chose first.
        let tuning = Tuning::timed(memory::default_tokens(info.multiprocessors as usize));
        Ok(Self {
            gemm: Gemm::load(context, algorithms, tuning)?,
            context: context.clone(),
            info,
            options,
            manager,
            weights: NamedWeights::default(),
            activations: Activations::default(),
            specs: Vec::new(),
            linears: Vec::new(),
            attention: Vec::new(),
        })
    }

    fn upload_options(&self) -> UploadOptions {
        UploadOptions {
            slot_bytes: self.options.upload_slot.unwrap_or(UPLOAD_SLOT),
            through: self.weights.any_cast(),
            slots: UPLOAD_SLOTS,
            loading: self.options.loading,
            threads: upload_threads(),
        }
    }

    fn needs(&self, residency: &Residency, upload: &UploadOptions) -> Needs {
        Needs {
            fixed: residency.footprint()
                + Arena::footprint(WORKSPACE)
                + Arena::footprint(upload.device_bytes())
                + self.activations.alignment_bytes(),
            bytes_per_token: self.activations.bytes_per_token(self.options.dtype),
            slots: SLOTS,
            width: self.activations.width(),
            representations: self.options.representations,
            poolings: self.options.poolings,
            states: self.options.states,
            half: self.options.half_states,
        }
    }

    /// Returns the largest layer that passes go through.
    fn largest_layer(&self) -> LayerSize {
        let resident = Residency::new(&self.weights, self.options.deepest, None);
        let size = |layer: usize| LayerSize {
            bytes: Residency::bytes_of(&self.weights, layer),
            stored: self.weights.stored_bytes(layer),
            values: self
                .linears
                .iter()
                .map(|linear| self.weights.get(linear.weight))
                .filter(|weight| weight.layer == layer)
                .map(Parameter::len)
                .sum(),
        };
        let with_matrices = resident.kept.iter().map(|layer| size(*layer));
        let largest = with_matrices.filter(|size| size.values > 0);
        largest.max_by_key(|size| size.bytes).unwrap_or_default()
    }

    /// Decides which layers stay, and how the device's memory is divided.
    ///
    /// # Errors
    /// Returns [`CudaError::Memory`] if not even the smallest pass fits, and [`CudaError::Stream`]
    /// for a number of slots that is out of range.
    fn arrange(&self, upload: &UploadOptions) -> Result<Arrangement, CudaError> {
        let (free, total) = self.context.memory()?;
        let usable = (free as usize).saturating_sub(memory::RESERVE);
        let processors = self.info.multiprocessors as usize;
        let wave = memory::wave(processors);
        let rates = Rates::assumed(&self.info, self.options.dtype, upload.threads);
        let layer = self.largest_layer();
        let load = rates.load_seconds(layer.stored, layer.bytes);
        let to_hide = rates.tokens_for(layer.values, load);
        let place = |slots: Option<usize>| {
            let residency = Residency::new(&self.weights, self.options.deepest, slots);
            let needs = self.needs(&residency, upload);
            Placement::new(residency, needs, &self.options, processors, to_hide)
        };
        let fit = |p: &Placement| memory::capacity(&p.needs, p.wanted, wave, usable);

        let candidates = self.options.weights.candidates()?;
        let mut best: Option<(f64, Placement, Capacity)> = None;
        for slots in &candidates {
            let placement = place(*slots);
            let Some(capacity) = fit(&placement) else {
                continue;
            };
            let speed = placement.speed(capacity, self.options.longest, wave, to_hide);
            if best.as_ref().is_none_or(|(most, ..)| speed > *most) {
                best = Some((speed, placement, capacity));
            }
        }
        let Some((_, placement, capacity)) = best else {
            // The last candidate needs the least memory.
            let least = place(candidates.last().copied().flatten());
            let slots = place(Some(LEAST_SLOTS));
            let streams = fit(&slots).is_some() && !slots.residency.streamed.is_empty();
            return Err(self.shortage(&least, (free, total), streams));
        };

        let compute = rates.compute_seconds(layer.values, placement.tokens(capacity));
        let streamed = !placement.residency.streamed.is_empty();
        let used = capacity.bytes(&placement.needs);
        let layers = placement.residency.layers_with_matrices(&self.weights);
        let one_more_slot = streamed.then(|| {
            let more = place(Some(placement.residency.slots + 1));
            OneMoreSlot {
                bytes: placement.residency.slot_bytes,
                tokens_per_pass: fit(&more).map_or(0, |capacity| more.tokens(capacity)),
                all_stay: more.residency.streamed.is_empty(),
            }
        });
        let plan = DevicePlan {
            device: self.info.ordinal,
            name: self.info.name.clone(),
            streamed,
            automatic: self.options.weights == WeightMode::Auto,
            layers,
            slots: if streamed {
                placement.residency.slots
            } else {
                layers
            },
            layer_bytes: layer.bytes,
            layer_stored_bytes: layer.stored,
            weight_bytes: placement.residency.footprint(),
            resident_bytes: place(None).residency.footprint(),
            pass_bytes: used - placement.residency.footprint(),
            reserved_bytes: memory::RESERVE,
            free_bytes: free,
            unused_bytes: (usable - used) as u64,
            pass_capacity: capacity.tokens,
            tokens_per_pass: placement.tokens(capacity),
            estimates: Estimates {
                load_milliseconds_per_layer: 1e3 * load,
                compute_milliseconds_per_layer: 1e3 * compute,
                hidden_fraction: if load > compute { compute / load } else { 1.0 },
                tokens_to_hide: to_hide,
                bound: match streamed && load > compute {
                    true => "loading",
                    false => "computing",
                },
                products_flops_per_second: rates.products,
                bus_bytes_per_second: rates.bus,
                copying_bytes_per_second: rates.copying,
                basis: rates.basis,
            },
            one_more_slot,
        };
        Ok(Arrangement {
            placement,
            capacity,
            plan,
        })
    }

    /// Says what [`Builder::build`] would decide now, without taking any memory.
    ///
    /// # Errors
    /// Returns [`CudaError::Memory`] if not even the smallest pass fits.
    pub fn plan(&self) -> Result<DevicePlan, CudaError> {
        Ok(self.arrange(&self.upload_options())?.plan)
    }

    /// Returns the error that not even the smallest pass fits. `streams` says whether it would fit
    /// if layers were streamed through the fewest slots.
    fn shortage(&self, least: &Placement, (free, total): (u64, u64), streams: bool) -> CudaError {
        let Placement {
            residency,
            needs,
            wanted,
            ..
        } = least;
        let usable = (free as usize).saturating_sub(memory::RESERVE);
        let tokens = memory::smallest(*wanted);
        let longest = self.options.longest.unwrap_or(1);
        let bytes = |needs: &Needs| Capacity::of_tokens(tokens).bytes(needs);
        CudaError::Memory(Box::new(Shortage {
            device: self.context.ordinal(),
            free,
            total,
            needed: (bytes(needs) + memory::RESERVE) as u64,
            tokens,
            slots: residency.slots,
            layer_bytes: residency.slot_bytes as u64,
            fits_in_16_bits: self
                .in_16_bits(needs, residency)
                .is_some_and(|needs| bytes(&needs) <= usable),
            fits_streamed: streams,
            fewer_tokens: memory::most_below(needs, tokens, usable).filter(|n| *n >= longest),
        }))
    }

    /// Returns about what the job would need at most in a dtype of 16 bits; `None` if it has such a
    /// dtype already.
    fn in_16_bits(&self, needs: &Needs, residency: &Residency) -> Option<Needs> {
        if self.options.dtype != DType::F32 {
            return None;
        }
        // Only the weights of linear layers and the matrices are counted in 16 bits. Gains and the
        // embedding table are f32 in any dtype; the biases of linear layers and scratch memory
        // count as f32, which makes this an upper bound.
        let half = |linear: &Linear| {
            let weight = self.weights.get(linear.weight);
            residency.copies(weight.layer) * weight.bytes() as f64 / 2.0
        };
        let saved = self.linears.iter().map(half).sum::<f64>() as usize;
        Some(Needs {
            fixed: needs.fixed.saturating_sub(saved),
            bytes_per_token: self.activations.bytes_per_token(DType::F16),
            ..*needs
        })
    }

    /// Chooses the algorithms of the GEMMs, takes and divides the device's memory, and starts the
    /// thread that loads the weights.
    fn start(self) -> Result<Cuda, CudaError> {
        let (gemm, specs) = (self.gemm.clone(), self.specs.clone());
        let products = || {
            let each = specs.iter().map(|spec| gemm.product(spec));
            each.collect::<Result<Vec<Product>, _>>()
        };
        if !gemm.knows(&specs) {
            // Choosing an algorithm borrows memory of the device, so this comes first.
            let products = products()?;
            return Ok(self.place()?.with(products));
        }
        // Even where the algorithms are known, the library takes 0.1 s to check that they can be
        // used. Meanwhile the weights begin to load.
        let (products, placed) = thread::scope(|scope| {
            let named = thread::Builder::new().name("products".into());
            let checking = named.spawn_scoped(scope, products);
            let placed = self.place();
            let checked = checking.ok().and_then(|checking| checking.join().ok());
            (checked.unwrap_or_else(&products), placed)
        });
        Ok(placed?.with(products?))
    }

    /// Takes and divides the device's memory, and starts the thread that loads the weights. The
    /// products are still missing.
    fn place(self) -> Result<Cuda, CudaError> {
        let functions =
            Functions::load(&self.context, self.options.dtype, self.info.multiprocessors)?;
        let casts = Arc::new(Casts::load(&self.context)?);
        let fused = Fused::load(&self.context, &self.info, self.options.dtype)?;
        let upload = self.upload_options();
        let Arrangement {
            placement,
            capacity,
            plan,
        } = self.arrange(&upload)?;
        let Placement {
            residency,
            needs,
            budget,
            ..
        } = placement;
        let mut arena = Arena::new(&self.context, capacity.bytes(&needs))?;
        let placed = PlacedWeights::new(self.weights, residency, &mut arena)?;
        let workspace = arena.take("the products' workspace", WORKSPACE)?;
        let activations = self
            .activations
            .place(&mut arena, self.options.dtype, capacity)?;
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
        let weights = placed.load(&loading, uploader, Arc::clone(&casts))?;
        let timeline = processor.timeline().cloned();
        Ok(Cuda {
            manager: self.manager,
            info: self.info,
            dtype: self.options.dtype,
            gemm: self.gemm,
            capacity,
            budget: budget.within(capacity.tokens),
            plan,
            half_states: self.options.half_states,
            memory: StatesMemory::new(needs.representations, capacity.tokens * needs.width),
            functions,
            fused,
            attention: self.attention,
            gemms: Vec::new(),
            linears: self.linears,
            workspace,
            activations,
            tables_filled: false,
            processor,
            passes: 0,
            ended: Default::default(),
            timeline,
            weights,
            _casts: casts,
        })
    }
}

impl Builder for CudaBuilder {
    type Backend = Cuda;

    fn matrix(&mut self, role: Role, width: usize) -> Result<Matrix, BackendError> {
        self.activations.matrices.push((role, width));
        Ok(Matrix(self.activations.matrices.len() - 1))
    }

    fn next_layer(&mut self) {
        self.weights.next_layer();
    }

    /// Keeps the parameters in f32 whatever the job's dtype: gains, biases and the embedding table
    /// are small.
    fn vector(&mut self, data: Weight) -> Result<ParameterId, BackendError> {
        Ok(self.weights.name(vec![Piece::Weight(data)], DType::F32))
    }

    fn linear_weights(
        &mut self,
        parts: Vec<LinearPart>,
        inputs: usize,
        kind: LinearKind,
    ) -> Result<Linear, BackendError> {
        let rows = |part: &LinearPart| part.weight.len() / inputs.max(1);
        let outputs = parts.iter().map(rows).sum();
        let spec = ProductSpec {
            outputs,
            inputs,
            dtype: self.options.dtype,
            kind: Kind::Store,
            bias: parts.iter().any(|part| part.bias.is_some()),
            chain: chains::longest(self.options.dtype),
        };
        // Values on the residual stream are much larger than what is added to them, so the sum of
        // every chain would be rounded coarsely. The chains are therefore added to each other
        // first.
        let spec = match kind {
            LinearKind::Add if spec.chains() == 1 => ProductSpec {
                kind: Kind::Accumulate,
                ..spec
            },
            LinearKind::Add | LinearKind::Store | LinearKind::Gated => spec,
        };
        let apart = match kind {
            LinearKind::Gated => true,
            LinearKind::Add => spec.kind == Kind::Store,
            LinearKind::Store => false,
        };
        if apart {
            self.activations.scratch = self.activations.scratch.max(outputs * spec.dtype.size());
        }
        let known = self.specs.iter().position(|known| *known == spec);
        let number = known.unwrap_or(self.specs.len());
        if known.is_none() {
            self.specs.push(spec);
        }
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        for part in parts {
            let outputs = rows(&part);
            weights.push(Piece::Weight(part.weight));
            biases.push(part.bias.map_or(Piece::Zeros(outputs), Piece::Weight));
        }
        let weight = self.weights.name_matrix(weights, spec.dtype);
        let bias = spec
            .bias
            .then(|| self.weights.name(biases, spec.bias_dtype()));
        let linear = Linear {
            weight,
            bias,
            gemm: number,
            adds: kind == LinearKind::Add,
        };
        self.linears.push(linear);
        Ok(linear)
    }

    fn attention_weights(&mut self, spec: AttentionSpec) -> Result<Attention, BackendError> {
        let kernels = AttentionFunctions::load(&self.context, self.options.dtype, &spec)?;
        self.attention.push(kernels);
        let (rotary, slopes) = match spec.position {
            Position::Rotary(inv_freq) => {
                let half = inv_freq.len();
                let inv_freq = self.weights.name_values(inv_freq);
                self.activations.tables.push((inv_freq, half));
                (Some(self.activations.tables.len() - 1), None)
            }
            Position::Alibi(slopes) => (None, Some(self.weights.name_values(slopes))),
        };
        Ok(Attention {
            kernels: self.attention.len() - 1,
            heads: spec.heads,
            head_dim: spec.head_dim,
            rotary,
            slopes,
        })
    }

    fn build(self) -> Result<Cuda, BackendError> {
        Ok(self.start()?)
    }
}

/// The size of a layer.
#[derive(Debug, Clone, Copy, Default)]
struct LayerSize {
    /// The bytes of the device's memory that it occupies.
    bytes: usize,
    /// Its bytes in the model's files.
    stored: usize,
    /// The number of values of its matrices.
    values: usize,
}

/// How a device's memory is divided.
struct Arrangement {
    placement: Placement,
    capacity: Capacity,
    plan: DevicePlan,
}

/// Returns the number of threads that copy weights out of the mapped file. One thread copies about
/// 3.5 GB/s where pages have to be faulted in, PCIe 5 takes 55 GB/s, and half of the cores stay
/// free for other work.
fn upload_threads() -> usize {
    thread::available_parallelism().map_or(1, |n| (n.get() / 2).clamp(1, 8))
}
