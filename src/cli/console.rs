//! Prints messages to standard error and data to standard output.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use clap::ColorChoice;
use serde::Serialize;

use super::Failure;
use seqstream::untrusted::shown;

/// Which messages are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Warnings and errors.
    Quiet,
    /// Warnings, errors, progress and summaries.
    Normal,
    /// All messages, including details.
    Verbose,
}

/// The output of the program: a terminal, or a file or pipe in its place. It also knows what else
/// holds for all subcommands.
#[derive(Debug, Clone, Copy)]
pub struct Console {
    verbosity: Verbosity,
    color: bool,
    terminal: bool,
    offline: bool,
    /// Takes the warnings instead of standard error.
    warnings: Option<fn(&str)>,
}

impl Console {
    /// Decides about colours and progress bars from the options, the environment (NO_COLOR, TERM),
    /// and whether standard error is a terminal.
    pub fn new(verbosity: Verbosity, color: ColorChoice, offline: bool) -> Self {
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
            offline,
            warnings: None,
        }
    }

    /// Makes a console that prints nothing, and gives its warnings to `warnings`.
    #[allow(dead_code)] // for the Python package
    pub fn silent(warnings: fn(&str)) -> Self {
        Self {
            verbosity: Verbosity::Quiet,
            color: false,
            terminal: false,
            offline: false,
            warnings: Some(warnings),
        }
    }

    /// Returns whether `--offline` forbids the network.
    pub fn is_offline(&self) -> bool {
        self.offline
    }

    /// Returns whether a progress bar can be drawn.
    pub fn draws(&self) -> bool {
        self.terminal && self.verbosity > Verbosity::Quiet
    }

    /// Returns whether progress and summaries are printed.
    pub fn talks(&self) -> bool {
        self.verbosity > Verbosity::Quiet
    }

    /// Prints an ordinary message; `--quiet` suppresses it.
    pub fn say(&self, text: &str) {
        if self.talks() {
            stderr(&shown::message(text));
        }
    }

    /// Prints a message that only `--verbose` shows.
    pub fn detail(&self, text: &str) {
        if self.is_verbose() {
            stderr(&shown::message(text));
        }
    }

    /// Prints a warning: something that is not an error, but that the user should know.
    pub fn warn(&self, text: &str) {
        if let Some(take) = self.warnings {
            return take(&shown::message(text));
        }
        stderr(&format!(
            "{} {}",
            self.paint("warning:", "33;1"),
            shown::message(text)
        ));
    }

    /// Prints what the user can do about the previous message.
    pub fn hint(&self, text: &str) {
        stderr(&format!(
            "{} {}",
            self.paint("hint:", "36;1"),
            shown::message(text)
        ));
    }

    /// Prints why the program fails, and what the user can do about it.
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

    /// Returns whether details are printed.
    pub fn is_verbose(&self) -> bool {
        self.verbosity == Verbosity::Verbose
    }

    /// Prints a report on standard output, as text or as one line of JSON.
    pub fn report<R: Display + Serialize>(&self, report: &R, json: bool) -> Result<(), Failure> {
        self.print(|out| {
            if json {
                serde_json::to_writer(&mut *out, report).map_err(|e| Failure::Stdout(e.into()))?;
                return writeln!(out).map_err(Failure::Stdout);
            }
            write!(out, "{report}").map_err(Failure::Stdout)
        })
    }

    /// Calls `write` with a buffered standard output and flushes it.
    pub fn print<F>(&self, write: F) -> Result<(), Failure>
    where
        F: FnOnce(&mut dyn Write) -> Result<(), Failure>,
    {
        let mut out = io::BufWriter::new(io::stdout().lock());
        write(&mut out)?;
        out.flush().map_err(Failure::Stdout)
    }
}

/// Writes a line to standard error. A failure is ignored: if standard error is closed, there is
/// nobody to tell.
fn stderr(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
