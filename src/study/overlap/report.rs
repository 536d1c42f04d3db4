//! What the study of overlap found, as data and as a table.

use std::fmt;

use indicatif::HumanCount;
use serde::Serialize;

/// What the study found. It is displayed as a table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OverlapReport {
    /// The kind and the sizes of the model.
    pub model: String,
    /// The device, and the dtype.
    pub place: String,
    /// The number of timed rounds of each point.
    pub rounds: usize,
    /// The number of passes of a round.
    pub passes: usize,
    /// The seconds that loading all layers once takes by itself; `None` if no layers were streamed.
    pub load_seconds_per_pass: Option<f64>,
    /// The same for other ways to the device.
    pub other_loads: Vec<Alone>,
    /// The settings, and what was measured.
    pub points: Vec<OverlapPoint>,
    /// The settings for which the device has too little memory.
    pub skipped: Vec<Skipped>,
    /// The passes that the timelines show.
    #[serde(skip)]
    pub timelines: Vec<PassTimeline>,
}

/// One setting of the study.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Setting {
    /// The tokens of each sequence.
    pub length: usize,
    /// The tokens of a pass that were asked for.
    pub token_budget: usize,
    /// The number of slots that layers are streamed through; `None` if all layers stay.
    pub slots: Option<usize>,
    /// Whether work on different streams may overlap.
    pub streams: bool,
    /// Whether the states of all tokens go to the host.
    pub per_token: bool,
    /// How weights get to the device.
    pub bus: Bus,
}

/// How weights get to the device.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(into = "String")]
pub enum Bus {
    /// Through pinned memory, as fast as the bus takes it: as in a job.
    Pinned,
    /// Out of the mapped file, which is pageable memory.
    Pageable,
    /// Through pinned memory, so many bytes per second in units of 10^9: as on a slower bus.
    Throttled(u32),
}

impl fmt::Display for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pinned => f.write_str("pinned"),
            Self::Pageable => f.write_str("pageable"),
            Self::Throttled(rate) => write!(f, "{rate} GB/s"),
        }
    }
}

impl From<Bus> for String {
    fn from(bus: Bus) -> Self {
        bus.to_string()
    }
}

/// The time that loading all layers once takes by itself, for one way to the device.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Alone {
    /// How the weights get to the device.
    pub bus: Bus,
    /// The seconds.
    pub load_seconds: f64,
}

/// A setting that was left out, and why.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Skipped {
    /// The setting.
    #[serde(flatten)]
    pub setting: Setting,
    /// The reason.
    pub reason: String,
}

/// What was measured in one setting: medians over the rounds, in seconds per round.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OverlapPoint {
    /// The setting.
    #[serde(flatten)]
    pub setting: Setting,
    /// The tokens of a pass.
    pub tokens_per_pass: usize,
    /// The tokens per second.
    pub tokens_per_second: f64,
    /// The greatest rate less the smallest one, as a fraction of the median.
    pub spread: f64,
    /// The time of a round.
    pub wall_seconds: f64,
    /// The time of loading by itself: of streamed layers from the file to the device, and otherwise
    /// of the copies to the device, which are token ids.
    pub load_seconds: f64,
    /// The time in which kernels run.
    pub compute_seconds: f64,
    /// The time in which results are copied to the host.
    pub store_seconds: f64,
    /// The time in which something is copied to the device. In a simulation a copy also waits for
    /// the host, which fills pinned memory.
    pub bus_seconds: f64,
    /// The fraction of the loading of streamed layers that takes no time of the round.
    pub hidden_of_load: Option<f64>,
    /// The fraction of the loading that could be hidden at best.
    pub ceiling: Option<f64>,
    /// The time of loading that is not hidden.
    pub exposed_load_seconds: Option<f64>,
    /// The fraction of the time of copies to the device in which kernels run.
    pub copies_hidden: f64,
    /// The fraction of the time of copies to the host in which kernels run.
    pub stores_hidden: f64,
    /// The time of loading as a fraction of the time of the round.
    pub load_of_wall: f64,
    /// The time in which no kernel runs.
    pub idle_seconds: f64,
    /// The part of it in which something is copied to the device.
    pub idle_loading_seconds: f64,
    /// The part of it in which results are copied to the host, and nothing to the device.
    pub idle_storing_seconds: f64,
    /// The rest of it: launches, and waits for the host.
    pub idle_other_seconds: f64,
    /// The greatest of the times of loading, computing and storing: no round can be shorter.
    pub bound_seconds: f64,
    /// That as a fraction of the time of the round.
    pub bound_of_wall: f64,
    /// The number of intervals that are missing in the trace. The times are too short if there
    /// are any.
    pub dropped: u64,
}

/// What ran during one pass.
#[derive(Debug, Clone, PartialEq)]
pub struct PassTimeline {
    /// The setting.
    pub setting: Setting,
    /// The tokens of the pass.
    pub tokens: usize,
    /// How far the time of computing is from that of loading: 0 where both are the same.
    pub balance: f64,
    /// The nanoseconds that the pass took.
    pub nanoseconds: u64,
    /// The copies to the device, the kernels, and the copies to the host, from the start of the pass.
    pub lanes: [Vec<(u64, u64)>; 3],
}

impl Setting {
    /// Returns how the weights are kept: `resident`, or `streamed:2`.
    pub fn weights(&self) -> String {
        match self.slots {
            None => "resident".into(),
            Some(slots) => format!("streamed:{slots}"),
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = |on: bool| if on { "on" } else { "off" };
        write!(
            f,
            "length {}, {} tokens per pass, {} ({}), streams {}, states of tokens {}",
            self.length,
            self.token_budget,
            self.weights(),
            self.bus,
            on(self.streams),
            on(self.per_token)
        )
    }
}

impl fmt::Display for OverlapReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, {}", self.model, self.place)?;
        writeln!(
            f,
            "{} passes per round, {}; times per pass",
            self.passes,
            match self.rounds {
                1 => "one round".into(),
                n => format!("medians of {n} rounds"),
            }
        )?;
        if let Some(load) = self.load_seconds_per_pass {
            writeln!(f, "loading all layers alone: {:.2} ms", 1e3 * load)?;
        }
        for Alone { bus, load_seconds } in &self.other_loads {
            writeln!(
                f,
                "loading all layers alone, {bus}: {:.2} ms",
                1e3 * load_seconds
            )?;
        }
        writeln!(
            f,
            "\n{:>6} {:>7} {:<10} {:<8} {:<7} {:<6} {:>11} {:>6} {:>9} {:>9} {:>9} {:>8} {:>7} {:>7} {:>7} {:>7} {:>7}",
            "length",
            "tokens",
            "weights",
            "bus",
            "streams",
            "states",
            "tokens/s",
            "spread",
            "wall",
            "load",
            "compute",
            "store",
            "hidden",
            "ceiling",
            "load",
            "idle",
            "bound"
        )?;
        writeln!(
            f,
            "{:>6} {:>7} {:<10} {:<8} {:<7} {:<6} {:>11} {:>6} {:>9} {:>9} {:>9} {:>8} {:>7} {:>7} {:>7} {:>7} {:>7}",
            "",
            "/pass",
            "",
            "",
            "",
            "",
            "",
            "%",
            "ms",
            "ms",
            "ms",
            "ms",
            "% load",
            "% load",
            "% wall",
            "% wall",
            "% wall"
        )?;
        for p in &self.points {
            let on = |on: bool| if on { "on" } else { "off" };
            let ms = |seconds: f64| 1e3 * seconds / self.passes as f64;
            let share = |share: Option<f64>| {
                share.map_or_else(|| "-".into(), |share| format!("{:.1}", 100.0 * share))
            };
            writeln!(
                f,
                "{:>6} {:>7} {:<10} {:<8} {:<7} {:<6} {:>11} {:>6.1} {:>9.2} {:>9.2} {:>9.2} {:>8.2} {:>7} {:>7} {:>7} {:>7} {:>7}",
                p.setting.length,
                p.tokens_per_pass,
                p.setting.weights(),
                p.setting.bus.to_string(),
                on(p.setting.streams),
                on(p.setting.per_token),
                HumanCount(p.tokens_per_second as u64).to_string(),
                100.0 * p.spread,
                ms(p.wall_seconds),
                ms(p.load_seconds),
                ms(p.compute_seconds),
                ms(p.store_seconds),
                share(p.hidden_of_load),
                share(p.ceiling),
                share(Some(p.load_of_wall)),
                share(Some(p.idle_seconds / p.wall_seconds)),
                share(Some(p.bound_of_wall)),
            )?;
        }
        let dropped: u64 = self.points.iter().map(|p| p.dropped).sum();
        if dropped > 0 {
            writeln!(
                f,
                "{} intervals are missing in the traces: times of loading, computing and storing are too short",
                HumanCount(dropped)
            )?;
        }
        for skipped in &self.skipped {
            writeln!(f, "left out: {}: {}", skipped.setting, skipped.reason)?;
        }
        Ok(())
    }
}
