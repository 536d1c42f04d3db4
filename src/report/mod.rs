//! Describes the output of a complete job on a page, and for MultiQC.
//!
//! All counts come from manifest.json. What the runs measured comes from `.runs.jsonl`, which an
//! output need not have: a merged one does not.

mod multiqc;
mod page;
mod pca;

use std::path::{Path, PathBuf};

use crate::output::{
    Finished, FinishedError, FinishedShard, Lengths, MANIFEST_FILE, ManifestHead, OutputError,
    RunRecord, hash_file, read_runs,
};
use crate::remedy::{Action, Remedy};
pub use pca::{Plane, project};

/// The most rows of a map.
const SAMPLE: u64 = 2000;
/// The most values of the rows of a map: a model that is wider than 5,120 has fewer rows.
const SAMPLE_VALUES: u64 = SAMPLE * 5120;

/// A report that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The output cannot be read as a whole.
    #[error(transparent)]
    Finished(#[from] FinishedError),
    /// The report could not be written.
    #[error(transparent)]
    Write(OutputError),
}

impl ReportError {
    /// Returns what the user can do about the error, if a remedy is known.
    pub fn remedy(&self) -> Option<Remedy> {
        match self {
            Self::Finished(error) => error.remedy(),
            Self::Write(_) => Some(Remedy::steps([
                "see that the folder can be written to and that the disk has space".into(),
                Action::RunAgain.into(),
            ])),
        }
    }
}

/// What is shown of a job.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The output directory, as the user named it.
    pub path: PathBuf,
    /// The name of the job: by default that of the output directory.
    pub name: String,
    /// The manifest, without its list of shards.
    pub manifest: ManifestHead,
    /// The BLAKE3 hash of manifest.json, in hex. It covers the hashes of all files.
    pub manifest_blake3: String,
    /// The number of shards.
    pub shards: u64,
    /// What the runs measured, in their order.
    pub runs: Vec<RunRecord>,
    /// The lengths of the sequences, if a run recorded them.
    pub lengths: Option<Lengths>,
    /// The map of a sample of rows.
    pub map: Option<SampleMap>,
}

/// Where a sample of rows lies in the plane in which they differ most.
#[derive(Debug, Clone, PartialEq)]
pub struct SampleMap {
    /// The layer.
    pub layer: usize,
    /// The pooling.
    pub pool: String,
    /// The names of the rows.
    pub names: Vec<String>,
    /// Their places.
    pub plane: Plane,
}

/// Reads the output in `out` and describes it. Only the shards' descriptions are compared with the
/// manifest here: the hashes of the files are not.
///
/// # Errors
/// Fails if the job is not complete, or if its files cannot be read.
pub fn report(out: &Path) -> Result<Report, ReportError> {
    let finished = Finished::open(out)?;
    let runs = read_runs(out).map_err(FinishedError::from)?;
    let recorded = runs.iter().rev().find_map(|run| run.lengths.clone());
    let manifest = hash_file(&out.join(MANIFEST_FILE), None).map_err(FinishedError::from)?;
    let whole = std::path::absolute(out).unwrap_or_else(|_| out.to_path_buf());
    let name = whole.file_name().unwrap_or(whole.as_os_str());
    Ok(Report {
        path: out.to_path_buf(),
        name: name.to_string_lossy().into_owned(),
        manifest: finished.head().clone(),
        manifest_blake3: manifest.blake3,
        shards: finished.shards().len() as u64,
        lengths: recorded.filter(|lengths| lengths.sequences > 0),
        map: map(&finished)?,
        runs,
    })
}

/// Returns the row of part `i` of `count` parts of equal sizes. The place within the part comes from a
/// fixed hash: rows at equal distances would be alike where an input repeats itself.
fn row_of_part(i: u64, count: u64, rows: u64) -> u64 {
    // 2000 times the number of rows may not fit into 64 bits.
    let start = |i: u64| (u128::from(i) * u128::from(rows) / u128::from(count.max(1))) as u64;
    // The finalizer of splitmix64 (Steele et al. 2014).
    let mut hash = i.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^= hash >> 31;
    start(i) + hash % (start(i + 1) - start(i)).max(1)
}

/// Reads a sample of rows, one from each part of the input, and projects them.
fn map(finished: &Finished) -> Result<Option<SampleMap>, ReportError> {
    let layout = finished.layout();
    let Some(layer) = layout.layers.iter().copied().max() else {
        return Ok(None);
    };
    let pool = match layout.pools.iter().find(|p| *p == "mean") {
        Some(pool) => Some(pool.as_str()),
        None => layout.pools.first().map(String::as_str),
    };
    let rows = finished.rows();
    let most = SAMPLE_VALUES / (layout.width as u64).max(1);
    let count = rows.min(SAMPLE).min(most);
    let mut wanted = (0..count).map(|i| row_of_part(i, count, rows));
    let mut next = wanted.next();
    let (mut names, mut values) = (Vec::new(), Vec::new());
    let mut first = 0u64;
    for listed in finished.shards() {
        let end = first.saturating_add(listed.rows);
        if next.is_some_and(|row| row < end) {
            let shard = finished.peek(listed)?;
            let mut here = Vec::new();
            while let Some(row) = next.filter(|row| *row < end) {
                here.push(row - first);
                next = wanted.next();
            }
            sample(&shard, layer, pool, &here, &mut names, &mut values)?;
        }
        first = end;
    }
    let plane = project(&values, layout.width);
    Ok(plane.map(|plane| SampleMap {
        layer,
        pool: pool.unwrap_or("mean over the stored states").into(),
        names,
        plane,
    }))
}

/// Adds the rows of these numbers, which are ascending, to the sample. Without a pooling, a row is
/// the mean over its states.
fn sample(
    shard: &FinishedShard<'_>,
    layer: usize,
    pool: Option<&str>,
    wanted: &[u64],
    names: &mut Vec<String>,
    values: &mut Vec<f32>,
) -> Result<(), ReportError> {
    let dtype = shard.layout().dtype;
    let (counts, mut file) = match pool {
        Some(pool) => (None, shard.pooled(layer, pool)?),
        None => {
            let (counts, file) = shard.states(layer)?;
            (Some(counts), file)
        }
    };
    let mut wanted = wanted.iter().copied().peekable();
    let mut bytes = Vec::new();
    for (row, id) in (0..shard.rows()).zip(shard.ids()?) {
        let rows = match &counts {
            None => 1,
            Some(counts) => counts.get(row as usize).copied().unwrap_or_default(),
        };
        if wanted.next_if_eq(&row).is_none() {
            file.skip(rows)?;
            continue;
        }
        let mut sums = vec![0.0f64; shard.layout().width];
        for _ in 0..rows {
            file.read(1, &mut bytes)?;
            let stored = dtype.decode(&bytes);
            sums.iter_mut()
                .zip(stored)
                .for_each(|(s, v)| *s += f64::from(v));
        }
        // Values that are not finite are no output of a job, but a file may have them.
        if rows > 0 && sums.iter().all(|s| s.is_finite()) {
            values.extend(sums.iter().map(|s| (s / rows as f64) as f32));
            names.push(id?);
        }
        if wanted.peek().is_none() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_one_row_of_each_part() {
        for rows in [1, 5, 1999, 2000, 2001, 1_000_000, u64::MAX] {
            let count = rows.min(SAMPLE);
            let sample: Vec<u64> = (0..count).map(|i| row_of_part(i, count, rows)).collect();
            assert!(sample.windows(2).all(|pair| pair[0] < pair[1]), "{rows}");
            assert!(sample.iter().all(|row| *row < rows), "{rows}");
            if rows <= SAMPLE {
                assert!(sample.iter().copied().eq(0..rows), "{rows}");
            }
        }
        // An input that repeats itself every 500 rows is not always met at the same place.
        let places = (0..2000).map(|i| row_of_part(i, 2000, 1_000_000) % 500);
        assert!(places.collect::<std::collections::BTreeSet<u64>>().len() > 400);
    }
}
