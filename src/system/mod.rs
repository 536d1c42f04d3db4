//! Questions to the operating system about this process: its limits on memory and open files, its
//! signals, and whether a pipe has something to read.
//!
//! This module imports no other module of the crate. On systems without these calls, the answer to
//! every question is "not known".

pub mod files;
pub mod memory;
pub mod pause;
pub mod signals;
