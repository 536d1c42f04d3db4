//! Writes sizes in bytes for people, the same in every message: with one decimal and a binary unit.

use std::fmt;

/// A number of bytes that is displayed for people, as `1.5 MiB`. The size is rounded down, so that
/// a message never promises more than there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text(self.0, false))
    }
}

/// Returns a size as text, rounded up: for sizes that are needed. A size that is needed never reads
/// the same as a smaller size that there is.
pub fn rounded_up(bytes: u64) -> String {
    text(bytes, true)
}

const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

fn text(bytes: u64, up: bool) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let tenths = |unit: usize| {
        let (scaled, size) = (u128::from(bytes) * 10, 1u128 << (10 * (unit + 1)));
        if up {
            scaled.div_ceil(size)
        } else {
            scaled / size
        }
    };
    // The first unit in which the size has at most four digits before the point.
    let unit = (0..UNITS.len() - 1).find(|unit| tenths(*unit) < 10240);
    let unit = unit.unwrap_or(UNITS.len() - 1);
    let tenths = tenths(unit);
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        for (bytes, down, up) in [
            (0, "0 B", "0 B"),
            (1023, "1023 B", "1023 B"),
            (1024, "1.0 KiB", "1.0 KiB"),
            (1025, "1.0 KiB", "1.1 KiB"),
            (3 << 19, "1.5 MiB", "1.5 MiB"),
            ((1 << 30) - 1, "1023.9 MiB", "1.0 GiB"),
            (1 << 30, "1.0 GiB", "1.0 GiB"),
            (57_600_000_384, "53.6 GiB", "53.7 GiB"),
            (u64::MAX, "15.9 EiB", "16.0 EiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), down);
            assert_eq!(rounded_up(bytes), up);
        }
    }

    /// Even if only a few bytes are missing, the two sizes never read the same.
    #[test]
    fn what_there_is_reads_as_less_than_what_is_needed() {
        for there in (0..60).flat_map(|bit| [1u64 << bit, (1 << bit) - 1, (5 << bit) / 10]) {
            assert_ne!(Bytes(there).to_string(), rounded_up(there + 1), "{there}");
        }
    }
}
