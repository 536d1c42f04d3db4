//! A small job on streams, whose results the host can say in advance.
#![allow(dead_code)]

pub mod loading;

use crate::cuda_support::Simulator;
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
    /// A counter of `cuda-sim/src/counters.rs`.
    pub fn counter(&self, name: &str) -> u64 {
        let text = CString::new(name).unwrap();
        let get = self.call::<extern "C" fn(*const c_char) -> u64>("seqstream_sim_counter");
        let value = get(text.as_ptr());
        assert_ne!(value, u64::MAX, "{name}");
        value
    }

    /// Orders a fault; calls are counted from here.
    pub fn fault(&self, order: &str) {
        let order = CString::new(order).unwrap();
        let set = self.call::<extern "C" fn(*const c_char) -> i32>("seqstream_sim_set_fault");
        assert_eq!(set(order.as_ptr()), 0);
    }

    /// What the simulator found wrong.
    pub fn findings(&self) -> String {
        let get = self.call::<extern "C" fn(*mut c_char, usize) -> usize>("seqstream_sim_findings");
        let mut text = vec![0u8; get(std::ptr::null_mut(), 0)];
        get(text.as_mut_ptr().cast(), text.len());
        text.pop();
        String::from_utf8(text).unwrap()
    }

    /// Nothing of the driver's is held, and no wait was hidden in a free: all was drained before.
    #[track_caller]
    pub fn assert_nothing_left(&self, what: &str) {
        self.assert_nothing_held(what);
        for name in ["implicit_synchronizes", "frees_while_busy"] {
            assert_eq!(self.counter(name), 0, "{name}, {what}");
        }
    }

    /// Nothing of the driver's is held.
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

/// Ends the process if a test hangs: a hang must be a failure, and not a test run that never ends.
pub struct Watchdog(Sender<()>);

impl Watchdog {
    /// The test goes on: time is counted from here.
    pub fn alive(&self) {
        self.0.send(()).unwrap();
    }
}

/// Bites when a test has not gone on for two minutes, of which it needs milliseconds.
pub fn watchdog(what: &'static str) -> Watchdog {
    let (alive, watched) = channel();
    std::thread::spawn(move || {
        loop {
            match watched.recv_timeout(Duration::from_secs(120)) {
                Ok(()) => {}
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => break,
            }
        }
        // Not by eprintln, which is captured and would be lost.
        let _ = writeln!(std::io::stderr(), "\n{what}: hangs");
        std::process::abort();
    });
    Watchdog(alive)
}

/// What was reported.
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

/// Bytes that differ for each `seed`.
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

/// Bytes of the weights that each batch reads.
pub const TASTE: usize = 48;
pub const MOST: usize = 1000;
/// A batch's results at most: its inputs, a piece of the weights, a fill.
pub const RESULTS: usize = MOST + TASTE + 16;

#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub devices: u32,
    pub batches: u64,
    pub slots: usize,
    /// Of the manager: the streams are on.
    pub streams: bool,
    /// Of the processors.
    pub overlap: bool,
    pub weights: usize,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            devices: 1,
            batches: 7,
            slots: 2,
            streams: true,
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
            overlap: self.overlap,
        }
    }

    /// Three chunks for the weights above, on two slots.
    pub fn upload(&self) -> UploadOptions {
        UploadOptions {
            slots: 2,
            slot_bytes: 512,
            threads: 2,
            through: false,
        }
    }
}

/// The inputs of a batch: awkward lengths, the most among them.
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

/// What a batch comes to: its inputs in two halves that have changed places, a piece of the weights,
/// and sixteen times its number.
pub fn expected(inputs: &[u8], weights: &[u8], batch: u64) -> Vec<u8> {
    let (front, back) = inputs.split_at(inputs.len() / 2);
    let at = taste(batch, weights.len());
    [back, front, &weights[at..at + TASTE], &[batch as u8; 16]].concat()
}

/// The same on the device, of copies and a fill. The number of bytes.
pub fn compute(
    stream: &Stream,
    input: &Region,
    output: &Region,
    weights: &Region,
    batch: u64,
) -> Result<usize, DriverError> {
    let (all, half) = (input.bytes(), input.bytes() / 2);
    let at = taste(batch, weights.bytes());
    // SAFETY: the slot's regions, while its batch is open; the weights are waited for, and written
    // by nobody any more.
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

/// What the job holds of a device.
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

    /// Weights, and before the first batch's kernels a wait for them.
    pub fn start(&mut self, plan: Plan) -> Result<(), StreamError> {
        self.uploader
            .upload(&weights(self.device, plan.weights), &self.weights, 0)?;
        self.uploader.mark(&self.layers)?;
        self.layers.wait(0, self.ring.compute())
    }

    pub fn submit(&mut self, batch: u64) -> Result<(), StreamError> {
        let inputs = inputs(self.device, batch);
        self.ring.stage(batch)?[..inputs.len()].copy_from_slice(&inputs);
        // In two parts, as a caller does that knows the second one later.
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

/// The devices of a job, with their streams and memory.
pub fn units(
    plan: Plan,
    options: StreamOptions,
) -> Result<(StreamManager, Vec<Unit>), StreamError> {
    let mut manager = StreamManager::new(StreamOptions {
        overlap: plan.streams,
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

/// All batches over these devices, from one thread; what was collected up to an error stays.
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

/// A whole job; what it collected, and its end.
pub fn job(plan: Plan, options: StreamOptions) -> (Vec<Outcome>, Result<(), StreamError>) {
    let mut outcomes = Vec::new();
    let result =
        units(plan, options).and_then(|(_manager, mut units)| run(plan, &mut units, &mut outcomes));
    (outcomes, result)
}
