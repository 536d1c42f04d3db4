//! `weights-tools verify`: checks a model's shapes, values and checksums, and prints its hash.

use std::path::PathBuf;

use rayon::prelude::*;
use seqstream::untrusted::{Shown, shown};
use seqstream::weights::{Checkpoint, WeightsError};

use crate::{Failure, say};

/// Values that are read at a time: 16 MiB of f32.
const BLOCK: usize = 1 << 22;

/// Check a model (every tensor is there and has its shape, every value is finite, every checksum in
/// the files is right) and print its hash.
///
/// The hash covers the weights with their index, config.json and tokenizer.json. PyTorch's files
/// (.bin, .pt) hold a checksum for each of their parts; safetensors files hold none. The files are
/// read once for the hash, once for the checksums and once for the values, in small pieces.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  weights-tools verify esm2_t6_8M_UR50D

Exit code 4 if a tensor is missing, misshapen or has a value that is not finite, or if a checksum
is not that of the bytes.")]
pub struct Args {
    /// A model folder, a .safetensors, .bin or fair-esm .pt file, an index, or the name of a model
    /// on the Hugging Face Hub
    path: PathBuf,
}

/// Checks the model and prints its hash.
pub fn run(args: Args) -> Result<(), Failure> {
    crate::start_threads()?;
    let checkpoint = Checkpoint::open(&crate::find(&args.path)?)?;
    for warning in checkpoint.warnings() {
        eprintln!("warning: {warning}");
    }
    say!("hash   {}", checkpoint.hash()?);
    match checkpoint.compare_checksums()? {
        0 => {}
        entries => say!("checksums ok: {entries} entries of the archive"),
    }
    let tensors: Vec<_> = checkpoint
        .tensors()
        .into_iter()
        .filter(|t| t.used)
        .collect();
    say!(
        "shapes ok: {} tensors of {}",
        tensors.len(),
        checkpoint.config().kind
    );

    let mut values = 0u64;
    let mut bad = Vec::new();
    for info in &tensors {
        let tensor = checkpoint.tensor(&info.name)?;
        let (mut first_bad, mut count) = (None, 0);
        tensor.for_each_block(BLOCK, |first, block| {
            let found = block.par_iter().filter(|v| !v.is_finite()).count();
            if found > 0 && first_bad.is_none() {
                first_bad = block
                    .iter()
                    .position(|v| !v.is_finite())
                    .map(|at| (first + at, block[at]));
            }
            count += found;
            Ok::<(), WeightsError>(())
        })?;
        values += tensor.len() as u64;
        if let Some((index, value)) = first_bad {
            bad.push(format!(
                "{}: tensor {} has {count} values that are not finite, the first {value} at index {index}",
                shown::path(&info.file),
                Shown(&info.stored_name)
            ));
        }
    }
    if bad.is_empty() {
        say!("values ok: {values}, all finite");
        return Ok(());
    }
    Err(Failure::bad_weights(
        bad.join("\n       "),
        "download the model again, or ask who trained it",
    ))
}
