//! Measures an engine: how fast it computes, and how much of the loading of its weights is hidden
//! behind computing.
//!
//! | file | what it does |
//! |---|---|
//! | `workload` | [`Workload`]: random sequences, or those of a file, cut into batches |
//! | `bench` | [`bench()`]: measures workloads, and returns a [`BenchReport`] |
//! | `operations` | what each operation takes, by a trace: [`OperationReport`] |
//! | `ceilings` | what a device can do at most: [`Ceilings`] |
//! | `power` | power, clock and energy of a device meanwhile: [`PowerReport`] |
//! | `compare` | what moved since an earlier report: [`Comparison`] |
//! | `cold` | measures cold starts: [`ColdStart`] |
//! | [`overlap`] | measures how much of the movement of data hides behind computing, over many settings |
//! | [`figures`] | the figures of that as SVG, its table as CSV, and a page with both |
//! | `intervals` | sets of times |
//! | [`simulate`] | predicts speed on a machine of which there is only a description |
//!
//! Nothing here prints. A report is data: it is displayed as a table, and can be serialised.
//!
//! ```
//! use seqstream::backend::cuda::WeightMode;
//! use seqstream::engine::{Device, Job};
//! use seqstream::gpu::cublaslt::Algorithms;
//! use seqstream::gpu::stream::Loading;
//! use seqstream::study::{BenchOptions, Workload, bench};
//! use seqstream::trace::Trace;
//! use seqstream::weights::Checkpoint;
//! use seqstream::{Pool, Request};
//!
//! let checkpoint = Checkpoint::open("examples/tiny-esm2".as_ref())?;
//! let workload = Workload::random(checkpoint.config(), 20, 100);
//! let job = Job {
//!     request: Request { layers: vec![4], pools: vec![Pool::Mean], per_token: false },
//!     half_states: false,
//!     token_budget: None,
//!     threads: 1,
//!     longest: workload.longest(),
//!     memory: None,
//!     algorithms: Algorithms::new(None).into(),
//!     weights: WeightMode::Auto,
//!     loading: Loading::default(),
//!     trace: Trace::off(),
//! };
//! let options = BenchOptions { rounds: 3, ..BenchOptions::default() };
//! let report = bench(&Device::Cpu, &checkpoint, &job, &[workload], options, &mut |_| ())?;
//! assert_eq!(report.workloads[0].rounds.len(), 3);
//! assert!(report.to_string().contains("tokens/s"));
//! # Ok::<(), seqstream::EngineError>(())
//! ```

mod bench;
mod ceilings;
mod cold;
mod compare;
pub mod figures;
mod intervals;
mod operations;
pub mod overlap;
mod power;
pub mod simulate;
mod workload;

pub use bench::{BenchOptions, BenchReport, Note, ProductsReport, WorkloadReport, bench};
pub use ceilings::{Ceilings, ProductCeilings};
pub use cold::{ColdRound, ColdStart};
pub use compare::{Change, Comparison, Earlier};
pub use operations::{OfCeiling, OperationReport};
pub use power::PowerReport;
pub use workload::{Reading, Workload};

/// Returns the median of the finite values, or NaN if there are none.
fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
