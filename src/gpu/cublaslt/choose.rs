//! Chooses which of the algorithms that cuBLASLt offers computes a GEMM.
//!
//! One algorithm serves all numbers of rows and sums over K in one sequence, so that a row's bits
//! depend on that row alone. An algorithm that reports that it splits K is refused.
//! `Workbench::differs` detects an algorithm that splits K without reporting it.

use super::algorithm::Algorithm;
use super::bindings as sys;
use super::error::GemmError;
use super::handle::{Lt, Preference};
use super::product::{ALIGNMENT, Described, Product, ProductSpec, WORKSPACE};
use super::workbench::{ROWS, Workbench};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How many algorithms the library is asked for. Its first offer is the fastest in some nine of ten
/// cases.
const OFFERS: usize = 32;
/// After the first timed round, only those candidates stay that took at most this factor times the
/// best time.
const PROMISING: f32 = 1.2;
/// No further round begins after this time. The slowest GEMMs of an H100 need a third of it.
const LONG_ENOUGH: Duration = Duration::from_secs(2);

/// The fewest rows of a trial, however few rows are timed: only among many rows does it show
/// whether the result of a row depends on the others.
const LEAST_ROWS: usize = 1024;

/// How algorithms are chosen and timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// The number of rows at which algorithms are timed. A choice is kept whatever the rows, so
    /// this number should be the same for all jobs, not a token budget that changes from job to
    /// job. A GEMM of more rows than this runs in parts of about this many rows (at least 1024, and
    /// a multiple of 16).
    pub rows: usize,
    /// How often each promising candidate is timed, at least once. The median counts.
    pub rounds: usize,
    /// How many bytes are written between timed runs to evict the operands from L2: more than any
    /// device's L2 holds.
    pub flush: usize,
}

impl Tuning {
    /// Returns the largest number of rows that an algorithm is tried with, and later runs with at
    /// once. Some algorithms stop working above some number of rows (2³¹ elements), and nothing is
    /// known of the bits of more rows than the trial had.
    pub(super) fn most(&self) -> usize {
        self.rows.max(LEAST_ROWS).next_multiple_of(16) // keeps operands aligned
    }

    /// Chooses by timing with `rows` rows.
    pub fn timed(rows: usize) -> Self {
        Self {
            rows,
            rounds: 7,
            flush: 128 << 20,
        }
    }
}

/// Chooses the algorithm of a GEMM. Device memory is allocated for the trial and freed again.
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

/// Times the candidates and sorts them by their median time, fastest first. Candidates that are not
/// promising are timed in the first round alone.
fn by_time(
    bench: &Workbench,
    candidates: Candidates,
    rounds: usize,
) -> Result<Candidates, GemmError> {
    let began = Instant::now();
    let mut times: Vec<Vec<f32>> = vec![Vec::new(); candidates.len()];
    // Each candidate runs once unmeasured, since the first run of a kernel loads it.
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
    // The candidates take turns in every round, so that a change of the clock rate affects all of
    // them.
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
    // The sort is stable: between two equal times the library's order decides.
    order.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    Ok(order.into_iter().map(|(_, candidate)| candidate).collect())
}

/// Returns the algorithms that the library offers for `rows` rows, in its own order of preference.
/// With `whole` the library is asked for algorithms that do not split K; it does not always comply.
pub(super) fn offers(
    lt: &Arc<Lt>,
    spec: &ProductSpec,
    rows: usize,
    whole: bool,
) -> Result<Vec<sys::cublasLtMatmulAlgo_t>, GemmError> {
    let described = Described::new(lt, spec, rows)?;
    let mut preference = Preference::new(lt)?;
    // SAFETY: these are the header's types: 64 bits for the workspace, 32 bits for the other
    // attributes.
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
    // The offers are for the chain with the bias. `usable` checks them for the other chains.
    let offered = described.last.offered(&preference, OFFERS, &operation)?;
    Ok(offered.into_iter().map(|offer| offer.algo).collect())
}

/// Returns the largest workspace that an algorithm needs, in bytes, or the reason why it may not be
/// used: it splits K, or it does not serve every number of rows up to `most`.
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
