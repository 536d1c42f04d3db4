//! Scores as text. The two programs write the same value with different digits.

use std::fmt::Write as _;

/// The program whose text is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Style {
    /// The original: a score has the fewest digits that give the same f32 again, as NumPy writes it.
    #[default]
    Original,
    /// The fork of the Broad Institute: a score has the fewest digits that give the same value again
    /// when it is read as an f64, as Python writes it. The table of chunks has the scores too.
    Broad,
}

impl Style {
    /// Appends a score.
    pub fn write_score(self, score: f32, out: &mut String) {
        let exact = f64::from(score);
        match self {
            Self::Original => {
                let same = |text: &str| text.parse() == Ok(score);
                let digits = even_digits(format!("{score:e}"), exact, same);
                write_shortest(&digits, exact < 1e-4, out);
            }
            Self::Broad => {
                let same = |text: &str| text.parse() == Ok(exact);
                let digits = even_digits(format!("{exact:e}"), exact, same);
                write_shortest(&digits, exact < 1e-4, out);
            }
        }
    }
}

/// Returns the shortest digits of `value` as Python and NumPy choose them. `shortest` is Rust's
/// choice, in the form of `{:e}`, and `same` tells whether a text is read as the same number. Where
/// two texts of equal length are equally near, Python takes the even one and Rust the larger one.
fn even_digits(shortest: String, value: f64, same: impl Fn(&str) -> bool) -> String {
    let Some((mantissa, exponent)) = shortest.split_once('e') else {
        return shortest;
    };
    let decimals = mantissa.len().saturating_sub(2);
    // No f32 has more significant digits than this, so the expansion is exact.
    let exact = format!("{value:.120e}");
    let after = exact.get(decimals + 2..).unwrap_or("");
    let after = after.split_once('e').map_or(after, |(digits, _)| digits);
    let is_tie = after
        .strip_prefix('5')
        .is_some_and(|rest| rest.bytes().all(|b| b == b'0'));
    let below = exact.get(..decimals + 2).unwrap_or("");
    let even = below.ends_with(['0', '2', '4', '6', '8']);
    let lower = format!("{below}e{exponent}");
    match is_tie && even && same(&lower) {
        true => lower,
        false => shortest,
    }
}

/// Appends a number between 0 and 10^16, given as Rust's `{:e}` writes it (`1.25e-1`), as Python
/// writes it: with a point, or with an exponent of at least two digits if `exponential` is set.
fn write_shortest(scientific: &str, exponential: bool, out: &mut String) {
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    if exponential && digits != "0" {
        let sign = if exponent < 0 { '-' } else { '+' };
        // Writing to a string cannot fail.
        let _ = write!(out, "{mantissa}e{sign}{:02}", exponent.abs());
        return;
    }
    if exponent < 0 {
        out.push_str("0.");
        for _ in 1..-exponent {
            out.push('0');
        }
        out.push_str(&digits);
        return;
    }
    let point = exponent as usize + 1;
    for position in 0..point {
        out.push_str(digits.get(position..position + 1).unwrap_or("0"));
    }
    out.push('.');
    out.push_str(
        digits
            .get(point..)
            .filter(|rest| !rest.is_empty())
            .unwrap_or("0"),
    );
}
