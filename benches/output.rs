//! A whole job with the states of every token, whose model costs nothing: the bytes per second that
//! the host takes from a device's results to finished shards.
//!
//! The files go to a memory file system (`/dev/shm`), or to the folder in `SEQSTREAM_BENCH_OUT`.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use seqstream::architecture::ModelConfig;
use seqstream::batch::{Budget, PackedBatch};
use seqstream::dtype::{HalfStates, Shelf, States};
use seqstream::model::{Embedder, LayerOutput, ModelError, Pool, Request};
use seqstream::output::{FORMAT, InputSpec, JobSpec, ModelSpec, OutputDtype};
use seqstream::pipeline::{
    Checks, PackOptions, ReadOptions, Records, RunOptions, Share, Silent, Stop, open_job, run,
};
use seqstream::sequence::{
    Alphabet, BadRecords, Cleaning, InputDigest, Record, SequenceError, Tokenizer,
};

/// The width of ESM-2 650M.
const WIDTH: usize = 1280;
const RECORDS: u64 = 300;
const LENGTH: usize = 350;
const BUDGET: Budget = Budget {
    first_batches: 0,
    first_tokens: 16_896,
    tokens: 16_896,
};

/// The results of a device: f32, or f16 that the device has rounded.
#[derive(Clone)]
enum Template {
    F32(Arc<Vec<f32>>),
    F16(Arc<Vec<u16>>),
}

/// A model whose results are copied from a template, as a device's results are copied from pinned
/// memory.
struct Canned {
    config: ModelConfig,
    template: Template,
    floats: Shelf<f32>,
    halves: Shelf<u16>,
    batches: VecDeque<(usize, usize)>,
}

impl Canned {
    fn states(&self, values: usize) -> States {
        match &self.template {
            Template::F32(template) => {
                let mut states = self.floats.take(values);
                states.extend_from_slice(&template[..values]);
                States::F32(states)
            }
            Template::F16(template) => {
                let mut bits = self.halves.take(values);
                bits.extend_from_slice(&template[..values]);
                States::F16(HalfStates {
                    bits,
                    beyond: Vec::new(),
                })
            }
        }
    }
}

impl Embedder for Canned {
    fn submit(&mut self, batch: &PackedBatch, _: &Request) -> Result<(), ModelError> {
        self.batches.push_back((batch.len(), batch.total()));
        Ok(())
    }
    fn collect(&mut self) -> Result<Option<Vec<LayerOutput>>, ModelError> {
        let batch = self.batches.pop_front();
        Ok(batch.map(|(sequences, tokens)| {
            vec![LayerOutput {
                layer: 1,
                pooled: vec![0.5; sequences * WIDTH],
                states: self.states(tokens * WIDTH),
            }]
        }))
    }
    fn free_slots(&self) -> usize {
        3usize.saturating_sub(self.batches.len())
    }
    fn budget(&self) -> Budget {
        BUDGET
    }
    fn config(&self) -> &ModelConfig {
        &self.config
    }
}

struct Proteins(u64);

impl Records for Proteins {
    fn next_record(&mut self) -> Option<Result<Record, SequenceError>> {
        self.0 += 1;
        (self.0 <= RECORDS).then(|| {
            let mut record = Record::new(format!("protein{}", self.0), vec![b'A'; LENGTH]);
            record.source = "bench".into();
            record.number = self.0;
            Ok(record)
        })
    }
    fn digests(&self) -> Vec<InputDigest> {
        vec![InputDigest {
            name: "bench".into(),
            bytes: 1,
            blake3: String::new(),
        }]
    }
}

fn job(template: &Template, dtype: OutputDtype, write_threads: usize) {
    let place = std::env::var_os("SEQSTREAM_BENCH_OUT").map_or("/dev/shm".into(), PathBuf::from);
    let dir = tempfile::tempdir_in(place).unwrap_or_else(|e| panic!("{e}"));
    let mut model = Canned {
        config: ModelConfig::esm2(1, WIDTH, 20),
        template: template.clone(),
        floats: Shelf::new(4, BUDGET.tokens * WIDTH),
        halves: Shelf::new(4, BUDGET.tokens * WIDTH),
        batches: VecDeque::new(),
    };
    let request = Request {
        layers: vec![1],
        pools: vec![Pool::Mean],
        per_token: true,
    };
    let spec = JobSpec {
        format: FORMAT,
        seqstream: String::new(),
        model: ModelSpec {
            blake3: String::new(),
            id: None,
            config: model.config.clone(),
        },
        device: "cpu".into(),
        processor: String::new(),
        gemm_algorithms: None,
        dtype: "f32".into(),
        pool: "mean".into(),
        per_token: true,
        layers: request.layers.clone(),
        max_length: None,
        long: None,
        stride: None,
        clean: true,
        strict: false,
        output_dtype: dtype,
        shard_size: 100,
        share: "1/1".into(),
        names: "first".into(),
        gaps: "keep".into(),
        bad_records: "stop".into(),
        chains: "keep".into(),
        uracil: None,
        virnucpro: None,
        inputs: vec![InputSpec {
            name: "bench".into(),
            blake3: None,
        }],
    };
    let options = RunOptions {
        read: ReadOptions {
            alphabet: Alphabet::Protein,
            cleaning: Cleaning::On,
            strict: false,
            bad_records: BadRecords::Stop,
            memory: None,
            shard_size: spec.shard_size,
            share: Share::ALL,
        },
        tokenize_threads: 1,
        write_threads,
        pack: PackOptions {
            limit: None,
            capacity: usize::MAX,
            budget: BUDGET,
            bad_records: BadRecords::Stop,
        },
        request,
        input_records: None,
        piped: false,
        weights: Vec::new(),
        trace: seqstream::trace::Trace::off(),
    };
    let job = open_job(dir.path(), spec, false, &Checks::default(), None)
        .unwrap_or_else(|e| panic!("{e}"));
    let report = run(
        &job,
        &options,
        &mut model,
        Arc::new(Tokenizer::esm2()),
        Proteins(0),
        &mut Silent,
        &Stop::new(),
    );
    let report = report.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(report.progress.records, RECORDS);
}

/// Numbers of threads, up to the number of cores.
fn threads() -> impl Iterator<Item = usize> {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    [1, 2, 4, 8].into_iter().filter(move |n| *n <= cores)
}

fn states(c: &mut Criterion) {
    let values = (0..BUDGET.tokens * WIDTH).map(|i| (i * 7919 % 10_007) as f32 / 10_007.0 - 0.5);
    let values: Vec<f32> = values.collect();
    let half = |v: &f32| half::f16::from_f32(*v).to_bits();
    let halves = Template::F16(Arc::new(values.iter().map(half).collect()));
    let floats = Template::F32(Arc::new(values));
    let mut group = c.benchmark_group("states of every token to shards");
    group.sample_size(10);
    for (name, dtype, template) in [
        ("f32", OutputDtype::F32, &floats),
        ("f16 that the host rounds", OutputDtype::F16, &floats),
        ("f16 that the device has rounded", OutputDtype::F16, &halves),
    ] {
        let values = RECORDS as usize * LENGTH * WIDTH;
        group.throughput(Throughput::Bytes((values * dtype.size()) as u64));
        for threads in threads() {
            let name = format!("{name}, {threads} threads");
            group.bench_function(name, |b| b.iter(|| job(template, dtype, threads)));
        }
    }
    group.finish();
}

criterion_group!(benches, states);
criterion_main!(benches);
