//! The program `seqstream` parses its arguments, runs the command, reports an error, and exits with
//! the documented code.

mod cli;

use std::process::ExitCode;

use clap::Parser;
use cli::{Cli, Console, LOST_FILE, Verbosity};
use seqstream::system::signals;

fn main() -> ExitCode {
    signals::prepare(LOST_FILE);
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(answer) => {
            // Help and version arrive here as errors too. A closed pipe is no reason to fail.
            let answer = cli::explain(answer);
            let _ = answer.print();
            return ExitCode::from(u8::try_from(answer.exit_code()).unwrap_or(2));
        }
    };
    let verbosity = match (cli.global.quiet, cli.global.verbose) {
        (true, _) => Verbosity::Quiet,
        (_, true) => Verbosity::Verbose,
        _ => Verbosity::Normal,
    };
    let console = Console::new(verbosity, cli.global.color, cli.global.offline);
    match cli::run(cli.command, &console) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            console.fail(&failure);
            ExitCode::from(failure.code())
        }
    }
}
