//! What is known of this machine and this process. Linux tells; elsewhere less is known.

use std::fs;

/// The most memory this process has held, in bytes.
pub fn peak_memory() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// The machine's memory in bytes.
pub fn total_memory() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")
}

fn kilobytes(text: &str, field: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(field))?;
    let number: u64 = rest.split_whitespace().next()?.parse().ok()?;
    Some(number * 1024)
}

/// What the processor calls itself.
pub fn processor() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The caches that the first core sees: name and size, "L2" and "2048K".
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
