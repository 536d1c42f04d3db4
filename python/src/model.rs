//! A model as a Python object. It waits for its thread without holding the GIL.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple};
use seqstream::engine::{self, Device};
use seqstream::gpu::driver::Busy;
use seqstream::hub::{self, Cache, Hub};
use seqstream::pipeline::JobError;
use seqstream::sequence::{Record, clean};
use seqstream::trace::Trace;
use seqstream::weights::Checkpoint;

use crate::cli::{Failure, library};
use crate::worker::{Call, Done, Layer, Names, Shared, Task, lock, serve};
use crate::{exception, raise};

/// How often a waiting call looks for signals. Ctrl-C is answered within this time.
pub const TICK: Duration = Duration::from_millis(100);
/// The most events of a trace, some 200 MB.
const MOST_EVENTS: usize = 1 << 20;

/// The process that used CUDA first, or 0. A context does not survive a fork.
static CUDA_PROCESS: AtomicU32 = AtomicU32::new(0);

/// A model on its devices, with a thread of its own. Several Python threads may call it; their
/// calls are computed one after the other.
#[pyclass(frozen, module = "seqstream._native")]
pub struct Model {
    shared: Arc<Shared>,
    tasks: Mutex<Sender<Task>>,
    /// The process that opened the model, whose thread is in no other.
    process: u32,
    found: PathBuf,
    id: Option<String>,
    hash: Mutex<Option<String>>,
}

/// A call that is computed by the thread of a model.
#[pyclass(frozen, module = "seqstream._native")]
pub struct Pending {
    result: Mutex<Option<Receiver<Result<Done, Failure>>>>,
    cancelled: Arc<AtomicBool>,
    /// The sequences, the poolings, and the width of a row.
    shape: [usize; 3],
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

/// Waits without the GIL, and looks for signals meanwhile.
fn wait<T: Send>(py: Python<'_>, done: Receiver<Result<T, Failure>>) -> PyResult<T> {
    let result: PyResult<Result<T, Failure>> = py.detach(move || {
        loop {
            match done.recv_timeout(TICK) {
                Ok(result) => return Ok(result),
                Err(RecvTimeoutError::Timeout) => Python::attach(|py| py.check_signals())?,
                Err(RecvTimeoutError::Disconnected) => {
                    let lost = "internal error: the thread of the model ended";
                    return Ok(Err(Failure::Other(lost.into())));
                }
            }
        }
    });
    result?.map_err(|failure| exception(py, &failure))
}

/// Runs something long without the GIL on a thread of its own, and looks for signals meanwhile.
fn away<T: Send + 'static>(
    py: Python<'_>,
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> PyResult<T> {
    let (done, result) = sync_channel(1);
    std::thread::Builder::new()
        .name("seqstream open".into())
        .spawn(move || {
            // If nobody waits any more, nobody needs the result.
            let _ = done.send(work());
        })?;
    wait(py, result)
}

/// Checks options of `embed`, written as on the command line.
fn options(args: Vec<OsString>) -> Result<library::EmbedOptions, Failure> {
    // The program cannot do without an input, a model and an output.
    let fixed = ["seqstream", "embed", "-", "--model", "m", "--out", "o"];
    library::options(fixed.iter().map(OsString::from).chain(args))
}

/// Takes the text of a sequence: a str, or bytes.
fn text(value: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    if let Ok(text) = value.cast::<PyString>() {
        if let Ok(text) = text.to_str() {
            return Ok(text.as_bytes().to_vec());
        }
        // A lone surrogate is no character, and becomes one unknown character.
        return value
            .call_method1("encode", ("utf-8", "replace"))?
            .extract();
    }
    if let Ok(bytes) = value.cast::<PyBytes>() {
        return Ok(bytes.as_bytes().to_vec());
    }
    let kind = value.get_type().name()?;
    Err(PyTypeError::new_err(format!(
        "a sequence is a str or bytes, and this is a {kind}"
    )))
}

struct Opened {
    shared: Shared,
    found: PathBuf,
    id: Option<String>,
}

fn open(
    path: &Path,
    cache: Option<PathBuf>,
    local_only: bool,
    trace: bool,
    args: Vec<OsString>,
) -> Result<Opened, Failure> {
    let options = options(args)?;
    let mut hub = Hub::from_environment();
    if let Some(cache) = cache {
        hub.cache = Some(Cache::new(cache));
    }
    if local_only {
        hub.offline = Some("local_files_only");
    }
    let found = hub::find(path, &hub, &mut ())?;
    let checkpoint = Checkpoint::open(&found.path)?;
    let tokenizer = engine::tokenizer(&found.path, &checkpoint)?;
    if tokenizer.vocab_size() > checkpoint.config().vocab {
        return Err(Failure::Vocabulary {
            tokenizer: tokenizer.vocab_size(),
            model: checkpoint.config().vocab,
        });
    }
    let warnings = checkpoint.warnings().to_vec();
    Ok(Opened {
        shared: Shared {
            checkpoint,
            tokenizer,
            device: options.device,
            weights: options.weights,
            threads: options.threads,
            token_budget: options.token_budget,
            trace: match trace {
                true => Trace::in_memory(MOST_EVENTS),
                false => Trace::off(),
            },
            identity: Mutex::new(None),
            streams: Mutex::new(Weak::new()),
            warnings: Mutex::new(warnings),
        },
        found: found.path,
        id: found.id,
    })
}

#[pymethods]
impl Model {
    #[new]
    fn new(
        py: Python<'_>,
        path: PathBuf,
        cache: Option<PathBuf>,
        local_only: bool,
        trace: bool,
        args: Vec<OsString>,
    ) -> PyResult<Self> {
        let process = std::process::id();
        let cuda = |arg: &OsString| {
            let arg = arg.to_string_lossy();
            arg.trim_start_matches("--device=").starts_with("cuda")
        };
        if args.iter().any(cuda) {
            let first =
                CUDA_PROCESS.compare_exchange(0, process, Ordering::Relaxed, Ordering::Relaxed);
            if first.is_err_and(|first| first != process) {
                return Err(forked(
                    py,
                    "this process was forked from one that had used CUDA",
                ));
            }
        }
        let opened = away(py, move || open(&path, cache, local_only, trace, args))?;
        let shared = Arc::new(opened.shared);
        let (tasks, received) = channel();
        let of_the_thread = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("seqstream model".into())
            .spawn(move || serve(&of_the_thread, &received))?;
        let model = Self {
            shared,
            tasks: Mutex::new(tasks),
            process,
            found: opened.found,
            id: opened.id,
            hash: Mutex::new(None),
        };
        let (done, loaded) = sync_channel(1);
        model.send(py, Task::Load(done))?;
        wait(py, loaded)?;
        Ok(model)
    }

    /// Begins to embed sequences. `args` are options of `seqstream embed`.
    fn start(
        &self,
        py: Python<'_>,
        sequences: &Bound<'_, PyList>,
        names: Option<Vec<String>>,
        args: Vec<OsString>,
    ) -> PyResult<Pending> {
        let checked = options(args).and_then(|options| {
            let request = library::request(&options, self.shared.checkpoint.config())?;
            Ok((options, request))
        });
        let (options, request) = checked.map_err(|failure| exception(py, &failure))?;
        let texts: PyResult<Vec<_>> = sequences.iter().map(|s| text(&s)).collect();
        let (done, result) = sync_channel(1);
        let cancelled = Arc::new(AtomicBool::new(false));
        let texts = texts?;
        let width = self.shared.checkpoint.config().hidden;
        let shape = [texts.len(), request.pools.len(), width];
        let call = Call {
            texts,
            names: names.map_or(Names::Positions, Names::Given),
            request,
            limit: options.limit,
            cleaning: options.cleaning,
            strict: options.strict,
            cancelled: Arc::clone(&cancelled),
            done,
        };
        self.send(py, Task::Embed(Box::new(call)))?;
        Ok(Pending {
            result: Mutex::new(Some(result)),
            cancelled,
            shape,
        })
    }

    /// The token ids of each sequence, special tokens included.
    fn tokenize(
        &self,
        py: Python<'_>,
        sequences: &Bound<'_, PyList>,
        args: Vec<OsString>,
    ) -> PyResult<Vec<Vec<u32>>> {
        let options = options(args).map_err(|failure| exception(py, &failure))?;
        let texts: PyResult<Vec<_>> = sequences.iter().map(|s| text(&s)).collect();
        let (texts, shared) = (texts?, Arc::clone(&self.shared));
        let alphabet = engine::alphabet(shared.checkpoint.config().kind);
        let made: Result<Vec<_>, Failure> = py.detach(move || {
            let one = |(i, text): (usize, Vec<u8>)| -> Result<Vec<u32>, Failure> {
                let mut record = Record::new("", text);
                record.source = format!("sequences[{i}]").into();
                clean(alphabet, options.cleaning, options.strict, &mut record)?;
                let mut tokens = Vec::new();
                shared.tokenizer.encode(&record.sequence, &mut tokens);
                Ok(tokens)
            };
            texts.into_iter().enumerate().map(one).collect()
        });
        made.map_err(|failure| exception(py, &failure))
    }

    /// Frees the memory of the devices until the next call.
    fn unload(&self, py: Python<'_>) -> PyResult<()> {
        let (done, result) = sync_channel(1);
        self.send(py, Task::Unload(done))?;
        wait(py, result)
    }

    /// The sizes of the model, as JSON.
    fn config(&self) -> String {
        // Numbers and names of fields: this cannot fail.
        serde_json::to_string(self.shared.checkpoint.config()).unwrap_or_default()
    }

    /// What decides the bits of the results, as JSON. The weights are hashed at the first call.
    fn identity(&self, py: Python<'_>) -> PyResult<String> {
        let known = lock(&self.hash).clone();
        let hash = match known {
            Some(hash) => hash,
            None => {
                let shared = Arc::clone(&self.shared);
                let hash = away(py, move || {
                    // A pool of its own: after a fork, the threads of the global one are gone.
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(shared.threads);
                    let pool = pool
                        .build()
                        .map_err(|e| JobError::NoThread(e.to_string()))?;
                    Ok(pool.install(|| shared.checkpoint.hash())?)
                })?;
                lock(&self.hash).insert(hash).clone()
            }
        };
        let identity = lock(&self.shared.identity).clone();
        let of = |part: fn(&engine::Identity) -> serde_json::Value| {
            identity.as_ref().map(part).unwrap_or_default()
        };
        Ok(serde_json::json!({
            "seqstream": env!("CARGO_PKG_VERSION"),
            "model": hash,
            "device": of(|i| i.device.into()),
            "processor": of(|i| i.processor.clone().into()),
            "dtype": of(|i| i.dtype.into()),
            "gemm_algorithms": of(|i| i.gemm_algorithms.clone().into()),
        })
        .to_string())
    }

    /// The folder or file of the model.
    #[getter]
    fn path(&self) -> PathBuf {
        self.found.clone()
    }

    /// The name on the Hub with the commit, if the model was given by its name.
    #[getter]
    fn id(&self) -> Option<String> {
        self.id.clone()
    }

    /// Whether CUDA devices compute.
    #[getter]
    fn on_cuda(&self) -> bool {
        self.shared.device != Device::Cpu
    }

    /// Takes the warnings of loading.
    fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.shared.warnings))
    }

    /// The streams of the CUDA devices: the device, the kind, the number, and whether it has work.
    fn streams(&self, py: Python<'_>) -> PyResult<Vec<(u32, String, usize, bool)>> {
        let Some(manager) = lock(&self.shared.streams).upgrade() else {
            return Ok(Vec::new());
        };
        let status = py.detach(|| manager.status());
        let status = status.map_err(|e| raise(py, "DeviceError", &e.to_string(), None, 8))?;
        let one = |s: seqstream::gpu::stream::StreamStatus| {
            (
                s.device,
                s.kind.to_string(),
                s.index,
                s.busy == Busy::Active,
            )
        };
        Ok(status.into_iter().map(one).collect())
    }

    /// The trace of the last call as JSON; `None` without a trace.
    fn trace(&self) -> Option<String> {
        let document = self.shared.trace.document()?;
        serde_json::to_string(&document).ok()
    }

    /// Writes the trace of the last call to two files, as `--trace` does.
    fn save_trace(&self, py: Python<'_>, chrome: PathBuf, own: PathBuf) -> PyResult<()> {
        let Some(document) = self.shared.trace.document() else {
            return Ok(());
        };
        let write = || -> Result<(), Failure> {
            let trace = Trace::to_files(&chrome, &own)?;
            document
                .events
                .into_iter()
                .for_each(|event| trace.add(event));
            document
                .clocks
                .into_iter()
                .for_each(|clock| trace.clock(clock));
            trace.finish()?;
            Ok(())
        };
        py.detach(write).map_err(|failure| exception(py, &failure))
    }
}

fn forked(py: Python<'_>, what: &str) -> PyErr {
    let hint = "open the model in the process that uses it; start processes by \"spawn\" \
                (multiprocessing.set_start_method(\"spawn\"))";
    raise(py, "DeviceError", what, Some(hint.into()), 7)
}

impl Model {
    fn send(&self, py: Python<'_>, task: Task) -> PyResult<()> {
        if std::process::id() != self.process {
            return Err(forked(
                py,
                "this model was opened by another process, from which this one was forked",
            ));
        }
        let sent = lock(&self.tasks).send(task);
        sent.map_err(|_| {
            let lost = "internal error: the thread of the model ended";
            exception(py, &Failure::Other(lost.into()))
        })
    }
}

#[pymethods]
impl Pending {
    /// Waits for the result: of each layer its number, the pooled rows and the states; and counts.
    fn result(&self, py: Python<'_>) -> PyResult<(Vec<LayerValues>, Py<PyDict>)> {
        let Some(result) = lock(&self.result).take() else {
            let twice = Failure::Other("internal error: a result is taken twice".into());
            return Err(exception(py, &twice));
        };
        let done = wait(py, result).inspect_err(|_| {
            self.cancelled.store(true, Ordering::Relaxed);
        })?;
        let counts = PyDict::new(py);
        let value = serde_json::to_value(done.counts).unwrap_or_default();
        for (name, count) in value.as_object().into_iter().flatten() {
            counts.set_item(name, count.as_u64())?;
        }
        counts.set_item("truncated", done.truncated)?;
        counts.set_item("windowed", done.windowed)?;
        counts.set_item("tokens", done.tokens)?;
        let layers = done.layers.into_iter();
        let layers = layers.map(|l| values(l, self.shape));
        Ok((layers.collect(), counts.unbind()))
    }
}

/// The number of a layer, its pooled values, and the states of each sequence.
type LayerValues = (usize, Values, Vec<Values>);

fn values(layer: Layer, shape: [usize; 3]) -> LayerValues {
    let width = shape[2];
    let states = layer.states.into_iter().map(|states| {
        let tokens = states.len() / width.max(1);
        Values::new(states, vec![tokens, width])
    });
    let states = states.collect();
    let pooled = Values::new(layer.pooled, shape.into());
    (layer.number, pooled, states)
}

/// Memory that `numpy.asarray` takes without a copy, by the array interface. The arrays keep this
/// object alive.
#[pyclass(frozen, module = "seqstream._native")]
pub struct Values {
    /// Where the values are. NumPy may write there, so nothing here reads them any more.
    address: usize,
    shape: Vec<usize>,
    _values: Vec<f32>,
}

impl Values {
    fn new(mut values: Vec<f32>, shape: Vec<usize>) -> Self {
        Self {
            address: values.as_mut_ptr().expose_provenance(),
            shape,
            _values: values,
        }
    }
}

#[pymethods]
impl Values {
    /// Version 3 of the interface: numpy.org/doc/stable/reference/arrays.interface.html.
    #[getter]
    fn __array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let interface = PyDict::new(py);
        interface.set_item("version", 3)?;
        interface.set_item("shape", PyTuple::new(py, &self.shape)?)?;
        let typestr = if cfg!(target_endian = "little") {
            "<f4"
        } else {
            ">f4"
        };
        interface.set_item("typestr", typestr)?;
        interface.set_item("data", (self.address, false))?;
        Ok(interface)
    }
}
