//! Measures how much of the loading of weights is hidden behind computing.

use std::fmt;
use std::time::Instant;

use serde::Serialize;

use super::bench::{failed, one, round};
use super::{Workload, median};
use crate::dtype::DType;
use crate::engine::{EngineError, Job};
use crate::model::Embedder;
use crate::weights::Checkpoint;

/// Number of measured cold starts, after one that is not measured. A cold start takes a few tenths
/// of a second, with a noise of a few percent.
const COLD_ROUNDS: usize = 5;

/// The times of cold starts, and how much of the loading was hidden behind computing. Each figure is
/// the median of its own values, so that a disturbance of one figure does not affect the others.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ColdStart {
    /// The medians.
    #[serde(flatten)]
    pub medians: ColdRound,
    /// What was computed.
    pub workload: String,
    /// The bytes on the device of the weights that are loaded together, in the order of loading.
    pub layer_bytes: Vec<usize>,
    /// The measured cold starts.
    pub rounds: Vec<ColdRound>,
}

/// The times of a cold start, and what they say.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ColdRound {
    /// The time of loading alone.
    pub load_seconds: f64,
    /// The time of computing alone, after loading.
    pub compute_seconds: f64,
    /// The time of loading and computing together.
    pub overlapped_seconds: f64,
    /// An estimate of the least time in which both can be done together.
    pub least_seconds: f64,
    /// The hidden fraction of the loading.
    pub hidden_of_load: f64,
    /// The hidden fraction of what could be hidden; `None` if nothing can be hidden.
    pub hidden_of_what_could_be: Option<f64>,
}

impl fmt::Display for ColdStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let m = &self.medians;
        write!(
            f,
            "cold start: {:.3} s to load, {:.3} s to compute, {:.3} s overlapped, of about {:.3} at least: ",
            m.load_seconds, m.compute_seconds, m.overlapped_seconds, m.least_seconds
        )?;
        match m.hidden_of_what_could_be {
            Some(hidden) => write!(f, "{:.1} % of what could be hidden is", 100.0 * hidden),
            None => f.write_str("nothing could be hidden"),
        }
    }
}

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
) -> Result<ColdStart, EngineError> {
    let layers = checkpoint.config().layers;
    let mut rounds = Vec::new();
    let mut layer_bytes = Vec::new();
    // The first round reads the file into the cache of the system and chooses the algorithms.
    for number in 0..=COLD_ROUNDS {
        // Loading first, then computing.
        let mut model = one(on, checkpoint, job)?;
        let start = Instant::now();
        model.backend_mut().settle().map_err(failed)?;
        let loading = start.elapsed().as_secs_f64();
        layer_bytes = model.backend().layer_bytes().to_vec();
        let mut batches = workload.pack(model.budget().first_tokens);
        batches.truncate(1);
        let computing = round(&mut model, &batches, job)?;
        drop(model);
        // Loading and computing at the same time: from the start of the transfer of the weights to
        // the last result.
        let mut model = one(on, checkpoint, job)?;
        let together = round(&mut model, &batches, job)?;
        if number > 0 {
            rounds.push(ColdRound::new(
                loading,
                computing,
                together,
                &layer_bytes,
                layers,
            ));
        }
    }
    Ok(ColdStart {
        medians: medians(&rounds),
        workload: format!("{}, one batch", workload.name),
        layer_bytes,
        rounds,
    })
}

fn medians(rounds: &[ColdRound]) -> ColdRound {
    let middle = |of: fn(&ColdRound) -> f64| median(rounds.iter().map(of));
    let hidden = median(rounds.iter().filter_map(|r| r.hidden_of_what_could_be));
    ColdRound {
        load_seconds: middle(|r| r.load_seconds),
        compute_seconds: middle(|r| r.compute_seconds),
        overlapped_seconds: middle(|r| r.overlapped_seconds),
        least_seconds: middle(|r| r.least_seconds),
        hidden_of_load: middle(|r| r.hidden_of_load),
        hidden_of_what_could_be: Some(hidden).filter(|hidden| hidden.is_finite()),
    }
}

impl ColdRound {
    /// Works out how much was hidden, from the seconds of loading, of computing, and of both
    /// together.
    pub(super) fn new(
        load: f64,
        compute: f64,
        both: f64,
        layer_bytes: &[usize],
        layers: usize,
    ) -> Self {
        let least = least(load, compute, layer_bytes, layers);
        // If nothing can be hidden, the hidden fraction is undefined.
        let could = load + compute - least;
        Self {
            load_seconds: load,
            compute_seconds: compute,
            overlapped_seconds: both,
            least_seconds: least,
            hidden_of_load: 1.0 - (both - compute) / load,
            hidden_of_what_could_be: (could > 1e-9).then(|| (load + compute - both) / could),
        }
    }
}

/// Returns an estimate of the least time, in seconds, in which loading and computing can be done
/// together. This is the makespan of a two-machine flow shop (Johnson 1954).
///
/// Weights arrive one layer after another, and each layer is assumed to take a time proportional to
/// its bytes on the device. A layer is computed when its weights have arrived and the layer before
/// it is computed. Therefore, for every layer, the loading up to this layer and the computing from
/// this layer on follow one another. `layer_bytes` has the bytes of the embedding, of the `layers`
/// encoder layers, and of the parameters after them, if any. All encoder layers are assumed to take
/// the same time to compute, and everything else no time.
fn least(load: f64, compute: f64, layer_bytes: &[usize], layers: usize) -> f64 {
    let all: usize = layer_bytes.iter().sum();
    let mut most = f64::max(load, compute);
    let mut arrived = 0;
    for (layer, bytes) in layer_bytes.iter().enumerate() {
        arrived += bytes;
        let left = (layers + 1).saturating_sub(layer.max(1)) as f64 / layers.max(1) as f64;
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
        let layer_bytes = [1, 2, 2, 2, 2, 1];
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} is not {b}");
        // Computing takes longer: it starts when the embedding and the first layer have arrived.
        close(least(1.0, 4.0, &layer_bytes, 4), 0.3 + 4.0);
        // Loading takes longer: either the last layer is computed after its weights have arrived,
        // or the final norm arrives last.
        close(least(2.0, 1.0, &layer_bytes, 4), 2.0 * 0.9 + 0.25);
        close(least(40.0, 1.0, &layer_bytes, 4), 40.0);
        // With all weights in one layer, nothing can be hidden. With no weights, there is nothing
        // to hide.
        close(least(2.0, 3.0, &[0, 7], 1), 5.0);
        close(least(0.0, 3.0, &[0, 0], 1), 3.0);
    }

    #[test]
    fn all_is_hidden_where_both_take_the_least() {
        let layer_bytes = [1, 2, 2, 2, 2, 1];
        let hidden = |both| ColdRound::new(1.0, 4.0, both, &layer_bytes, 4).hidden_of_what_could_be;
        let close = |a: Option<f64>, b: f64| assert!((a.unwrap_or(9.0) - b).abs() < 1e-9, "{a:?}");
        close(hidden(4.3), 1.0);
        close(hidden(4.65), 0.5);
        close(hidden(5.0), 0.0);
        let nothing = ColdRound::new(1.0, 4.0, 5.0, &[1, 7], 1);
        assert_eq!(nothing.hidden_of_what_could_be, None);
    }

    #[test]
    fn each_figure_has_its_own_median() {
        let layer_bytes = [1, 2, 2, 2, 2, 1];
        let round = |load, compute, both| ColdRound::new(load, compute, both, &layer_bytes, 4);
        let rounds = vec![
            round(1.0, 9.0, 9.3),
            round(3.0, 4.0, 5.0),
            round(2.0, 5.0, 7.0),
        ];
        let mut report = ColdStart {
            medians: medians(&rounds),
            workload: "length 9, one batch".into(),
            layer_bytes: layer_bytes.into(),
            rounds,
        };
        assert_eq!(report.medians.load_seconds, 2.0);
        assert_eq!(report.medians.compute_seconds, 5.0);
        assert_eq!(report.medians.overlapped_seconds, 7.0);
        assert!(
            report
                .to_string()
                .ends_with(" % of what could be hidden is")
        );
        let json = serde_json::to_value(&report).unwrap();
        let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
        assert_eq!(
            keys,
            [
                "load_seconds",
                "compute_seconds",
                "overlapped_seconds",
                "least_seconds",
                "hidden_of_load",
                "hidden_of_what_could_be",
                "workload",
                "layer_bytes",
                "rounds"
            ]
        );
        assert_eq!(json["rounds"][1]["load_seconds"], 3.0);
        // Where nothing could be hidden, there is no fraction.
        report.rounds = vec![ColdRound::new(1.0, 4.0, 5.0, &[1, 7], 1)];
        report.medians = medians(&report.rounds);
        assert!(
            report
                .to_string()
                .ends_with("at least: nothing could be hidden")
        );
        let json = serde_json::to_value(&report).unwrap();
        assert!(json["hidden_of_what_could_be"].is_null());
    }
}
