//! `seqstream completions`.

use clap::CommandFactory;

use super::args::{Cli, CompletionsArgs};
use super::{Console, Failure};

pub fn run(args: &CompletionsArgs, console: &Console) -> Result<(), Failure> {
    // Into memory first: the generator panics where it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "seqstream", &mut script);
    console.print(|out| out.write_all(&script).map_err(Failure::Stdout))
}
