//! All failures of the program, with their messages and exit codes.

use std::io;
use std::path::PathBuf;

use super::remedy::words;
use seqstream::backend::BackendError;
use seqstream::engine::EngineError;
use seqstream::export::ExportError;
use seqstream::hub::HubError;
use seqstream::model::ModelError;
use seqstream::output::{FinishedError, OutputError};
use seqstream::pipeline::JobError;
use seqstream::remedy::Remedy;
use seqstream::report::ReportError;
use seqstream::sequence::{SequenceError, TokenizerError};
use seqstream::study::simulate::SimulateError;
use seqstream::trace::TraceError;
use seqstream::virnucpro::{ClassifierError, TableError};
use seqstream::weights::WeightsError;

/// The reason why the program ends without having done what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Options that contradict each other or name something that does not exist.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// The remedy.
        hint: Option<String>,
    },
    /// A device that this machine or this build does not have.
    #[error("{message}")]
    Device {
        /// What is missing.
        message: String,
        /// The remedy.
        hint: String,
    },
    /// Too little memory for the model itself.
    #[error("{message}")]
    Memory {
        /// What needs how much memory, and how much there is.
        message: String,
        /// The remedy.
        remedy: Remedy,
    },
    /// A given table of GEMM algorithms that cannot be used.
    #[error("--gemm-algorithms: {} cannot be used: {reason}", path.display())]
    GivenAlgorithms {
        /// The file with the table.
        path: PathBuf,
        /// The reason why it cannot be used.
        reason: String,
        /// The remedy.
        hint: String,
    },
    /// A job failed.
    #[error(transparent)]
    Job(#[from] JobError),
    /// An output that could not be exported.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// An output of which no report could be made.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// A name that leads to no model, or a model that could not be downloaded.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// Weights that cannot be used.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A classifier that cannot be used.
    #[error("--classifier: {0}")]
    Classifier(#[from] ClassifierError),
    /// A tokenizer.json that cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A model folder without the tokenizer.json that its model needs.
    #[error("{model} has no tokenizer.json, without which DNA cannot be read")]
    NoTokenizer {
        /// The model.
        model: String,
    },
    /// A tokenizer.json with ids beyond the end of the embedding table.
    #[error("tokenizer.json gives ids up to {}, but the model's vocabulary has {model} entries", tokenizer - 1)]
    Vocabulary {
        /// The highest id of the tokenizer plus one.
        tokenizer: usize,
        /// The number of rows of the embedding table.
        model: usize,
    },
    /// A trace that cannot be written.
    #[error("--trace: {0}")]
    Trace(#[from] TraceError),
    /// Standard output is closed or cannot be written.
    #[error("cannot write to standard output: {0}")]
    Stdout(io::Error),
    /// The job was stopped by a signal, in an orderly way. All messages have already been printed.
    #[error("stopped by a signal")]
    Stopped {
        /// The exit code.
        code: u8,
    },
    /// Any other failure.
    #[error("{0}")]
    Other(String),
}

impl From<SequenceError> for Failure {
    fn from(error: SequenceError) -> Self {
        Self::Job(error.into())
    }
}

impl From<ModelError> for Failure {
    fn from(error: ModelError) -> Self {
        Self::Job(error.into())
    }
}

impl From<BackendError> for Failure {
    fn from(error: BackendError) -> Self {
        Self::Job(ModelError::from(error).into())
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Hub(e) => e.into(),
            EngineError::Weights(e) => e.into(),
            EngineError::Model(e) => e.into(),
            EngineError::Backend(e) => e.into(),
            EngineError::Tokenizer(e) => e.into(),
            EngineError::Sequence(e) => e.into(),
            EngineError::NoTokenizer { model } => Self::NoTokenizer { model },
            EngineError::Memory { message, remedy } => Self::Memory { message, remedy },
            EngineError::MixedDevices { .. } => Self::Usage {
                message: format!("--device: {error}"),
                hint: error.remedy().as_ref().map(words),
            },
            EngineError::NoLayer { .. } | EngineError::RepeatedLayer { .. } => Self::Usage {
                message: error.to_string(),
                hint: error.remedy().as_ref().map(words),
            },
            EngineError::NonFinite { .. } | EngineError::NoDevice => Self::Other(error.to_string()),
        }
    }
}

impl From<SimulateError> for Failure {
    fn from(error: SimulateError) -> Self {
        let hint = error.remedy().as_ref().map(words);
        match error {
            SimulateError::Engine(e) => e.into(),
            SimulateError::Weights(e) => e.into(),
            SimulateError::Driver(e) => Self::Other(e.to_string()),
            SimulateError::Simulator(e) => Self::Device {
                message: format!("--simulate: {e}"),
                hint: hint.unwrap_or_default(),
            },
            SimulateError::Read { .. }
            | SimulateError::Machine { .. }
            | SimulateError::Rates { .. } => Self::Usage {
                message: format!("--simulate: {error}"),
                hint,
            },
        }
    }
}

impl Failure {
    /// Returns the exit code, as documented in `--help` and `docs/usage.md`.
    pub fn code(&self) -> u8 {
        match self {
            // The reader of the output has closed it, which is not a failure.
            Self::Stdout(e) if e.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Stdout(_) | Self::Trace(_) => 5,
            Self::Other(_) => 1,
            Self::Usage { .. } => 2,
            Self::Hub(e) if !e.leads_nowhere() => 9,
            Self::Hub(_)
            | Self::Weights(_)
            | Self::Classifier(_)
            | Self::Tokenizer(_)
            | Self::NoTokenizer { .. }
            | Self::Vocabulary { .. } => 4,
            Self::GivenAlgorithms { .. } => 6,
            Self::Device { .. } => 7,
            Self::Memory { .. } => 8,
            Self::Stopped { code } => *code,
            Self::Export(error) => match error {
                ExportError::Feature { .. }
                | ExportError::Layers { .. }
                | ExportError::NoLayer { .. }
                | ExportError::Pools { .. }
                | ExportError::NoPool { .. }
                | ExportError::NoPlaceForPool { .. }
                | ExportError::NoStates
                | ExportError::OnlyPooled { .. } => 2,
                ExportError::Duplicate { .. } | ExportError::BadKey { .. } => 3,
                ExportError::Finished(e) => finished_code(e),
                ExportError::Names { .. } => 6,
                ExportError::Write(e) => output_code(e),
                ExportError::Library { .. } => 5,
            },
            Self::Report(error) => match error {
                ReportError::Finished(e) => finished_code(e),
                ReportError::Write(e) => output_code(e),
            },
            Self::Job(job) => match job {
                JobError::NoThread(_) | JobError::Internal(_) => 1,
                JobError::Sequence(_)
                | JobError::TooLong { .. }
                | JobError::OverCapacity { .. }
                | JobError::NoMemory { .. }
                | JobError::InputChanged { .. } => 3,
                JobError::Model(ModelError::Backend(BackendError::Cuda(e))) => {
                    if e.is_refused_table() {
                        6
                    } else if e.is_unavailable() {
                        7
                    } else {
                        8
                    }
                }
                JobError::Model(ModelError::Backend(_)) => 1,
                JobError::Model(_) | JobError::NonFinite { .. } => 4,
                JobError::Vectors(_) => 5,
                JobError::Tables(TableError::Score { .. }) => 4,
                JobError::Tables(TableError::Name { .. }) => 3,
                JobError::Tables(TableError::Contradiction { .. }) => 6,
                JobError::Tables(TableError::Output(e))
                | JobError::Output(e)
                | JobError::MergeOutput(e) => output_code(e),
                JobError::Exists { .. }
                | JobError::Nameless { .. }
                | JobError::Differs { .. }
                | JobError::RecordsDiffer { .. }
                | JobError::Surplus { .. }
                | JobError::Algorithms { .. }
                | JobError::Merge { .. } => 6,
            },
        }
    }

    /// Returns whether the failure is that the table of GEMM algorithms cannot be used.
    pub fn is_refused_table(&self) -> bool {
        let Self::Job(JobError::Model(ModelError::Backend(BackendError::Cuda(e)))) = self else {
            return false;
        };
        e.is_refused_table()
    }

    /// Returns whether there is nothing more to print about the failure.
    pub fn is_silent(&self) -> bool {
        matches!(self, Self::Stopped { .. }) || self.code() == 0
    }

    /// Returns what the user can do about the failure, if a remedy is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Usage { hint, .. } => hint.clone(),
            Self::Device { hint, .. } | Self::GivenAlgorithms { hint, .. } => Some(hint.clone()),
            Self::Memory { remedy, .. } => Some(words(remedy)),
            Self::Job(e) => e.remedy().as_ref().map(words),
            Self::Export(e) => e.remedy().as_ref().map(words),
            Self::Report(e) => e.remedy().as_ref().map(words),
            Self::Hub(e) => e.remedy().as_ref().map(words),
            Self::Weights(e) => e.remedy().as_ref().map(words),
            Self::Tokenizer(e) => e.remedy().as_ref().map(words),
            Self::Classifier(e) => e.remedy().as_ref().map(words),
            Self::Trace(e) => e.remedy().as_ref().map(words),
            Self::NoTokenizer { model } => {
                let model = model.clone();
                let error = EngineError::NoTokenizer { model };
                error.remedy().as_ref().map(words)
            }
            Self::Vocabulary { .. } => {
                Some("take tokenizer.json and weights from the same model".into())
            }
            Self::Stdout(_) | Self::Stopped { .. } | Self::Other(_) => None,
        }
    }
}

/// Returns the exit code for an error of writing or reading an output.
fn output_code(error: &OutputError) -> u8 {
    match error {
        OutputError::Foreign { .. }
        | OutputError::Locked { .. }
        | OutputError::Unsound { .. }
        | OutputError::Marked { .. }
        | OutputError::Taken { .. }
        | OutputError::Removed { .. }
        | OutputError::Malformed { .. }
        | OutputError::Exists { .. } => 6,
        OutputError::Io { .. } | OutputError::F16Overflow { .. } => 5,
    }
}

/// Returns the exit code for a complete output that could not be read.
fn finished_code(error: &FinishedError) -> u8 {
    match error {
        FinishedError::Output(error) => output_code(error),
        FinishedError::NoJob { .. }
        | FinishedError::Incomplete { .. }
        | FinishedError::Format { .. }
        | FinishedError::Fragments { .. }
        | FinishedError::Manifest { .. }
        | FinishedError::Unsound { .. } => 6,
    }
}
