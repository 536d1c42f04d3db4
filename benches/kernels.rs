//! Runs, checks and times single kernels: `cargo bench --bench kernels [-- WORD...]`.
//!
//! Each operation has cases in `tests/cases`, which the tests use too. The bench takes the cases
//! whose names contain every WORD, such as `attention`, or `gelu f16`. It first computes those with
//! small shapes and compares them with f64. Then it times those with the shapes of the models.
//!
//! If there is a GPU, that computes, with the kernels of this build; otherwise the operations of the
//! CPU backend are checked and timed. The first line says which. `--cpu` chooses the CPU, `--small`
//! takes few tokens and rounds: it only shows that everything runs. With REQUIRE_GPU=1 a missing GPU
//! is a failure.
//!
//! A line shows the name, two medians in microseconds (to show the noise), and the rate: TFLOP/s or
//! GFLOP/s if floating-point operations bound the operation, else GB/s of the least bytes.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a bench fails by panicking

#[path = "../tests/cases/mod.rs"]
mod cases;

use cases::device::{Device, Pool};
use cases::{By, Case, Extent};
use seqstream::backend::cpu::Cpu;
use seqstream::backend::cuda;
use seqstream::gpu::driver::Context;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// What the command line asks for.
struct Options {
    words: Vec<String>,
    small: bool,
    cpu: bool,
}

impl Options {
    fn cases(&self, extent: Extent) -> Vec<Box<dyn Case>> {
        let mut cases = cases::all(extent);
        cases.retain(|case| {
            let name = case.name();
            self.words.iter().all(|word| name.contains(word.as_str()))
        });
        cases
    }
}

fn main() -> ExitCode {
    let (options, words): (Vec<_>, Vec<_>) =
        std::env::args().skip(1).partition(|a| a.starts_with('-'));
    let given = |name: &str| options.iter().any(|option| option == name);
    let options = Options {
        words,
        small: given("--small"),
        cpu: given("--cpu"),
    };
    let required = std::env::var("REQUIRE_GPU").is_ok_and(|v| v == "1");
    let failures = match cuda::require() {
        Ok(devices) if !options.cpu => {
            println!("on {}", devices[0].name);
            on_device(&options).unwrap_or_else(|error| vec![error.to_string()])
        }
        Ok(_) => on_cpu(&options, "--cpu"),
        Err(missing) if required => vec![missing.to_string()],
        Err(missing) => on_cpu(&options, &missing.to_string()),
    };
    for failure in &failures {
        eprintln!("failed: {failure}");
    }
    ExitCode::from(u8::from(!failures.is_empty()))
}

/// Prints how many checks there were, and returns those that failed.
fn report(checks: Vec<Result<f64, String>>) -> Vec<String> {
    let count = checks.len();
    let worst = checks.iter().flatten().copied().fold(0.0, f64::max);
    let failures: Vec<String> = checks.into_iter().filter_map(Result::err).collect();
    let good = count - failures.len();
    println!(
        "checked: {good} of {count} agree with f64; the largest error is {worst:.2} of its tolerance"
    );
    failures
}

/// Prints a line of times.
fn line(case: &dyn Case, [first, second]: [f64; 2]) {
    let rate = match case.flops() {
        0.0 => format!("{:8.1} GB/s", case.bytes() as f64 / second * 1e-9),
        flops if flops / second < 1e12 => format!("{:8.1} GFLOP/s", flops / second * 1e-9),
        flops => format!("{:8.1} TFLOP/s", flops / second * 1e-12),
    };
    let [first, second] = [first, second].map(|seconds| seconds * 1e6);
    println!("{:<58} {first:11.1} {second:11.1} us {rate}", case.name());
}

fn on_device(options: &Options) -> Result<Vec<String>, seqstream::gpu::driver::DriverError> {
    let device = Device::new(&Context::new(0)?)?;
    let small = options.cases(Extent::Small);
    let checks = small
        .iter()
        .filter_map(|case| cases::check(case.as_ref(), &device, By::Kernel));
    let failures = report(checks.collect());
    let (tokens, rounds, bytes) = if options.small {
        ([40, 80], 1, 64 << 20)
    } else {
        ([16_896, 33_792], 30, 6 << 30)
    };
    let mut pool = Pool::new(&device, bytes)?;
    for case in options.cases(Extent::Large { tokens }) {
        if let Some(times) = device.time(case.as_ref(), &mut pool, rounds)? {
            line(case.as_ref(), times);
        }
    }
    Ok(failures)
}

fn on_cpu(options: &Options, reason: &str) -> Vec<String> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    println!("on the CPU backend with {threads} threads ({reason})");
    let mut cpu = Cpu::new(threads).unwrap();
    let small = options.cases(Extent::Small);
    let checks = small
        .iter()
        .filter_map(|case| cases::check_on_cpu(case.as_ref(), &mut cpu));
    let failures = report(checks.collect());
    let (tokens, least) = if options.small {
        ([40, 80], Duration::ZERO)
    } else {
        ([2048, 2048], Duration::from_millis(300))
    };
    let mut names = Vec::new();
    for case in options.cases(Extent::Large { tokens }) {
        let name = case.name();
        if names.contains(&name) {
            continue; // the small and the large batch are the same here
        }
        let Some(mut operation) = case.on_cpu() else {
            continue;
        };
        names.push(name);
        operation.run(&mut cpu);
        let medians = [(), ()].map(|()| {
            let (start, mut times) = (Instant::now(), Vec::new());
            while times.len() < 3 || start.elapsed() < least {
                let begin = Instant::now();
                operation.run(&mut cpu);
                times.push(begin.elapsed().as_secs_f64());
            }
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        });
        line(case.as_ref(), medians);
    }
    failures
}
