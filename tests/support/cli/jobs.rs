//! The guarantees of a job on any device: bodies of tests, for the CPU and for simulated devices.

use std::io::Write;
use std::process::Stdio;

use super::*;

pub fn the_bytes_are_the_same_however_it_runs(place: &Place) {
    place.embed_ok("one", "--layers=0,-1 --per-token");
    for (i, options) in [
        "--threads 3",
        "--threads 2 --token-budget 1",
        "--token-budget 100000 --threads 2",
    ]
    .iter()
    .enumerate()
    {
        let out = format!("again{i}");
        place.embed_ok(&out, &format!("--layers=0,-1 --per-token {options}"));
        assert_same(&place.path("one"), &place.path(&out));
    }
}

pub fn shares_merge_to_the_whole(place: &Place) {
    place.embed_ok("whole", "");
    for i in 1..=3 {
        place.embed_ok(&format!("part{i}"), &format!("--share {i}/3"));
    }
    let merge = |sources: &[&str], out: &str| {
        let mut command = place.command(env!("CARGO_BIN_EXE_seqstream"));
        command.arg("merge").args(sources).args(["--out", out]);
        command
    };
    let merged = merge(&["part3", "part1", "part2"], "merged").output();
    assert!(merged.unwrap().status.success());
    assert_same(&place.path("whole"), &place.path("merged"));
    fails(
        merge(&["part1", "part3"], "less"),
        6,
        &["records 17 to 32 stand in none"],
    );
    fails(
        merge(&["part1", "part2", "part3", "part2"], "more"),
        6,
        &["stand twice", "part2"],
    );
    fails(
        merge(&["part1", "part2", "part3"], "merged"),
        6,
        &["already holds a job"],
    );
}

/// Checks that the row of a sequence in windows is the mean of the windows' own rows, weighted by
/// their residues.
pub fn windows_are_averaged_by_their_residues(place: &Place) {
    let long: String = (0..45)
        .map(|j| char::from(b"ACDEFGHIKLMNPQRSTVWY"[j * j % 19]))
        .collect();
    let write = |sequences: &[&str]| {
        let records = sequences.iter().map(|s| format!(">a\n{s}\n"));
        std::fs::write(place.path("in.fa"), records.collect::<String>()).unwrap();
    };
    let (short, exact) = ("MKVLA", &"MKVLAGYWCD".repeat(2)[..]);
    write(&[short, &long, exact]);
    let options = "--max-length 20 --long window --stride 15";
    let summary = place.embed_ok("windows", options);
    assert_eq!(summary["counts"]["windowed"], 1);
    // A sequence of 20 residues is not cut; a budget of one window at a time changes nothing.
    place.embed_ok("narrow", &format!("{options} --token-budget 1"));
    assert_same(&place.path("windows"), &place.path("narrow"));
    let windows = [&long[..20], &long[15..35], &long[30..]];
    write(&[short, windows[0], windows[1], windows[2], exact]);
    place.embed_ok("pieces", "");
    let (got, pieces) = (
        rows(&place.path("windows"), 2),
        rows(&place.path("pieces"), 2),
    );
    let (got, pieces): (Vec<_>, Vec<_>) = (got.chunks(32).collect(), pieces.chunks(32).collect());
    assert_eq!((got.len(), pieces.len()), (3, 5));
    assert_eq!((got[0], got[2]), (pieces[0], pieces[4]));
    for d in 0..32 {
        let weighted = (0..3).map(|w| windows[w].len() as f64 * f64::from(pieces[1 + w][d]));
        let expected = weighted.sum::<f64>() / 55.0;
        assert!((f64::from(got[1][d]) - expected).abs() < 1e-6, "{d}");
    }
}

pub fn a_pipe_is_an_input_too(place: &Place) {
    place.embed_ok("file", "");
    let input = std::fs::read(place.path("in.fa")).unwrap();
    let mut command = place.embed_from("-", "pipe", "-q");
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&input).unwrap();
    assert!(child.wait().unwrap().success());
    let (file, pipe) = (tree(&place.path("file")), tree(&place.path("pipe")));
    assert_eq!(
        file.keys().collect::<Vec<_>>(),
        pipe.keys().collect::<Vec<_>>()
    );
    for (name, bytes) in file.iter().filter(|(n, _)| n.starts_with("shard-")) {
        assert!(&pipe[name] == bytes, "{name}");
    }
    let manifest: serde_json::Value = serde_json::from_slice(&pipe["manifest.json"]).unwrap();
    assert_eq!(
        manifest["job"]["inputs"][0]["blake3"],
        blake3::hash(&input).to_hex().as_str()
    );
}

/// Writes the rows of two sequences, layers 2 and 0, to `out`.
pub fn dnabert_reads_its_own_tokenizer(place: &Place) {
    std::fs::remove_dir_all(place.path("model")).unwrap();
    place.model("model", ModelConfig::dnabert(2, 32, 4), 1);
    std::fs::write(place.path("in.fa"), ">a\nACGTNNACGTACGGTCA\n>b\nacgt\n").unwrap();
    let summary = place.embed_ok("out", "--layers=-1,0");
    assert_eq!(summary["counts"]["lowercase"], 4);
    assert_eq!(summary["counts"]["unknown"], 2);
    assert_eq!(rows(&place.path("out"), 2).len(), 2 * 32);
    let tokenizer = place.path("model/tokenizer.json");
    std::fs::rename(&tokenizer, place.path("tokenizer.json")).unwrap();
    place.embed_fails("other", "", 4, &["model has no tokenizer.json"]);
    std::fs::rename(place.path("tokenizer.json"), tokenizer).unwrap();
}

#[cfg(unix)]
pub fn sigterm_finishes_the_shard_in_hand_and_says_how_to_resume(place: &Place, options: &str) {
    place.embed_ok("whole", options);
    let mut command = place.embed("out", options);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    wait_for(&place.path("out/shard-000000"), &mut child);
    signal(&child, "TERM");
    let output = child.wait_with_output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(143), "{text}");
    assert!(
        text.contains("SIGTERM: finishing the shard in hand"),
        "{text}"
    );
    let before = written(&place.path("out"));
    assert!(
        tree(&place.path("out"))
            .keys()
            .all(|n| !n.contains(".partial"))
    );
    assert!(!place.path("out/manifest.json").exists());
    // Following exactly the hint brings the job to its end.
    let again = text
        .lines()
        .find_map(|l| l.split_once("to go on: "))
        .unwrap()
        .1;
    let output = place.command("sh").args(["-c", again]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let after = written(&place.path("out"));
    assert!(before.iter().all(|(name, was)| after[name] == *was));
    assert_same(&place.path("whole"), &place.path("out"));
}
