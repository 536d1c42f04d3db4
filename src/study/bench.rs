//! Measures the speed of a model, also compared with its matrix products alone.

use std::fmt;
use std::time::Instant;

use indicatif::HumanCount;
use serde::Serialize;

use super::cold::{ColdStart, cold};
use super::{Workload, median};
use crate::backend::cuda::{Cuda, CudaError, DevicePlan};
use crate::backend::{self, BackendError};
use crate::batch::PackedBatch;
use crate::dtype::DType;
use crate::engine::{self, Device, Engine, EngineError, Job, Plan};
use crate::model::{Embedder, Model};
use crate::trace::host;
use crate::weights::Checkpoint;

/// What to measure, besides the workloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BenchOptions {
    /// The number of timed rounds, after one that is not timed.
    pub rounds: usize,
    /// Whether to time each operation, on a single CUDA device.
    pub breakdown: bool,
    /// Whether to measure cold starts, on a single CUDA device.
    pub cold: bool,
}

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
#[derive(Debug, Clone, PartialEq, Serialize)]
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
    /// The cold starts, if they were measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cold_start: Option<ColdStart>,
}

/// The speed on one workload.
#[derive(Debug, Clone, PartialEq, Serialize)]
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
    /// The matrix products alone, on a single CUDA device.
    #[serde(flatten)]
    pub products: Option<ProductsReport>,
    /// The operations, if they were timed: in a round of their own, with timed fences around each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<OperationReport>,
}

/// The speed of the matrix products of a model alone.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ProductsReport {
    /// The tokens per second of the products alone: the median of the rounds.
    pub products_alone_tokens_per_second: f64,
    /// The tokens per second of the model, as a fraction of that.
    pub of_products_alone: f64,
}

/// The time of one operation of a model, over a round.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OperationReport {
    /// The name of the operation.
    pub operation: String,
    /// Its time in milliseconds.
    pub milliseconds: f64,
    /// The number of calls.
    pub calls: usize,
    /// Its time as a fraction of the time of all operations.
    pub share: f64,
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
        match &self.cold_start {
            Some(cold) => writeln!(f, "{cold}"),
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
        for o in &self.operations {
            writeln!(
                f,
                "  {:<22} {:>10.2} ms {:>6.1} %, {} calls",
                o.operation,
                o.milliseconds,
                100.0 * o.share,
                o.calls
            )?;
        }
        Ok(())
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
        place: String::new(),
        simd: backend::simd_name().into(),
        token_budget: 0,
        workloads: Vec::new(),
        plan: Vec::new(),
        cold_start: None,
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
            for workload in workloads {
                let batches = workload.pack(report.token_budget);
                note(Note::Measuring {
                    workload: &workload.name,
                    batches: batches.len(),
                    budget: report.token_budget,
                });
                let mut measured = rounds(&mut model, &workload.name, &batches, job, options)?;
                alone(&mut model, &batches, job, options, &mut measured)?;
                report.workloads.push(measured);
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
                let embedder = &mut *engine.embedder;
                let measured = rounds(embedder, &workload.name, &batches, job, options)?;
                report.workloads.push(measured);
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
        products: None,
        operations: Vec::new(),
    })
}

/// Measures what only a single CUDA device can tell: the matrix products alone, and each operation.
fn alone(
    model: &mut Model<Cuda>,
    batches: &[PackedBatch],
    job: &Job,
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
    if options.breakdown {
        model.backend_mut().profile(true).map_err(failed)?;
        round(model, batches, job)?;
        let operations = model.backend_mut().profile(false).map_err(failed)?;
        let total: f64 = operations.iter().map(|(_, ms, _)| ms).sum();
        let each = |(operation, milliseconds, calls)| OperationReport {
            operation,
            milliseconds,
            calls,
            share: milliseconds / total,
        };
        report.operations = operations.into_iter().map(each).collect();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
                products: Some(ProductsReport {
                    products_alone_tokens_per_second: 479_524.25,
                    of_products_alone: 0.8028,
                }),
                operations: vec![OperationReport {
                    operation: "attention".into(),
                    milliseconds: 12.5,
                    calls: 429,
                    share: 0.25,
                }],
            }],
            plan: Vec::new(),
            cold_start: None,
        }
    }

    #[test]
    fn a_report_is_a_table_and_json() {
        assert_eq!(
            report().to_string(),
            "esm2 33x1280, NVIDIA H200 f16\n\
             length 350                    384,959 tokens/s, 80.3 % of the products alone (479,524)\n\
             \x20 attention                   12.50 ms   25.0 %, 429 calls\n"
        );
        assert_eq!(
            serde_json::to_string(&report()).unwrap(),
            r#"{"model":"esm2 33x1280","place":"NVIDIA H200 f16","simd":"avx512","token_budget":33792,"#
                .to_owned()
                + r#""workloads":[{"workload":"length 350","tokens":405650,"batches":13,"tokens_per_second":384959.5,"#
                + r#""rounds":[384959.5],"products_alone_tokens_per_second":479524.25,"of_products_alone":0.8028,"#
                + r#""operations":[{"operation":"attention","milliseconds":12.5,"calls":429,"share":0.25}]}]}"#
        );
    }

    #[test]
    fn what_was_not_measured_is_left_out() {
        let mut report = report();
        report.workloads[0].products = None;
        report.workloads[0].operations.clear();
        let table =
            "esm2 33x1280, NVIDIA H200 f16\nlength 350                    384,959 tokens/s\n";
        assert_eq!(report.to_string(), table);
        let json = serde_json::to_string(&report).unwrap();
        assert!(json.ends_with(r#""rounds":[384959.5]}]}"#), "{json}");
    }
}
