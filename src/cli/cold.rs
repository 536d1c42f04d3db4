//! `seqstream bench --cold`: measures how much of the loading of weights is hidden behind
//! computing.

use std::time::Instant;

use serde_json::{Value, json};

use super::Failure;
use super::bench::{Measure, Workload, median, one, pack};
use seqstream::backend::BackendError;
use seqstream::dtype::DType;
use seqstream::engine::{self, Job};
use seqstream::weights::Checkpoint;

/// Number of measured cold starts, after one that is not measured. A cold start takes a few tenths
/// of a second, with a noise of a few percent.
const COLD_ROUNDS: usize = 5;

/// Measures cold starts and reports the median of each figure; times are in seconds.
///
/// The measured job is the first batch of the workload. Computing it takes about as long as loading
/// the weights, so that the overlap can be told from noise. It is computed in two ways: after
/// loading, and during loading. Each way uses a new model, so both include everything that happens
/// only in the first computation.
pub(super) fn cold(
    on: (&[u32], DType, bool),
    checkpoint: &Checkpoint,
    job: &Job,
    workload: &Workload,
    measure: &Measure<'_>,
) -> Result<Value, Failure> {
    let failed = |e| Failure::from(BackendError::from(e));
    let mut rounds = Vec::new();
    let mut groups = Vec::new();
    // The first round reads the file into the cache of the system and chooses the algorithms.
    for round in 0..=COLD_ROUNDS {
        // Loading first, then computing.
        let mut model = one(on, checkpoint, job, measure.console)?;
        let start = Instant::now();
        model.backend_mut().settle().map_err(failed)?;
        let loading = start.elapsed().as_secs_f64();
        groups = model.backend_mut().group_bytes().map_err(failed)?.to_vec();
        let multiprocessors = model.backend().device().multiprocessors as usize;
        let capacity = model.limits().tokens;
        let budget = engine::first_budget(job, multiprocessors, capacity);
        let mut batches = pack(&workload.sequences, budget);
        batches.truncate(1);
        let computing = measure.round(&mut model, &batches)?;
        drop(model);
        // Loading and computing at the same time: from the start of the transfer of the weights to
        // the last result.
        let mut model = one(on, checkpoint, job, measure.console)?;
        let together = measure.round(&mut model, &batches)?;
        if round > 0 {
            rounds.push(Cold {
                load: loading,
                compute: computing,
                both: together,
            });
        }
    }
    let layers = checkpoint.config().layers;
    let rounds: Vec<Value> = rounds.iter().map(|c| c.report(&groups, layers)).collect();
    // Each figure has its own median, so that a disturbance of one figure does not affect the
    // others.
    let middle = |name: &String| {
        let found: Vec<f64> = rounds.iter().filter_map(|r| r[name].as_f64()).collect();
        (name.clone(), median(&found))
    };
    let names = rounds.first().and_then(Value::as_object);
    let mut report: Value = names
        .into_iter()
        .flatten()
        .map(|(name, _)| middle(name))
        .collect();
    report["workload"] = json!(format!("{}, one batch", workload.name));
    report["group_bytes"] = json!(groups);
    report["rounds"] = json!(rounds);
    Ok(report)
}

/// The times of a cold start, in seconds.
struct Cold {
    /// Loading alone.
    load: f64,
    /// Computing alone, after loading.
    compute: f64,
    /// Loading and computing at the same time.
    both: f64,
}

impl Cold {
    fn report(&self, groups: &[usize], layers: usize) -> Value {
        let Self {
            load,
            compute,
            both,
        } = self;
        let least = least(*load, *compute, groups, layers);
        // If nothing can be hidden, the hidden fraction is undefined: null.
        let could = load + compute - least;
        let hidden = (could > 1e-9).then(|| (load + compute - both) / could);
        json!({
            "load_seconds": load,
            "compute_seconds": compute,
            "overlapped_seconds": both,
            "least_seconds": least,
            "hidden_of_load": 1.0 - (both - compute) / load,
            "hidden_of_what_could_be": hidden,
        })
    }
}

/// Returns an estimate of the least time, in seconds, in which loading and computing can be done
/// together. This is the makespan of a two-machine flow shop (Johnson 1954).
///
/// Weights arrive one group after another, and each group is assumed to take a time proportional to
/// its bytes on the device. A layer is computed when its weights have arrived and the layer before
/// it is computed. Therefore, for every group, the loading up to this group and the computing from
/// this group on follow one another. `groups` has the bytes of the embedding, of the `layers`
/// layers, and of the parameters after them, if any. All layers are assumed to take the same time
/// to compute, and everything else no time.
fn least(load: f64, compute: f64, groups: &[usize], layers: usize) -> f64 {
    let all: usize = groups.iter().sum();
    let mut most = f64::max(load, compute);
    let mut arrived = 0;
    for (group, bytes) in groups.iter().enumerate() {
        arrived += bytes;
        let left = (layers + 1).saturating_sub(group.max(1)) as f64 / layers.max(1) as f64;
        most = most.max(load * arrived as f64 / all.max(1) as f64 + compute * left);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_hidden_is_the_first_layer_or_the_last() {
        // An embedding of size 1, four layers of size 2, and a final norm of size 1.
        let groups = [1, 2, 2, 2, 2, 1];
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} is not {b}");
        // Computing takes longer: it starts when the embedding and the first layer have arrived.
        close(least(1.0, 4.0, &groups, 4), 0.3 + 4.0);
        // Loading takes longer: either the last layer is computed after its weights have arrived,
        // or the final norm arrives last.
        close(least(2.0, 1.0, &groups, 4), 2.0 * 0.9 + 0.25);
        close(least(40.0, 1.0, &groups, 4), 40.0);
        // With all weights in one group, nothing can be hidden. With no weights, there is nothing
        // to hide.
        close(least(2.0, 3.0, &[0, 7], 1), 5.0);
        close(least(0.0, 3.0, &[0, 0], 1), 3.0);
    }

    #[test]
    fn all_is_hidden_where_both_take_the_least() {
        let groups = [1, 2, 2, 2, 2, 1];
        let report = |both| {
            let cold = Cold {
                load: 1.0,
                compute: 4.0,
                both,
            };
            cold.report(&groups, 4)["hidden_of_what_could_be"].as_f64()
        };
        let close = |a: Option<f64>, b: f64| assert!((a.unwrap_or(9.0) - b).abs() < 1e-9, "{a:?}");
        close(report(4.3), 1.0);
        close(report(4.65), 0.5);
        close(report(5.0), 0.0);
        let alone = Cold {
            load: 1.0,
            compute: 4.0,
            both: 5.0,
        };
        assert!(alone.report(&[1, 7], 1)["hidden_of_what_could_be"].is_null());
    }
}
