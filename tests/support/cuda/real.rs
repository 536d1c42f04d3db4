//! A real GPU: whether tests run on it, whether there is one, and messages if there is none.
//!
//! Tests run on the simulated driver. If there is a GPU, the test `on_a_real_gpu` of a file runs
//! the tests of that file again on it (SEQSTREAM_TEST_GPU=1, which also works by hand). If there is
//! none, it says so; with REQUIRE_GPU=1 this is a failure of this test and of every other.

use std::ffi::c_int;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use super::{alone, aloud};
use seqstream::backend::cuda::kernels;

/// Says which test is not run, and why. For a missing GPU use [`absent`].
pub fn not_run(why: &str) {
    let thread = std::thread::current();
    aloud(&format!("not run: {}: {why}", thread.name().unwrap_or("?")));
}

/// Says that a test is not run because there is no GPU.
///
/// # Panics If REQUIRE_GPU=1.
pub fn absent(why: &str) {
    assert!(!required(), "REQUIRE_GPU=1, and {why}");
    not_run(why);
}

/// Returns whether this run of the program is the run on a real GPU.
pub fn wants_real() -> bool {
    std::env::var("SEQSTREAM_TEST_GPU").is_ok_and(|v| v == "1")
}

fn required() -> bool {
    std::env::var("REQUIRE_GPU").is_ok_and(|v| v == "1")
}

/// Checks that a required GPU exists. It is for tests on the simulated driver.
///
/// # Panics If REQUIRE_GPU=1 and there is no GPU.
pub fn required_is_there() {
    if required() {
        real().unwrap_or_else(|why| panic!("REQUIRE_GPU=1, and {why}"));
    }
}

/// Returns how many GPUs the real driver has. It asks separately from the program's own driver,
/// which may be the simulated one.
fn real() -> Result<usize, String> {
    type Init = unsafe extern "C" fn(u32) -> c_int;
    type Count = unsafe extern "C" fn(*mut c_int) -> c_int;
    if kernels::FATBINS.is_empty() {
        return Err("this build has no kernels (no nvcc)".into());
    }
    // SAFETY: the driver's constructors do nothing that a test could notice.
    let driver = unsafe { libloading::Library::new("libcuda.so.1") }
        .map_err(|_| "there is no GPU here: no libcuda.so.1 can be loaded".to_owned())?;
    let mut count = 0;
    // SAFETY: the types are those of cuda.h, and the count is written to its own variable.
    let code = unsafe {
        let init = driver.get::<Init>(b"cuInit").map_err(|e| e.to_string())?;
        let get = driver
            .get::<Count>(b"cuDeviceGetCount")
            .map_err(|e| e.to_string())?;
        match init(0) {
            0 => get(&mut count),
            code => code,
        }
    };
    // The driver is not unloaded, since it may have threads of its own.
    std::mem::forget(driver);
    match (code, count) {
        (0, 1..) => Ok(count as usize),
        _ => Err(format!(
            "there is no GPU here: the driver says {code}, {count} devices"
        )),
    }
}

/// Runs the tests of `module`, a `module_path!()`, again on the real GPU, or prints a line that says
/// that there is none. One module at a time runs there.
///
/// # Panics If one of them fails, or if REQUIRE_GPU=1 and there is no GPU.
pub fn again(module: &str) {
    static ONE: Mutex<()> = Mutex::new(());
    if wants_real() {
        return not_run("this is that run");
    }
    let gpus = match real() {
        Ok(gpus) => gpus,
        Err(why) => {
            assert!(!required(), "REQUIRE_GPU=1, and {why}");
            return aloud(&format!("{module}: on the simulated driver alone: {why}"));
        }
    };
    let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    // The first part is the program's own name. Test names begin with the rest.
    let (_, tests) = module.split_once("::").unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .env("SEQSTREAM_TEST_GPU", "1")
        .env_remove("SEQSTREAM_LIBCUDA")
        .env_remove("SEQSTREAM_LIBCUBLASLT")
        .arg(format!("{tests}::"))
        .args(["--skip", "on_a_real_gpu", "--show-output"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // It gets the environment as it is while no test changes it.
    let child = {
        let _alone = alone();
        command.spawn().unwrap()
    };
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let result = said.lines().find(|line| line.starts_with("test result"));
    aloud(&format!(
        "{module}: on {gpus} real GPUs: {}",
        result.unwrap_or("no result")
    ));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
}
