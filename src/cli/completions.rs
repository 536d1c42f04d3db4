//! `seqstream completions`: prints a completion script for a shell.

use clap::CommandFactory;

use super::args::{Cli, CompletionsArgs};
use super::{Console, Failure};

/// Runs `seqstream completions`.
pub fn run(args: &CompletionsArgs, console: &Console) -> Result<(), Failure> {
    // The script is generated in memory, because the generator panics if it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "seqstream", &mut script);
    console.print(|out| out.write_all(&script).map_err(Failure::Stdout))
}
