//! Reads files that somebody else wrote: model files, and the names in sequence files.
//!
//! | file | what it does |
//! |---|---|
//! | [`shown`] | makes text and numbers from such files fit for a message |
//! | [`json`] | parses JSON with a bound on the number of its values, and refuses repeated keys |
//! | [`mod@file`] | opens regular files only, and distinguishes absent files from unreadable ones |
//!
//! Every function of this module is safe to call with any bytes: the caller sets a bound on the
//! memory.

pub mod file;
pub mod json;
pub mod shown;

pub use shown::Shown;
