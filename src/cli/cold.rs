//! `seqstream bench --cold`: how much of the loading of weights hides behind computing.

use std::time::Instant;

use serde_json::{Value, json};

use super::Failure;
use super::bench::{Measure, Workload, median, one, pack};
use seqstream::backend::BackendError;
use seqstream::dtype::DType;
use seqstream::engine::{self, Job};
use seqstream::weights::Checkpoint;

/// Cold starts that are measured, and one before them: each is a few tenths of a second, with noise of a few percent.
const COLD_ROUNDS: usize = 5;

/// Cold starts, their medians, seconds.
///
/// The job is the first batch that a job of the workload would have: of about as much computing as loading, so that one
/// can be told from noise of the other. Both ways compute it for the first time on a new model, with all that comes up
/// then: after loading, or meanwhile.
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
    // The first reads the file into the system's cache, and chooses algorithms.
    for round in 0..=COLD_ROUNDS {
        // Loading, then computing.
        let mut model = one(on, checkpoint, job, measure.console)?;
        let start = Instant::now();
        model.backend_mut().settle().map_err(failed)?;
        let loading = start.elapsed().as_secs_f64();
        groups = model.backend_mut().group_bytes().map_err(failed)?.to_vec();
        let multiprocessors = model.backend().device().multiprocessors as usize;
        let room = model.limits().tokens;
        let budget = engine::first_budget(job, multiprocessors, room);
        let mut batches = pack(&workload.sequences, budget);
        batches.truncate(1);
        let computing = measure.round(&mut model, &batches)?;
        drop(model);
        // Both at once: from when the weights are on their way to the last result.
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
    // Each its own median: one of a round that was disturbed says nothing of the others'.
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

/// Seconds of a cold start.
struct Cold {
    load: f64,
    /// Once all is loaded.
    compute: f64,
    /// Of both at once.
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
        // Where nothing can be hidden, no share of it is: null.
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

/// About the least seconds that loading and computing take together. Weights arrive a group after the other, in a time that
/// is taken to go by their bytes on the device, and a layer is computed when it is there and the one before it is computed.
/// So the loading up to any group and the computing from that group on come one after the other: the makespan of a flow
/// shop of two machines (Johnson 1954). Groups: the embedding, `layers` layers, of which each takes as long to compute, and
/// what comes after them, where there is anything; beside the layers nothing is taken to need any time to compute.
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
        // An embedding of 1, four layers of 2, a last norm of 1.
        let groups = [1, 2, 2, 2, 2, 1];
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} is not {b}");
        // Computing takes longer: it begins once the embedding and the first layer are there.
        close(least(1.0, 4.0, &groups, 4), 0.3 + 4.0);
        // Loading takes longer: the last layer is computed after the loading up to it, or the norm comes last.
        close(least(2.0, 1.0, &groups, 4), 2.0 * 0.9 + 0.25);
        close(least(40.0, 1.0, &groups, 4), 40.0);
        // All in one group: nothing can be hidden, and no weights: nothing is to be.
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
