//! Shows the progress of a download: a bar on a terminal, and a line every few seconds elsewhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Console;
use super::progress::duration;
use seqstream::bytes::Bytes;
use seqstream::hub::{Name, Observer};

/// Minimum time between two lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Shows the progress of a download.
pub struct Display<'a> {
    console: &'a Console,
    bar: Option<ProgressBar>,
    total: u64,
    started: Instant,
    last_line: Duration,
}

impl<'a> Display<'a> {
    /// Makes a display that shows nothing until a download starts.
    pub fn new(console: &'a Console) -> Self {
        Self {
            console,
            bar: None,
            total: 0,
            started: Instant::now(),
            last_line: Duration::ZERO,
        }
    }
}

impl Observer for Display<'_> {
    fn starts(&mut self, name: &Name, bytes: u64) {
        self.console.say(&format!(
            "downloading {name} from the Hugging Face Hub: {}",
            Bytes(bytes)
        ));
        (self.total, self.started) = (bytes, Instant::now());
        self.bar = self.console.draws().then(|| {
            let bar = ProgressBar::new(bytes);
            bar.set_draw_target(ProgressDrawTarget::stderr());
            let template =
                "{wide_bar} {binary_bytes}/{binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";
            // If the template were invalid, the bar would keep the default style.
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar
        });
    }

    fn progress(&mut self, bytes: u64) {
        let elapsed = self.started.elapsed();
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
        } else if elapsed >= self.last_line + LINE_EVERY {
            self.last_line = elapsed;
            self.console
                .say(&format!("{} of {}", Bytes(bytes), Bytes(self.total)));
        }
    }

    fn note(&mut self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| self.console.say(text)),
            None => self.console.say(text),
        }
    }

    fn ends(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let took = duration(self.started.elapsed());
        self.console.say(&format!("downloaded in {took}"));
    }
}

impl Drop for Display<'_> {
    /// Clears the bar of a download that failed, so that it does not mix with the error.
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
