//! `seqstream_sim_*`: what tests ask of the simulator itself. None of these counts as a call.

use std::ffi::{CStr, c_char, c_int};

use crate::call::lock;
use crate::code::Code;
use crate::config::{Config, MAX_DEVICES};
use crate::counters::Counters;
use crate::fault::Fault;
use crate::kernel::{EmuKernel, Kernel};
use crate::log::Log;

/// A new process, as it were, with this many devices (0: as before) and this seed: contexts, memory, counters, log,
/// findings and faults are gone. Host threads keep their stack of contexts, whose handles are then invalid.
/// Returns 0, or 1 if so many devices cannot be had.
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

/// As reset, with the settings of the environment.
#[unsafe(no_mangle)]
pub extern "C" fn seqstream_sim_reset_from_environment() {
    lock().reset(Config::from_environment());
}

/// Bytes a device, from the next reset on.
#[unsafe(no_mangle)]
pub extern "C" fn seqstream_sim_set_memory(bytes: usize) {
    lock().config.memory = bytes;
}

/// 80, 89 or 90, from the next `cuDeviceGetAttribute` on.
#[unsafe(no_mangle)]
pub extern "C" fn seqstream_sim_set_architecture(architecture: u32) {
    lock().config.architecture = architecture;
}

/// The schedule from here on. What is pending stays so.
#[unsafe(no_mangle)]
pub extern "C" fn seqstream_sim_set_seed(seed: u64) {
    let mut sim = lock();
    sim.config.seed = seed;
    sim.scheduler = crate::schedule::Scheduler::new(seed);
}

/// Orders a fault, written as in SEQSTREAM_SIM_FAULT; counting starts now. Null or "" orders none.
/// Returns 0, or 1 if it cannot be read.
///
/// # Safety
/// `fault` is null or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqstream_sim_set_fault(fault: *const c_char) -> c_int {
    let text = if fault.is_null() {
        String::new()
    } else {
        // SAFETY: the caller's promise.
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

/// Loses a device's context at once, as a card that falls off the bus does between two calls. Returns 0, or 1 if the
/// device has no context.
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

/// # Safety
/// `out` points to a `Counters`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqstream_sim_counters(out: *mut Counters) {
    // SAFETY: the caller's promise.
    unsafe { out.write(lock().read_counters()) }
}

/// One counter by its field's name; `u64::MAX` if there is none of that name.
///
/// # Safety
/// `name` is a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqstream_sim_counter(name: *const c_char) -> u64 {
    // SAFETY: the caller's promise.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    let found = lock()
        .read_counters()
        .named()
        .into_iter()
        .find(|(known, _)| *known == name);
    found.map_or(u64::MAX, |(_, count)| count)
}

/// The size of `Counters`, so that a test of another build notices.
#[unsafe(no_mangle)]
pub extern "C" fn seqstream_sim_counters_size() -> usize {
    size_of::<Counters>()
}

/// Copies a text, cut to `size` bytes with its final zero; returns the size that the whole needs.
fn put(text: &str, buffer: *mut c_char, size: usize) -> usize {
    if !buffer.is_null() && size > 0 {
        // A null or empty buffer was just excluded.
        let _ = crate::abi::put_text(buffer, size, text);
    }
    text.len() + 1
}

/// The log: `call <n> <function> <what> = <code>`, `run op=<n> ...`, `finding: ...`, a line each. Fills `buffer` and
/// returns the size that the whole text needs with its final zero.
///
/// # Safety
/// `buffer` is null or has `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqstream_sim_log(buffer: *mut c_char, size: usize) -> usize {
    put(&lock().log.text(), buffer, size)
}

/// What the simulator found wrong, a line each: invalid ranges, lost contexts, leaks, kernels' errors. As
/// `seqstream_sim_log`.
///
/// # Safety
/// `buffer` is null or has `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqstream_sim_findings(buffer: *mut c_char, size: usize) -> usize {
    put(&lock().findings.join("\n"), buffer, size)
}

/// Live device allocations, a line each: `device=<n> bytes=<n> at=<address>`. As `seqstream_sim_log`.
///
/// # Safety
/// `buffer` is null or has `size` bytes.
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

/// Sends the log to another file from here on; null for none. Lines so far are forgotten.
///
/// # Safety
/// `path` is null or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqstream_sim_set_log(path: *const c_char) {
    let path = (!path.is_null()).then(|| {
        // SAFETY: the caller's promise.
        unsafe { CStr::from_ptr(path) }
            .to_string_lossy()
            .into_owned()
            .into()
    });
    let mut sim = lock();
    sim.log = Log::new(path.as_deref());
    sim.config.log = path;
}

/// Adds a kernel to those that `cuModuleGetFunction` finds; it comes before a compiled one of its name.
///
/// # Safety
/// `kernel` points to an entry that stays valid, with a C string for a name and a function that keeps to the
/// registry's contract.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqstream_sim_register_kernel(kernel: *const EmuKernel) {
    // SAFETY: the caller's promise.
    let entry: Option<&'static EmuKernel> = unsafe { kernel.as_ref() };
    if let Some(entry) = entry {
        lock().extra_kernels.push(Kernel::new(entry));
    }
}
