//! Loads, computes and stores at the same time: streams, and the fences that order them.
//!
//! | item | what it is |
//! |---|---|
//! | [`StreamManager`] | the streams of a job's devices, their state, and the log of operations |
//! | [`StreamProcessor`] | a device's ring of slots, through which batches pass |
//! | [`Uploader`], [`Loader`] | copies weights to the device, on a thread of its own |
//! | [`Timeline`] | times what the streams of a device do, for a trace |
//! | [`LayerFences`] | tells the compute thread when a layer's weights are on the device |
//!
//! In a running job the host waits only for a finished batch, or for a pinned slot that it is about
//! to write again. Every other order is a fence that one stream records and another stream waits
//! for. The work of a single stream needs no fences, so with overlap switched off the same calls
//! give the same bits.
//!
//! This module uses the driver, and knows no model, no kernel and no file.

mod copiers;
mod error;
mod job;
mod layers;
mod loader;
mod log;
mod manager;
mod overlap;
mod processor;
mod timeline;
mod upload;

pub use copiers::Conversion;
pub use error::StreamError;
pub use job::ReportFn;
pub use layers::LayerFences;
pub use loader::Loader;
pub use log::{Entry, OperationLog};
pub use manager::{
    LOG_VARIABLE, StreamManager, StreamOptions, StreamScope, StreamSet, StreamStatus,
};
pub use overlap::Launch;
pub use processor::{Collected, ProcessorOptions, StreamProcessor, Ticket};
pub use timeline::{Timeline, Work};
pub use upload::{Chunk, Loading, Source, UploadOptions, Uploader};
