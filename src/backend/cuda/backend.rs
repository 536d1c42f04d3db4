//! The operations of a model on one CUDA device: what is named, placed and sealed.
//!
//! Parameters and matrices are named first. [`Backend::sealed`] then (`seal`) chooses the products' algorithms, measures what
//! is free, takes the device's memory once, and starts the thread that brings the weights up. From there on `running`
//! has it: a pass puts everything on streams and returns; the host waits in [`Backend::fetch`] alone.

use super::chains;
use super::driver::{Context, DeviceInfo, devices};
use super::error::CudaError;
use super::functions::AttentionFunctions;
use super::gemm::{Algorithms, Gemm, Kind, ProductSpec, Tuning};
use super::plan::{self, Capacity};
use super::resident::{ParameterId, Piece, Resident};
use super::running::{Layer, Pending, Running};
use crate::backend::{
    Activation, AttentionSpec, Backend, BackendError, Limits, LinearPart, Norm, Position,
    Product as Use, Represented, Role, Wanted,
};
use crate::batch::PackedBatch;
use crate::stream::StreamManager;
use crate::weights::{DType, Weight};
use std::ops::Range;
use std::sync::Arc;

/// Passes that are under way at once: one is computed while the host writes the next and reads the last.
pub(super) const SLOTS: usize = 3;
/// Load streams of a device: weights have one of their own, or batches would queue behind them.
pub const LOAD_STREAMS: usize = 2;

/// How a model is to run on a device.
#[derive(Debug, Clone, Copy)]
pub struct CudaOptions {
    /// Of weights and activations; sums and the residual stream are f32.
    pub dtype: DType,
    /// The most tokens of a pass; by default what fills the device well, twice where states are not wanted: the first
    /// pass is a long one.
    pub tokens: Option<usize>,
    /// The longest sequence to come, where it is known: a pass has room for it, if the device has.
    pub longest: Option<usize>,
    /// Representations that a pass gives, at most.
    pub representations: usize,
    /// Whether means are wanted of them.
    pub pooled: bool,
    /// Whether the states of all tokens are.
    pub states: bool,
    /// Off: one stream does everything in order. The bits are the same.
    pub overlap: bool,
}

/// A matrix by its number.
#[derive(Debug)]
pub struct Matrix(usize);

/// A linear layer.
#[derive(Debug)]
pub struct Linear(Layer);

/// What attention needs.
#[derive(Debug)]
pub struct Attention {
    pub(super) kernels: usize,
    pub(super) heads: usize,
    pub(super) head_dim: usize,
    /// The table of rotations, by number.
    pub(super) rotary: Option<usize>,
    pub(super) slopes: Option<ParameterId>,
}

/// The CUDA backend, on one device.
pub struct Cuda {
    pub(super) context: Context,
    pub(super) info: DeviceInfo,
    pub(super) options: CudaOptions,
    pub(super) manager: Arc<StreamManager>,
    pub(super) gemm: Gemm,
    pub(super) resident: Resident,
    pub(super) specs: Vec<ProductSpec>,
    layers: Vec<Layer>,
    pub(super) matrices: Vec<(Role, usize)>,
    pub(super) attention: Vec<AttentionFunctions>,
    /// What tells the bits of the attention kernels from those that came before.
    attention_bits: Option<&'static str>,
    /// Rotations by what they are made of, and how many values a position.
    pub(super) tables: Vec<(ParameterId, usize)>,
    /// Bytes a token of what a layer makes that is not where it goes yet: of the widest.
    pub(super) scratch: usize,
    running: Option<Running>,
}

impl Cuda {
    /// Takes hold of a device of `manager`, which has created its streams, [`LOAD_STREAMS`] of them to load.
    /// `algorithms` is shared by the devices of a job.
    ///
    /// # Errors
    /// [`CudaError`]
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
        // Not the job's own tokens: a choice is kept for all jobs, and bits must not depend on who chose first.
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

    /// The device.
    pub fn device(&self) -> &DeviceInfo {
        &self.info
    }

    /// Tells what decides bits here from what did elsewhere or before: the algorithms of the products, and the attention
    /// kernels where newer ones do the work of others.
    pub fn fingerprint(&self) -> String {
        let products = self.gemm.fingerprint();
        match self.attention_bits {
            Some(attention) => format!("{products}, {attention}"),
            None => products,
        }
    }

    /// The cuBLASLt that is used, by its file.
    pub fn library(&self) -> &'static str {
        self.gemm.library()
    }

    /// For measuring: waits until all weights have arrived, and all else.
    ///
    /// # Errors
    /// [`CudaError`]
    pub fn settle(&mut self) -> Result<(), CudaError> {
        let running = self.running("settle")?;
        running.settle()
    }

    /// For measuring: milliseconds that the linear layers' products alone take for so many rows, in the order of
    /// a pass, on whatever the last pass left in the matrices.
    ///
    /// # Errors
    /// [`CudaError`]
    pub fn products_alone(&mut self, rows: usize) -> Result<f32, CudaError> {
        let layers = std::mem::take(&mut self.layers);
        let time = self
            .running("products_alone")
            .and_then(|r| r.products_alone(&layers, rows));
        self.layers = layers;
        time
    }

    /// Bytes that each group of parameters takes on the device, in the order in which they arrive: the embedding, the layers,
    /// and what comes after them, where there is anything.
    ///
    /// # Errors
    /// [`CudaError`]
    pub fn group_bytes(&mut self) -> Result<&[usize], CudaError> {
        Ok(&self.running("group_bytes")?.group_bytes)
    }

    /// For measuring: from the next pass on, how long each operation takes. It slows passes down.
    ///
    /// # Errors
    /// [`CudaError`]
    pub fn profile(&mut self, on: bool) -> Result<Vec<(String, f64, usize)>, CudaError> {
        self.running("profile")?.profile(on)
    }

    fn running(&mut self, call: &'static str) -> Result<&mut Running, CudaError> {
        let missing = "having sealed the parameters";
        self.running
            .as_mut()
            .ok_or(CudaError::OutOfOrder { call, missing })
    }

    /// Does something of a pass. What fails on the compute stream ends the job: its streams are drained.
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

    /// In f32 whatever the job's dtype: gains, biases and the embedding table are small.
    fn vector(&mut self, data: Weight) -> Result<ParameterId, BackendError> {
        Ok(self.resident.name(vec![Piece::Weight(data)], DType::F32))
    }

    fn linear_weights(
        &mut self,
        parts: Vec<LinearPart>,
        inputs: usize,
        product: Use,
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
        // The stream is much larger than what goes onto it, and would round every chain's sum: they are added to one
        // another first.
        let spec = match product {
            Use::Add if spec.chains() == 1 => ProductSpec {
                kind: Kind::Accumulate,
                ..spec
            },
            Use::Add | Use::Store | Use::Gated => spec,
        };
        let apart = match product {
            Use::Gated => true,
            Use::Add => spec.kind == Kind::Store,
            Use::Store => false,
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
        let layer = Layer {
            weight,
            bias,
            product: number,
            adds: product == Use::Add,
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
        wanted: Wanted,
    ) -> Result<Pending, BackendError> {
        self.with("represent", |r| r.represent(x.0, norm, wanted))
    }

    fn fetch(&mut self, pending: Pending) -> Result<Represented, BackendError> {
        self.with("fetch", |r| r.fetch(&pending))
    }
}
