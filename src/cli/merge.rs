//! `seqstream merge`: joins the outputs of all shares of a job.

use super::args::MergeArgs;
use super::progress::count;
use super::{Console, Failure};
use seqstream::pipeline;

/// Runs `seqstream merge`.
pub fn run(args: &MergeArgs, console: &Console) -> Result<(), Failure> {
    let report = pipeline::merge(&args.sources, &args.out)?;
    report.warnings.iter().for_each(|w| console.warn(w));
    console.say(&format!(
        "merged {} shards, {} sequences, each standing once, into {}",
        count(report.shards),
        count(report.manifest.records),
        args.out.display()
    ));
    Ok(())
}
