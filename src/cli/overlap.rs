//! `seqstream overlap`: studies how much of the movement of data hides behind computing.

use std::fs;
use std::path::Path;
use std::time::Instant;

use super::args::{OverlapArgs, SwitchArg};
use super::{Console, Failure, algorithms, model, options};
use seqstream::engine::Device;
use seqstream::output::OutputError;
use seqstream::pipeline::JobError;
use seqstream::study::figures;
use seqstream::study::overlap::{self, Bus, OverlapOptions, OverlapReport, Setting};
use seqstream::study::simulate::{self, SimulateOptions};

/// Runs `seqstream overlap`.
pub fn run(args: &OverlapArgs, console: &Console) -> Result<(), Failure> {
    // What can be wrong with the directory is said before anything is measured.
    if let Some(out) = &args.out {
        prepare(out)?;
    }
    let report = match &args.simulate {
        Some(machine) => predict(machine, args, console)?,
        None => measure(args, console)?,
    };
    if let Some(out) = &args.out {
        write(out, &report)?;
        let page = out.join("overlap.html");
        console.say(&format!("wrote the study: open {}", page.display()));
    }
    console.report(&report, args.json)
}

fn say(console: &Console) -> impl FnMut(&Setting) {
    |setting| console.detail(&setting.to_string())
}

fn measure(args: &OverlapArgs, console: &Console) -> Result<OverlapReport, Failure> {
    let device = match options::device(&args.device, args.dtype, SwitchArg::On)? {
        Device::Cuda { devices, dtype, .. } => match devices[..] {
            [one] => Some((one, dtype)),
            _ => None,
        },
        Device::Cpu => None,
    };
    let Some((device, dtype)) = device else {
        return Err(Failure::Usage {
            message: format!("--device {}: the study is of one CUDA device", args.device),
            hint: Some(
                "give one device, such as --device cuda:0, or a machine file with --simulate"
                    .into(),
            ),
        });
    };
    let checkpoint = model::open(&model::find(&args.model, console)?.path, console)?;
    let start = Instant::now();
    let options = OverlapOptions {
        device,
        dtype,
        lengths: &args.lengths,
        rounds: args.rounds,
        threads: args.threads.unwrap_or_else(options::cores),
        // Pageable memory, and the buses of PCIe 4 and PCIe 3.
        buses: &[Bus::Pageable, Bus::Throttled(25), Bus::Throttled(12)],
        algorithms: algorithms::from_cache(console),
        clock: &|| start.elapsed().as_secs_f64(),
    };
    let report = overlap::overlap(&checkpoint, &options, &mut say(console));
    // Warnings come before a failure, because a warning may explain the failure.
    algorithms::warn(&options.algorithms, console);
    Ok(report?)
}

fn predict(
    machine: &Path,
    args: &OverlapArgs,
    console: &Console,
) -> Result<OverlapReport, Failure> {
    let config = model::sizes(&args.model, console)?;
    let simulated = SimulateOptions {
        dtype: options::on_cuda(args.dtype),
        devices: Some(1),
        ..SimulateOptions::default()
    };
    let simulation = simulate::open(machine, &config, &simulated)?;
    let threads = args.threads.unwrap_or_else(options::cores);
    let report = simulate::overlap(&simulation, &args.lengths, threads, &mut say(console));
    Ok(report?)
}

/// Makes the directory, which must be new or empty.
fn prepare(out: &Path) -> Result<(), Failure> {
    fs::create_dir_all(out).map_err(|e| failed("create", out, e))?;
    let mut entries = fs::read_dir(out).map_err(|e| failed("read", out, e))?;
    match entries.next() {
        None => Ok(()),
        Some(Ok(entry)) => Err(JobError::Output(OutputError::Foreign {
            path: out.to_owned(),
            name: entry.file_name().to_string_lossy().into_owned(),
        })
        .into()),
        Some(Err(e)) => Err(failed("read", out, e)),
    }
}

fn write(out: &Path, report: &OverlapReport) -> Result<(), Failure> {
    let files = figures::files(report).map_err(|e| Failure::Other(e.to_string()))?;
    for file in files {
        let path = out.join(file.name);
        fs::write(&path, file.text).map_err(|e| failed("write", &path, e))?;
    }
    Ok(())
}

fn failed(action: &'static str, path: &Path, source: std::io::Error) -> Failure {
    let path = path.to_owned();
    let shard = None;
    JobError::Output(OutputError::Io {
        action,
        path,
        shard,
        source,
    })
    .into()
}
