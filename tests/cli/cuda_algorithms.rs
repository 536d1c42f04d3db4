//! A job on CUDA has its own table of GEMM algorithms: the table is kept beside its shards, used
//! again by `--resume` and shared by `--gemm-algorithms`. Algorithms are never chosen anew where
//! other algorithms would give other bits.
#![cfg(target_os = "linux")]

use crate::support::cli::{Place, assert_same, fails, stderr, wait_for};
use crate::support::cuda;
use crate::support::cuda::algorithms::{sealed, with_others, without_one};
use crate::support::cuda::real::{absent, not_run, wants_real};
use seqstream::backend::cuda::kernels;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const TABLE: &str = "algorithms.json";

/// Returns a place whose jobs compute on a simulated device, whose algorithms are known.
fn simulated(sequences: usize) -> Option<Place> {
    if wants_real() {
        not_run("this test is of the simulated driver");
        return None;
    }
    if kernels::FATBINS.is_empty() {
        absent("this build has no kernels (no nvcc)");
        return None;
    }
    Some(Place::new(sequences).on_cuda(&cuda::library(), 1))
}

/// Returns `embed` with another cache than the cache of the place.
fn embed(place: &Place, cache: &str, out: &str, options: &str) -> Command {
    let mut command = place.embed(out, options);
    command.env("SEQSTREAM_CACHE", place.path(cache));
    command
}

/// Runs a command, which must succeed; returns its output.
#[track_caller]
fn ok(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    stderr(&output)
}

fn merge(place: &Place, sources: &[&str], out: &str) -> Command {
    let mut command = place.command(env!("CARGO_BIN_EXE_seqstream"));
    command.arg("merge").args(sources).args(["--out", out]);
    command
}

/// Returns the single table in a folder of the cache.
fn cached(folder: &Path) -> PathBuf {
    let entries = fs::read_dir(folder).unwrap();
    let mut paths = entries.map(|entry| entry.unwrap().path());
    let table = paths.find(|path| path.extension().is_some_and(|e| e == "json"));
    table.unwrap()
}

/// Makes `other`, a cache that holds other algorithms than the cache `from` for the same products,
/// like the cache of a machine that has timed them itself.
fn other_cache(place: &Place, from: &str, other: &str) {
    let table = cached(&place.path(from));
    let text = with_others(&fs::read_to_string(&table).unwrap());
    fs::create_dir(place.path(other)).unwrap();
    let name = table.file_name().unwrap();
    fs::write(place.path(other).join(name), text).unwrap();
}

fn pipe(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status();
    assert!(made.unwrap().success());
}

/// Returns the text of each warning in the output.
fn warnings(said: &str) -> Vec<&str> {
    let lines = said.lines().filter_map(|l| l.strip_prefix("warning: "));
    lines.collect()
}

#[test]
fn killed_without_a_cache_it_goes_on_with_its_own_algorithms() {
    let Some(place) = simulated(96) else {
        return;
    };
    let options = "--token-budget 400";
    ok(embed(&place, "cache", "first", options));
    other_cache(&place, "cache", "others");
    // A file in place of the folder: nothing can be kept.
    fs::write(place.path("no folder"), "").unwrap();
    let mut command = embed(&place, "no folder", "killed", options);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    wait_for(&place.path("killed/shard-000001"), &mut child);
    child.kill().unwrap();
    let said = stderr(&child.wait_with_output().unwrap());
    // There is one warning, whatever the number of products, and it says what to do.
    let told = warnings(&said);
    assert_eq!(told.len(), 1, "{said}");
    assert!(told[0].contains("cannot be kept in"), "{said}");
    assert!(told[0].contains("no folder"), "{said}");
    assert_eq!(
        said.matches("hint: set SEQSTREAM_CACHE").count(),
        1,
        "{said}"
    );
    // The table was written before the first shard, and is the table that job.json names.
    let table = fs::read(place.path("killed").join(TABLE)).unwrap();
    let job = fs::read(place.path("killed/job.json")).unwrap();
    let value = |text: &[u8]| serde_json::from_slice::<serde_json::Value>(text).unwrap();
    let (digest, gemm) = (&value(&table)["digest"], &value(&job)["gemm_algorithms"]);
    assert!(digest.as_str().unwrap().starts_with(gemm.as_str().unwrap()));
    assert_eq!(gemm.as_str().unwrap().len(), 32);
    // Wherever the job continues, a cache with other algorithms has no influence.
    let said = ok(embed(
        &place,
        "others",
        "killed",
        &format!("{options} --resume"),
    ));
    assert!(said.contains("resuming"), "{said}");
    assert_eq!(warnings(&said), [""; 0]);
    assert_eq!(fs::read(place.path("killed").join(TABLE)).unwrap(), table);
    assert_eq!(fs::read(place.path("killed/job.json")).unwrap(), job);
    let whole = format!("{options} --gemm-algorithms killed");
    ok(embed(&place, "others", "whole", &whole));
    assert_same(&place.path("whole"), &place.path("killed"));
    // A job without its own or a given table does choose other algorithms there.
    ok(embed(&place, "others", "different", options));
    let other = fs::read(place.path("different/job.json")).unwrap();
    assert_ne!(
        value(&other)["gemm_algorithms"],
        value(&job)["gemm_algorithms"]
    );
}

#[test]
fn shares_on_machines_of_their_own_merge_where_they_have_one_table() {
    let Some(place) = simulated(50) else {
        return;
    };
    ok(embed(&place, "cache", "part1", "--share 1/2"));
    other_cache(&place, "cache", "others");
    ok(embed(&place, "others", "part2", "--share 2/2"));
    fails(
        merge(&place, &["part1", "part2"], "merged"),
        6,
        &["gemm_algorithms was", "`--gemm-algorithms part1`"],
    );
    assert!(!place.path("merged").exists());
    // Follow the hint.
    fs::remove_dir_all(place.path("part2")).unwrap();
    let given = "--share 2/2 --gemm-algorithms part1";
    ok(embed(&place, "others", "part2", given));
    ok(merge(&place, &["part2", "part1"], "merged"));
    // The file may be given instead of the directory, and the cache's file instead of a job's.
    let table = place.path("part1").join(TABLE);
    let cached = cached(&place.path("cache"));
    for (out, file) in [("whole", table), ("from cache", cached)] {
        let mut command = embed(&place, "others", out, "");
        ok({
            command.arg("--gemm-algorithms").arg(file);
            command
        });
        assert_same(&place.path(out), &place.path("merged"));
    }
    assert!(place.path("merged").join(TABLE).exists());
    // A continued job may be given the table that it has, but no other table.
    fs::remove_dir_all(place.path("part2/shard-000001")).unwrap();
    fs::remove_file(place.path("part2/manifest.json")).unwrap();
    let others = place.path("others table");
    let text = fs::read_to_string(place.path("part1").join(TABLE)).unwrap();
    fs::write(&others, with_others(&text)).unwrap();
    let mut command = embed(&place, "others", "part2", "--share 2/2 --resume");
    command.arg("--gemm-algorithms").arg(&others);
    fails(
        command,
        6,
        &[
            "others table",
            "it differs from part2/algorithms.json",
            "leave --gemm-algorithms out",
        ],
    );
    ok(embed(
        &place,
        "others",
        "part2",
        &format!("{given} --resume"),
    ));
}

#[test]
fn a_table_that_was_tampered_with_is_refused_by_resume_and_merge() {
    let Some(place) = simulated(40) else {
        return;
    };
    for share in ["1/2", "2/2"] {
        let out = format!("part{}", &share[..1]);
        ok(embed(&place, "cache", &out, &format!("--share {share}")));
    }
    other_cache(&place, "cache", "others");
    let table = place.path("part2").join(TABLE);
    let text = fs::read_to_string(&table).unwrap();
    let before = fs::read(place.path("part2/job.json")).unwrap();
    let refused = |says: &[&str]| {
        let mut says = says.to_vec();
        says.push("part2/algorithms.json");
        says.push("hint: put the file back");
        let resume = embed(&place, "cache", "part2", "--share 2/2 --resume");
        fails(resume, 6, &says);
        fails(merge(&place, &["part1", "part2"], "merged"), 6, &says);
        fails(merge(&place, &["part2", "part1"], "merged"), 6, &says);
        assert!(!place.path("merged").exists());
        assert_eq!(fs::read(place.path("part2/job.json")).unwrap(), before);
    };
    let workspace = text.replacen("\"workspace\": ", "\"workspace\": 1", 1);
    for (bad, says) in [
        ("", "EOF"),
        (&text[..text.len() / 2], "EOF"),
        (&workspace, "its digest is not that of its content"),
        (&with_others(&text), "job.json"),
        (&without_one(&text), "job.json"),
        (
            &text.replace("\"format\": 1", "\"format\": 2"),
            "its format is 2",
        ),
        (&"x".repeat(2 << 20), "more than 1048576 bytes"),
    ] {
        assert_ne!(bad, text);
        fs::write(&table, bad).unwrap();
        refused(&[says]);
    }
    fs::remove_file(&table).unwrap();
    pipe(&table);
    refused(&["it is a named pipe"]);
    fs::remove_file(&table).unwrap();
    fs::create_dir(&table).unwrap();
    refused(&["it is a directory"]);
    fs::remove_dir(&table).unwrap();
    // Without its table (jobs of older versions have none) a job continues if the cache has the
    // same algorithms.
    let resume = || embed(&place, "others", "part2", "--share 2/2 --resume");
    fails(
        resume(),
        6,
        &[
            "gemm_algorithms was",
            "hint: algorithms.json",
            "is missing there",
        ],
    );
    assert!(!table.exists());
    ok(embed(&place, "cache", "part2", "--share 2/2 --resume"));
    assert_eq!(fs::read_to_string(&table).unwrap(), text);
    // It also continues if the table is given.
    fs::remove_file(&table).unwrap();
    let mut given = resume();
    given.args(["--gemm-algorithms", "part1"]);
    ok(given);
    assert_eq!(fs::read_to_string(&table).unwrap(), text);
    // The merged output has the table if any of the shares has it.
    fs::remove_file(&table).unwrap();
    ok(merge(&place, &["part2", "part1"], "merged"));
    assert_eq!(
        fs::read_to_string(place.path("merged").join(TABLE)).unwrap(),
        text
    );
}

#[test]
fn a_given_table_that_does_not_serve_is_refused_and_nothing_is_chosen_instead() {
    let Some(place) = simulated(20) else {
        return;
    };
    ok(embed(&place, "cache", "job", ""));
    let text = fs::read_to_string(place.path("job").join(TABLE)).unwrap();
    let given = place.path("given.json");
    let refused = |options: &str, code, says: &[&str]| {
        let mut command = embed(&place, "cache", "out", options);
        command.args(["--gemm-algorithms", "given.json"]);
        fails(command, code, says);
        assert!(!place.path("out").exists(), "{says:?}");
    };
    // The file does not exist, or is not a table.
    refused("", 2, &["given.json does not exist", "start the share"]);
    fs::create_dir(&given).unwrap();
    refused("", 2, &["given.json is not the output directory"]);
    fs::remove_dir(&given).unwrap();
    for (bad, says) in [
        ("{".to_owned(), "EOF"),
        (
            text.replace("\"format\": 1", "\"format\": 9"),
            "its format is 9",
        ),
    ] {
        fs::write(&given, bad).unwrap();
        refused(
            "",
            6,
            &[
                "--gemm-algorithms: given.json cannot be used",
                says,
                "another share",
            ],
        );
    }
    fs::remove_file(&given).unwrap();
    pipe(&given);
    refused("", 6, &["it is a named pipe"]);
    fs::remove_file(&given).unwrap();
    // The table is for another cuBLASLt, another kind of device, another model, or another dtype.
    let device = "\"device\": \"";
    let (library, card, capability) = (
        text.replace("130002", "120805"),
        text.replace(device, &format!("{device}Other than ")),
        text.replacen("9,", "8,", 1),
    );
    for (bad, says) in [
        (library, "it is for Simulated"),
        (card, "it is for Other than Simulated"),
        (capability, "on compute capability 8.0"),
    ] {
        assert_ne!(bad, text);
        fs::write(&given, sealed(&bad)).unwrap();
        refused(
            "",
            6,
            &["given.json", "device 0", says, "SEQSTREAM_LIBCUBLASLT"],
        );
    }
    fs::write(&given, without_one(&text)).unwrap();
    let lacks = "it has no algorithm for the product ";
    refused("", 6, &["given.json", lacks, "another model"]);
    fs::write(&given, &text).unwrap();
    refused("--dtype bf16", 6, &["given.json", lacks]);
    // A job continued with other options is told which options differ, not what its table lacks.
    let resume = embed(&place, "cache", "job", "--dtype f32 --resume");
    fails(resume, 6, &["dtype was \"f16\", now \"f32\""]);
}

#[test]
fn what_is_wrong_with_the_cache_is_seen_and_ends_no_job() {
    let Some(place) = simulated(4) else {
        return;
    };
    let seen = |said: &str, parts: &[&str]| {
        let told = warnings(said).join("\n");
        for part in parts {
            assert!(told.contains(part), "\"{part}\" is not in: {said}");
        }
        assert!(said.contains("hint: set SEQSTREAM_CACHE"), "{said}");
    };
    // With a right table there are no messages.
    let said = ok(embed(&place, "cache", "right", ""));
    assert_eq!(warnings(&said), [""; 0]);
    let (table, lock) = {
        let table = cached(&place.path("cache"));
        let lock = table.with_extension("lock");
        (table, lock)
    };
    // A stopped process holds the lock. The lock matters only if there is something to keep.
    fs::remove_file(&table).unwrap();
    let held = fs::File::open(&lock).unwrap();
    held.lock().unwrap();
    let said = ok(embed(&place, "cache", "locked", "-q"));
    seen(&said, &["another process, which may be stopped, has held"]);
    assert_eq!(warnings(&said).len(), 1, "waited for once: {said}");
    drop(held);
    // A pipe in place of the table, and of the lock.
    pipe(&table);
    let said = ok(embed(&place, "cache", "pipe", ""));
    seen(&said, &["is not read", "it is a named pipe"]);
    fs::remove_file(&table).unwrap();
    fs::remove_file(&lock).unwrap();
    pipe(&lock);
    let said = ok(embed(&place, "cache", "pipes", ""));
    seen(&said, &["cannot be kept in", "it is a named pipe"]);
    // There is no cache folder at all.
    let mut command = place.embed("homeless", "");
    for name in ["SEQSTREAM_CACHE", "XDG_CACHE_HOME", "HOME"] {
        command.env_remove(name);
    }
    let said = ok(command);
    seen(
        &said,
        &["none of SEQSTREAM_CACHE, XDG_CACHE_HOME and HOME is set"],
    );
    // `bench` has no output directory in which to keep a table, and warns as well.
    fs::write(place.path("no folder"), "").unwrap();
    let mut command = place.command(env!("CARGO_BIN_EXE_seqstream"));
    command.args(["bench", "--model", "model", "--device", "cuda"]);
    command.args(["--lengths", "16", "--tokens", "64", "--rounds", "1"]);
    command.env("SEQSTREAM_CACHE", place.path("no folder"));
    seen(&ok(command), &["cannot be kept in"]);
}
