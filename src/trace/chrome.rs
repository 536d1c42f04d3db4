//! A trace in the format of Chrome's tracing tool, as Kineto (PyTorch's profiler) writes it.
//! Perfetto opens it, and HolisticTraceAnalysis reads it.

use std::fmt::Write;

use super::clock::ClockReport;
use super::document::clocks_json;
use super::event::{Args, Category, Event, StreamKind, Track};

/// The number that the host has among the processes. Devices have their ordinals.
const HOST: u32 = 1000;
/// The number of a stream's track of fence waits is the stream's number plus this.
const WAITS: u32 = 50_000;

/// What every file begins with.
pub(super) const MARK: &str = r#"{"generator": "seqstream"#;

/// Returns the number of a stream, which no other stream of any device has. It counts from 10,
/// because readers of such traces take 0 for the default stream.
pub fn stream_number(device: u32, kind: StreamKind, number: u32) -> u32 {
    let kind = match kind {
        StreamKind::Load => 10,
        StreamKind::Compute => 20,
        StreamKind::Store => 30,
    };
    100 * device + kind + number
}

/// Returns the numbers of the process and of the thread that stand for a track.
pub fn tid(track: &Track, category: Category, host_number: u32) -> (u32, u32) {
    match track {
        Track::Stream {
            device,
            stream,
            number,
        } => {
            let number = stream_number(*device, *stream, *number);
            let waits = if category == Category::FenceWait {
                WAITS
            } else {
                0
            };
            (*device, number + waits)
        }
        Track::Host { .. } => (HOST, host_number),
    }
}

/// The head of the file, up to the events. HolisticTraceAnalysis looks for the rank.
pub(super) fn head(opened_unix_ns: u64) -> String {
    format!(
        "{MARK} {}\", \"schemaVersion\": 1, \"displayTimeUnit\": \"ms\",\n\
         \"distributedInfo\": {{\"backend\": \"none\", \"rank\": 0, \"world_size\": 1}},\n\
         \"baseTimeNanoseconds\": {opened_unix_ns},\n\"traceEvents\": [\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// The tail of the file, after the events.
pub(super) fn tail(whole: bool, dropped: u64, clocks: &[ClockReport]) -> String {
    format!(
        "],\n\"otherData\": {{\"whole\": {whole}, \"dropped\": {dropped}, \"clocks\": {}}}}}\n",
        clocks_json(clocks)
    )
}

/// Turns events into lines, and names each track when it occurs for the first time.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// The host tracks so far: a track's number is its place, counted from 1.
    hosts: Vec<Track>,
    /// The tracks that have a name already.
    named: Vec<(u32, u32)>,
}

impl Lines {
    /// Calls `write` with each element of the array that an event needs.
    pub fn of<E>(
        &mut self,
        event: &Event,
        mut write: impl FnMut(&str) -> Result<(), E>,
    ) -> Result<(), E> {
        let host = match &event.track {
            Track::Stream { .. } => 0,
            track => match self.hosts.iter().position(|known| known == track) {
                Some(place) => place + 1,
                None => {
                    self.hosts.push(track.clone());
                    self.hosts.len()
                }
            },
        };
        let (pid, tid) = tid(&event.track, event.category, host as u32);
        if !self.named.contains(&(pid, tid)) {
            if !self.named.iter().any(|(known, _)| *known == pid) {
                let process = match pid {
                    HOST => "host".to_owned(),
                    device => format!("device {device}"),
                };
                write(&name_line("process_name", (pid, 0), &process))?;
            }
            self.named.push((pid, tid));
            let waits = if tid >= WAITS { ": fence waits" } else { "" };
            let name = format!("{}{waits}", event.track);
            write(&name_line("thread_name", (pid, tid), &name))?;
        }
        write(&line(event, (pid, tid)))
    }
}

fn name_line(what: &str, (pid, tid): (u32, u32), name: &str) -> String {
    format!(
        r#"{{"ph":"M","name":"{what}","pid":{pid},"tid":{tid},"args":{{"name":{}}}}}"#,
        quoted(name)
    )
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn line(event: &Event, (pid, tid): (u32, u32)) -> String {
    let (ts, dur) = (event.start_ns, event.nanoseconds());
    let mut text = format!(
        r#"{{"ph":"X","cat":"{}","name":{},"pid":{pid},"tid":{tid},"ts":{}.{:03},"dur":{}.{:03}"#,
        category(event),
        quoted(&event.name),
        ts / 1000,
        ts % 1000,
        dur / 1000,
        dur % 1000
    );
    text += ",\"args\":{";
    let before = text.len();
    let on_stream = matches!(event.track, Track::Stream { .. });
    // A fence wait is no work: a reader would take an interval with a stream for a kernel.
    let work = event.category != Category::FenceWait;
    let Args {
        pass,
        layer,
        sequences,
        tokens,
        bytes,
        flops,
        outputs,
        inputs,
        device,
        stream,
        correlation,
    } = event.args;
    let mut put = |name: &str, value: Option<u64>| {
        if let Some(value) = value {
            let comma = if text.len() > before { "," } else { "" };
            // Writing to a `String` cannot fail.
            let _ = write!(text, "{comma}\"{name}\":{value}");
        }
    };
    let stream = stream.map(u64::from);
    put("stream", stream.filter(|_| on_stream && work));
    put("on stream", stream.filter(|_| !(on_stream && work)));
    put("device", device.map(u64::from));
    put("correlation", correlation);
    put("bytes", bytes);
    put("flops", flops);
    put("outputs", outputs);
    put("inputs", inputs);
    put("pass", pass);
    put("layer", layer);
    put("sequences", sequences);
    put("tokens", tokens);
    text += "}}";
    text
}

/// Returns the category that readers of such traces know.
fn category(event: &Event) -> &'static str {
    match event.category {
        Category::Kernel => "kernel",
        Category::Copy => "gpu_memcpy",
        Category::FenceWait => "fence_wait",
        Category::Runtime => "cuda_runtime",
        Category::Stage => "host_stage",
        Category::HostWait => "host_wait",
        Category::Operation => "cpu_op",
    }
}
