//! The page about a job.

use serde_json::Value;

use super::Report;
use crate::bytes::Bytes;
use crate::drawing::{Axis, Chart, Histogram, Map, MapPoint, Mark, Page, Scale, Series, Shares};
use crate::output::{Lengths, RunRecord, Sample};

/// The most runs that have a curve.
const MOST_CURVES: usize = 6;
/// The most points of a curve.
const MOST_POINTS: usize = 80;
/// The most characters of a name on the map.
const LONGEST_NAME: usize = 200;

impl Report {
    /// Returns the page. It loads nothing, and everything that comes from files is escaped.
    /// `counted` has texts for the names of counts.
    pub fn html(&self, counted: &[(&str, &str)]) -> String {
        let mut page = Page::new(&format!("seqstream: {}", self.name));
        page.heading("Summary");
        page.table(&self.summary());
        page.heading("What the input held");
        self.counts(&mut page, counted);
        page.heading("Lengths");
        match &self.lengths {
            Some(lengths) => show_lengths(&mut page, lengths),
            None => page.paragraph(
                "The lengths are not known: no run of this job recorded them. An output that was merged \
                 from shares has no record of its runs.",
            ),
        }
        page.heading("Runs");
        self.show_runs(&mut page);
        page.heading("Map");
        self.show_map(&mut page);
        page.heading("Versions and hashes");
        page.table(&self.identity());
        page.end()
    }

    fn summary(&self) -> Vec<(&'static str, String)> {
        let m = &self.manifest;
        let mut rows = vec![
            ("sequences", grouped(m.records)),
            ("tokens computed", grouped(m.tokens)),
            ("sequences in the whole input", grouped(m.input_records)),
            ("shards", grouped(self.shards)),
            ("share", m.job.share.clone()),
            ("layers", listed(&m.job.layers)),
            ("pooling", m.job.pool.clone()),
            ("states of every token", yes(m.job.per_token)),
            ("device", format!("{} ({})", m.job.device, m.job.processor)),
            ("precision of computing", m.job.dtype.clone()),
        ];
        let config = &m.job.model.config;
        let name = m
            .job
            .model
            .id
            .clone()
            .unwrap_or_else(|| "given as a file".into());
        rows.push(("model", name));
        rows.push((
            "architecture",
            format!(
                "{}, {} layers, width {}",
                config.kind.title(),
                config.layers,
                config.hidden
            ),
        ));
        rows
    }

    fn counts(&self, page: &mut Page, counted: &[(&str, &str)]) {
        let m = &self.manifest;
        let text = |name: &str| match counted.iter().find(|c| c.0 == name) {
            Some((_, text)) => (*text).to_owned(),
            None if name == "rejected" => "bad records skipped".to_owned(),
            None => name.to_owned(),
        };
        let met = m.counts.iter().filter(|(_, n)| **n > 0);
        let met: Vec<(String, String)> = met.map(|(name, n)| (text(name), grouped(*n))).collect();
        page.table(&met);
        // The residues are counted too, and are nothing to remark on.
        if m.counts
            .iter()
            .all(|(name, n)| *n == 0 || name == "residues")
        {
            page.paragraph("Nothing was cleaned, truncated or skipped.");
        }
        if !m.rejected.is_empty() {
            page.paragraph("The first of the records that were skipped; rejected.tsv lists all:");
            let rows = m.rejected.iter();
            let rows = rows.map(|r| {
                (
                    r.name.clone(),
                    format!("{}, line {}: {}", r.file, r.line, r.reason),
                )
            });
            page.table(&rows.collect::<Vec<_>>());
        }
    }

    fn show_runs(&self, page: &mut Page) {
        if self.runs.is_empty() {
            page.paragraph("No run of this job left a record of its speed.");
            return;
        }
        let first = self.runs.len().saturating_sub(MOST_CURVES);
        let numbered = || (1..).zip(&self.runs).skip(first);
        let series = numbered().zip(0..).map(|((number, run), colour)| Series {
            name: format!("run {number}"),
            mark: Mark::Measured,
            colour,
            points: rates(&run.samples),
        });
        let chart = Chart {
            title: "Tokens per second".into(),
            x: Axis::new("seconds since the run began", Scale::Linear),
            y: Axis::new("tokens per second", Scale::Linear),
            series: series.collect(),
        };
        page.figure(
            &chart.svg(),
            "Tokens that were computed per second, special tokens included. Each point is the mean since the point before.",
        );
        let wholes = numbered().map(|(number, run)| (format!("run {number}"), shares(&run.end)));
        let shares = Shares {
            title: "Who waited for whom".into(),
            parts: [
                "computing",
                "waiting for the reader (input)",
                "waiting for the writer (output)",
                "beginning and ending",
            ]
            .map(String::from)
            .to_vec(),
            wholes: wholes.collect(),
        };
        page.figure(
            &shares.svg(),
            "The time of the thread that hands batches to the model.",
        );
        for (number, run) in numbered() {
            page.paragraph(&format!("Run {number}"));
            page.table(&of_run(run));
        }
    }

    fn show_map(&self, page: &mut Page) {
        let Some(map) = &self.map else {
            page.paragraph("There is no map: it needs at least three different rows.");
            return;
        };
        let percent = |part: f64| format!("{:.1} % of the variance", 100.0 * part);
        let points = map.plane.places.iter().zip(&map.names);
        let points = points.map(|(at, name)| MapPoint {
            at: *at,
            name: short(name),
        });
        let drawn = Map {
            title: format!("Layer {}, {}", map.layer, map.pool),
            x: format!(
                "first principal component: {}",
                percent(map.plane.explained.0)
            ),
            y: format!(
                "second principal component: {}",
                percent(map.plane.explained.1)
            ),
            points: points.collect(),
        };
        page.figure(
            &drawn.svg(),
            &format!(
                "{} of {} sequences, spread evenly over the input, in the plane in which they differ most. The name \
                 of a sequence appears under the pointer.",
                grouped(map.names.len() as u64),
                grouped(self.manifest.records)
            ),
        );
    }

    /// Returns all that decides the bytes of the output, and the hashes that cover them.
    fn identity(&self) -> Vec<(String, String)> {
        let mut rows = vec![(
            "BLAKE3 of manifest.json".to_owned(),
            self.manifest_blake3.clone(),
        )];
        let job = &self.manifest.job;
        if let Some(fingerprint) = job.fingerprint() {
            rows.push(("fingerprint of the job".into(), fingerprint));
        }
        // The fields of job.json: this cannot fail.
        flatten(
            "",
            &serde_json::to_value(job).unwrap_or_default(),
            &mut rows,
        );
        rows
    }
}

/// Lists the fields of a value by their names with dots.
fn flatten(name: &str, value: &Value, rows: &mut Vec<(String, String)>) {
    let below = |part: &str| match name {
        "" => part.to_owned(),
        _ => format!("{name}.{part}"),
    };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(k, v)| flatten(&below(k), v, rows)),
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for (number, item) in (1..).zip(items) {
                flatten(&below(&i32::to_string(&number)), item, rows);
            }
        }
        Value::Null => {}
        Value::String(text) => rows.push((name.into(), text.clone())),
        other => rows.push((name.into(), other.to_string())),
    }
}

fn show_lengths(page: &mut Page, lengths: &Lengths) {
    let bins = lengths.bins.iter().enumerate();
    let bins = bins.filter(|(_, n)| **n > 0);
    let bins = bins.map(|(i, n)| (Lengths::bin(i) as f64, Lengths::bin(i + 1) as f64, *n));
    let bins: Vec<(f64, f64, u64)> = bins.collect();
    // Zero has no place on a logarithmic axis.
    let wide = bins.first().is_some_and(|b| b.0 > 0.0)
        && bins
            .last()
            .zip(bins.first())
            .is_some_and(|(l, f)| l.1 > 8.0 * f.0);
    let histogram = Histogram {
        title: "Lengths of the sequences".into(),
        x: Axis::new("letters", if wide { Scale::Log } else { Scale::Linear }),
        y: "sequences".into(),
        bins,
    };
    page.figure(
        &histogram.svg(),
        "Letters of each sequence as the input has them, before cleaning and truncating.",
    );
    let mean = lengths.letters as f64 / lengths.sequences.max(1) as f64;
    page.table(&[
        ("sequences read", grouped(lengths.sequences)),
        ("letters", grouped(lengths.letters)),
        ("shortest", grouped(lengths.shortest)),
        ("mean", format!("{mean:.1}")),
        ("longest", grouped(lengths.longest)),
    ]);
}

/// Returns the tokens per second between samples, joined to at most [`MOST_POINTS`] points.
fn rates(samples: &[Sample]) -> Vec<(f64, f64)> {
    let step = samples.len().div_ceil(MOST_POINTS).max(1);
    let last = samples.len().saturating_sub(1);
    let kept = samples.iter().enumerate();
    let kept = kept.filter(|(i, _)| i.is_multiple_of(step) || *i == last);
    let mut before = Sample::default();
    let mut points = Vec::new();
    for (_, now) in kept {
        let (seconds, tokens) = (now.at - before.at, now.tokens.saturating_sub(before.tokens));
        if seconds > 0.0 {
            points.push((now.at, tokens as f64 / seconds));
            before = *now;
        }
    }
    points
}

fn shares(end: &Sample) -> Vec<f64> {
    let part = |seconds: f64| match end.at > 0.0 {
        true => (seconds / end.at).clamp(0.0, 1.0),
        false => 0.0,
    };
    let known = [end.computing, end.waiting_for_input, end.waiting_for_output].map(part);
    let rest = (1.0 - known.iter().sum::<f64>()).max(0.0);
    [known.to_vec(), vec![rest]].concat()
}

fn of_run(run: &RunRecord) -> Vec<(&'static str, String)> {
    let end = &run.end;
    let seconds = |s: f64| format!("{s:.1} s");
    let mut rows = vec![
        ("began", date(run.began_unix)),
        ("device", run.device.clone()),
        ("threads", grouped(run.threads)),
        ("time", seconds(end.at)),
        ("sequences computed", grouped(end.sequences)),
        ("sequences that stood already", grouped(end.reused)),
        ("tokens computed", grouped(end.tokens)),
        (
            "tokens per second",
            grouped((end.tokens as f64 / end.at.max(1e-9)) as u64),
        ),
        ("bound by", run.bound_by.clone()),
        ("computing", seconds(end.computing)),
        ("waiting for the reader", seconds(end.waiting_for_input)),
        ("waiting for the writer", seconds(end.waiting_for_output)),
        (
            "the writer waiting for the disk",
            seconds(end.waiting_for_disk),
        ),
    ];
    if let Some(machine) = &run.machine {
        rows.insert(2, ("processor", machine.clone()));
    }
    if let Some(peak) = run.peak_memory {
        rows.push(("peak memory", Bytes(peak).to_string()));
    }
    let energy = match run.processor_joules {
        Some(joules) => format!("{joules:.0} J, with all that ran on the processors"),
        None => "not known: this machine shows no counters to this user".into(),
    };
    rows.push(("energy of the processors", energy));
    if let Some(signal) = run.stopped {
        rows.push(("stopped by signal", signal.to_string()));
    }
    rows
}

fn yes(value: bool) -> String {
    if value { "yes" } else { "no" }.into()
}

fn listed(numbers: &[usize]) -> String {
    let texts: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

fn short(name: &str) -> String {
    match name.char_indices().nth(LONGEST_NAME) {
        Some((at, _)) => format!("{}...", &name[..at]),
        None => name.to_owned(),
    }
}

/// A number with commas between the thousands.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time in seconds since 1970 as a date of the calendar, in UTC.
fn date(unix: u64) -> String {
    // Days to a date, after Hinnant's `civil_from_days`.
    let (days, rest) = (unix / 86400, unix % 86400);
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + 400 * era + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest % 3600 / 60, rest % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_dates_read_well() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(date(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(date(951_782_399), "2000-02-28 23:59:59 UTC");
        assert_eq!(date(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(date(1_796_083_200), "2026-12-01 00:00:00 UTC");
        assert!(date(u64::MAX / 4).ends_with("UTC"));
    }

    #[test]
    fn curves_have_few_points_and_hold_all_tokens() {
        let sample = |i: u64| Sample {
            at: i as f64 / 10.0,
            tokens: 50 * i,
            ..Sample::default()
        };
        let samples: Vec<Sample> = (0..=400).map(sample).collect();
        let points = rates(&samples);
        assert!(
            (40..=MOST_POINTS + 1).contains(&points.len()),
            "{}",
            points.len()
        );
        assert!(
            points.iter().all(|p| (p.1 - 500.0).abs() < 1e-6),
            "{points:?}"
        );
        assert_eq!(points.last().unwrap().0, 40.0);
        assert_eq!(rates(&[]), []);
    }

    #[test]
    fn times_of_a_record_that_make_no_sense_are_still_shares() {
        let end = Sample {
            at: 1.0,
            computing: 5.0,
            waiting_for_input: f64::NAN,
            ..Sample::default()
        };
        assert_eq!(shares(&end)[0], 1.0);
        assert_eq!(shares(&Sample::default())[..3], [0.0; 3]);
    }
}
