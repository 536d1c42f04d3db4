//! `weights-tools inspect`: shows what a model consists of.

use std::io::Write;
use std::path::PathBuf;

use seqstream::weights::{Checkpoint, Summary};

use crate::Failure;

/// Show a model's architecture, tensors, formats and size.
///
/// Only headers are read, so this is quick for a model of any size.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  weights-tools inspect esm2_t6_8M_UR50D
  weights-tools inspect esm2_t33_650M_UR50D.pt --json | jq .config")]
pub struct Args {
    /// A model folder, a .safetensors, .bin or fair-esm .pt file, an index, or the name of a model
    /// on the Hugging Face Hub
    path: PathBuf,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// Prints the summary of a model.
pub fn run(args: Args) -> Result<(), Failure> {
    let summary = Summary::of(&Checkpoint::open(&crate::find(&args.path)?)?);
    let text = match args.json {
        true => format!(
            "{}\n",
            serde_json::to_string_pretty(&summary).map_err(Failure::other)?
        ),
        false => summary.to_string(),
    };
    // A reader that has seen enough, such as `head`, closes the pipe; that is not a failure.
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::output(error)),
        _ => Ok(()),
    }
}
