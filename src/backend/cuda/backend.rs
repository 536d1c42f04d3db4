//! The backend of a model on one CUDA device: begins passes, and fetches their results.
//!
//! A pass puts all its operations on streams and returns; the host waits only in
//! [`Backend::fetch`]. The input and the results of passes go through a ring of slots
//! ([`StreamProcessor`]).

use super::activations::{DeviceMatrix, PlacedActivations};
use super::attention::WorkList;
use super::builder::{Attention, Linear, Matrix, SLOTS};
use super::chains;
use super::error::CudaError;
use super::functions::{AttentionFunctions, Casts, Functions};
use super::fused::Fused;
use super::memory::Capacity;
use super::pass::CudaPass;
use super::plan::DevicePlan;
use super::slot::{InputLayout, floats};
use super::weights::{DeviceWeights, ParameterId};
use crate::backend::{Backend, BackendError, Limits, Output};
use crate::batch::{Budget, PackedBatch};
use crate::dtype::{Beyond, DType, HalfStates, Shelf, States};
use crate::gpu::cublaslt::{Gemm, GemmError, Product};
use crate::gpu::driver::{DeviceInfo, Region, Stream};
use crate::gpu::stream::{StreamError, StreamManager, StreamProcessor, Timeline};
use crate::trace::{Category, Trace, host};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// A representation that a pass will produce: the byte ranges of its parts in the results of the
/// pass.
#[derive(Debug)]
pub struct Pending {
    /// The number of the pass.
    pub(super) pass: u64,
    /// The means: f32, `[sequences, width]`; empty if not wanted.
    pub(super) pooled: Range<usize>,
    /// The states: f32 or, if the device rounds them, f16, `[rows, width]`; empty if not wanted.
    pub(super) states: Range<usize>,
    /// The states beyond the range of f16: u64, `[rows]`; empty if the states are f32.
    pub(super) beyond: Range<usize>,
    /// Flags of sequences with a state that is not finite: u32, `[sequences]`.
    pub(super) bad: Range<usize>,
}

/// The most batches whose states are in host memory: a batch is fetched while two wait for the
/// writer thread and one is written.
const BATCHES: usize = 4;

/// The host memory of states, which is used again.
pub(super) struct StatesMemory {
    floats: Shelf<f32>,
    halves: Shelf<u16>,
}

impl StatesMemory {
    /// Returns memory for the states of passes of so many representations with up to `values`
    /// values each. Nothing is allocated before it is needed.
    pub(super) fn new(representations: usize, values: usize) -> Self {
        let most = BATCHES * representations;
        Self {
            floats: Shelf::new(most, values),
            halves: Shelf::new(most, values),
        }
    }

    /// Copies the states of a representation out of the results of its pass.
    fn copy(&self, results: &[u8], pending: &Pending) -> States {
        let states = &results[pending.states.clone()];
        if pending.beyond.is_empty() {
            let states = states.as_chunks().0;
            let mut values = self.floats.take(states.len());
            values.extend(states.iter().map(|b| f32::from_le_bytes(*b)));
            return States::F32(values);
        }
        let states = states.as_chunks().0;
        let mut bits = self.halves.take(states.len());
        bits.extend(states.iter().map(|b| u16::from_le_bytes(*b)));
        let rows = results[pending.beyond.clone()].as_chunks().0;
        let width = states.len() / rows.len().max(1);
        let rows = rows.iter().map(|word| u64::from_le_bytes(*word));
        let beyond = rows.enumerate().filter(|(_, word)| *word != u64::MAX);
        let beyond = beyond.map(|(row, word)| Beyond {
            at: row * width + (word >> 32) as usize,
            value: f32::from_bits(word as u32),
        });
        States::F16(HalfStates {
            bits,
            beyond: beyond.collect(),
        })
    }
}

/// The CUDA backend on one device. Its weights are on the device or on their way to it.
pub struct Cuda {
    /// The manager of the streams, which live as long as the backend.
    pub(super) manager: Arc<StreamManager>,
    pub(super) info: DeviceInfo,
    /// The dtype of weights and activations.
    pub(super) dtype: DType,
    pub(super) gemm: Gemm,
    /// How much a pass may hold.
    pub(super) capacity: Capacity,
    /// How many tokens batches should have.
    pub(super) budget: Budget,
    /// How the memory was divided, and what is estimated.
    pub(super) plan: DevicePlan,
    /// Whether the device rounds states to f16.
    pub(super) half_states: bool,
    pub(super) memory: StatesMemory,
    /// The kernels that run between the GEMMs.
    pub(super) functions: Functions,
    /// The GEMMs with GELU in their epilogue, if the device has them.
    pub(super) fused: Option<Fused>,
    /// The attention kernels, by number.
    pub(super) attention: Vec<AttentionFunctions>,
    /// The GEMMs, by number.
    pub(super) gemms: Vec<Product>,
    /// The linear layers, in the order in which they were named.
    pub(super) linears: Vec<Linear>,
    /// The memory that GEMMs may use while they run.
    pub(super) workspace: Region,
    /// The matrices and tables.
    pub(super) activations: PlacedActivations,
    /// Whether the tables of rotations have been filled.
    pub(super) tables_filled: bool,
    /// The ring of slots, with the streams.
    pub(super) processor: StreamProcessor,
    /// The number of passes begun so far.
    pub(super) passes: u64,
    /// The numbers of the ended passes, oldest first, each with the number of its representations
    /// that are still to be fetched.
    pub(super) ended: VecDeque<(u64, usize)>,
    /// Times the operations, if there is a trace or a breakdown.
    pub(super) timeline: Option<Arc<Timeline>>,
    /// The weights, with the thread that loads them.
    pub(super) weights: DeviceWeights,
    /// The loader's kernels, which are kept until the end because unloading a module waits for the
    /// whole device.
    pub(super) _casts: Arc<Casts>,
}

impl Cuda {
    /// Gives a model its products, in the order in which the builder described them.
    pub(super) fn with(self, products: Vec<Product>) -> Self {
        Self {
            gemms: products,
            ..self
        }
    }

    /// Returns the manager of the streams that the backend works on.
    pub fn manager(&self) -> &Arc<StreamManager> {
        &self.manager
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
        self.attention.last().and_then(AttentionFunctions::bits)
    }

    /// Returns the file of the cuBLASLt that is used.
    pub fn library(&self) -> &'static str {
        self.gemm.library()
    }

    /// Returns the bytes that the parameters of each layer take on the device, in the order in
    /// which the layers arrive: the embedding, the model's layers, and the parameters that come
    /// after them, if there are any.
    pub fn layer_bytes(&self) -> &[usize] {
        self.weights.layer_bytes()
    }

    /// Returns how the memory was divided, and which layers are streamed.
    pub fn plan(&self) -> &DevicePlan {
        &self.plan
    }

    /// Waits until all weights have arrived (of streamed layers, as many as there are slots) and all
    /// queued work is done. This is for measuring.
    ///
    /// # Errors
    /// Returns [`CudaError`] if work on the device fails.
    pub fn settle(&mut self) -> Result<(), CudaError> {
        self.wait_for_weights(0)?;
        self.weights.settle(self.processor.compute())?;
        self.compute().synchronize()?;
        Ok(())
    }

    /// Ends the job with an error: drains its streams, so that their memory can be freed.
    pub(super) fn fail(&mut self, error: CudaError) -> CudaError {
        CudaError::Stream(match error {
            CudaError::Driver(e) | CudaError::Gemm(GemmError::Driver(e)) => self.processor.fail(e),
            CudaError::Gemm(e) => self.processor.end_job(StreamError::Product {
                text: e.to_string(),
                remedy: e.remedy(),
            }),
            error => return error,
        })
    }

    /// Returns the trace of the job, which is off if there is none.
    fn trace(&self) -> Trace {
        let timeline = self.processor.timeline();
        timeline.map_or(Trace::off(), |t| t.trace().clone())
    }

    /// Returns the stream that all kernels of a pass run on.
    pub(super) fn compute(&self) -> &Stream {
        self.processor.compute()
    }

    /// Returns the memory of a matrix.
    pub(super) fn matrix(&self, matrix: &Matrix) -> &DeviceMatrix {
        &self.activations.matrices[matrix.0]
    }
}

impl Backend for Cuda {
    type Matrix = Matrix;
    type Vector = ParameterId;
    type Linear = Linear;
    type Attention = Attention;
    type Pending = Pending;
    type Pass<'a> = CudaPass<'a>;

    fn class(&self, tokens: usize) -> usize {
        chains::class(self.dtype, tokens)
    }

    fn limits(&self) -> Limits {
        Limits {
            tokens: self.capacity.tokens,
            sequences: self.capacity.sequences,
            passes: SLOTS,
        }
    }

    fn budget(&self) -> Budget {
        self.budget
    }

    fn begin<'a>(
        &'a mut self,
        class: usize,
        batch: &'a PackedBatch,
        pooled: &'a [Range<usize>],
    ) -> Result<CudaPass<'a>, BackendError> {
        let heads = self.attention.first();
        let work = heads.map_or_else(WorkList::default, |heads| heads.work(batch.starts()));
        let positions = heads.is_some_and(|heads| heads.product().is_some());
        let input = InputLayout::new(batch, &work, positions);
        let number = self.passes;
        let trace = self.trace();
        let mut span = trace.span((host::COMPUTING, 0), "stage", Category::Stage);
        span.note(|args| {
            args.pass = Some(number);
            args.device = Some(self.info.ordinal);
            args.sequences = Some(batch.len() as u64);
            args.tokens = Some(batch.total() as u64);
            args.bytes = Some(input.bytes as u64);
        });
        input.write(self.processor.stage(number)?, batch, pooled, &work);
        drop(span);
        self.passes += 1;
        Ok(CudaPass {
            cuda: self,
            number,
            class,
            rows: batch.total(),
            sequences: batch.len(),
            squares: batch
                .starts()
                .windows(2)
                .map(|s| ((s[1] - s[0]) as u64).pow(2))
                .sum(),
            input,
            items: work.counts(),
            output: 0,
            taken: 0,
            layer: 0,
        })
    }

    fn fetch(&mut self, pending: Pending) -> Result<Output, BackendError> {
        let ticket = self.processor.wait()?;
        if let Some(timeline) = &self.timeline {
            timeline.read();
        }
        let of_oldest = |(pass, _): &&mut (u64, usize)| *pass == pending.pass;
        let oldest = self.ended.front_mut().filter(of_oldest);
        let Some((_, left)) = oldest.filter(|_| ticket.batch == pending.pass) else {
            let (asked, oldest) = (pending.pass, ticket.batch);
            return Err(CudaError::FetchOrder { asked, oldest }.into());
        };
        *left -= 1;
        let done = *left == 0;
        let results = self.processor.results()?;
        let mut made = Output {
            pooled: floats(&results[pending.pooled.clone()]),
            states: match pending.states.is_empty() {
                true => States::default(),
                false => self.memory.copy(results, &pending),
            },
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
}
