//! A path and some devices become something that embeds.
//!
//! | module | what it does |
//! |---|---|
//! | `session` | [`Session`]: a model with its tokenizer, ready for text |
//! | `open` | tells which alphabet and tokenizer a model needs |
//! | this file | puts the model on its devices: [`load`], [`on_cuda`] |
//! | `fleet` | several devices as one [`Embedder`] |
//! | `memory` | what the host's memory has room for |
//! | `error` | [`EngineError`] |

mod error;
mod fleet;
mod memory;
mod open;
mod session;

pub use error::EngineError;
pub use fleet::Fleet;
pub use memory::{HostMemory, fits, host_memory};
pub use open::{alphabet, tokenizer};
pub use session::{Embedding, Session};

use crate::backend;
use crate::backend::cpu::Cpu;
use crate::backend::cuda;
use crate::backend::cuda::{Cuda, CudaError, CudaOptions};
use crate::dtype::DType;
use crate::gpu::cublaslt::Algorithms;
use crate::gpu::driver::{Context, DriverError};
use crate::gpu::stream::{StreamManager, StreamOptions};
use crate::model::{Embedder, Model, Request};
use crate::output::JobSpec;
use crate::weights::Checkpoint;
use std::sync::Arc;

/// Where to compute, and in which dtype.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// The host, in f32.
    Cpu,
    /// CUDA devices, by their numbers, at least one.
    Cuda {
        /// The numbers of the devices, as the driver counts them.
        devices: Vec<u32>,
        /// The dtype of activations and of the products' operands.
        dtype: DType,
        /// Whether streams overlap.
        overlap: bool,
    },
}

/// What is to be computed, as far as a device has to know it before.
#[derive(Debug, Clone)]
pub struct Job {
    pub request: Request,
    /// Tokens of a batch, if the user said so.
    pub token_budget: Option<usize>,
    /// Threads of the CPU.
    pub threads: usize,
    /// Tokens of the longest sequence, where it is known.
    pub longest: Option<usize>,
    /// The memory of the host that is left for computing, where that bounds it.
    pub memory: Option<HostMemory>,
    /// The algorithms of the products on CUDA, for all devices.
    pub algorithms: Arc<Algorithms>,
}

/// What, besides the model, decides the bits of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// "cpu" or "cuda".
    pub device: &'static str,
    /// SIMD instructions, or the chip.
    pub processor: String,
    /// "f32", "f16" or "bf16".
    pub dtype: &'static str,
    /// The algorithms of the products on CUDA.
    pub gemm_algorithms: Option<String>,
}

impl Identity {
    /// What a job on `device` has that goes on with the job `there`, as far as that is known before the model is
    /// loaded.
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

/// A model, ready to compute.
pub struct Engine {
    pub embedder: Box<dyn Embedder>,
    pub identity: Identity,
    /// Tokens of a batch.
    pub token_budget: usize,
    /// Batches at the start that may have more, one a device.
    pub first_batches: usize,
    /// Tokens of those.
    pub first_budget: usize,
    /// The longest sequence that there is room for.
    pub room: usize,
    /// Threads that tokenize.
    pub tokenizing: usize,
    /// For the log: threads or devices.
    pub place: String,
}

/// Puts the model on its devices. On CUDA its weights may still be on their way when this returns.
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
    let cpu = Cpu::new(job.threads)?;
    let model = Model::load(cpu, checkpoint.config(), checkpoint)?;
    let capacity = job.memory.map_or(u64::MAX, |m| m.tokens());
    let token_budget = job
        .token_budget
        .unwrap_or_else(|| default_budget(job.threads))
        .min(usize::try_from(capacity).unwrap_or(usize::MAX))
        .max(1);
    Ok(Engine {
        embedder: Box::new(model),
        identity: Identity {
            device: "cpu",
            processor: backend::simd_name().into(),
            dtype: "f32",
            gemm_algorithms: None,
        },
        token_budget,
        first_batches: 0,
        first_budget: token_budget,
        room: usize::MAX,
        tokenizing: 1,
        place: format!("{} threads, SIMD {}", job.threads, backend::simd_name()),
    })
}

/// The model on each of these devices, with streams and algorithms that they share.
pub fn on_cuda(
    (devices, dtype, overlap): (&[u32], DType, bool),
    checkpoint: &Checkpoint,
    job: &Job,
) -> Result<Vec<Model<Cuda>>, EngineError> {
    let cuda = |e: CudaError| EngineError::from(backend::BackendError::from(e));
    let contexts: Result<Vec<_>, DriverError> = devices.iter().map(|d| Context::new(*d)).collect();
    let contexts = contexts.map_err(|e| cuda(e.into()))?;
    let streams = StreamOptions {
        load: cuda::LOAD_STREAMS,
        overlap,
        ..StreamOptions::default()
    };
    let manager = StreamManager::new(streams.from_environment());
    let mut manager = manager.map_err(|e| cuda(e.into()))?;
    manager
        .create_streams(&contexts)
        .map_err(|e| cuda(e.into()))?;
    let manager = Arc::new(manager);
    let options = CudaOptions {
        dtype,
        tokens: job.token_budget,
        longest: job.longest,
        representations: job.request.layers.len(),
        pooled: job.request.pool.is_some(),
        states: job.request.per_token,
        overlap,
        upload_slot: None,
    };
    let load = |context: &Context| {
        let backend = Cuda::new(
            Arc::clone(&manager),
            context,
            Arc::clone(&job.algorithms),
            options,
        );
        let backend = backend.map_err(cuda)?;
        Ok(Model::load(backend, checkpoint.config(), checkpoint)?)
    };
    contexts.iter().map(load).collect()
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
    let room = models.iter().map(|m| m.limits().tokens).min().unwrap_or(0);
    let multiprocessors = first.backend().device().multiprocessors as usize;
    let fleet = Fleet::new(models).ok_or(EngineError::NoDevice)?;
    Ok(Engine {
        embedder: Box::new(fleet),
        identity,
        token_budget: budget(job, multiprocessors, room),
        first_batches: ordinals.len(),
        first_budget: first_budget(job, multiprocessors, room),
        room,
        tokenizing: tokenizing(job.threads),
        place,
    })
}

/// Tokens of a batch on CUDA: what was asked for, or what fills the device well, if there is room.
pub fn budget(job: &Job, multiprocessors: usize, room: usize) -> usize {
    let wanted = job.token_budget;
    wanted
        .unwrap_or_else(|| cuda::default_tokens(multiprocessors))
        .min(room)
}

/// Tokens of a device's first batch on CUDA.
pub fn first_budget(job: &Job, multiprocessors: usize, room: usize) -> usize {
    let wanted = job.token_budget;
    wanted
        .unwrap_or_else(|| cuda::first_tokens(multiprocessors))
        .min(room)
}

/// What decides bits about a device.
fn chip(backend: &Cuda) -> String {
    let info = backend.device();
    let (major, minor) = info.capability;
    format!("{} sm_{major}{minor}", info.name)
}

/// Enough rows that every thread has whole tiles of a GEMM, and no more activations than these rows need.
fn default_budget(threads: usize) -> usize {
    (threads * 512).clamp(4096, 32768)
}

/// How many of `threads` threads tokenize for devices: one thread makes some 3 million tokens per second of DNA, an
/// H100 computes 2 million, and the other threads load, copy and write.
fn tokenizing(threads: usize) -> usize {
    (threads / 4).clamp(1, 8)
}
