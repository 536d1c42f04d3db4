//! A machine file: the figures of which virtual time is made. It is TOML; every key is required
//! unless it says otherwise, and a key that is not known is an error.
//!
//! Times are in microseconds, bandwidths in GB/s (1e9 bytes per second), sizes as the keys say.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;

use crate::config::MAX_DEVICES;

/// The figures of a machine.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// The name of the machine, for reports.
    pub name: String,
    /// The devices, which are all alike.
    pub device: DeviceFigures,
    /// Copies between the host and a device.
    pub copy: CopyFigures,
    /// What the devices share on their way to the host. Without it they share nothing.
    pub switch: Option<SwitchFigures>,
    /// What calls and launches cost.
    pub launch: LaunchFigures,
    /// The clock under load.
    pub power: PowerFigures,
    /// The products of cuBLASLt.
    pub products: ProductFigures,
    /// The host.
    pub host: HostFigures,
    /// The rates of kernels, by the names that the cost function of the program gives.
    pub rates: BTreeMap<String, Rate>,
}

/// The devices of a machine.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceFigures {
    /// The name that the driver reports.
    pub name: String,
    /// The number of devices, at most 16.
    pub count: Count,
    /// The compute capability: "8.0", "8.9" or "9.0".
    pub compute_capability: Capability,
    /// The number of multiprocessors.
    pub multiprocessors: Count,
    /// The memory of a device that programs can have, in GiB.
    pub memory_gib: Positive,
    /// What fills and copies within device memory move per second, read and written bytes together.
    pub memory_gb_per_s: Positive,
}

/// Copies between the host and a device.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CopyFigures {
    /// The copy engines: with 2 each direction has its own, with 1 both directions share it.
    pub engines: Count,
    /// From pinned memory to a device.
    pub to_device_gb_per_s: Positive,
    /// From a device to pinned memory.
    pub to_host_gb_per_s: Positive,
    /// From pageable memory to a device.
    pub pageable_to_device_gb_per_s: Positive,
    /// From a device to pageable memory.
    pub pageable_to_host_gb_per_s: Positive,
    /// From the start of a copy to the arrival of its first byte. It keeps no engine busy.
    pub latency_us: Positive,
}

/// A switch between some devices and the host.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwitchFigures {
    /// The number of devices behind each switch.
    pub devices: Count,
    /// All copies to these devices together.
    pub to_device_gb_per_s: Positive,
    /// All copies from these devices together.
    pub to_host_gb_per_s: Positive,
}

/// What calls and launches cost.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchFigures {
    /// Host time of a launch of a kernel or a product.
    pub host_us: Positive,
    /// Host time of any other call that submits: a copy, a fill, a record, a wait of a stream.
    pub call_us: Positive,
    /// From the end of a launch's call to the earliest start of its operation.
    pub latency_us: Positive,
    /// Between a kernel and the next one on the same device, in which the device computes nothing.
    pub gap_us: Positive,
    /// From the end of an operation to the return of the host's wait for it.
    pub wake_us: Positive,
}

/// The clock under load. What a kernel draws at the full clock is its load, as a fraction of what a
/// large product draws. Up to an average load the device stays at its full clock; above, the clock
/// falls with a power of the average. At an average of 1 rates are `sustained`, and at the full
/// clock they are `burst`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PowerFigures {
    /// The time constant of the average.
    pub time_constant_ms: Positive,
    /// The average load up to which the clock stays full.
    pub free_load: Share,
    /// The power: clock = (free_load / average) ^ exponent.
    pub exponent: Positive,
}

impl PowerFigures {
    /// How far the rates are on their way from burst (0) to sustained (1) at this average load.
    pub fn heat(&self, average: f64) -> f64 {
        let free = self.free_load.0;
        if average <= free || free >= 1.0 {
            return 0.0;
        }
        let fall = |average: f64| 1.0 - (free / average).powf(self.exponent.0);
        fall(average) / fall(1.0)
    }
}

/// The products of cuBLASLt. The time of a product is the p-norm of two times, that of its
/// multiplications and that of its bytes: (a^p + b^p)^(1/p).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProductFigures {
    /// TFLOP/s in 16 bits of a product without end, at the full clock.
    pub burst_tflops: Positive,
    /// The same at the clock of continuous load.
    pub sustained_tflops: Positive,
    /// TFLOP/s in f32.
    pub f32_tflops: Positive,
    /// The bandwidth at which operands and results are read and written.
    pub gb_per_s: Positive,
    /// The p of the norm, at least 1.
    pub norm: Positive,
    /// Rows of a tile of the result. Each multiprocessor computes a tile at a time, so the last
    /// wave of tiles takes as long as a whole one.
    pub tile_rows: Count,
    /// Columns of a tile of the result.
    pub tile_columns: Count,
    /// What every product takes besides.
    pub fixed_us: Positive,
}

/// The host.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostFigures {
    /// At which rate one thread fills pinned memory, from the page cache.
    pub fill_gb_per_s_per_thread: Positive,
    /// The threads that fill.
    pub fill_threads: Count,
    /// The most that all these threads reach together.
    pub fill_gb_per_s: Positive,
}

impl HostFigures {
    /// Bytes per microsecond at which pinned memory is filled.
    pub fn fill_rate(&self) -> f64 {
        let threads = self.fill_gb_per_s_per_thread.0 * f64::from(self.fill_threads.0);
        threads.min(self.fill_gb_per_s.0) * 1e3
    }
}

/// The rate of a kind of kernel, in 1e12 of its own units (operations or bytes) per second, as a
/// function of a size that the cost function gives. Between two sizes the rate is interpolated;
/// outside of them it is that of the nearest.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Points")]
pub struct Rate(Points);

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Points {
    size: Vec<Positive>,
    burst: Vec<Positive>,
    sustained: Vec<Positive>,
    load: Vec<Share>,
}

impl TryFrom<Points> for Rate {
    type Error = String;

    fn try_from(points: Points) -> Result<Self, String> {
        let count = points.size.len();
        let others = [
            points.burst.len(),
            points.sustained.len(),
            points.load.len(),
        ];
        if count == 0 || others.iter().any(|other| *other != count) {
            let [burst, sustained, load] = others;
            return Err(format!(
                "`size`, `burst`, `sustained` and `load` have {count}, {burst}, {sustained} and \
                 {load} numbers: give all of them the same number, at least one"
            ));
        }
        if points.size.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
            return Err("the numbers of `size` do not grow: sort them".to_owned());
        }
        Ok(Self(points))
    }
}

impl Rate {
    /// Units per microsecond for work of this size, `heat` of the way from burst to sustained, and
    /// the load.
    pub fn at(&self, size: f64, heat: f64) -> (f64, f64) {
        let Points {
            size: sizes,
            burst,
            sustained,
            load,
        } = &self.0;
        let above = sizes.partition_point(|known| known.0 < size);
        let (from, to) = (above.saturating_sub(1), above.min(sizes.len() - 1));
        let span = sizes[to].0 - sizes[from].0;
        let part = if span > 0.0 {
            (size - sizes[from].0) / span
        } else {
            0.0
        };
        let between = |values: &[Positive]| values[from].0 + (values[to].0 - values[from].0) * part;
        let rate = between(burst) + (between(sustained) - between(burst)) * heat;
        (
            rate * 1e6,
            load[from].0 + (load[to].0 - load[from].0) * part,
        )
    }
}

/// A number above zero.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(try_from = "f64")]
pub struct Positive(pub f64);

impl TryFrom<f64> for Positive {
    type Error = String;

    fn try_from(value: f64) -> Result<Self, String> {
        if value > 0.0 && value.is_finite() {
            Ok(Self(value))
        } else {
            Err(format!("{value} is not a number above zero: give one"))
        }
    }
}

/// A number above zero and at most 1.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(try_from = "f64")]
pub struct Share(pub f64);

impl TryFrom<f64> for Share {
    type Error = String;

    fn try_from(value: f64) -> Result<Self, String> {
        if value > 0.0 && value <= 1.0 {
            Ok(Self(value))
        } else {
            Err(format!(
                "{value} is not a number above 0 and at most 1: give one"
            ))
        }
    }
}

/// A whole number above zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "i64")]
pub struct Count(pub u32);

impl TryFrom<i64> for Count {
    type Error = String;

    fn try_from(value: i64) -> Result<Self, String> {
        match u32::try_from(value) {
            Ok(count) if count > 0 => Ok(Self(count)),
            _ => Err(format!(
                "{value} is not a whole number above zero: give one"
            )),
        }
    }
}

/// A compute capability that is simulated, as 80, 89 or 90.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Capability(pub u32);

impl TryFrom<String> for Capability {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "8.0" => Ok(Self(80)),
            "8.9" => Ok(Self(89)),
            "9.0" => Ok(Self(90)),
            _ => Err(format!(
                "a compute capability of {text:?} is not simulated: give \"8.0\", \"8.9\" or \"9.0\""
            )),
        }
    }
}

/// Why a text is no machine file.
#[derive(Debug)]
pub struct MachineError {
    /// The line, from 1 on.
    line: Option<usize>,
    /// The key, with the section that it stands in.
    key: Option<String>,
    what: String,
}

impl fmt::Display for MachineError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.what)
    }
}

impl Machine {
    /// Reads a machine file. `rates`, if there are any, are the only rates that the file may have.
    pub fn parse(text: &str, rates: &[&str]) -> Result<Self, MachineError> {
        let machine: Self = toml::from_str(text).map_err(|error| {
            let place = error.span().map(|span| place(text, &span));
            let (line, key) = place.unzip();
            MachineError {
                line,
                key: key.flatten(),
                what: advice(error.message()),
            }
        })?;
        let wrong = |key: &str, what: String| MachineError {
            line: line_of(text, key),
            key: Some(key.to_owned()),
            what,
        };
        if machine.device.count.0 as usize > MAX_DEVICES {
            let what = format!("at most {MAX_DEVICES} devices are simulated");
            return Err(wrong("device.count", what));
        }
        if machine.copy.engines.0 > 2 {
            let what = "at most 2 engines are simulated, one per direction".to_owned();
            return Err(wrong("copy.engines", what));
        }
        if machine.products.norm.0 < 1.0 {
            let what = "a norm needs a number of at least 1".to_owned();
            return Err(wrong("products.norm", what));
        }
        // 1 TiB is more than any device has, and far from an overflow.
        if machine.device.memory_gib.0 > 1024.0 {
            let what = "at most 1024 GiB are simulated".to_owned();
            return Err(wrong("device.memory_gib", what));
        }
        let known = |name: &str| rates.is_empty() || rates.contains(&name);
        if let Some(name) = machine.rates.keys().find(|name| !known(name)) {
            let what = format!(
                "no kernel has a rate of this name: remove it, or take one of {}",
                rates.join(", ")
            );
            return Err(wrong(&format!("rates.{name}"), what));
        }
        Ok(machine)
    }

    /// The memory of a device in bytes.
    pub fn memory(&self) -> usize {
        (self.device.memory_gib.0 * f64::from(1 << 30)) as usize
    }
}

/// Adds to a message of the parser what the user can do about it.
fn advice(message: &str) -> String {
    if message.starts_with("missing field") {
        format!("{message}: add the key; every figure has to be given")
    } else if message.starts_with("unknown field") {
        format!("{message}: remove or correct the key")
    } else {
        message.to_owned()
    }
}

/// Returns the number of the line at which a range begins, and the key that stands there.
fn place(text: &str, span: &Range<usize>) -> (usize, Option<String>) {
    let before = text.get(..span.start).unwrap_or(text);
    let number = before.matches('\n').count();
    let mut section = None;
    let mut key = None;
    for line in text.lines().take(number + 1) {
        let line = line.trim();
        key = None;
        if let Some(name) = line.strip_prefix('[') {
            let name = name.trim_start_matches('[');
            section = name.split(']').next().map(|name| name.replace('"', ""));
        } else {
            key = line.split_once('=').map(|(key, _)| key.trim().to_owned());
        }
    }
    let whole = match (section, key) {
        (Some(section), Some(key)) => Some(format!("{section}.{key}")),
        (section, key) => key.or(section),
    };
    (number + 1, whole)
}

/// Returns the number of the line on which a key, or a section, of this name stands.
fn line_of(text: &str, wanted: &str) -> Option<usize> {
    let mut from = 0;
    for line in text.split_inclusive('\n') {
        let (number, key) = place(text, &(from..from));
        if key.as_deref() == Some(wanted) {
            return Some(number);
        }
        from += line.len();
    }
    None
}
