//! Queues the operations of a pass: decides which kernels run, and on which addresses.

use super::backend::Attention;
use super::chains;
use super::error::CudaError;
use super::fused::{Fused, GemmGeluOperands};
use super::params::{
    AddParams, AttentionParams, EmbedParams, GatedGeluParams, GeluParams, GemmShortParams,
    LayerNormParams, RepresentParams,
};
use super::plan::ALIGN;
use super::resident::ParameterId;
use super::running::{LinearLayer, Pending, Running};
use crate::backend::{Activation, Norm, OutputKinds};
use crate::dtype::DType;
use crate::gpu::cublaslt::{self as gemm, Kind};
use crate::gpu::driver::Region;
use std::ops::Range;

impl Running {
    /// Runs one operation, and times it if timing is switched on.
    fn operation(
        &mut self,
        name: &'static str,
        run: impl FnOnce(&Self) -> Result<(), CudaError>,
    ) -> Result<(), CudaError> {
        let Some(mut profile) = self.profile.take() else {
            return run(self);
        };
        let timed = profile.around(name, self.compute(), || run(self));
        self.profile = Some(profile);
        timed
    }

    /// Writes the scale, sends the input to the device, and queues the embedding.
    pub fn embed(
        &mut self,
        scale: &[f64],
        table: ParameterId,
        shift: Option<ParameterId>,
        out: usize,
    ) -> Result<(), CudaError> {
        let layout = self.pass("embed")?.input.clone();
        layout.write_scale(self.processor.staging()?, scale);
        self.processor.async_load(layout.bytes)?;
        let width = self.places[out].width;
        let params = EmbedParams {
            table: self.addresses.of(table),
            tokens: self.input(&layout.tokens)?,
            scale: self.input(&layout.scale)?,
            shift: shift.map_or(0, |shift| self.addresses.of(shift)),
            to: self.places[out].stream(),
            count: self.pass("embed")?.rows as u32,
            width: width as u32,
            vocabulary: (self.addresses.values(table) / width.max(1)) as u32,
            padding: 0,
        };
        // SAFETY: the matrix holds as many rows as the capacity, and no pass has more. The input
        // was just sent, and the stream waits for the table's layer. Only the compute stream
        // touches this memory.
        self.operation("embed", |r| unsafe {
            r.functions.embed(r.compute(), &params)
        })
    }

    /// Queues a LayerNorm.
    pub fn layer_norm(
        &mut self,
        x: usize,
        norm: &Norm<ParameterId>,
        out: usize,
    ) -> Result<(), CudaError> {
        let place = &self.places[out];
        // In f32 the two copies are the same memory, which is written once.
        let stream = match self.dtype {
            DType::F32 => 0,
            _ => place.stream(),
        };
        let params = LayerNormParams {
            from: self.places[x].stream(),
            gain: self.addresses.of(norm.gain),
            bias: self.addresses.of(norm.bias),
            to: place.activation(),
            stream,
            rows: self.pass("layer_norm")?.rows as u32,
            width: place.width as u32,
            epsilon: norm.eps,
            padding: 0,
        };
        // SAFETY: as in `embed`.
        self.operation("layer_norm", |r| unsafe {
            r.functions.layer_norm(r.compute(), &params)
        })
    }

    /// Queues the GEMM of a linear layer, which stores its result to `out`, or adds it to `out` if
    /// the layer adds to the residual stream.
    pub(super) fn product(
        &self,
        w: LinearLayer,
        x: u64,
        out: u64,
        rows: usize,
    ) -> Result<(), CudaError> {
        let product = &self.products[w.product];
        let bias = w.bias.map_or(0, |bias| self.addresses.of(bias));
        if self
            .pass
            .as_ref()
            .is_some_and(|pass| pass.class == chains::SHORT)
        {
            let spec = product.spec();
            let params = GemmShortParams {
                from: x,
                weight: self.addresses.of(w.weight),
                bias,
                to: out,
                rows: rows as u32,
                outputs: spec.outputs as u32,
                depth: spec.inputs as u32,
                add: w.adds.into(),
            };
            // SAFETY: as for `product.run` below.
            return unsafe { self.functions.gemm_short(self.compute(), &params) };
        }
        let apart = w.adds && product.spec().kind == Kind::Store;
        let to = match apart {
            true => self.scratch.as_ref().map_or(0, Region::address),
            false => out,
        };
        let operands = gemm::Operands {
            x,
            w: self.addresses.of(w.weight),
            bias,
            out: to,
        };
        // SAFETY: the regions hold as many rows as the capacity, and no pass has more. The stream
        // waits for the weights' layer. Only the compute stream touches this memory.
        unsafe { product.run(self.compute(), &self.workspace, operands, rows)? };
        if !apart {
            return Ok(());
        }
        let params = AddParams {
            from: to,
            to: out,
            count: (rows * product.spec().outputs) as u64,
        };
        // SAFETY: as for `product.run` above.
        unsafe { self.functions.add(self.compute(), &params) }
    }

    /// Queues a linear layer with its activation function, fused into one kernel if possible.
    pub fn linear(
        &mut self,
        x: usize,
        w: LinearLayer,
        act: Activation,
        out: usize,
    ) -> Result<(), CudaError> {
        let rows = self.pass("linear")?.rows;
        if act == Activation::Gelu && self.fuses(w, 1) {
            return self.operation("product_gelu", |r| r.fused(x, w, out, rows, false));
        }
        let (from, to) = (self.places[x].activation(), self.places[out].activation());
        self.operation("product", |r| r.product(w, from, to, rows))?;
        if act == Activation::None {
            return Ok(());
        }
        let params = GeluParams {
            values: to,
            count: (rows * self.places[out].width) as u64,
        };
        // SAFETY: as in `embed`.
        self.operation("gelu", |r| unsafe {
            r.functions.gelu(r.compute(), &params)
        })
    }

    /// Returns whether one kernel computes the layer's GEMM together with its GELU. `halves` is 2
    /// if two outputs of the GEMM make one output of the layer (gated), and else 1.
    fn fuses(&self, w: LinearLayer, halves: usize) -> bool {
        let spec = self.products[w.product].spec();
        self.fused.is_some() && Fused::takes(spec.outputs / halves, spec.inputs)
    }

    fn fused(
        &self,
        x: usize,
        w: LinearLayer,
        out: usize,
        rows: usize,
        gated: bool,
    ) -> Result<(), CudaError> {
        let spec = self.products[w.product].spec();
        let regions = (&self.places[x].activation, &self.places[out].activation);
        let (Some(fused), (Some(from), Some(to))) = (&self.fused, regions) else {
            return Err(CudaError::OutOfOrder {
                call: "a fused product",
                missing: "matrices in the products' dtype",
            });
        };
        let operands = GemmGeluOperands {
            from,
            weight: self.addresses.region(w.weight),
            bias: w.bias.map_or(0, |bias| self.addresses.of(bias)),
            to,
            rows,
            width: self.places[out].width,
            depth: spec.inputs,
            gated,
        };
        // SAFETY: as for `product.run` in `product`.
        unsafe { fused.run(self.compute(), &operands) }
    }

    /// Queues a linear layer that adds to the residual stream.
    pub fn linear_add(&mut self, x: usize, w: LinearLayer, onto: usize) -> Result<(), CudaError> {
        let rows = self.pass("linear_add")?.rows;
        let (from, to) = (self.places[x].activation(), self.places[onto].stream());
        self.operation("product", |r| r.product(w, from, to, rows))
    }

    /// Queues a gated linear layer, fused into one kernel if possible.
    pub fn linear_gated(&mut self, x: usize, w: LinearLayer, out: usize) -> Result<(), CudaError> {
        let rows = self.pass("linear_gated")?.rows;
        if self.fuses(w, 2) {
            return self.operation("product_gated_gelu", |r| r.fused(x, w, out, rows, true));
        }
        let between = self.scratch.as_ref().map_or(0, Region::address);
        let from = self.places[x].activation();
        self.operation("product", |r| r.product(w, from, between, rows))?;
        let params = GatedGeluParams {
            from: between,
            to: self.places[out].activation(),
            rows: rows as u32,
            width: self.places[out].width as u32,
        };
        // SAFETY: as in `embed`.
        self.operation("gated_gelu", |r| unsafe {
            r.functions.gated_gelu(r.compute(), &params)
        })
    }

    /// Queues attention within each sequence of the pass.
    pub fn attention(&mut self, qkv: usize, a: &Attention, out: usize) -> Result<(), CudaError> {
        let pass = self.pass("attention")?;
        let (tokens, items, layout) = (pass.rows, pass.items, &pass.input);
        let lists = (self.input(&layout.items)?, self.input(&layout.slots)?);
        let params = AttentionParams {
            qkv: self.places[qkv].activation(),
            out: self.places[out].activation(),
            items: 0,
            rotary: a.rotary.map_or(0, |t| self.tables[t].region.address()),
            slopes: a.slopes.map_or(0, |slopes| self.addresses.of(slopes)),
            heads: a.heads as u32,
            head_dim: a.head_dim as u32,
            scale: 1.0 / (a.head_dim as f32).sqrt(),
            count: 0,
        };
        // SAFETY: as in `embed`. The work lists are those of this pass, whose sequences are no
        // longer than the table of rotations.
        self.operation("attention", |r| unsafe {
            r.attention[a.kernels].run(r.compute(), &params, tokens, lists, items)
        })
    }

    /// Queues the wanted outputs of a representation, and returns where its results will lie.
    ///
    /// # Errors
    /// Returns [`CudaError::OutOfOrder`] if a pass takes more representations than were announced.
    pub fn represent(
        &mut self,
        x: usize,
        norm: Option<&Norm<ParameterId>>,
        wanted: OutputKinds,
    ) -> Result<Pending, CudaError> {
        let pass = self.pass("represent")?;
        let (number, rows, sequences) = (pass.number, pass.rows, pass.sequences);
        let width = self.places[x].width;
        let mut end = pass.output;
        let mut part = |wanted: bool, bytes: usize| {
            let start = end.next_multiple_of(ALIGN);
            end = start + if wanted { bytes } else { 0 };
            start..end
        };
        let pooled = part(wanted.pooled, sequences * width * 4);
        let states = part(wanted.states, rows * width * 4);
        let bad = part(true, sequences * 4);
        let output = self.processor.output()?;
        if end > output.bytes() {
            return Err(CudaError::OutOfOrder {
                call: "represent",
                missing: "having said how many representations are wanted",
            });
        }
        let address = |range: &Range<usize>| match range.is_empty() {
            true => 0,
            false => output.address() + range.start as u64,
        };
        let layout = &pass.input;
        let params = RepresentParams {
            from: self.places[x].stream(),
            gain: norm.map_or(0, |n| self.addresses.of(n.gain)),
            bias: norm.map_or(0, |n| self.addresses.of(n.bias)),
            starts: self.input(&layout.starts)?,
            ranges: self.input(&layout.pooled)?,
            pooled: address(&pooled),
            states: address(&states),
            bad: address(&bad),
            sums: self.sums.address(),
            sequences: sequences as u32,
            width: width as u32,
            epsilon: norm.map_or(0.0, |n| n.eps),
            padding: 0,
        };
        if let Some(pass) = &mut self.pass {
            pass.output = end;
            pass.taken += 1;
        }
        if sequences > 0 {
            // SAFETY: as in `embed`. The output holds these parts, as was just checked.
            self.operation("represent", |r| unsafe {
                r.functions.represent(r.compute(), rows, &params)
            })?;
        }
        Ok(Pending {
            pass: number,
            pooled,
            states,
            bad,
        })
    }
}
