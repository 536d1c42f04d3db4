//! A model whose parameters are on the device, or on their way, and its passes.
//!
//! All of a pass goes on one compute stream, in order; tokens come before it and results leave after it by the ring of
//! slots ([`StreamProcessor`]). So the activations, which that stream alone touches, serve all passes.

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

/// A linear layer.
#[derive(Debug, Clone, Copy)]
pub struct LinearLayer {
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
    pub(super) pass: u64,
    pub(super) pooled: Range<usize>,
    pub(super) states: Range<usize>,
    pub(super) bad: Range<usize>,
}

/// Rotations of every position.
pub(super) struct RotaryTable {
    pub inv_freq: ParameterId,
    /// Values of `inv_freq`.
    pub half: usize,
    /// f32 [capacity's tokens, half, 2]
    pub region: Region,
}

/// Where a matrix lies: as f32, in the products' dtype, or both. In f32 they are one.
pub(super) struct DeviceMatrix {
    pub stream: Option<Region>,
    pub activation: Option<Region>,
    pub width: usize,
}

impl DeviceMatrix {
    pub fn stream(&self) -> u64 {
        self.stream.as_ref().map_or(0, Region::address)
    }

    pub fn activation(&self) -> u64 {
        self.activation.as_ref().map_or(0, Region::address)
    }
}

/// The pass that is being put together.
pub(super) struct Pass {
    pub number: u64,
    /// Of its sequences.
    pub class: usize,
    pub rows: usize,
    pub sequences: usize,
    pub input: InputLayout,
    /// Tasks of attention.
    pub items: WorkCounts,
    /// Bytes of the output in use.
    pub output: usize,
    /// Representations taken.
    pub taken: usize,
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
    pub places: Vec<DeviceMatrix>,
    pub tables: Vec<RotaryTable>,
    /// What a gated layer makes before its gate; what is made whole before it goes onto the stream.
    pub scratch: Option<Region>,
    /// Sums of rows on their way to means: f64 [capacity's tokens / 32 + 1, width].
    pub sums: Region,
    pub processor: StreamProcessor,
    /// Bytes of each group of parameters, of which there is at least one.
    pub group_bytes: Vec<usize>,
    /// Groups that the compute stream waits for already.
    pub arrived: usize,
    pub passes: u64,
    pub pass: Option<Pass>,
    /// Ended passes, oldest first, and how many of their representations are still to be fetched.
    pub ended: VecDeque<(u64, usize)>,
    pub profile: Option<Profile>,
    /// Its thread ends before the memory that it writes to goes.
    pub loader: Loader,
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

    pub fn pass(&self, call: &'static str) -> Result<&Pass, CudaError> {
        let missing = "a pass that was begun";
        self.pass
            .as_ref()
            .ok_or(CudaError::OutOfOrder { call, missing })
    }

    pub fn compute(&self) -> &Stream {
        self.processor.compute()
    }

    /// The address of a part of the pass's input.
    pub fn input(&self, part: &Range<usize>) -> Result<u64, CudaError> {
        Ok(self.processor.input()?.address() + part.start as u64)
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
            items: work.counts(),
            output: 0,
            taken: 0,
        });
        Ok(())
    }

    /// The stream is in order: a fence that it waited for once is behind all that follows.
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
        self.need(self.group_bytes.len() - 1)?;
        self.compute().synchronize()?;
        Ok(())
    }
}
