//! Loading, computing and storing beside each other: streams, and the fences that order them.
//!
//! | | |
//! |---|---|
//! | [`StreamManager`] | the streams of a job's devices, their state, the log of operations |
//! | [`StreamProcessor`] | a device's ring of slots, through which batches go |
//! | [`Uploader`], [`Loader`] | weights to the device, on a thread of their own |
//! | [`LayerFences`] | what the compute thread waits on until a layer is there |
//!
//! In a running job the host waits only for a finished batch, or for a pinned slot that it is about
//! to write again. Every other order is a fence that one stream records and another waits for.
//! What one stream does alone needs none, so with the streams off the same calls give the same bits.
//!
//! This room knows the driver, and no model, no kernel and no file.

mod copiers;
mod error;
mod job;
mod layers;
mod loader;
mod log;
mod manager;
mod overlap;
mod processor;
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
pub use upload::{Chunk, UploadOptions, Uploader};
