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
//!     shard.json          first record, rows, counts, digest of the records, size and hash of each file
//!   shard-000001/ ...
//!   manifest.json         written last: what was done, with every file's hash
//!   .lock                 empty; held by the job that is running here
//! ```
//!
//! A shard is written as `.shard-000000.partial/`, its files and the directory synced, then
//! renamed: a reader, or a resumed job, sees all of its files or none. Nothing here depends on
//! threads, budgets or the clock, so an interrupted and resumed job leaves the same bytes as one
//! that ran through.

mod algorithms;
mod error;
mod file;
mod jobdir;
mod manifest;
mod npy;
mod shard;
mod spec;
mod states;

pub use algorithms::{read_algorithms, write_algorithms};
pub use error::OutputError;
pub use file::{FileEntry, OutputDtype, hash_file};
pub use jobdir::{ALGORITHMS_FILE, JOB_FILE, JobDir, MANIFEST_FILE, list_shards, shard_name};
pub use manifest::{
    ManifestHead, read_job, read_manifest_head, read_shard, read_shard_at, write_job,
    write_manifest,
};
pub use npy::NpyWriter;
pub use shard::{BlockFacts, ShardLayout, ShardRecord, ShardWriter, WrittenShard, name_shards};
pub use spec::{Difference, FORMAT, InputSpec, JobSpec, ModelSpec};
pub use states::StatesWriter;
