//! A model whose parameters are on the device, or on their way: the operations of its passes.
//!
//! All of a pass goes on one compute stream, in order; tokens come before it and results leave after it by the ring of
//! slots ([`StreamProcessor`]). So the activations, which that stream alone touches, serve all passes.

use super::attention::WorkList;
use super::backend::Attention;
use super::chains;
use super::driver::{Fence, Region, Stream};
use super::error::CudaError;
use super::functions::{AttentionFunctions, Casts, Functions};
use super::fused::{Fused, Operands};
use super::gemm::{self, GemmError, Kind, Product};
use super::params::{
    AddParams, AttentionParams, EmbedParams, GatedGeluParams, GeluParams, GemmShortParams,
    LayerNormParams, RepresentParams, RotaryTableParams,
};
use super::plan::{ALIGN, Capacity};
use super::profile::Profile;
use super::resident::{Addresses, ParameterId};
use super::slot::{InputLayout, floats};
use crate::backend::{Activation, Norm, Represented, Wanted};
use crate::batch::PackedBatch;
use crate::stream::{LayerFences, Loader, StreamError, StreamProcessor};
use crate::weights::DType;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// A linear layer.
#[derive(Debug, Clone, Copy)]
pub struct Layer {
    pub(super) weight: ParameterId,
    pub(super) bias: Option<ParameterId>,
    /// Its product, by number.
    pub(super) product: usize,
    /// Whether it goes onto the residual stream.
    pub(super) adds: bool,
}

/// A representation of a pass: where in its results the parts lie, in bytes.
#[derive(Debug)]
pub struct Pending {
    pass: u64,
    pooled: Range<usize>,
    states: Range<usize>,
    bad: Range<usize>,
}

/// Rotations of every position.
pub(super) struct Table {
    pub inv_freq: ParameterId,
    /// Values of `inv_freq`.
    pub half: usize,
    /// f32 [capacity's tokens, half, 2]
    pub region: Region,
}

/// Where a matrix lies: as f32, in the products' dtype, or both. In f32 they are one.
pub(super) struct Place {
    pub stream: Option<Region>,
    pub activation: Option<Region>,
    pub width: usize,
}

impl Place {
    fn stream(&self) -> u64 {
        self.stream.as_ref().map_or(0, Region::address)
    }

    fn activation(&self) -> u64 {
        self.activation.as_ref().map_or(0, Region::address)
    }
}

/// The pass that is being put together.
pub(super) struct Pass {
    number: u64,
    /// Of its sequences.
    class: usize,
    rows: usize,
    sequences: usize,
    input: InputLayout,
    /// Tasks of attention: those of long sequences, those of short ones.
    items: (usize, usize),
    /// Bytes of the output in use.
    output: usize,
    /// Representations taken.
    taken: usize,
}

/// What there is once the device's memory is taken.
pub(super) struct Running {
    pub dtype: DType,
    pub capacity: Capacity,
    pub addresses: Addresses,
    pub functions: Functions,
    /// Where the chip has it.
    pub fused: Option<Fused>,
    pub attention: Vec<AttentionFunctions>,
    pub products: Vec<Product>,
    pub workspace: Region,
    pub places: Vec<Place>,
    pub tables: Vec<Table>,
    /// What a gated layer makes before its gate; what is made whole before it goes onto the stream.
    pub scratch: Option<Region>,
    /// Sums of rows on their way to means: f64 [capacity's tokens / 32 + 1, width].
    pub sums: Region,
    pub processor: StreamProcessor,
    pub fences: Arc<LayerFences>,
    /// Groups of parameters, at least one.
    pub groups: usize,
    /// Groups that the compute stream waits for already.
    pub arrived: usize,
    pub passes: u64,
    pub pass: Option<Pass>,
    /// Ended passes, oldest first, and how many of their representations are still to be fetched.
    pub ended: VecDeque<(u64, usize)>,
    pub profile: Option<Profile>,
    /// Its thread ends before the memory that it writes to goes.
    pub _loader: Loader,
    /// The loader's kernels, kept until the end: to unload a module waits for the whole device.
    pub _casts: Arc<Casts>,
}

impl Running {
    /// Ends the job with an error: its streams are drained, so that memory can go.
    pub fn fail(&mut self, error: CudaError) -> CudaError {
        CudaError::Stream(match error {
            CudaError::Driver(e) | CudaError::Gemm(GemmError::Driver(e)) => self.processor.fail(e),
            CudaError::Gemm(e) => self.processor.end_job(StreamError::Product {
                text: e.to_string(),
                hint: e.hint(),
            }),
            error => return error,
        })
    }

    fn pass(&self, call: &'static str) -> Result<&Pass, CudaError> {
        let missing = "a pass that was begun";
        self.pass
            .as_ref()
            .ok_or(CudaError::OutOfOrder { call, missing })
    }

    fn compute(&self) -> &Stream {
        self.processor.compute()
    }

    /// The address of a part of the pass's input.
    fn input(&self, part: &Range<usize>) -> Result<u64, CudaError> {
        Ok(self.processor.input()?.address() + part.start as u64)
    }

    /// Runs one operation, timed if that is wanted.
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

    pub fn begin(
        &mut self,
        class: usize,
        batch: &PackedBatch,
        pooled: &[Range<usize>],
    ) -> Result<(), CudaError> {
        let heads = self.attention.first();
        let work = heads.map_or_else(WorkList::default, |heads| heads.work(batch.starts()));
        let input = InputLayout::new(batch, &work);
        let number = self.passes;
        input.write(self.processor.stage(number)?, batch, pooled, &work);
        self.passes += 1;
        self.pass = Some(Pass {
            number,
            class,
            rows: batch.total(),
            sequences: batch.len(),
            input,
            items: (work.items.len(), work.short_items()),
            output: 0,
            taken: 0,
        });
        Ok(())
    }

    /// The stream is in order: a fence that it waited for once is behind all that follows.
    pub fn need(&mut self, group: usize) -> Result<(), CudaError> {
        while self.arrived <= group {
            self.fences.wait(self.arrived as u64, self.compute())?;
            self.arrived += 1;
            if self.arrived == 1 {
                self.fill_tables()?;
            }
        }
        Ok(())
    }

    fn fill_tables(&self) -> Result<(), CudaError> {
        for table in &self.tables {
            let params = RotaryTableParams {
                inv_freq: self.addresses.of(table.inv_freq),
                table: table.region.address(),
                positions: self.capacity.tokens as u32,
                half: table.half as u32,
            };
            // SAFETY: a table of these positions; the values are of the first group, just waited for.
            unsafe { self.functions.rotary_table(self.compute(), &params)? };
        }
        Ok(())
    }

    pub fn end(&mut self) -> Result<(), CudaError> {
        let pass = self.pass.take().ok_or(CudaError::OutOfOrder {
            call: "end",
            missing: "a pass that was begun",
        })?;
        self.processor.finish(pass.output)?;
        if pass.taken == 0 {
            // Nobody will fetch anything of it.
            self.processor.wait()?;
            self.processor.release();
        } else {
            self.ended.push_back((pass.number, pass.taken));
        }
        Ok(())
    }

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
        // SAFETY: the matrix has room for the capacity's rows, and no pass has more; the input was just sent, and the
        // table's group waited for. The compute stream alone touches them.
        self.operation("embed", |r| unsafe {
            r.functions.embed(r.compute(), &params)
        })
    }

    pub fn layer_norm(
        &mut self,
        x: usize,
        norm: &Norm<ParameterId>,
        out: usize,
    ) -> Result<(), CudaError> {
        let place = &self.places[out];
        // In f32 the two are one, and it is written once.
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

    /// A layer's product: stored to `out`, or added to it if that is the layer's use.
    fn product(&self, w: Layer, x: u64, out: u64, rows: usize) -> Result<(), CudaError> {
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
            // SAFETY: as below.
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
        // SAFETY: regions that hold the capacity's rows, and no pass has more; the weights' group was waited for. The
        // compute stream alone touches them.
        unsafe { product.run(self.compute(), &self.workspace, operands, rows)? };
        if !apart {
            return Ok(());
        }
        let params = AddParams {
            from: to,
            to: out,
            count: (rows * product.spec().outputs) as u64,
        };
        // SAFETY: as above.
        unsafe { self.functions.add(self.compute(), &params) }
    }

    pub fn linear(
        &mut self,
        x: usize,
        w: Layer,
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

    /// Whether a layer's product and its GELU are one kernel; `halves` of its outputs make one.
    fn fuses(&self, w: Layer, halves: usize) -> bool {
        let spec = self.products[w.product].spec();
        self.fused.is_some() && Fused::takes(spec.outputs / halves, spec.inputs)
    }

    fn fused(
        &self,
        x: usize,
        w: Layer,
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
        let operands = Operands {
            from,
            weight: self.addresses.region(w.weight),
            bias: w.bias.map_or(0, |bias| self.addresses.of(bias)),
            to,
            rows,
            width: self.places[out].width,
            depth: spec.inputs,
            gated,
        };
        // SAFETY: as in `product`.
        unsafe { fused.run(self.compute(), &operands) }
    }

    pub fn linear_add(&mut self, x: usize, w: Layer, onto: usize) -> Result<(), CudaError> {
        let rows = self.pass("linear_add")?.rows;
        let (from, to) = (self.places[x].activation(), self.places[onto].stream());
        self.operation("product", |r| r.product(w, from, to, rows))
    }

    pub fn linear_gated(&mut self, x: usize, w: Layer, out: usize) -> Result<(), CudaError> {
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

    pub fn attention(&mut self, qkv: usize, a: &Attention, out: usize) -> Result<(), CudaError> {
        let pass = self.pass("attention")?;
        let (items, layout) = (pass.items, &pass.input);
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
        // SAFETY: as in `embed`; the lists are of this pass's sequences, none longer than the table.
        self.operation("attention", |r| unsafe {
            r.attention[a.kernels].run(r.compute(), &params, lists, items)
        })
    }

    pub fn represent(
        &mut self,
        x: usize,
        norm: Option<&Norm<ParameterId>>,
        wanted: Wanted,
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
            // SAFETY: as in `embed`; the output holds these parts, as was just checked.
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

    pub fn fetch(&mut self, pending: &Pending) -> Result<Represented, CudaError> {
        let ticket = self.processor.wait()?;
        let of_oldest = |(pass, _): &&mut (u64, usize)| *pass == pending.pass;
        let oldest = self.ended.front_mut().filter(of_oldest);
        let Some((_, left)) = oldest.filter(|_| ticket.batch == pending.pass) else {
            return Err(CudaError::OutOfOrder {
                call: "fetch",
                missing: "having fetched the pass before",
            });
        };
        *left -= 1;
        let done = *left == 0;
        let results = self.processor.results()?;
        let mut made = Represented {
            pooled: floats(&results[pending.pooled.clone()]),
            states: floats(&results[pending.states.clone()]),
        };
        // A sequence with a state that is not finite must not pass for a good one, whatever its mean.
        let bad = results[pending.bad.clone()].chunks_exact(4);
        let width = made.pooled.len() / bad.len().max(1);
        for (i, _) in bad.enumerate().filter(|(_, flag)| *flag != [0; 4]) {
            made.pooled[i * width..(i + 1) * width].fill(f32::NAN);
        }
        if done {
            self.processor.release();
            self.ended.pop_front();
        }
        Ok(made)
    }

    /// Waits for everything.
    pub fn settle(&mut self) -> Result<(), CudaError> {
        self.need(self.groups - 1)?;
        self.compute().synchronize()?;
        Ok(())
    }

    pub fn products_alone(&mut self, layers: &[Layer], rows: usize) -> Result<f32, CudaError> {
        let rows = rows.min(self.capacity.tokens);
        let context = self.compute().context();
        let (start, end) = (Fence::timed(context)?, Fence::timed(context)?);
        self.compute().record(&start)?;
        for layer in layers {
            let spec = *self.products[layer.product].spec();
            let activation = |width: usize, not: u64| {
                let fits = |p: &&Place| p.width >= width && p.activation() != not;
                let wide = |p: &Place| p.activation();
                let found = self
                    .places
                    .iter()
                    .filter(|p| p.activation() != 0)
                    .find(fits);
                let scratch = self.scratch.as_ref().map_or(0, Region::address);
                found.map_or(scratch, wide)
            };
            let x = activation(spec.inputs, 0);
            let out = match layer.adds {
                false => activation(spec.outputs, x),
                true => {
                    let streams = self.places.iter().map(Place::stream);
                    streams
                        .into_iter()
                        .find(|s| *s != 0 && *s != x)
                        .unwrap_or(0)
                }
            };
            self.product(*layer, x, out, rows)?;
        }
        self.compute().record(&end)?;
        self.compute().synchronize()?;
        Ok(end.milliseconds_since(&start)?.unwrap_or(f32::NAN))
    }

    /// Switches timing on or off, and gives what was timed since it was on.
    pub fn profile(&mut self, on: bool) -> Result<Vec<(String, f64, usize)>, CudaError> {
        self.compute().synchronize()?;
        let before = match on {
            true => self.profile.replace(Profile::default()),
            false => self.profile.take(),
        };
        before.map_or(Ok(Vec::new()), |profile| profile.times())
    }
}
