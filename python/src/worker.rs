//! The thread of a model. It owns the engine, whose parts must not change threads, and computes the
//! calls of all Python threads one after the other. It never touches Python.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use seqstream::architecture::ModelKind;
use seqstream::backend::cuda::WeightMode;
use seqstream::batch::PackedBatch;
use seqstream::engine::{self, Device, Engine, HostMemory, Identity, Job};
use seqstream::gpu::cublaslt::Algorithms;
use seqstream::gpu::stream::StreamManager;
use seqstream::model::{LayerOutput, Pool, Request};
use seqstream::pipeline::{JobError, LengthLimit, Long, Windows, pieces};
use seqstream::sequence::{CleanCounts, Cleaning, Record, Tokenizer, clean};
use seqstream::trace::{Category, Trace, host};
use seqstream::weights::Checkpoint;

use crate::cli::Failure;

/// What the thread and the Python object of a model share.
pub struct Shared {
    pub checkpoint: Checkpoint,
    pub tokenizer: Tokenizer,
    pub device: Device,
    pub weights: WeightMode,
    pub threads: usize,
    pub token_budget: Option<usize>,
    pub trace: Trace,
    /// What decides the bits, once the engine was loaded.
    pub identity: Mutex<Option<Identity>>,
    /// The streams of the engine that is loaded. They belong to the thread.
    pub streams: Mutex<Weak<StreamManager>>,
    /// Warnings of loading that nobody has seen yet.
    pub warnings: Mutex<Vec<String>>,
}

/// Locks a value that is replaced as a whole, so that a panic elsewhere leaves it valid.
pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the thread is asked to do.
pub enum Task {
    /// Load the engine, so that a device that cannot be used is found now.
    Load(SyncSender<Result<(), Failure>>),
    /// Free the memory of the devices until the next call.
    Unload(SyncSender<Result<(), Failure>>),
    /// Embed sequences.
    Embed(Box<Call>),
}

/// One call: sequences, and what is wanted of them.
pub struct Call {
    pub texts: Vec<Vec<u8>>,
    /// What errors call each sequence.
    pub names: Names,
    pub request: Request,
    pub limit: Option<LengthLimit>,
    pub cleaning: Cleaning,
    pub strict: bool,
    /// Whether nobody waits for the result any more.
    pub cancelled: Arc<AtomicBool>,
    pub done: SyncSender<Result<Done, Failure>>,
}

/// What errors call the sequences of a call.
pub enum Names {
    /// The position in the list, from 0.
    Positions,
    /// A text for each.
    Given(Vec<String>),
}

impl Names {
    fn of(&self, i: usize) -> String {
        match self {
            Self::Positions => format!("sequences[{i}]"),
            Self::Given(names) => names.get(i).cloned().unwrap_or_default(),
        }
    }
}

/// The result of a call.
pub struct Done {
    pub layers: Vec<Layer>,
    pub counts: CleanCounts,
    /// The number of sequences that were cut, and of those that were embedded in windows.
    pub truncated: u64,
    pub windowed: u64,
    /// The number of tokens that were computed.
    pub tokens: u64,
}

/// What a call gets of one layer.
pub struct Layer {
    pub number: usize,
    /// `[sequences, pools, width]`; empty without a pool.
    pub pooled: Vec<f32>,
    /// `[tokens, width]` for each sequence; empty unless wanted.
    pub states: Vec<Vec<f32>>,
}

/// Why a call has no result.
enum End {
    Failed(Box<Failure>),
    /// The engine failed, and cannot be used any more.
    Broken(Box<Failure>),
    Cancelled,
}

impl End {
    fn failed(failure: impl Into<Failure>) -> Self {
        Self::Failed(Box::new(failure.into()))
    }

    fn broken(failure: impl Into<Failure>) -> Self {
        Self::Broken(Box::new(failure.into()))
    }
}

/// An engine, and the request that it was prepared for.
struct Loaded {
    engine: Engine,
    request: Request,
}

/// Serves tasks until the Python object is gone.
pub fn serve(shared: &Shared, tasks: &Receiver<Task>) {
    let mut loaded = None;
    for task in tasks {
        match task {
            Task::Load(done) => {
                let wanted = Request {
                    layers: vec![shared.checkpoint.config().layers],
                    pools: vec![Pool::Mean],
                    per_token: false,
                };
                let _ = done.send(prepare(shared, &mut loaded, &wanted).map(|_| ()));
            }
            Task::Unload(done) => {
                loaded = None;
                let _ = done.send(Ok(()));
            }
            Task::Embed(call) => {
                let Call { done, .. } = &*call;
                let done = done.clone();
                let result = embed(shared, &mut loaded, *call);
                if matches!(result, Err(End::Broken(_))) {
                    // The next call loads the model anew.
                    loaded = None;
                }
                match result {
                    Ok(result) => _ = done.send(Ok(result)),
                    Err(End::Failed(failure) | End::Broken(failure)) => {
                        _ = done.send(Err(*failure));
                    }
                    Err(End::Cancelled) => {}
                }
            }
        }
    }
}

/// Returns an engine that was prepared for the request, which is loaded if there is none. A CUDA
/// device has to know in advance how much it has to return.
fn prepare<'a>(
    shared: &Shared,
    loaded: &'a mut Option<Loaded>,
    wanted: &Request,
) -> Result<&'a mut Engine, Failure> {
    let covers = |has: &Request| {
        let deepest = |r: &Request| r.layers.iter().copied().max().unwrap_or(0);
        wanted.layers.len() <= has.layers.len()
            && wanted.pools.len() <= has.pools.len()
            && (has.per_token || !wanted.per_token)
            && deepest(wanted) <= deepest(has)
    };
    let on_cpu = shared.device == Device::Cpu;
    if !loaded
        .as_ref()
        .is_some_and(|l| on_cpu || covers(&l.request))
    {
        let request = match loaded.take() {
            Some(Loaded { request, .. }) => union(&request, wanted),
            None => wanted.clone(),
        };
        *loaded = Some(load(shared, request)?);
    }
    match loaded {
        Some(loaded) => Ok(&mut loaded.engine),
        None => Err(Failure::Other("internal error: no engine".into())),
    }
}

/// The smallest request that covers both.
fn union(a: &Request, b: &Request) -> Request {
    let deepest = a.layers.iter().chain(&b.layers).copied().max().unwrap_or(0);
    let count = a.layers.len().max(b.layers.len()).min(deepest + 1);
    let pools = match a.pools.len() >= b.pools.len() {
        true => a.pools.clone(),
        false => b.pools.clone(),
    };
    Request {
        layers: (deepest + 1 - count..=deepest).collect(),
        pools,
        per_token: a.per_token || b.per_token,
    }
}

fn load(shared: &Shared, request: Request) -> Result<Loaded, Failure> {
    let algorithms = Arc::new(Algorithms::new(match shared.device {
        Device::Cpu => None,
        Device::Cuda { .. } => Algorithms::default_cache(),
    }));
    let job = Job {
        request: request.clone(),
        token_budget: shared.token_budget,
        half_states: false,
        threads: shared.threads,
        longest: None,
        memory: memory(shared, &request)?,
        algorithms: Arc::clone(&algorithms),
        weights: shared.weights,
        loading: Default::default(),
        trace: shared.trace.clone(),
    };
    let engine = engine::load(&shared.device, &shared.checkpoint, &job);
    lock(&shared.warnings).extend(algorithms.take_warnings());
    let engine = engine?;
    *lock(&shared.identity) = Some(engine.identity.clone());
    *lock(&shared.streams) = engine
        .streams
        .as_ref()
        .map_or_else(Weak::new, Arc::downgrade);
    Ok(Loaded { engine, request })
}

fn memory(shared: &Shared, request: &Request) -> Result<Option<HostMemory>, Failure> {
    let memory = engine::host_memory(&shared.device, &shared.checkpoint, request, shared.threads)?;
    Ok(memory)
}

/// A part of a sequence in a batch: the whole sequence, or one of its windows.
struct Part {
    sequence: usize,
    content: usize,
    last: bool,
}

/// The progress of a call: what was submitted, and what came back.
struct Progress<'a> {
    call: &'a Call,
    kind: ModelKind,
    width: usize,
    f16: bool,
    trace: &'a Trace,
    submitted: VecDeque<(PackedBatch, Vec<Part>)>,
    windows: Windows,
    done: Done,
}

fn embed(shared: &Shared, loaded: &mut Option<Loaded>, call: Call) -> Result<Done, End> {
    if call.cancelled.load(Ordering::Relaxed) {
        return Err(End::Cancelled);
    }
    shared.trace.clear();
    let memory = memory(shared, &call.request).map_err(End::failed)?;
    let engine = prepare(shared, loaded, &call.request).map_err(End::failed)?;
    let config = shared.checkpoint.config();
    let (width, kind) = (config.hidden, config.kind);
    let maxima = call.request.pools.iter().map(|p| *p == Pool::Max);
    let n = call.texts.len();
    let layer = |number: &usize| Layer {
        number: *number,
        pooled: vec![0.0; n * call.request.pools.len() * width],
        states: vec![Vec::new(); if call.request.per_token { n } else { 0 }],
    };
    let mut progress = Progress {
        kind,
        width,
        f16: engine.identity.dtype == "f16",
        trace: &shared.trace,
        submitted: VecDeque::new(),
        windows: Windows::new(maxima.collect(), call.request.layers.len(), width),
        done: Done {
            layers: call.request.layers.iter().map(layer).collect(),
            counts: CleanCounts::default(),
            truncated: 0,
            windowed: 0,
            tokens: 0,
        },
        call: &call,
    };
    let ended = progress.run(shared, engine, memory);
    if matches!(ended, Err(End::Failed(_) | End::Cancelled)) {
        // What was submitted has to be collected before the next call.
        while !progress.submitted.is_empty() {
            progress.submitted.pop_front();
            if let Err(error) = engine.embedder.collect() {
                return Err(End::broken(error));
            }
        }
    }
    ended?;
    Ok(progress.done)
}

impl Progress<'_> {
    fn run(
        &mut self,
        shared: &Shared,
        engine: &mut Engine,
        memory: Option<HostMemory>,
    ) -> Result<(), End> {
        let call = self.call;
        let alphabet = engine::alphabet(self.kind);
        let budget = engine.embedder.budget().tokens;
        // The tokens that are kept, and one more that tells whether the sequence is longer.
        let most = match call.limit {
            Some(LengthLimit {
                max,
                long: Long::Truncate,
            }) => max.saturating_add(1),
            _ => usize::MAX,
        };
        let (mut batch, mut parts) = (PackedBatch::new(), Vec::new());
        let mut tokens = Vec::new();
        for (i, text) in call.texts.iter().enumerate() {
            let mut record = Record::new("", text.as_slice());
            // Errors name the place of a record by its source.
            record.source = call.names.of(i).into();
            let failed = |error: JobError| End::failed(error);
            let counts = clean(alphabet, call.cleaning, call.strict, &mut record)
                .map_err(|e| failed(e.into()))?;
            self.done.counts += counts;
            tokens.clear();
            shared
                .tokenizer
                .encode_first(&record.sequence, most, &mut tokens);
            let [cls, content @ .., eos] = tokens.as_slice() else {
                return Err(failed(JobError::Internal("a record without tokens".into())));
            };
            let limit = call.limit.filter(|l| content.len() > l.max);
            match limit.map(|l| l.long) {
                None => {}
                Some(Long::Window { .. }) => self.done.windowed += 1,
                Some(_) => self.done.truncated += 1,
            }
            let Some(mut windows) = pieces(content.len(), call.limit) else {
                return Err(failed(JobError::TooLong {
                    place: record.place(),
                    tokens: content.len(),
                    max: call.limit.map_or(0, |l| l.max),
                }));
            };
            let longest = limit.map_or(content.len(), |l| l.max) + 2;
            if let Some(memory) = memory.filter(|m| longest as u64 > m.tokens()) {
                return Err(failed(JobError::NoMemory {
                    place: record.place(),
                    letters: counts.residues,
                    needs: memory.per_token.saturating_mul(longest as u64),
                    available: memory.available,
                    most: memory.tokens(),
                }));
            }
            if longest > engine.capacity {
                return Err(failed(JobError::OverCapacity {
                    place: record.place(),
                    tokens: longest,
                    most: engine.capacity,
                }));
            }
            while let Some(part) = windows.next() {
                if !batch.is_empty() && batch.total() + part.len() + 2 > budget {
                    self.submit(engine, &mut batch, &mut parts)?;
                }
                if part.len() == content.len() {
                    batch.push(&tokens);
                } else {
                    let mut window = Vec::with_capacity(part.len() + 2);
                    window.push(*cls);
                    window.extend_from_slice(&content[part.clone()]);
                    window.push(*eos);
                    batch.push(&window);
                }
                parts.push(Part {
                    sequence: i,
                    content: part.len(),
                    last: windows.done(),
                });
            }
        }
        if !batch.is_empty() {
            self.submit(engine, &mut batch, &mut parts)?;
        }
        while !self.submitted.is_empty() {
            self.collect(engine)?;
        }
        Ok(())
    }

    /// Hands the batch to the model, which may compute it while the next one is made.
    fn submit(
        &mut self,
        engine: &mut Engine,
        batch: &mut PackedBatch,
        parts: &mut Vec<Part>,
    ) -> Result<(), End> {
        while engine.embedder.free_slots() == 0 && !self.submitted.is_empty() {
            self.collect(engine)?;
        }
        if self.call.cancelled.load(Ordering::Relaxed) {
            return Err(End::Cancelled);
        }
        let batch = std::mem::take(batch);
        let span = self.trace.stage(host::COMPUTING, 0, "launch");
        let submitted = engine.embedder.submit(&batch, &self.call.request);
        drop(span);
        submitted.map_err(End::broken)?;
        self.done.tokens += batch.total() as u64;
        self.submitted.push_back((batch, std::mem::take(parts)));
        Ok(())
    }

    /// Waits for the oldest batch and takes its rows and states.
    fn collect(&mut self, engine: &mut Engine) -> Result<(), End> {
        let Some((batch, parts)) = self.submitted.pop_front() else {
            return Ok(());
        };
        let span = self
            .trace
            .span((host::COMPUTING, 0), "collect", Category::Stage);
        let outputs = engine.embedder.collect();
        drop(span);
        let outputs = outputs
            .map_err(End::broken)?
            .ok_or_else(|| End::broken(Failure::Other("internal error: a lost batch".into())))?;
        let (d, pools) = (self.width, self.call.request.pools.len());
        for (i, part) in parts.iter().enumerate() {
            let pooled: Vec<&[f32]> = outputs
                .iter()
                .flat_map(|o| o.pooled[i * pools * d..(i + 1) * pools * d].chunks_exact(d))
                .collect();
            if !part.last || self.windows.open() {
                self.windows.add(&pooled, part.content);
            }
            if !part.last {
                continue;
            }
            let merged = self.windows.take();
            let rows: Vec<&[f32]> = match &merged {
                Some(merged) => merged.iter().map(Vec::as_slice).collect(),
                None => pooled,
            };
            self.place(part.sequence, &rows, &outputs, batch.range(i))?;
        }
        Ok(())
    }

    /// Puts the rows and states of a sequence where they belong.
    fn place(
        &mut self,
        sequence: usize,
        rows: &[&[f32]],
        outputs: &[LayerOutput],
        range: std::ops::Range<usize>,
    ) -> Result<(), End> {
        let (d, pools) = (self.width, self.call.request.pools.len());
        let tokens = self.kind.pooled_tokens(range);
        for (l, output) in outputs.iter().enumerate() {
            let layer = &mut self.done.layers[l];
            for (p, row) in rows[l * pools..(l + 1) * pools].iter().enumerate() {
                let at = (sequence * pools + p) * d;
                layer.pooled[at..at + d].copy_from_slice(row);
            }
            if self.call.request.per_token {
                let states = &output.states.f32s()[tokens.start * d..tokens.end * d];
                layer.states[sequence] = states.to_vec();
            }
            let pooled = &layer.pooled[sequence * pools * d..(sequence + 1) * pools * d];
            let states = layer.states.get(sequence).map_or(&[][..], Vec::as_slice);
            let values = pooled.iter().chain(states);
            if let Some((at, value)) = values.enumerate().find(|(_, v)| !v.is_finite()) {
                return Err(End::failed(JobError::NonFinite {
                    id: self.call.names.of(sequence),
                    record: sequence as u64 + 1,
                    layer: layer.number,
                    dimension: at % d,
                    value: *value,
                    f16: self.f16,
                }));
            }
        }
        Ok(())
    }
}
