//! Jobs, from records to finished output, with a model that hashes: see `support/pipeline.rs`.

#![allow(clippy::unwrap_used)] // test helpers may panic, as tests may

mod job;
mod output;
mod resume;
mod states;

#[path = "../support"]
mod support {
    pub mod pipeline;
}
