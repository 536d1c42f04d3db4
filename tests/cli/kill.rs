//! Jobs that are killed, stopped or out of disk space: finished shards stay, and a resumed job
//! makes up for the rest.
//!
//! `KILLS=50 cargo test --release --test cli kill::` kills 50 times.
#![cfg(unix)]

use crate::support::cli::*;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Returns the finished shards, in order.
fn list(out: &Path) -> Vec<std::path::PathBuf> {
    let mut shards: Vec<_> = std::fs::read_dir(out)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    shards.retain(|p| {
        p.file_name()
            .is_some_and(|n| n.to_string_lossy().starts_with("shard-"))
    });
    shards.sort();
    shards
}

/// Returns a random number from 0 to 1, another one each time.
fn chance() -> f64 {
    (RandomState::new().build_hasher().finish() >> 11) as f64 / (1u64 << 53) as f64
}

#[test]
fn killed_at_random_moments_and_resumed_is_the_same() {
    let kills: usize = std::env::var("KILLS").map_or(6, |k| k.parse().unwrap());
    let place = Place::new(800);
    let start = Instant::now();
    let shards = place.embed_ok("whole", "--per-token")["shards_computed"]
        .as_u64()
        .unwrap();
    let whole = start.elapsed();
    let (mut completed, mut lost, mut kept) = (0, 0, 0);
    for _ in 0..kills {
        let before = written(&place.path("out"));
        let mut child = place
            .embed("out", "--per-token --resume -q")
            .spawn()
            .unwrap();
        std::thread::sleep(whole.mul_f64(0.4 * chance()));
        child.kill().unwrap();
        let ended = child.wait().unwrap();
        let after = written(&place.path("out"));
        for (name, was) in &before {
            assert_eq!(
                after.get(name),
                Some(was),
                "{name} was finished and then touched"
            );
        }
        let partial = |n: &String| n.contains(".partial");
        lost +=
            u32::from(place.path("out").exists() && tree(&place.path("out")).keys().any(partial));
        kept += u32::from(!before.is_empty());
        if ended.success() {
            // The job ended before it was killed: check its output, and start again.
            assert_same(&place.path("whole"), &place.path("out"));
            std::fs::remove_dir_all(place.path("out")).unwrap();
            completed += 1;
        }
    }
    let stood = written(&place.path("out"))
        .keys()
        .filter(|n| n.ends_with("/shard.json"))
        .count() as u64;
    let summary = place.embed_ok("out", "--per-token --resume");
    assert_eq!(
        summary["shards_computed"],
        shards - stood,
        "{stood} of {shards} stood already"
    );
    assert_same(&place.path("whole"), &place.path("out"));
    println!(
        "{kills} kills: {lost} left a partial shard, {kept} hit a resumed job, {completed} came too late"
    );
}

#[test]
fn sigterm_finishes_the_shard_in_hand_and_says_how_to_resume() {
    jobs::sigterm_finishes_the_shard_in_hand_and_says_how_to_resume(&Place::new(800), "");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let place = Place::new(3000);
    let mut child = {
        let mut command = seqstream();
        command
            .current_dir(place.path(""))
            .args(["embed", "in.fa", "-m", "model", "-o", "out"]);
        command.args(["--threads", "1", "--shard-size", "100000"]);
        command.stderr(Stdio::piped()).spawn().unwrap()
    };
    let begun = || partial(&place.path("out"), 0).is_some();
    wait_until("a shard", &mut child, begun);
    signal(&child, "INT");
    let mut said = String::new();
    let mut pipe = child.stderr.take().unwrap();
    while !said.contains("once more") {
        let mut byte = [0];
        assert_eq!(pipe.read(&mut byte).unwrap(), 1, "{said}");
        said.push(char::from(byte[0]));
    }
    signal(&child, "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(begun());
    assert!(!place.path("out/shard-000000").exists());
}

#[test]
fn ctrl_c_on_a_pipe_that_says_nothing_more() {
    let place = Place::new(0);
    let mut command = seqstream();
    command.current_dir(place.path("")).args([
        "embed",
        "-",
        "-m",
        "model",
        "-o",
        "out",
        "--shard-size",
        "16",
    ]);
    let mut child = command
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // This is more than any buffer on the way holds back.
    stdin.write_all(fasta(5000).as_bytes()).unwrap();
    stdin.flush().unwrap();
    wait_for(&place.path("out/shard-000000"), &mut child);
    signal(&child, "INT");
    // The standard input stays open to the end of this test.
    let status = child.wait().unwrap();
    drop(stdin);
    assert_eq!(status.code(), Some(130));
    assert!(
        tree(&place.path("out"))
            .keys()
            .all(|n| !n.contains(".partial"))
    );
    let last = list(&place.path("out")).pop().unwrap();
    assert_eq!(
        std::fs::read_to_string(last.join("ids.txt"))
            .unwrap()
            .lines()
            .count(),
        16
    );
}

#[test]
fn an_output_without_space_is_an_error_that_loses_no_finished_shard() {
    let place = Place::new(16);
    let mut text = fasta(16);
    text.push_str(
        &(0..16)
            .map(|i| format!(">long{i}\n{}\n", "MKVLA".repeat(40)))
            .collect::<String>(),
    );
    std::fs::write(place.path("in.fa"), text).unwrap();
    place.embed_ok("whole", "--per-token");
    let full = place.embed("out", "--per-token");
    let mut limited = Command::new("sh");
    // Files have at most 320 kB (160 kB if the shell's block is 512 bytes); writing beyond is an
    // error.
    limited.current_dir(place.path("")).args([
        "-c",
        "trap '' XFSZ; ulimit -f 320; exec \"$@\"",
        "sh",
    ]);
    limited.arg(full.get_program()).args(full.get_args());
    fails(
        limited,
        5,
        &[
            "layer_2.safetensors (shard 1)",
            "--resume: finished shards are kept",
        ],
    );
    let before = written(&place.path("out"));
    assert!(before.contains_key("shard-000000/shard.json"));
    assert!(
        partial(&place.path("out"), 1).is_none(),
        "what is half written is removed"
    );
    let summary = place.embed_ok("out", "--per-token --resume");
    assert_eq!(
        (&summary["shards_computed"], &summary["sequences_reused"]),
        (&1.into(), &16.into())
    );
    assert_eq!(
        written(&place.path("out"))["shard-000000/shard.json"],
        before["shard-000000/shard.json"]
    );
    assert_same(&place.path("whole"), &place.path("out"));
}

#[test]
fn two_jobs_do_not_write_in_one_place() {
    let place = Place::new(3000);
    let mut child = place.embed("out", "-q").spawn().unwrap();
    wait_for(&place.path("out/shard-000000"), &mut child);
    place.embed_fails("out", "--resume", 6, &["another seqstream job is running"]);
    child.kill().unwrap();
    child.wait().unwrap();
    place.embed_ok("out", "--resume");
}
