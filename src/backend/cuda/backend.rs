//! Implements the operations of a model on one CUDA device: parameters and matrices are named,
//! placed and sealed here.
//!
//! Parameters and matrices are named first. [`Backend::sealed`] (module `seal`) then chooses the
//! algorithms of the GEMMs, measures the free memory, takes the device's memory once, and starts
//! the thread that uploads the weights. From then on module `running` does the work: a pass puts
//! all its operations on streams and returns, and the host waits only in [`Backend::fetch`].

use super::chains;
use super::error::CudaError;
use super::functions::AttentionFunctions;
use super::plan::{self, Capacity};
use super::resident::{ParameterId, Piece, Resident};
use super::running::{LinearLayer, Pending, Running};
use crate::backend::{
    Activation, AttentionSpec, Backend, BackendError, Limits, LinearKind, LinearPart, Norm, Output,
    OutputKinds, Position, Role,
};
use crate::batch::PackedBatch;
use crate::dtype::DType;
use crate::gpu::cublaslt::{Algorithms, Gemm, Kind, ProductSpec, Tuning};
use crate::gpu::driver::{Context, DeviceInfo, devices};
use crate::gpu::stream::StreamManager;
use crate::weights::Weight;
use std::ops::Range;
use std::sync::Arc;

/// Number of passes that may be under way at once: one is computed while the host writes the next
/// one and reads the last one.
pub(super) const SLOTS: usize = 3;
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
    /// The most representations that a pass produces.
    pub representations: usize,
    /// Whether the representations have a mean for each sequence.
    pub pooled: bool,
    /// Whether the representations have the states of all tokens.
    pub states: bool,
    /// Bytes of each of the pinned slots through which the weights are uploaded (`slot_bytes` of
    /// [`UploadOptions`](crate::stream::UploadOptions)), by default 16 MiB. A longer tensor is
    /// uploaded in several chunks. Smaller slots take less pinned memory, and less of the device's
    /// memory if weights are converted there, but every chunk costs a copy of its own. The bits are
    /// the same.
    pub upload_slot: Option<usize>,
}

/// A matrix, by its number.
#[derive(Debug)]
pub struct Matrix(usize);

/// A linear layer whose parameters have been named.
#[derive(Debug)]
pub struct Linear(LinearLayer);

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

/// The CUDA backend on one device.
pub struct Cuda {
    pub(super) context: Context,
    pub(super) info: DeviceInfo,
    pub(super) options: CudaOptions,
    pub(super) manager: Arc<StreamManager>,
    pub(super) gemm: Gemm,
    /// The parameters named so far; [`Backend::sealed`] takes them.
    pub(super) resident: Resident,
    /// The different GEMMs of the linear layers.
    pub(super) specs: Vec<ProductSpec>,
    /// The linear layers, in the order in which they were named.
    pub(super) layers: Vec<LinearLayer>,
    /// The role and the width of each matrix.
    pub(super) matrices: Vec<(Role, usize)>,
    /// The attention kernels; [`Backend::sealed`] moves them to `running`.
    pub(super) attention: Vec<AttentionFunctions>,
    /// What distinguishes the bits of the attention kernels from the bits of the kernels that did
    /// the same work in earlier versions.
    attention_bits: Option<&'static str>,
    /// The tables of rotations: the frequencies that each is made from, and their number per
    /// position.
    pub(super) tables: Vec<(ParameterId, usize)>,
    /// Scratch bytes per token, for the widest linear layer whose output is not stored directly.
    pub(super) scratch: usize,
    /// The running model, once the parameters are sealed.
    running: Option<Running>,
}

impl Cuda {
    /// Creates the backend for a device of `manager`. The manager must have created the device's
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
        let ordinal = context.ordinal();
        let info = devices()?.into_iter().find(|d| d.ordinal == ordinal);
        let info = info.ok_or(CudaError::OutOfOrder {
            call: "a context",
            missing: "its device",
        })?;
        // These are not the tokens of this job: a choice is kept for all jobs, and the bits must
        // not depend on which job chose first.
        let tuning = Tuning::timed(plan::default_tokens(info.multiprocessors as usize));
        Ok(Self {
            gemm: Gemm::load(context, algorithms, tuning)?,
            context: context.clone(),
            info,
            options,
            manager,
            resident: Resident::default(),
            specs: Vec::new(),
            layers: Vec::new(),
            matrices: Vec::new(),
            attention: Vec::new(),
            attention_bits: None,
            tables: Vec::new(),
            scratch: 0,
            running: None,
        })
    }

    /// Returns the device.
    pub fn device(&self) -> &DeviceInfo {
        &self.info
    }

    /// Returns a fingerprint of the GEMM algorithms, which decide the bits of the results.
    pub fn fingerprint(&self) -> String {
        self.gemm.fingerprint()
    }

    /// Returns the name of the attention kernels where they give other bits than the kernels of
    /// earlier versions did, for the identity of a job.
    pub fn attention_bits(&self) -> Option<&'static str> {
        self.attention_bits
    }

    /// Returns the file of the cuBLASLt that is used.
    pub fn library(&self) -> &'static str {
        self.gemm.library()
    }

    /// Waits until all weights have arrived and all queued work is done. This is for measuring.
    ///
    /// # Errors
    /// Returns [`CudaError`] if work on the device fails or the parameters are not sealed.
    pub fn settle(&mut self) -> Result<(), CudaError> {
        let running = self.running("settle")?;
        running.settle()
    }

    /// Returns the milliseconds that only the GEMMs of the linear layers take for this many rows,
    /// in the order of a pass, on whatever values the last pass left in the matrices. This is for
    /// measuring.
    ///
    /// # Errors
    /// Returns [`CudaError`] if work on the device fails or the parameters are not sealed.
    pub fn products_alone(&mut self, rows: usize) -> Result<f32, CudaError> {
        let layers = std::mem::take(&mut self.layers);
        let time = self
            .running("products_alone")
            .and_then(|r| r.products_alone(&layers, rows));
        self.layers = layers;
        time
    }

    /// Returns the bytes that the parameters of each layer take on the device, in the order in
    /// which the layers arrive: the embedding, the model's layers, and the parameters that come
    /// after them, if there are any.
    ///
    /// # Errors
    /// Returns [`CudaError`] if the parameters are not sealed.
    pub fn group_bytes(&mut self) -> Result<&[usize], CudaError> {
        Ok(&self.running("group_bytes")?.group_bytes)
    }

    /// Switches the timing of operations on or off from the next pass on, and returns what was
    /// timed since it was last switched on: the name, the milliseconds and the calls of each kind
    /// of operation. This is for measuring: it slows passes down.
    ///
    /// # Errors
    /// Returns [`CudaError`] if work on the device fails or the parameters are not sealed.
    pub fn profile(&mut self, on: bool) -> Result<Vec<(String, f64, usize)>, CudaError> {
        self.running("profile")?.profile(on)
    }

    fn running(&mut self, call: &'static str) -> Result<&mut Running, CudaError> {
        let missing = "having sealed the parameters";
        self.running
            .as_mut()
            .ok_or(CudaError::OutOfOrder { call, missing })
    }

    /// Does one step of a pass. A failure on the compute stream ends the job, whose streams are
    /// then drained.
    fn with<R>(
        &mut self,
        call: &'static str,
        run: impl FnOnce(&mut Running) -> Result<R, CudaError>,
    ) -> Result<R, BackendError> {
        let running = self.running(call)?;
        run(running).map_err(|error| running.fail(error).into())
    }
}

impl Backend for Cuda {
    type Matrix = Matrix;
    type Vector = ParameterId;
    type Linear = Linear;
    type Attention = Attention;
    type Pending = Pending;

    fn class(&self, tokens: usize) -> usize {
        chains::class(self.options.dtype, tokens)
    }

    fn limits(&self) -> Limits {
        let capacity = self.running.as_ref().map(|r| r.capacity);
        let capacity = capacity.unwrap_or(Capacity::of_tokens(0));
        Limits {
            tokens: capacity.tokens,
            sequences: capacity.sequences,
            passes: SLOTS,
        }
    }

    fn matrix(&mut self, role: Role, width: usize) -> Result<Matrix, BackendError> {
        self.matrices.push((role, width));
        Ok(Matrix(self.matrices.len() - 1))
    }

    fn group(&mut self) {
        self.resident.next_group();
    }

    /// Keeps the parameters in f32 whatever the job's dtype: gains, biases and the embedding table
    /// are small.
    fn vector(&mut self, data: Weight) -> Result<ParameterId, BackendError> {
        Ok(self.resident.name(vec![Piece::Weight(data)], DType::F32))
    }

    fn linear_weights(
        &mut self,
        parts: Vec<LinearPart>,
        inputs: usize,
        product: LinearKind,
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
        let spec = match product {
            LinearKind::Add if spec.chains() == 1 => ProductSpec {
                kind: Kind::Accumulate,
                ..spec
            },
            LinearKind::Add | LinearKind::Store | LinearKind::Gated => spec,
        };
        let apart = match product {
            LinearKind::Gated => true,
            LinearKind::Add => spec.kind == Kind::Store,
            LinearKind::Store => false,
        };
        if apart {
            self.scratch = self.scratch.max(outputs * spec.dtype.size());
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
        let weight = self.resident.name(weights, spec.dtype);
        let bias = spec
            .bias
            .then(|| self.resident.name(biases, spec.bias_dtype()));
        let layer = LinearLayer {
            weight,
            bias,
            product: number,
            adds: product == LinearKind::Add,
        };
        self.layers.push(layer);
        Ok(Linear(layer))
    }

    fn attention_weights(&mut self, spec: AttentionSpec) -> Result<Attention, BackendError> {
        let kernels = AttentionFunctions::load(&self.context, self.options.dtype, &spec)?;
        self.attention_bits = kernels.bits();
        self.attention.push(kernels);
        let (rotary, slopes) = match spec.position {
            Position::Rotary(inv_freq) => {
                let half = inv_freq.len();
                let inv_freq = self.resident.name_values(inv_freq);
                self.tables.push((inv_freq, half));
                (Some(self.tables.len() - 1), None)
            }
            Position::Alibi(slopes) => (None, Some(self.resident.name_values(slopes))),
        };
        Ok(Attention {
            kernels: self.attention.len() - 1,
            heads: spec.heads,
            head_dim: spec.head_dim,
            rotary,
            slopes,
        })
    }

    fn sealed(&mut self) -> Result<(), BackendError> {
        self.running = Some(self.seal()?);
        Ok(())
    }

    fn begin(
        &mut self,
        class: usize,
        batch: &PackedBatch,
        pooled: &[Range<usize>],
    ) -> Result<(), BackendError> {
        self.with("begin", |r| r.begin(class, batch, pooled))
    }

    fn need(&mut self, group: usize) -> Result<(), BackendError> {
        self.with("need", |r| r.need(group))
    }

    fn end(&mut self) -> Result<(), BackendError> {
        self.with("end", Running::end)
    }

    fn embed(
        &mut self,
        _: &PackedBatch,
        scale: &[f64],
        table: &ParameterId,
        shift: Option<&ParameterId>,
        out: &mut Matrix,
    ) -> Result<(), BackendError> {
        self.with("embed", |r| r.embed(scale, *table, shift.copied(), out.0))
    }

    fn layer_norm(
        &mut self,
        x: &Matrix,
        norm: &Norm<ParameterId>,
        out: &mut Matrix,
    ) -> Result<(), BackendError> {
        self.with("layer_norm", |r| r.layer_norm(x.0, norm, out.0))
    }

    fn linear(
        &mut self,
        x: &Matrix,
        w: &Linear,
        act: Activation,
        out: &mut Matrix,
    ) -> Result<(), BackendError> {
        self.with("linear", |r| r.linear(x.0, w.0, act, out.0))
    }

    fn linear_add(
        &mut self,
        x: &Matrix,
        w: &Linear,
        onto: &mut Matrix,
    ) -> Result<(), BackendError> {
        self.with("linear_add", |r| r.linear_add(x.0, w.0, onto.0))
    }

    fn linear_gated(
        &mut self,
        x: &Matrix,
        w: &Linear,
        out: &mut Matrix,
    ) -> Result<(), BackendError> {
        self.with("linear_gated", |r| r.linear_gated(x.0, w.0, out.0))
    }

    fn attention(
        &mut self,
        qkv: &Matrix,
        _: &PackedBatch,
        attention: &Attention,
        out: &mut Matrix,
    ) -> Result<(), BackendError> {
        self.with("attention", |r| r.attention(qkv.0, attention, out.0))
    }

    fn represent(
        &mut self,
        x: &Matrix,
        norm: Option<&Norm<ParameterId>>,
        wanted: OutputKinds,
    ) -> Result<Pending, BackendError> {
        self.with("represent", |r| r.represent(x.0, norm, wanted))
    }

    fn fetch(&mut self, pending: Pending) -> Result<Output, BackendError> {
        self.with("fetch", |r| r.fetch(&pending))
    }
}
