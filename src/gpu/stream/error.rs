//! What work on streams can fail with.

use crate::gpu::driver::{DriverError, StreamName};

/// Why a job's work on its devices does not go on.
///
/// The first failure of a job is what every later call answers: it is cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// A driver call failed, or work on a stream did.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// A product could not be put on a stream.
    #[error("{text}")]
    Product {
        /// Which, why not, and where.
        text: String,
        /// What may help.
        hint: Option<&'static str>,
    },
    /// No such stream was created.
    #[error("device {device} has no {kind} stream {index}")]
    NoStream {
        /// The device's ordinal.
        device: u32,
        /// Its kind.
        kind: StreamName,
        /// Its number among those of its kind.
        index: usize,
    },
    /// All slots of a ring are in flight.
    #[error("all {slots} slots are in flight")]
    Full {
        /// How many there are.
        slots: usize,
    },
    /// More than a slot, or a region, holds.
    #[error("{bytes} bytes for {what}, which has {room}")]
    TooLarge {
        /// What was to hold them.
        what: &'static str,
        /// How many.
        bytes: usize,
        /// How many it holds.
        room: usize,
    },
    /// A call that has nothing to work on.
    #[error("{call} without {missing}")]
    OutOfOrder {
        /// The call.
        call: &'static str,
        /// What has to come first.
        missing: &'static str,
    },
    /// A size or number that makes no sense.
    #[error("{what}: {value} is not among {from} to {to}")]
    Option {
        /// Which.
        what: &'static str,
        /// What was given.
        value: usize,
        /// The least.
        from: usize,
        /// The most.
        to: usize,
    },
    /// A thread could not be started.
    #[error("could not start the loader's thread: {0}")]
    Thread(String),
    /// What the loader's thread ran has panicked.
    #[error("loading weights panicked: {0}")]
    Panicked(String),
    /// The loader ended before it came to what somebody waits for.
    #[error("layer {layer} was never loaded: the loader ended after {loaded}")]
    NotLoaded {
        /// Which.
        layer: u64,
        /// How many were.
        loaded: u64,
    },
    /// The loader was dropped before its work was done.
    #[error("loading was stopped")]
    Stopped,
}

impl StreamError {
    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Driver(error) => error.job_hint(),
            Self::Product { hint, .. } => return *hint,
            Self::NoStream { .. } => "create_streams with this device and more streams of the kind",
            Self::Full { .. } => "collect the oldest batch first",
            Self::TooLarge { .. } => "lower --token-budget",
            Self::Thread(_) => "the system allows no more threads or memory: see `ulimit -u`",
            Self::Panicked(_) => "this is a defect of the program: report it with this message",
            Self::OutOfOrder { .. }
            | Self::Option { .. }
            | Self::NotLoaded { .. }
            | Self::Stopped => return None,
        })
    }
}
