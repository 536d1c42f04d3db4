//! Models that are given by their names: in the local cache of the Hugging Face Hub, and downloaded
//! from a server on this machine that answers as the Hub does.
#![allow(clippy::unwrap_used)] // test helpers may panic, as tests may

mod cache;
#[cfg(feature = "hub")]
mod download;
#[cfg(feature = "hub")]
mod failures;

#[path = "../support"]
mod support {
    #[allow(dead_code)] // only what all jobs need is used here
    pub mod cli;
    #[cfg(feature = "hub")]
    #[allow(dead_code)] // other tests use other parts
    pub mod hub;
}
