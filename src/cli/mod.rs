//! The command-line program: one file per subcommand, and the code that they share.
//!
//! The Python package compiles these files too (`python/src/lib.rs`), so that its command
//! `seqstream` is this program, and its `embed_fasta` runs the same job. So nothing here names the
//! crate by `crate::`: the library is `seqstream::`, and neighbours are `super::`.

mod algorithms;
mod args;
mod bench;
mod completions;
mod console;
mod doctor;
mod download;
mod embed;
mod export;
mod failure;
mod input;
mod inspect;
mod machine;
mod man;
mod merge;
mod model;
mod models;
mod options;
mod overlap;
mod peers;
mod progress;
mod recording;
mod remedy;
mod report;
mod share;
mod summary;
mod tokenize;
mod trace;
mod version;
mod virnucpro;

use std::ffi::OsString;

use args::{Cli, Command};
use clap::Parser;
pub use console::{Console, Verbosity};
pub use failure::Failure;
use peers::explain;
use remedy::LOST_FILE;
use seqstream::system::signals;

/// Runs the program: parses the arguments, of which the first is the name of the program, runs the
/// command, reports an error, and returns the documented exit code.
pub fn program(args: impl IntoIterator<Item = OsString>) -> u8 {
    signals::prepare(LOST_FILE);
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(answer) => {
            // Help and version arrive here as errors too. A closed pipe is no reason to fail.
            let answer = explain(answer);
            let _ = answer.print();
            return u8::try_from(answer.exit_code()).unwrap_or(2);
        }
    };
    let verbosity = match (cli.global.quiet, cli.global.verbose) {
        (true, _) => Verbosity::Quiet,
        (_, true) => Verbosity::Verbose,
        _ => Verbosity::Normal,
    };
    let console = Console::new(verbosity, cli.global.color, cli.global.offline);
    match run(cli.command, &console) {
        Ok(()) => 0,
        Err(failure) => {
            console.fail(&failure);
            failure.code()
        }
    }
}

/// What the Python package needs of the program, besides [`program`].
#[allow(dead_code, unused_imports)]
pub mod library {
    use std::ffi::OsString;

    use clap::Parser;
    use seqstream::pipeline::Stop;

    use super::args::{Cli, Command, EmbedArgs};
    use super::{Console, Failure, embed};

    pub use super::options::{EmbedOptions, request};

    /// Checks the options of `seqstream embed`. The first two arguments are the names of the
    /// program and of the subcommand.
    pub fn options(args: impl IntoIterator<Item = OsString>) -> Result<EmbedOptions, Failure> {
        parse(args)?.try_into()
    }

    /// Runs the job of `seqstream embed`, of which the caller decides what stops it.
    pub fn job(
        args: impl IntoIterator<Item = OsString>,
        console: &Console,
        stop: &Stop,
    ) -> Result<(), Failure> {
        embed::run_until(parse(args)?.try_into()?, console, stop)
    }

    fn parse(args: impl IntoIterator<Item = OsString>) -> Result<EmbedArgs, Failure> {
        match Cli::try_parse_from(args).map_err(usage)?.command {
            Command::Embed(args) => Ok(*args),
            _ => Err(Failure::Other("these are no arguments of embed".into())),
        }
    }

    /// Shortens what clap says: the lines before the first blank line tell what is wrong, and the
    /// others repeat how the program is used.
    fn usage(answer: clap::Error) -> Failure {
        let text = answer.to_string();
        let wrong = text
            .lines()
            .map(str::trim)
            .take_while(|line| !line.is_empty());
        let wrong: Vec<&str> = wrong.filter(|line| !line.starts_with('[')).collect();
        let values = text.lines().map(str::trim).find_map(|line| {
            let values = line.strip_prefix("[possible values: ")?;
            Some(format!("give one of {}", values.trim_end_matches(']')))
        });
        Failure::Usage {
            message: wrong.join(" ").trim_start_matches("error: ").to_owned(),
            hint: values,
        }
    }
}

/// Runs a subcommand.
fn run(command: Command, console: &Console) -> Result<(), Failure> {
    match command {
        Command::Embed(args) => embed::run(*args, console),
        Command::Virnucpro(args) => virnucpro::run(*args, console),
        Command::Merge(args) => merge::run(&args, console),
        Command::Export(args) => export::run(&args, console),
        Command::Report(args) => report::run(&args, console),
        Command::Inspect(args) => inspect::run(&args, console),
        Command::Models(args) => models::run(&args, console),
        Command::Tokenize(args) => tokenize::run(&args, console),
        Command::Bench(args) => bench::run(&args, console),
        Command::Overlap(args) => overlap::run(&args, console),
        Command::Doctor(args) => doctor::run(&args, console),
        Command::Completions(args) => completions::run(&args, console),
        Command::Man(args) => man::run(&args, console),
    }
}
