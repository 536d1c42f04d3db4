//! The simulator's settings, read from the environment.

use std::path::PathBuf;

use crate::fault::Fault;

/// The default memory per device. Fresh pages cost nothing until they are written, so the simulator
/// can offer much memory.
const DEFAULT_MEMORY: usize = 4 << 30;
/// The largest number of devices.
pub const MAX_DEVICES: usize = 16;

/// The settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// The number of devices.
    pub devices: usize,
    /// The seed of the schedule.
    pub seed: u64,
    /// Memory per device in bytes.
    pub memory: usize,
    /// The compute capability: 80, 89 or 90.
    pub architecture: u32,
    /// The fault to inject, if any.
    pub fault: Option<Fault>,
    /// The file to which the log is appended, if any.
    pub log: Option<PathBuf>,
}

impl Config {
    /// Reads the settings. An invalid setting ends the process, because a test that silently runs
    /// with other settings proves nothing.
    pub fn from_environment() -> Self {
        let text = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let number = |name: &str, default: u64| match text(name) {
            None => default,
            Some(value) => value
                .parse()
                .unwrap_or_else(|_| refuse(name, &value, "a whole number")),
        };
        let devices = number("SEQSTREAM_SIM_DEVICES", 1) as usize;
        if devices > MAX_DEVICES {
            refuse("SEQSTREAM_SIM_DEVICES", &devices.to_string(), "at most 16");
        }
        let architecture = number("SEQSTREAM_SIM_ARCH", 90) as u32;
        if ![80, 89, 90].contains(&architecture) {
            refuse(
                "SEQSTREAM_SIM_ARCH",
                &architecture.to_string(),
                "80, 89 or 90",
            );
        }
        let fault = text("SEQSTREAM_SIM_FAULT").map(|value| {
            Fault::parse(&value)
                .unwrap_or_else(|error| refuse("SEQSTREAM_SIM_FAULT", &value, &error.to_string()))
        });
        Self {
            devices,
            seed: number("SEQSTREAM_SIM_SEED", 0),
            memory: number("SEQSTREAM_SIM_MEMORY", DEFAULT_MEMORY as u64) as usize,
            architecture,
            fault,
            log: text("SEQSTREAM_SIM_LOG").map(PathBuf::from),
        }
    }
}

fn refuse(name: &str, value: &str, wanted: &str) -> ! {
    eprintln!("cuda-sim: {name}={value} is not possible: {wanted}");
    std::process::exit(2)
}
