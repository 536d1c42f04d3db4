//! Runs the passes of a model whose parameters are on the device or on their way to it.
//!
//! All kernels of a pass run on one compute stream, in order. Tokens arrive before them and results
//! leave after them through the ring of slots ([`StreamProcessor`]). Only the compute stream
//! touches the activations, so the same activations serve all passes.

use super::attention::{WorkCounts, WorkList};
use super::error::CudaError;
use super::functions::{AttentionFunctions, Casts, Functions};
use super::fused::Fused;
use super::params::RotaryTableParams;
use super::plan::Capacity;
use super::profile::Profile;
use super::resident::{Addresses, ParameterId};
use super::slot::{InputLayout, floats};
use crate::backend::Output;
use crate::batch::PackedBatch;
use crate::dtype::DType;
use crate::gpu::cublaslt::{GemmError, Product};
use crate::gpu::driver::{Region, Stream};
use crate::gpu::stream::{Loader, StreamError, StreamProcessor};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// A linear layer whose parameters have been named.
#[derive(Debug, Clone, Copy)]
pub struct LinearLayer {
    /// The weight, `[outputs, inputs]`.
    pub(super) weight: ParameterId,
    /// The bias, `[outputs]`, if there is one.
    pub(super) bias: Option<ParameterId>,
    /// The number of its GEMM.
    pub(super) product: usize,
    /// Whether its output is added to the residual stream.
    pub(super) adds: bool,
}

/// A representation that a pass will produce: the byte ranges of its parts in the results of the
/// pass.
#[derive(Debug)]
pub struct Pending {
    /// The number of the pass.
    pub(super) pass: u64,
    /// The means: f32, `[sequences, width]`; empty if not wanted.
    pub(super) pooled: Range<usize>,
    /// The states: f32, `[rows, width]`; empty if not wanted.
    pub(super) states: Range<usize>,
    /// Flags of sequences with a state that is not finite: u32, `[sequences]`.
    pub(super) bad: Range<usize>,
}

/// The table of the rotations of every position.
pub(super) struct RotaryTable {
    /// The frequencies.
    pub inv_freq: ParameterId,
    /// The number of values of `inv_freq`.
    pub half: usize,
    /// The table: f32, `[capacity's tokens, half, 2]`.
    pub region: Region,
}

/// The memory of a matrix: as f32 for the residual stream, in the GEMMs' dtype, or both. In a job
/// in f32 the two are the same memory.
pub(super) struct DeviceMatrix {
    /// The f32 copy that the residual stream uses.
    pub stream: Option<Region>,
    /// The copy that GEMMs and attention use.
    pub activation: Option<Region>,
    /// The number of columns.
    pub width: usize,
}

impl DeviceMatrix {
    /// Returns the address of the residual copy, or 0 if there is none.
    pub fn stream(&self) -> u64 {
        self.stream.as_ref().map_or(0, Region::address)
    }

    /// Returns the address of the copy that GEMMs use, or 0 if there is none.
    pub fn activation(&self) -> u64 {
        self.activation.as_ref().map_or(0, Region::address)
    }
}

/// The pass that is being queued.
pub(super) struct Pass {
    /// The number of the pass, counted from 0.
    pub number: u64,
    /// The class of its sequences.
    pub class: usize,
    /// The number of tokens.
    pub rows: usize,
    /// The number of sequences.
    pub sequences: usize,
    /// Where the parts of its input lie.
    pub input: InputLayout,
    /// The lengths of the attention work lists.
    pub items: WorkCounts,
    /// The bytes of the output that are in use.
    pub output: usize,
    /// The number of representations taken so far.
    pub taken: usize,
}

/// A model that runs: everything that exists once the device's memory has been taken.
pub(super) struct Running {
    /// The dtype of weights and activations.
    pub dtype: DType,
    /// How much a pass may hold.
    pub capacity: Capacity,
    /// Where the parameters lie.
    pub addresses: Addresses,
    /// The kernels that run between the GEMMs.
    pub functions: Functions,
    /// The GEMMs with GELU in their epilogue, if the device has them.
    pub fused: Option<Fused>,
    /// The attention kernels, by number.
    pub attention: Vec<AttentionFunctions>,
    /// The GEMMs, by number.
    pub products: Vec<Product>,
    /// The memory that GEMMs may use while they run.
    pub workspace: Region,
    /// The matrices, by number.
    pub places: Vec<DeviceMatrix>,
    /// The tables of rotations, by number.
    pub tables: Vec<RotaryTable>,
    /// Temporary memory: the output of a gated linear layer before its gate is applied, or a GEMM
    /// whose chains are summed before the sum is added to the residual stream.
    pub scratch: Option<Region>,
    /// Sums of rows from which means are computed: f64, `[capacity's tokens / 32 + 1, width]`.
    pub sums: Region,
    /// The ring of slots, with the streams.
    pub processor: StreamProcessor,
    /// The bytes of each layer's parameters. There is at least one layer.
    pub group_bytes: Vec<usize>,
    /// The number of layers that the compute stream waits for already.
    pub arrived: usize,
    /// The number of passes begun so far.
    pub passes: u64,
    /// The pass that is being queued, if there is one.
    pub pass: Option<Pass>,
    /// The numbers of the ended passes, oldest first, each with the number of its representations
    /// that are still to be fetched.
    pub ended: VecDeque<(u64, usize)>,
    /// The timed operations, while timing is switched on.
    pub profile: Option<Profile>,
    /// The thread that loads the weights. It ends before the memory that it writes to is freed.
    pub loader: Loader,
    /// The loader's kernels, which are kept until the end because unloading a module waits for the
    /// whole device.
    pub _casts: Arc<Casts>,
}

impl Running {
    /// Ends the job with an error: drains its streams, so that their memory can be freed.
    pub fn fail(&mut self, error: CudaError) -> CudaError {
        CudaError::Stream(match error {
            CudaError::Driver(e) | CudaError::Gemm(GemmError::Driver(e)) => self.processor.fail(e),
            CudaError::Gemm(e) => self.processor.end_job(StreamError::Product {
                text: e.to_string(),
                remedy: e.remedy(),
            }),
            error => return error,
        })
    }

    /// Returns the pass that is being queued; `call` names the caller in the error.
    ///
    /// # Errors
    /// Returns [`CudaError::OutOfOrder`] if no pass has begun.
    pub fn pass(&self, call: &'static str) -> Result<&Pass, CudaError> {
        let missing = "a pass that was begun";
        self.pass
            .as_ref()
            .ok_or(CudaError::OutOfOrder { call, missing })
    }

    /// Returns the stream that all kernels of a pass run on.
    pub fn compute(&self) -> &Stream {
        self.processor.compute()
    }

    /// Returns the device address of a part of the pass's input.
    pub fn input(&self, part: &Range<usize>) -> Result<u64, CudaError> {
        Ok(self.processor.input()?.address() + part.start as u64)
    }

    /// Begins a pass: opens the next slot, and writes the input to it except for the scale.
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
            items: work.counts(),
            output: 0,
            taken: 0,
        });
        Ok(())
    }

    /// Makes the compute stream wait for all layers up to this one. The stream runs in order, so
    /// one wait for a fence covers all later work.
    pub fn need(&mut self, group: usize) -> Result<(), CudaError> {
        while self.arrived <= group {
            let next = self.arrived as u64;
            self.loader.loaded().wait(next, self.compute())?;
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
            // SAFETY: the table holds this many positions, and the frequencies belong to the first
            // layer, which the stream was just made to wait for.
            unsafe { self.functions.rotary_table(self.compute(), &params)? };
        }
        Ok(())
    }

    /// Ends the pass, so that its results leave the device.
    pub fn end(&mut self) -> Result<(), CudaError> {
        let pass = self.pass.take().ok_or(CudaError::OutOfOrder {
            call: "end",
            missing: "a pass that was begun",
        })?;
        self.processor.finish(pass.output)?;
        if pass.taken == 0 {
            // Nobody will fetch a result of this pass, so its slot is freed here.
            self.processor.wait()?;
            self.processor.release();
        } else {
            self.ended.push_back((pass.number, pass.taken));
        }
        Ok(())
    }

    /// Waits for a representation and returns it.
    pub fn fetch(&mut self, pending: &Pending) -> Result<Output, CudaError> {
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
        let mut made = Output {
            pooled: floats(&results[pending.pooled.clone()]),
            states: floats(&results[pending.states.clone()]),
        };
        // A sequence with a state that is not finite must not look valid, whatever its mean is.
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

    /// Waits until all weights have arrived and all queued work is done.
    pub fn settle(&mut self) -> Result<(), CudaError> {
        self.need(self.group_bytes.len() - 1)?;
        self.compute().synchronize()?;
        Ok(())
    }
}
