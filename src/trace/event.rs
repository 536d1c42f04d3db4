//! One interval of a timeline.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The names of the host threads that have a track.
pub mod host {
    /// Reads and cleans records; with one tokenizing thread it also tokenizes and packs.
    pub const READER: &str = "reader";
    /// Tokenizes, on a pool: the track has the number of the thread.
    pub const TOKENS: &str = "tokens";
    /// Packs batches where a pool tokenizes.
    pub const PACKER: &str = "packer";
    /// Hands batches to the model and takes the results: the thread that runs the job.
    pub const COMPUTING: &str = "computing";
    /// Writes rows into shards.
    pub const WRITER: &str = "writer";
    /// Hashes, syncs and names shards.
    pub const FINISHER: &str = "finisher";
    /// Loads the weights: the track has the number of the device.
    pub const WEIGHTS: &str = "weights";
    /// A pinned slot that weights are copied to: the track has the number of the slot, plus
    /// [`UPLOAD_SLOTS`] for each device before.
    pub const UPLOAD: &str = "upload slot";
    /// The most pinned slots of a device.
    pub const UPLOAD_SLOTS: usize = 16;
}

/// What a stream is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StreamKind {
    /// Copies from the host to the device.
    Load,
    /// Kernels.
    Compute,
    /// Copies from the device to the host.
    Store,
}

impl fmt::Display for StreamKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Load => "load",
            Self::Compute => "compute",
            Self::Store => "store",
        })
    }
}

/// The line of the timeline that an interval lies on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Track {
    /// A stream of a device.
    Stream {
        /// The ordinal of the device.
        device: u32,
        /// What the stream is used for.
        stream: StreamKind,
        /// The number of the stream among the device's streams of the same kind.
        number: u32,
    },
    /// A thread of the host.
    Host {
        /// The name of the thread, one of [`host`].
        thread: Cow<'static, str>,
        /// The number of the thread among the threads of the same name.
        number: u32,
    },
}

impl Track {
    /// Returns the track of a host thread.
    pub fn host(thread: &'static str, number: usize) -> Self {
        Self::Host {
            thread: Cow::Borrowed(thread),
            number: number as u32,
        }
    }
}

impl fmt::Display for Track {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream {
                device,
                stream,
                number,
            } => write!(f, "device {device} {stream} {number}"),
            Self::Host { thread, number: 0 } => f.write_str(thread),
            Self::Host { thread, number } => write!(f, "{thread} {number}"),
        }
    }
}

/// What happens in an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    /// The kernels of one operation run on a stream.
    Kernel,
    /// A copy runs on a stream.
    Copy,
    /// A stream waits for a fence that another stream records.
    FenceWait,
    /// A host thread is in a call of the driver.
    Runtime,
    /// A host thread works: read, clean, tokenize, pack, stage, launch, collect, write, hash, sync.
    Stage,
    /// A host thread waits for another thread.
    HostWait,
    /// The CPU backend computes an operation of the model.
    Operation,
}

/// The arguments of an interval. Those that say nothing about the interval are `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Args {
    /// The number of the pass on its device, counted from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pass: Option<u64>,
    /// The layer of the model: 0 is the embedding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<u64>,
    /// The number of sequences.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequences: Option<u64>,
    /// The number of tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// The number of bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// The number of floating-point operations, counting a multiplication and an addition as two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flops: Option<u64>,
    /// The number of columns of the output of a matrix product.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outputs: Option<u64>,
    /// The number of columns of the input of a matrix product: the length of its sums.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inputs: Option<u64>,
    /// The ordinal of the device that a call of the driver is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<u32>,
    /// The number of the stream that the work is on, as [`stream_number`](super::stream_number)
    /// gives it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<u32>,
    /// The number that work on a device shares with the call of the driver that began it, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation: Option<u64>,
}

impl Args {
    /// Returns whether there are no arguments.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// One interval of a timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The track that the interval lies on.
    pub track: Track,
    /// What happens, such as `attention`, `load`, `tokenize`.
    pub name: Cow<'static, str>,
    /// The kind of what happens.
    pub category: Category,
    /// The start in nanoseconds since the trace was opened.
    pub start_ns: u64,
    /// The end in nanoseconds since the trace was opened. It is never before the start.
    pub end_ns: u64,
    /// What else is known.
    #[serde(default, skip_serializing_if = "Args::is_empty")]
    pub args: Args,
}

impl Event {
    /// Returns the length of the interval in nanoseconds.
    pub fn nanoseconds(&self) -> u64 {
        self.end_ns.saturating_sub(self.start_ns)
    }
}
