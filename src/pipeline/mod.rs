//! One job: read, pack, run, write; resume; shards; merge.
//!
//! ```text
//! reader thread                   calling thread             writer thread            finishing thread
//! read, clean, tokenize, pack --> embed (its own pool) --> merge windows, write --> sync and name shards
//!              bounded channel                  bounded channel         bounded channel
//! ```
//!
//! Where a device would wait for it, tokenizing is a pool's, a group of records at a time, and a thread packs the groups
//! in the order in which they were read.
//!
//! Batches hold consecutive records up to a token budget. They are packed and never padded, so
//! nothing is gained by sorting, and the order of the output is that of the input. What is in
//! flight is bounded by the budget and the depth of the channels, whatever the input's size.

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
