//! The state behind the lock, and how operations enter and leave the queue.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::call::with_contexts;
use crate::clock::Clock;
use crate::code::Code;
use crate::config::Config;
use crate::counters::Counters;
use crate::cublaslt_api::LtObject;
use crate::fault::Fault;
use crate::kernel::Kernel;
use crate::log::Log;
use crate::memory::{Place, Space};
use crate::queue::{OpId, Queue};
use crate::run::Work;
use crate::schedule::Scheduler;

/// The capacity of pinned memory, much more than a test needs.
const HOST_CAPACITY: usize = 64 << 30;

/// A device.
pub struct Device {
    /// Its memory.
    pub space: Space,
    /// The primary context.
    pub primary: Option<u64>,
    /// The number of times the primary context is retained.
    pub retained: usize,
}

/// A context.
pub struct Context {
    /// The index of its device.
    pub device: usize,
    /// The handle of its legacy NULL stream.
    pub null_stream: u64,
    /// The error that made the context unusable.
    pub lost: Option<Code>,
    /// Last operations of blocking streams that were destroyed: the NULL stream still waits for
    /// them.
    pub orphans: Vec<OpId>,
}

/// The kind of a stream.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// The legacy NULL stream.
    Null,
    /// A stream that the NULL stream fences.
    Blocking,
    /// A stream that the NULL stream does not fence.
    NonBlocking,
}

/// A stream.
pub struct Stream {
    /// The context that it belongs to.
    pub context: u64,
    /// Its kind.
    pub kind: StreamKind,
    /// Its priority.
    pub priority: i32,
    /// The last operation submitted; it may have run.
    pub tail: Option<OpId>,
    /// When the last operation that has run was over, in virtual time.
    pub over: f64,
    /// The latest time of a host thread that used it, in virtual time.
    pub touched: f64,
}

/// An event.
pub struct Event {
    /// The context that it belongs to.
    pub context: u64,
    /// Whether it measures time.
    pub timing: bool,
    /// The most recent record.
    pub record: Option<OpId>,
    /// When that record was reached, in simulated microseconds.
    pub reached: Option<f64>,
    /// The latest time of a host thread that recorded it, in virtual time.
    pub touched: f64,
}

/// A kernel function of a module.
pub struct Function {
    pub module: u64,
    /// The kernel.
    pub kernel: Kernel,
    /// The function's attribute MAX_DYNAMIC_SHARED_SIZE_BYTES.
    pub max_dynamic_shared: i32,
}

/// An operation in the queue, with the data that its error message needs.
pub struct Task {
    /// The work itself.
    pub work: Work,
    /// The call that submitted the operation.
    pub function: &'static str,
    /// The number of that call.
    pub call: u64,
    /// A planned fault: the operation fails with this code when it runs.
    pub planned: Option<Code>,
}

/// Returns the number of a handle for the log: a small number, in the order of creation.
pub fn number(handle: u64) -> u64 {
    handle >> 4 & 0xFFFF_FFFF
}

/// The whole state of the simulator.
pub struct Sim {
    /// The settings.
    pub config: Config,
    /// The counters.
    pub counters: Counters,
    /// The log.
    pub log: Log,
    /// The scheduler.
    pub scheduler: Scheduler,
    /// The pending operations.
    pub queue: Queue<Task>,
    /// Whether `cuInit` has been called.
    pub initialized: bool,
    /// The devices.
    pub devices: Vec<Device>,
    /// The contexts by handle.
    pub contexts: BTreeMap<u64, Context>,
    /// The streams by handle.
    pub streams: BTreeMap<u64, Stream>,
    /// The events by handle.
    pub events: BTreeMap<u64, Event>,
    /// The context of each module.
    pub modules: BTreeMap<u64, u64>,
    /// The functions by handle.
    pub functions: BTreeMap<u64, Function>,
    /// The objects of cuBLASLt by handle.
    pub lt: BTreeMap<u64, LtObject>,
    /// Pinned host memory.
    pub host: Space,
    /// Host memory that was registered in place: start, bytes.
    pub registered: BTreeMap<usize, usize>,
    /// Kernels that a test has registered.
    pub extra_kernels: Vec<Kernel>,
    /// The simulator's findings, in words.
    pub findings: Vec<String>,
    handles: u64,
    fault: Option<Fault>,
    /// The number of calls that the fault has counted.
    fault_calls: u64,
    /// The fault planned for the operation that this call submits.
    pub planned: Option<Code>,
    /// The call that is running.
    pub function: &'static str,
    note: String,
    /// The time up to which the host has waited, in simulated microseconds. It only serves event
    /// times where no machine is set.
    pub waited: f64,
    /// Virtual time, where a machine is set.
    pub clock: Option<Clock>,
}

impl Sim {
    /// Creates the simulator's state.
    pub fn new(config: Config) -> Self {
        let devices = (0..config.devices)
            .map(|device| Self::device(device, &config))
            .collect();
        let mut host = Self::space("pinned host memory", HOST_CAPACITY);
        host.set_hollow(config.is_hollow());
        Self {
            counters: Counters::default(),
            log: Log::new(config.log.as_deref()),
            scheduler: Scheduler::new(config.seed),
            queue: Queue::new(),
            initialized: false,
            devices,
            contexts: BTreeMap::new(),
            streams: BTreeMap::new(),
            events: BTreeMap::new(),
            modules: BTreeMap::new(),
            functions: BTreeMap::new(),
            lt: BTreeMap::new(),
            host,
            registered: BTreeMap::new(),
            extra_kernels: Vec::new(),
            findings: Vec::new(),
            handles: 0,
            fault: config.fault.clone(),
            fault_calls: 0,
            planned: None,
            function: "",
            note: String::new(),
            waited: 0.0,
            clock: Self::clock(&config),
            config,
        }
    }

    fn space(name: &str, capacity: usize) -> Space {
        Space::new(name, capacity)
            .unwrap_or_else(|error| panic!("cuda-sim: no addresses for {name}: {error}"))
    }

    fn clock(config: &Config) -> Option<Clock> {
        let machine = config.machine.clone()?;
        Some(Clock::new(
            machine,
            config.costs,
            config.values,
            config.devices,
        ))
    }

    fn device(index: usize, config: &Config) -> Device {
        let mut space = Self::space(&format!("device {index}"), config.memory);
        space.set_hollow(config.is_hollow());
        Device {
            space,
            primary: None,
            retained: 0,
        }
    }

    /// Starts over like a new process. Address space, extra kernels and the numbering of handles
    /// continue, so that old addresses and handles stay invalid.
    pub fn reset(&mut self, config: Config) {
        self.host.reset(HOST_CAPACITY);
        self.host.set_hollow(config.is_hollow());
        for (index, device) in self.devices.iter_mut().enumerate() {
            (device.primary, device.retained) = (None, 0);
            if !device.space.reset(config.memory) {
                *device = Self::device(index, &config);
            }
            device.space.set_hollow(config.is_hollow());
        }
        while self.devices.len() < config.devices {
            self.devices.push(Self::device(self.devices.len(), &config));
        }
        self.counters = Counters::default();
        self.log = Log::new(config.log.as_deref());
        self.scheduler = Scheduler::new(config.seed);
        self.queue = Queue::new();
        self.initialized = false;
        self.contexts.clear();
        self.streams.clear();
        self.events.clear();
        self.modules.clear();
        self.functions.clear();
        self.lt.clear();
        self.registered.clear();
        self.findings.clear();
        self.set_fault(config.fault.clone());
        self.waited = 0.0;
        self.clock = Self::clock(&config);
        self.config = config;
    }

    // ---- calls

    /// Begins a call: counts it, and clears its note for the log.
    pub fn begin_call(&mut self, function: &'static str) {
        self.counters.calls += 1;
        self.function = function;
        self.note.clear();
    }

    /// Adds text to the line of this call in the log.
    pub fn note(&mut self, text: std::fmt::Arguments) {
        // Writing to a String cannot fail.
        let _ = self.note.write_fmt(format_args!(" {text}"));
    }

    /// Ends a call: runs operations that the schedule starts by itself, and writes the call's line
    /// in the log.
    pub fn end_call(&mut self, function: &str, code: Code) {
        if self.planned.take().is_some() {
            self.find(format!(
                "the fault ordered for {function} found no operation to fail"
            ));
        }
        while self.clock.is_none()
            && let Some(id) = self.scheduler.next_unasked(&self.queue)
        {
            self.run(id);
        }
        if code != Code::SUCCESS && code != Code::NOT_READY {
            self.counters.failed_calls += 1;
        }
        let line = format!(
            "call {} {function}{} = {}",
            self.counters.calls, self.note, code.0
        );
        self.log.line(line);
    }

    /// Records a finding: something wrong with the program under test, or worth knowing.
    pub fn find(&mut self, text: String) {
        self.log.line(format!("finding: {text}"));
        self.findings.push(text);
    }

    // ---- faults

    /// Plans a fault; its calls are counted from now on.
    pub fn set_fault(&mut self, fault: Option<Fault>) {
        self.fault = fault;
        self.fault_calls = 0;
        self.planned = None;
    }

    /// Returns the code that this call has to return, if a fault is planned for it.
    pub fn planned_fault(&mut self, function: &str) -> Option<Code> {
        let fault = self.fault.as_ref()?;
        if fault
            .function
            .as_deref()
            .is_some_and(|only| only != function)
        {
            return None;
        }
        self.fault_calls += 1;
        if self.fault_calls != fault.nth {
            return None;
        }
        let fault = self.fault.take()?;
        self.counters.faults += 1;
        if fault.asynchronous {
            self.planned = Some(fault.code);
            return None;
        }
        self.note(format_args!("[fault]"));
        if fault.sticky
            && let Ok(context) = self.current()
        {
            self.lose(
                context,
                fault.code,
                &format!("fault ordered for {function}"),
            );
        }
        Some(fault.code)
    }

    // ---- handles

    /// Returns a new handle. Handles are never reused, and are invalid as pointers.
    pub fn new_handle(&mut self) -> u64 {
        self.handles += 1;
        0x00C0_DE00_0000_0000 | (self.handles << 4)
    }

    /// Fails if `cuInit` has not been called.
    pub fn ready(&self) -> Result<(), Code> {
        if self.initialized {
            Ok(())
        } else {
            Err(Code::NOT_INITIALIZED)
        }
    }

    /// Returns the thread's context, if it is usable.
    pub fn current(&self) -> Result<u64, Code> {
        self.ready()?;
        let context = with_contexts(|stack| stack.last().copied()).unwrap_or(0);
        self.usable(context)?;
        Ok(context)
    }

    /// Fails if a context does not exist or is lost.
    pub fn usable(&self, context: u64) -> Result<(), Code> {
        match self.contexts.get(&context) {
            None => Err(Code::INVALID_CONTEXT),
            Some(Context {
                lost: Some(code), ..
            }) => Err(*code),
            Some(_) => Ok(()),
        }
    }

    /// Returns the device of a context.
    pub fn device_of(&self, context: u64) -> Result<usize, Code> {
        self.contexts
            .get(&context)
            .map(|context| context.device)
            .ok_or(Code::INVALID_CONTEXT)
    }

    /// Returns the stream of a handle: 0 and 1 stand for the legacy NULL stream of the thread's
    /// context.
    pub fn stream_of(&mut self, handle: u64) -> Result<u64, Code> {
        const NULL: u64 = 0;
        const LEGACY: u64 = 1;
        const PER_THREAD: u64 = 2;
        if handle == PER_THREAD {
            self.find("the per-thread default stream is not simulated".to_owned());
            return Err(Code(801));
        }
        if handle == NULL || handle == LEGACY {
            let context = self.current()?;
            return self
                .contexts
                .get(&context)
                .map(|context| context.null_stream)
                .ok_or(Code::INVALID_CONTEXT);
        }
        self.ready()?;
        let context = self
            .streams
            .get(&handle)
            .ok_or(Code::INVALID_HANDLE)?
            .context;
        self.usable(context)?;
        Ok(handle)
    }

    /// Creates a stream.
    pub fn new_stream(&mut self, context: u64, kind: StreamKind, priority: i32) -> u64 {
        let handle = self.new_handle();
        self.streams.insert(
            handle,
            Stream {
                context,
                kind,
                priority,
                tail: None,
                over: 0.0,
                touched: 0.0,
            },
        );
        handle
    }

    /// Returns the event of a handle.
    pub fn event_of(&self, handle: u64) -> Result<&Event, Code> {
        self.ready()?;
        let event = self.events.get(&handle).ok_or(Code::INVALID_HANDLE)?;
        self.usable(event.context)?;
        Ok(event)
    }

    // ---- memory

    /// Returns the device on which a range is live memory.
    pub fn device_with(&mut self, address: usize, bytes: usize) -> Result<usize, Code> {
        for index in 0..self.devices.len() {
            match self.devices[index].space.place(address, bytes) {
                Place::Elsewhere => {}
                Place::Inside => return Ok(index),
                Place::Outside(text) => {
                    let function = self.function;
                    self.find(format!(
                        "{function}: {bytes} bytes at {address:#x} are {text}"
                    ));
                    return Err(Code::INVALID_VALUE);
                }
            }
        }
        let function = self.function;
        self.find(format!(
            "{function}: {bytes} bytes at {address:#x} are no device memory"
        ));
        Err(Code::INVALID_VALUE)
    }

    /// Returns true if a range of host memory is pinned. Memory that was pinned earlier but no
    /// longer is gives an error.
    pub fn is_pinned(&mut self, address: usize, bytes: usize) -> Result<bool, Code> {
        let spaces =
            std::iter::once(&self.host).chain(self.devices.iter().map(|device| &device.space));
        let places: Vec<Place> = spaces.map(|space| space.place(address, bytes)).collect();
        for (index, place) in places.into_iter().enumerate() {
            match place {
                Place::Elsewhere => {}
                Place::Inside if index == 0 => return Ok(true),
                Place::Inside | Place::Outside(_) => {
                    let function = self.function;
                    self.find(format!(
                        "{function}: {bytes} bytes at {address:#x} are no host memory: {place:?}"
                    ));
                    return Err(Code::INVALID_VALUE);
                }
            }
        }
        let below = self.registered.range(..=address).next_back();
        Ok(below.is_some_and(|(start, length)| address.saturating_add(bytes) <= start + length))
    }

    // ---- contexts

    /// Creates a context with its NULL stream.
    pub fn new_context(&mut self, device: usize) -> u64 {
        let handle = self.new_handle();
        let null_stream = self.new_stream(handle, StreamKind::Null, 0);
        self.contexts.insert(
            handle,
            Context {
                device,
                null_stream,
                lost: None,
                orphans: Vec::new(),
            },
        );
        handle
    }

    /// Destroys a context with everything that belongs to it.
    pub fn destroy_context(&mut self, handle: u64) {
        self.wait(self.pending_of(handle));
        let Some(context) = self.contexts.remove(&handle) else {
            return;
        };
        self.queue.discard(handle);
        let leaked = self.devices[context.device].space.free_all();
        if leaked > 0 {
            self.counters.leaked_allocations += leaked as u64;
            self.find(format!(
                "{leaked} allocations stood when the context of device {} went",
                context.device
            ));
        }
        self.streams.retain(|_, stream| stream.context != handle);
        self.events.retain(|_, event| event.context != handle);
        self.modules.retain(|_, context| *context != handle);
        let modules = &self.modules;
        self.functions
            .retain(|_, function| modules.contains_key(&function.module));
    }

    /// Returns the counters, with the current values of the gauges.
    pub fn read_counters(&self) -> Counters {
        let nulls = self.contexts.len();
        Counters {
            live_allocations: self
                .devices
                .iter()
                .map(|device| device.space.len() as u64)
                .sum(),
            live_device_bytes: self
                .devices
                .iter()
                .map(|device| device.space.used() as u64)
                .sum(),
            live_host_allocations: self.host.len() as u64,
            live_host_bytes: self.host.used() as u64,
            live_contexts: self.contexts.len() as u64,
            live_streams: (self.streams.len() - nulls) as u64,
            live_events: self.events.len() as u64,
            live_modules: self.modules.len() as u64,
            live_cublaslt: self.lt.len() as u64,
            pending_operations: self.queue.len() as u64,
            ..self.counters
        }
    }
}
