//! Predicts what a job takes on a machine that a file describes: the engine itself runs, on the
//! simulated driver in virtual time, and nothing is computed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::bench::{BenchReport, WorkloadReport, failed, one, round_by};
use super::cold::{ColdRound, ColdStart};
use super::overlap::{OverlapOptions, OverlapReport, Setting};
use super::{Workload, median};
use crate::architecture::{ModelConfig, ModelKind};
use crate::backend::cuda::costs;
use crate::batch::PackedBatch;
use crate::dtype::DType;
use crate::engine::{self, Device, EngineError, Job};
use crate::gpu::cublaslt::Algorithms;
use crate::gpu::driver::{self, DriverError};
use crate::gpu::simulator::{Simulator, SimulatorError};
use crate::model::Embedder;
use crate::remedy::{Action, Remedy};
use crate::untrusted::file;
use crate::weights::{Checkpoint, WeightsError};

/// The longest machine file that is read, in bytes.
const LONGEST_FILE: u64 = 1 << 20;

/// The seconds of virtual time between a cold start and what was computed before. To set up a model
/// takes about as long in fact, and the clock of the device recovers meanwhile.
const REST: f64 = 5.0;

/// Why there is nothing to simulate.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    /// The machine file cannot be read.
    #[error("cannot read the machine file {}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// The machine file has a mistake.
    #[error("{}: {what}", path.display())]
    Machine {
        /// The file.
        path: PathBuf,
        /// The line, the key, and what is wrong there.
        what: String,
    },
    /// The machine file lacks the rates of some kernels of the model.
    #[error("{}: rates: the model needs {}, which the file does not have", path.display(), rates.join(", "))]
    Rates {
        /// The file.
        path: PathBuf,
        /// The names of the rates.
        rates: Vec<String>,
    },
    /// There is no simulated driver.
    #[error(transparent)]
    Simulator(#[from] SimulatorError),
    /// The model without values cannot be made.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The simulated driver fails.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The engine fails on the simulated machine.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl SimulateError {
    /// Returns what the user can do about it.
    pub fn remedy(&self) -> Option<Remedy> {
        match self {
            Self::Read { .. } => {
                Some("give a machine file; the folder machines/ of the source has some".into())
            }
            Self::Machine { .. } => Some(
                "correct the file at that place; cuda-sim/README.md explains every key".into(),
            ),
            Self::Rates { .. } => Some(
                "add a section [rates.NAME] with size, burst and sustained for each of these".into(),
            ),
            Self::Simulator(SimulatorError::Missing { .. }) => Some(
                "build the package seqstream-cuda-sim in the source folder, in the same profile as the program, or name the library in SEQSTREAM_LIBCUDA".into(),
            ),
            Self::Simulator(SimulatorError::Library { .. }) => {
                Some("build program and library from the same source".into())
            }
            Self::Weights(e) => e.remedy(),
            Self::Driver(_) => Some(Action::ReportDefect.into()),
            Self::Engine(e) => e.remedy(),
        }
    }
}

/// How to simulate.
#[derive(Debug, Clone)]
pub struct SimulateOptions {
    /// The number format of the computation, and of the model's weights.
    pub dtype: DType,
    /// Whether work on different streams may overlap.
    pub overlap: bool,
    /// The number of devices; by default all of the machine's.
    pub devices: Option<usize>,
    /// The simulated driver's library; by default that of `SEQSTREAM_LIBCUDA`, or the one beside the
    /// program.
    pub library: Option<PathBuf>,
}

impl Default for SimulateOptions {
    /// f16 with overlap, on all devices.
    fn default() -> Self {
        Self {
            dtype: DType::F16,
            overlap: true,
            devices: None,
            library: None,
        }
    }
}

/// A machine in virtual time, and a model without values for it.
#[derive(Debug)]
pub struct Simulation {
    /// The simulated driver: it has the clock.
    pub simulator: Simulator,
    /// The devices of the machine that are used.
    pub device: Device,
    /// The model. It has shapes, and no values.
    pub checkpoint: Checkpoint,
    /// The name of the machine.
    pub machine: String,
}

/// Sets the machine of a machine file, at virtual time 0, and makes a model of this architecture.
/// From now on all calls of the driver in this process go to the simulated one. No other
/// simulation may be in use.
///
/// # Errors
/// [`SimulateError`] if the file cannot be used for this model, or there is no simulated driver.
pub fn open(
    machine: &Path,
    architecture: &ModelConfig,
    options: &SimulateOptions,
) -> Result<Simulation, SimulateError> {
    let unreadable = |reason: String| SimulateError::Read {
        path: machine.to_owned(),
        reason,
    };
    let bytes = file::read(machine, LONGEST_FILE).map_err(|e| unreadable(e.to_string()))?;
    let bytes = bytes.map_err(|n| unreadable(format!("{n} bytes are too many for such a file")))?;
    let text = String::from_utf8(bytes).map_err(|_| unreadable("it is not UTF-8".into()))?;
    let simulator = Simulator::open(options.library.as_deref())?;
    let set = simulator.set_machine(&text, &costs::RATES, costs::cost, false);
    set.map_err(|what| SimulateError::Machine {
        path: machine.to_owned(),
        what,
    })?;
    let devices = driver::devices()?;
    let capability = devices.first().map_or((0, 0), |device| device.capability);
    let dnabert = architecture.kind == ModelKind::Dnabert;
    let head_dim = architecture.head_dim();
    let shape = (architecture.heads, head_dim, !dnabert, dnabert);
    let mut rates: Vec<String> = costs::needed(shape, options.dtype, capability)
        .into_iter()
        .filter(|rate| !simulator.has_rate(rate))
        .map(|rate| rate.to_string_lossy().into_owned())
        .collect();
    rates.dedup();
    if !rates.is_empty() {
        let path = machine.to_owned();
        return Err(SimulateError::Rates { path, rates });
    }
    let count = options.devices.unwrap_or(devices.len()).min(devices.len());
    Ok(Simulation {
        machine: simulator.machine_name(),
        simulator,
        device: Device::Cuda {
            devices: devices.iter().take(count).map(|d| d.ordinal).collect(),
            dtype: options.dtype,
            overlap: options.overlap,
        },
        checkpoint: Checkpoint::hollow(architecture, options.dtype)?,
    })
}

/// Predicts the speed of the model on each workload: rounds as [`bench`](super::bench()) measures
/// them, after one that warms the devices up, by the virtual clock of the host.
///
/// # Errors
/// [`SimulateError::Engine`] if the model does not fit on the machine, or a launch has no cost.
pub fn predict(
    simulation: &Simulation,
    job: &Job,
    workloads: &[Workload],
    rounds: usize,
) -> Result<BenchReport, SimulateError> {
    let config = simulation.checkpoint.config();
    let mut engine = engine::load(&simulation.device, &simulation.checkpoint, job)?;
    let budget = engine.embedder.budget().tokens;
    let mut report = BenchReport {
        model: format!("{} {}x{}", config.kind, config.layers, config.hidden),
        place: format!(
            "simulated {}: {} {}",
            simulation.machine, engine.place, engine.identity.dtype
        ),
        simd: crate::backend::simd_name().into(),
        token_budget: budget,
        plan: engine.plan.devices.clone(),
        ..BenchReport::default()
    };
    for workload in workloads {
        let batches = workload.pack(budget);
        let tokens: usize = batches.iter().map(PackedBatch::total).sum();
        let mut round = || {
            let clock = || simulation.simulator.now();
            round_by(&mut *engine.embedder, &batches, job, &clock)
        };
        round()?;
        let rates: Result<Vec<f64>, EngineError> =
            (0..rounds).map(|_| Ok(tokens as f64 / round()?)).collect();
        let rates = rates?;
        report.workloads.push(WorkloadReport {
            workload: workload.name.clone(),
            tokens,
            batches: batches.len(),
            tokens_per_second: median(rates.iter().copied()),
            rounds: rates,
            power: None,
            products: None,
            operations: Vec::new(),
        });
    }
    Ok(report)
}

/// Predicts a cold start on one device: how much of the loading of the weights is hidden behind the
/// first batch, as `bench --cold` measures it.
///
/// # Errors
/// As for [`predict`].
pub fn cold(
    simulation: &Simulation,
    job: &Job,
    workload: &Workload,
) -> Result<ColdStart, SimulateError> {
    let Device::Cuda {
        devices,
        dtype,
        overlap,
    } = &simulation.device
    else {
        return Err(EngineError::NoDevice.into());
    };
    let first = devices.get(..1).ok_or(EngineError::NoDevice)?;
    let on = (first, *dtype, *overlap);
    let checkpoint = &simulation.checkpoint;
    let clock = || simulation.simulator.now();
    // The first model chooses the algorithms.
    drop(one(on, checkpoint, job)?);
    simulation.simulator.host_work(REST);
    let mut model = one(on, checkpoint, job)?;
    let start = clock();
    model.backend_mut().settle().map_err(failed)?;
    let loading = clock() - start;
    let layer_bytes = model.backend().layer_bytes().to_vec();
    let mut batches = workload.pack(model.budget().first_tokens);
    batches.truncate(1);
    let computing = round_by(&mut model, &batches, job, &clock)?;
    drop(model);
    simulation.simulator.host_work(REST);
    let mut model = one(on, checkpoint, job)?;
    let together = round_by(&mut model, &batches, job, &clock)?;
    let layers = checkpoint.config().layers;
    let round = ColdRound::new(loading, computing, together, &layer_bytes, layers);
    Ok(ColdStart {
        medians: round,
        workload: format!("{}, one batch", workload.name),
        layer_bytes,
        // Virtual time has no noise.
        rounds: vec![round],
    })
}

/// Predicts a study of overlap on the first device.
///
/// # Errors
/// As for [`predict`].
pub fn overlap(
    simulation: &Simulation,
    lengths: &[usize],
    threads: usize,
    note: &mut dyn FnMut(&Setting),
) -> Result<OverlapReport, SimulateError> {
    let Device::Cuda { devices, dtype, .. } = &simulation.device else {
        return Err(EngineError::NoDevice.into());
    };
    let options = OverlapOptions {
        device: *devices.first().ok_or(EngineError::NoDevice)?,
        dtype: *dtype,
        lengths,
        // Virtual time has no noise.
        rounds: 1,
        threads,
        // For another bus, the machine file is changed.
        buses: &[],
        // A choice of the simulated library is of no use to a later job.
        algorithms: Arc::new(Algorithms::new(None)),
        clock: &|| simulation.simulator.now(),
    };
    let mut report = super::overlap::overlap(&simulation.checkpoint, &options, note)?;
    report.place = format!("simulated {}: {}", simulation.machine, report.place);
    Ok(report)
}
