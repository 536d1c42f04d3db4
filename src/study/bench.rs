//! Measures the speed of a model, also compared with its matrix products alone.

use std::fmt;
use std::time::Instant;

use indicatif::HumanCount;
use serde::{Deserialize, Serialize};

use super::ceilings::{Ceilings, ceilings};
use super::cold::{ColdStart, cold};
use super::compare::Comparison;
use super::operations::{OperationReport, operations};
use super::power::{Meter, PowerReport};
use super::{Workload, median};
use crate::backend::cuda::{Cuda, CudaError, DevicePlan};
use crate::backend::{self, BackendError};
use crate::batch::PackedBatch;
use crate::dtype::DType;
use crate::engine::{self, Device, Engine, EngineError, Job, Plan};
use crate::gpu::cublaslt::GemmError;
use crate::model::{Embedder, Model};
use crate::trace::{Event, Trace, host};
use crate::weights::Checkpoint;

/// What to measure, besides the workloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BenchOptions {
    /// The number of timed rounds, after one that is not timed.
    pub rounds: usize,
    /// Whether to time each operation, on the CPU or a single CUDA device. On the latter, what it can do
    /// at most is measured, too.
    pub breakdown: bool,
    /// Whether to measure cold starts, on a single CUDA device.
    pub cold: bool,
}

/// The most intervals of a breakdown on the CPU.
const EVENTS: usize = 1 << 22;

impl Default for BenchOptions {
    /// Returns the options of five rounds, and of nothing else.
    fn default() -> Self {
        Self {
            rounds: 5,
            breakdown: false,
            cold: false,
        }
    }
}

/// What a measurement says of itself while it runs.
pub enum Note<'a> {
    /// The model stands on its devices.
    Loaded(&'a Engine),
    /// The memory of the single CUDA device is divided in this way.
    Planned(&'a Plan),
    /// A workload is measured now.
    Measuring {
        /// The name of the workload.
        workload: &'a str,
        /// The number of batches.
        batches: usize,
        /// The most tokens of a batch.
        budget: usize,
    },
}

/// The speed of a model on the devices of this machine.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct BenchReport {
    /// The kind and the sizes of the model.
    pub model: String,
    /// The devices, and the dtype.
    pub place: String,
    /// The SIMD level of the processor.
    pub simd: String,
    /// The most tokens of a batch.
    pub token_budget: usize,
    /// The workloads, in the order in which they were given.
    pub workloads: Vec<WorkloadReport>,
    /// How the memory of the CUDA devices was divided.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub plan: Vec<DevicePlan>,
    /// What the device can do at most, if the operations were timed on a single CUDA device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ceilings: Option<Ceilings>,
    /// The cold starts, if they were measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cold_start: Option<ColdStart>,
    /// What changed since an earlier report, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Comparison>,
}

/// The speed on one workload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkloadReport {
    /// The name of the workload.
    pub workload: String,
    /// The number of tokens in a round.
    pub tokens: usize,
    /// The number of batches in a round.
    pub batches: usize,
    /// The tokens per second: the median of the rounds.
    pub tokens_per_second: f64,
    /// The tokens per second of each round. All rounds do the same work.
    pub rounds: Vec<f64>,
    /// The power, the clock and the energy of a single CUDA device during these rounds, and what a
    /// million tokens took of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<PowerReport>,
    /// The matrix products alone, on a single CUDA device.
    #[serde(flatten)]
    pub products: Option<ProductsReport>,
    /// The operations, if they were timed: in a round of their own, with timed fences around each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<OperationReport>,
}

/// The speed of the matrix products of a model alone.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ProductsReport {
    /// The tokens per second of the products alone: the median of the rounds.
    pub products_alone_tokens_per_second: f64,
    /// The tokens per second of the model, as a fraction of that.
    pub of_products_alone: f64,
}

impl fmt::Display for BenchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.model, self.place)?;
        match self.plan.iter().find(|device| device.streamed) {
            Some(device) => writeln!(f, ", layers streamed through {} slots", device.slots)?,
            None => writeln!(f)?,
        }
        for workload in &self.workloads {
            write!(f, "{workload}")?;
        }
        if let Some(ceilings) = &self.ceilings {
            writeln!(f, "{ceilings}")?;
        }
        if let Some(cold) = &self.cold_start {
            writeln!(f, "{cold}")?;
        }
        match &self.comparison {
            Some(comparison) => comparison.fmt(f),
            None => Ok(()),
        }
    }
}

impl fmt::Display for WorkloadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = |rate: f64| HumanCount(rate as u64).to_string();
        write!(
            f,
            "{:<24} {:>12} tokens/s",
            self.workload,
            rate(self.tokens_per_second)
        )?;
        if let Some(products) = &self.products {
            write!(
                f,
                ", {:.1} % of the products alone ({})",
                100.0 * products.of_products_alone,
                rate(products.products_alone_tokens_per_second)
            )?;
        }
        writeln!(f)?;
        if let Some(power) = &self.power {
            writeln!(f, "  {power}")?;
        }
        self.operations.iter().try_for_each(|o| writeln!(f, "{o}"))
    }
}

/// Puts the model on the device, and measures its speed on each workload. `note` is told how far
/// the measurement is.
///
/// # Errors
/// [`EngineError`] if a device cannot be used or fails, or the model cannot be loaded.
pub fn bench(
    device: &Device,
    checkpoint: &Checkpoint,
    job: &Job,
    workloads: &[Workload],
    options: BenchOptions,
    note: &mut dyn FnMut(Note<'_>),
) -> Result<BenchReport, EngineError> {
    let config = checkpoint.config();
    let mut report = BenchReport {
        model: format!("{} {}x{}", config.kind, config.layers, config.hidden),
        simd: backend::simd_name().into(),
        ..BenchReport::default()
    };
    match device {
        Device::Cuda {
            devices,
            dtype,
            overlap,
        } if devices.len() == 1 => {
            let on = (devices.as_slice(), *dtype, *overlap);
            let first = workloads.first().filter(|_| options.cold);
            let cold = first.map(|first| cold(on, checkpoint, job, first));
            report.cold_start = cold.transpose()?;
            let mut model = one(on, checkpoint, job)?;
            let info = model.backend().device();
            report.place = format!("{} {}", info.name, dtype.name());
            report.token_budget = model.budget().tokens;
            let plan = Plan {
                devices: vec![model.backend().plan().clone()],
            };
            note(Note::Planned(&plan));
            report.plan = plan.devices;
            let meter = Meter::new(info.ordinal, &info.name);
            let mut timed = Vec::new();
            for workload in workloads {
                let batches = workload.pack(report.token_budget);
                note(Note::Measuring {
                    workload: &workload.name,
                    batches: batches.len(),
                    budget: report.token_budget,
                });
                let mut run = || rounds(&mut model, &workload.name, &batches, job, options);
                let (measured, power) = match &meter {
                    Some(meter) => meter.during(run),
                    None => (run(), None),
                };
                let mut measured = measured?;
                // One round more than the timed ones.
                let all = measured.tokens * (options.rounds + 1);
                measured.power = power.map(|power| power.per_token(all));
                alone(&mut model, &batches, options, &mut measured)?;
                if options.breakdown {
                    timed.push(breakdown(&mut model, &batches, job)?);
                }
                report.workloads.push(measured);
            }
            if options.breakdown {
                // The ceilings need memory of the device, and the device for themselves.
                drop(model);
                report.ceilings = Some(ceilings(devices[0], *dtype).map_err(refused)?);
            }
            for (workload, events) in report.workloads.iter_mut().zip(timed) {
                workload.operations = operations(&events, report.ceilings.as_ref());
            }
        }
        _ => {
            let mut engine = engine::load(device, checkpoint, job)?;
            note(Note::Loaded(&engine));
            report.plan = engine.plan.devices.clone();
            report.place = format!("{} {}", engine.place, engine.identity.dtype);
            report.token_budget = engine.embedder.budget().tokens;
            for workload in workloads {
                let batches = workload.pack(report.token_budget);
                note(Note::Measuring {
                    workload: &workload.name,
                    batches: batches.len(),
                    budget: report.token_budget,
                });
                let embedder = &mut *engine.embedder;
                let measured = rounds(embedder, &workload.name, &batches, job, options)?;
                report.workloads.push(measured);
            }
            if options.breakdown && *device == Device::Cpu {
                drop(engine);
                for (workload, measured) in workloads.iter().zip(&mut report.workloads) {
                    let events = on_cpu(device, checkpoint, workload, job)?;
                    measured.operations = operations(&events, None);
                }
            }
        }
    }
    Ok(report)
}

/// Sets up the model on a single CUDA device.
pub(super) fn one(
    on: (&[u32], DType, bool),
    checkpoint: &Checkpoint,
    job: &Job,
) -> Result<Model<Cuda>, EngineError> {
    let models = engine::on_cuda(on, checkpoint, job)?;
    models.into_iter().next().ok_or(EngineError::NoDevice)
}

fn refused(error: GemmError) -> EngineError {
    failed(error.into())
}

/// Times each operation on the CPU in a round of its own, after one that warms up.
fn on_cpu(
    device: &Device,
    checkpoint: &Checkpoint,
    workload: &Workload,
    job: &Job,
) -> Result<Vec<Event>, EngineError> {
    let job = Job {
        trace: Trace::in_memory(EVENTS),
        ..job.clone()
    };
    let mut engine = engine::load(device, checkpoint, &job)?;
    let batches = workload.pack(engine.embedder.budget().tokens);
    round(&mut *engine.embedder, &batches, &job)?;
    let warm = job.trace.now();
    round(&mut *engine.embedder, &batches, &job)?;
    let events = job.trace.document().map_or(Vec::new(), |d| d.events);
    let timed = events.into_iter().filter(|e| e.start_ns >= warm);
    Ok(timed.collect())
}

/// Times each operation on a single CUDA device in a round of its own.
fn breakdown(
    model: &mut Model<Cuda>,
    batches: &[PackedBatch],
    job: &Job,
) -> Result<Vec<Event>, EngineError> {
    model.backend_mut().profile(true).map_err(failed)?;
    round(model, batches, job)?;
    model.backend_mut().profile(false).map_err(failed)
}

pub(super) fn failed(error: CudaError) -> EngineError {
    BackendError::from(error).into()
}

/// Runs one round: computes all batches, several of them in flight at once. Returns the time in
/// seconds.
pub(super) fn round(
    model: &mut dyn Embedder,
    batches: &[PackedBatch],
    job: &Job,
) -> Result<f64, EngineError> {
    let begin = Instant::now();
    round_by(model, batches, job, &|| begin.elapsed().as_secs_f64())
}

/// Runs one round, like [`round`], and measures it by a clock that tells seconds.
pub(super) fn round_by(
    model: &mut dyn Embedder,
    batches: &[PackedBatch],
    job: &Job,
    clock: &dyn Fn() -> f64,
) -> Result<f64, EngineError> {
    let stage = |name| job.trace.stage(host::COMPUTING, 0, name);
    let start = clock();
    let mut remaining = batches.len();
    for batch in batches {
        while model.free_slots() == 0 && remaining > 0 {
            let _span = stage("collect");
            model.collect()?;
            remaining -= 1;
        }
        let mut span = stage("launch");
        span.note(|args| {
            args.sequences = Some(batch.len() as u64);
            args.tokens = Some(batch.total() as u64);
        });
        model.submit(batch, &job.request)?;
    }
    loop {
        let span = stage("collect");
        if model.collect()?.is_none() {
            span.cancel();
            break;
        }
    }
    Ok(clock() - start)
}

fn rounds(
    model: &mut dyn Embedder,
    workload: &str,
    batches: &[PackedBatch],
    job: &Job,
    options: BenchOptions,
) -> Result<WorkloadReport, EngineError> {
    // The first round warms up memory, caches and clocks.
    round(model, batches, job)?;
    let tokens: usize = batches.iter().map(PackedBatch::total).sum();
    let rounds: Result<Vec<f64>, EngineError> = (0..options.rounds)
        .map(|_| Ok(tokens as f64 / round(model, batches, job)?))
        .collect();
    let rounds = rounds?;
    Ok(WorkloadReport {
        workload: workload.to_owned(),
        tokens,
        batches: batches.len(),
        tokens_per_second: median(rounds.iter().copied()),
        rounds,
        power: None,
        products: None,
        operations: Vec::new(),
    })
}

/// Measures the matrix products alone, on a single CUDA device.
fn alone(
    model: &mut Model<Cuda>,
    batches: &[PackedBatch],
    options: BenchOptions,
    report: &mut WorkloadReport,
) -> Result<(), EngineError> {
    let mut rates = Vec::new();
    for _ in 0..options.rounds {
        let mut milliseconds = 0.0;
        for batch in batches {
            let time = model.backend_mut().gemms_alone(batch.total());
            milliseconds += f64::from(time.map_err(failed)?);
        }
        rates.push(report.tokens as f64 / (milliseconds / 1e3));
    }
    if !rates.is_empty() {
        let alone = median(rates);
        report.products = Some(ProductsReport {
            products_alone_tokens_per_second: alone,
            of_products_alone: report.tokens_per_second / alone,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::OfCeiling;

    fn report() -> BenchReport {
        BenchReport {
            model: "esm2 33x1280".into(),
            place: "NVIDIA H200 f16".into(),
            simd: "avx512".into(),
            token_budget: 33_792,
            workloads: vec![WorkloadReport {
                workload: "length 350".into(),
                tokens: 405_650,
                batches: 13,
                tokens_per_second: 384_959.5,
                rounds: vec![384_959.5],
                power: Some(PowerReport {
                    watts: 690.0,
                    sm_mhz: 1410.0,
                    throttled: vec!["sw power cap".into()],
                    joules: 700.5,
                    joules_per_million_tokens: 1726.9,
                }),
                products: Some(ProductsReport {
                    products_alone_tokens_per_second: 479_524.25,
                    of_products_alone: 0.8028,
                }),
                operations: vec![OperationReport {
                    operation: "product_gelu".into(),
                    shape: Some([5120, 1280]),
                    milliseconds: 12.5,
                    calls: 429,
                    share: 0.25,
                    median_microseconds: 29.0,
                    spread: 0.02,
                    tflops: Some(700.0),
                    gb_per_s: 900.0,
                    intensity: Some(777.0),
                    ceiling: Some(OfCeiling {
                        bound_by: "products".into(),
                        of_ceiling: 0.95,
                    }),
                }],
            }],
            ..BenchReport::default()
        }
    }

    #[test]
    fn a_report_is_a_table_and_json() {
        let text = report().to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[..3],
            [
                "esm2 33x1280, NVIDIA H200 f16",
                "length 350                    384,959 tokens/s, 80.3 % of the products alone (479,524)",
                "  690 W, 1410 MHz, lowered by sw power cap; 1727 J per million tokens",
            ]
        );
        let operation = "  product_gelu 5120x1280                12.50 ms  25.0 %    429 calls       29.0 us +-1.0  %    700.0 TFLOP/s  95.0 % of products";
        assert_eq!(lines[3], operation);
        let json = serde_json::to_value(report()).unwrap();
        let workload = &json["workloads"][0];
        assert_eq!(workload["of_products_alone"], 0.8028);
        assert_eq!(
            workload["operations"][0]["shape"],
            serde_json::json!([5120, 1280])
        );
        assert_eq!(workload["operations"][0]["bound_by"], "products");
        // An earlier report can be read again, to be compared.
        let again: WorkloadReport = serde_json::from_value(workload.clone()).unwrap();
        assert_eq!(again, report().workloads[0]);
    }

    #[test]
    fn what_was_not_measured_is_left_out() {
        let mut report = report();
        report.workloads[0].products = None;
        report.workloads[0].power = None;
        report.workloads[0].operations.clear();
        let table =
            "esm2 33x1280, NVIDIA H200 f16\nlength 350                    384,959 tokens/s\n";
        assert_eq!(report.to_string(), table);
        let json = serde_json::to_string(&report).unwrap();
        assert!(json.ends_with(r#""rounds":[384959.5]}]}"#), "{json}");
    }
}
