//! What is read from files that somebody else wrote: model files, and the names in sequence files.
//!
//! | file | what it does |
//! |---|---|
//! | [`shown`] | text and numbers out of such files, made fit for a message |
//! | [`json`] | JSON with a bound on its values, and no key twice |
//! | [`file`] | opens regular files only, and tells absence from a fault |
//!
//! Everything in here is safe to call with any bytes: memory is bounded by what the caller allows.

pub mod file;
pub mod json;
pub mod shown;

pub use shown::Shown;
