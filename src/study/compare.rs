//! Compares two measurements of the same workloads, and says what moved by more than the noise.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::operations::OperationReport;
use super::{BenchReport, WorkloadReport};

/// What an earlier report has to hold to be compared.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Earlier {
    /// The kind and the sizes of the model.
    pub model: String,
    /// The devices, and the dtype.
    pub place: String,
    /// The workloads.
    pub workloads: Vec<WorkloadReport>,
}

/// The changes between two reports.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// What differs between the two measurements themselves, such as the device.
    pub differences: Vec<String>,
    /// What both reports have, in the order of the newer one.
    pub changes: Vec<Change>,
    /// What only one of them has.
    pub missing: Vec<String>,
}

/// A figure in two reports.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// The workload, and for an operation its name and shape.
    pub what: String,
    /// The speed in the earlier report: tokens per second, or calls per second.
    pub before: f64,
    /// The speed now.
    pub now: f64,
    /// `now / before`: more than 1 is faster.
    pub ratio: f64,
    /// The larger of the two noises, as a fraction: the range of the rounds around their median, or
    /// half the spread of the calls; `None` if one side was measured only once.
    pub noise: Option<f64>,
    /// Whether the ratio differs from 1 by more than the noise, if that is known.
    pub moved: Option<bool>,
}

impl Change {
    fn new(what: String, [before, now]: [f64; 2], noises: [Option<f64>; 2]) -> Self {
        let ratio = now / before;
        let noise = noises[0].zip(noises[1]).map(|(a, b)| a.max(b));
        Self {
            what,
            before,
            now,
            ratio,
            noise,
            moved: noise.map(|noise| (ratio - 1.0).abs() > noise),
        }
    }
}

/// The range of the rounds, as a fraction of their median, if there are several.
fn noise(workload: &WorkloadReport) -> Option<f64> {
    let most = workload.rounds.iter().copied().fold(f64::MIN, f64::max);
    let least = workload.rounds.iter().copied().fold(f64::MAX, f64::min);
    (workload.rounds.len() > 1).then(|| (most - least) / workload.tokens_per_second)
}

impl Comparison {
    /// Compares an earlier report with a newer one. Workloads are the same if they have the same name
    /// and number of tokens, and operations if they have the same name and shape.
    pub fn new(earlier: &Earlier, now: &BenchReport) -> Self {
        let mut comparison = Self {
            differences: Vec::new(),
            changes: Vec::new(),
            missing: Vec::new(),
        };
        for (what, before, now) in [
            ("model", &earlier.model, &now.model),
            ("place", &earlier.place, &now.place),
        ] {
            if before != now {
                let difference = format!("{what}: {before} before, {now} now");
                comparison.differences.push(difference);
            }
        }
        let same = |a: &WorkloadReport, b: &WorkloadReport| {
            (&a.workload, a.tokens) == (&b.workload, b.tokens)
        };
        let name = |w: &WorkloadReport| format!("{} ({} tokens)", w.workload, w.tokens);
        for new in &now.workloads {
            match earlier.workloads.iter().find(|old| same(old, new)) {
                Some(old) => comparison.workload(old, new),
                None => comparison.missing.push(format!("{}: only now", name(new))),
            }
        }
        let gone = earlier.workloads.iter();
        let gone = gone.filter(|old| !now.workloads.iter().any(|new| same(old, new)));
        let gone = gone.map(|old| format!("{}: only before", name(old)));
        comparison.missing.extend(gone);
        comparison
    }

    fn workload(&mut self, old: &WorkloadReport, new: &WorkloadReport) {
        let rates = [old.tokens_per_second, new.tokens_per_second];
        self.changes.push(Change::new(
            new.workload.clone(),
            rates,
            [noise(old), noise(new)],
        ));
        let same = |a: &OperationReport, b: &OperationReport| {
            (&a.operation, a.shape) == (&b.operation, b.shape)
        };
        for now in &new.operations {
            let Some(before) = old.operations.iter().find(|old| same(old, now)) else {
                continue;
            };
            let speed = |o: &OperationReport| o.calls as f64 / (o.milliseconds / 1e3);
            let shape = now
                .shape
                .map_or(String::new(), |[o, i]| format!(" {o}x{i}"));
            let what = format!("{}, {}{shape}", new.workload, now.operation);
            let noises = [before, now].map(|o| (o.calls > 1).then_some(o.spread / 2.0));
            let rates = [speed(before), speed(now)];
            self.changes.push(Change::new(what, rates, noises));
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for difference in &self.differences {
            writeln!(f, "compared with another measurement: {difference}")?;
        }
        for change in &self.changes {
            let verdict = match (change.moved, change.ratio > 1.0) {
                (None, _) => "no verdict from one round",
                (Some(false), _) => "within the noise",
                (Some(true), true) => "faster",
                (Some(true), false) => "slower",
            };
            let noise = change.noise.map_or_else(
                || "unknown".into(),
                |noise| format!("{:.1} %", 100.0 * noise),
            );
            writeln!(
                f,
                "{:<52} x{:.3} (noise {noise}): {verdict}",
                change.what, change.ratio,
            )?;
        }
        self.missing.iter().try_for_each(|m| writeln!(f, "{m}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(name: &str, rounds: &[f64], operation: f64) -> WorkloadReport {
        WorkloadReport {
            workload: name.into(),
            tokens: 1000,
            batches: 2,
            tokens_per_second: rounds[rounds.len() / 2],
            rounds: rounds.to_vec(),
            products: None,
            power: None,
            operations: vec![OperationReport {
                operation: "product".into(),
                shape: Some([64, 32]),
                milliseconds: operation,
                calls: 10,
                share: 1.0,
                median_microseconds: 100.0 * operation,
                spread: 0.04,
                tflops: Some(1.0),
                gb_per_s: 1.0,
                intensity: Some(1.0),
                ceiling: None,
            }],
        }
    }

    #[test]
    fn what_moved_beyond_the_noise_is_told_from_what_did_not() {
        let now = BenchReport {
            model: "m".into(),
            place: "card B".into(),
            workloads: vec![
                workload("length 350", &[98.0, 100.0, 101.0], 2.0),
                workload("length 20", &[100.0], 2.0),
            ],
            ..BenchReport::default()
        };
        let earlier = Earlier {
            model: "m".into(),
            place: "card A".into(),
            workloads: vec![
                workload("length 350", &[99.0, 99.0, 99.5], 1.8),
                workload("length 7", &[1.0], 1.0),
            ],
        };
        let comparison = Comparison::new(&earlier, &now);
        assert_eq!(comparison.differences, ["place: card A before, card B now"]);
        let [rate, operation] = &comparison.changes[..] else {
            panic!("{comparison:?}");
        };
        // 1 % faster, and the rounds differ by 3 %.
        assert!(rate.moved == Some(false) && (rate.ratio - 100.0 / 99.0).abs() < 1e-12);
        assert!((rate.noise.unwrap() - 0.03).abs() < 1e-12);
        // 10 % slower, and the calls differ by 2 % to either side.
        assert!(operation.moved == Some(true) && (operation.ratio - 0.9).abs() < 1e-12);
        assert_eq!(operation.what, "length 350, product 64x32");
        assert_eq!(
            comparison.missing,
            [
                "length 20 (1000 tokens): only now",
                "length 7 (1000 tokens): only before"
            ]
        );
        let text = comparison.to_string();
        assert!(text.contains("x0.900 (noise 2.0 %): slower"), "{text}");
        assert!(text.contains("within the noise"), "{text}");
        // One round says nothing of the noise.
        let once = Earlier {
            workloads: vec![workload("length 350", &[50.0], 1.8)],
            ..earlier
        };
        let change = &Comparison::new(&once, &now).changes[0];
        assert_eq!((change.noise, change.moved), (None, None));
    }
}
