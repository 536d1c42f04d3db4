//! A trace in the JSON schema of this project.

use serde::{Deserialize, Serialize};

use super::clock::ClockReport;
use super::event::Event;

/// The name of the schema, in the field `schema` of every trace.
pub const SCHEMA: &str = "seqstream-trace";
/// The version of the schema, in the field `version`. It rises when a field changes its meaning.
pub const VERSION: u32 = 1;

/// A trace: what the file of the schema `seqstream-trace` holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// [`SCHEMA`].
    pub schema: String,
    /// [`VERSION`].
    pub version: u32,
    /// The version of the program that wrote the trace.
    pub seqstream: String,
    /// When the trace was opened, in nanoseconds since 1970, on the wall clock. All other times
    /// count from that moment.
    pub opened_unix_ns: u64,
    /// The intervals. Those of one track are in the order of their ends.
    pub events: Vec<Event>,
    /// Whether the run came to its end. The trace of a killed run says `false`.
    pub whole: bool,
    /// The number of intervals that found no place and are missing.
    pub dropped: u64,
    /// The clocks of the devices.
    pub clocks: Vec<ClockReport>,
}

/// The head of the file, up to the events.
pub(super) fn head(opened_unix_ns: u64) -> String {
    format!(
        "{MARK} \"version\": {VERSION},\n\"seqstream\": \"{}\", \"opened_unix_ns\": {opened_unix_ns},\n\"events\": [\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// What every file begins with.
pub(super) const MARK: &str = r#"{"schema": "seqstream-trace","#;

/// The tail of the file, after the events.
pub(super) fn tail(whole: bool, dropped: u64, clocks: &[ClockReport]) -> String {
    format!(
        "],\n\"whole\": {whole}, \"dropped\": {dropped}, \"clocks\": {}}}\n",
        clocks_json(clocks)
    )
}

/// Returns the clocks as JSON. There are at most 8, so that they fit into a page of the file.
pub(super) fn clocks_json(clocks: &[ClockReport]) -> String {
    let shown = &clocks[..clocks.len().min(8)];
    // Numbers and names of fields: this cannot fail.
    serde_json::to_string(shown).unwrap_or_else(|_| "[]".into())
}
