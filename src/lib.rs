//! Protein and DNA sequences in, embeddings out: ESM-2 and DNABERT-S inference from memory-mapped
//! weights.
//!
//! ```
//! use seqstream::{Device, Pool, Request, Session};
//! use std::path::Path;
//!
//! let request = Request { layers: vec![4], pool: Some(Pool::Mean), per_token: false };
//! let mut model = Session::open(Path::new("examples/tiny-esm2"), &Device::Cpu, request)?;
//! let embeddings = model.embed(["MKTAYIAKQRQISFVKSHFSRQ", "GAVLIPFYW"])?;
//! assert_eq!(embeddings.len(), 2);
//! assert_eq!(embeddings[0].layers[0].pooled.len(), model.width());
//! # Ok::<(), seqstream::EngineError>(())
//! ```
//!
//! Programs that show more: `examples/embed.rs` (a FASTA file to rows), `examples/overlap.rs`
//! (streams and fences by hand), `examples/one_kernel.rs` (one kernel, launched and checked).
//!
//! A sequence travels one way, and a module imports only modules above it in this table:
//!
//! | module | what it does |
//! |---|---|
//! | [`dtype`], [`batch`] | number formats; packed, unpadded batches |
//! | [`sequence`] | FASTA and FASTQ in, cleaning, the two tokenizers |
//! | [`architecture`] | what a model consists of: sizes, names and shapes of its tensors, config.json |
//! | [`weights`] | mapped files to named, checked tensors |
//! | [`output`] | npy, safetensors, shards, the manifest |
//! | [`gpu`] | speaks CUDA and knows no model: driver, cuBLASLt, streams and fences |
//! | [`backend`] | the operations of a model: the trait, the CPU, CUDA |
//! | [`model`] | ESM-2 and DNABERT-S, each written once as operations on a backend |
//! | [`engine`] | a path and some devices become something that embeds: [`Session`] |
//! | [`pipeline`] | one job: read, pack, run, write; resume, merge |
//! | [`system`] | what the operating system allows this process: memory, open files, signals |
//! | [`untrusted`] | files that others wrote: how they are opened, bounded and shown |
//!
//! `docs/architecture.md` has the design, the invariants and where to start reading.

pub mod architecture;
pub mod backend;
pub mod batch;
pub mod dtype;
pub mod engine;
pub mod gpu;
pub mod model;
pub mod output;
pub mod pipeline;
pub mod sequence;
pub mod system;
pub mod untrusted;
pub mod weights;

pub use engine::{Device, Embedding, EngineError, Session};
pub use gpu::stream;
pub use model::{LayerOutput, Pool, Request};
