//! What each operation of a model takes, from the intervals of a trace, and how near it comes to what
//! the machine can do.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::ceilings::Ceilings;
use super::median;
use crate::trace::{Category, Event};

/// The time and the rates of one operation of a model, in one shape, over a round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OperationReport {
    /// The name of the operation.
    pub operation: String,
    /// The columns of the output and of the input, for a matrix product.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shape: Option<[u64; 2]>,
    /// The time of all calls in milliseconds.
    pub milliseconds: f64,
    /// The number of calls.
    pub calls: usize,
    /// The time as a fraction of the time of all operations.
    pub share: f64,
    /// The median time of a call, in microseconds.
    #[serde(default)]
    pub median_microseconds: f64,
    /// The range of the middle eight tenths of the times of a call, as a fraction of the median. Calls
    /// of passes with different numbers of tokens take different times.
    #[serde(default)]
    pub spread: f64,
    /// The floating-point operations per second, in units of 10^12: those of all calls by the time of
    /// all calls. Only for operations that multiply matrices.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tflops: Option<f64>,
    /// The least bytes that have to be moved, per second, in units of 10^9.
    #[serde(default)]
    pub gb_per_s: f64,
    /// The operations per byte.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub intensity: Option<f64>,
    /// What bounds the operation on this machine, `products` or `memory`, and its rate as a fraction
    /// of that ceiling, if the ceilings were measured.
    #[serde(flatten)]
    pub ceiling: Option<OfCeiling>,
}

/// How near an operation comes to its ceiling.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OfCeiling {
    /// `products` (the sustained rate of a large product) or `memory` (a copy on the device).
    pub bound_by: String,
    /// The rate as a fraction of the ceiling.
    pub of_ceiling: f64,
}

impl fmt::Display for OperationReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.shape {
            None => self.operation.clone(),
            Some([outputs, inputs]) => format!("{} {outputs}x{inputs}", self.operation),
        };
        write!(
            f,
            "  {name:<32} {:>10.2} ms {:>5.1} % {:>6} calls {:>10.1} us +-{:<4.1} %",
            self.milliseconds,
            100.0 * self.share,
            self.calls,
            self.median_microseconds,
            50.0 * self.spread,
        )?;
        match self.tflops {
            Some(tflops) if tflops < 1.0 => write!(f, " {:>8.1} GFLOP/s", 1e3 * tflops)?,
            Some(tflops) => write!(f, " {tflops:>8.1} TFLOP/s")?,
            None => write!(f, " {:>8.1} GB/s   ", self.gb_per_s)?,
        }
        if let Some(OfCeiling {
            bound_by,
            of_ceiling,
        }) = &self.ceiling
        {
            write!(f, " {:>5.1} % of {bound_by}", 100.0 * of_ceiling)?;
        }
        Ok(())
    }
}

/// Sums the operations among these intervals, in the order in which they first ran.
pub(super) fn operations(events: &[Event], ceilings: Option<&Ceilings>) -> Vec<OperationReport> {
    let mut order: Vec<(String, Option<[u64; 2]>)> = Vec::new();
    let mut calls: BTreeMap<usize, Vec<&Event>> = BTreeMap::new();
    let is_operation = |e: &&Event| matches!(e.category, Category::Kernel | Category::Operation);
    for event in events.iter().filter(is_operation) {
        let shape = event.args.outputs.zip(event.args.inputs);
        let key = (event.name.clone().into_owned(), shape.map(|(o, i)| [o, i]));
        let number = order.iter().position(|known| *known == key);
        let number = number.unwrap_or_else(|| {
            order.push(key);
            order.len() - 1
        });
        calls.entry(number).or_default().push(event);
    }
    let seconds = |events: &[&Event]| events.iter().map(|e| e.nanoseconds() as f64 / 1e9).sum();
    let total: f64 = calls.values().map(|of| -> f64 { seconds(of) }).sum();
    let each = order.into_iter().zip(calls.values());
    each.map(|((operation, shape), of)| {
        let time: f64 = seconds(of);
        let flops: f64 = of
            .iter()
            .filter_map(|e| e.args.flops)
            .map(|n| n as f64)
            .sum();
        let bytes: f64 = of
            .iter()
            .filter_map(|e| e.args.bytes)
            .map(|n| n as f64)
            .sum();
        let multiplies = flops > 0.0;
        let mut sorted: Vec<f64> = of.iter().map(|e| e.nanoseconds() as f64 / 1e3).collect();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share).round() as usize];
        let middle = median(sorted.iter().copied());
        let ceiling = ceilings.and_then(|ceilings| ceilings.of((flops, bytes), time));
        OperationReport {
            operation,
            shape,
            milliseconds: 1e3 * time,
            calls: of.len(),
            share: time / total,
            median_microseconds: middle,
            spread: (at(0.9) - at(0.1)) / middle,
            tflops: multiplies.then(|| flops / time / 1e12),
            gb_per_s: bytes / time / 1e9,
            intensity: multiplies.then(|| flops / bytes),
            ceiling,
        }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{Args, Track, host};

    fn event(name: &'static str, microseconds: u64, args: Args) -> Event {
        Event {
            track: Track::host(host::COMPUTING, 0),
            name: name.into(),
            category: Category::Operation,
            start_ns: 5_000,
            end_ns: 5_000 + 1000 * microseconds,
            args,
        }
    }

    #[test]
    fn calls_of_one_shape_are_one_row_with_its_rates() {
        let product = |outputs| Args {
            flops: Some(2_000_000_000),
            bytes: Some(1_000_000),
            outputs: Some(outputs),
            inputs: Some(64),
            ..Args::default()
        };
        let moved = Args {
            bytes: Some(3_000_000),
            ..Args::default()
        };
        let events = [
            event("product", 100, product(32)),
            event("gelu", 200, moved),
            event("product", 300, product(32)),
            event("product", 400, product(96)),
            Event {
                category: Category::Stage,
                ..event("launch", 900, Args::default())
            },
        ];
        let ceilings = Ceilings {
            copy_gb_per_s: 30.0,
            product: None,
        };
        let rows = operations(&events, Some(&ceilings));
        assert_eq!(rows.len(), 3);
        let first = &rows[0];
        assert_eq!((first.shape, first.calls), (Some([32, 64]), 2));
        assert!((first.milliseconds - 0.4).abs() < 1e-12);
        assert_eq!(first.median_microseconds, 300.0);
        assert!((first.share - 0.4).abs() < 1e-12);
        assert!((first.tflops.unwrap() - 10.0).abs() < 1e-9);
        assert_eq!(first.intensity, Some(2000.0));
        // There is no ceiling for what multiplies.
        assert_eq!(first.ceiling, None);
        let gelu = &rows[1];
        assert_eq!((gelu.tflops, gelu.intensity), (None, None));
        assert!((gelu.gb_per_s - 15.0).abs() < 1e-9);
        let near = gelu.ceiling.as_ref().unwrap();
        assert_eq!(near.bound_by, "memory");
        assert!((near.of_ceiling - 0.5).abs() < 1e-9);
    }
}
