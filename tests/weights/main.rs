//! Model files: the formats that are read, random models, and files that are refused.

#![allow(clippy::unwrap_used)] // test helpers may panic, as tests may

mod foreign;
mod formats;
mod hostile;
mod pickle_values;
mod random;
mod refused;
