//! `seqstream report`: writes a page about a complete job, and a file for MultiQC.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use super::summary::COUNTED;
use super::{Console, Failure};
use seqstream::output::{MULTIQC_FILE, OutputError, Place, REPORT_FILE};
use seqstream::report::{self, ReportError};

/// The arguments of `seqstream report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Output directory of a complete job; it gets report.html and seqstream_mqc.json
    #[arg(value_name = "OUT")]
    pub out: PathBuf,
    /// Name of the job on the page and in MultiQC, where each job needs a name of its own [default:
    /// the name of the directory]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Write the page to this file instead
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// Runs `seqstream report`.
pub fn run(args: &ReportArgs, console: &Console) -> Result<(), Failure> {
    let mut report = report::report(&args.out)?;
    if let Some(name) = &args.name {
        report.name.clone_from(name);
    }
    let page = match &args.html {
        Some(path) => path.clone(),
        None => args.out.join(REPORT_FILE),
    };
    write(&page, &report.html(&COUNTED))?;
    let multiqc = args.out.join(MULTIQC_FILE);
    write(&multiqc, &report.multiqc(&COUNTED))?;
    console.say(&format!(
        "wrote {}; MultiQC reads {}",
        page.display(),
        multiqc.display()
    ));
    Ok(())
}

/// Writes a file, which is replaced if it exists.
fn write(path: &Path, text: &str) -> Result<(), ReportError> {
    let place = Place::replacing(path).map_err(ReportError::Write)?;
    let written = fs::write(place.partial(), text);
    written.map_err(|e| ReportError::Write(OutputError::io("write", path, None, e)))?;
    place.replace().map_err(ReportError::Write)
}
