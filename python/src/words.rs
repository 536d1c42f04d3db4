//! Puts what would help against an error into the words of the Python package, whose users know
//! arguments of functions and no flags.

use seqstream::engine::EngineError;
use seqstream::remedy::{Action, Remedy};

use crate::cli::Failure;

/// Returns the hint of a failure: what the user can do about it.
pub fn hint(failure: &Failure) -> Option<String> {
    let remedy = match failure {
        Failure::Job(e) => e.remedy(),
        Failure::Export(e) => e.remedy(),
        Failure::Report(e) => e.remedy(),
        Failure::Classifier(e) => e.remedy(),
        Failure::Hub(e) => e.remedy(),
        Failure::Weights(e) => e.remedy(),
        Failure::Tokenizer(e) => e.remedy(),
        Failure::Trace(e) => e.remedy(),
        Failure::Memory { remedy, .. } => Some(remedy.clone()),
        Failure::NoTokenizer { model } => EngineError::NoTokenizer {
            model: model.clone(),
        }
        .remedy(),
        // The program worded these itself, with its flags.
        Failure::Usage { .. }
        | Failure::Device { .. }
        | Failure::GivenAlgorithms { .. }
        | Failure::Vocabulary { .. }
        | Failure::Stdout(_)
        | Failure::Stopped { .. }
        | Failure::Other(_) => return failure.hint().map(|hint| without_flags(&hint)),
    };
    remedy.as_ref().map(words)
}

/// Returns the message of a failure, in which flags have become the names of arguments.
pub fn message(failure: &Failure) -> String {
    without_flags(&failure.to_string())
}

/// Turns each flag into the argument of the same name: `--max-length` becomes `max_length`.
fn without_flags(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("--") {
        let (before, from) = rest.split_at(at);
        let name = &from[2..];
        let end = name
            .find(|c: char| !c.is_ascii_lowercase() && c != '-')
            .unwrap_or(name.len());
        out.push_str(before);
        match end {
            0 => out.push_str("--"),
            _ => out.push_str(&name[..end].replace('-', "_")),
        }
        rest = &name[end..];
    }
    out.push_str(rest);
    out
}

/// Words a remedy.
fn words(remedy: &Remedy) -> String {
    remedy.words(&action)
}

fn action(action: &Action) -> String {
    let text = match action {
        Action::CleanText => "leave strict out to have it cleaned and counted",
        Action::SameReading { option, value } => {
            return format!("give {option}=\"{value}\", as for that job");
        }
        Action::SkipBadRecords => {
            "embed_fasta(..., bad_records=\"skip\") leaves such records out and lists them"
        }
        Action::CutOrWindow => {
            "long=\"truncate\" keeps the first tokens, long=\"window\" averages over windows, and a \
             greater max_length lets it pass"
        }
        Action::EmbedInWindows => "embed it in windows (max_length=N, long=\"window\")",
        Action::LimitLength { tokens } => {
            return format!(
                "embed it in windows (long=\"window\") or cut it (long=\"truncate\"), with \
                 max_length={tokens} at most"
            );
        }
        Action::UseCpu => "use device=\"cpu\"",
        Action::ShowDevices => "`seqstream doctor` lists the devices",
        Action::DivideJob => "divide the job: one share per kind of device",
        Action::HalfPrecision => "use dtype=\"f16\" or \"bf16\"",
        Action::AvoidF16 => "values have probably overflowed in f16: use dtype=\"bf16\" or \"f32\"",
        Action::OtherDType => "use another dtype",
        Action::StreamWeights { slots: None } => "use weights=\"streamed\"",
        Action::StreamWeights { slots: Some(slots) } => {
            return format!("use weights=\"streamed:{slots}\"");
        }
        Action::TokenBudget { tokens } => return format!("use token_budget={tokens}"),
        Action::LowerTokenBudget => "give a lower token_budget",
        Action::FewerThreads => "give fewer threads",
        Action::DownloadModel { name, folder } => {
            return format!(
                "models are read from disk: download it with `hf download {name} --local-dir \
                 {folder}`, and give the folder {folder}"
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
        Action::ResumeJob => "call it again with resume=True: finished shards are kept",
        Action::ResumeAffected => {
            "call embed_fasta again with resume=True, which computes again what the change affects"
        }
        Action::ContinueJob => "give resume=True to go on with it",
        Action::RunAgain => "call it again",
        Action::MergeAgain => "run `seqstream merge` again: it goes on where it ended",
        Action::ResumeThatJob => "run that job again with resume=True",
        Action::RecomputeShare => "compute that share again, with another out",
        Action::RecomputeWithAlgorithms { of } => {
            return format!(
                "compute one of them again, with another out and gemm_algorithms=\"{}\"",
                of.display()
            );
        }
        Action::GiveAlgorithms => "give that of another share of the same job as gemm_algorithms",
        Action::RecomputeShard { shard } => {
            return format!(
                "remove {}, and resume=True computes it again",
                shard.display()
            );
        }
        Action::OtherOutput => "give another out to start anew",
        Action::EmptyOutput => "give an empty or a new directory as out",
        Action::SmallerShards => "start anew with a smaller shard_size and another out",
        Action::WriteF32 => "write f32 instead: output_dtype=\"f32\"",
        Action::KeepStates => "call embed_fasta with per_token=True and another out",
        // These name nothing that the program words with a flag, or belong to commands that the
        // package does not have. They are listed one by one, so
        // that a new action does not get past this function.
        Action::CheckInputPath
        | Action::NumberSharedNames
        | Action::BuildWith { .. }
        | Action::ChooseLayer { .. }
        | Action::ChoosePool { .. }
        | Action::KeyById
        | Action::ExportAsTable
        | Action::ExportStates
        | Action::Advice(_)
        | Action::ShorterSequences { .. }
        | Action::LargerDevice { .. }
        | Action::FreeDeviceMemory { .. }
        | Action::MoreMemory
        | Action::ConvertToF32
        | Action::VerifyWeights
        | Action::ReportDefect => return action.to_string(),
    };
    text.to_owned()
}
