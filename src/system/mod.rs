//! What the operating system allows this process, and what it tells it: memory, open files, signals,
//! and whether a pipe has something to read.
//!
//! This room knows nothing of the others. On systems without these calls every question has the
//! answer "not known".

pub mod files;
pub mod memory;
pub mod pause;
pub mod signals;
