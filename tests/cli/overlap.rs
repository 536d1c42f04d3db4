//! `overlap`: what a study on a simulated machine says, the files that it writes, and bad input.
#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};
use std::process::Output;

use crate::support::cli::seqstream;
use crate::support::cuda;
use seqstream::backend::cuda::kernels;
use serde_json::Value;

fn machine(name: &str) -> PathBuf {
    let machines = Path::new(env!("CARGO_MANIFEST_DIR")).join("machines");
    machines.join(name)
}

fn overlap(arguments: &[&str], out: Option<&Path>) -> Output {
    let mut command = seqstream();
    command.args(["overlap", "--json", "--lengths", "350"]);
    command.args(arguments);
    if let Some(out) = out {
        command.arg("--out").arg(out);
    }
    let command = command.env("SEQSTREAM_LIBCUDA", cuda::library());
    command.output().unwrap()
}

fn simulated(model: &str, file: &str, out: Option<&Path>) -> Output {
    let file = machine(file);
    overlap(
        &["--model", model, "--simulate", file.to_str().unwrap()],
        out,
    )
}

/// Returns exit code and message of a command that fails.
#[track_caller]
fn refused(output: &Output) -> (i32, String) {
    assert!(!output.status.success() && output.stdout.is_empty());
    let message = String::from_utf8(output.stderr.clone()).unwrap();
    (output.status.code().unwrap(), message)
}

/// Checks that every element of an XML text is closed where it should be, that attributes are in
/// quotation marks, and that no text has a bare `<` or `&`.
fn well_formed(xml: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = xml;
    while let Some(at) = rest.find('<') {
        text(&rest[..at]);
        let end = at + rest[at..].find('>').unwrap();
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        assert!(!tag.contains('<'), "{tag}");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "</{name}>");
            continue;
        }
        let inner = tag.trim_end_matches('/');
        let parts: Vec<&str> = inner.split('\'').collect();
        assert_eq!(parts.len() % 2, 1, "{tag}");
        for (part, value) in parts.iter().zip(parts.iter().skip(1)).step_by(2) {
            assert!(part.ends_with('='), "{tag}");
            text(value);
        }
        if !tag.ends_with('/') {
            open.push(inner.split_whitespace().next().unwrap());
        }
    }
    text(rest);
    assert_eq!(open, [""; 0]);
}

fn text(text: &str) {
    for (at, _) in text.match_indices('&') {
        let entities = ["&amp;", "&lt;", "&gt;", "&#39;", "&quot;"];
        assert!(entities.iter().any(|e| text[at..].starts_with(e)), "{text}");
    }
}

fn number(point: &Value, name: &str) -> f64 {
    let number = point[name].as_f64();
    number.unwrap_or_else(|| panic!("{name} in {point}"))
}

#[test]
fn a_study_keeps_its_bounds_and_its_files_agree() {
    if kernels::NVCC.is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("study");
    let output = simulated("35M", "h200.toml", Some(&out));
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["place"].as_str().unwrap().starts_with("simulated "));
    let points = report["points"].as_array().unwrap();
    // Six sizes with four ways to keep the weights; without streams two; and states of tokens.
    assert_eq!(points.len(), 6 * 4 + 6 * 2 + 4);
    for point in points {
        assert_eq!(point["dropped"], 0, "{point}");
        let bound = number(point, "bound_of_wall");
        assert!((0.0..1.01).contains(&bound), "{point}");
        let wall = number(point, "wall_seconds");
        let (compute, idle) = (
            number(point, "compute_seconds"),
            number(point, "idle_seconds"),
        );
        assert!(compute > 0.0, "{point}");
        assert!((compute + idle - wall).abs() < 1e-9 * wall, "{point}");
        if point["slots"].is_null() {
            assert!(point["hidden_of_load"].is_null(), "{point}");
            continue;
        }
        let (hidden, ceiling) = (number(point, "hidden_of_load"), number(point, "ceiling"));
        assert!(hidden <= ceiling + 0.01, "{point}");
        if point["streams"] == true || point["per_token"] == true {
            continue;
        }
        // Without streams nothing runs on the device at the same time, and only the host's work
        // hides.
        assert_eq!(number(point, "copies_hidden"), 0.0, "{point}");
        let same = |p: &&Value| {
            p["slots"] == 2
                && p["streams"] == true
                && p["per_token"] == false
                && p["token_budget"] == point["token_budget"]
        };
        let with = number(points.iter().find(same).unwrap(), "hidden_of_load");
        assert!(hidden <= with + 0.02, "{hidden} {with} {point}");
    }
    for slots in [2, 3, 4] {
        let hidden: Vec<f64> = points
            .iter()
            .filter(|p| p["slots"] == slots && p["streams"] == true && p["per_token"] == false)
            .map(|p| number(p, "hidden_of_load"))
            .collect();
        assert_eq!(hidden.len(), 6);
        assert!(
            hidden.windows(2).all(|w| w[0] < w[1] + 0.01),
            "{slots}: {hidden:?}"
        );
        assert!(hidden[5] > hidden[0] + 0.3, "{slots}: {hidden:?}");
    }

    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    let stored: Value = serde_json::from_str(&read("overlap.json")).unwrap();
    assert_eq!(stored, report);
    let csv = read("overlap.csv");
    let mut lines = csv.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let names = lines.next().unwrap();
    let rows: Vec<Vec<&str>> = lines.collect();
    assert_eq!(rows.len(), points.len());
    for (row, point) in rows.iter().zip(points) {
        assert_eq!(row.len(), names.len());
        for (name, value) in names.iter().zip(row) {
            match (*name, &point[*name]) {
                ("weights", _) => {
                    let slots = value.strip_prefix("streamed:").map(|s| s.parse().unwrap());
                    assert_eq!(slots, point["slots"].as_u64(), "{row:?}");
                }
                (_, Value::Null) => assert_eq!(*value, ""),
                (_, known) => assert_eq!(serde_json::from_str::<f64>(value).ok(), known.as_f64()),
            }
        }
    }
    let page = read("overlap.html");
    for elsewhere in ["http", "<script", "<link", "src=", "@import", "url("] {
        assert!(!page.contains(elsewhere), "{elsewhere}");
    }
    let svgs: Vec<PathBuf> = std::fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "svg"))
        .collect();
    assert_eq!(svgs.len(), 4, "{svgs:?}");
    assert_eq!(page.matches("<svg").count(), 4);
    svgs.iter()
        .for_each(|svg| well_formed(&std::fs::read_to_string(svg).unwrap()));
}

#[test]
fn settings_that_do_not_fit_are_left_out_by_name() {
    if kernels::NVCC.is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let small = dir.path().join("small.toml");
    let text = std::fs::read_to_string(machine("h200.toml")).unwrap();
    std::fs::write(&small, text.replace("memory_gib = 139", "memory_gib = 1")).unwrap();
    // The weights take 1.3 GB.
    let file = small.to_str().unwrap();
    let output = overlap(&["--model", "650M", "--simulate", file], None);
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let skipped = report["skipped"].as_array().unwrap();
    assert!(skipped.iter().any(|s| s["slots"].is_null()), "{skipped:?}");
    assert!(
        skipped
            .iter()
            .all(|s| !s["reason"].as_str().unwrap().is_empty())
    );
    let points = report["points"].as_array().unwrap();
    assert!(points.iter().all(|p| !p["slots"].is_null()));
}

#[test]
fn what_a_study_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let taken = dir.path().join("taken");
    std::fs::create_dir(&taken).unwrap();
    std::fs::write(taken.join("notes.txt"), "mine").unwrap();
    let (code, said) = refused(&simulated("8M", "h200.toml", Some(&taken)));
    assert_eq!(code, 6, "{said}");
    assert!(
        said.contains("notes.txt") && said.contains("empty"),
        "{said}"
    );
    assert_eq!(std::fs::read(taken.join("notes.txt")).unwrap(), b"mine");
    // A directory below a file cannot be made.
    let below = taken.join("notes.txt/out");
    let (code, said) = refused(&simulated("8M", "h200.toml", Some(&below)));
    assert_eq!(code, 5, "{said}");
    for device in ["cpu", "gpu"] {
        let output = overlap(&["--model", "examples/tiny-esm2", "--device", device], None);
        let (code, said) = refused(&output);
        assert_eq!(code, 2, "{said}");
        assert!(said.contains("--device"), "{said}");
    }
    let (code, said) = refused(&simulated("8M", "no-such-machine.toml", None));
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("no-such-machine.toml"), "{said}");
    let text = std::fs::read_to_string(machine("h200.toml")).unwrap();
    let wrong = dir.path().join("wrong.toml");
    std::fs::write(
        &wrong,
        text.replace("to_device_gb_per_s", "to_device_gb_per_h"),
    )
    .unwrap();
    let file = wrong.to_str().unwrap();
    let (code, said) = refused(&overlap(&["--model", "8M", "--simulate", file], None));
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("to_device_gb_per_h"), "{said}");
}
