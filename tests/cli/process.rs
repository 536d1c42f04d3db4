//! The operating system's influence on a job: limits of threads, files and memory, signals, and
//! files that change while they are in use. The program runs as a child, under `prlimit` or a
//! shell's `ulimit`.
#![cfg(target_os = "linux")]

use crate::support::cli::*;
use seqstream::architecture::ModelConfig;
use seqstream::dtype::DType;
use seqstream::weights::random::write_random;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Output, Stdio};

/// Returns the same command, run by a shell after `before` (a `ulimit` or `trap` command).
fn after(before: &str, command: &Command) -> Command {
    let mut shell = Command::new("bash");
    shell.args(["-c", &format!("{before}; exec \"$@\""), "bash"]);
    shell.arg(command.get_program()).args(command.get_args());
    shell.current_dir(command.get_current_dir().unwrap());
    shell.stdin(Stdio::null());
    shell
}

/// Starts a job that reads a pipe; returns the pipe's other end, too.
fn from_pipe(place: &Place, out: &str, options: &str) -> (Child, ChildStdin) {
    let mut command = place.embed_from("-", out, options);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stdin = child.stdin.take().unwrap();
    (child, stdin)
}

#[track_caller]
fn ends(child: Child, code: i32, says: &[&str]) -> Output {
    let output = child.wait_with_output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for part in says {
        assert!(text.contains(part), "\"{part}\" is not in: {text}");
    }
    assert!(!text.contains("panicked"), "{text}");
    output
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout == b"0\n"
}

#[test]
fn a_thread_that_cannot_be_had_is_an_error_whichever_it_is() {
    let place = Place::new(40);
    // The program must lie where anyone may run it, and the directory must be writable for anyone.
    let program = place.path("seqstream");
    fs::copy(env!("CARGO_BIN_EXE_seqstream"), &program).unwrap();
    for path in ["", "seqstream", "model"] {
        fs::set_permissions(place.path(path), fs::Permissions::from_mode(0o777)).unwrap();
    }
    let (mut failed, mut ended) = (0, 0);
    for threads in 1..=12 {
        let embed = place.embed("out", "--threads 2 --resume -q");
        let mut command = Command::new("prlimit");
        command.arg(format!("--nproc={threads}")).arg(&program);
        command.args(embed.get_args()).current_dir(place.path(""));
        if is_root() {
            // No such limit holds for root; no other process runs as this user.
            command.uid(65534).gid(65534);
        } else if threads > 1 {
            // Other programs run as this user.
            break;
        }
        let output = command.output().unwrap();
        let text = stderr(&output);
        assert!(!text.contains("panicked"), "{threads}: {text}");
        match output.status.code() {
            Some(0) => ended += 1,
            Some(1) => {
                let said = ["cannot start a thread", "could not start 2 worker threads"];
                assert!(said.iter().any(|s| text.contains(s)), "{threads}: {text}");
                failed += 1;
            }
            other => panic!("{threads}: {other:?}: {text}"),
        }
    }
    assert!(failed > 0 && (ended > 0 || !is_root()), "{failed} {ended}");
}

#[test]
fn numbers_beyond_any_machine_are_usage_errors() {
    let place = Place::new(1);
    for options in [
        "--threads 1025",
        "--threads 10000",
        "--token-budget 99999999999",
        "--max-length 99999999999999",
        "--shard-size 99999999999999",
        "--max-length 5 --long window --stride 99999999999999",
    ] {
        let output = place.embed("out", options).output().unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{options}: {text}");
        assert!(text.contains("is not in 1..="), "{options}: {text}");
        assert!(!place.path("out").exists());
    }
    for options in [
        "--threads 1025",
        "--tokens 999999999",
        "--rounds 9999999",
        "--lengths 9999999",
    ] {
        let mut command = place.command(env!("CARGO_BIN_EXE_seqstream"));
        command
            .args(["bench", "-m", "model"])
            .args(options.split(' '));
        let output = command.output().unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{options}: {text}");
        assert!(text.contains("is not in "), "{options}: {text}");
    }
}

#[test]
fn a_file_beyond_ulimit_f_is_an_error() {
    let place = Place::new(64);
    let command = after("ulimit -f 10", &place.embed("out", "--per-token -q"));
    fails(command, 5, &["File too large", "ulimit -f"]);
}

#[test]
fn few_open_files_are_waited_for() {
    let place = Place::new(40);
    place.embed_ok("whole", "--shard-size 1");
    for i in 0..6 {
        let out = format!("few{i}");
        let command = place.embed(&out, "--shard-size 1 -q");
        let output = after("ulimit -n 32", &command).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        assert_same(&place.path("whole"), &place.path(&out));
    }
    // This limit is not enough for one shard.
    let command = place.embed("too-few", "--layers=0,1,2 --per-token -q");
    let command = after("ulimit -n 13", &command);
    fails(command, 5, &["Too many open files", "ulimit -n"]);
}

#[test]
fn what_a_pipe_has_given_is_computed_when_it_pauses() {
    for (format, text) in [
        ("fasta", ">a\nMKVLA\n>b\nMKVLAG\n>c\nMKV\n>d\n"),
        ("fastq", "@a\nMKVLA\n+\nIIIII\n@b\nMKV\n+\nIII\n"),
    ] {
        let place = Place::new(0);
        let (mut child, mut stdin) = from_pipe(&place, "out", "-q");
        stdin.write_all(text.as_bytes()).unwrap();
        // The writer begins a shard with the first computed rows, before the input ends.
        wait_until("a shard is begun", &mut child, || {
            partial(&place.path("out"), 0).is_some()
        });
        let rest = if format == "fasta" {
            "MKVL\n"
        } else {
            "@e\nMKVL\n+\nIIII\n"
        };
        stdin.write_all(rest.as_bytes()).unwrap();
        drop(stdin);
        ends(child, 0, &[]);
        fs::write(place.path("in.fa"), format!("{text}{rest}")).unwrap();
        place.embed_ok("whole", "");
        assert_eq!(rows(&place.path("out"), 2), rows(&place.path("whole"), 2));
        let ids = |out: &str| fs::read(place.path(out).join("shard-000000/ids.txt")).unwrap();
        assert_eq!(ids("out"), ids("whole"));
    }
}

/// Starts a job that waits in the middle of its input, with its first shard finished.
fn half_way(place: &Place, out: &str) -> (Child, ChildStdin) {
    let (mut child, mut stdin) = from_pipe(place, out, "-q --shard-size 4");
    stdin.write_all(fasta(5).as_bytes()).unwrap();
    wait_for(&place.path(out).join("shard-000000"), &mut child);
    (child, stdin)
}

fn finish(mut stdin: ChildStdin) {
    // A job that has failed reads no more, so this write may fail.
    let _ = stdin.write_all(fasta(20).as_bytes());
}

#[test]
fn weights_rewritten_while_a_job_runs_end_it() {
    let place = Place::new(0);
    let path = place.path("model/model.safetensors");
    let said = &[
        "model.safetensors changed while the job was running",
        "hint: ",
    ];
    let rewrite = |at: i64| {
        let mut file = fs::File::options().write(true).open(&path).unwrap();
        file.seek(SeekFrom::End(at)).unwrap();
        file.write_all(&[0; 64]).unwrap();
        file
    };
    let (child, stdin) = half_way(&place, "out");
    let was = fs::metadata(&path).unwrap().modified().unwrap();
    rewrite(-4000);
    finish(stdin);
    ends(child, 4, said);
    assert_eq!(list(&place.path("out")), ["shard-000000"]);
    assert!(!place.path("out/manifest.json").exists());

    // Here the modification time is set back, too, as some copying programs do.
    let (child, stdin) = half_way(&place, "set-back");
    rewrite(-8000).set_modified(was).unwrap();
    finish(stdin);
    ends(child, 4, said);
    assert_eq!(list(&place.path("set-back")), ["shard-000000"]);
}

#[test]
fn weights_of_the_same_content_are_the_same() {
    let place = Place::new(0);
    let path = place.path("model/model.safetensors");
    let (child, stdin) = half_way(&place, "whole");
    finish(stdin);
    ends(child, 0, &[]);
    // Other permissions or another name do not matter.
    let (child, stdin) = half_way(&place, "touched");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::hard_link(&path, place.path("model/copy")).unwrap();
    finish(stdin);
    ends(child, 0, &[]);
    assert_same(&place.path("whole"), &place.path("touched"));
    // Files replaced by rename do not matter: the job keeps using the files that it has opened.
    let (child, stdin) = half_way(&place, "replaced");
    place.model("other", ModelConfig::esm2(2, 32, 4), 2);
    for file in ["model.safetensors", "config.json"] {
        let to = place.path("model").join(file);
        fs::rename(place.path("other").join(file), to).unwrap();
    }
    finish(stdin);
    ends(child, 0, &[]);
    assert_same(&place.path("whole"), &place.path("replaced"));
}

#[test]
fn a_model_that_is_shortened_is_named() {
    let place = Place::new(0);
    let (child, stdin) = half_way(&place, "out");
    let path = place.path("model/model.safetensors");
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_len(4096).unwrap();
    finish(stdin);
    ends(
        child,
        4,
        &[
            "model/model.safetensors can no longer be read",
            "was shortened",
            "hint: ",
        ],
    );
    assert_eq!(list(&place.path("out")), ["shard-000000"]);
}

#[test]
fn a_signal_that_was_ignored_stays_ignored() {
    for (name, ignored) in [("INT", true), ("HUP", true), ("TERM", true), ("INT", false)] {
        let place = Place::new(0);
        let command = place.embed_from("-", "out", "--shard-size 4");
        let trap = if ignored {
            format!("trap '' {name}")
        } else {
            ":".into()
        };
        let mut command = after(&trap, &command);
        command.stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(fasta(5).as_bytes()).unwrap();
        wait_for(&place.path("out/shard-000000"), &mut child);
        signal(&child, name);
        if ignored {
            finish(stdin);
            ends(child, 0, &["complete: "]);
        } else {
            ends(child, 130, &["stopped by SIGINT"]);
        }
    }
}

/// Returns two short records, a record with this many letters, and another short record.
fn long_record(letters: usize) -> String {
    format!(
        ">a\nMKVLA\n>b\nMKV\n>long\n{}\n>c\nMK\n",
        "A".repeat(letters)
    )
}

const LONG: usize = 20_000_000;

#[test]
fn a_record_beyond_the_memory_there_is_ends_the_job_before_it_begins() {
    let place = Place::new(0);
    fs::write(place.path("in.fa"), long_record(LONG)).unwrap();
    let under = |limit: &str, options: &str, out: &str| after(limit, &place.embed(out, options));
    let said = &[
        "in.fa, record 3 ('long'), line 5: embedding this sequence of 20000000 letters needs about",
        "GiB of memory",
        "--max-length",
    ];
    for limit in ["ulimit -v 4000000", "ulimit -d 3000000"] {
        let kind = if limit.contains("-v") {
            "ulimit -v"
        } else {
            "ulimit -d"
        };
        let says = [said as &[&str], &[kind]].concat();
        fails(under(limit, "-q", "out"), 3, &says);
        fails(under(limit, "-q --max-length 19000000", "out"), 3, &says);
        assert!(!place.path("out").exists());
        // The hint's advice helps.
        let output = under(limit, "-q --max-length 100", kind).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
    }
}

#[test]
fn from_a_pipe_it_is_told_when_it_is_read() {
    let place = Place::new(0);
    let command = place.embed_from("-", "out", "-q --shard-size 2");
    let mut command = after("ulimit -v 4000000", &command);
    command.stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // The job may end before it has read everything.
    let _ = stdin.write_all(long_record(LONG).as_bytes());
    drop(stdin);
    let said =
        "standard input, record 3 ('long'), line 5: embedding this sequence of 20000000 letters";
    ends(child, 3, &[said, "hint: "]);
    assert_eq!(list(&place.path("out")), ["shard-000000"]);
}

#[test]
fn weights_beyond_the_memory_there_is_are_an_error() {
    let place = Place::new(4);
    fs::remove_dir_all(place.path("model")).unwrap();
    let config = ModelConfig::esm2(8, 512, 8);
    write_random(&config.into(), 1, DType::F16, &place.path("model")).unwrap();
    let command = after("ulimit -d 60000", &place.embed("out", "-q"));
    fails(
        command,
        8,
        &[
            "the weights need 96.3 MiB",
            "ulimit -d",
            "weights-tools convert --dtype f32",
        ],
    );
    assert!(!place.path("out").exists());
}

/// Returns the peak memory in bytes of a job that reads this pipe.
fn peak(place: &Place, options: &str, write: impl FnOnce(&mut ChildStdin)) -> u64 {
    let (child, mut stdin) = from_pipe(place, "out", &format!("-q --json {options}"));
    write(&mut stdin);
    drop(stdin);
    let output = ends(child, 0, &[]);
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    summary["peak_memory_bytes"].as_u64().unwrap()
}

#[test]
fn long_names_are_counted_where_memory_is_bounded() {
    let place = Place::new(0);
    let name = "n".repeat(1 << 20);
    let held = peak(&place, "--shard-size 100000", |stdin| {
        for _ in 0..200 {
            stdin.write_all(format!(">{name}\nM\n").as_bytes()).unwrap();
        }
    });
    // All records together are 200 MiB.
    assert!(held < 150 << 20, "{held}");
}

#[test]
fn what_is_cut_off_is_not_tokenized() {
    let place = Place::new(0);
    let held = peak(&place, "--max-length 10", |stdin| {
        stdin.write_all(long_record(2 * LONG).as_bytes()).unwrap();
    });
    // The tokens would take 160 MB.
    assert!(held < 140_000_000, "{held}");
}

/// Returns the names of the finished shards.
fn list(out: &Path) -> Vec<String> {
    let names = fs::read_dir(out).unwrap();
    let names = names.map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
    let mut shards: Vec<String> = names.filter(|n| n.starts_with("shard-")).collect();
    shards.sort();
    shards
}

#[test]
fn a_window_of_zstd_takes_its_memory_and_is_no_damage_where_there_is_too_little() {
    let place = Place::new(1);
    // A frame of one raw block, with windows of 2 GiB (`zstd --long=31`) and of 1 MiB.
    let frame = |window: u8| {
        let text = b">a\nMKTLL\n";
        let block = ((text.len() as u32) << 3 | 1).to_le_bytes();
        [&b"\x28\xb5\x2f\xfd\x00"[..], &[window], &block[..3], text].concat()
    };
    fs::write(place.path("large"), frame(21 << 3)).unwrap();
    fs::write(place.path("small"), frame(10 << 3)).unwrap();
    let tokenize = |input: &str, limit: &str| {
        let mut command = place.command(env!("CARGO_BIN_EXE_seqstream"));
        command.args(["tokenize", input, "--model", "model"]);
        after(limit, &command)
    };
    let (little, enough) = ("ulimit -v 1500000", "ulimit -v 4000000");
    for (input, limit) in [("small", little), ("large", enough)] {
        let output = tokenize(input, limit).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
    }
    let says = &[
        "large, line 1, byte 0: cannot be read on (zstd): ",
        "hint: decompressing this file takes more memory than there is",
        "zstd -dc -M2048MB IN > OUT",
    ];
    fails(tokenize("large", little), 3, says);
}
