//! One call of the simulated API: the lock, the count, the fault planned for it, and its line in
//! the log.

use std::cell::RefCell;
use std::ffi::c_int;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use crate::code::Code;
use crate::config::Config;
use crate::cublaslt_api::Status;
use crate::sim::Sim;

static SIM: LazyLock<Mutex<Sim>> =
    LazyLock::new(|| Mutex::new(Sim::new(Config::from_environment())));

thread_local! {
    /// The thread's stack of contexts; the last one is current. 0 stands for no context.
    static CONTEXTS: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Locks the simulator: there is one per process, and it serves one call at a time.
pub fn lock() -> MutexGuard<'static, Sim> {
    SIM.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives access to the thread's stack of contexts.
pub fn with_contexts<R>(body: impl FnOnce(&mut Vec<u64>) -> R) -> R {
    CONTEXTS.with_borrow_mut(body)
}

/// Runs one call of the driver: counts and logs it, and applies the fault that is planned for it.
pub fn call(name: &'static str, body: impl FnOnce(&mut Sim) -> Result<(), Code>) -> c_int {
    let mut sim = lock();
    sim.begin_call(name);
    let planned = sim.planned_fault(name);
    let result = match planned {
        // A function that only releases something has released it even if it reports an error: the
        // driver documents that these functions may return the errors of earlier work.
        Some(code) if releases(name) => body(&mut sim).and(Err(code)),
        Some(code) => Err(code),
        None => body(&mut sim),
    };
    let code = result.err().unwrap_or(Code::SUCCESS);
    sim.end_call(name, code);
    code.0
}

fn releases(name: &str) -> bool {
    ["Free", "Destroy", "Unload", "Release", "Unregister"]
        .iter()
        .any(|word| name.contains(word))
}

/// Like `call`, for cuBLASLt. A fault has one of the driver's codes; the library translates it into
/// its own codes.
pub fn call_lt(name: &'static str, body: impl FnOnce(&mut Sim) -> Result<(), Status>) -> c_int {
    let mut sim = lock();
    sim.begin_call(name);
    let result = match sim.planned_fault(name) {
        Some(code) if releases(name) => body(&mut sim).and(Err(code.into())),
        Some(code) => Err(code.into()),
        None => body(&mut sim),
    };
    let status = result.err().map_or(0, |status| status.0);
    sim.end_call(name, Code(status));
    status
}
