//! What a job leaves behind: a directory of shards, each complete or absent.
//!
//! ```text
//! OUT/
//!   job.json              what was asked: everything that decides the bytes
//!   algorithms.json       on CUDA: the GEMM algorithms, whose digest is `gemm` in job.json
//!   shard-000000/         records 0 .. shard_size of the whole input
//!     ids.txt             one id a line, in input order
//!     layer_33.npy        [rows, d] pooled rows
//!     layer_33.safetensors   `states` [tokens, d] and `offsets` [rows + 1], with --per-token
//!     shard.json          its job's fingerprint, first record, rows, counts, digest of the records, size and
//!                         hash of each file, and a hash of itself
//!   shard-000001/ ...
//!   manifest.json         written last: what was done, with every file's hash
//!   .lock                 empty; held by the job that is running here
//!   .running              only where the file system has no locks: which job is running here
//! ```
//!
//! A shard is written as `.shard-000000.OWNER.partial/`, its files and the directory synced, then
//! renamed: a reader, or a resumed job, sees all of its files or none. OWNER names machine and process,
//! so that two jobs that nothing keeps apart do not write into each other's shards: the second one to
//! name a shard fails. What a killed job leaves is removed by a resumed one, where the lock or the
//! list of processes shows that it has ended. Nothing here depends on
//! threads, budgets or the clock, so an interrupted and resumed job leaves the same bytes as one
//! that ran through.
//!
//! A shard that stands is believed only if it is the one that its job made: [`ShardLayout::verify`].

mod algorithms;
mod check;
mod error;
mod file;
mod jobdir;
mod lock;
mod manifest;
mod npy;
mod owner;
mod shard;
mod spec;
mod states;

pub use algorithms::read_algorithms;
pub use algorithms::write_algorithms;
pub use check::Doubt;
pub use error::OutputError;
pub use file::FileEntry;
pub use file::OutputDtype;
pub use file::hash_file;
pub use jobdir::ALGORITHMS_FILE;
pub use jobdir::JOB_FILE;
pub use jobdir::JobDir;
pub use jobdir::MANIFEST_FILE;
pub use jobdir::list_shards;
pub use jobdir::revoke_manifest;
pub use jobdir::shard_name;
pub use manifest::{
    ManifestHead, Totals, read_job, read_manifest, read_record, write_job, write_manifest,
};
pub use npy::NpyWriter;
pub(crate) use shard::SHARD_FILE;
pub use shard::{BlockFacts, ShardLayout, ShardRecord, ShardWriter, WrittenShard, name_shards};
pub use spec::{Difference, FORMAT, InputSpec, JobSpec, ModelSpec};
pub use states::StatesWriter;
