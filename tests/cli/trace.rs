//! `--trace`: what the two files hold, on the CPU and on simulated devices, and that a job that is
//! killed leaves files that can be read.

use crate::support::cli::*;
use seqstream::trace::{Category, Document, Event, SCHEMA, StreamKind, Track, VERSION, host};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Reads both files of a trace, and checks what holds for every trace.
#[track_caller]
fn read(chrome: &Path) -> Document {
    let own = chrome.with_extension("seqstream.json");
    let document: Document = serde_json::from_slice(&std::fs::read(own).unwrap()).unwrap();
    assert_eq!(
        (document.schema.as_str(), document.version),
        (SCHEMA, VERSION)
    );
    let chrome: Value = serde_json::from_slice(&std::fs::read(chrome).unwrap()).unwrap();
    assert_eq!(chrome["distributedInfo"]["rank"], 0);
    let lines = chrome["traceEvents"].as_array().unwrap();
    let named: BTreeSet<(u64, u64)> = lines.iter().filter(|e| e["ph"] == "M").map(place).collect();
    let intervals = || lines.iter().filter(|e| e["ph"] == "X");
    for event in intervals() {
        assert!(named.contains(&place(event)), "{event}");
        assert!(event["ts"].as_f64().unwrap() >= 0.0 && event["dur"].as_f64().unwrap() >= 0.0);
        assert!(event["cat"].is_string() && event["name"].is_string() && event["args"].is_object());
    }
    if document.whole {
        assert_eq!(intervals().count(), document.events.len());
    }
    for event in &document.events {
        assert!(event.start_ns <= event.end_ns, "{event:?}");
    }
    document
}

fn place(event: &Value) -> (u64, u64) {
    (
        event["pid"].as_u64().unwrap(),
        event["tid"].as_u64().unwrap(),
    )
}

fn named<'a>(document: &'a Document, name: &'a str) -> impl Iterator<Item = &'a Event> {
    document.events.iter().filter(move |e| e.name == name)
}

fn sum(events: impl Iterator<Item = Option<u64>>) -> u64 {
    events.map(Option::unwrap).sum()
}

/// Asserts that the stages of a job add up to what its summary says.
#[track_caller]
fn adds_up(document: &Document, summary: &Value) {
    assert!(document.whole && document.dropped == 0);
    for stage in [
        "read", "tokenize", "pack", "launch", "collect", "write", "hash", "sync",
    ] {
        let sequences = sum(named(document, stage).map(|e| e.args.sequences));
        assert_eq!(summary["sequences"], sequences, "{stage}");
    }
    for stage in ["tokenize", "launch", "collect", "write", "embed"] {
        let tokens = sum(named(document, stage).map(|e| e.args.tokens));
        assert_eq!(summary["tokens"], tokens, "{stage}");
    }
    assert_eq!(
        named(document, "clean").count(),
        named(document, "read").count()
    );
}

/// Asserts that the intervals of a stream follow each other, and that those of a host thread follow
/// each other or lie within each other.
#[track_caller]
fn nested(document: &Document) {
    let mut tracks: BTreeMap<&Track, Vec<&Event>> = BTreeMap::new();
    for event in &document.events {
        tracks.entry(&event.track).or_default().push(event);
    }
    for (track, mut events) in tracks {
        if matches!(track, Track::Stream { .. }) {
            events.sort_by_key(|e| (e.start_ns, e.end_ns));
            for pair in events.windows(2) {
                assert!(pair[0].end_ns <= pair[1].start_ns, "{pair:?}");
            }
            continue;
        }
        events.retain(|e| e.start_ns < e.end_ns);
        events.sort_by_key(|e| (e.start_ns, std::cmp::Reverse(e.end_ns)));
        let mut open: Vec<&Event> = Vec::new();
        for event in events {
            while open.last().is_some_and(|o| o.end_ns <= event.start_ns) {
                open.pop();
            }
            if let Some(outer) = open.last() {
                assert!(
                    event.end_ns <= outer.end_ns,
                    "{track}: {outer:?} and {event:?}"
                );
            }
            open.push(event);
        }
    }
}

#[test]
fn the_cpu_tells_its_stages_and_operations() {
    let place = Place::new(60);
    place.embed_ok("plain", "");
    let summary = place.embed_ok("out", "--trace t.json --token-budget 300");
    assert_same(&place.path("plain"), &place.path("out"));
    let document = read(&place.path("t.json"));
    adds_up(&document, &summary);
    nested(&document);
    let operations = document
        .events
        .iter()
        .filter(|e| e.category == Category::Operation);
    let counts = operations.fold(BTreeMap::new(), |mut counts, e| {
        *counts.entry(e.name.as_ref()).or_insert(0) += 1;
        counts
    });
    // A model of two layers: four products in each, one of them with GELU.
    let passes = counts["embed"];
    assert!(passes > 10, "{counts:?}");
    assert_eq!(counts["attention"], 2 * passes);
    assert_eq!(
        (counts["product"], counts["product_gelu"]),
        (6 * passes, 2 * passes)
    );
    assert_eq!(counts["represent"], passes);
    let layers: BTreeSet<u64> = named(&document, "attention")
        .filter_map(|e| e.args.layer)
        .collect();
    assert_eq!(layers, BTreeSet::from([1, 2]));
}

#[test]
fn a_benchmark_tells_its_rounds() {
    let place = Place::new(0);
    let mut command = seqstream();
    command.current_dir(place.path(""));
    command.args([
        "bench",
        "-m",
        "model",
        "--lengths",
        "30",
        "--tokens",
        "300",
        "--rounds",
        "2",
    ]);
    let output = command
        .args(["--threads", "1", "--trace", "t.json"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(
        said.contains(" intervals in t.json and t.seqstream.json"),
        "{said}"
    );
    let document = read(&place.path("t.json"));
    nested(&document);
    let tokens = sum(named(&document, "launch").map(|e| e.args.tokens));
    // Two rounds, and one that is not timed.
    assert_eq!(tokens, 3 * 300);
    assert_eq!(
        sum(named(&document, "embed").map(|e| e.args.tokens)),
        tokens
    );
}

#[test]
fn a_file_that_cannot_be_written_is_an_error_before_anything_runs() {
    let place = Place::new(3);
    std::fs::create_dir(place.path("folder")).unwrap();
    for path in ["no/t.json", "folder", "folder/no/t.json"] {
        let says = ["--trace: the trace cannot be written to", path];
        place.embed_fails("out", &format!("--trace {path}"), 5, &says);
    }
    let before = std::fs::read(place.path("in.fa")).unwrap();
    place.embed_fails(
        "out",
        "--trace in.fa",
        5,
        &["in.fa", "not a trace of seqstream"],
    );
    assert_eq!(std::fs::read(place.path("in.fa")).unwrap(), before);
    assert!(!place.path("out").exists());
    // A trace may be overwritten, so that a job can be resumed by the same command.
    place.embed_ok("out", "--trace t.json");
    place.embed_ok("out", "--trace t.json --resume");
}

/// Returns the names of the tracks.
fn tracks(document: &Document) -> BTreeSet<String> {
    document
        .events
        .iter()
        .map(|e| e.track.to_string())
        .collect()
}

#[cfg(unix)]
#[test]
fn a_job_that_is_killed_leaves_a_trace() {
    let place = Place::new(4000);
    let mut most = 0;
    for round in 0..6 {
        let out = format!("out{round}");
        let options = format!("--trace t{round}.json --token-budget 200 -q");
        let mut child = place.embed(&out, &options).spawn().unwrap();
        let file = place.path(&format!("t{round}.seqstream.json"));
        let events =
            || std::fs::read_to_string(&file).map_or(0, |t| t.matches("attention").count());
        wait_until("a flush", &mut child, || events() > 0);
        std::thread::sleep(std::time::Duration::from_millis(170 * round));
        child.kill().unwrap();
        if child.wait().unwrap().success() {
            continue; // it was too quick
        }
        let document = read(&place.path(&format!("t{round}.json")));
        assert!(!document.whole && !document.events.is_empty());
        nested(&document);
        most = most.max(document.events.len());
    }
    assert!(most > 100, "{most}");
}

#[cfg(target_os = "linux")]
mod cuda {
    use super::*;
    use crate::support::cuda::library;
    use crate::support::cuda::real::{absent, not_run, wants_real};
    use seqstream::backend::cuda::kernels;

    /// Times of different streams are rounded apart from each other, in nanoseconds.
    const ROUNDING: u64 = 100;

    /// Returns a place whose jobs compute on simulated devices.
    fn simulated(sequences: usize, devices: u32) -> Option<Place> {
        if kernels::FATBINS.is_empty() {
            absent("this build has no kernels (no nvcc)");
            return None;
        }
        if wants_real() {
            not_run("this test is of the simulated driver");
            return None;
        }
        Some(Place::new(sequences).on_cuda(&library(), devices))
    }

    fn on(device: u32, kind: StreamKind, event: &Event) -> bool {
        matches!(event.track, Track::Stream { device: d, stream, .. } if d == device && stream == kind)
    }

    /// Asserts what holds for the work of a device's passes.
    fn passes(document: &Document, device: u32, overlap: bool) {
        let kind = |kind| if overlap { kind } else { StreamKind::Compute };
        let events: Vec<&Event> = document.events.iter().collect();
        let of = |kind, category, pass: u64| {
            let all = events.iter().filter(move |e| on(device, kind, e));
            all.filter(move |e| e.category == category && e.args.pass == Some(pass))
        };
        let mut numbers: Vec<u64> = named(document, "embed")
            .filter(|e| on(device, StreamKind::Compute, e))
            .filter_map(|e| e.args.pass)
            .collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>());
        assert!(numbers.len() > 3, "device {device}: {numbers:?}");
        for pass in numbers {
            let copy = |stream, name: &str| {
                let mut found =
                    of(kind(stream), Category::Copy, pass).filter(|e| e.name.contains(name));
                let one = found.next().unwrap();
                assert!(found.next().is_none(), "pass {pass}");
                *one
            };
            let (load, store) = (
                copy(StreamKind::Load, "HtoD"),
                copy(StreamKind::Store, "DtoH"),
            );
            assert!(load.args.bytes > Some(0) && store.args.bytes > Some(0));
            let kernels: Vec<_> = of(StreamKind::Compute, Category::Kernel, pass).collect();
            assert!(kernels.len() >= 2 + 2 * 7, "{}", kernels.len());
            for kernel in kernels {
                assert!(
                    load.end_ns <= kernel.start_ns + ROUNDING,
                    "{load:?} and {kernel:?}"
                );
                assert!(
                    kernel.end_ns <= store.start_ns + ROUNDING,
                    "{kernel:?} and {store:?}"
                );
            }
        }
    }

    fn whole_job(devices: u32, options: &str, overlap: bool) {
        let Some(place) = simulated(60, devices) else {
            return;
        };
        place.embed_ok("plain", options);
        let traced = format!("{options} --trace t.json --token-budget 300");
        let summary = place.embed_ok("out", &traced);
        assert_same(&place.path("plain"), &place.path("out"));
        let document = read(&place.path("t.json"));
        adds_up(&document, &summary);
        nested(&document);
        for device in 0..devices {
            passes(&document, device, overlap);
            // The weights arrive once, as copies of no pass, from the pinned slots.
            let weights = |category: Category, name: &str| {
                let mine = |e: &&Event| match &e.track {
                    Track::Stream { device: d, .. } => *d == device,
                    Track::Host { .. } => e.args.device == Some(device),
                };
                let all = document.events.iter().filter(mine);
                let all = all.filter(|e| e.category == category && e.args.pass.is_none());
                sum(all.filter(|e| e.name.contains(name)).map(|e| e.args.bytes))
            };
            let arrived = weights(Category::Copy, "HtoD");
            assert!(arrived > 0);
            // Tensors that share a chunk have gaps of less than 256 bytes between them.
            let filled = weights(Category::Stage, "file to pinned");
            let gaps = 256
                * document
                    .events
                    .iter()
                    .filter(|e| e.name == "file to pinned")
                    .count();
            assert!(
                (filled..filled + gaps as u64).contains(&arrived),
                "{arrived} and {filled}"
            );
        }
        // Each piece of work on a device has one call of the host.
        let numbers = |category: &[Category]| {
            let some = document
                .events
                .iter()
                .filter(|e| category.contains(&e.category));
            let mut numbers: Vec<u64> = some.filter_map(|e| e.args.correlation).collect();
            numbers.sort_unstable();
            numbers
        };
        let work = numbers(&[Category::Kernel, Category::Copy]);
        assert_eq!(work, (1..=work.len() as u64).collect::<Vec<_>>());
        assert_eq!(work, numbers(&[Category::Runtime]));
        assert_eq!(document.clocks.len(), devices as usize);
        assert!(document.clocks.iter().all(|clock| clock.end.is_some()));
    }

    #[test]
    fn a_device_tells_its_copies_kernels_and_waits() {
        whole_job(1, "", true);
    }

    #[test]
    fn two_devices_and_several_tokenizing_threads_have_tracks_of_their_own() {
        whole_job(2, "--threads 8 --per-token", true);
    }

    #[test]
    fn with_the_streams_off_everything_is_on_one_track() {
        whole_job(1, "--streams off", false);
    }

    #[test]
    fn each_thread_and_stream_has_a_track() {
        let Some(place) = simulated(60, 1) else {
            return;
        };
        place.embed_ok("out", "--threads 8 --trace t.json");
        let there = tracks(&read(&place.path("t.json")));
        for track in [
            host::READER,
            host::PACKER,
            host::COMPUTING,
            host::WRITER,
            host::FINISHER,
            "device 0 load 0",
            "device 0 load 1",
            "device 0 compute 0",
            "device 0 store 0",
            "weights",
            "upload slot",
            "tokens",
        ] {
            assert!(
                there.contains(track) || there.contains(&format!("{track} 1")),
                "{there:?}"
            );
        }
    }

    #[test]
    fn a_killed_job_on_a_device_leaves_a_trace() {
        let Some(place) = simulated(3000, 1) else {
            return;
        };
        let options = "--trace t.json --token-budget 200 -q";
        let mut child = place.embed("out", options).spawn().unwrap();
        let file = place.path("t.seqstream.json");
        let events =
            || std::fs::read_to_string(&file).map_or(0, |t| t.matches("attention").count());
        wait_until("kernels of some passes", &mut child, || events() > 50);
        child.kill().unwrap();
        child.wait().unwrap();
        let document = read(&place.path("t.json"));
        assert!(!document.whole && document.clocks[0].end.is_none());
        assert!(named(&document, "attention").count() > 10);
    }
}
