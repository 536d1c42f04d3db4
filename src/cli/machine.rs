//! Reads facts about this machine and this process from Linux's /proc and /sys. On other systems
//! most of them are unknown.

use std::fs;
use std::path::{Path, PathBuf};

/// Returns the peak memory of this process in bytes.
pub fn peak_memory() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// Returns the memory of the machine in bytes.
pub fn total_memory() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")
}

fn kilobytes(text: &str, field: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(field))?;
    let number: u64 = rest.split_whitespace().next()?.parse().ok()?;
    Some(number * 1024)
}

/// Returns the model name of the processor.
pub fn processor() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Returns the name and the size of each cache of the first core, such as "L2" and "2048K".
pub fn caches() -> Vec<(String, String)> {
    let read = |index: usize, field: &str| {
        let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{field}");
        fs::read_to_string(path)
            .ok()
            .map(|text| text.trim().to_owned())
    };
    (0..8)
        .map_while(|index| {
            let suffix = match read(index, "type")?.as_str() {
                "Data" => "d",
                "Instruction" => "i",
                _ => "",
            };
            Some((
                format!("L{}{suffix}", read(index, "level")?),
                read(index, "size")?,
            ))
        })
        .collect()
}

/// The energy counters of the processor packages, as Linux's powercap gives them. Only root may
/// read them on most machines.
#[derive(Debug, Clone)]
pub struct Energy(Vec<Counter>);

/// The counter of a package, in microjoules.
#[derive(Debug, Clone)]
struct Counter {
    folder: PathBuf,
    value: u64,
    /// The greatest value, after which the counter begins anew.
    most: u64,
}

impl Energy {
    /// Reads the counters; `None` if there are none, or if they may not be read.
    pub fn now() -> Option<Self> {
        Self::of(Path::new("/sys/class/powercap"))
    }

    fn of(powercap: &Path) -> Option<Self> {
        let number =
            |path: PathBuf| -> Option<u64> { fs::read_to_string(path).ok()?.trim().parse().ok() };
        let mut counters = Vec::new();
        for entry in fs::read_dir(powercap).ok()?.flatten() {
            // `intel-rapl:0` is a package, also of AMD; `intel-rapl:0:0` is a part of it.
            let name = entry.file_name().to_string_lossy().into_owned();
            let package = name.strip_prefix("intel-rapl:");
            if package.is_none_or(|n| n.parse::<u32>().is_err()) {
                continue;
            }
            let folder = entry.path();
            counters.push(Counter {
                value: number(folder.join("energy_uj"))?,
                most: number(folder.join("max_energy_range_uj"))?,
                folder,
            });
        }
        (!counters.is_empty()).then_some(Self(counters))
    }

    /// Returns the energy since the counters were read, in joules. A counter that began anew more
    /// than once gives too little: that takes hours even under full load.
    pub fn joules_since(&self) -> Option<f64> {
        let spent = self.0.iter().map(|then| {
            let text = fs::read_to_string(then.folder.join("energy_uj")).ok()?;
            let now: u64 = text.trim().parse().ok()?;
            now.checked_sub(then.value)
                .or_else(|| (then.most - then.value.min(then.most)).checked_add(now))
        });
        let spent: Option<Vec<u64>> = spent.collect();
        Some(spent?.into_iter().map(|uj| uj as f64).sum::<f64>() / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_in_kilobytes() {
        assert_eq!(
            kilobytes("VmPeak:\t 1 kB\nVmHWM:\t  1234 kB\n", "VmHWM:"),
            Some(1234 * 1024)
        );
        assert_eq!(kilobytes("VmHWM: much\n", "VmHWM:"), None);
        assert_eq!(kilobytes("", "VmHWM:"), None);
    }

    #[test]
    fn energy_is_the_sum_over_packages_and_counters_begin_anew() {
        let dir = tempfile::tempdir().unwrap();
        let put = |package: &str, value: u64| {
            let folder = dir.path().join(package);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("energy_uj"), format!("{value}\n")).unwrap();
            fs::write(folder.join("max_energy_range_uj"), "10000000\n").unwrap();
        };
        assert!(Energy::of(dir.path()).is_none());
        put("intel-rapl:0", 1_000_000);
        put("intel-rapl:0:0", 500);
        put("intel-rapl:1", 9_000_000);
        put("dtpm", 7);
        let energy = Energy::of(dir.path()).unwrap();
        put("intel-rapl:0", 3_500_000);
        put("intel-rapl:1", 1_000_000);
        assert_eq!(energy.joules_since(), Some(2.5 + 2.0));
    }
}
