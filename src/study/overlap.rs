//! Measures how much of the movement of data hides behind computing, over many settings: an
//! [`OverlapReport`].
//!
//! All times of a round come from the trace of the device: the union of the intervals of each
//! engine within the round. `docs/overlap.md` defines every figure.

use std::fmt;
use std::sync::Arc;

use indicatif::HumanCount;
use serde::Serialize;

use super::bench::{one, round_by};
use super::intervals::Intervals;
use super::{Workload, median};
use crate::architecture::ModelConfig;
use crate::backend::BackendError;
use crate::backend::cuda::{CudaError, WeightMode};
use crate::batch::PackedBatch;
use crate::dtype::DType;
use crate::engine::{self, Device, EngineError, Job};
use crate::gpu::cublaslt::Algorithms;
use crate::model::{Embedder, ModelError, Pool, Request};
use crate::trace::{Category, Document, Event, Trace};
use crate::weights::Checkpoint;

/// The numbers of slots that layers are streamed through.
const SLOTS: [usize; 3] = [2, 3, 4];
/// The passes of a round. All of them are full.
const PASSES: usize = 6;
/// The number of different token counts per pass.
const SIZES: usize = 6;
/// The smallest pass of the study, in tokens.
const SMALLEST: usize = 2048;
/// A device is warmed up for this many seconds, because its clock falls under load, by at most so
/// many rounds.
const WARM: (f64, usize) = (0.5, 6);
/// How the names of copies to the device begin in a trace.
const TO_DEVICE: &str = "Memcpy HtoD";
/// How the names of copies to the host begin in a trace.
const TO_HOST: &str = "Memcpy DtoH";
/// Stands for the kernels, whose names differ.
const KERNELS: &str = "kernels";
/// The most intervals that the trace of one setting keeps.
const EVENTS: usize = 1 << 22;

/// What to study.
pub struct OverlapOptions<'a> {
    /// The device.
    pub device: u32,
    /// The dtype of the computation.
    pub dtype: DType,
    /// The lengths of the random sequences, in tokens.
    pub lengths: &'a [usize],
    /// The number of timed rounds of each setting, after some that are not timed.
    pub rounds: usize,
    /// The number of CPU threads.
    pub threads: usize,
    /// The algorithms of the products.
    pub algorithms: Arc<Algorithms>,
    /// Tells the seconds.
    pub clock: &'a dyn Fn() -> f64,
}

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
    /// How far the time of computing is from that of loading: 0 where both are the same.
    pub balance: f64,
    /// The nanoseconds that the pass took.
    pub nanoseconds: u64,
    /// The copies to the device, the kernels, and the copies to the host, from the start of the pass.
    pub lanes: [Vec<(u64, u64)>; 3],
}

/// Studies the settings on one CUDA device. `note` is told each of them.
///
/// # Errors
/// [`EngineError`] if the device fails, or has too little memory for every setting.
pub fn overlap(
    checkpoint: &Checkpoint,
    options: &OverlapOptions<'_>,
    note: &mut dyn FnMut(&Setting),
) -> Result<OverlapReport, EngineError> {
    let config = checkpoint.config();
    let mut study = Study {
        checkpoint,
        options,
        note,
        report: OverlapReport {
            model: format!("{} {}x{}", config.kind, config.layers, config.hidden),
            place: String::new(),
            rounds: options.rounds,
            passes: PASSES,
            load_seconds_per_pass: None,
            points: Vec::new(),
            skipped: Vec::new(),
            timelines: Vec::new(),
        },
        shortage: None,
    };
    for length in options.lengths {
        study.length(*length)?;
    }
    match study.shortage {
        Some(shortage) if study.report.points.is_empty() => Err(shortage),
        _ => Ok(study.report),
    }
}

struct Study<'a, 'b> {
    checkpoint: &'a Checkpoint,
    options: &'a OverlapOptions<'b>,
    note: &'a mut dyn FnMut(&Setting),
    report: OverlapReport,
    /// Why the last setting that was left out does not fit.
    shortage: Option<EngineError>,
}

/// The rounds of a setting.
struct Rounds {
    /// The number of rounds before the timed ones.
    warm: usize,
    /// The seconds of each.
    walls: Vec<f64>,
    /// The tokens of a pass.
    tokens: usize,
    /// The trace, with the warming rounds in it.
    trace: Document,
}

impl Study<'_, '_> {
    fn job(&self, setting: &Setting, budget: Option<usize>) -> Job {
        Job {
            request: Request {
                layers: vec![self.checkpoint.config().layers],
                pools: vec![Pool::Mean],
                per_token: setting.per_token,
            },
            half_states: false,
            token_budget: budget,
            threads: self.options.threads,
            longest: Some(setting.length),
            memory: None,
            algorithms: self.options.algorithms.clone(),
            weights: match setting.slots {
                None => WeightMode::Resident,
                slots => WeightMode::Streamed { slots },
            },
            trace: Trace::in_memory(EVENTS),
        }
    }

    /// Returns whether layers are streamed, and the tokens per pass; `None` if there is too little
    /// memory.
    fn plan(
        &mut self,
        setting: &Setting,
        budget: Option<usize>,
    ) -> Result<Option<(bool, usize)>, EngineError> {
        let device = Device::Cuda {
            devices: vec![self.options.device],
            dtype: self.options.dtype,
            overlap: setting.streams,
        };
        match engine::plan(&device, self.checkpoint, &self.job(setting, budget)) {
            Ok(plan) => {
                let plan = plan.devices.first().ok_or(EngineError::NoDevice)?;
                self.report.place = format!("{} {}", plan.name, self.options.dtype.name());
                Ok(Some((plan.streamed, plan.tokens_per_pass)))
            }
            Err(error) if is_shortage(&error) => {
                self.shortage = Some(error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn length(&mut self, length: usize) -> Result<(), EngineError> {
        let with = |slots, token_budget, streams, per_token| Setting {
            length,
            token_budget,
            slots,
            streams,
            per_token,
        };
        // The default budget, which is the same for all that fit.
        let mut usual = 0;
        let mut streamed = Vec::new();
        for slots in std::iter::once(None).chain(SLOTS.map(Some)) {
            let plan = self.plan(&with(slots, 0, true, false), None)?;
            if let Some((streams, tokens)) = plan {
                usual = usual.max(tokens);
                if streams {
                    streamed.extend(slots);
                }
            }
        }
        let load = match streamed.last() {
            Some(slots) => {
                let alone = with(Some(*slots), length, true, false);
                (self.note)(&alone);
                let rounds = self.rounds(&alone)?;
                Some(median(rounds.walls) / PASSES as f64)
            }
            None => None,
        };
        self.report.load_seconds_per_pass = load;
        let sizes = sizes(length, usual);
        let kinds = |all: bool| -> Vec<Option<usize>> {
            let some = if all { streamed.len() } else { 1 };
            std::iter::once(None)
                .chain(streamed.iter().take(some).map(|s| Some(*s)))
                .collect()
        };
        for size in &sizes {
            for slots in kinds(true) {
                self.point(with(slots, *size, true, false), load)?;
            }
            for slots in kinds(false) {
                self.point(with(slots, *size, false, false), load)?;
            }
        }
        if let Some(size) = sizes.last() {
            for streams in [true, false] {
                for slots in kinds(false) {
                    self.point(with(slots, *size, streams, true), load)?;
                }
            }
        }
        Ok(())
    }

    /// Runs the rounds of a setting, after one that warms the device up.
    fn rounds(&self, setting: &Setting) -> Result<Rounds, EngineError> {
        let job = self.job(setting, Some(setting.token_budget));
        let device = [self.options.device];
        let on = (&device[..], self.options.dtype, setting.streams);
        let mut model = one(on, self.checkpoint, &job)?;
        let budget = model.budget().tokens;
        let batches = batches(self.checkpoint.config(), setting.length, budget);
        let mut round = || round_by(&mut model, &batches, &job, self.options.clock);
        let (mut warm, mut spent) = (0, 0.0);
        while warm == 0 || (spent < WARM.0 && warm < WARM.1) {
            spent += round()?;
            warm += 1;
        }
        let walls: Result<Vec<f64>, EngineError> =
            (0..self.options.rounds).map(|_| round()).collect();
        let walls = walls?;
        // The model reads the last times of the device when it is dropped.
        drop(model);
        Ok(Rounds {
            warm,
            walls,
            tokens: batches.first().map_or(0, PackedBatch::total),
            // The trace of the job is on.
            trace: job.trace.document().ok_or(EngineError::NoDevice)?,
        })
    }

    fn point(&mut self, setting: Setting, load: Option<f64>) -> Result<(), EngineError> {
        if self.plan(&setting, Some(setting.token_budget))?.is_none() {
            let reason = self.shortage.as_ref().map(ToString::to_string);
            let reason = reason.unwrap_or_default();
            self.report.skipped.push(Skipped { setting, reason });
            return Ok(());
        }
        (self.note)(&setting);
        let rounds = self.rounds(&setting)?;
        let seen = Seen::new(&rounds.trace.events);
        let each: Vec<Times> = (rounds.warm..)
            .zip(&rounds.walls)
            .map(|(number, wall)| seen.times(number, *wall))
            .collect();
        let load = load.filter(|_| setting.slots.is_some());
        let point = point(setting.clone(), &rounds, &each, load);
        let balance = (point.compute_seconds / point.load_seconds).ln().abs();
        self.report.points.push(point);
        if !setting.per_token && setting.slots == Some(SLOTS[0]) {
            let last = (rounds.warm + self.options.rounds) * PASSES - 1;
            self.keep(seen.pass(last, setting, balance));
        }
        Ok(())
    }

    /// Keeps the timeline on which most can be seen: of the pass whose loading takes about as long
    /// as its computing.
    fn keep(&mut self, new: Option<PassTimeline>) {
        let Some(new) = new else { return };
        let all = &mut self.report.timelines;
        let known = all
            .iter_mut()
            .find(|old| old.setting.streams == new.setting.streams);
        match known {
            Some(old) if old.balance <= new.balance => {}
            Some(old) => *old = new,
            None => all.push(new),
        }
    }
}

/// The passes of a round: as many whole sequences as fit, the same number in each.
fn batches(config: &ModelConfig, length: usize, budget: usize) -> Vec<PackedBatch> {
    let each = (budget / length).max(1);
    let workload = Workload::random(config, length, PASSES * each * length);
    workload.pack(each * length)
}

/// The numbers of tokens per pass to study: equal ratios apart, the usual number last.
fn sizes(length: usize, usual: usize) -> Vec<usize> {
    let smallest = SMALLEST.max(length).min(usual.max(length)) as f64;
    let ratio = usual.max(length) as f64 / smallest;
    let mut all: Vec<usize> = (0..SIZES)
        .map(|i| (smallest * ratio.powf(i as f64 / (SIZES - 1) as f64)).round() as usize)
        .collect();
    all.dedup();
    all
}

fn is_shortage(error: &EngineError) -> bool {
    match error {
        EngineError::Memory { .. } => true,
        EngineError::Backend(BackendError::Cuda(e))
        | EngineError::Model(ModelError::Backend(BackendError::Cuda(e))) => {
            matches!(**e, CudaError::Memory(_))
        }
        _ => false,
    }
}

/// The times of one round.
#[derive(Debug, Clone, Copy)]
struct Times {
    wall: f64,
    bus: f64,
    compute: f64,
    store: f64,
    copies_hidden: f64,
    stores_hidden: f64,
    idle_loading: f64,
    idle_storing: f64,
}

/// What a trace says of each engine of the device.
struct Seen {
    /// Copies to the device, kernels, and copies to the host.
    engines: [Intervals; 3],
    /// The end of each pass.
    ends: Vec<u64>,
}

impl Seen {
    fn new(events: &[Event]) -> Self {
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
    fn times(&self, round: usize, wall: f64) -> Times {
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
    fn pass(&self, pass: usize, setting: Setting, balance: f64) -> Option<PassTimeline> {
        let start = *self.ends.get(pass.checked_sub(1)?)?;
        let end = *self.ends.get(pass)?;
        let window = Intervals::from_iter([(start, end)]);
        Some(PassTimeline {
            setting,
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

fn point(
    setting: Setting,
    rounds: &Rounds,
    each: &[Times],
    load_per_pass: Option<f64>,
) -> OverlapPoint {
    let middle = |of: fn(&Times) -> f64| median(each.iter().map(of));
    let tokens = (rounds.tokens * PASSES) as f64;
    let (wall, compute, store) = (
        middle(|t| t.wall),
        middle(|t| t.compute),
        middle(|t| t.store),
    );
    let bus = middle(|t| t.bus);
    let load = load_per_pass.map_or(bus, |seconds| seconds * PASSES as f64);
    let exposed = load_per_pass.map(|_| (wall - compute).clamp(0.0, load));
    let (slowest, fastest) = each
        .iter()
        .fold((0f64, f64::INFINITY), |(slowest, fastest), t| {
            (slowest.max(t.wall), fastest.min(t.wall))
        });
    let (loading, storing) = (middle(|t| t.idle_loading), middle(|t| t.idle_storing));
    let idle = (wall - compute).max(0.0);
    let bound = load.max(compute).max(store);
    OverlapPoint {
        setting,
        tokens_per_pass: rounds.tokens,
        tokens_per_second: tokens / wall,
        spread: (1.0 / fastest - 1.0 / slowest) * wall,
        wall_seconds: wall,
        load_seconds: load,
        compute_seconds: compute,
        store_seconds: store,
        bus_seconds: bus,
        hidden_of_load: exposed.map(|exposed| 1.0 - exposed / load),
        ceiling: load_per_pass.map(|_| compute.min(load) / load),
        exposed_load_seconds: exposed,
        copies_hidden: middle(|t| t.copies_hidden),
        stores_hidden: middle(|t| t.stores_hidden),
        load_of_wall: load / wall,
        idle_seconds: idle,
        idle_loading_seconds: loading,
        idle_storing_seconds: storing,
        idle_other_seconds: (idle - loading - storing).max(0.0),
        bound_seconds: bound,
        bound_of_wall: bound / wall,
        dropped: rounds.trace.dropped,
    }
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
            "length {}, {} tokens per pass, {}, streams {}, states of tokens {}",
            self.length,
            self.token_budget,
            self.weights(),
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
        writeln!(
            f,
            "\n{:>6} {:>7} {:<10} {:<7} {:<6} {:>11} {:>6} {:>9} {:>9} {:>9} {:>8} {:>7} {:>7} {:>7} {:>7} {:>7}",
            "length",
            "tokens",
            "weights",
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
            "{:>6} {:>7} {:<10} {:<7} {:<6} {:>11} {:>6} {:>9} {:>9} {:>9} {:>8} {:>7} {:>7} {:>7} {:>7} {:>7}",
            "",
            "/pass",
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
                "{:>6} {:>7} {:<10} {:<7} {:<6} {:>11} {:>6.1} {:>9.2} {:>9.2} {:>9.2} {:>8.2} {:>7} {:>7} {:>7} {:>7} {:>7}",
                p.setting.length,
                p.tokens_per_pass,
                p.setting.weights(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{Args, StreamKind, Track};

    #[test]
    fn sizes_go_up_to_the_usual_one_by_equal_ratios() {
        assert_eq!(
            sizes(350, 65_536),
            [2048, 4096, 8192, 16_384, 32_768, 65_536]
        );
        assert_eq!(sizes(350, 1000), [1000]);
        // A sequence is never cut.
        assert_eq!(sizes(5000, 1000), [5000]);
    }

    #[test]
    fn every_pass_of_a_round_is_full() {
        let config = ModelConfig::esm2(4, 32, 4);
        for (length, budget) in [(350, 2048), (350, 33_792), (1022, 2048), (5000, 2048)] {
            let totals: Vec<usize> = batches(&config, length, budget)
                .iter()
                .map(PackedBatch::total)
                .collect();
            let each = (budget / length).max(1) * length;
            assert_eq!(totals, [each; PASSES], "{length} {budget}");
        }
    }

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
