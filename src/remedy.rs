//! What would help against an error, as data.
//!
//! Below the program, nobody knows which options the user has: a person types flags, a program
//! calls functions. So the errors of the library carry a [`Remedy`] that says in the terms of the
//! engine what would help, and each front end puts it into its own words. [`Remedy`] also
//! implements `Display`, with words that fit every front end.
//!
//! ```
//! use seqstream::remedy::{Action, Remedy};
//!
//! let remedy = Remedy::any_of([Action::HalfPrecision.into(), Action::UseCpu.into()]);
//! assert_eq!(remedy.to_string(), "compute in f16 or bf16, or compute on the CPU");
//! // A front end has its own words for what it offers.
//! let typed = remedy.words(&|action| match action {
//!     Action::UseCpu => "use --device cpu".into(),
//!     other => other.to_string(),
//! });
//! assert_eq!(typed, "compute in f16 or bf16, or use --device cpu");
//! // A program can look for what it is able to do itself.
//! assert!(remedy.actions().contains(&&Action::UseCpu));
//! ```

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use crate::bytes::{self, Bytes};

/// What a user can do about an error: one action, or several that are combined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remedy {
    /// One action helps.
    Do(Action),
    /// Each of these helps by itself.
    AnyOf(Vec<Remedy>),
    /// These belong together: an explanation and what follows from it, or different cases.
    All(Vec<Remedy>),
    /// These are steps, to be taken in this order.
    Steps(Vec<Remedy>),
    /// The remedy helps under a condition, which is a clause such as "if it was killed".
    When(&'static str, Box<Remedy>),
}

/// A single action that may help against an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Something to do outside the engine: to a file, to a library, to the machine. The text is the
    /// same in every front end.
    Advice(Cow<'static, str>),

    /// Check the path of the input.
    CheckInputPath,
    /// Have the text cleaned and counted, where a job refuses text that is not clean.
    CleanText,
    /// Give an option of reading the value that it had in an earlier job.
    SameReading {
        /// The option, named by the field of job.json.
        option: String,
        /// The value, as a word.
        value: String,
    },
    /// Have bad records skipped and listed.
    SkipBadRecords,
    /// Have contigs that share a name get names of their own.
    NumberSharedNames,
    /// Cut a sequence that is longer than the job's limit, or embed it in windows, or raise the
    /// limit.
    CutOrWindow,
    /// Embed a sequence in windows, each short enough for the device.
    EmbedInWindows,
    /// Cut a sequence or embed it in windows, with at most so many tokens at once.
    LimitLength {
        /// The number of tokens, without the special tokens.
        tokens: u64,
    },
    /// Give sequences of at most so many tokens.
    ShorterSequences {
        /// The number of tokens.
        tokens: u64,
    },

    /// Compute on the CPU.
    UseCpu,
    /// Ask which devices can be used, and why others cannot.
    ShowDevices,
    /// Use a device with more free memory.
    LargerDevice {
        /// The bytes that have to be free, if this is known.
        free: Option<u64>,
    },
    /// End other programs that use the memory of the device.
    FreeDeviceMemory {
        /// The bytes of memory of the device.
        total: u64,
    },
    /// Divide the job, so that each share is computed by one kind of device.
    DivideJob,
    /// Compute in a number format of 16 bits: f16 or bf16.
    HalfPrecision,
    /// Compute in bf16 or f32, because values have probably overflowed in f16.
    AvoidF16,
    /// Compute in another number format.
    OtherDType,
    /// Stream the layers of the model to the device during each pass.
    StreamWeights {
        /// The number of slots on the device; `None` for the usual number.
        slots: Option<usize>,
    },
    /// Set the tokens per batch to this number.
    TokenBudget {
        /// The number of tokens.
        tokens: usize,
    },
    /// Lower the number of tokens per batch.
    LowerTokenBudget,
    /// Use fewer threads.
    FewerThreads,
    /// Give the job more memory.
    MoreMemory,

    /// Download a model from the Hugging Face Hub, because models are read from disk.
    DownloadModel {
        /// The name on the Hub, such as `facebook/esm2_t6_8M_UR50D`.
        name: String,
        /// A name for the folder that it may be downloaded to.
        folder: String,
    },
    /// Download a model into the cache of the Hugging Face Hub, where there is a network.
    FillCache {
        /// The name on the Hub.
        name: String,
        /// The revision, if another than the newest is wanted.
        revision: Option<String>,
    },
    /// Ask which models are known by name.
    ListModels,
    /// Convert the weights to f32, which are used where they are mapped.
    ConvertToF32,
    /// Look for values in the weights that are not finite.
    VerifyWeights,

    /// Resume the job, which keeps its finished shards.
    ResumeJob,
    /// Resume the job, which computes again what a change affects.
    ResumeAffected,
    /// Continue the job that stands in the output directory.
    ContinueJob,
    /// Do the same again.
    RunAgain,
    /// Merge again, which continues where the last merge ended.
    MergeAgain,
    /// Resume the job whose output was named, which is perhaps a share of another job.
    ResumeThatJob,
    /// Build the program with a feature that this build lacks.
    BuildWith {
        /// The feature.
        feature: &'static str,
    },
    /// Export this layer.
    ChooseLayer {
        /// The number of the layer.
        layer: usize,
    },
    /// Export this pooling.
    ChoosePool {
        /// The pooling.
        pool: String,
    },
    /// Name the records of an export by their whole names.
    KeyById,
    /// Export to a format that takes any name, and more than once.
    ExportAsTable,
    /// Export to a format that holds the states of every token, or export pooled rows.
    ExportStates,
    /// Compute the job again and keep the states of every token.
    KeepStates,
    /// Compute the share again, in another output directory.
    RecomputeShare,
    /// Compute one of the shares again in another output directory, with the GEMM algorithms of
    /// another job.
    RecomputeWithAlgorithms {
        /// The output directory of the job that has the algorithms.
        of: PathBuf,
    },
    /// Give the table of GEMM algorithms of another share of the same job.
    GiveAlgorithms,
    /// Remove a shard and resume the job, which computes the shard again.
    RecomputeShard {
        /// The directory of the shard.
        shard: PathBuf,
    },
    /// Start anew, with another output.
    OtherOutput,
    /// Give an empty or a new directory for the output.
    EmptyOutput,
    /// Start anew with smaller shards, in another output directory.
    SmallerShards,
    /// Write f32 in place of f16.
    WriteF32,

    /// Report a defect of this program.
    ReportDefect,
}

impl Remedy {
    /// Each of `parts` helps by itself.
    pub fn any_of<const N: usize>(parts: [Remedy; N]) -> Self {
        Self::AnyOf(parts.into())
    }

    /// The `parts` belong together.
    pub fn all<const N: usize>(parts: [Remedy; N]) -> Self {
        Self::All(parts.into())
    }

    /// The `parts` are steps, to be taken in this order.
    pub fn steps<const N: usize>(parts: [Remedy; N]) -> Self {
        Self::Steps(parts.into())
    }

    /// The remedy helps under a condition, which is a clause such as "if it was killed".
    pub fn when(condition: &'static str, remedy: impl Into<Remedy>) -> Self {
        Self::When(condition, Box::new(remedy.into()))
    }

    /// What helps if a device has too little memory for a sequence.
    pub fn for_long_sequence() -> Self {
        Self::any_of([
            Action::EmbedInWindows.into(),
            Action::LargerDevice { free: None }.into(),
            Action::UseCpu.into(),
        ])
    }

    /// Returns all actions that the remedy is made of, in order.
    pub fn actions(&self) -> Vec<&Action> {
        match self {
            Self::Do(action) => vec![action],
            Self::AnyOf(parts) | Self::All(parts) | Self::Steps(parts) => {
                parts.iter().flat_map(Self::actions).collect()
            }
            Self::When(_, remedy) => remedy.actions(),
        }
    }

    /// Puts the remedy into words: `action` words a single action as a clause without a full stop.
    pub fn words(&self, action: &dyn Fn(&Action) -> String) -> String {
        let each =
            |parts: &[Remedy]| -> Vec<String> { parts.iter().map(|p| p.words(action)).collect() };
        match self {
            Self::Do(one) => action(one),
            Self::AnyOf(parts) => {
                let parts = each(parts);
                // Where a part has commas itself, a comma between the parts would be misread.
                let nested = parts.iter().any(|part| part.contains([',', ';']));
                parts.join(if nested { "; or " } else { ", or " })
            }
            Self::All(parts) => each(parts).join("; "),
            Self::Steps(parts) => each(parts).join("; then "),
            Self::When(condition, remedy) => format!("{condition}, {}", remedy.words(action)),
        }
    }
}

impl From<Action> for Remedy {
    fn from(action: Action) -> Self {
        Self::Do(action)
    }
}

impl From<&'static str> for Remedy {
    /// Makes advice whose words fit every front end.
    fn from(advice: &'static str) -> Self {
        Self::Do(Action::Advice(advice.into()))
    }
}

impl From<String> for Remedy {
    /// Makes advice whose words fit every front end.
    fn from(advice: String) -> Self {
        Self::Do(Action::Advice(advice.into()))
    }
}

impl fmt::Display for Remedy {
    /// Writes the remedy in words that fit every front end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words(&Action::to_string))
    }
}

impl fmt::Display for Action {
    /// Writes the action in words that fit every front end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Advice(text) => text,
            Self::CheckInputPath => "check the path",
            Self::CleanText => "have the text cleaned and counted in place of refused",
            Self::SameReading { option, value } => {
                return write!(f, "set {option} to {value}, as in that job");
            }
            Self::SkipBadRecords => "have bad records skipped and listed",
            Self::NumberSharedNames => "have contigs that share a name numbered",
            Self::CutOrWindow => "cut it, embed it in windows, or raise the limit",
            Self::EmbedInWindows => "embed it in windows",
            Self::LimitLength { tokens } => {
                return write!(
                    f,
                    "embed it in windows or cut it, at {tokens} tokens at most"
                );
            }
            Self::ShorterSequences { tokens } => {
                return write!(f, "give sequences of at most {tokens} tokens");
            }
            Self::UseCpu => "compute on the CPU",
            Self::ShowDevices => "see which devices this machine has",
            Self::LargerDevice { free: None } => "use a device with more free memory",
            Self::LargerDevice { free: Some(free) } => {
                return write!(f, "use a device with {} free", bytes::rounded_up(*free));
            }
            Self::FreeDeviceMemory { total } => {
                return write!(
                    f,
                    "end what takes the rest of the device's {} (nvidia-smi shows it)",
                    Bytes(*total)
                );
            }
            Self::DivideJob => "divide the job into one share per kind of device",
            Self::HalfPrecision => "compute in f16 or bf16",
            Self::AvoidF16 => {
                "values have probably overflowed in f16: compute in bf16 or f32"
            }
            Self::OtherDType => "compute in another number format",
            Self::StreamWeights { slots: None } => "stream the weights to the device",
            Self::StreamWeights { slots: Some(slots) } => {
                return write!(f, "stream the weights through {slots} slots");
            }
            Self::TokenBudget { tokens } => return write!(f, "use {tokens} tokens per batch"),
            Self::LowerTokenBudget => "lower the number of tokens per batch",
            Self::FewerThreads => "use fewer threads",
            Self::MoreMemory => "give the job more memory",
            Self::DownloadModel { name, folder } => {
                return write!(
                    f,
                    "models are read from disk: download {name} from the Hugging Face Hub, and give its folder, such as {folder}"
                );
            }
            Self::FillCache { name, revision } => {
                let of = revision.as_ref().map_or_else(String::new, |r| format!(", revision {r},"));
                return write!(
                    f,
                    "download {name}{of} into the same cache on a machine that has a network"
                );
            }
            Self::ListModels => "see which models are known by name",
            Self::ConvertToF32 => {
                "convert the weights to f32, because such weights are used where they are mapped"
            }
            Self::VerifyWeights => "check the weights for values that are not finite",
            Self::ResumeJob => "resume the job: finished shards are kept",
            Self::ResumeAffected => "resume the job, which computes again what the change affects",
            Self::ContinueJob => "resume it to go on with it",
            Self::RunAgain => "try again",
            Self::MergeAgain => "merge again: it goes on where it ended",
            Self::ResumeThatJob => "resume that job",
            Self::BuildWith { feature } => {
                return write!(f, "build the program with the feature {feature}");
            }
            Self::ChooseLayer { layer } => return write!(f, "export layer {layer}"),
            Self::ChoosePool { pool } => return write!(f, "export the pooling {pool}"),
            Self::KeyById => "name the records by their whole ids",
            Self::ExportAsTable => "export to npz or csv, which take any names",
            Self::ExportStates => "export to npz, pt, h5 or parquet",
            Self::KeepStates => "compute the job again, and keep the states of every token",
            Self::RecomputeShare => "compute that share again, in another output directory",
            Self::RecomputeWithAlgorithms { of } => {
                return write!(
                    f,
                    "compute one of them again, in another output directory and with the GEMM algorithms of {}",
                    of.display()
                );
            }
            Self::GiveAlgorithms => "give the table of another share of the same job",
            Self::RecomputeShard { shard } => {
                return write!(
                    f,
                    "remove {}, and a resumed job computes it again",
                    shard.display()
                );
            }
            Self::OtherOutput => "start anew in another output directory",
            Self::EmptyOutput => "give an empty or a new output directory",
            Self::SmallerShards => "start anew with smaller shards, in another output directory",
            Self::WriteF32 => "write f32 instead",
            Self::ReportDefect => "please report this with what led to it",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remedies_are_combined_into_sentences() {
        let resume = || Remedy::from(Action::ResumeJob);
        let steps = Remedy::steps(["free some space".into(), resume()]);
        assert_eq!(
            steps.to_string(),
            "free some space; then resume the job: finished shards are kept"
        );
        let either = Remedy::any_of([Action::UseCpu.into(), Action::FewerThreads.into()]);
        assert_eq!(
            either.to_string(),
            "compute on the CPU, or use fewer threads"
        );
        let nested = Remedy::any_of([steps, Action::UseCpu.into()]);
        assert!(
            nested
                .to_string()
                .ends_with("are kept; or compute on the CPU")
        );
        let all = Remedy::all([
            "it broke".into(),
            Remedy::when("if it breaks again", Action::ReportDefect),
        ]);
        assert_eq!(
            all.to_string(),
            "it broke; if it breaks again, please report this with what led to it"
        );
    }

    #[test]
    fn actions_are_found_wherever_they_stand() {
        let remedy = Remedy::all([
            Remedy::steps(["wait".into(), Action::RunAgain.into()]),
            Remedy::when("if not", Action::ResumeJob),
        ]);
        let found = remedy.actions();
        assert_eq!(found.len(), 3);
        assert_eq!(found[1..], [&Action::RunAgain, &Action::ResumeJob]);
    }
}
