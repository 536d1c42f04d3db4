//! What a trace says of a device: which of its engines ran, and when.

use super::{PASSES, PassTimeline, Setting};
use crate::study::intervals::Intervals;
use crate::trace::{Category, Event};

/// How the names of copies to the device begin in a trace.
const TO_DEVICE: &str = "Memcpy HtoD";
/// How the names of copies to the host begin in a trace.
const TO_HOST: &str = "Memcpy DtoH";
/// Stands for the kernels, whose names differ.
const KERNELS: &str = "kernels";

/// The times of one round.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) wall: f64,
    pub(super) bus: f64,
    pub(super) compute: f64,
    pub(super) store: f64,
    pub(super) copies_hidden: f64,
    pub(super) stores_hidden: f64,
    pub(super) idle_loading: f64,
    pub(super) idle_storing: f64,
}

/// What a trace says of each engine of the device.
pub(super) struct Seen {
    /// Copies to the device, kernels, and copies to the host.
    engines: [Intervals; 3],
    /// The end of each pass.
    ends: Vec<u64>,
}

impl Seen {
    pub(super) fn new(events: &[Event]) -> Self {
        // Without streams, everything is on one track, so tracks do not tell what a copy is.
        let of = |engine: &str| -> Vec<&Event> {
            let found = events.iter();
            found
                .filter(|e| match e.category {
                    Category::Copy => e.name.starts_with(engine),
                    Category::Kernel => engine == KERNELS,
                    _ => false,
                })
                .collect()
        };
        let stores = of(TO_HOST);
        let mut ends = Vec::new();
        for event in &stores {
            let pass = event.args.pass.unwrap_or(0) as usize;
            if ends.len() <= pass {
                ends.resize(pass + 1, 0);
            }
            ends[pass] = event.end_ns.max(ends[pass]);
        }
        let merged = |events: Vec<&Event>| events.iter().map(|e| (e.start_ns, e.end_ns)).collect();
        Self {
            engines: [merged(of(TO_DEVICE)), merged(of(KERNELS)), merged(stores)],
            ends,
        }
    }

    /// Returns the times of a round, whose end is that of its last pass. Round 0 is the first one.
    pub(super) fn times(&self, round: usize, wall: f64) -> Times {
        let end = self.ends.get((round + 1) * PASSES - 1).copied();
        let end = end.unwrap_or_default();
        let start = end.saturating_sub((wall * 1e9) as u64);
        let window = Intervals::from_iter([(start, end)]);
        let [load, compute, store] = self.engines.each_ref().map(|e| e.intersection(&window));
        let seconds = |times: &Intervals| times.total() as f64 / 1e9;
        let hidden = |times: &Intervals| {
            let all = times.total();
            if all == 0 {
                return 0.0;
            }
            times.intersection(&compute).total() as f64 / all as f64
        };
        let loading = load.without(&compute);
        let storing = store.without(&compute.union(&load));
        Times {
            wall,
            bus: seconds(&load),
            compute: seconds(&compute),
            store: seconds(&store),
            copies_hidden: hidden(&load),
            stores_hidden: hidden(&store),
            idle_loading: seconds(&loading),
            idle_storing: seconds(&storing),
        }
    }

    /// Returns what ran from the end of the pass before to the end of this pass.
    pub(super) fn pass(
        &self,
        pass: usize,
        setting: Setting,
        (tokens, balance): (usize, f64),
    ) -> Option<PassTimeline> {
        let start = *self.ends.get(pass.checked_sub(1)?)?;
        let end = *self.ends.get(pass)?;
        let window = Intervals::from_iter([(start, end)]);
        Some(PassTimeline {
            setting,
            tokens,
            balance,
            nanoseconds: end.saturating_sub(start),
            lanes: self.engines.each_ref().map(|engine| {
                let within = engine.intersection(&window);
                let shifted = within
                    .as_slice()
                    .iter()
                    .map(|(a, b)| (a - start, b - start));
                shifted.collect()
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{Args, StreamKind, Track};

    fn event(name: &'static str, pass: u64, start_ns: u64, end_ns: u64) -> Event {
        Event {
            // The track does not matter.
            track: Track::Stream {
                device: 0,
                stream: StreamKind::Compute,
                number: 0,
            },
            name: name.into(),
            category: match name {
                "attention" => Category::Kernel,
                "wait for weights" => Category::FenceWait,
                _ => Category::Copy,
            },
            start_ns,
            end_ns,
            args: Args {
                pass: Some(pass),
                ..Args::default()
            },
        }
    }

    #[test]
    fn the_time_of_a_round_is_divided_by_what_ran() {
        // The second round lasts from 1,000 to 2,000.
        let last = 2 * PASSES as u64 - 1;
        let events = [
            event("Memcpy DtoH (Device -> Pinned)", last, 1900, 2000),
            event("Memcpy HtoD (Pinned -> Device)", last, 900, 1200),
            event("Memcpy HtoD (Pinned -> Device)", last + 1, 1950, 2100),
            event("wait for weights", last, 1000, 2000),
            event("attention", last, 1100, 1500),
            event("attention", last, 1400, 1700),
        ];
        let seen = Seen::new(&events);
        let times = seen.times(1, 1000e-9);
        let ns = |seconds: f64| (seconds * 1e9).round();
        assert_eq!(ns(times.bus), 250.0);
        assert_eq!((ns(times.compute), ns(times.store)), (600.0, 100.0));
        assert_eq!((times.copies_hidden, times.stores_hidden), (0.4, 0.0));
        assert_eq!(
            (ns(times.idle_loading), ns(times.idle_storing)),
            (150.0, 50.0)
        );
    }
}
