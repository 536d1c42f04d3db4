//! Measures how much of the movement of data hides behind computing, over many settings: an
//! [`OverlapReport`].
//!
//! All times of a round come from the trace of the device: the union of the intervals of each
//! engine within the round. `docs/overlap.md` defines every figure.

mod report;
mod seen;

use std::sync::Arc;

use super::bench::{one, round_by};
use super::{Workload, median};
use crate::architecture::ModelConfig;
use crate::backend::BackendError;
use crate::backend::cuda::{CudaError, WeightMode};
use crate::batch::PackedBatch;
use crate::dtype::DType;
use crate::engine::{self, Device, EngineError, Job};
use crate::gpu::cublaslt::Algorithms;
use crate::gpu::stream::Loading;
use crate::model::{Embedder, ModelError, Pool, Request};
use crate::trace::{Document, Trace};
use crate::weights::Checkpoint;

pub use report::{Alone, Bus, OverlapPoint, OverlapReport, PassTimeline, Setting, Skipped};
use seen::{Seen, Times};

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
    /// The ways to the device that are studied besides the usual one.
    pub buses: &'a [Bus],
    /// The algorithms of the products.
    pub algorithms: Arc<Algorithms>,
    /// Tells the seconds.
    pub clock: &'a dyn Fn() -> f64,
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
            other_loads: Vec::new(),
            points: Vec::new(),
            skipped: Vec::new(),
            timelines: Vec::new(),
        },
        shortage: None,
    };
    for length in options.lengths {
        study.length(*length)?;
    }
    choose(&mut study.report.timelines);
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
            loading: match setting.bus {
                Bus::Pinned => Loading::default(),
                Bus::Pageable => Loading {
                    pageable: true,
                    ..Loading::default()
                },
                Bus::Throttled(rate) => Loading {
                    bytes_per_second: Some(u64::from(rate) * 1_000_000_000),
                    ..Loading::default()
                },
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
            bus: Bus::Pinned,
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
        let alone = |study: &mut Self, bus: Bus| -> Result<Option<f64>, EngineError> {
            let Some(slots) = streamed.last() else {
                return Ok(None);
            };
            let alone = with(Some(*slots), length, true, false);
            let alone = Setting { bus, ..alone };
            (study.note)(&alone);
            let rounds = study.rounds(&alone)?;
            Ok(Some(median(rounds.walls) / PASSES as f64))
        };
        let load = alone(self, Bus::Pinned)?;
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
        // Other ways to the device: with streams, and through the fewest slots.
        for bus in self.options.buses {
            let Some(load_seconds) = alone(self, *bus)? else {
                break;
            };
            let other = Alone {
                bus: *bus,
                load_seconds,
            };
            self.report.other_loads.push(other);
            for size in &sizes {
                let slots = streamed.first().copied();
                let setting = Setting {
                    bus: *bus,
                    ..with(slots, *size, true, false)
                };
                self.point(setting, Some(load_seconds))?;
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
        let usual = !setting.per_token && setting.bus == Bus::Pinned;
        if usual && setting.slots == Some(SLOTS[0]) {
            let last = (rounds.warm + self.options.rounds) * PASSES - 1;
            let pass = seen.pass(last, setting, (rounds.tokens, balance));
            self.report.timelines.extend(pass);
        }
        Ok(())
    }
}

/// Keeps the two timelines on which most can be seen: of the setting whose loading takes about as long
/// as its computing, with streams and without.
fn choose(timelines: &mut Vec<PassTimeline>) {
    let overlapping = timelines.iter().filter(|t| t.setting.streams);
    let best = overlapping.min_by(|a, b| a.balance.total_cmp(&b.balance));
    let Some(best) = best.map(|t| (t.setting.length, t.setting.token_budget)) else {
        return;
    };
    timelines.retain(|t| (t.setting.length, t.setting.token_budget) == best);
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
