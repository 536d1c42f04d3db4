//! Records what a run of a job measures, for `seqstream report`.

use std::time::{SystemTime, UNIX_EPOCH};

use super::options::EmbedOptions;
use super::progress::Display;
use super::{Console, machine};
use seqstream::engine::Device;
use seqstream::output::{JobDir, RunRecord, Sample, append_run};
use seqstream::pipeline::{Bound, Observer, Progress, Report};

/// The most samples that are kept. When there are more, every second one is dropped.
const MOST: usize = 400;

/// Shows the progress and keeps samples of it.
pub struct Recording<'a> {
    display: Display<'a>,
    run: RunRecord,
    /// The time between two samples in seconds.
    every: f64,
    /// The energy counter of the processors at the begin.
    energy: Option<machine::Energy>,
}

impl<'a> Recording<'a> {
    /// Begins to record.
    pub fn begin(display: Display<'a>, options: &EmbedOptions) -> Self {
        let began = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            display,
            run: RunRecord {
                seqstream: env!("CARGO_PKG_VERSION").into(),
                began_unix: began.map_or(0, |d| d.as_secs()),
                device: name(&options.device),
                machine: machine::processor(),
                threads: options.threads as u64,
                ..RunRecord::default()
            },
            every: 0.1,
            energy: machine::Energy::now(),
        }
    }

    /// Ends the display.
    pub fn finish(&self) {
        self.display.finish();
    }

    /// Adds the run to the record in the output directory. A job does not fail because of that.
    pub fn write(mut self, dir: &JobDir, report: &Report, console: &Console) {
        let end = sample(&report.progress);
        self.run.samples.push(end);
        self.run.end = end;
        self.run.complete = report.manifest.is_some();
        self.run.stopped = report.stopped;
        self.run.bound_by = match report.progress.bound() {
            Bound::Model => "model",
            Bound::Input => "input",
            Bound::Output => "output",
            Bound::Disk => "disk",
        }
        .into();
        self.run.peak_memory = machine::peak_memory();
        self.run.processor_joules = self.energy.and_then(|e| e.joules_since());
        if self.run.complete {
            self.run.lengths = Some(report.notes.lengths.clone());
        }
        if let Err(error) = append_run(dir, &self.run) {
            console.warn(&format!(
                "{error}; the output is complete without it, but a report will lack this run"
            ));
        }
    }
}

impl Observer for Recording<'_> {
    fn progress(&mut self, progress: &Progress) {
        self.display.progress(progress);
        let at = progress.elapsed.as_secs_f64();
        let samples = &mut self.run.samples;
        if samples.last().is_some_and(|last| at < last.at + self.every) {
            return;
        }
        if samples.len() >= MOST {
            let mut number = 0;
            samples.retain(|_| {
                number += 1;
                number % 2 == 1
            });
            self.every *= 2.0;
        }
        samples.push(sample(progress));
    }

    fn stopping(&mut self, signal: i32) {
        self.display.stopping(signal);
    }
}

/// Returns the devices as the user would name them.
fn name(device: &Device) -> String {
    match device {
        Device::Cpu => "cpu".into(),
        Device::Cuda { devices, .. } => {
            let numbers: Vec<String> = devices.iter().map(ToString::to_string).collect();
            format!("cuda:{}", numbers.join(","))
        }
    }
}

fn sample(progress: &Progress) -> Sample {
    Sample {
        at: progress.elapsed.as_secs_f64(),
        sequences: progress.records,
        tokens: progress.tokens,
        reused: progress.reused,
        computing: progress.compute.as_secs_f64(),
        waiting_for_input: progress.starved.as_secs_f64(),
        waiting_for_output: progress.held_up.as_secs_f64(),
        waiting_for_disk: progress.disk.as_secs_f64(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_long_run_keeps_a_bounded_number_of_samples() {
        let console = Console::new(
            super::super::Verbosity::Quiet,
            clap::ColorChoice::Never,
            false,
        );
        let mut recording = Recording {
            display: Display::new(&console, None),
            run: RunRecord::default(),
            every: 0.1,
            energy: None,
        };
        for i in 0..100_000 {
            recording.progress(&Progress {
                tokens: i,
                elapsed: Duration::from_millis(100 * i),
                ..Progress::default()
            });
        }
        let samples = &recording.run.samples;
        assert!(
            (MOST / 2..=MOST).contains(&samples.len()),
            "{}",
            samples.len()
        );
        assert!(
            samples
                .windows(2)
                .all(|s| s[0].at < s[1].at && s[0].tokens < s[1].tokens)
        );
        assert!(samples[0].at < 1.0 && samples[samples.len() - 1].at > 9_900.0);
    }
}
