//! Runs one job: reads, packs, computes and writes; resumes a job; merges shares.
//!
//! ```text
//! reader thread           calling thread         writer thread           finishing thread
//! read, clean,       -->  embed             -->  merge windows,     -->  sync and name
//! tokenize, pack          (its own pool)         write                   shards
//! ```
//!
//! Each arrow is a bounded channel. Where a device would wait for one tokenizing thread, a pool
//! tokenizes the records, a group of records at a time, and another thread packs the groups in the
//! order in which they were read.
//!
//! Batches hold consecutive records up to a token budget. They are packed and never padded, so
//! sorting the records would gain nothing, and the output has the order of the input. The amount of
//! data in flight is bounded by the budget and by the depth of the channels, whatever the size of
//! the input.

mod algorithms;
mod blocks;
mod error;
mod feed;
mod job;
mod length;
mod merge;
mod packing;
mod room;
mod rows;
mod run;
mod stop;
mod tokenizing;

pub use algorithms::KeptAlgorithms;
pub use blocks::StandingBlocks;
pub use error::JobError;
pub use feed::{FeedOptions, Records, Share};
pub use job::{Checks, OpenJob, Removed, compare_job, open_job};
pub use length::{LengthLimit, Long};
pub use merge::{MergeReport, merge};
pub use room::check_memory;
pub use run::{Observer, Progress, Report, RunOptions, Silent, run};
pub use stop::Stop;
