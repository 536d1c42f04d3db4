//! A model on the devices that were asked for.

use std::sync::Arc;

use super::options::{self, Device};
use super::{Console, Failure};
use crate::backend;
use crate::backend::cpu::Cpu;
use crate::backend::cuda::driver::{Context, DriverError};
use crate::backend::cuda::gemm::Algorithms;
use crate::backend::cuda::{self, Cuda, CudaError, CudaOptions};
use crate::model::{Embedder, Fleet, Model, Request};
use crate::stream::{StreamManager, StreamOptions};
use crate::weights::{Checkpoint, DType};

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
}

/// What, besides the model, decides the bits of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// "cpu" or "cuda".
    pub device: &'static str,
    /// SIMD instructions, or the chip.
    pub simd: String,
    /// "f32", "f16" or "bf16".
    pub dtype: &'static str,
    /// The algorithms of the products on CUDA, and the attention kernels: `Cuda::fingerprint`.
    pub gemm: Option<String>,
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
    /// Threads that tokenise.
    pub tokenising: usize,
    /// For the log: threads or devices.
    pub place: String,
}

/// Puts the model on its devices. On CUDA its weights may still be on their way when this returns.
pub fn load(device: &Device, checkpoint: &Checkpoint, job: &Job) -> Result<Engine, Failure> {
    match device {
        Device::Cpu => on_cpu(checkpoint, job),
        Device::Cuda {
            devices,
            dtype,
            overlap,
        } => {
            let models = on_cuda(devices, *dtype, *overlap, checkpoint, job)?;
            fleet(models, *dtype, job)
        }
    }
}

fn on_cpu(checkpoint: &Checkpoint, job: &Job) -> Result<Engine, Failure> {
    let cpu = Cpu::new(job.threads)?;
    let model = Model::load(cpu, checkpoint.config(), checkpoint)?;
    let token_budget = job
        .token_budget
        .unwrap_or_else(|| options::default_budget(job.threads));
    Ok(Engine {
        embedder: Box::new(model),
        identity: Identity {
            device: "cpu",
            simd: backend::simd_name().into(),
            dtype: "f32",
            gemm: None,
        },
        token_budget,
        first_batches: 0,
        first_budget: token_budget,
        room: usize::MAX,
        tokenising: 1,
        place: format!("{} threads, SIMD {}", job.threads, backend::simd_name()),
    })
}

/// The model on each of these devices, with streams and algorithms that they share.
pub fn on_cuda(
    devices: &[u32],
    dtype: DType,
    overlap: bool,
    checkpoint: &Checkpoint,
    job: &Job,
) -> Result<Vec<Model<Cuda>>, Failure> {
    let cuda = |e: CudaError| Failure::from(backend::BackendError::from(e));
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
    let algorithms = Arc::new(Algorithms::new(Algorithms::default_cache()));
    let options = CudaOptions {
        dtype,
        tokens: job.token_budget,
        longest: job.longest,
        representations: job.request.layers.len(),
        pooled: job.request.pool.is_some(),
        states: job.request.per_token,
        overlap,
    };
    let load = |context: &Context| {
        let backend = Cuda::new(
            Arc::clone(&manager),
            context,
            Arc::clone(&algorithms),
            options,
        );
        let backend = backend.map_err(cuda)?;
        Ok(Model::load(backend, checkpoint.config(), checkpoint)?)
    };
    contexts.iter().map(load).collect()
}

fn fleet(models: Vec<Model<Cuda>>, dtype: DType, job: &Job) -> Result<Engine, Failure> {
    let chips: Vec<String> = models.iter().map(|m| chip(m.backend())).collect();
    if let Some(other) = chips.iter().find(|chip| **chip != chips[0]) {
        return Err(Failure::Usage {
            message: format!(
                "--device: {} and {other} would compute other bits, and a row's must not depend on where it was computed",
                chips[0]
            ),
            hint: Some("name devices of one kind, or divide the job: one --shard a kind".into()),
        });
    }
    let (Some(chip), Some(first)) = (chips.first(), models.first()) else {
        return Err(Failure::Other("no device".into()));
    };
    let identity = Identity {
        device: "cuda",
        simd: chip.clone(),
        dtype: dtype.name(),
        gemm: Some(first.backend().fingerprint()),
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
    let fleet = Fleet::new(models).ok_or_else(|| Failure::Other("no device".into()))?;
    Ok(Engine {
        embedder: Box::new(fleet),
        identity,
        token_budget: budget(job, multiprocessors, room),
        first_batches: ordinals.len(),
        first_budget: first_budget(job, multiprocessors, room),
        room,
        tokenising: options::tokenising(job.threads),
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

/// Says what was loaded, for `-v`.
pub fn describe(engine: &Engine, checkpoint: &Checkpoint, console: &Console) {
    let config = checkpoint.config();
    console.detail(&format!(
        "model: {} of {} layers, width {}, {} heads; {}, {}, {} tokens a batch",
        config.kind,
        config.layers,
        config.hidden,
        config.heads,
        engine.place,
        engine.identity.dtype,
        engine.token_budget,
    ));
}
