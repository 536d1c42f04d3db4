//! Shows the progress of the job: a bar on a terminal, and a line every few seconds elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Console;
use seqstream::pipeline::{Observer, Progress};

/// Minimum time between two lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Shows the progress of a running job.
pub struct Display<'a> {
    console: &'a Console,
    /// What is counted: "sequences".
    noun: &'static str,
    bar: Option<ProgressBar>,
    last_line: Duration,
}

impl<'a> Display<'a> {
    /// Makes a display with a bar if the console can draw one. Otherwise it prints lines.
    pub fn new(console: &'a Console, total: Option<u64>) -> Self {
        Self::counting("sequences", console, total)
    }

    /// Makes a display that counts other things than sequences.
    pub fn counting(noun: &'static str, console: &'a Console, total: Option<u64>) -> Self {
        let bar = console.draws().then(|| {
            let (bar, template) = match total {
                Some(total) => (
                    ProgressBar::new(total),
                    format!("{{wide_bar}} {{human_pos}}/{{human_len}} {noun}, {{msg}}"),
                ),
                None => (
                    ProgressBar::new_spinner(),
                    format!("{{spinner}} {{human_pos}} {noun}, {{msg}}"),
                ),
            };
            bar.set_draw_target(ProgressDrawTarget::stderr());
            // If the template were invalid, the bar would keep the default style.
            if let Ok(style) = ProgressStyle::with_template(&template) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar
        });
        Self {
            console,
            noun,
            bar,
            last_line: Duration::ZERO,
        }
    }

    /// Clears the bar, so that it does not mix with later messages.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Observer for Display<'_> {
    fn progress(&mut self, progress: &Progress) {
        let done = match progress.chunks {
            Some(chunks) => chunks.computed + chunks.reused,
            None => progress.records + progress.reused,
        };
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.set_message(pace(progress));
        } else if progress.elapsed >= self.last_line + LINE_EVERY {
            self.last_line = progress.elapsed;
            let of = progress
                .total
                .map(|n| format!("/{}", count(n)))
                .unwrap_or_default();
            self.console.say(&format!(
                "{}{of} {}, {}",
                count(done),
                self.noun,
                pace(progress)
            ));
        }
    }

    fn stopping(&mut self, signal: i32) {
        let text = format!(
            "{}: finishing the shard in hand; once more to stop at once (it is then computed again on resume)",
            signal_name(signal)
        );
        match &self.bar {
            Some(bar) => bar.suspend(|| self.console.say(&text)),
            None => self.console.say(&text),
        }
    }
}

fn pace(progress: &Progress) -> String {
    let left = progress
        .eta()
        .map(|d| format!(", {} left", duration(d)))
        .unwrap_or_default();
    format!(
        "{} tokens/s{left}",
        count(progress.tokens_per_second() as u64)
    )
}

/// Returns the name of a signal.
pub fn signal_name(signal: i32) -> String {
    match signal_hook::low_level::signal_name(signal) {
        Some(name) => name.into(),
        None => format!("signal {signal}"),
    }
}

/// Formats a number with separators between the thousands.
pub fn count(n: u64) -> String {
    indicatif::HumanCount(n).to_string()
}

/// Formats a duration with about two significant digits.
pub fn duration(d: Duration) -> String {
    let seconds = d.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", d.as_secs_f64()),
        10..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", (seconds + 30) / 60),
        7200..172_800 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} days {} h", seconds / 86400, seconds % 86400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_numbers_read_well() {
        let said = |s: f64| duration(Duration::from_secs_f64(s));
        assert_eq!(said(1.25), "1.2 s");
        assert_eq!(said(75.0), "75 s");
        assert_eq!(said(600.0), "10 min");
        assert_eq!(said(8000.0), "2 h 13 min");
        assert_eq!(said(200_000.0), "2 days 7 h");
        assert_eq!(count(1_234_567), "1,234,567");
    }
}
