//! Which of the algorithms that cuBLASLt offers computes a product.
//!
//! One for all numbers of rows, that sums over K in one sequence: then a row's bits depend on the row alone. What says
//! that it splits K is refused, and what does not say so and does it shows in `Workbench::differs`.

use super::algorithm::Algorithm;
use super::bindings as sys;
use super::error::GemmError;
use super::handle::{Lt, Preference};
use super::product::{ALIGNMENT, Described, Product, ProductSpec, WORKSPACE};
use super::workbench::{ROWS, Workbench};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How many algorithms are asked for. The library's first is the fastest in some nine of ten cases.
const OFFERS: usize = 32;
/// After the first timed round only those go on that took at most so many times what the best took.
const PROMISING: f32 = 1.2;
/// No further round begins after this time; the slowest products of an H100 need a third of it.
const LONG_ENOUGH: Duration = Duration::from_secs(2);

/// Trials have no fewer rows, however few are timed: whether a row depends on the others shows among many only.
const LEAST_ROWS: usize = 1024;

/// How algorithms are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// The rows that they are timed at. The choice is kept whatever the rows, so these should not be a job's budget
    /// where that is changed from job to job, but the same for all jobs. A product of more rows is run in parts of so many.
    pub rows: usize,
    /// Timed runs of each that is promising, at least one; the median counts.
    pub rounds: usize,
    /// Bytes that are written between runs, more than any device's L2 has.
    pub flush: usize,
}

impl Tuning {
    /// The most rows that an algorithm is tried with, and run with: from some number on a few serve no longer (2³¹
    /// elements), and of bits beyond the trial's rows nothing is known.
    pub(super) fn most(&self) -> usize {
        self.rows.max(LEAST_ROWS).next_multiple_of(16) // rows of any width: operands stay aligned
    }

    /// By time, at so many rows.
    pub fn timed(rows: usize) -> Self {
        Self {
            rows,
            rounds: 7,
            flush: 128 << 20,
        }
    }
}

/// Chooses. The device's memory is used, and given back.
pub(super) fn choose(
    lt: &Arc<Lt>,
    spec: &ProductSpec,
    tuning: &Tuning,
) -> Result<Algorithm, GemmError> {
    let most = tuning.most();
    let bench = Workbench::new(&lt.context, spec, most, tuning.flush)?;
    let rows = bench.rows();
    let (mut candidates, mut refused) = (Vec::new(), Vec::new());
    for (i, offer) in offers(lt, spec, rows, true)?.into_iter().enumerate() {
        let mut described = Described::new(lt, spec, rows)?;
        match usable(&mut described, spec, &offer, most)? {
            Ok(workspace) => {
                let algorithm = Algorithm::new(&offer, workspace);
                candidates.push((i, Product::new(*spec, algorithm, described, most)));
            }
            Err(reason) => refused.push(format!("offer {i}: {reason}")),
        }
    }
    for (i, product) in by_time(&bench, candidates, tuning.rounds)? {
        match bench.differs(&product)? {
            None => return Ok(product.algorithm().clone()),
            Some(reason) => refused.push(format!("offer {i}: {reason}")),
        }
    }
    Err(GemmError::NoAlgorithm {
        spec: spec.to_string(),
        device: lt.context.ordinal(),
        refused,
    })
}

type Candidates = Vec<(usize, Product)>;

/// The promising ones first, fastest first; then the others, in their order.
fn by_time(
    bench: &Workbench,
    candidates: Candidates,
    rounds: usize,
) -> Result<Candidates, GemmError> {
    let began = Instant::now();
    let mut times: Vec<Vec<f32>> = vec![Vec::new(); candidates.len()];
    // Each once unmeasured: the first run of a kernel loads it.
    for (_, product) in &candidates {
        bench.milliseconds(product, bench.rows())?;
    }
    let median = |times: &[f32]| {
        let mut sorted = times.to_vec();
        sorted.sort_by(f32::total_cmp);
        sorted
            .get(sorted.len() / 2)
            .copied()
            .unwrap_or(f32::INFINITY)
    };
    let mut running: Vec<usize> = (0..candidates.len()).collect();
    // Round by round, so that a clock that changes changes for all.
    for round in 0..rounds {
        if round > 0 && began.elapsed() > LONG_ENOUGH {
            break;
        }
        for &i in &running {
            times[i].push(bench.milliseconds(&candidates[i].1, bench.rows())?);
        }
        if round == 0 {
            let best = times
                .iter()
                .map(|t| median(t))
                .fold(f32::INFINITY, f32::min);
            running.retain(|&i| median(&times[i]) <= best * PROMISING);
        }
    }
    let mut order: Vec<(f32, (usize, Product))> = candidates
        .into_iter()
        .enumerate()
        .map(|(i, candidate)| (median(&times[i]), candidate))
        .collect();
    // Stable: of two that took the same, the library's order decides.
    order.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    Ok(order.into_iter().map(|(_, candidate)| candidate).collect())
}

/// What the library offers for so many rows, best first as it thinks; `whole`: none that splits K, as far as it keeps
/// to what it is asked for.
pub(super) fn offers(
    lt: &Arc<Lt>,
    spec: &ProductSpec,
    rows: usize,
    whole: bool,
) -> Result<Vec<sys::cublasLtMatmulAlgo_t>, GemmError> {
    let described = Described::new(lt, spec, rows)?;
    let mut preference = Preference::new(lt)?;
    // SAFETY: the header's types: 64 bits for the workspace, 32 for the rest.
    unsafe {
        preference.set(
            sys::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            WORKSPACE as u64,
        )?;
        if whole {
            preference.set(
                sys::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                sys::CUBLASLT_REDUCTION_SCHEME_NONE,
            )?;
        }
        for alignment in [
            sys::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            sys::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            sys::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            sys::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            preference.set(alignment, ALIGNMENT as u32)?;
        }
    }
    let operation = format!("{spec} of {rows} rows");
    // For the chain with the bias; `usable` asks for the others.
    let offered = described.last.offered(&preference, OFFERS, &operation)?;
    Ok(offered.into_iter().map(|offer| offer.algo).collect())
}

/// The workspace that an algorithm needs at most, or why it may not be used: it splits K, or does not serve every
/// number of rows up to `most`.
pub(super) fn usable(
    described: &mut Described,
    spec: &ProductSpec,
    algorithm: &sys::cublasLtMatmulAlgo_t,
    most: usize,
) -> Result<Result<usize, String>, GemmError> {
    let name = spec.to_string();
    let matmul = &described.last;
    let splits: i32 = matmul.config(algorithm, sys::CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &name)?;
    let scheme: u32 =
        matmul.config(algorithm, sys::CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &name)?;
    if !(0..=1).contains(&splits) || scheme != sys::CUBLASLT_REDUCTION_SCHEME_NONE {
        return Ok(Err(format!(
            "it sums K in {splits} parts, reduction scheme {scheme}"
        )));
    }
    let mut workspace = 0;
    for rows in ROWS.into_iter().chain([most]) {
        described.set_rows(rows)?;
        match described.serves(algorithm, &format!("{spec} of {rows} rows"))? {
            None => return Ok(Err(format!("it does not serve {rows} rows"))),
            Some(bytes) if bytes > WORKSPACE => {
                return Ok(Err(format!("it wants {bytes} bytes of workspace")));
            }
            Some(bytes) => workspace = workspace.max(bytes),
        }
    }
    Ok(Ok(workspace))
}
