//! What users of other programs type: options that mean the same here are read, and an error about
//! any other option names the option that has its place here.
//!
//! An option is read only if it means the same. Another name for an option of `embed` is an `alias`
//! in `args.rs`; options with values of another form are below.

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory, ValueEnum};

use super::Failure;
use super::args::{Cli, EmbedArgs, LayerArg, PoolArg};

/// Options of fair-esm's `esm-extract` (`scripts/extract.py`).
#[derive(Debug, Args)]
pub struct PeerArgs {
    /// Layers, separated by spaces
    #[arg(
        long = "repr_layers",
        alias = "repr-layers",
        hide = true,
        num_args = 1..,
        allow_negative_numbers = true,
        conflicts_with = "layers"
    )]
    pub repr_layers: Vec<LayerArg>,
    /// What to keep, separated by spaces
    #[arg(long, hide = true, num_args = 1.., conflicts_with_all = ["pool", "per_token"])]
    pub include: Vec<IncludeArg>,
    /// Compute on the CPU
    #[arg(long, hide = true)]
    pub nogpu: bool,
}

/// The values of `--include`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum IncludeArg {
    Mean,
    #[value(name = "per_tok")]
    PerTok,
    Bos,
    Contacts,
}

const DEVICE: &str = "SEQSTREAM_DEVICE";
/// Options that take their value from a variable, unless they are typed.
const VARIABLES: [(&str, &str); 3] = [
    ("--model", "SEQSTREAM_MODEL"),
    ("--device", DEVICE),
    ("--threads", "SEQSTREAM_THREADS"),
];

/// Puts what was typed for another program into the options of `embed`.
///
/// # Errors
/// [`Failure::Usage`] if something is asked for that seqstream does not compute, or if options
/// contradict each other.
pub fn translate(args: &mut EmbedArgs) -> Result<(), Failure> {
    let usage = |message: String, hint: &str| Failure::Usage {
        message,
        hint: Some(hint.into()),
    };
    if !args.peers.repr_layers.is_empty() {
        args.layers = args.peers.repr_layers.clone();
    }
    let include = &args.peers.include;
    if include.contains(&IncludeArg::Contacts) {
        return Err(usage(
            "--include contacts: seqstream computes embeddings only, no contact maps".into(),
            "leave contacts out",
        ));
    }
    if !include.is_empty() {
        args.per_token = include.contains(&IncludeArg::PerTok);
        let pool = |include: &IncludeArg| match include {
            IncludeArg::Mean => Some(PoolArg::Mean),
            IncludeArg::Bos => Some(PoolArg::Cls),
            IncludeArg::PerTok | IncludeArg::Contacts => None,
        };
        args.pool = include.iter().filter_map(pool).collect();
        if args.pool.is_empty() {
            args.pool = vec![PoolArg::None];
        }
    }
    if args.peers.nogpu {
        // The option also overrides the variable, which is set for all jobs.
        let of_variable = std::env::var(DEVICE).is_ok_and(|value| value == args.device);
        if args.device != "cpu" && !of_variable {
            return Err(usage(
                format!("--nogpu cannot go with --device {}", args.device),
                "leave one of them out: --nogpu means --device cpu",
            ));
        }
        args.device = "cpu".into();
    }
    Ok(())
}

/// Where an option of another program has its place here. Underscores are written as hyphens.
const HINTS: &[(&[&str], &str)] = &[
    (
        &["--batch-size", "--micro-batch-size", "--chunk-size", "-b"],
        "batches are measured in tokens and not in sequences: `--token-budget N`, which may be left out, because it \
         affects speed and memory and never a result",
    ),
    (
        &[
            "--input",
            "--fasta",
            "--fasta-path",
            "--fasta-file",
            "--input-file",
            "-i",
            "-f",
        ],
        "input files are given without an option: `seqstream embed proteins.fasta --model MODEL --out DIR`",
    ),
    (
        &[
            "--output",
            "--output-dir",
            "--outdir",
            "--out-dir",
            "--output-path",
            "--output-file",
        ],
        "the output is a directory: `--out DIR`",
    ),
    (
        &[
            "--model-id",
            "--model-name",
            "--model-location",
            "--embedder",
            "--checkpoint",
            "--checkpoint-path",
            "-e",
        ],
        "the model is given by its name, folder or file: `--model NAME`; `seqstream models` lists names",
    ),
    (
        &["--revision"],
        "the revision is a part of the name: `--model NAME@REVISION`",
    ),
    (
        &["--cache-dir", "--cache-folder", "--model-dir"],
        "the cache is the Hugging Face Hub's own: set HF_HUB_CACHE or HF_HOME; a model can also be given by its folder",
    ),
    (&["--local-files-only", "--no-download"], "use `--offline`"),
    (
        &[
            "--no-progress",
            "--no-progress-bar",
            "--disable-tqdm",
            "--show-progress-bar",
        ],
        "a progress bar is drawn only on a terminal; `--quiet` prints nothing but warnings and errors",
    ),
    (&["--silent"], "use `--quiet`"),
    (
        &["--reduce", "--reducer", "--mean", "--mean-pooled"],
        "one row per sequence is the default: `--pool mean`, or `cls` or `max`",
    ),
    (
        &[
            "--per-tok",
            "--per-protein",
            "--per-residues",
            "--residue",
            "--full-embeddings",
            "--token-embeddings",
            "--extract-embeddings",
        ],
        "`--pool mean` (the default) keeps one row per sequence, `--per-token` also the states of all residues",
    ),
    (
        &["--precision", "--compute-dtype", "--torch-dtype"],
        "`--dtype f16` is the type of the computation on a GPU, `--output-dtype f16` that of the output",
    ),
    (
        &[
            "--half",
            "--half-precision",
            "--fp16",
            "--float16",
            "--use-half",
        ],
        "`--output-dtype f16` halves the size of the output; on a GPU f16 is computed unless `--dtype` says otherwise",
    ),
    (
        &["--bf16", "--bfloat16"],
        "use `--dtype bf16`, which is for GPUs",
    ),
    (
        &[
            "--num-gpus",
            "--gpus",
            "--ngpus",
            "--devices",
            "--gpu",
            "--use-gpu",
            "--cuda",
            "--backend",
            "-g",
        ],
        "use `--device cuda` for all GPUs of the machine, or `--device cuda:0,2` for some",
    ),
    (
        &["--cpu", "--no-gpu", "--no-cuda"],
        "the CPU is the default: `--device cpu`",
    ),
    (
        &[
            "--num-workers",
            "--workers",
            "--cpus",
            "--n-jobs",
            "--num-threads",
            "--nthreads",
            "-j",
            "-t",
        ],
        "use `--threads N`",
    ),
    (
        &[
            "--max-len",
            "--max-seq-length",
            "--max-seq-len",
            "--max-sequence-length",
            "--truncate-dim",
            "--max-tokens",
            "--trunc-len",
        ],
        "`--max-length N` truncates longer sequences; without it they are embedded as a whole",
    ),
    (
        &[
            "--layer",
            "--output-layer",
            "--hidden-states",
            "--output-hidden-states",
        ],
        "use `--layers 0,3,-1` or `--layers all`",
    ),
    (
        &["--skip-bad", "--skip-errors", "--skip-invalid"],
        "`--bad-records skip` leaves such records out and lists them in rejected.tsv",
    ),
    (
        &["--overwrite", "--force"],
        "nothing is overwritten: give a new `--out`, or `--resume` to go on",
    ),
    (
        &["--shards", "--num-shards", "--array"],
        "use `--share 1/4` to `--share 4/4`; in a Slurm job array `--share slurm`",
    ),
    (
        &[
            "--contacts",
            "--return-contacts",
            "--logits",
            "--output-attentions",
            "--attentions",
        ],
        "seqstream computes embeddings only: no contact maps, logits or attention maps",
    ),
];

/// Adds to an error of clap what would help: the place of another program's option, or the variable
/// from which a value comes that nobody typed.
pub fn explain(mut error: clap::Error) -> clap::Error {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    let Some(option) = context(ContextKind::InvalidArg) else {
        return error;
    };
    let tip = match error.kind() {
        ErrorKind::UnknownArgument => hint(&option),
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let value = context(ContextKind::InvalidValue);
            variable(&option, &value.unwrap_or_default())
        }
        _ => None,
    };
    if let Some(tip) = tip {
        // clap's own guess is the option whose letters are most alike.
        error.remove(ContextKind::SuggestedArg);
        let tips = vec![StyledStr::from(tip)];
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
    }
    error
}

fn hint(option: &str) -> Option<String> {
    let name = option.split(['=', ' ']).next()?;
    let name = match name.strip_prefix("--") {
        Some(long) => format!("--{}", long.replace('_', "-").to_ascii_lowercase()),
        None => name.to_owned(),
    };
    if ["--format", "--output-format"].contains(&&*name) {
        let export = Cli::command().find_subcommand("export").is_some();
        let export = match export {
            true => "; `seqstream export` converts a finished output to other formats",
            false => "; docs/usage.md shows how other formats are made of them",
        };
        return Some(format!(
            "the output is in .npy files, and with `--per-token` in .safetensors{export}"
        ));
    }
    let known = HINTS.iter().find(|(names, _)| names.contains(&&*name));
    known.map(|(_, hint)| (*hint).to_owned())
}

fn variable(option: &str, value: &str) -> Option<String> {
    let name = option.split(' ').next()?;
    let (_, variable) = VARIABLES.iter().find(|(flag, _)| *flag == name)?;
    let set = std::env::var_os(variable)?;
    (set.to_string_lossy() == value)
        .then(|| format!("the value may come from the environment variable {variable}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::args::Command;
    use super::super::options::EmbedOptions;
    use super::*;
    use seqstream::model::Pool;

    fn parse(options: &str) -> Result<EmbedOptions, Failure> {
        let line = format!("seqstream embed a.fa --model m --out o {options}");
        match Cli::try_parse_from(line.split_whitespace())
            .unwrap()
            .command
        {
            Command::Embed(args) => (*args).try_into(),
            _ => unreachable!(),
        }
    }

    #[test]
    fn options_that_mean_the_same_are_read() {
        for (theirs, ours) in [
            ("--repr_layers 33", "--layers 33"),
            ("--repr-layers 0 32 -1", "--layers 0,32,-1"),
            ("--repr_layers 0 --include mean", "--layers 0"),
            ("--include mean", "--pool mean"),
            ("--include bos mean", "--pool cls,mean"),
            ("--include per_tok", "--pool none --per-token"),
            ("--include mean per_tok", "--pool mean --per-token"),
            ("--per-residue", "--per-token"),
            ("--pooling bos", "--pool cls"),
            (
                "--truncation_seq_length 1022",
                "--max-length 1022 --long truncate",
            ),
            ("--toks_per_batch 4096", "--token-budget 4096"),
            ("--nogpu", "--device cpu"),
            ("--output-dtype float16", "--output-dtype f16"),
            ("--dtype fp32", "--dtype f32"),
        ] {
            let [theirs, ours] = [theirs, ours].map(|line| format!("{:?}", parse(line).unwrap()));
            assert_eq!(theirs, ours);
        }
        assert_eq!(parse("--include bos").unwrap().pools, [Pool::Cls]);
    }

    #[test]
    fn what_contradicts_or_is_not_computed_is_refused() {
        for (wrong, says) in [
            ("--include contacts", "no contact maps"),
            ("--include mean contacts", "no contact maps"),
            (
                "--nogpu --device cuda",
                "--nogpu cannot go with --device cuda",
            ),
        ] {
            let failure = parse(wrong).unwrap_err();
            assert_eq!(failure.code(), 2, "{wrong}");
            assert!(failure.to_string().contains(says), "{failure}");
            assert!(failure.hint().is_some());
        }
        for wrong in [
            "--include mean --pool cls",
            "--include mean --per-token",
            "--include all",
            "--include",
            "--repr_layers 3 --layers 3",
            "--repr_layers first",
        ] {
            let line = format!("seqstream embed a.fa --model m --out o {wrong}");
            let parsed = Cli::try_parse_from(line.split_whitespace());
            assert!(parsed.is_err(), "{wrong}");
        }
    }

    #[test]
    fn other_options_lead_to_ours() {
        for (theirs, says) in [
            ("--batch-size 8", "`--token-budget N`"),
            ("--batch_size=8", "`--token-budget N`"),
            ("--format h5", "the output is in .npy files"),
            ("--no-progress", "`--quiet`"),
            ("--reduce", "`--pool mean`"),
            ("--revision main", "NAME@REVISION"),
            ("--num_gpus 2", "`--device cuda`"),
            ("-i a.fa", "without an option"),
            ("--skip-bad", "`--bad-records skip`"),
        ] {
            let line = format!("seqstream embed a.fa --model m --out o {theirs}");
            let error = Cli::try_parse_from(line.split_whitespace()).unwrap_err();
            let said = explain(error).to_string();
            assert!(
                said.contains(&format!("tip: {}", hint(theirs).unwrap())),
                "{said}"
            );
            assert!(said.contains(says), "{said}");
            assert!(!said.contains("similar argument"), "{said}");
        }
        assert_eq!(hint("--nothing-like-it"), None);
    }

    /// Hints name options, and none of these may be misspelt or stand for an option that exists.
    #[test]
    fn hints_name_options_that_there_are() {
        let mut command = Cli::command();
        command.build();
        let mut ours = Vec::new();
        let embed = command.find_subcommand("embed").unwrap();
        for argument in embed.get_arguments() {
            ours.extend(argument.get_long().map(|long| format!("--{long}")));
            ours.extend(argument.get_short().map(|short| format!("-{short}")));
            let aliases = argument.get_all_aliases().unwrap_or_default();
            ours.extend(aliases.iter().map(|alias| format!("--{alias}")));
        }
        assert!(ours.contains(&"--share".into()) && ours.contains(&"-m".into()));
        for (names, hint) in HINTS {
            let taken = names.iter().find(|name| ours.contains(&(**name).into()));
            assert_eq!(taken, None);
            let words = hint.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
            for word in words.filter(|word| word.starts_with("--")) {
                assert!(ours.contains(&word.into()), "{word}: {hint}");
            }
        }
        for (flag, variable) in VARIABLES {
            let argument = embed.get_arguments();
            let mut argument = argument.filter(|a| a.get_long() == flag.strip_prefix("--"));
            assert_eq!(argument.next().unwrap().get_env(), Some(variable.as_ref()));
        }
    }
}
