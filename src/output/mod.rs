//! The output of a job: a directory of shards, each of which is complete or absent.
//!
//! ```text
//! OUT/
//!   job.json              what was asked: everything that decides the bytes of the output
//!   algorithms.json       on CUDA: the GEMM algorithms; their digest is in job.json
//!   shard-000000/         records 0 .. shard_size of the whole input
//!     ids.txt             one id per line, in input order
//!     layer_33.npy        [rows, d] pooled rows; where there are several poolings, one file each:
//!                         layer_33_mean.npy, layer_33_cls.npy, layer_33_max.npy
//!     layer_33.safetensors   with --per-token: `states` [tokens, d] and `offsets` [rows + 1]
//!     rejected.tsv        the records that were skipped, if there are any
//!     shard.json          fingerprint of the job, first record, rows, counts, digest of the
//!                         records, size and hash of each file, and a hash of shard.json itself
//!   shard-000001/ ...
//!   rejected.tsv          if bad records are skipped: those of all shards
//!   manifest.json         written last: what was done, with the hash of every file
//!   .runs.jsonl           what each run measured, such as its speed; no part of the output
//!   .lock                 empty; held by the job that is running here
//!   .running              only where the file system has no locks: names the running job
//! ```
//!
//! A shard is written as `.shard-000000.OWNER.partial/`. Its files and the directory are synced,
//! then the directory is renamed, so a reader or a resumed job sees all of its files or none. OWNER
//! names the machine and the process, so that two jobs do not write into each other's shards even
//! if no lock separates them: the second job that names a shard fails. A resumed job removes the
//! unfinished files of a killed job, if the lock or the list of processes shows that the killed job
//! has ended. Apart from `.runs.jsonl`, nothing in the output depends on threads, budgets or the clock, so an interrupted and
//! resumed job leaves the same bytes as a job without interruption.
//!
//! A finished shard is accepted only if its job made it; see [`ShardLayout::verify`].

mod algorithms;
mod check;
mod error;
mod file;
mod finished;
mod jobdir;
mod lock;
mod manifest;
mod npy;
mod owner;
mod place;
mod rejected;
mod runs;
mod shard;
mod spec;
mod states;
mod tree;
mod virnucpro;

pub use algorithms::read_algorithms;
pub use algorithms::write_algorithms;
pub use check::Doubt;
pub use error::OutputError;
pub use file::FileEntry;
pub use file::OutputDtype;
pub use file::hash_file;
pub use finished::{Finished, FinishedError, FinishedShard, Ids, Listed, Values};
pub use jobdir::ALGORITHMS_FILE;
pub use jobdir::JOB_FILE;
pub use jobdir::JobDir;
pub use jobdir::MANIFEST_FILE;
pub use jobdir::list_shards;
pub use jobdir::revoke_manifest;
pub use jobdir::shard_name;
pub use jobdir::{MULTIQC_FILE, REPORT_FILE};
pub use manifest::{
    ManifestHead, Totals, read_job, read_manifest, read_record, write_job, write_manifest,
};
pub use npy::NpyWriter;
pub use place::Place;
pub use rejected::{REJECTED_FILE, Rejected};
pub use runs::{Lengths, RUNS_FILE, RunRecord, Sample, append_run, read_runs};
pub use shard::{
    BlockFacts, PushError, Row, ShardLayout, ShardRecord, ShardWriter, VirnucproFiles, Workers,
    WrittenShard, name_shards, name_shards_traced,
};
pub(crate) use shard::{REJECTED_COUNT, SHARD_FILE};
pub use spec::{Difference, FORMAT, InputSpec, JobSpec, ModelSpec};
pub use states::StatesWriter;
pub use virnucpro::{
    AMINO_ACID_FILE, CHUNKS_COUNT, CONTIGS_FILE, DNA_FILE, FRAGMENTS_FILE, Features, MERGED_FILE,
    NUCLEOTIDE_FILE, PROTEIN_FILE, SCORES_FILE, TablesSpec, Vectors, VirnucproSpec,
};
