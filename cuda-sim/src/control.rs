//! `seqstream_sim_*`: functions by which tests control and query the simulator. None of them counts
//! as a call.

use std::ffi::{CStr, c_char, c_int, c_uint};

use crate::call::lock;
use crate::clock::CostFunction;
use crate::code::Code;
use crate::config::{Config, MAX_DEVICES};
use crate::counters::Counters;
use crate::fault::Fault;
use crate::kernel::{EmuKernel, Kernel};
use crate::log::Log;
use crate::machine::Machine;

/// Starts over like a new process, with this many devices (0: as many as before) and this seed:
/// contexts, memory, counters, log, findings and faults are gone. Host threads keep their stack of
/// contexts, whose handles are then invalid. Returns 0, or 1 if this number of devices is not
/// possible.
#[unsafe(no_mangle)]
pub extern "C" fn seqstream_sim_reset(devices: u32, seed: u64) -> c_int {
    let mut sim = lock();
    let devices = if devices == 0 {
        sim.config.devices
    } else {
        devices as usize
    };
    if devices > MAX_DEVICES {
        return 1;
    }
    let config = Config {
        devices,
        seed,
        fault: None,
        ..sim.config.clone()
    };
    sim.reset(config);
    0
}

/// Like `seqstream_sim_reset`, with the settings of the environment.
#[unsafe(no_mangle)]
pub extern "C" fn seqstream_sim_reset_from_environment() {
    lock().reset(Config::from_environment());
}

/// Sets the bytes per device, from the next reset on.
#[unsafe(no_mangle)]
pub extern "C" fn seqstream_sim_set_memory(bytes: usize) {
    lock().config.memory = bytes;
}

/// Sets the compute capability, 80, 89 or 90, from the next `cuDeviceGetAttribute` on.
#[unsafe(no_mangle)]
pub extern "C" fn seqstream_sim_set_architecture(architecture: u32) {
    lock().config.architecture = architecture;
}

/// Sets the seed of the schedule from now on. Pending operations stay pending.
#[unsafe(no_mangle)]
pub extern "C" fn seqstream_sim_set_seed(seed: u64) {
    let mut sim = lock();
    sim.config.seed = seed;
    sim.scheduler = crate::schedule::Scheduler::new(seed);
}

/// Plans a fault, written as in SEQSTREAM_SIM_FAULT; counting starts now. Null or "" plans no
/// fault. Returns 0, or 1 if the text cannot be parsed.
///
/// # Safety `fault` is null or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqstream_sim_set_fault(fault: *const c_char) -> c_int {
    let text = if fault.is_null() {
        String::new()
    } else {
        // SAFETY: the caller guarantees it.
        unsafe { CStr::from_ptr(fault) }
            .to_string_lossy()
            .into_owned()
    };
    let mut sim = lock();
    if text.is_empty() {
        sim.set_fault(None);
        return 0;
    }
    match Fault::parse(&text) {
        Ok(fault) => {
            sim.set_fault(Some(fault));
            0
        }
        Err(_) => 1,
    }
}

/// Loses a device's context at once, like a card that falls off the bus between two calls. Returns
/// 0, or 1 if the device has no context.
#[unsafe(no_mangle)]
pub extern "C" fn seqstream_sim_lose_device(device: u32, code: c_int) -> c_int {
    let mut sim = lock();
    match sim
        .devices
        .get(device as usize)
        .and_then(|device| device.primary)
    {
        Some(context) => {
            sim.lose(context, Code(code), "lost on demand");
            0
        }
        None => 1,
    }
}

/// Writes the counters to `out`.
///
/// # Safety `out` points to a `Counters`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqstream_sim_counters(out: *mut Counters) {
    // SAFETY: the caller guarantees it.
    unsafe { out.write(lock().read_counters()) }
}

/// Returns one counter by its field's name, or `u64::MAX` if no counter has that name.
///
/// # Safety `name` is a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqstream_sim_counter(name: *const c_char) -> u64 {
    // SAFETY: the caller guarantees it.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    let found = lock()
        .read_counters()
        .named()
        .into_iter()
        .find(|(known, _)| *known == name);
    found.map_or(u64::MAX, |(_, count)| count)
}

/// Returns the size of `Counters`, by which a test from another build notices a different layout.
#[unsafe(no_mangle)]
pub extern "C" fn seqstream_sim_counters_size() -> usize {
    size_of::<Counters>()
}

/// Copies a text, cut to `size` bytes including its final zero; returns the size that the whole
/// text needs.
fn put(text: &str, buffer: *mut c_char, size: usize) -> usize {
    if !buffer.is_null() && size > 0 {
        // A null or empty buffer is excluded above.
        let _ = crate::abi::put_text(buffer, size, text);
    }
    text.len() + 1
}

/// Copies the log to `buffer`: lines of the forms `call <n> <function> <what> = <code>`, `run
/// op=<n> ...` and `finding: ...`. Returns the size that the whole text needs, including its final
/// zero.
///
/// # Safety `buffer` is null or has `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqstream_sim_log(buffer: *mut c_char, size: usize) -> usize {
    put(&lock().log.text(), buffer, size)
}

/// Copies the simulator's findings, one per line: invalid ranges, lost contexts, leaks, errors of
/// kernels. It works like `seqstream_sim_log`.
///
/// # Safety `buffer` is null or has `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqstream_sim_findings(buffer: *mut c_char, size: usize) -> usize {
    put(&lock().findings.join("\n"), buffer, size)
}

/// Copies the list of live device allocations, one per line: `device=<n> bytes=<n> at=<address>`.
/// It works like `seqstream_sim_log`.
///
/// # Safety `buffer` is null or has `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqstream_sim_live_allocations(buffer: *mut c_char, size: usize) -> usize {
    let sim = lock();
    let mut text = String::new();
    for (index, device) in sim.devices.iter().enumerate() {
        for (address, bytes) in device.space.live() {
            text += &format!("device={index} bytes={bytes} at={address:#x}\n");
        }
    }
    put(&text, buffer, size)
}

/// Sends the log to another file from now on; null means no file. Earlier lines are forgotten.
///
/// # Safety `path` is null or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqstream_sim_set_log(path: *const c_char) {
    let path = (!path.is_null()).then(|| {
        // SAFETY: the caller guarantees it.
        unsafe { CStr::from_ptr(path) }
            .to_string_lossy()
            .into_owned()
            .into()
    });
    let mut sim = lock();
    sim.log = Log::new(path.as_deref());
    sim.config.log = path;
}

/// Adds a kernel to the kernels that `cuModuleGetFunction` finds; it takes precedence over a
/// compiled kernel of the same name.
///
/// # Safety `kernel` points to an entry that stays valid, with a C string as its name and a
/// function that keeps the registry's contract.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqstream_sim_register_kernel(kernel: *const EmuKernel) {
    // SAFETY: the caller guarantees it.
    let entry: Option<&'static EmuKernel> = unsafe { kernel.as_ref() };
    if let Some(entry) = entry {
        lock().extra_kernels.push(Kernel::new(entry));
    }
}

/// Starts over on the machine of a machine file, in virtual time. `machine` is the text of the
/// file, or null for no machine. `costs` says what kernels cost; without it only their number of
/// blocks counts. `rates` is null, or the names of all rates that `costs` may ask for, separated by
/// spaces: others are then an error. Unless `values` is 1, nothing is computed, and memory is only
/// reserved. Returns 0, or 1 with a message in `buffer`, which has `size` bytes; nothing has
/// changed then.
///
/// # Safety `machine` and `rates` are null or C strings; `buffer` is null or has `size` bytes; `costs`
/// keeps the contract of its type.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqstream_sim_set_machine(
    machine: *const c_char,
    rates: *const c_char,
    costs: Option<CostFunction>,
    values: c_int,
    buffer: *mut c_char,
    size: usize,
) -> c_int {
    let text = |text: *const c_char| {
        (!text.is_null()).then(|| {
            // SAFETY: the caller guarantees it.
            unsafe { CStr::from_ptr(text) }
                .to_string_lossy()
                .into_owned()
        })
    };
    let rates = text(rates).unwrap_or_default();
    let rates: Vec<&str> = rates.split_whitespace().collect();
    let machine = match text(machine).map(|text| Machine::parse(&text, &rates)) {
        Some(Ok(machine)) => Some(machine),
        Some(Err(error)) => {
            put(&error.to_string(), buffer, size);
            return 1;
        }
        None => None,
    };
    let mut sim = lock();
    let config = Config {
        fault: None,
        machine: None,
        ..sim.config.clone()
    };
    let config = match machine {
        Some(machine) => config.on_machine(machine, costs, values == 1),
        None => config,
    };
    sim.reset(config);
    0
}

/// Returns 1 if the machine has a rate of this name, and else 0.
///
/// # Safety `name` is a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqstream_sim_has_rate(name: *const c_char) -> c_int {
    // SAFETY: the caller guarantees it.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    let sim = lock();
    c_int::from(
        sim.clock
            .as_ref()
            .is_some_and(|clock| clock.has_rate(&name)),
    )
}

/// Copies the name of the machine. It works like `seqstream_sim_log`.
///
/// # Safety `buffer` is null or has `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqstream_sim_machine_name(buffer: *mut c_char, size: usize) -> usize {
    let sim = lock();
    let name = sim
        .config
        .machine
        .as_ref()
        .map_or("", |machine| &machine.name);
    put(name, buffer, size)
}

/// Returns the calling thread's virtual time in microseconds; 0 without a machine.
#[unsafe(no_mangle)]
pub extern "C" fn seqstream_sim_now() -> f64 {
    lock().clock.as_mut().map_or(0.0, |clock| clock.now())
}

/// Lets the calling thread work for some microseconds of virtual time, which the simulator cannot
/// see by itself: reading, tokenizing, writing. Negative times and NaN are none.
#[unsafe(no_mangle)]
pub extern "C" fn seqstream_sim_host_work(microseconds: f64) {
    if let Some(clock) = &mut lock().clock {
        clock.work(microseconds.max(0.0));
    }
}

/// Returns the microseconds of virtual time for which an engine of a device has been busy: 0 for
/// copies to the device, 1 for copies to the host, 2 for computing. Returns -1 if there is none.
#[unsafe(no_mangle)]
pub extern "C" fn seqstream_sim_busy(device: c_uint, engine: c_uint) -> f64 {
    let sim = lock();
    let clock = sim.clock.as_ref();
    clock
        .and_then(|clock| clock.busy(device as usize, engine as usize))
        .unwrap_or(-1.0)
}
