//! The command-line program: one file per subcommand, and the code that they share.

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

pub use args::{Cli, Command};
pub use console::{Console, Verbosity};
pub use failure::Failure;
pub use peers::explain;
pub use remedy::LOST_FILE;

/// Runs a subcommand.
pub fn run(command: Command, console: &Console) -> Result<(), Failure> {
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
