//! Reads facts about this machine and this process from Linux's /proc and /sys. On other systems
//! most of them are unknown.

use std::fs;

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
}
