//! Virtual time: when every operation starts and ends on a machine that a file describes.
//!
//! An operation starts when all that it waits for has ended, its launch has arrived, and the
//! engines that it needs are free: the copy engine of its direction (and the switch), or the
//! multiprocessors. Each host thread has a clock of its own. A call that submits moves it on, a
//! wait moves it to the end of what was waited for, and whoever uses a stream or an event after
//! another thread is at least as late as that thread was.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::Arc;
use std::thread::ThreadId;

use crate::code::Code;
use crate::kernel::Launch;
use crate::machine::Machine;
use crate::matmul::{Element, Product};
use crate::memory::{Place, Space, pages};
use crate::run::{Direction, Source, Work};

/// A launch, as the cost function sees it.
#[repr(C)]
pub struct CostedLaunch {
    /// The name of the kernel.
    pub name: *const c_char,
    /// The kernel's parameter.
    pub params: *const c_void,
    /// The size of the parameter in bytes.
    pub params_size: usize,
    /// The number of blocks in each dimension.
    pub grid: [u32; 3],
    /// The number of threads per block in each dimension.
    pub block: [u32; 3],
    /// What `read` needs.
    pub memory: *const c_void,
    /// Copies bytes of device memory to `out`. Returns 0, or 1 if they are not known: outside of
    /// an allocation, or left out because values are off.
    pub read:
        extern "C" fn(memory: *const c_void, address: u64, out: *mut c_void, bytes: usize) -> c_int,
}

/// The work of a launch, in the units of one of the machine's rates.
#[repr(C)]
pub struct Cost {
    /// The name of the rate, a C string that lives as long as the program.
    pub rate: *const c_char,
    /// The number of units: operations or bytes.
    pub amount: f64,
    /// The size at which the rate is looked up.
    pub size: f64,
}

/// Says what a launch costs. Returns 0, or 1 if it does not know the kernel.
pub type CostFunction = extern "C" fn(launch: *const CostedLaunch, cost: *mut Cost) -> c_int;

/// Copies to a device of at most this many bytes are made even where values are off: they may hold
/// a list of work, which the cost function reads.
const SMALL_COPY: usize = 4 << 20;

/// The load of work that only moves bytes.
const MOVING: f64 = 0.3;

/// The times at which an engine is busy, sorted; neighbours that touch are one.
#[derive(Default)]
struct Engine {
    busy: Vec<(f64, f64)>,
    total: f64,
}

/// Times closer than this, in microseconds, are the same.
const EPSILON: f64 = 1e-6;

impl Engine {
    /// The first time from `ready` on at which the engine is free for `duration`.
    fn free_at(&self, ready: f64, duration: f64) -> f64 {
        let mut start = ready;
        let first = self
            .busy
            .partition_point(|(_, end)| *end <= ready + EPSILON);
        for (from, end) in &self.busy[first..] {
            if start + duration <= from + EPSILON {
                break;
            }
            start = start.max(*end);
        }
        start
    }

    fn take(&mut self, start: f64, duration: f64) {
        self.total += duration;
        let end = start + duration;
        let at = self.busy.partition_point(|(from, _)| *from < start);
        let touches_before = at > 0 && start - self.busy[at - 1].1 <= EPSILON;
        let touches_after = at < self.busy.len() && self.busy[at].0 - end <= EPSILON;
        match (touches_before, touches_after) {
            (true, true) => {
                self.busy[at - 1].1 = self.busy[at].1;
                self.busy.remove(at);
            }
            (true, false) => self.busy[at - 1].1 = end.max(self.busy[at - 1].1),
            (false, true) => self.busy[at].0 = start,
            (false, false) => self.busy.insert(at, (start, end)),
        }
    }
}

/// The kinds of engines of a device, in the order of their numbers in the control functions.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    ToDevice = 0,
    ToHost = 1,
    Compute = 2,
}

/// A device's engines, and its load.
#[derive(Default)]
struct Device {
    /// By `Kind`.
    engines: [Engine; 3],
    /// The average load.
    load: f64,
    /// The time of that.
    load_at: f64,
}

/// Virtual time.
pub struct Clock {
    machine: Arc<Machine>,
    costs: Option<CostFunction>,
    /// Whether operations are also computed.
    pub values: bool,
    /// The clocks of the host's threads.
    host: HashMap<ThreadId, f64>,
    devices: Vec<Device>,
    /// The switches, by direction.
    switches: Vec<[Engine; 2]>,
    /// The host's threads that fill pinned memory, as one.
    fill: Engine,
    /// When the host may write again at an address of pinned memory: the end of the last copy.
    left: BTreeMap<usize, f64>,
    /// When each piece of pinned memory was allocated, by its address.
    allocated: BTreeMap<usize, f64>,
    /// Ranges of device memory whose bytes are not known because copies to them were left out.
    unknown: BTreeMap<usize, usize>,
}

impl Clock {
    /// Starts the clock of a machine with `count` devices at 0.
    pub fn new(
        machine: Arc<Machine>,
        costs: Option<CostFunction>,
        values: bool,
        count: usize,
    ) -> Self {
        let switches = machine
            .switch
            .as_ref()
            .map_or(0, |switch| count.div_ceil(switch.devices.0 as usize));
        Self {
            machine,
            costs,
            values,
            host: HashMap::new(),
            devices: (0..count).map(|_| Device::default()).collect(),
            switches: (0..switches).map(|_| Default::default()).collect(),
            fill: Engine::default(),
            left: BTreeMap::new(),
            allocated: BTreeMap::new(),
            unknown: BTreeMap::new(),
        }
    }

    // ---- the host

    /// The calling thread's time. A thread that is new begins at the latest time of any thread.
    pub fn now(&mut self) -> f64 {
        let latest = self.host.values().copied().fold(0.0, f64::max);
        *self
            .host
            .entry(std::thread::current().id())
            .or_insert(latest)
    }

    /// Makes the calling thread at least as late as `time`.
    pub fn reach(&mut self, time: f64) {
        let now = self.now();
        self.host.insert(std::thread::current().id(), now.max(time));
    }

    /// Lets the calling thread work for some microseconds.
    pub fn work(&mut self, microseconds: f64) {
        let now = self.now();
        self.reach(now + microseconds);
    }

    /// Makes the calling thread wait until `over`, if that is later.
    pub fn wait_until(&mut self, over: f64) {
        if over > self.now() {
            self.reach(over + self.machine.launch.wake_us.0);
        }
    }

    /// A call submits this work: returns the time from which on it may run.
    pub fn submit(&mut self, work: &Work) -> f64 {
        let launch = &self.machine.launch;
        let (host, latency) = match work {
            Work::Kernel(_) | Work::Matmul(_) => (launch.host_us.0, launch.latency_us.0),
            Work::Copy { .. } | Work::Fill { .. } => (launch.call_us.0, launch.latency_us.0),
            Work::Record { .. } | Work::Wait => (launch.call_us.0, 0.0),
        };
        if let Work::Copy {
            direction: Direction::ToDevice,
            source: Source::Address(source),
            bytes,
            ..
        } = work
        {
            // The host has filled the source since the last copy out of it.
            let duration = *bytes as f64 / self.machine.host.fill_rate();
            let allocated = || self.allocated.range(..=*source).next_back();
            let left = self.left.get(source).or_else(|| Some(allocated()?.1));
            let left = left.copied().unwrap_or(0.0);
            if *bytes <= SMALL_COPY {
                // Tokens and work lists: the submitting thread writes them itself. If they queued for
                // the copiers, their turn would depend on how far a loader has really come.
                self.reach(left + duration);
            } else {
                let start = self.fill.free_at(left, duration);
                self.fill.take(start, duration);
                self.reach(start + duration);
            }
        }
        self.work(host);
        self.now() + latency
    }

    // ---- operations

    /// Places an operation that may start at `ready` on its engines; returns its start and its end.
    pub fn place(
        &mut self,
        work: &Work,
        device: usize,
        ready: f64,
        space: &Space,
    ) -> Result<(f64, f64), (Code, String)> {
        let machine = Arc::clone(&self.machine);
        match work {
            Work::Record { .. } | Work::Wait => Ok((ready, ready)),
            Work::Copy {
                direction: Direction::OnDevice,
                bytes,
                ..
            } => {
                // Every byte is read and written.
                let bytes = 2.0 * *bytes as f64;
                let duration = bytes / (machine.device.memory_gb_per_s.0 * 1e3);
                Ok(self.compute(device, ready, duration, MOVING))
            }
            Work::Fill { bytes, .. } => {
                let duration = *bytes as f64 / (machine.device.memory_gb_per_s.0 * 1e3);
                Ok(self.compute(device, ready, duration, MOVING))
            }
            Work::Copy {
                direction,
                source,
                bytes,
                pinned,
                ..
            } => {
                let to_device = *direction == Direction::ToDevice;
                let copy = &machine.copy;
                let rate = match (to_device, !pinned) {
                    (true, false) => copy.to_device_gb_per_s,
                    (true, true) => copy.pageable_to_device_gb_per_s,
                    (false, false) => copy.to_host_gb_per_s,
                    (false, true) => copy.pageable_to_host_gb_per_s,
                };
                let (start, end) = self.copy(device, ready, *bytes as f64, rate.0, to_device);
                if let (true, Source::Address(source)) = (to_device, source) {
                    self.left.insert(*source, end);
                }
                Ok((start, end))
            }
            Work::Kernel(launch) => {
                let heat = self.heat(device, ready);
                let (duration, load) = self.kernel(launch, heat, space)?;
                Ok(self.compute(device, ready, duration, load))
            }
            Work::Matmul(product) => {
                let heat = self.heat(device, ready);
                // The algorithms of the simulated library that are quicker than a plain one have
                // no counterpart on the machine.
                let (duration, load) = self.product(product, heat);
                let duration = duration * product.slowness.max(1.0);
                Ok(self.compute(device, ready, duration, load))
            }
        }
    }

    fn copy(
        &mut self,
        device: usize,
        ready: f64,
        bytes: f64,
        rate: f64,
        to_device: bool,
    ) -> (f64, f64) {
        let machine = &self.machine;
        let own = match (machine.copy.engines.0, to_device) {
            (2, false) => Kind::ToHost,
            _ => Kind::ToDevice,
        };
        let duration = bytes / (rate * 1e3);
        let shared = machine.switch.as_ref().map(|switch| {
            let rate = match to_device {
                true => switch.to_device_gb_per_s,
                false => switch.to_host_gb_per_s,
            };
            let number = device / switch.devices.0 as usize;
            (number, usize::from(!to_device), bytes / (rate.0 * 1e3))
        });
        let mut start = ready;
        loop {
            let mut free = self.devices[device].engines[own as usize].free_at(start, duration);
            if let Some((number, direction, duration)) = shared {
                free = self.switches[number][direction].free_at(free, duration);
            }
            if free <= start {
                break;
            }
            start = free;
        }
        self.devices[device].engines[own as usize].take(start, duration);
        let mut end = start + duration;
        if let Some((number, direction, duration)) = shared {
            self.switches[number][direction].take(start, duration);
            end = end.max(start + duration);
        }
        (start, end + self.machine.copy.latency_us.0)
    }

    /// Occupies the multiprocessors of a device.
    fn compute(&mut self, device: usize, ready: f64, duration: f64, load: f64) -> (f64, f64) {
        let duration = duration + self.machine.launch.gap_us.0;
        let constant = self.machine.power.time_constant_ms.0 * 1e3;
        let device = &mut self.devices[device];
        let engine = &mut device.engines[Kind::Compute as usize];
        let start = engine.free_at(ready, duration);
        engine.take(start, duration);
        let end = start + duration;
        let idle = (start - device.load_at).max(0.0);
        device.load *= (-idle / constant).exp();
        device.load = load + (device.load - load) * (-duration / constant).exp();
        device.load_at = device.load_at.max(end);
        (start, end)
    }

    /// How far the rates of a device are on their way from burst (0) to sustained (1).
    fn heat(&self, device: usize, ready: f64) -> f64 {
        let power = &self.machine.power;
        let constant = power.time_constant_ms.0 * 1e3;
        let device = &self.devices[device];
        let idle = (ready - device.load_at).max(0.0);
        power.heat(device.load * (-idle / constant).exp())
    }

    /// The microseconds of a product, and its load: the part of the time that computing takes.
    fn product(&self, product: &Product, heat: f64) -> (f64, f64) {
        let figures = &self.machine.products;
        let (m, n, k) = product.shape();
        let (rows, columns) = (n as f64, m as f64);
        // The library's matrices are column-major: its columns are the rows of x.
        let tiles = (rows / f64::from(figures.tile_rows.0)).ceil()
            * (columns / f64::from(figures.tile_columns.0)).ceil();
        let waves = tiles / f64::from(self.machine.device.multiprocessors.0);
        let tflops = match product.a.element {
            Element::F32 => figures.f32_tflops.0,
            Element::F16 | Element::Bf16 => {
                let (burst, sustained) = (figures.burst_tflops.0, figures.sustained_tflops.0);
                burst + (sustained - burst) * heat
            }
        };
        let computing = 2.0 * rows * columns * k as f64 / (tflops * 1e6) * (waves.ceil() / waves);
        let bytes = product.bytes_moved() as f64;
        let moving = bytes / (figures.gb_per_s.0 * 1e3);
        let p = figures.norm.0;
        let both = (computing.powf(p) + moving.powf(p)).powf(1.0 / p) + figures.fixed_us.0;
        (both, computing / both)
    }

    /// The microseconds of a kernel, and its load.
    fn kernel(
        &self,
        launch: &Launch,
        heat: f64,
        space: &Space,
    ) -> Result<(f64, f64), (Code, String)> {
        let Some(costs) = self.costs else {
            // Without a cost function nothing is known of a kernel but its size.
            return Ok((Work::guess(launch), MOVING));
        };
        let name = launch.kernel.name();
        let unknown = |what: String| {
            let text = format!("kernel {name} has no cost: {what}");
            (Code::NOT_SUPPORTED, text)
        };
        let c_name = CString::new(name.clone()).unwrap_or_default();
        let memory = Memory {
            space,
            unknown: &self.unknown,
        };
        let (params, params_size) = launch.params.raw(launch.kernel.params_size());
        let seen = CostedLaunch {
            name: c_name.as_ptr(),
            params,
            params_size,
            grid: launch.grid,
            block: launch.block,
            memory: (&raw const memory).cast(),
            read,
        };
        let mut cost = Cost {
            rate: std::ptr::null(),
            amount: 0.0,
            size: 0.0,
        };
        if costs(&seen, &mut cost) != 0 || cost.rate.is_null() {
            return Err(unknown("the cost function does not know it".to_owned()));
        }
        // SAFETY: the cost function's contract makes this a C string that lives as long as the
        // program.
        let rate = unsafe { CStr::from_ptr(cost.rate) }.to_string_lossy();
        let Some(found) = self.machine.rates.get(rate.as_ref()) else {
            return Err(unknown(format!("the machine has no rate {rate}")));
        };
        let (per_microsecond, load) = found.at(cost.size, heat);
        Ok(((cost.amount / per_microsecond).max(0.0), load))
    }

    // ---- memory without values

    /// Notes that pinned memory may be written from now on.
    pub fn host_allocated(&mut self, address: usize) {
        let now = self.now();
        self.allocated.insert(address, now);
    }

    /// Performs what has to be done of an operation where values are off: a small copy to a
    /// device.
    ///
    /// # Safety The ranges of a copy are live memory.
    pub unsafe fn perform_hollow(&mut self, work: &Work) {
        let Work::Copy {
            direction: Direction::ToDevice,
            source,
            target,
            bytes,
            ..
        } = work
        else {
            return;
        };
        if *bytes > SMALL_COPY {
            self.unknown.insert(*target, *bytes);
            return;
        }
        self.unknown.remove(target);
        let source = match source {
            Source::Staged(data) => data.as_ptr() as usize,
            Source::Address(source) => *source,
        };
        // SAFETY: the caller guarantees it.
        unsafe { pages::update(source, *target, *bytes) };
    }

    // ---- what tests and studies read

    /// The microseconds for which an engine of a device has been busy: 0 copies to the device, 1
    /// copies to the host, 2 computes.
    pub fn busy(&self, device: usize, engine: usize) -> Option<f64> {
        Some(self.devices.get(device)?.engines.get(engine)?.total)
    }

    /// Whether the machine has a rate of this name.
    pub fn has_rate(&self, name: &str) -> bool {
        self.machine.rates.contains_key(name)
    }
}

/// What a cost function may read.
struct Memory<'a> {
    space: &'a Space,
    unknown: &'a BTreeMap<usize, usize>,
}

extern "C" fn read(memory: *const c_void, address: u64, out: *mut c_void, bytes: usize) -> c_int {
    // SAFETY: the pointer is that of `kernel`, which waits for the cost function to return.
    let memory = unsafe { &*memory.cast::<Memory>() };
    let start = address as usize;
    let below = memory
        .unknown
        .range(..start.saturating_add(bytes))
        .next_back();
    let left_out = below.is_some_and(|(from, length)| from + length > start);
    if left_out || out.is_null() || memory.space.place(start, bytes) != Place::Inside {
        return 1;
    }
    // SAFETY: the source was just found live, and by the contract the caller's buffer has as many
    // bytes.
    unsafe { pages::copy(start, out as usize, bytes) };
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_fills_gaps_and_never_does_two_things_at_once() {
        let mut engine = Engine::default();
        for (ready, duration, expected) in [
            (10.0, 5.0, 10.0), // the first
            (10.0, 5.0, 15.0), // after it
            (0.0, 10.0, 0.0),  // fits before
            (0.0, 1.0, 20.0),  // does not
            (30.0, 2.0, 30.0),
            (21.0, 9.0, 21.0), // just fits between
        ] {
            let start = engine.free_at(ready, duration);
            assert_eq!(start, expected, "{ready} {duration}");
            engine.take(start, duration);
        }
        assert_eq!(engine.busy, [(0.0, 32.0)]);
        assert_eq!(engine.total, 32.0);
    }
}
