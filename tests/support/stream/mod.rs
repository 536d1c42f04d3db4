//! A small job on streams, whose results the host can predict.

pub mod loading;

use crate::support::cuda::{Simulator, held_by};
use seqstream::gpu::driver::{Arena, Context, DriverError, Region, Stream};
use seqstream::stream::{
    LayerFences, ProcessorOptions, StreamError, StreamManager, StreamOptions, StreamProcessor,
    UploadOptions, Uploader,
};
use std::ffi::{CString, c_char};
use std::io::Write;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

impl Simulator {
    /// Returns a counter of `cuda-sim/src/counters.rs`.
    pub fn counter(&self, name: &str) -> u64 {
        let text = CString::new(name).unwrap();
        let get = self.call::<extern "C" fn(*const c_char) -> u64>("seqstream_sim_counter");
        let value = get(text.as_ptr());
        assert_ne!(value, u64::MAX, "{name}");
        value
    }

    /// Plans a fault; calls are counted from here.
    pub fn fault(&self, order: &str) {
        let order = CString::new(order).unwrap();
        let set = self.call::<extern "C" fn(*const c_char) -> i32>("seqstream_sim_set_fault");
        assert_eq!(set(order.as_ptr()), 0);
    }

    /// Returns the simulator's findings.
    pub fn findings(&self) -> String {
        let get = self.call::<extern "C" fn(*mut c_char, usize) -> usize>("seqstream_sim_findings");
        let mut text = vec![0u8; get(std::ptr::null_mut(), 0)];
        get(text.as_mut_ptr().cast(), text.len());
        text.pop();
        String::from_utf8(text).unwrap()
    }

    /// Asserts that nothing of the driver is held, and that no free had to wait: all work was
    /// drained before.
    #[track_caller]
    pub fn assert_nothing_left(&self, what: &str) {
        self.assert_nothing_held(what);
        for name in ["implicit_synchronizes", "frees_while_busy"] {
            assert_eq!(self.counter(name), 0, "{name}, {what}");
        }
    }

    /// Asserts that nothing of the driver is held.
    #[track_caller]
    pub fn assert_nothing_held(&self, what: &str) {
        for name in [
            "live_allocations",
            "live_host_allocations",
            "live_streams",
            "live_events",
            "live_contexts",
            "pending_operations",
            "leaked_allocations",
        ] {
            assert_eq!(self.counter(name), 0, "{name}, {what}");
        }
    }
}

/// Ends the process if a test hangs, so that a hang is a failure and not a test run that never
/// ends.
pub struct Watchdog(Sender<()>);

impl Watchdog {
    /// Reports progress: the time starts again from here.
    pub fn alive(&self) {
        self.0.send(()).unwrap();
    }
}

/// Starts a watchdog that acts when this test, which needs milliseconds, makes no progress for two
/// minutes. The time in which it waits for other tests, until it has the simulator, does not count.
pub fn watchdog(what: &'static str) -> Watchdog {
    const PATIENCE: Duration = Duration::from_secs(120);
    let (alive, watched) = channel();
    let test = std::thread::current().id();
    std::thread::spawn(move || {
        loop {
            match watched.recv_timeout(PATIENCE) {
                Ok(()) => {}
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) if held_by(test) >= Some(PATIENCE) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        // This does not use eprintln, whose output is captured and would be lost.
        let _ = writeln!(std::io::stderr(), "\n{what}: hangs");
        std::process::abort();
    });
    Watchdog(alive)
}

/// The collected reports.
#[derive(Clone, Default)]
pub struct Reports(Arc<Mutex<Vec<String>>>);

impl Reports {
    pub fn options(&self) -> StreamOptions {
        let mine = self.0.clone();
        StreamOptions {
            load: 2,
            report: Arc::new(move |text| mine.lock().unwrap().push(text.to_owned())),
            ..StreamOptions::default()
        }
    }

    pub fn text(&self) -> String {
        self.0.lock().unwrap().join("\n")
    }
}

/// Returns bytes that differ for each `seed`.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// The bytes of the weights that each batch reads.
pub const TASTE: usize = 48;
pub const MOST: usize = 1000;
/// The largest size of a batch's results: its inputs, a piece of the weights, a fill.
pub const RESULTS: usize = MOST + TASTE + 16;

#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub devices: u32,
    pub batches: u64,
    pub slots: usize,
    /// Whether kinds of work have streams of their own, so that they overlap.
    pub overlap: bool,
    pub weights: usize,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            devices: 1,
            batches: 7,
            slots: 2,
            overlap: true,
            weights: 1500,
        }
    }
}

impl Plan {
    pub fn ring(&self) -> ProcessorOptions {
        ProcessorOptions {
            slots: self.slots,
            input_bytes: MOST,
            output_bytes: RESULTS,
        }
    }

    /// Options with three chunks for the weights above, on two slots.
    pub fn upload(&self) -> UploadOptions {
        UploadOptions {
            slots: 2,
            slot_bytes: 512,
            threads: 2,
            through: false,
            ..UploadOptions::default()
        }
    }
}

/// Returns the inputs of a batch: awkward lengths, the largest among them.
pub fn inputs(device: u32, batch: u64) -> Vec<u8> {
    let length = match batch % 4 {
        0 => MOST,
        1 => 1,
        2 => 37 + device as usize,
        _ => 256 + (batch % 700) as usize,
    };
    noise(1 + batch * 64 + u64::from(device), length)
}

pub fn weights(device: u32, length: usize) -> Vec<u8> {
    noise(1_000_003 + u64::from(device), length)
}

fn taste(batch: u64, weights: usize) -> usize {
    (batch as usize * 211) % (weights - TASTE)
}

/// Returns the expected result of a batch: the two halves of its inputs in exchanged order, a piece
/// of the weights, and sixteen times its number.
pub fn expected(inputs: &[u8], weights: &[u8], batch: u64) -> Vec<u8> {
    let (front, back) = inputs.split_at(inputs.len() / 2);
    let at = taste(batch, weights.len());
    [back, front, &weights[at..at + TASTE], &[batch as u8; 16]].concat()
}

/// Computes the same on the device with copies and a fill. Returns the number of bytes.
pub fn compute(
    stream: &Stream,
    input: &Region,
    output: &Region,
    weights: &Region,
    batch: u64,
) -> Result<usize, DriverError> {
    let (all, half) = (input.bytes(), input.bytes() / 2);
    let at = taste(batch, weights.bytes());
    // SAFETY: these are the slot's regions, while its batch is open; the weights have been waited
    // for, and nothing writes them any more.
    unsafe {
        stream.copy(&input.slice(half..all), &output.slice(0..all - half))?;
        stream.copy(&input.slice(0..half), &output.slice(all - half..all))?;
        stream.copy(
            &weights.slice(at..at + TASTE),
            &output.slice(all..all + TASTE),
        )?;
        stream.fill(&output.slice(all + TASTE..all + TASTE + 16), batch as u8)?;
    }
    Ok(all + TASTE + 16)
}

/// A collected batch: device, number, results.
pub type Outcome = (u32, u64, Vec<u8>);

pub fn right(plan: Plan, (device, batch, results): &Outcome) -> bool {
    let weights = weights(*device, plan.weights);
    *results == expected(&inputs(*device, *batch), &weights, *batch)
}

/// The parts of the job that belong to one device.
pub struct Unit {
    pub device: u32,
    pub weights: Region,
    pub ring: StreamProcessor,
    pub uploader: Uploader,
    pub layers: LayerFences,
}

impl Unit {
    pub fn new(
        plan: Plan,
        manager: &StreamManager,
        context: &Context,
    ) -> Result<Self, StreamError> {
        let device = context.ordinal();
        let bytes = plan.ring().device_bytes()
            + Arena::footprint(plan.weights)
            + plan.upload().device_bytes();
        let failed = |e: DriverError| manager.fail(e.into());
        let mut arena = Arena::new(context, bytes).map_err(failed)?;
        let weights = arena.take("weights", plan.weights).map_err(failed)?;
        let batches = manager.streams(device, 0)?;
        Ok(Self {
            device,
            weights,
            ring: StreamProcessor::new(&batches, &mut arena, plan.ring())?,
            uploader: Uploader::new(&manager.streams(device, 1)?, &mut arena, plan.upload())?,
            layers: LayerFences::new(&batches, "layer", 1)?,
        })
    }

    /// Loads the weights, and makes the first batch's kernels wait for them.
    pub fn start(&mut self, plan: Plan) -> Result<(), StreamError> {
        self.uploader
            .upload(&weights(self.device, plan.weights), &self.weights, 0)?;
        self.uploader.mark(&self.layers)?;
        self.layers.wait(0, self.ring.compute())
    }

    pub fn submit(&mut self, batch: u64) -> Result<(), StreamError> {
        let inputs = inputs(self.device, batch);
        self.ring.stage(batch)?[..inputs.len()].copy_from_slice(&inputs);
        // In two parts, like a caller that knows the second part later.
        self.ring.async_load(inputs.len() / 3)?;
        self.ring.async_load(inputs.len() - inputs.len() / 3)?;
        let input = self.ring.input()?.slice(0..inputs.len());
        let (stream, output) = (self.ring.compute(), self.ring.output()?);
        let bytes =
            compute(stream, &input, output, &self.weights, batch).map_err(|e| self.ring.fail(e))?;
        let ticket = self.ring.finish(bytes)?;
        assert_eq!(ticket.batch, batch);
        Ok(())
    }

    pub fn collect(&mut self, outcomes: &mut Vec<Outcome>) -> Result<(), StreamError> {
        let collected = self.ring.collect()?;
        outcomes.push((self.device, collected.ticket().batch, collected.to_vec()));
        Ok(())
    }
}

/// Makes the units of a job's devices, with their streams and memory.
pub fn units(
    plan: Plan,
    options: StreamOptions,
) -> Result<(StreamManager, Vec<Unit>), StreamError> {
    let mut manager = StreamManager::new(StreamOptions {
        overlap: plan.overlap,
        ..options
    })?;
    let contexts: Vec<Context> = (0..plan.devices)
        .map(Context::new)
        .collect::<Result<_, _>>()
        .map_err(|e: DriverError| manager.fail(e.into()))?;
    manager.create_streams(&contexts)?;
    let units = contexts
        .iter()
        .map(|context| Unit::new(plan, &manager, context))
        .collect::<Result<_, _>>()?;
    Ok((manager, units))
}

/// Runs all batches over these devices, from one thread; results collected before an error are
/// kept.
pub fn run(plan: Plan, units: &mut [Unit], outcomes: &mut Vec<Outcome>) -> Result<(), StreamError> {
    for unit in &mut *units {
        unit.start(plan)?;
    }
    for batch in 0..plan.batches {
        for unit in &mut *units {
            if unit.ring.free_slots() == 0 {
                unit.collect(outcomes)?;
            }
            unit.submit(batch)?;
        }
    }
    for unit in units {
        while unit.ring.free_slots() < plan.slots {
            unit.collect(outcomes)?;
        }
    }
    Ok(())
}

/// Runs a whole job; returns the collected results and the job's result.
pub fn job(plan: Plan, options: StreamOptions) -> (Vec<Outcome>, Result<(), StreamError>) {
    let mut outcomes = Vec::new();
    let result =
        units(plan, options).and_then(|(_manager, mut units)| run(plan, &mut units, &mut outcomes));
    (outcomes, result)
}
