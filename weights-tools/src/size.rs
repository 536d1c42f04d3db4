//! Parses byte counts as people write them.

/// Parses `2GB`, `500MB`, `1.5GiB` or a bare number of bytes.
///
/// # Errors
/// The error is a clause that says what is wrong with the text.
pub fn parse(text: &str) -> Result<u64, String> {
    let split = text
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" | "k" => 1e3,
        "mb" | "m" => 1e6,
        "gb" | "g" => 1e9,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        _ => {
            return Err(format!(
                "unknown unit {unit}; use B, KB, MB, GB, KiB, MiB or GiB"
            ));
        }
    };
    match number.trim().parse::<f64>() {
        Ok(n) if n.is_finite() && n > 0.0 => Ok((n * factor) as u64),
        _ => Err("not a positive number of bytes, such as 5GB".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse() {
        assert_eq!(parse("5GB"), Ok(5_000_000_000));
        assert_eq!(parse("1.5 KiB"), Ok(1536));
        assert_eq!(parse("77"), Ok(77));
        for bad in ["", "GB", "-1", "5 parsecs", "nan", "inf"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
