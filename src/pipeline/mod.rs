//! Runs one job: reads, tokenizes, packs, computes and writes; resumes a job; merges shares.
//!
//! Each thread has a file of its own, and [`run()`] connects the threads by bounded channels:
//!
//! ```text
//! reader --> tokenizing --> packer --> computing --> writer ----> finisher
//! read.rs    tokenize.rs    pack.rs    compute.rs    write.rs     finish.rs
//!
//! read,      text to        batches    the model     windows,     hash, sync and
//! clean      tokens                                  rows         name shards
//! ```
//!
//! `messages.rs` defines every message, and the one form in which a thread learns that the other
//! side of a channel is gone. With one tokenizing thread, as on the CPU, the reader thread also
//! tokenizes and packs. Where a device would wait for that thread, a pool tokenizes the records, a
//! group of records at a time, and the packing thread takes the groups in the order in which they
//! were read.
//!
//! Batches hold consecutive records up to a token budget. They are packed and never padded, so
//! sorting the records would gain nothing, and the output has the order of the input. The amount of
//! data in flight is bounded by the budget and by the capacity of the channels, whatever the size
//! of the input.

// The threads, in the order of the data.
mod compute;
mod finish;
mod pack;
mod read;
mod tokenize;
mod write;

// What connects them.
mod messages;
mod progress;
mod run;
mod stop;
mod verdicts;

// What a job is, and what becomes of its records and its directory.
mod algorithms;
mod contigs;
mod error;
mod fragments;
mod job;
mod join;
mod length;
mod memory;
mod merge;
mod resume;
mod share;

pub use algorithms::KeptAlgorithms;
pub use contigs::{Chunks, ContigNames, DuplicateIds, contig_size};
pub use error::JobError;
pub use fragments::FragmentOptions;
pub use job::{OpenJob, compare_job, open_job};
pub use join::{JoinOptions, Score};
pub use length::{LengthLimit, Long, Pieces, pieces};
pub use memory::MemoryCheck;
pub use merge::{MergeReport, merge};
pub use messages::InputNotes;
pub use pack::PackOptions;
pub use progress::{Bound, Chunked, Observer, Progress, Silent};
pub use read::{ReadOptions, Records};
pub use resume::{Checks, Removed, StandingShards};
pub use run::{Lane, Report, RunOptions, run, run_fragments};
pub use share::Share;
pub use stop::Stop;
pub use verdicts::{rule_of, rule_spec};
pub use write::Windows;
