//! Puts the remedies of the library into the words of the command line: only this program knows
//! which options and commands the user has.

use seqstream::remedy::{Action, Remedy};

/// What to do when a mapped file can no longer be read, as a signal handler prints it.
pub const LOST_FILE: &str = "restore the file and run the same command again (embed: with --resume; finished shards are kept)";

/// Returns the hint that the program prints for a remedy.
pub fn words(remedy: &Remedy) -> String {
    remedy.words(&action)
}

fn action(action: &Action) -> String {
    let text = match action {
        Action::CheckInputPath => "check the path; `-` reads standard input",
        Action::CleanText => "run without --strict to have it cleaned and counted",
        Action::SameReading { option, value } => {
            return format!(
                "give --{} {value}, as for that job",
                option.replace('_', "-")
            );
        }
        Action::SkipBadRecords => "--bad-records skip leaves such records out and lists them",
        Action::NumberSharedNames => {
            "--duplicate-ids suffix names such contigs NAME/1, NAME/2 and so on"
        }
        Action::CutOrWindow => {
            "--long truncate keeps the first tokens, --long window averages over windows, and a higher --max-length lets it pass"
        }
        Action::EmbedInWindows => "embed it in windows (--max-length N --long window)",
        Action::LimitLength { tokens } => {
            return format!(
                "embed it in windows (--long window) or cut it (--long truncate), with --max-length {tokens} at most"
            );
        }
        Action::UseCpu => "use --device cpu",
        Action::ShowDevices => "see `seqstream doctor`",
        Action::DivideJob => "divide the job: one --share per kind",
        Action::HalfPrecision => "use --dtype f16 or bf16",
        Action::AvoidF16 => "values have probably overflowed in f16: use --dtype bf16 or f32",
        Action::OtherDType => "use another --dtype",
        Action::StreamWeights { slots: None } => "use --weights streamed",
        Action::StreamWeights { slots: Some(slots) } => {
            return format!("use --weights streamed:{slots}");
        }
        Action::TokenBudget { tokens } => return format!("use --token-budget {tokens}"),
        Action::LowerTokenBudget => "lower --token-budget",
        Action::FewerThreads => "give fewer --threads",
        Action::DownloadModel { name, folder } => {
            return format!(
                "models are read from disk: download it with `hf download {name} --local-dir {folder}`, and give \
                 --model {folder}"
            );
        }
        Action::FillCache { name, revision } => {
            let of = revision
                .as_ref()
                .map_or_else(String::new, |r| format!(" --revision {r}"));
            return format!(
                "run `hf download {name}{of}` with the same cache on a machine that has a network"
            );
        }
        Action::ListModels => "`seqstream models` lists the known names",
        Action::ConvertToF32 => {
            "weights-tools convert --dtype f32 makes a file that is used where it is mapped"
        }
        Action::VerifyWeights => {
            "check the weights: `weights-tools verify MODEL` looks for values that are not finite"
        }
        Action::ResumeJob => "run the same command with --resume: finished shards are kept",
        Action::ResumeAffected => {
            "run `embed` again with --resume, which computes again what the change affects"
        }
        Action::ContinueJob => "add --resume to go on with it",
        Action::RunAgain => "run the same command again",
        Action::MergeAgain => "run the same merge again: it goes on where it ended",
        Action::ResumeThatJob => "run that job again with --resume",
        Action::BuildWith { feature } => {
            return format!("build it with `cargo build --release --features {feature}`");
        }
        Action::ChooseLayer { layer } => return format!("choose one, such as --layer {layer}"),
        Action::ChoosePool { pool } => return format!("choose one, such as --pool {pool}"),
        Action::KeyById => "use the ids as keys: --key id",
        Action::ExportAsTable => "use --to npz or --to csv, which take any names",
        Action::ExportStates => "use --to npz, pt, h5 or parquet",
        Action::KeepStates => "compute the job again with --per-token and another --out",
        Action::RecomputeShare => "compute that share again, with another --out",
        Action::RecomputeWithAlgorithms { of } => {
            return format!(
                "run one of them again, with another --out and `--gemm-algorithms {}`",
                of.display()
            );
        }
        Action::GiveAlgorithms => "give that of another share of the same job by --gemm-algorithms",
        Action::RecomputeShard { shard } => {
            return format!("remove {}, and --resume computes it again", shard.display());
        }
        Action::OtherOutput => "give another --out to start anew",
        Action::EmptyOutput => "give an empty or a new directory as --out",
        Action::SmallerShards => "start anew with smaller shards (--shard-size) and another --out",
        Action::WriteF32 => "write f32 instead: --output-dtype f32",
        Action::ReportDefect => "please report this with the command that led to it",
        // These name nothing that the user types. They are listed one by one, so that a new action
        // does not get past this function.
        Action::Advice(_)
        | Action::ShorterSequences { .. }
        | Action::LargerDevice { .. }
        | Action::FreeDeviceMemory { .. }
        | Action::MoreMemory => return action.to_string(),
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory;

    use super::super::Cli;
    use super::*;

    /// The actions that have words of the command line.
    fn actions() -> Vec<Action> {
        vec![
            Action::CheckInputPath,
            Action::CleanText,
            Action::SameReading {
                option: "bad_records".into(),
                value: "stop".into(),
            },
            Action::SkipBadRecords,
            Action::NumberSharedNames,
            Action::CutOrWindow,
            Action::EmbedInWindows,
            Action::LimitLength { tokens: 7 },
            Action::UseCpu,
            Action::ShowDevices,
            Action::DivideJob,
            Action::HalfPrecision,
            Action::AvoidF16,
            Action::OtherDType,
            Action::StreamWeights { slots: None },
            Action::StreamWeights { slots: Some(2) },
            Action::TokenBudget { tokens: 7 },
            Action::LowerTokenBudget,
            Action::FewerThreads,
            Action::ConvertToF32,
            Action::VerifyWeights,
            Action::ResumeJob,
            Action::ResumeAffected,
            Action::ContinueJob,
            Action::RunAgain,
            Action::MergeAgain,
            Action::ResumeThatJob,
            Action::BuildWith {
                feature: "export-h5",
            },
            Action::ChooseLayer { layer: 3 },
            Action::ChoosePool {
                pool: "mean".into(),
            },
            Action::KeyById,
            Action::ExportAsTable,
            Action::ExportStates,
            Action::KeepStates,
            Action::RecomputeShare,
            Action::RecomputeWithAlgorithms { of: "part1".into() },
            Action::GiveAlgorithms,
            Action::DownloadModel {
                name: "facebook/esm2".into(),
                folder: "esm2".into(),
            },
            Action::FillCache {
                name: "facebook/esm2".into(),
                revision: Some("v1".into()),
            },
            Action::ListModels,
            Action::RecomputeShard {
                shard: "out/shard-000001".into(),
            },
            Action::OtherOutput,
            Action::EmptyOutput,
            Action::SmallerShards,
            Action::WriteF32,
            Action::ReportDefect,
        ]
    }

    /// Every flag that a hint names is an option of the program.
    #[test]
    fn hints_name_options_that_there_are() {
        let command = Cli::command();
        let known: BTreeSet<&str> = command
            .get_subcommands()
            .flat_map(|c| c.get_arguments())
            .filter_map(|argument| argument.get_long())
            .collect();
        let mut named = BTreeSet::new();
        for text in actions().iter().map(action).chain([LOST_FILE.into()]) {
            for (at, _) in text.match_indices("--") {
                let flag = text[at + 2..].chars();
                let flag: String = flag
                    .take_while(|c| c.is_ascii_lowercase() || *c == '-')
                    .collect();
                // The option of another program.
                let others = ["local-dir", "revision"].contains(&&*flag)
                    && text.contains("hf download")
                    || ["release", "features"].contains(&&*flag) && text.contains("cargo build");
                assert!(known.contains(&*flag) || others, "--{flag}: {text}");
                named.insert(flag);
            }
        }
        assert!(named.len() > 10, "{named:?}");
    }

    /// What the library says for itself names no option, and the program does not say the same.
    #[test]
    fn the_program_has_its_own_words() {
        for one in actions() {
            let (own, neutral) = (action(&one), one.to_string());
            assert_ne!(own, neutral);
            assert!(!neutral.contains("--"), "{neutral}");
        }
        let advice = "check the disk";
        assert_eq!(words(&advice.into()), advice);
    }

    #[test]
    fn remedies_are_sentences_for_the_command_line() {
        let long = words(&Remedy::for_long_sequence());
        assert_eq!(
            long,
            "embed it in windows (--max-length N --long window), or use a device with more free memory, or use --device cpu"
        );
        let full = Remedy::steps(["free some space".into(), Action::ResumeJob.into()]);
        assert_eq!(
            words(&full),
            "free some space; then run the same command with --resume: finished shards are kept"
        );
    }
}
