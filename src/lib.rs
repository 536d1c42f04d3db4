//! Protein and DNA sequences in, embeddings out: ESM-2 and DNABERT-S inference.
//!
//! A sequence travels one way, and nothing lower knows anything higher:
//!
//! [`sequence`] -> [`batch`] -> [`model`] on a [`backend`] -> [`output`], driven by [`pipeline`].
//!
//! | room | what it does |
//! |---|---|
//! | [`sequence`] | FASTA and FASTQ in, cleaning, the two tokenisers |
//! | [`batch`] | packed, unpadded batches |
//! | [`weights`] | mapped files to named tensors |
//! | [`model`] | ESM-2 and DNABERT-S, each written once as operations on a backend |
//! | [`backend`] | the operations: the trait, and the CPU |
//! | [`stream`] | the streams of the devices, a ring of batches, weights on their way |
//! | [`output`] | npy, safetensors, shards, the manifest |
//! | [`pipeline`] | one job: read, pack, run, write; resume, merge |
//! | [`untrusted`] | what others wrote: how it is opened, bounded and shown |
//! | [`cli`] | a file a subcommand |
//!
//! `docs/architecture.md` has the invariants.

pub mod backend;
pub mod batch;
pub mod cli;
pub mod model;
pub mod output;
pub mod pipeline;
pub mod sequence;
pub mod stream;
pub mod untrusted;
pub mod weights;
