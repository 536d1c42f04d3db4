//! Inspect, convert, verify and make model weights for seqstream.

mod convert;
mod inspect;
mod random;
mod size;
mod verify;

use std::fmt::Display;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use seqstream::bytes::Bytes;
use seqstream::dtype::DType;
use seqstream::hub::{self, Hub, HubError, Name};
use seqstream::remedy::Action;
use seqstream::system::signals;
use seqstream::untrusted::shown;
use seqstream::virnucpro::ClassifierError;
use seqstream::weights::WeightsError;

/// Inspect, convert, verify and make model weights for seqstream.
#[derive(Parser)]
#[command(
    version,
    after_help = "\
Exit codes: 0 ok; 1 other failure; 2 usage; 4 bad weights; 5 output could not be written;\n\
9 the model could not be downloaded."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Inspect(inspect::Args),
    Convert(convert::Args),
    Verify(verify::Args),
    Random(random::Args),
}

fn main() -> ExitCode {
    signals::prepare("restore the file and run the same command again");
    let result = match Cli::parse().command {
        Command::Inspect(args) => inspect::run(args),
        Command::Convert(args) => convert::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Random(args) => random::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// A number format of weights, as the value of an option.
#[derive(Clone, Copy, ValueEnum)]
pub enum DTypeArg {
    /// IEEE single precision
    F32,
    /// IEEE half precision
    F16,
    /// bfloat16
    Bf16,
}

impl From<DTypeArg> for DType {
    fn from(arg: DTypeArg) -> Self {
        match arg {
            DTypeArg::F32 => DType::F32,
            DTypeArg::F16 => DType::F16,
            DTypeArg::Bf16 => DType::Bf16,
        }
    }
}

/// Prints on standard error how a download goes on.
struct Download;

impl hub::Observer for Download {
    fn starts(&mut self, name: &Name, bytes: u64) {
        eprintln!("downloading {name}: {}", Bytes(bytes));
    }

    fn note(&mut self, text: &str) {
        eprintln!("{}", shown::message(text));
    }
}

/// Finds a model by its path or its name.
fn find(given: &Path) -> Result<PathBuf, Failure> {
    Ok(hub::find(given, &Hub::from_environment(), &mut Download)?.path)
}

/// Starts the threads that hash, check and make values. Without this call, the first use of these
/// threads would end the program if they cannot be started.
fn start_threads() -> Result<(), Failure> {
    let started = rayon::ThreadPoolBuilder::new().build_global();
    started.map_err(|e| {
        let hint = "raise the number of processes and threads that this user may have (ulimit -u)";
        Failure::new(1, format!("cannot start a thread: {e}"), Some(hint))
    })
}

/// Prints a line on standard output. If the reader has gone, that is no failure: the work goes on.
fn print_line(line: std::fmt::Arguments<'_>) -> Result<(), Failure> {
    match writeln!(io::stdout().lock(), "{line}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::output(error)),
        _ => Ok(()),
    }
}

/// Prints a line on standard output, as `println!` does, but returns an error instead of panicking.
macro_rules! say {
    ($($text:tt)*) => {
        crate::print_line(format_args!($($text)*))?
    };
}
pub(crate) use say;

/// Why a subcommand failed, with the exit code that tells the kind of failure.
pub struct Failure {
    message: String,
    hint: Option<String>,
    code: u8,
}

impl Failure {
    fn new(code: u8, message: impl Display, hint: Option<&str>) -> Self {
        Self {
            message: message.to_string(),
            hint: hint.map(str::to_owned),
            code,
        }
    }

    fn other(error: impl Display) -> Self {
        Self::new(1, error, None)
    }

    fn usage(message: impl Display, hint: &str) -> Self {
        Self::new(2, message, Some(hint))
    }

    fn bad_weights(message: impl Display, hint: &str) -> Self {
        Self::new(4, message, Some(hint))
    }

    fn read(path: &Path, error: io::Error) -> Self {
        WeightsError::Read {
            path: path.to_owned(),
            source: error,
        }
        .into()
    }

    fn write(path: &Path, error: io::Error) -> Self {
        WeightsError::Write {
            path: path.to_owned(),
            source: error,
        }
        .into()
    }

    fn output(error: io::Error) -> Self {
        Self::new(
            5,
            format!("standard output cannot be written: {error}"),
            None,
        )
    }

    fn output_exists(message: impl Display, hint: &str) -> Self {
        Self::new(5, message, Some(hint))
    }

    fn report(self) -> ExitCode {
        eprintln!("error: {}", shown::message(&self.message));
        if let Some(hint) = self.hint {
            eprintln!("hint: {}", shown::message(&hint));
        }
        ExitCode::from(self.code)
    }
}

/// Puts an action into the words of this program, which has options of its own.
fn words(action: &Action) -> String {
    match action {
        Action::OtherOutput => "choose another --out".into(),
        Action::RunAgain | Action::ResumeJob => "run the same command again".into(),
        other => other.to_string(),
    }
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Self {
            message: error.to_string(),
            hint: error.remedy().map(|remedy| remedy.words(&words)),
            code: if error.leads_nowhere() { 4 } else { 9 },
        }
    }
}

impl From<ClassifierError> for Failure {
    fn from(error: ClassifierError) -> Self {
        match error {
            ClassifierError::Weights(error) => error.into(),
            error => Self {
                message: error.to_string(),
                hint: error.remedy().map(|remedy| remedy.words(&words)),
                code: 4,
            },
        }
    }
}

impl From<WeightsError> for Failure {
    fn from(error: WeightsError) -> Self {
        let code = match error {
            WeightsError::Write { .. } => 5,
            WeightsError::Spec { .. } => 2,
            _ => 4,
        };
        Self {
            message: error.to_string(),
            hint: error.remedy().map(|remedy| remedy.words(&words)),
            code,
        }
    }
}
