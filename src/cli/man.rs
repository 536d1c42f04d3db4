//! `seqstream man`: writes the manual pages.

use clap::CommandFactory;
use clap::builder::Resettable;
use clap_mangen::Man;

use super::args::{Cli, ManArgs};
use super::{Console, Failure, version};
use seqstream::output::OutputError;
use seqstream::report::ReportError;

/// Runs `seqstream man`.
pub fn run(args: &ManArgs, console: &Console) -> Result<(), Failure> {
    let failed = |action, source| {
        let error = OutputError::io(action, &args.dir, None, source);
        Failure::Report(ReportError::Write(error))
    };
    std::fs::create_dir_all(&args.dir).map_err(|e| failed("create", e))?;
    // The long version names the processor of this machine, and pages are the same on all machines.
    let mut program = Cli::command().long_version(Resettable::Reset);
    program = program.disable_help_subcommand(true);
    program.build();
    let commands = program.get_subcommands().cloned().collect::<Vec<_>>();
    for command in std::iter::once(program).chain(commands) {
        let name = command.get_display_name().unwrap_or(command.get_name());
        let title = name.to_uppercase();
        let page = Man::new(command)
            .title(title)
            .date(version::date().unwrap_or("unknown"))
            .source(concat!("seqstream ", env!("CARGO_PKG_VERSION")))
            .manual("seqstream manual");
        page.generate_to(&args.dir)
            .map_err(|e| failed("write in", e))?;
    }
    console.say(&format!(
        "manual pages are in {}: man {0}/seqstream.1",
        args.dir.display()
    ));
    Ok(())
}
