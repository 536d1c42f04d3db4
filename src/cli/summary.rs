//! The summary of a job that ended: lines for a person, and JSON for a program.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::input::{counted, example};
use super::machine;
use super::options::EmbedOptions;
use super::progress::{count, duration};
use seqstream::bytes::Bytes;
use seqstream::output::{REJECTED_FILE, Rejected};
use seqstream::pipeline::{Bound, Report, Share};
use seqstream::sequence::Cleaning;

/// What a job computed, how long that took, and what its input held.
///
/// It is displayed as lines without a line end after the last one. The alternate form, `{:#}`, has
/// more details.
#[derive(Serialize)]
pub struct Summary {
    complete: bool,
    out: String,
    sequences: u64,
    tokens: u64,
    sequences_reused: u64,
    shards_computed: u64,
    seconds: f64,
    tokens_per_second: f64,
    compute_share: f64,
    waiting_for_input_share: f64,
    waiting_for_output_share: f64,
    bound_by: Bound,
    peak_memory_bytes: Option<u64>,
    /// What cleaning met in the input of the whole job, if the job is complete.
    counts: Option<BTreeMap<String, u64>>,
    /// The first of the bad records that were skipped.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rejected: Vec<Rejected>,
    /// The sequences of the whole job, if it is complete.
    #[serde(skip)]
    all_sequences: u64,
    #[serde(skip)]
    share: Share,
    #[serde(skip)]
    cleaned: bool,
}

/// The names of the cleaning counts, and their texts in the summary.
pub const COUNTED: [(&str, &str); 15] = [
    ("lowercase", "lower-case letters upper-cased"),
    ("stops_dropped", "stops dropped from the ends"),
    ("unknown", "characters outside the alphabet"),
    ("whitespace", "blanks inside sequences"),
    ("special_tokens", "special tokens written out"),
    ("unnamed", "records without a name"),
    ("gaps", "gap characters"),
    ("uracil", "letters U read as T"),
    ("chain_breaks", "colons between chains"),
    ("chains", "chains that became records of their own"),
    ("shared_names", "records that share a name"),
    (
        "other_alphabet",
        "sequences that look like the other kind (DNA or proteins) than the model reads",
    ),
    ("truncated", "sequences truncated"),
    ("windowed", "sequences embedded in windows"),
    ("non_ascii", "characters that are not ASCII"),
];

impl Summary {
    /// Summarizes a job that ended.
    pub fn new(report: &Report, options: &EmbedOptions) -> Self {
        let p = &report.progress;
        let manifest = report.manifest.as_ref();
        Self {
            complete: manifest.is_some(),
            out: options.out.to_string_lossy().into_owned(),
            sequences: p.records,
            tokens: p.tokens,
            sequences_reused: p.reused,
            shards_computed: p.shards,
            seconds: p.elapsed.as_secs_f64(),
            tokens_per_second: p.tokens_per_second(),
            compute_share: p.compute_share(),
            waiting_for_input_share: p.share(p.starved),
            waiting_for_output_share: p.share(p.held_up),
            bound_by: p.bound(),
            peak_memory_bytes: machine::peak_memory(),
            counts: manifest.map(|m| m.counts.clone()),
            rejected: manifest.map(|m| m.rejected.clone()).unwrap_or_default(),
            all_sequences: manifest.map_or(0, |m| m.records),
            share: options.share,
            cleaned: options.cleaning != Cleaning::Off,
        }
    }

    /// Returns what cleaning met, in words; `None` if it met nothing.
    fn met(&self) -> Option<String> {
        let counts = self.counts.as_ref()?;
        let met = COUNTED
            .iter()
            .filter_map(|(name, text)| match counts.get(*name) {
                Some(n) if *n > 0 => Some(format!("{} {text}", count(*n))),
                _ => None,
            });
        let met: Vec<String> = met.collect();
        let how = match self.cleaned {
            true => "in the input",
            false => "met, and left as they are",
        };
        (!met.is_empty()).then(|| format!("{how}: {}", met.join(", ")))
    }
}

impl Summary {
    /// Returns which bad records were skipped, in words; `None` if there were none.
    fn skipped(&self) -> Option<String> {
        let n = *self.counts.as_ref()?.get("rejected")?;
        let examples: Vec<String> = self.rejected.iter().take(3).map(example).collect();
        let more = if n > examples.len() as u64 {
            "; ..."
        } else {
            ""
        };
        (n > 0).then(|| {
            format!(
                "{}, listed in {}/{REJECTED_FILE}: {}{more}",
                counted(n, "bad record skipped", "bad records skipped"),
                self.out,
                examples.join("; ")
            )
        })
    }
}

/// Says what bounded a job.
fn bound_by(bound: Bound) -> &'static str {
    match bound {
        Bound::Model => "computing",
        Bound::Input => "reading the input",
        Bound::Output => "writing the output",
        Bound::Disk => "the disk that the output is written to",
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} sequences, {} tokens in {}: {} tokens/s, {:.0} % of the time computing",
            count(self.sequences),
            count(self.tokens),
            duration(Duration::from_secs_f64(self.seconds)),
            count(self.tokens_per_second as u64),
            100.0 * self.compute_share
        )?;
        if let Some(peak) = self.peak_memory_bytes {
            write!(f, ", peak memory {}", Bytes(peak))?;
        }
        write!(f, "; bound by {}", bound_by(self.bound_by))?;
        if f.alternate() {
            write!(
                f,
                "\n{:.0} % of the time waiting for input, {:.0} % for output",
                100.0 * self.waiting_for_input_share,
                100.0 * self.waiting_for_output_share
            )?;
        }
        if !self.complete {
            return Ok(());
        }
        if let Some(met) = self.met() {
            write!(f, "\n{met}")?;
        }
        if let Some(skipped) = self.skipped() {
            write!(f, "\n{skipped}")?;
        }
        write!(f, "\ncomplete: {} sequences", count(self.all_sequences))?;
        if self.share.of != 1 {
            write!(f, " of share {}", self.share)?;
        }
        let shards = self.shards_computed;
        let plural = if shards == 1 { "" } else { "s" };
        write!(
            f,
            " in {}; {} shard{plural} computed",
            self.out,
            count(shards)
        )?;
        if self.sequences_reused > 0 {
            write!(
                f,
                ", {} sequences stood already",
                count(self.sequences_reused)
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary() -> Summary {
        Summary {
            complete: true,
            out: "out".into(),
            sequences: 1200,
            tokens: 34_567,
            sequences_reused: 800,
            shards_computed: 1,
            seconds: 2.0,
            tokens_per_second: 17_283.5,
            compute_share: 0.25,
            waiting_for_input_share: 0.5,
            waiting_for_output_share: 0.125,
            bound_by: Bound::Input,
            peak_memory_bytes: Some(3 << 19),
            rejected: vec![],
            counts: Some([("unknown".to_owned(), 3), ("unnamed".to_owned(), 0)].into()),
            all_sequences: 2000,
            share: Share { index: 1, of: 2 },
            cleaned: true,
        }
    }

    #[test]
    fn a_summary_is_lines_and_json() {
        let first = "1,200 sequences, 34,567 tokens in 2.0 s: 17,283 tokens/s, 25 % of the time computing, \
                     peak memory 1.5 MiB; bound by reading the input\n";
        let waiting = "50 % of the time waiting for input, 12 % for output\n";
        let rest = "in the input: 3 characters outside the alphabet\n\
                    complete: 2,000 sequences of share 1/2 in out; 1 shard computed, 800 sequences stood already";
        assert_eq!(summary().to_string(), format!("{first}{rest}"));
        assert_eq!(
            format!("{:#}", summary()),
            format!("{first}{waiting}{rest}")
        );
        assert_eq!(
            serde_json::to_string(&summary()).unwrap(),
            r#"{"complete":true,"out":"out","sequences":1200,"tokens":34567,"sequences_reused":800,"#
                .to_owned()
                + r#""shards_computed":1,"seconds":2.0,"tokens_per_second":17283.5,"compute_share":0.25,"#
                + r#""waiting_for_input_share":0.5,"waiting_for_output_share":0.125,"#
                + r#""bound_by":"input","#
                + r#""peak_memory_bytes":1572864,"counts":{"unknown":3,"unnamed":0}}"#
        );
    }

    #[test]
    fn a_stopped_job_is_not_called_complete() {
        let stopped = Summary {
            complete: false,
            counts: None,
            peak_memory_bytes: None,
            ..summary()
        };
        let text = stopped.to_string();
        assert!(
            text.ends_with("% of the time computing; bound by reading the input"),
            "{text}"
        );
        let json = serde_json::to_value(stopped).unwrap();
        assert_eq!(json["complete"], false);
        assert!(json["counts"].is_null() && json["peak_memory_bytes"].is_null());
    }
}
