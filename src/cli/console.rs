//! What is said, and where: messages on standard error, data on standard output.

use std::io::{self, IsTerminal, Write};

use clap::ColorChoice;

use super::Failure;
use seqstream::untrusted::shown;

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Warnings and errors.
    Quiet,
    /// And progress and summaries.
    Normal,
    /// And details.
    Verbose,
}

/// The terminal, or what stands in for one.
#[derive(Debug, Clone, Copy)]
pub struct Console {
    verbosity: Verbosity,
    color: bool,
    terminal: bool,
}

impl Console {
    /// Looks at standard error, NO_COLOR and what was asked for.
    pub fn new(verbosity: Verbosity, color: ColorChoice) -> Self {
        let terminal = io::stderr().is_terminal();
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|t| t == "dumb");
        let color = match color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => terminal && wanted && !dumb,
        };
        Self {
            verbosity,
            color,
            terminal,
        }
    }

    /// Whether a progress bar makes sense.
    pub fn draws(&self) -> bool {
        self.terminal && self.verbosity > Verbosity::Quiet
    }

    /// Whether progress and summaries are wanted.
    pub fn talks(&self) -> bool {
        self.verbosity > Verbosity::Quiet
    }

    /// A line of the usual kind.
    pub fn say(&self, text: &str) {
        if self.talks() {
            stderr(&shown::message(text));
        }
    }

    /// A line for those who asked for more.
    pub fn detail(&self, text: &str) {
        if self.verbosity == Verbosity::Verbose {
            stderr(&shown::message(text));
        }
    }

    /// Something that is no error, yet should be known.
    pub fn warn(&self, text: &str) {
        stderr(&format!(
            "{} {}",
            self.paint("warning:", "33;1"),
            shown::message(text)
        ));
    }

    /// What to do about what was just said.
    pub fn hint(&self, text: &str) {
        stderr(&format!(
            "{} {}",
            self.paint("hint:", "36;1"),
            shown::message(text)
        ));
    }

    /// Why the program fails, and what to do about it.
    pub fn fail(&self, failure: &Failure) {
        if failure.is_silent() {
            return;
        }
        stderr(&format!(
            "{} {}",
            self.paint("error:", "31;1"),
            shown::message(&failure.to_string())
        ));
        if let Some(hint) = failure.hint() {
            self.hint(&hint);
        }
    }

    fn paint(&self, text: &str, style: &str) -> String {
        if self.color {
            format!("\x1b[{style}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// Runs `write` on a buffered standard output.
    pub fn print<F>(&self, write: F) -> Result<(), Failure>
    where
        F: FnOnce(&mut dyn Write) -> Result<(), Failure>,
    {
        let mut out = io::BufWriter::new(io::stdout().lock());
        write(&mut out)?;
        out.flush().map_err(Failure::Stdout)
    }
}

/// Where standard error is closed there is nobody to tell.
fn stderr(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
