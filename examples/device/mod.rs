//! A device for the examples: a real GPU, or the simulated driver where there is none.

use seqstream::gpu::driver;
use std::path::PathBuf;
use std::process::Command;

/// Returns the path of the simulated driver, beside the program that cargo built.
fn simulated() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let library = "libseqstream_cuda_sim.so";
    let target = program.parent()?.parent()?;
    let places = [target.join("deps").join(library), target.join(library)];
    places.into_iter().find(|path| path.is_file())
}

/// Returns if the driver has a device. Otherwise, runs this program again on the simulated driver,
/// and exits with the exit code of that run.
pub fn real_or_simulated() {
    match driver::devices() {
        Ok(devices) if !devices.is_empty() => {
            for device in devices {
                println!("device {}: {}", device.ordinal, device.name);
            }
            return;
        }
        Ok(_) | Err(_) => {}
    }
    let variable = "SEQSTREAM_LIBCUDA";
    let (Some(library), None) = (simulated(), std::env::var_os(variable)) else {
        eprintln!("there is no GPU, and no simulated driver: run this example with cargo");
        std::process::exit(7);
    };
    println!("no GPU here: using the simulated driver");
    let again = std::env::current_exe().and_then(|program| {
        Command::new(program)
            .args(std::env::args_os().skip(1))
            .env(variable, &library)
            .env("SEQSTREAM_LIBCUBLASLT", &library)
            .status()
    });
    let code = again.ok().and_then(|status| status.code()).unwrap_or(1);
    std::process::exit(code);
}
