//! seqstream computes embeddings of protein and DNA sequences with ESM-2 and DNABERT-S, whose
//! weights it reads from memory-mapped files.
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
//! More examples: `examples/embed.rs` embeds a FASTA file and prints the start of each row,
//! `examples/overlap.rs` orders copies and computation by hand with streams and fences, and
//! `examples/one_kernel.rs` launches one kernel and checks its result.
//!
//! A sequence passes through the modules in one direction. A module imports only modules
//! above it in this table:
//!
//! | module | what it does |
//! |---|---|
//! | [`system`] | asks the operating system about memory, open files, signals and pipes |
//! | [`untrusted`] | opens and bounds files that others wrote, escapes their text for messages |
//! | [`dtype`], [`batch`] | define the number formats and the packed batches without padding |
//! | [`sequence`] | reads FASTA and FASTQ, cleans and tokenizes |
//! | [`architecture`] | describes a model: sizes, names and shapes of its tensors, config.json |
//! | [`weights`] | turns mapped files into named, checked tensors |
//! | [`output`] | writes npy, safetensors, shards and the manifest |
//! | [`gpu`] | calls CUDA and knows no model: driver, cuBLASLt, streams and fences |
//! | [`backend`] | defines the operations of a model and runs them on the CPU or with CUDA |
//! | [`model`] | holds ESM-2 and DNABERT-S, each written once as operations on a backend |
//! | [`engine`] | opens a model on one or more devices: [`Session`] |
//! | [`pipeline`] | runs one job: reads, packs, computes and writes; resumes; merges |
//!
//! `docs/architecture.md` describes the design and the invariants, and says where to start reading.

#![warn(missing_docs)]

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
