//! Finds the GEMM algorithms for a job on CUDA: those the job started with, those given by
//! `--gemm-algorithms`, or those in the cache.

use super::embed::holds_a_job;
use super::options::EmbedOptions;
use super::{Console, Failure};
use seqstream::engine::Device;
use seqstream::gpu::cublaslt::Algorithms;
use seqstream::output::{ALGORITHMS_FILE, read_job};
use seqstream::pipeline::{JobError, KeptAlgorithms};
use std::path::Path;
use std::sync::Arc;

/// What decides the GEMM algorithms of a job.
pub struct Choice<'a> {
    /// Where the job computes.
    pub device: &'a Device,
    /// The job whose algorithms to use, if the user gave one.
    pub gemm_algorithms: Option<&'a Path>,
    /// Whether to continue the job in the output directory.
    pub resume: bool,
    /// The output directory.
    pub out: &'a Path,
}

impl<'a> From<&'a EmbedOptions> for Choice<'a> {
    fn from(options: &'a EmbedOptions) -> Self {
        Self {
            device: &options.device,
            gemm_algorithms: options.gemm_algorithms.as_deref(),
            resume: options.resume,
            out: &options.out,
        }
    }
}

/// Returns the GEMM algorithms for a job.
///
/// A resumed job uses only the table in its output directory: other algorithms would give other
/// bits.
pub fn of_job<'a>(
    options: impl Into<Choice<'a>>,
    console: &Console,
) -> Result<Arc<Algorithms>, Failure> {
    let options = options.into();
    if *options.device == Device::Cpu {
        return Ok(Arc::new(Algorithms::new(None)));
    }
    let given = options.gemm_algorithms.map(given).transpose()?;
    let own = match options.resume && holds_a_job(options.out)? {
        true => {
            let job = read_job(options.out).map_err(JobError::from)?;
            KeptAlgorithms::of_job(options.out, job.gemm_algorithms.as_deref())?
        }
        false => None,
    };
    if let (Some(own), Some(given)) = (&own, &given)
        && !own.table.is_part_of(&given.table)
    {
        return Err(Failure::GivenAlgorithms {
            path: given.path.clone(),
            reason: format!(
                "it differs from {}, with which the job in --out was begun",
                own.path.display()
            ),
            hint: "leave --gemm-algorithms out: a resumed job uses its own table".into(),
        });
    }
    Ok(match own.or(given) {
        Some(kept) => {
            let name = format!("the table of GEMM algorithms {}", kept.path.display());
            Arc::new(Algorithms::imposed(kept.table, name))
        }
        None => from_cache(console),
    })
}

/// Returns the algorithms in the cache. A missing algorithm is chosen when it is needed, and kept
/// in the cache.
pub fn from_cache(console: &Console) -> Arc<Algorithms> {
    let cache = Algorithms::default_cache();
    if cache.is_none() {
        console.warn(
            "GEMM algorithms cannot be kept, so that the next job chooses its own, perhaps others: none of SEQSTREAM_CACHE, XDG_CACHE_HOME and HOME is set",
        );
        console.hint(REMEDY);
    }
    Arc::new(Algorithms::new(cache))
}

const REMEDY: &str = "set SEQSTREAM_CACHE to a folder that can be written and that later jobs find; jobs whose rows are to agree bit for bit can also share one table, by `embed --gemm-algorithms`";

/// Prints the warnings of the choice of algorithms, and a remedy.
pub fn warn(algorithms: &Algorithms, console: &Console) {
    let warnings = algorithms.take_warnings();
    for warning in &warnings {
        console.warn(warning);
    }
    if !warnings.is_empty() {
        console.hint(REMEDY);
    }
}

/// Reads the table that `--gemm-algorithms` names: `path` is an output directory or a file.
fn given(path: &Path) -> Result<KeptAlgorithms, Failure> {
    let refused = |error| {
        match error {
        JobError::Algorithms { path, reason } => Failure::GivenAlgorithms {
            path,
            reason,
            hint: "give the output directory of another share of this job, or the algorithms.json in it".into(),
        },
        other => other.into(),
    }
    };
    let found = match path.is_dir() {
        true if holds_a_job(path)? => {
            let job = read_job(path).map_err(JobError::from)?;
            KeptAlgorithms::of_job(path, job.gemm_algorithms.as_deref())
        }
        true => KeptAlgorithms::read(&path.join(ALGORITHMS_FILE)),
        false => KeptAlgorithms::read(path),
    };
    found.map_err(refused)?.ok_or_else(|| Failure::Usage {
        message: match path.is_dir() {
            true => format!(
                "--gemm-algorithms: {} is not the output directory of a job on CUDA that keeps its {ALGORITHMS_FILE}",
                path.display()
            ),
            false => format!("--gemm-algorithms: {} does not exist", path.display()),
        },
        hint: Some(format!(
            "start the share that it is to come from first: {ALGORITHMS_FILE} stands in its output directory before the first shard does; a job that goes on with --resume uses its own table and needs no other"
        )),
    })
}
