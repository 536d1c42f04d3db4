//! Models on CUDA devices, for tests.

use std::sync::Arc;

use super::real::{absent, wants_real};
use super::{Simulator, simulator};
use seqstream::architecture::{ModelConfig, ModelKind};
use seqstream::backend::cuda::{Cuda, CudaBuilder, CudaOptions, LOAD_STREAMS, WeightMode, kernels};
use seqstream::dtype::DType;
use seqstream::engine::Fleet;
use seqstream::gpu::cublaslt::Algorithms;
use seqstream::gpu::driver::{Context, devices};
use seqstream::model::Model;
use seqstream::stream::{StreamManager, StreamOptions};
use seqstream::weights::Checkpoint;
use seqstream::weights::random::{RandomSpec, write_random};

/// Devices: simulated, or all real ones. One test at a time holds them.
pub struct Devices {
    pub contexts: Vec<Context>,
    pub simulator: Option<Simulator>,
}

impl Devices {
    /// Returns `count` simulated devices under this schedule, or the real ones. Returns `None`,
    /// with a message, if there are none.
    ///
    /// # Panics If REQUIRE_GPU=1 and there is no real device.
    pub fn take(count: u32, seed: u64) -> Option<Self> {
        if kernels::FATBINS.is_empty() {
            absent("this build has no kernels (no nvcc)");
            return None;
        }
        if wants_real() {
            return match devices() {
                Ok(there) => Some(Self {
                    contexts: there
                        .iter()
                        .map(|d| Context::new(d.ordinal).unwrap())
                        .collect(),
                    simulator: None,
                }),
                Err(error) => {
                    absent(&format!("there is no GPU here: {error}"));
                    None
                }
            };
        }
        let simulator = simulator(count, seed);
        // SAFETY: this test alone holds the simulator, and nothing else here reads the environment
        // meanwhile.
        unsafe { std::env::set_var("SEQSTREAM_LIBCUBLASLT", super::library()) };
        Some(Self {
            contexts: (0..count).map(|d| Context::new(d).unwrap()).collect(),
            simulator: Some(simulator),
        })
    }

    /// Sets the compute capability of simulated devices, 80, 89 or 90, until it is set again, for
    /// other tests too: other tests expect 90. Real devices do not change.
    pub fn set_architecture(&self, architecture: u32) {
        if let Some(simulator) = &self.simulator {
            simulator.call::<extern "C" fn(u32)>("seqstream_sim_set_architecture")(architecture);
        }
    }
}

/// A model on all the devices.
pub struct Built {
    pub model: Fleet<Model<Cuda>>,
    pub manager: Arc<StreamManager>,
}

/// Returns options for the means of one representation.
pub fn options(dtype: DType) -> CudaOptions {
    CudaOptions {
        dtype,
        tokens: Some(2048),
        longest: None,
        representations: 1,
        poolings: 1,
        states: false,
        half_states: false,
        upload_slot: None,
        weights: WeightMode::Resident,
        loading: Default::default(),
        deepest: None,
    }
}

/// Puts a model on the devices; algorithms are chosen anew and not kept.
pub fn build(devices: &Devices, checkpoint: &Checkpoint, options: CudaOptions) -> Built {
    build_on_streams(true, devices, checkpoint, options)
}

/// Returns a builder for the first device.
pub fn builder(devices: &Devices, options: CudaOptions) -> CudaBuilder {
    let manager = streams(true, devices);
    let algorithms = Arc::new(Algorithms::new(None));
    CudaBuilder::new(manager, &devices.contexts[0], algorithms, options).unwrap()
}

fn streams(overlap: bool, devices: &Devices) -> Arc<StreamManager> {
    let mut manager = StreamManager::new(StreamOptions {
        load: LOAD_STREAMS,
        overlap,
        log: Some(1 << 14),
        ..StreamOptions::default()
    })
    .unwrap();
    manager.create_streams(&devices.contexts).unwrap();
    Arc::new(manager)
}

/// Does the same as [`build`], on streams that overlap, or on one stream that does everything.
pub fn build_on_streams(
    overlap: bool,
    devices: &Devices,
    checkpoint: &Checkpoint,
    options: CudaOptions,
) -> Built {
    let manager = streams(overlap, devices);
    let algorithms = Arc::new(Algorithms::new(None));
    let one = |context: &Context| {
        let (manager, algorithms) = (Arc::clone(&manager), Arc::clone(&algorithms));
        let builder = CudaBuilder::new(manager, context, algorithms, options).unwrap();
        Model::load(builder, checkpoint.config(), checkpoint).unwrap()
    };
    let models = devices.contexts.iter().map(one).collect();
    Built {
        model: Fleet::new(models).unwrap(),
        manager,
    }
}

/// Returns a random ESM-2.
pub fn random(layers: usize, hidden: usize, heads: usize, intermediate: usize) -> Checkpoint {
    random_of(config(layers, hidden, heads, intermediate))
}

fn config(layers: usize, hidden: usize, heads: usize, intermediate: usize) -> ModelConfig {
    ModelConfig {
        kind: ModelKind::Esm2,
        layers,
        hidden,
        heads,
        intermediate,
        vocab: 33,
        layer_norm_eps: 1e-5,
        token_dropout: true,
        mask_token: 32,
    }
}

/// Returns a random model of these sizes.
pub fn random_of(config: ModelConfig) -> Checkpoint {
    let dir = tempfile::tempdir().unwrap();
    write_random(&RandomSpec::from(config), 7, DType::F32, dir.path()).unwrap();
    // The checkpoint keeps its files mapped, so the folder may be removed.
    Checkpoint::open(dir.path()).unwrap()
}

/// Returns a random ESM-2 whose first layer's `intermediate.dense` makes values beyond the range of
/// f16, but within the range of bf16 and f32.
pub fn overflowing() -> Checkpoint {
    let large = |name: &str| name.ends_with("layer.0.intermediate.dense.weight");
    rewritten(DType::F32, |name, x| if large(name) { 1e6 * x } else { x })
}

/// Returns a random ESM-2 with values that both f16 and bf16 can hold, stored in this format.
pub fn stored_in(dtype: DType) -> Checkpoint {
    const SMALLEST: f32 = 1.0 / 16384.0; // the smallest f16 value that has all its bits
    rewritten(dtype, |_, x| {
        let short = half::bf16::from_f32(x).to_f32();
        if short.abs() < SMALLEST { 0.0 } else { short }
    })
}

/// Returns a random ESM-2, each value changed and stored in this format, except the rotary
/// frequencies.
fn rewritten(dtype: DType, change: impl Fn(&str, f32) -> f32) -> Checkpoint {
    let dir = tempfile::tempdir().unwrap();
    let spec = RandomSpec::from(config(2, 48, 3, 96));
    write_random(&spec, 7, DType::F32, dir.path()).unwrap();
    let path = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut changed = Vec::new();
    for (name, view) in tensors.tensors() {
        let (mut values, mut data) = (Vec::new(), Vec::new());
        DType::F32.decode(view.data(), &mut values);
        let stored = match name.ends_with("inv_freq") {
            true => DType::F32,
            false => {
                values.iter_mut().for_each(|x| *x = change(&name, *x));
                dtype
            }
        };
        stored.encode(&values, &mut data);
        changed.push((name, stored, view.shape().to_vec(), data));
    }
    let views = changed.iter().map(|(name, stored, shape, data)| {
        let dtype = match stored {
            DType::F32 => safetensors::Dtype::F32,
            DType::F16 => safetensors::Dtype::F16,
            DType::Bf16 => safetensors::Dtype::BF16,
        };
        let view = safetensors::tensor::TensorView::new(dtype, shape.clone(), data).unwrap();
        (name.clone(), view)
    });
    let out = safetensors::serialize(views, None).unwrap();
    std::fs::write(&path, out).unwrap();
    Checkpoint::open(dir.path()).unwrap()
}
