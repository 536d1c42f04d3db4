//! Small jobs of the engine in virtual time: its own code decides what overlaps.

use crate::support::cuda::simulator;
use seqstream::architecture::ModelConfig;
use seqstream::backend::cuda::kernels;
use seqstream::engine::{self, Device, Job};
use seqstream::gpu::cublaslt::Algorithms;
use seqstream::gpu::simulator::Engine;
use seqstream::model::{Pool, Request};
use seqstream::study::Workload;
use seqstream::study::simulate::{self, SimulateOptions};

const H200: &str = include_str!("../../machines/h200.toml");

/// A job of some batches in virtual time.
struct Run {
    /// The makespan in seconds, without the choice of algorithms and the loading of weights.
    seconds: f64,
    /// For how long each kind of engine was busy meanwhile: copies in, copies out, computing.
    busy: [f64; 3],
}

impl Run {
    /// No schedule takes less.
    fn bound(&self) -> f64 {
        self.busy.iter().copied().fold(0.0, f64::max)
    }
}

/// Runs `batches` batches of a model of this architecture on a machine.
fn run(text: &str, config: &ModelConfig, overlap: bool, states: bool, batches: usize) -> Run {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("machine.toml");
    std::fs::write(&file, text).unwrap();
    let options = SimulateOptions {
        overlap,
        library: Some(crate::support::cuda::library()),
        ..SimulateOptions::default()
    };
    let simulation = simulate::open(&file, config, &options).unwrap();
    let tokens = 4096;
    let workload = Workload::random(config, 256, tokens);
    let job = Job {
        request: Request {
            layers: vec![config.layers],
            pools: vec![Pool::Mean],
            per_token: states,
        },
        token_budget: Some(tokens),
        threads: 2,
        longest: workload.longest(),
        memory: None,
        algorithms: Algorithms::new(None).into(),
        half_states: false,
        weights: Default::default(),
        loading: Default::default(),
        trace: Default::default(),
    };
    let Device::Cuda { .. } = &simulation.device else {
        panic!("{:?}", simulation.device)
    };
    let mut engine = engine::load(&simulation.device, &simulation.checkpoint, &job).unwrap();
    let mut batch = seqstream::batch::PackedBatch::new();
    workload
        .sequences
        .iter()
        .for_each(|sequence| batch.push(sequence));
    // The first batch waits for the weights.
    engine.embedder.embed(&batch, &job.request).unwrap();
    let simulator = simulation.simulator;
    let engines = [Engine::ToDevice, Engine::ToHost, Engine::Compute];
    let before = (simulator.now(), engines.map(|kind| simulator.busy(0, kind)));
    let mut waiting = batches;
    for _ in 0..batches {
        while engine.embedder.free_slots() == 0 {
            engine.embedder.collect().unwrap();
            waiting -= 1;
        }
        engine.embedder.submit(&batch, &job.request).unwrap();
    }
    for _ in 0..waiting {
        engine.embedder.collect().unwrap();
    }
    let mut busy = engines.map(|kind| simulator.busy(0, kind));
    busy.iter_mut()
        .zip(before.1)
        .for_each(|(busy, before)| *busy -= before);
    assert_eq!(simulator.findings(), "");
    Run {
        seconds: simulator.now() - before.0,
        busy,
    }
}

fn with(key: &str, value: &str) -> String {
    let lines: Vec<String> = H200
        .lines()
        .map(|line| match line.split_once(" = ") {
            Some((name, _)) if name == key => format!("{key} = {value}"),
            _ => line.to_owned(),
        })
        .collect();
    lines.join("\n")
}

#[test]
fn jobs_are_never_faster_than_the_bound_and_streams_bring_them_near_it() {
    if kernels::NVCC.is_none() {
        return;
    }
    let _simulator = simulator(1, 0);
    let small = ModelConfig::esm2(4, 640, 10);
    for (bus, states) in [("55", false), ("55", true), ("2", true), ("0.1", false)] {
        let machine = with("to_host_gb_per_s", bus);
        let on = run(&machine, &small, true, states, 40);
        let off = run(&machine, &small, false, states, 40);
        let figures = format!(
            "{bus} {states} {} {} {:?}",
            on.seconds, off.seconds, on.busy
        );
        assert!(
            on.seconds >= on.bound() && off.seconds >= off.bound(),
            "{figures}"
        );
        assert!(on.seconds <= 1.05 * on.bound(), "{figures}");
        assert!(on.seconds < off.seconds, "{figures}");
        // Without streams everything is in sequence.
        let sum: f64 = off.busy.iter().sum();
        assert!(off.seconds >= sum, "{figures}");
    }
}

#[test]
fn more_bandwidth_never_makes_a_job_slower() {
    if kernels::NVCC.is_none() {
        return;
    }
    let _simulator = simulator(1, 0);
    let small = ModelConfig::esm2(2, 320, 5);
    let took = ["0.5", "1", "4", "16"].map(|bus| {
        let machine = with("to_host_gb_per_s", bus);
        run(&machine, &small, true, true, 12).seconds
    });
    assert!(took.windows(2).all(|pair| pair[1] <= pair[0]), "{took:?}");
    assert!(took[3] < took[0] / 4.0, "{took:?}");
}
