//! A model that hashes, a list of records, and a job made of both.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use seqstream::architecture::{ModelConfig, ModelKind};
use seqstream::batch::{Budget, PackedBatch};
use seqstream::dtype::{Beyond, HalfStates, States};
use seqstream::model::{Embedder, LayerOutput, ModelError, Pool, Request};
use seqstream::output::{FORMAT, InputSpec, JobSpec, ModelSpec, OutputDtype};
use seqstream::pipeline::{
    Checks, JobError, Observer, PackOptions, ReadOptions, Records, Report, RunOptions, Share,
    Silent, StandingShards, Stop, open_job, run,
};
use seqstream::sequence::{
    Alphabet, BadRecords, Cleaning, InputDigest, Record, SequenceError, Tokenizer,
};

pub const WIDTH: usize = 3;

/// Returns the state of token `token` at position `at` of its sequence; it depends on no other
/// sequence.
pub fn state(layer: usize, token: u32, at: usize, dimension: usize) -> f32 {
    let mut x =
        (layer as u64 + 1) << 48 | u64::from(token) << 32 | (at as u64) << 8 | dimension as u64;
    x = (x ^ (x >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ((x >> 40) as f32) / (1 << 24) as f32 - 0.5
}

/// A model that embeds by [`state`].
pub struct Hashing {
    config: ModelConfig,
    /// The number of sequences embedded so far.
    pub sequences: u64,
    /// Called before each batch with the number of sequences before it.
    pub before: Box<dyn FnMut(u64)>,
    /// The number of a sequence for which the model gives NaN.
    pub nan_at: Option<u64>,
    /// Replaces the state of one token, but changes no mean: sequence, token, layer, and new state.
    pub state_at: Option<(u64, usize, usize, f32)>,
    /// Whether the states come as f16, as from a device that rounds them.
    pub rounds: bool,
    /// The outputs of batches that were submitted and not yet collected.
    submitted: VecDeque<Vec<LayerOutput>>,
}

/// The number of batches that may run at once, as on a device.
const IN_FLIGHT: usize = 3;

impl Hashing {
    pub fn new() -> Self {
        let config = ModelConfig {
            kind: ModelKind::Esm2,
            layers: 2,
            hidden: WIDTH,
            heads: 1,
            intermediate: 4,
            vocab: 33,
            layer_norm_eps: 1e-5,
            token_dropout: true,
            mask_token: 32,
        };
        Self {
            config,
            sequences: 0,
            before: Box::new(|_| {}),
            nan_at: None,
            state_at: None,
            rounds: false,
            submitted: VecDeque::new(),
        }
    }
}

/// Returns what a device makes of these states if it rounds them to f16.
fn rounded(values: &[f32]) -> States {
    let mut half = HalfStates::default();
    for (at, &value) in values.iter().enumerate() {
        let bits = half::f16::from_f32(value).to_bits();
        half.bits.push(match value.is_infinite() {
            true => bits | 0x7d00,
            false => bits,
        });
        if value.is_finite() && bits & 0x7fff == 0x7c00 {
            half.beyond.push(Beyond { at, value });
        }
    }
    States::F16(half)
}

impl Embedder for Hashing {
    fn submit(&mut self, batch: &PackedBatch, request: &Request) -> Result<(), ModelError> {
        (self.before)(self.sequences);
        let first = self.sequences;
        self.sequences += batch.len() as u64;
        let outputs = request
            .layers
            .iter()
            .map(|&layer| {
                let mut output = LayerOutput {
                    layer,
                    pooled: vec![],
                    states: States::default(),
                };
                let mut all = Vec::new();
                for i in 0..batch.len() {
                    let range = batch.range(i);
                    let states: Vec<[f32; WIDTH]> = batch.tokens()[range.clone()]
                        .iter()
                        .enumerate()
                        .map(|(at, t)| std::array::from_fn(|d| state(layer, *t, at, d)))
                        .collect();
                    for pool in &request.pools {
                        let pooled = match pool {
                            Pool::Cls => 0..1,
                            Pool::Mean | Pool::Max => 1..states.len() - 1,
                        };
                        // One of several poolings alone is not a number.
                        let nan = self.nan_at == Some(first + i as u64)
                            && request.pools.last() == Some(pool);
                        for d in 0..WIDTH {
                            let values = states[pooled.clone()].iter().map(|s| f64::from(s[d]));
                            let value = match pool {
                                Pool::Max => values.fold(f64::NEG_INFINITY, f64::max),
                                _ => values.sum::<f64>() / pooled.len() as f64,
                            };
                            output
                                .pooled
                                .push(if nan { f32::NAN } else { value as f32 });
                        }
                    }
                    if request.per_token {
                        all.extend(states.iter().flatten());
                        if let Some((sequence, token, of, value)) = self.state_at
                            && (sequence, of) == (first + i as u64, layer)
                        {
                            all[(range.start + token) * WIDTH + 1] = value;
                        }
                    }
                }
                output.states = match self.rounds {
                    true => rounded(&all),
                    false => all.into(),
                };
                output
            })
            .collect();
        self.submitted.push_back(outputs);
        Ok(())
    }

    fn collect(&mut self) -> Result<Option<Vec<LayerOutput>>, ModelError> {
        Ok(self.submitted.pop_front())
    }

    fn free_slots(&self) -> usize {
        IN_FLIGHT - self.submitted.len().min(IN_FLIGHT)
    }

    fn budget(&self) -> Budget {
        Budget::even(100)
    }

    fn config(&self) -> &ModelConfig {
        &self.config
    }
}

/// Records in memory, as if read from one file.
pub struct List {
    pub records: std::vec::IntoIter<Record>,
    pub blake3: String,
}

impl Records for List {
    fn next_record(&mut self) -> Option<Result<Record, SequenceError>> {
        self.records.next().map(Ok)
    }
    fn digests(&self) -> Vec<InputDigest> {
        // Between the last record and the end of the input the other threads get ahead of the
        // reader.
        std::thread::sleep(Duration::from_millis(5));
        vec![InputDigest {
            name: "list.fa".into(),
            bytes: 1,
            blake3: self.blake3.clone(),
        }]
    }
}

/// Returns `n` records of lengths 1 to 40, with some ids twice.
pub fn records(n: usize) -> Vec<Record> {
    (0..n)
        .map(|i| {
            let length = 1 + (i * 7919) % 40;
            let sequence: Vec<u8> = (0..length)
                .map(|j| b"ACDEFGHIKLMNPQRSTVWY"[(i * 31 + j * j) % 20])
                .collect();
            let mut record = Record::new(format!("seq{}", i - usize::from(i % 10 == 9)), sequence);
            record.source = "list.fa".into();
            record.number = i as u64 + 1;
            record
        })
        .collect()
}

/// A job over a list.
#[derive(Clone)]
pub struct Job {
    pub records: Vec<Record>,
    pub request: Request,
    pub read: ReadOptions,
    pub tokenize_threads: usize,
    pub write_threads: usize,
    pub pack: PackOptions,
    pub dtype: OutputDtype,
    pub resume: bool,
    pub piped: bool,
    pub model: &'static str,
    /// The version of the layout.
    pub format: u32,
    /// The hash of the input as the main pass sees it.
    pub hash: &'static str,
}

impl Job {
    pub fn new(n: usize) -> Self {
        Self {
            records: records(n),
            request: Request {
                layers: vec![2],
                pools: vec![Pool::Mean],
                per_token: false,
            },
            read: ReadOptions {
                alphabet: Alphabet::Protein,
                cleaning: Cleaning::On,
                strict: false,
                bad_records: BadRecords::Stop,
                memory: None,
                shard_size: 8,
                share: Share::ALL,
            },
            // This depends on the job size, so that every test uses several values.
            tokenize_threads: 1 + n % 3,
            write_threads: 1 + n % 2,
            pack: PackOptions {
                limit: None,
                capacity: usize::MAX,
                bad_records: BadRecords::Stop,
                budget: Budget {
                    first_batches: n % 4,
                    first_tokens: 170,
                    tokens: 100,
                },
            },
            dtype: OutputDtype::F32,
            resume: false,
            piped: false,
            model: "m0",
            format: FORMAT,
            hash: "i0",
        }
    }

    /// Gives each record a name of its own, which `strict` demands.
    #[allow(dead_code)] // not every test program has strict jobs
    pub fn give_each_its_name(&mut self) {
        for (i, record) in self.records.iter_mut().enumerate() {
            record.id = format!("seq{i}");
        }
    }

    pub fn spec(&self) -> JobSpec {
        JobSpec {
            format: self.format,
            seqstream: "0".into(),
            model: ModelSpec {
                id: None,
                blake3: self.model.into(),
                config: Hashing::new().config,
            },
            device: "cpu".into(),
            processor: "none".into(),
            gemm_algorithms: None,
            dtype: "f32".into(),
            pool: match &self.request.pools[..] {
                [] => "none".into(),
                pools => format!("{pools:?}")
                    .to_lowercase()
                    .replace(['[', ']', ' '], ""),
            },
            per_token: self.request.per_token,
            layers: self.request.layers.clone(),
            max_length: self.pack.limit.map(|l| l.max),
            long: None,
            stride: None,
            clean: true,
            strict: self.read.strict,
            output_dtype: self.dtype,
            shard_size: self.read.shard_size,
            share: self.read.share.to_string(),
            names: "first".into(),
            gaps: "keep".into(),
            bad_records: match self.read.bad_records {
                BadRecords::Stop => "stop",
                BadRecords::Skip => "skip",
            }
            .into(),
            chains: "keep".into(),
            uracil: None,
            virnucpro: None,
            inputs: vec![InputSpec {
                name: "list.fa".into(),
                blake3: if self.piped { None } else { Some("i0".into()) },
            }],
        }
    }

    /// Returns what is known before the job begins: for a file the records, for a pipe nothing.
    pub fn checks(&self) -> Checks {
        let mut input = StandingShards::new(
            self.read.shard_size,
            self.read.share,
            &(0..1000).collect::<Vec<u64>>(),
        );
        self.records.iter().for_each(|record| input.take(record));
        Checks {
            threads: 1,
            input: (!self.piped).then(|| input.finish()),
        }
    }

    pub fn run(&self, out: &Path) -> Result<Report, JobError> {
        self.run_with(out, &mut Hashing::new(), &mut Silent, &Stop::new())
    }

    pub fn run_with(
        &self,
        out: &Path,
        model: &mut Hashing,
        observer: &mut dyn Observer,
        stop: &Stop,
    ) -> Result<Report, JobError> {
        let job = open_job(out, self.spec(), self.resume, &self.checks(), None)?;
        let options = RunOptions {
            read: self.read.clone(),
            tokenize_threads: self.tokenize_threads,
            write_threads: self.write_threads,
            pack: self.pack.clone(),
            request: self.request.clone(),
            input_records: Some(self.records.len() as u64),
            piped: self.piped,
            weights: Vec::new(),
            trace: seqstream::trace::Trace::off(),
        };
        let list = List {
            records: self.records.clone().into_iter(),
            blake3: self.hash.into(),
        };
        run(
            &job,
            &options,
            model,
            Arc::new(Tokenizer::esm2()),
            list,
            observer,
            stop,
        )
    }
}

/// Returns every file below `dir`, by its path.
pub fn tree(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(dir: &Path, prefix: &str, into: &mut BTreeMap<String, Vec<u8>>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            match entry.file_type().unwrap().is_dir() {
                true => walk(&entry.path(), &format!("{name}/"), into),
                false => {
                    into.insert(name, std::fs::read(entry.path()).unwrap());
                }
            }
        }
    }
    let mut files = BTreeMap::new();
    walk(dir, "", &mut files);
    files
}

/// Asserts that two directories hold the same files with the same bytes.
#[track_caller]
pub fn assert_same(a: &Path, b: &Path) {
    let (a, b) = (tree(a), tree(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (name, bytes) in &a {
        assert!(
            bytes == &b[name],
            "{name} differs:\n{}\n{}",
            bytes.escape_ascii(),
            b[name].escape_ascii()
        );
    }
}

/// Returns the values of a .npy file of f32.
pub fn npy(bytes: &[u8]) -> Vec<f32> {
    bytes[128..]
        .chunks(4)
        .map(|c| f32::from_le_bytes(c.try_into().unwrap()))
        .collect()
}

/// Returns ids and rows of a whole output, in order.
pub fn rows(out: &Path, layer: usize) -> Vec<(String, Vec<f32>)> {
    let files = tree(out);
    let mut rows = Vec::new();
    for (name, bytes) in &files {
        let Some(shard) = name.strip_suffix("/ids.txt") else {
            continue;
        };
        let ids = String::from_utf8(bytes.clone()).unwrap();
        let values = npy(&files[&format!("{shard}/layer_{layer}.npy")]);
        assert_eq!(ids.lines().count() * WIDTH, values.len());
        rows.extend(
            ids.lines()
                .map(str::to_owned)
                .zip(values.chunks(WIDTH).map(<[f32]>::to_vec)),
        );
    }
    rows
}

/// Returns the directory in which a job is writing a shard, or has left it unfinished.
pub fn partial(out: &Path, block: u64) -> Option<std::path::PathBuf> {
    let begins = format!(".shard-{block:06}.");
    let mut entries = std::fs::read_dir(out).unwrap().map(|e| e.unwrap());
    let found = entries.find(|e| e.file_name().to_string_lossy().starts_with(&begins));
    found.map(|e| e.path())
}
