//! Queues the operations of a pass: decides which kernels run, and on which addresses.

use super::attention::WorkCounts;
use super::backend::{Cuda, Pending};
use super::builder::{Attention, Linear, Matrix};
use super::chains;
use super::error::CudaError;
use super::fused::{Fused, GemmGeluOperands};
use super::memory::ALIGN;
use super::params::{
    AddParams, AttentionParams, EmbedParams, GatedGeluParams, GeluParams, GemmShortParams,
    LayerNormParams, RepresentParams, RotaryTableParams,
};
use super::qkv::QkvOperands;
use super::slot::InputLayout;
use super::weights::ParameterId;
use crate::backend::{self, Activation, BackendError, Norm, OutputKinds, Pass, Pooling};
use crate::dtype::DType;
use crate::gpu::cublaslt::{Kind, Operands};
use crate::gpu::stream::Work;
use crate::trace::Args;
use std::ops::Range;

/// A pass that is being queued.
///
/// All its kernels run on one compute stream, in order. Tokens arrive before them and results leave
/// after them through a slot of the ring.
pub struct CudaPass<'a> {
    pub(super) cuda: &'a mut Cuda,
    /// The number of the pass, counted from 0.
    pub(super) number: u64,
    /// The class of its sequences.
    pub(super) class: usize,
    /// The number of tokens.
    pub(super) rows: usize,
    /// The number of sequences.
    pub(super) sequences: usize,
    /// The sum of the squares of their lengths: the work of attention.
    pub(super) squares: u64,
    /// Where the parts of its input lie.
    pub(super) input: InputLayout,
    /// The lengths of the attention work lists.
    pub(super) items: WorkCounts,
    /// The bytes of the output that are in use.
    pub(super) output: usize,
    /// The number of representations taken so far.
    pub(super) taken: usize,
    /// The layer whose weights the operations use, for a trace.
    pub(super) layer: usize,
}

impl CudaPass<'_> {
    /// Runs one operation, and times it if there is a trace or a breakdown. A failure ends the job.
    fn operation(
        &mut self,
        name: &'static str,
        work: backend::Work,
        run: impl FnOnce(&Cuda) -> Result<(), CudaError>,
    ) -> Result<(), CudaError> {
        let cuda = &*self.cuda;
        let timed = match &cuda.timeline {
            None => run(cuda),
            Some(timeline) => {
                let mut args = Args {
                    pass: Some(self.number),
                    layer: Some(self.layer as u64),
                    sequences: Some(self.sequences as u64),
                    tokens: Some(self.rows as u64),
                    ..Args::default()
                };
                work.note(&mut args);
                timeline.around(cuda.compute(), Work::kernel(name, args), || run(cuda))
            }
        };
        timed.map_err(|error| self.cuda.fail(error))
    }

    /// Returns the device address of a part of the pass's input.
    fn address(&self, part: &Range<usize>) -> Result<u64, CudaError> {
        Ok(self.cuda.processor.input()?.address() + part.start as u64)
    }

    /// Queues the GEMM of a linear layer in the way that the class of the pass asks for.
    fn gemm(&mut self, w: Linear, x: u64, out: u64) -> Result<(), CudaError> {
        let (rows, class) = (self.rows, self.class);
        let spec = self.cuda.gemms[w.gemm].spec();
        // What is added onto the residual stream, in f32, reads it too.
        let stored = if w.adds { 8 } else { spec.out_dtype().size() };
        let shape = (spec.outputs, spec.inputs);
        let work = backend::Work::product(rows, shape, spec.dtype.size(), shape.0 * stored);
        self.operation("product", work, |cuda| cuda.gemm(w, x, out, (rows, class)))
    }

    /// Queues the kernel that computes a linear layer together with its GELU.
    fn gemm_gelu(
        &mut self,
        name: &'static str,
        (x, w, out): (&Matrix, Linear, &Matrix),
        gated: bool,
    ) -> Result<(), CudaError> {
        let rows = self.rows;
        let spec = self.cuda.gemms[w.gemm].spec();
        let (shape, size) = ((spec.outputs, spec.inputs), spec.dtype.size());
        let halves = if gated { 2 } else { 1 };
        let work = backend::Work::product(rows, shape, size, shape.0 / halves * size);
        self.operation(name, work, |cuda| cuda.gemm_gelu((x, w, out), rows, gated))
    }
}

impl Cuda {
    /// Queues the GEMM of a linear layer for this many rows of a class. Its result is stored to
    /// `out`, or added to `out` if the layer adds to the residual stream.
    pub(super) fn gemm(
        &self,
        w: Linear,
        x: u64,
        out: u64,
        (rows, class): (usize, usize),
    ) -> Result<(), CudaError> {
        let gemm = &self.gemms[w.gemm];
        let bias = w.bias.map_or(0, |bias| self.weights.address(bias));
        if class == chains::SHORT {
            let spec = gemm.spec();
            let params = GemmShortParams {
                from: x,
                weight: self.weights.address(w.weight),
                bias,
                to: out,
                rows: rows as u32,
                outputs: spec.outputs as u32,
                depth: spec.inputs as u32,
                add: w.adds.into(),
            };
            // SAFETY: as for `gemm.run` below.
            return unsafe { self.functions.gemm_short(self.compute(), &params) };
        }
        let apart = w.adds && gemm.spec().kind == Kind::Store;
        let to = match apart {
            true => self.activations.scratch(),
            false => out,
        };
        let operands = Operands {
            x,
            w: self.weights.address(w.weight),
            bias,
            out: to,
        };
        // SAFETY: the regions hold as many rows as the capacity, and no pass has more. The stream
        // waits for the weights' layer. Only the compute stream touches this memory.
        unsafe { gemm.run(self.compute(), &self.workspace, operands, rows)? };
        if !apart {
            return Ok(());
        }
        let params = AddParams {
            from: to,
            to: out,
            count: (rows * gemm.spec().outputs) as u64,
        };
        // SAFETY: as for `gemm.run` above.
        unsafe { self.functions.add(self.compute(), &params) }
    }

    /// Returns whether one kernel computes the layer's GEMM together with its GELU. `halves` is 2
    /// if two outputs of the GEMM make one output of the layer (gated), and else 1.
    fn fuses(&self, w: Linear, halves: usize) -> bool {
        let spec = self.gemms[w.gemm].spec();
        self.fused.is_some() && Fused::takes(spec.outputs / halves, spec.inputs)
    }

    fn gemm_gelu(
        &self,
        (x, w, out): (&Matrix, Linear, &Matrix),
        rows: usize,
        gated: bool,
    ) -> Result<(), CudaError> {
        let spec = self.gemms[w.gemm].spec();
        let (x, out) = (self.matrix(x), self.matrix(out));
        let (Some(fused), Some(from), Some(to)) = (&self.fused, &x.activation, &out.activation)
        else {
            return Err(CudaError::WrongRole);
        };
        let operands = GemmGeluOperands {
            from,
            weight: self.weights.region(w.weight),
            bias: w.bias.map_or(0, |bias| self.weights.address(bias)),
            to,
            rows,
            width: out.width,
            depth: spec.inputs,
            gated,
        };
        // SAFETY: as for `gemm.run` in `gemm`.
        unsafe { fused.run(self.compute(), &operands) }
    }

    fn gemm_qkv(
        &self,
        (x, w, out): (&Matrix, Linear, &Matrix),
        (kernels, table): (usize, usize),
        rows: usize,
        positions: u64,
    ) -> Result<(), CudaError> {
        let (x, out) = (self.matrix(x), self.matrix(out));
        let product = self.attention[kernels].product();
        let (Some(product), Some(from), Some(to)) = (product, &x.activation, &out.activation)
        else {
            return Err(CudaError::WrongRole);
        };
        let operands = QkvOperands {
            from,
            weight: self.weights.region(w.weight),
            bias: w.bias.map_or(0, |bias| self.weights.address(bias)),
            positions,
            rotary: self.activations.tables[table].region.address(),
            to,
            rows,
            width: out.width,
            depth: self.gemms[w.gemm].spec().inputs,
        };
        // SAFETY: as for `gemm.run` in `gemm`. No sequence is longer than the table of rotations.
        unsafe { product.run(self.compute(), &operands) }
    }

    /// Makes the compute stream wait for the weights of all layers up to this one, and fills the
    /// tables of rotations at the first call.
    pub(super) fn wait_for_weights(&mut self, layer: usize) -> Result<(), CudaError> {
        self.weights.wait(layer, self.processor.compute())?;
        if std::mem::replace(&mut self.tables_filled, true) {
            return Ok(());
        }
        let filled = match &self.timeline {
            None => self.fill_tables(),
            Some(timeline) => {
                let work = Work::kernel("rotary_table", Args::default());
                timeline.around(self.compute(), work, || self.fill_tables())
            }
        };
        filled.map_err(|error| self.fail(error))
    }

    fn fill_tables(&self) -> Result<(), CudaError> {
        for table in &self.activations.tables {
            let params = RotaryTableParams {
                inv_freq: self.weights.address(table.inv_freq),
                table: table.region.address(),
                positions: self.capacity.tokens as u32,
                half: table.half as u32,
            };
            // SAFETY: the table holds this many positions, and the frequencies belong to the first
            // layer, which the stream was just made to wait for.
            unsafe { self.functions.rotary_table(self.compute(), &params)? };
        }
        Ok(())
    }
}

impl Pass<Cuda> for CudaPass<'_> {
    fn wait_for_weights(&mut self, layer: usize) -> Result<(), BackendError> {
        self.layer = layer;
        Ok(self.cuda.wait_for_weights(layer)?)
    }

    fn embed(
        &mut self,
        scale: &[f64],
        table: &ParameterId,
        shift: Option<&ParameterId>,
        out: &mut Matrix,
    ) -> Result<(), BackendError> {
        // The scale is the last part of the input: now it can be sent to the device.
        let staging = self.cuda.processor.staging()?;
        self.input.write_scale(staging, scale);
        self.cuda.processor.async_load(self.input.bytes)?;
        let weights = &self.cuda.weights;
        let to = self.cuda.matrix(out);
        let params = EmbedParams {
            table: weights.address(*table),
            tokens: self.address(&self.input.tokens)?,
            scale: self.address(&self.input.scale)?,
            shift: shift.map_or(0, |shift| weights.address(*shift)),
            to: to.stream(),
            count: self.rows as u32,
            width: to.width as u32,
            vocabulary: (weights.values(*table) / to.width.max(1)) as u32,
            padding: 0,
        };
        // The table is read, and the residual stream written.
        let work = backend::Work::rows(self.rows, 8 * to.width);
        // SAFETY: the matrix holds as many rows as the capacity, and no pass has more. The input
        // was just sent, and the stream waits for the table's layer. Only the compute stream
        // touches this memory.
        Ok(self.operation("embed", work, |cuda| unsafe {
            cuda.functions.embed(cuda.compute(), &params)
        })?)
    }

    fn layer_norm(
        &mut self,
        x: &Matrix,
        norm: &Norm<ParameterId>,
        out: &mut Matrix,
    ) -> Result<(), BackendError> {
        let out = self.cuda.matrix(out);
        let params = LayerNormParams {
            from: self.cuda.matrix(x).stream(),
            gain: self.cuda.weights.address(norm.gain),
            bias: self.cuda.weights.address(norm.bias),
            to: out.activation(),
            // In f32 the two copies are the same memory, which is written once.
            stream: match self.cuda.dtype {
                DType::F32 => 0,
                _ => out.stream(),
            },
            rows: self.rows as u32,
            width: out.width as u32,
            epsilon: norm.eps,
            padding: 0,
        };
        let size = self.cuda.dtype.size();
        let streams = if params.stream == 0 { 1 } else { 2 };
        let work = backend::Work::rows(self.rows, (4 * streams + size) * out.width);
        // SAFETY: as in `embed`.
        Ok(self.operation("layer_norm", work, |cuda| unsafe {
            cuda.functions.layer_norm(cuda.compute(), &params)
        })?)
    }

    /// Queues a linear layer with its activation function, fused into one kernel if possible.
    fn linear(
        &mut self,
        x: &Matrix,
        w: &Linear,
        act: Activation,
        out: &mut Matrix,
    ) -> Result<(), BackendError> {
        if act == Activation::Gelu && self.cuda.fuses(*w, 1) {
            return Ok(self.gemm_gelu("product_gelu", (x, *w, out), false)?);
        }
        let (from, to) = (self.cuda.matrix(x).activation(), self.cuda.matrix(out));
        let params = GeluParams {
            values: to.activation(),
            count: (self.rows * to.width) as u64,
        };
        let width = to.width;
        self.gemm(*w, from, params.values)?;
        if act == Activation::None {
            return Ok(());
        }
        let work = backend::Work::rows(self.rows, 2 * self.cuda.dtype.size() * width);
        // SAFETY: as in `embed`.
        Ok(self.operation("gelu", work, |cuda| unsafe {
            cuda.functions.gelu(cuda.compute(), &params)
        })?)
    }

    /// Queues the layer that makes q, k and v, with the rotation of q and k if one kernel does both.
    fn linear_qkv(
        &mut self,
        x: &Matrix,
        w: &Linear,
        attention: &Attention,
        out: &mut Matrix,
    ) -> Result<(), BackendError> {
        let product = self.cuda.attention[attention.kernels].product();
        let (Some(_), Some(table)) = (product, attention.rotary) else {
            return self.linear(x, w, Activation::None, out);
        };
        let (rows, w, positions) = (self.rows, *w, self.address(&self.input.positions)?);
        let kernels = attention.kernels;
        let spec = self.cuda.gemms[w.gemm].spec();
        let (shape, size) = ((spec.outputs, spec.inputs), spec.dtype.size());
        let work = backend::Work::product(rows, shape, size, shape.0 * size);
        Ok(self.operation("product_rotated", work, |cuda| {
            cuda.gemm_qkv((x, w, out), (kernels, table), rows, positions)
        })?)
    }

    fn linear_add(
        &mut self,
        x: &Matrix,
        w: &Linear,
        onto: &mut Matrix,
    ) -> Result<(), BackendError> {
        let from = self.cuda.matrix(x).activation();
        let onto = self.cuda.matrix(onto).stream();
        Ok(self.gemm(*w, from, onto)?)
    }

    /// Queues a gated linear layer, fused into one kernel if possible.
    fn linear_gated(
        &mut self,
        x: &Matrix,
        w: &Linear,
        out: &mut Matrix,
    ) -> Result<(), BackendError> {
        if self.cuda.fuses(*w, 2) {
            return Ok(self.gemm_gelu("product_gated_gelu", (x, *w, out), true)?);
        }
        let (from, to) = (self.cuda.matrix(x).activation(), self.cuda.matrix(out));
        let params = GatedGeluParams {
            from: self.cuda.activations.scratch(),
            to: to.activation(),
            rows: self.rows as u32,
            width: to.width as u32,
        };
        let width = to.width;
        self.gemm(*w, from, params.from)?;
        let work = backend::Work::rows(self.rows, 3 * self.cuda.dtype.size() * width);
        // SAFETY: as in `embed`.
        Ok(self.operation("gated_gelu", work, |cuda| unsafe {
            cuda.functions.gated_gelu(cuda.compute(), &params)
        })?)
    }

    fn attention(
        &mut self,
        qkv: &Matrix,
        a: &Attention,
        out: &mut Matrix,
    ) -> Result<(), BackendError> {
        let (cuda, tokens, items) = (&*self.cuda, self.rows, self.items);
        let lists = (
            self.address(&self.input.items)?,
            self.address(&self.input.slots)?,
        );
        let table = |table: usize| cuda.activations.tables[table].region.address();
        let params = AttentionParams {
            qkv: cuda.matrix(qkv).activation(),
            out: cuda.matrix(out).activation(),
            items: 0,
            // Queries and keys may have been rotated already.
            rotary: match cuda.attention[a.kernels].product() {
                Some(_) => 0,
                None => a.rotary.map_or(0, table),
            },
            slopes: a.slopes.map_or(0, |slopes| cuda.weights.address(slopes)),
            heads: a.heads as u32,
            head_dim: a.head_dim as u32,
            scale: 1.0 / (a.head_dim as f32).sqrt(),
            count: 0,
        };
        let work = backend::Work {
            flops: 4 * self.squares * (a.heads * a.head_dim) as u64,
            ..backend::Work::rows(tokens, 4 * cuda.dtype.size() * a.heads * a.head_dim)
        };
        // SAFETY: as in `embed`. The work lists are those of this pass, whose sequences are no
        // longer than the table of rotations.
        Ok(self.operation("attention", work, |cuda| unsafe {
            cuda.attention[a.kernels].run(cuda.compute(), &params, tokens, lists, items)
        })?)
    }

    /// Queues the wanted outputs of a representation, and returns where its results will lie.
    ///
    /// # Errors
    /// Returns [`CudaError::Results`] if a pass takes more representations than were announced.
    fn represent(
        &mut self,
        x: &Matrix,
        norm: Option<&Norm<ParameterId>>,
        wanted: OutputKinds,
    ) -> Result<Pending, BackendError> {
        let (cuda, rows, sequences) = (&*self.cuda, self.rows, self.sequences);
        let from = cuda.matrix(x);
        let mut end = self.output;
        let mut part = |wanted: bool, bytes: usize| {
            let start = end.next_multiple_of(ALIGN);
            end = start + if wanted { bytes } else { 0 };
            start..end
        };
        let pooled = part(wanted.pooled.is_some(), sequences * from.width * 4);
        let half = self.cuda.half_states;
        let size = if half { 2 } else { 4 };
        let states = part(wanted.states, rows * from.width * size);
        let beyond = part(wanted.states && half, rows * 8);
        let bad = part(true, sequences * 4);
        let output = cuda.processor.output()?;
        if end > output.bytes() {
            let (bytes, capacity) = (end, output.bytes());
            return Err(CudaError::Results { bytes, capacity }.into());
        }
        let address = |range: &Range<usize>| match range.is_empty() {
            true => 0,
            false => output.address() + range.start as u64,
        };
        let params = RepresentParams {
            from: from.stream(),
            gain: norm.map_or(0, |n| cuda.weights.address(n.gain)),
            bias: norm.map_or(0, |n| cuda.weights.address(n.bias)),
            starts: self.address(&self.input.starts)?,
            ranges: self.address(match wanted.pooled {
                Some(Pooling::First) => &self.input.firsts,
                _ => &self.input.pooled,
            })?,
            pooled: address(&pooled),
            states: address(&states),
            bad: address(&bad),
            sums: cuda.activations.sums.address(),
            sequences: sequences as u32,
            width: from.width as u32,
            beyond: address(&beyond),
            epsilon: norm.map_or(0.0, |n| n.eps),
            half: half.into(),
        };
        // The residual stream is read, and what is wanted is written.
        let work = backend::Work {
            bytes: (rows * from.width * 4 + pooled.len() + states.len()) as u64,
            ..backend::Work::default()
        };
        self.output = end;
        self.taken += 1;
        if sequences > 0 && wanted.pooled == Some(Pooling::Max) {
            // SAFETY: as in `embed`. The output holds these parts, as was just checked.
            self.operation("represent_max", work, |cuda| unsafe {
                cuda.functions.represent_max(cuda.compute(), rows, &params)
            })?;
        } else if sequences > 0 {
            // SAFETY: as in `embed`. The output holds these parts, as was just checked.
            self.operation("represent", work, |cuda| unsafe {
                cuda.functions.represent(cuda.compute(), rows, &params)
            })?;
        }
        Ok(Pending {
            pass: self.number,
            pooled,
            states,
            beyond,
            bad,
        })
    }

    fn end(self) -> Result<(), BackendError> {
        let compute = self.cuda.processor.compute();
        self.cuda.weights.release(compute)?;
        let processor = &mut self.cuda.processor;
        processor.finish(self.output)?;
        if self.taken == 0 {
            // Nobody will fetch a result of this pass, so its slot is freed here.
            processor.wait()?;
            processor.release();
        } else {
            self.cuda.ended.push_back((self.number, self.taken));
        }
        Ok(())
    }
}
