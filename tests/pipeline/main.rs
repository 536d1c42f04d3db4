//! Jobs, from records to finished output, with a model that hashes: see `support/pipeline.rs`.

#![allow(clippy::unwrap_used)] // test helpers may panic, as tests may

mod bad_records;
mod job;
mod lanes;
mod output;
mod poolings;
mod resume;
mod states;

#[path = "../support"]
mod support {
    pub mod pipeline;
}
