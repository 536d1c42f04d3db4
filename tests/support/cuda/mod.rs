//! Devices for tests of the CUDA path: the simulated driver, or a real one ([`gpu`]).

pub mod algorithms;
pub mod gpu;
pub mod launches;
pub mod model;
pub mod numbers;
pub mod products;
pub mod real;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use libloading::Library;

/// Prints a line on standard error that the test harness does not capture: it captures only what
/// macros print.
pub fn aloud(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Returns the path of the simulator's library, beside the test programs.
///
/// # Panics If the library does not exist: a test of the CUDA path never passes without a driver.
/// Also if REQUIRE_GPU=1 and there is no GPU.
pub fn library() -> PathBuf {
    real::required_is_there();
    let here = std::env::current_exe().unwrap();
    let path = here.parent().unwrap().join("libseqstream_cuda_sim.so");
    assert!(
        path.is_file(),
        "{} is not there: run `cargo test --workspace`",
        path.display()
    );
    path
}

/// The simulator that receives this process's driver calls. One test at a time holds it.
pub struct Simulator {
    library: &'static Library,
    _alone: MutexGuard<'static, ()>,
}

static ALONE: Mutex<()> = Mutex::new(());
/// The thread that held [`ALONE`] last, and since when.
static HOLDER: Mutex<Option<(ThreadId, Instant)>> = Mutex::new(None);

/// Waits until no other test uses the simulator or changes the environment.
fn alone() -> MutexGuard<'static, ()> {
    let alone = ALONE
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    *HOLDER.lock().unwrap() = Some((std::thread::current().id(), Instant::now()));
    alone
}

/// Returns for how long the test in `thread` has had the simulator; `None` if another test has it.
pub fn held_by(thread: ThreadId) -> Option<Duration> {
    let holder = *HOLDER.lock().unwrap();
    holder.and_then(|(held, since)| (held == thread).then(|| since.elapsed()))
}

/// Returns a fresh simulator with this many devices and this seed.
///
/// # Panics Like [`library`].
pub fn simulator(devices: u32, seed: u64) -> Simulator {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    real::required_is_there();
    let alone = alone();
    let library = LIBRARY.get_or_init(|| {
        let path = library();
        // SAFETY: tests take the simulator before any driver call, one at a time, and nothing else
        // in these programs writes the environment, or reads it other than through `std`.
        unsafe { std::env::set_var("SEQSTREAM_LIBCUDA", &path) };
        // SAFETY: the library's constructors do nothing.
        unsafe { Library::new(path).unwrap() }
    });
    let simulator = Simulator {
        library,
        _alone: alone,
    };
    // A test that failed leaves the simulator in any state, its settings too.
    simulator.call::<extern "C" fn()>("seqstream_sim_reset_from_environment")();
    simulator.call::<extern "C" fn(u32, u64) -> i32>("seqstream_sim_reset")(devices, seed);
    simulator
}

impl Simulator {
    /// Returns one of its `seqstream_sim_*` functions; `F` is its type.
    pub fn call<F: Copy>(&self, name: &str) -> F {
        // SAFETY: the callers name functions with the types that cuda-sim/src/control.rs gives
        // them.
        unsafe { *self.library.get::<F>(name.as_bytes()).unwrap() }
    }
}
