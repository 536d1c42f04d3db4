//! The program `seqstream`. Everything is in `cli`, which the Python package compiles too.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(cli::program(std::env::args_os()))
}
