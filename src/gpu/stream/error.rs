//! The errors of work on streams.

use crate::gpu::driver::{DriverError, StreamName};
use crate::remedy::{Action, Remedy};

/// Why a job's work on its devices does not continue.
///
/// The first failure of a job is returned by every later call, so an error is cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// A driver call failed, or the work on a stream failed.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// A GEMM could not be put on a stream.
    #[error("{text}")]
    Product {
        /// Names the GEMM, the reason, and the place.
        text: String,
        /// What the user can do about it, if a remedy is known.
        remedy: Option<Remedy>,
    },
    /// There is no such stream.
    #[error("device {device} has no {kind} stream {index}")]
    NoStream {
        /// The device's ordinal.
        device: u32,
        /// The stream's kind.
        kind: StreamName,
        /// The stream's number among those of its kind.
        index: usize,
    },
    /// All slots of a ring are in flight.
    #[error("all {slots} slots are in flight")]
    Full {
        /// The number of slots of the ring.
        slots: usize,
    },
    /// There are more bytes than a slot or a region holds.
    #[error("{bytes} bytes for {what}, which has {capacity}")]
    TooLarge {
        /// The memory that was to hold the bytes.
        what: &'static str,
        /// The number of bytes.
        bytes: usize,
        /// The number of bytes that fit.
        capacity: usize,
    },
    /// A call came before the call that it depends on.
    #[error("{call} without {missing}")]
    OutOfOrder {
        /// The call that failed.
        call: &'static str,
        /// The step that has to come first.
        missing: &'static str,
    },
    /// A size or number is out of range.
    #[error("{what}: {value} is not among {from} to {to}")]
    Option {
        /// The name of the value.
        what: &'static str,
        /// The value that was given.
        value: usize,
        /// The smallest allowed value.
        from: usize,
        /// The largest allowed value.
        to: usize,
    },
    /// A thread could not be started.
    #[error("could not start the loader's thread: {0}")]
    Thread(String),
    /// The work of the loader's thread panicked.
    #[error("loading weights panicked: {0}")]
    Panicked(String),
    /// The loader ended before it loaded a layer that is waited for.
    #[error("layer {layer} was never loaded: the loader ended after {loaded}")]
    NotLoaded {
        /// The number of that layer.
        layer: u64,
        /// How many layers were loaded.
        loaded: u64,
    },
    /// The loader was dropped before its work was done.
    #[error("loading was stopped")]
    Stopped,
}

impl StreamError {
    /// Returns what the user can do about the error, if a remedy is known.
    pub fn remedy(&self) -> Option<Remedy> {
        Some(match self {
            Self::Driver(error) => error.job_remedy(),
            Self::Product { remedy, .. } => return remedy.clone(),
            Self::NoStream { .. } => {
                "create_streams with this device and more streams of the kind".into()
            }
            Self::Full { .. } => "collect the oldest batch first".into(),
            Self::TooLarge { .. } => Action::LowerTokenBudget.into(),
            Self::Thread(_) => {
                "the system allows no more threads or memory: see `ulimit -u`".into()
            }
            Self::Panicked(_) => Action::ReportDefect.into(),
            Self::OutOfOrder { .. }
            | Self::Option { .. }
            | Self::NotLoaded { .. }
            | Self::Stopped => return None,
        })
    }
}
