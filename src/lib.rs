//! seqstream computes embeddings of protein and DNA sequences with ESM-2 and DNABERT-S, whose
//! weights it reads from memory-mapped files.
//!
//! ```
//! use seqstream::{Device, Pool, Request, Session};
//! use std::path::Path;
//!
//! let request = Request { layers: vec![4], pools: vec![Pool::Mean], per_token: false };
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
//! | [`remedy`], [`bytes`] | say what would help against an error; write sizes for people |
//! | [`system`] | asks the operating system about memory, open files, signals and pipes |
//! | [`trace`] | records what a job does as intervals, and writes them as timelines |
//! | [`drawing`] | draws figures as SVG, and puts them on pages |
//! | [`untrusted`] | opens and bounds files that others wrote, escapes their text for messages |
//! | [`dtype`], [`batch`] | define the number formats and the packed batches without padding |
//! | [`sequence`] | reads FASTA and FASTQ, cleans and tokenizes |
//! | [`architecture`] | describes a model: sizes, names and shapes of its tensors, config.json |
//! | [`hub`] | finds a model by its name, in the cache of the Hugging Face Hub or on the Hub |
//! | [`weights`] | turns mapped files into named, checked tensors |
//! | [`output`] | writes npy, safetensors, shards and the manifest |
//! | [`virnucpro`] | scores fragments, judges contigs, and writes VirNucPro's files |
//! | [`export`] | writes a complete output into the files that other programs load |
//! | [`report`] | describes a complete output on a page, and for MultiQC |
//! | [`gpu`] | calls CUDA and knows no model: driver, cuBLASLt, streams and fences |
//! | [`backend`] | defines the operations of a model and runs them on the CPU or with CUDA |
//! | [`model`] | holds ESM-2 and DNABERT-S, each written once as operations on a backend |
//! | [`engine`] | opens a model on one or more devices: [`Session`] |
//! | [`pipeline`] | runs one job: reads, packs, computes and writes; resumes; merges |
//! | [`study`] | measures an engine: its speed, and how much of the loading of weights is hidden |
//!
//! # Errors
//!
//! The message of an error says what is wrong and where. Its method `remedy` says what would help,
//! as data ([`Remedy`]): nothing in the library knows the flags of the program. Print the remedy as
//! it is, put it into your own words with [`Remedy::words`], or look for an [`Action`] that your
//! program is able to do by itself:
//!
//! ```
//! use seqstream::{Action, Device, Pool, Request, Session};
//! use std::path::Path;
//!
//! let request = Request { layers: vec![9], pools: vec![Pool::Mean], per_token: false };
//! let error = Session::open(Path::new("examples/tiny-esm2"), &Device::Cpu, request).err().unwrap();
//! assert_eq!(error.to_string(), "there is no layer 9 in a model of 4 layers");
//! let remedy = error.remedy().unwrap();
//! assert_eq!(remedy.to_string(), "give layers that the model has, 0 for the embedding");
//! assert!(!remedy.actions().contains(&&Action::UseCpu));
//! ```
//!
//! `docs/architecture.md` describes the design and the invariants, and says where to start reading.

#![warn(missing_docs)]

pub mod architecture;
pub mod backend;
pub mod batch;
pub mod bytes;
pub mod drawing;
pub mod dtype;
pub mod engine;
pub mod export;
pub mod gpu;
pub mod hub;
pub mod model;
pub mod output;
pub mod pipeline;
pub mod remedy;
pub mod report;
pub mod sequence;
pub mod study;
pub mod system;
pub mod trace;
pub mod untrusted;
pub mod virnucpro;
pub mod weights;

/// The commit that this library was built from and its date, if the build knew them (`build/commit.rs`).
pub const COMMIT: &str = env!("SEQSTREAM_COMMIT");

pub use engine::{Device, Embedding, EngineError, Session};
pub use gpu::stream;
pub use model::{LayerOutput, Pool, Request};
pub use remedy::{Action, Remedy};
