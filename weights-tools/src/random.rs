//! `weights-tools random`: writes a seeded random model to disk as a stream.

use std::path::PathBuf;
use std::time::Instant;

use clap::ValueEnum;
use seqstream::architecture::ModelConfig;
use seqstream::architecture::ModelKind;
use seqstream::architecture::layout;
use seqstream::untrusted::shown;
use seqstream::weights::random::RandomSpec;
use seqstream::weights::random::standing_model;
use seqstream::weights::random::write_random;

use crate::{DTypeArg, Failure, size};

/// Make a random model of a real architecture, reproducible from its seed.
///
/// The weights are random but not trivial: LayerNorm gains and biases, linear biases and outlier
/// channels are all there. They are streamed to disk, so a 15B model (60 GB) needs no more memory
/// than an 8M model. The result is a Hugging Face folder.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  weights-tools random --arch 8M --seed 1 --out esm2-8m-random
  weights-tools random --arch 15B --dtype f16 --max-shard-size 5GB --out esm2-15b-random
  weights-tools random --kind dnabert --layers 4 --hidden 240 --heads 10 --out small")]
pub struct Args {
    /// A published size: 8M, 35M, 150M, 650M, 3B, 15B or dnabert-s
    #[arg(long, required_unless_present = "kind", conflicts_with = "kind")]
    arch: Option<String>,
    /// An architecture, for sizes of your own
    #[arg(long, requires_all = ["layers", "hidden", "heads"])]
    kind: Option<Kind>,
    /// Transformer layers
    #[arg(long, requires = "kind")]
    layers: Option<usize>,
    /// Model width
    #[arg(long, requires = "kind")]
    hidden: Option<usize>,
    /// Attention heads
    #[arg(long, requires = "kind")]
    heads: Option<usize>,
    /// Width of the feed-forward block [default: 4 times the model's]
    #[arg(long, requires = "kind")]
    intermediate: Option<usize>,
    /// Rows of the embedding table [default: 33 or 4096]
    #[arg(long, requires = "kind")]
    vocab: Option<usize>,
    /// The seed; together with the sizes it decides every bit
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Format of the weights
    #[arg(long, value_enum, default_value = "f32")]
    dtype: DTypeArg,
    /// Split the weights into files of at most this size, such as 5GB [default: one file]
    #[arg(long, value_parser = size::parse)]
    max_shard_size: Option<u64>,
    /// The folder to write
    #[arg(long)]
    out: PathBuf,
    /// Replace a model that is already there
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Esm2,
    Dnabert,
}

/// Makes the model, as the arguments say.
pub fn run(args: Args) -> Result<(), Failure> {
    let config = config(&args)?;
    crate::start_threads()?;
    let spec = RandomSpec {
        config,
        max_shard_bytes: args.max_shard_size,
    };
    if !args.force
        && let Some(path) = standing_model(&args.out)?
    {
        let what = format!("{} stands there already", shown::path(&path));
        return Err(Failure::output_exists(
            what,
            "choose an empty folder as --out, or add --force to replace the model in this one",
        ));
    }
    let start = Instant::now();
    write_random(&spec, args.seed, args.dtype.into(), &args.out)?;
    let c = &spec.config;
    eprintln!(
        "wrote {}: random {} of {} layers, width {}, {} heads, {} parameters in {}, in {:.1} s",
        shown::path(&args.out),
        c.kind,
        c.layers,
        c.hidden,
        c.heads,
        layout::parameters(c),
        seqstream::dtype::DType::from(args.dtype),
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

fn config(args: &Args) -> Result<ModelConfig, Failure> {
    if let Some(arch) = &args.arch {
        return ModelConfig::preset(arch).ok_or_else(|| {
            let names = ModelConfig::PRESETS.join(", ");
            Failure::usage(
                format!("there is no published size {arch}"),
                &format!("choose one of {names}"),
            )
        });
    }
    // clap requires these three options wherever `kind` is given.
    let (layers, hidden, heads) = (
        args.layers.unwrap_or(0),
        args.hidden.unwrap_or(0),
        args.heads.unwrap_or(0),
    );
    let mut config = match args.kind {
        Some(Kind::Dnabert) => ModelConfig::dnabert(layers, hidden, heads),
        _ => ModelConfig::esm2(layers, hidden, heads),
    };
    config.intermediate = args.intermediate.unwrap_or(config.intermediate);
    config.vocab = args.vocab.unwrap_or(config.vocab);
    if config.kind == ModelKind::Esm2 && config.vocab <= config.mask_token as usize {
        let what = format!(
            "ESM-2's alphabet has 33 tokens, so that a vocabulary of {} is too small",
            config.vocab
        );
        return Err(Failure::usage(what, "leave --vocab out"));
    }
    Ok(config)
}
