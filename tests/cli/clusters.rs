//! What batch systems need of the program: signals, the share of a job array, and the exit code of a
//! job that is to be run again.
#![cfg(unix)]

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::support::cli::*;

/// Starts a job that has written its first shard and waits for more records.
fn half_way(place: &Place, options: &str) -> (Child, ChildStdin) {
    let options = format!("--shard-size 4 {options}");
    let mut command = place.embed_from("-", "out", &options);
    command.stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(fasta(5).as_bytes()).unwrap();
    wait_for(&place.path("out/shard-000000"), &mut child);
    (child, stdin)
}

#[track_caller]
fn ends(child: Child, code: i32, says: &[&str]) {
    let output = child.wait_with_output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for part in says {
        assert!(text.contains(part), "\"{part}\" is not in: {text}");
    }
}

#[test]
fn signals_of_batch_systems_stop_a_job_that_can_be_resumed() {
    let all = fasta(12);
    let piped = |place: &Place, out: &str, options: &str| {
        let options = format!("--shard-size 4 -q {options}");
        let mut command = place.embed_from("-", out, &options);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(all.as_bytes()).unwrap();
        drop(stdin);
        assert!(child.wait().unwrap().success());
    };
    for (name, options, code) in [
        ("USR1", "", 138),
        ("USR2", "", 140),
        ("USR1", "--stopped-code 85", 85),
        ("TERM", "--stopped-code 99", 99),
        ("INT", "--stopped-code 255", 255),
    ] {
        let place = Place::new(0);
        let (child, stdin) = half_way(&place, options);
        signal(&child, name);
        let by = format!("stopped by SIG{name}; all finished shards are kept");
        ends(child, code, &[&by, "to go on: "]);
        drop(stdin);
        assert!(place.path("out/shard-000000/shard.json").exists());
        assert!(!place.path("out/manifest.json").exists());
        piped(&place, "out", "--resume");
        piped(&place, "whole", "");
        assert_same(&place.path("whole"), &place.path("out"));
    }
}

/// A server that accepts a connection and never answers keeps the program from beginning its job.
#[cfg(feature = "hub")]
#[test]
fn a_signal_before_the_job_begins_ends_it_at_once() {
    for (name, options, code) in [
        ("USR1", "", 138),
        ("USR2", "", 140),
        ("TERM", "", 143),
        ("INT", "", 130),
        ("USR1", "--stopped-code 85", 85),
    ] {
        let place = Place::new(1);
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", server.local_addr().unwrap());
        let mut command = place.command(env!("CARGO_BIN_EXE_seqstream"));
        command.args(["embed", "in.fa", "--model", "someone/else", "--out", "out"]);
        command.args(options.split_whitespace());
        command.env("HF_ENDPOINT", address);
        command.env("HF_HUB_CACHE", place.path("cache"));
        command.env_remove("HF_HUB_OFFLINE");
        let child = command.stderr(Stdio::piped()).spawn().unwrap();
        let connection = server.accept().unwrap();
        signal(&child, name);
        ends(child, code, &[]);
        drop(connection);
        assert!(!place.path("out").exists());
    }
}

#[test]
fn codes_that_mean_something_else_are_no_codes_of_a_stopped_job() {
    let place = Place::new(1);
    for code in ["0", "9", "256", "-1", "x"] {
        let output = place.embed("out", &format!("--stopped-code={code}"));
        let output = { output }.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{code}");
        assert!(stderr(&output).contains("--stopped-code"), "{code}");
    }
}

/// Sets what Slurm sets for a task of an array with these ids.
fn task(command: &mut Command, id: u64, ids: (u64, u64), count: u64) -> &mut Command {
    for (name, value) in [
        ("JOB_ID", 77),
        ("TASK_ID", id),
        ("TASK_COUNT", count),
        ("TASK_MIN", ids.0),
        ("TASK_MAX", ids.1),
        ("TASK_STEP", 1),
    ] {
        command.env(format!("SLURM_ARRAY_{name}"), value.to_string());
    }
    command
}

#[test]
fn tasks_of_an_array_merge_to_the_whole() {
    let place = Place::new(90);
    place.embed_ok("whole", "");
    for id in 5..8 {
        let mut command = place.embed(&format!("part{id}"), "--share slurm");
        let output = task(&mut command, id, (5, 7), 3).output().unwrap();
        let text = stderr(&output);
        assert!(output.status.success(), "{text}");
        let says = format!(
            "share {}/3: task {id} of 5 to 7 of the Slurm array 77",
            id - 4
        );
        assert!(text.contains(&says), "{text}");
        assert!(
            text.contains("warning: the Slurm array begins at id 5"),
            "{text}"
        );
    }
    let mut merge = place.command(env!("CARGO_BIN_EXE_seqstream"));
    merge.args(["merge", "part5", "part6", "part7", "--out", "merged"]);
    assert!(merge.output().unwrap().status.success());
    assert_same(&place.path("whole"), &place.path("merged"));
}

#[test]
fn an_array_that_gives_no_shares_writes_nothing() {
    let place = Place::new(4);
    let mut command = place.embed("out", "--share slurm");
    task(&mut command, 3, (0, 3), 3);
    fails(
        command,
        2,
        &["the array has 3 tasks with ids from 0 to 3, so some ids between them are missing"],
    );
    let mut command = place.embed("out", "--share slurm");
    command
        .env_remove("SLURM_ARRAY_TASK_ID")
        .env_remove("SLURM_JOB_ID");
    fails(
        command,
        2,
        &["not a task of a Slurm job array", "sbatch --array=0-3"],
    );
    assert!(!place.path("out").exists());
}

#[test]
fn the_command_that_resumes_a_task_works_outside_of_the_array() {
    let place = Place::new(0);
    fs::write(place.path("in.fa"), fasta(12)).unwrap();
    let mut command = place.embed_from("-", "out", "--share slurm --shard-size 2");
    task(&mut command, 0, (0, 1), 2);
    command.stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(fasta(5).as_bytes()).unwrap();
    wait_for(&place.path("out/shard-000000"), &mut child);
    signal(&child, "USR1");
    ends(child, 138, &["--share 1/2 --shard-size 2", " --resume"]);
}
