//! The simulator's settings, read from the environment.

use std::path::PathBuf;
use std::sync::Arc;

use crate::clock::CostFunction;
use crate::fault::Fault;
use crate::machine::Machine;

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
    /// The machine whose time passes; none means no virtual time.
    pub machine: Option<Arc<Machine>>,
    /// What a launch costs on that machine.
    pub costs: Option<CostFunction>,
    /// Whether operations are computed. Without a machine they always are.
    pub values: bool,
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
        let machine = text("SEQSTREAM_SIM_MACHINE").map(|path| {
            let read = std::fs::read_to_string(&path).map_err(|error| error.to_string());
            let parse = |text: String| Machine::parse(&text, &[]).map_err(|e| e.to_string());
            match read.and_then(parse) {
                Ok(machine) => machine,
                Err(what) => refuse("SEQSTREAM_SIM_MACHINE", &path, &what),
            }
        });
        let values = match text("SEQSTREAM_SIM_VALUES").as_deref() {
            None | Some("on") => true,
            Some("off") => false,
            Some(other) => refuse("SEQSTREAM_SIM_VALUES", other, "on or off"),
        };
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
        let config = Self {
            devices,
            seed: number("SEQSTREAM_SIM_SEED", 0),
            memory: number("SEQSTREAM_SIM_MEMORY", DEFAULT_MEMORY as u64) as usize,
            architecture,
            fault,
            log: text("SEQSTREAM_SIM_LOG").map(PathBuf::from),
            machine: None,
            costs: None,
            values: true,
        };
        match machine {
            Some(machine) => config.on_machine(machine, None, values),
            None => config,
        }
    }

    /// The same settings on a machine, which decides devices, memory and architecture.
    pub fn on_machine(self, machine: Machine, costs: Option<CostFunction>, values: bool) -> Self {
        Self {
            devices: machine.device.count.0 as usize,
            memory: machine.memory(),
            architecture: machine.device.compute_capability.0,
            machine: Some(Arc::new(machine)),
            costs,
            values,
            ..self
        }
    }

    /// Whether memory is only reserved, because nothing is computed.
    pub fn is_hollow(&self) -> bool {
        self.machine.is_some() && !self.values
    }
}

fn refuse(name: &str, value: &str, wanted: &str) -> ! {
    eprintln!("cuda-sim: {name}={value} is not possible: {wanted}");
    std::process::exit(2)
}
