//! Opens a model and puts it on its devices, ready to embed.
//!
//! | module | what it does |
//! |---|---|
//! | `session` | [`Session`]: a model with its tokenizer, ready for text |
//! | `open` | tells which alphabet and tokenizer a model needs |
//! | this file | puts a model on its devices: [`load`], [`on_cuda`]; [`plan`] only says how |
//! | `fleet` | presents several devices as one [`Embedder`] |
//! | `worker` | runs the embedder of a device on a thread of its own |
//! | `memory` | computes how much of the host's memory sequences may use |
//! | `error` | [`EngineError`] |

mod error;
mod fleet;
mod memory;
mod open;
mod session;
mod worker;

pub use error::EngineError;
pub use fleet::Fleet;
pub use memory::{HostMemory, fits, host_memory};
pub use open::{alphabet, tokenizer};
pub use session::{Embedding, Session};

use crate::backend;
use crate::backend::cpu::Cpu;
use crate::backend::cuda;
use crate::backend::cuda::{Cuda, CudaBuilder, CudaError, CudaOptions, DevicePlan, WeightMode};
use crate::dtype::DType;
use crate::gpu::cublaslt::Algorithms;
use crate::gpu::driver::{Context, DriverError};
use crate::gpu::stream::{Loading, StreamManager, StreamOptions};
use crate::model::{Embedder, Model, Request, name_parts};
use crate::output::{JobSpec, OutputDtype};
use crate::trace::Trace;
use crate::weights::Checkpoint;
use serde::Serialize;
use std::fmt;
use std::sync::Arc;
use worker::Worker;

/// Where a model is computed, and in which dtype.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// The host computes, in f32.
    Cpu,
    /// CUDA devices compute.
    Cuda {
        /// The numbers of the devices, as the driver counts them; at least one.
        devices: Vec<u32>,
        /// The dtype of activations and of the operands of the linear layers.
        dtype: DType,
        /// Whether work on different streams may overlap.
        overlap: bool,
    },
}

/// The parts of a job that a device has to know in advance.
#[derive(Debug, Clone)]
pub struct Job {
    /// The representations that every sequence gets.
    pub request: Request,
    /// Tokens per batch, if the user set a number.
    pub token_budget: Option<usize>,
    /// Whether a device rounds the states of tokens to f16, which leaves less for the host to do.
    /// The CPU always gives f32.
    pub half_states: bool,
    /// Number of CPU threads.
    pub threads: usize,
    /// Number of tokens of the longest sequence, if it is known.
    pub longest: Option<usize>,
    /// The host memory that sequences may use, if it bounds the job.
    pub memory: Option<HostMemory>,
    /// The algorithms of the GEMMs on CUDA, for all devices.
    pub algorithms: Arc<Algorithms>,
    /// Where the weights stand on CUDA: on the device, or streamed to it.
    pub weights: WeightMode,
    /// How they get there; only studies have anything but the default.
    pub loading: Loading,
    /// The trace of the job, if there is one.
    pub trace: Trace,
}

/// What a job plans to do on its CUDA devices. On the CPU there is nothing to plan.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Plan {
    /// The plan of each device.
    pub devices: Vec<DevicePlan>,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.devices.iter().try_for_each(|device| device.fmt(f))
    }
}

/// The facts that, besides the model, decide the bits of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// "cpu" or "cuda".
    pub device: &'static str,
    /// The SIMD level of the CPU, or the chip of the CUDA devices.
    pub processor: String,
    /// "f32", "f16" or "bf16".
    pub dtype: &'static str,
    /// The algorithms of the GEMMs on CUDA; `None` on the CPU.
    pub gemm_algorithms: Option<String>,
}

impl Identity {
    /// The identity of a job on `device` that resumes the job `there`, as far as it is known before
    /// the model is loaded. The processor and the GEMM algorithms are those of `there`.
    pub fn of_job(there: &JobSpec, device: &Device) -> Self {
        let (device, dtype) = match device {
            Device::Cpu => ("cpu", DType::F32),
            Device::Cuda { dtype, .. } => ("cuda", *dtype),
        };
        Self {
            device,
            processor: there.processor.clone(),
            dtype: dtype.name(),
            gemm_algorithms: there.gemm_algorithms.clone(),
        }
    }
}

/// A model that is ready to compute, and the sizes that its caller has to respect.
pub struct Engine {
    /// The model on its devices. It says how many tokens a batch should have
    /// ([`Embedder::budget`]).
    pub embedder: Box<dyn Embedder>,
    /// The facts that decide the bits of its results.
    pub identity: Identity,
    /// The most tokens that a sequence may have.
    pub capacity: usize,
    /// Number of threads that tokenize.
    pub tokenizing: usize,
    /// Number of threads that encode, hash and write the states of tokens.
    pub writing: usize,
    /// Where the model runs, in words for the log: the threads or the devices.
    pub place: String,
    /// How the memory of the CUDA devices is divided.
    pub plan: Plan,
    /// The streams of the CUDA devices; `None` on the CPU.
    pub streams: Option<Arc<StreamManager>>,
}

impl Engine {
    /// Returns an upper bound of the memory of the host that holds the states of tokens at a time,
    /// if no sequence is longer than a batch.
    pub fn states_bytes(&self, request: &Request, dtype: OutputDtype) -> u64 {
        /// One batch is fetched, two wait for the writer thread, and one is written.
        const BATCHES: u64 = 4;
        let budget = self.embedder.budget();
        let tokens = budget.tokens.max(match budget.first_batches {
            0 => 0,
            _ => budget.first_tokens,
        });
        // Each device has a first batch of its own.
        let slots = (budget.first_batches.max(1) * cuda::SLOTS) as u64;
        let (size, pinned) = match (self.identity.device, dtype) {
            ("cpu", _) => (4, 0),
            (_, OutputDtype::F16) => (2, slots),
            (_, OutputDtype::F32) => (4, slots),
        };
        let values = tokens * self.embedder.config().hidden * request.layers.len();
        values as u64 * size * (BATCHES + pinned)
    }
}

/// Puts the model on its devices. On CUDA, its weights may still be on their way when this returns.
///
/// # Errors
/// [`EngineError`] if a device cannot be used, the devices are of different kinds, or the model
/// cannot be loaded.
pub fn load(device: &Device, checkpoint: &Checkpoint, job: &Job) -> Result<Engine, EngineError> {
    match device {
        Device::Cpu => on_cpu(checkpoint, job),
        Device::Cuda {
            devices,
            dtype,
            overlap,
        } => {
            let on = (devices.as_slice(), *dtype, *overlap);
            let models = on_cuda(on, checkpoint, job)?;
            fleet(models, *dtype, job)
        }
    }
}

fn on_cpu(checkpoint: &Checkpoint, job: &Job) -> Result<Engine, EngineError> {
    let capacity = job.memory.map_or(u64::MAX, |m| m.tokens());
    let capacity = usize::try_from(capacity).unwrap_or(usize::MAX);
    let cpu = Cpu::new(job.threads)?.with_budget(job.token_budget, capacity);
    let cpu = cpu.traced(job.trace.clone());
    let model = Model::load(cpu, checkpoint.config(), checkpoint)?;
    Ok(Engine {
        embedder: Box::new(model),
        identity: Identity {
            device: "cpu",
            processor: backend::simd_name().into(),
            dtype: "f32",
            gemm_algorithms: None,
        },
        capacity: usize::MAX,
        tokenizing: 1,
        writing: 1,
        place: format!("{} threads, SIMD {}", job.threads, backend::simd_name()),
        plan: Plan::default(),
        streams: None,
    })
}

/// Says how a job would divide the memory of its CUDA devices, without taking any of it.
///
/// # Errors
/// [`EngineError`] if a device cannot be used, or the model does not fit.
pub fn plan(device: &Device, checkpoint: &Checkpoint, job: &Job) -> Result<Plan, EngineError> {
    let Device::Cuda {
        devices,
        dtype,
        overlap,
    } = device
    else {
        return Ok(Plan::default());
    };
    let on = (devices.as_slice(), *dtype, *overlap);
    let devices = each_builder(on, job, |mut builder| {
        name_parts(&mut builder, checkpoint.config(), checkpoint)?;
        builder.plan().map_err(failed)
    });
    Ok(Plan { devices: devices? })
}

/// Puts the model on each of these CUDA devices, which share a stream manager and the GEMM
/// algorithms. Returns the models in the order of the devices.
///
/// # Errors
/// [`EngineError`] if a device cannot be used, or the model cannot be loaded.
pub fn on_cuda(
    on: (&[u32], DType, bool),
    checkpoint: &Checkpoint,
    job: &Job,
) -> Result<Vec<Model<Cuda>>, EngineError> {
    each_builder(on, job, |builder| {
        Ok(Model::load(builder, checkpoint.config(), checkpoint)?)
    })
}

fn failed(error: CudaError) -> EngineError {
    backend::BackendError::from(error).into()
}

/// Makes the builder of each device, one after the other, and calls `with` with it.
fn each_builder<T>(
    (devices, dtype, overlap): (&[u32], DType, bool),
    job: &Job,
    with: impl Fn(CudaBuilder) -> Result<T, EngineError>,
) -> Result<Vec<T>, EngineError> {
    let contexts: Result<Vec<_>, DriverError> = devices.iter().map(|d| Context::new(*d)).collect();
    let contexts = contexts.map_err(|e| failed(e.into()))?;
    let streams = StreamOptions {
        load: cuda::LOAD_STREAMS,
        overlap,
        trace: job.trace.clone(),
        ..StreamOptions::default()
    };
    let manager = StreamManager::new(streams.from_environment());
    let mut manager = manager.map_err(|e| failed(e.into()))?;
    manager
        .create_streams(&contexts)
        .map_err(|e| failed(e.into()))?;
    let manager = Arc::new(manager);
    let options = CudaOptions {
        dtype,
        tokens: job.token_budget,
        longest: job.longest,
        representations: job.request.layers.len(),
        poolings: job.request.pools.len(),
        states: job.request.per_token,
        half_states: job.half_states,
        upload_slot: None,
        weights: job.weights,
        loading: job.loading,
        deepest: job.request.layers.iter().copied().max(),
    };
    let one = |context: &Context| {
        let builder = CudaBuilder::new(
            Arc::clone(&manager),
            context,
            Arc::clone(&job.algorithms),
            options,
        );
        with(builder.map_err(failed)?)
    };
    contexts.iter().map(one).collect()
}

fn fleet(models: Vec<Model<Cuda>>, dtype: DType, job: &Job) -> Result<Engine, EngineError> {
    let chips: Vec<String> = models.iter().map(|m| chip(m.backend())).collect();
    if let Some(other) = chips.iter().find(|chip| **chip != chips[0]) {
        return Err(EngineError::MixedDevices {
            first: chips[0].clone(),
            other: other.clone(),
        });
    }
    let (Some(chip), Some(first)) = (chips.first(), models.first()) else {
        return Err(EngineError::NoDevice);
    };
    let identity = Identity {
        device: "cuda",
        processor: chip.clone(),
        dtype: dtype.name(),
        gemm_algorithms: Some(first.backend().fingerprint()),
    };
    let ordinals: Vec<String> = models
        .iter()
        .map(|m| m.backend().device().ordinal.to_string())
        .collect();
    let place = format!(
        "CUDA device {} ({chip}), {}",
        ordinals.join(", "),
        first.backend().library()
    );
    let plans = models.iter().map(|m| m.backend().plan().clone());
    let plan = Plan {
        devices: plans.collect(),
    };
    let streams = Arc::clone(first.backend().manager());
    let tokens = models.iter().map(|m| m.limits().tokens);
    let capacity = tokens.min().unwrap_or(0);
    let streamed = plan.devices.iter().any(|device| device.streamed);
    let embedder: Box<dyn Embedder> = if streamed && models.len() > 1 {
        let workers = models.into_iter().map(Worker::start);
        let fleet = Fleet::new(workers.collect::<Result<_, _>>()?);
        Box::new(fleet.ok_or(EngineError::NoDevice)?)
    } else {
        Box::new(Fleet::new(models).ok_or(EngineError::NoDevice)?)
    };
    Ok(Engine {
        embedder,
        identity,
        capacity,
        tokenizing: tokenizing(job.threads),
        writing: writing(job.threads),
        place,
        plan,
        streams: Some(streams),
    })
}

/// The facts about a device that decide the bits of a result: its name, its compute capability, and
/// the attention kernels where they give other bits than those of earlier versions.
pub fn chip(backend: &Cuda) -> String {
    let info = backend.device();
    let (major, minor) = info.capability;
    let kernels = backend.attention_bits();
    let kernels = kernels.map_or(String::new(), |kernels| format!(", {kernels}"));
    format!("{} sm_{major}{minor}{kernels}", info.name)
}

/// The number of threads, out of `threads`, that tokenize for CUDA devices. One thread makes some 3
/// million tokens of DNA per second, and an H100 computes 2 million tokens per second; the other
/// threads load, copy and write.
fn tokenizing(threads: usize) -> usize {
    (threads / 4).clamp(1, 8)
}

/// The number of threads, out of `threads`, that encode, hash and write states for CUDA devices.
fn writing(threads: usize) -> usize {
    (threads / 2).clamp(1, 8)
}
