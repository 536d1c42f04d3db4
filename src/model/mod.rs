//! The models: architecture ([`config`]) and, each written once as operations on a
//! [`crate::backend`], ESM-2 and DNABERT-S.
pub mod config;
