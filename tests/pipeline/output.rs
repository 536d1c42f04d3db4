//! A resume and a merge check a finished job completely: they accept a shard only if it is the
//! shard that its job made.

#![cfg(unix)]

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::pipeline::*;
use seqstream::output::OutputError;
use seqstream::pipeline::{JobError, Share, Silent, Stop, merge, open_job};
use tempfile::{TempDir, tempdir};

/// Four shards of eight records; the last shard is short.
const RECORDS: usize = 30;

fn made(job: &Job) -> TempDir {
    let out = tempdir().unwrap();
    job.run(out.path()).unwrap();
    out
}

fn other(change: impl Fn(&mut Job)) -> TempDir {
    let mut job = Job::new(RECORDS);
    change(&mut job);
    made(&job)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

fn replace(shard: &Path, by: &Path) {
    fs::remove_dir_all(shard).unwrap();
    copy(by, shard);
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from} in {text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(path, bytes).unwrap();
}

/// Ways in which shard 1 can differ from the shard that the job made, and the message for each.
#[allow(clippy::type_complexity)]
fn tampered() -> Vec<(&'static str, Box<dyn Fn(&Path)>)> {
    let from =
        |place: TempDir| move |shard: &Path| replace(shard, &place.path().join("shard-000001"));
    vec![
        (
            "made by another job",
            Box::new(from(other(|j| j.model = "m1"))),
        ),
        (
            "made by another job",
            Box::new(from(other(|j| {
                j.read.strict = true;
                j.give_each_its_name();
            }))),
        ),
        (
            "made by another job",
            Box::new(from(other(|j| j.request.layers = vec![1]))),
        ),
        // As older programs wrote shards: they name no job.
        (
            "made by another job",
            Box::new(from(other(|j| j.format = 1))),
        ),
        (
            "shard.json was changed",
            Box::new(|shard| {
                // The arrays are removed together with their entries.
                fs::remove_file(shard.join("layer_2.npy")).unwrap();
                let path = shard.join("shard.json");
                let text = fs::read_to_string(&path).unwrap();
                let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
                json["files"] = serde_json::json!({});
                fs::write(path, serde_json::to_string_pretty(&json).unwrap() + "\n").unwrap();
            }),
        ),
        (
            "layer_2.npy was changed",
            Box::new(|shard| flip(&shard.join("layer_2.npy"))),
        ),
        (
            "ids.txt was changed",
            Box::new(|shard| edit(&shard.join("ids.txt"), "seq8", "seq0")),
        ),
        (
            "shard.json was changed",
            Box::new(|shard| {
                edit(
                    &shard.join("shard.json"),
                    "\"unknown\": 0",
                    "\"unknown\": 7",
                )
            }),
        ),
        (
            "shard.json is not what seqstream writes",
            Box::new(|shard| fs::write(shard.join("shard.json"), "{").unwrap()),
        ),
        (
            "has no shard.json",
            Box::new(|shard| fs::remove_file(shard.join("shard.json")).unwrap()),
        ),
        (
            "records of another shard",
            Box::new(|shard| replace(shard, &shard.with_file_name("shard-000002"))),
        ),
        (
            "has a layer_1.npy, which this job does not make",
            Box::new(|shard| {
                let (rows, more) = (shard.join("layer_2.npy"), shard.join("layer_1.npy"));
                assert!(fs::copy(rows, more).unwrap() > 0);
            }),
        ),
        (
            "ids.txt is no regular file",
            Box::new(|shard| {
                let ids = shard.join("ids.txt");
                fs::remove_file(&ids).unwrap();
                // This uses a socket, since a child process that makes a pipe would inherit other
                // tests' locks.
                drop(std::os::unix::net::UnixListener::bind(&ids).unwrap());
            }),
        ),
        (
            "shard.json is no regular file",
            Box::new(|shard| {
                let (json, elsewhere) = (shard.join("shard.json"), shard.with_file_name(".lock"));
                fs::rename(&json, &elsewhere).unwrap();
                std::os::unix::fs::symlink(&elsewhere, &json).unwrap();
            }),
        ),
        (
            "is no directory",
            Box::new(|shard| {
                fs::remove_dir_all(shard).unwrap();
                fs::write(shard, "").unwrap();
            }),
        ),
    ]
}

#[test]
fn what_the_job_did_not_make_is_computed_again_and_said() {
    let mut job = Job::new(RECORDS);
    let whole = made(&job);
    job.resume = true;
    for (says, tamper) in tampered() {
        for complete in [true, false] {
            let out = tempdir().unwrap();
            copy(whole.path(), out.path());
            let manifest = out.path().join("manifest.json");
            if !complete {
                fs::remove_file(&manifest).unwrap();
            }
            let shard = out.path().join("shard-000001");
            tamper(&shard);
            let opened = open_job(out.path(), job.spec(), true, &job.checks(), None).unwrap();
            assert_eq!(opened.finished, [0, 2, 3], "{says}");
            assert_eq!(opened.removed.len(), 1, "{says}");
            assert_eq!(opened.removed[0].shard, shard);
            assert!(
                opened.removed[0].reason.contains(says),
                "{:?}",
                opened.removed
            );
            assert!(!shard.exists() && !manifest.exists(), "{says}");
            drop(opened);
            let mut model = Hashing::new();
            job.run_with(out.path(), &mut model, &mut Silent, &Stop::new())
                .unwrap();
            assert_eq!(model.sequences, 8, "{says}");
            fs::write(out.path().join(".lock"), "").unwrap();
            assert_same(whole.path(), out.path());
        }
    }
}

/// A foreign file is neither removed nor copied.
#[test]
fn what_no_job_makes_is_left_where_it_is() {
    let mut job = Job::new(RECORDS);
    let out = made(&job);
    let notes = out.path().join("shard-000001/notes.txt");
    fs::write(&notes, "dear").unwrap();
    job.resume = true;
    let error = job.run(out.path()).unwrap_err();
    assert!(
        matches!(&error, JobError::Output(OutputError::Foreign { name, .. }) if name == "notes.txt"),
        "{error}"
    );
    assert!(
        error
            .remedy()
            .unwrap()
            .to_string()
            .contains("move it elsewhere")
    );
    assert!(notes.exists() && out.path().join("manifest.json").exists());
}

/// Finished shards need not be the first ones.
#[test]
fn a_shard_removed_from_the_middle_is_all_that_is_computed() {
    for piped in [false, true] {
        let mut job = Job::new(RECORDS);
        job.piped = piped;
        let (whole, out) = (made(&job), made(&job));
        fs::remove_dir_all(out.path().join("shard-000001")).unwrap();
        job.resume = true;
        let manifest = out.path().join("manifest.json");
        let opened = open_job(out.path(), job.spec(), true, &job.checks(), None).unwrap();
        assert!(opened.removed.is_empty());
        assert!(!manifest.exists(), "it lists what does not stand");
        drop(opened);
        let mut model = Hashing::new();
        job.run_with(out.path(), &mut model, &mut Silent, &Stop::new())
            .unwrap();
        assert_eq!(model.sequences, 8);
        assert_same(whole.path(), out.path());
    }
}

#[test]
fn a_manifest_stands_while_nothing_is_missing_and_not_longer() {
    let mut job = Job::new(16);
    job.piped = true;
    let out = made(&job);
    let manifest = out.path().join("manifest.json");
    drop(open_job(out.path(), job.spec(), true, &job.checks(), None).unwrap());
    assert!(manifest.exists(), "nothing is missing");
    // The pipe gives more records than before: all shards of the manifest are kept, and another one
    // is computed.
    job.resume = true;
    job.records = records(20);
    let mut model = Hashing::new();
    let watched = manifest.clone();
    model.before = Box::new(move |_| assert!(!watched.exists(), "complete, with a shard missing"));
    job.run_with(out.path(), &mut model, &mut Silent, &Stop::new())
        .unwrap();
    assert_eq!(model.sequences, 4);
    assert!(manifest.exists());
    fs::write(&manifest, "{").unwrap();
    job.run(out.path()).unwrap();
    assert_ne!(fs::read(&manifest).unwrap(), b"{");
}

/// The digest of a shard separates ids and sequences.
#[test]
fn a_letter_that_moves_from_sequence_to_id_is_seen() {
    let mut job = Job::new(RECORDS);
    job.piped = true;
    let out = made(&job);
    job.resume = true;
    let mut moved = job.clone();
    let record = &mut moved.records[9];
    let letter = record.sequence.remove(0);
    record.id.push(char::from(letter));
    let error = moved.run(out.path()).unwrap_err();
    assert!(
        matches!(
            error,
            JobError::RecordsDiffer {
                first: 9,
                last: 16,
                ..
            }
        ),
        "{error}"
    );
    let shard = out.path().join("shard-000001");
    assert!(
        error
            .remedy()
            .unwrap()
            .to_string()
            .contains(&format!("remove {}", shard.display()))
    );
    job.run(out.path()).unwrap();
}

/// An input that changes while a job runs leaves shards of the changed text.
#[test]
fn shards_of_changed_text_are_computed_again() {
    let mut job = Job::new(RECORDS);
    let whole = made(&job);
    let mut changed = job.clone();
    changed.records[9].sequence.push(b'W');
    changed.records[17].id.push('x');
    changed.hash = "i1";
    let out = tempdir().unwrap();
    // The hash of the changed text is known only at its end.
    let error = {
        let opened = open_job(out.path(), job.spec(), false, &job.checks(), None).unwrap();
        drop(opened);
        changed.resume = true;
        changed.run(out.path()).unwrap_err()
    };
    assert!(matches!(error, JobError::InputChanged { .. }), "{error}");
    assert!(
        error
            .remedy()
            .unwrap()
            .to_string()
            .contains("put it back as it was")
    );
    job.resume = true;
    let opened = open_job(out.path(), job.spec(), true, &job.checks(), None).unwrap();
    let removed: Vec<_> = opened.removed.iter().map(|r| r.shard.clone()).collect();
    assert_eq!(
        removed,
        [
            out.path().join("shard-000001"),
            out.path().join("shard-000002")
        ]
    );
    assert!(opened.removed[0].reason.contains("made from other records"));
    drop(opened);
    let mut model = Hashing::new();
    job.run_with(out.path(), &mut model, &mut Silent, &Stop::new())
        .unwrap();
    assert_eq!(model.sequences, 16);
    assert_same(whole.path(), out.path());
}

#[test]
fn a_shard_beyond_the_input_is_named_before_anything_is_computed() {
    let job = Job::new(RECORDS);
    let mut short = Job::new(RECORDS);
    short.records.truncate(8);
    let out = made(&short);
    fs::remove_file(out.path().join("manifest.json")).unwrap();
    copy(
        &made(&job).path().join("shard-000002"),
        &out.path().join("shard-000002"),
    );
    fs::remove_dir_all(out.path().join("shard-000000")).unwrap();
    short.resume = true;
    let mut model = Hashing::new();
    let error = short
        .run_with(out.path(), &mut model, &mut Silent, &Stop::new())
        .unwrap_err();
    assert!(
        matches!(error, JobError::Surplus { records: 8, .. }),
        "{error}"
    );
    assert_eq!(model.sequences, 0);
    let shard = out.path().join("shard-000002");
    assert!(
        error
            .remedy()
            .unwrap()
            .to_string()
            .contains(&format!("move {}", shard.display()))
    );
    assert!(shard.exists());
}

#[test]
fn output_without_its_job_is_not_told_to_resume() {
    let mut job = Job::new(RECORDS);
    let out = made(&job);
    let refused = |job: &Job| {
        let error = job.run(out.path()).unwrap_err();
        assert!(matches!(error, JobError::Nameless { .. }), "{error}");
        let remedy = error.remedy().unwrap().to_string();
        assert!(
            !remedy.contains("resume") && remedy.contains("output directory"),
            "{remedy}"
        );
    };
    fs::remove_file(out.path().join("job.json")).unwrap();
    refused(&job);
    job.resume = true;
    refused(&job);
    // A job is not started beside the manifest of another job, either.
    for block in 0..4 {
        fs::remove_dir_all(out.path().join(format!("shard-00000{block}"))).unwrap();
    }
    refused(&job);
}

/// Jobs that an older program began continue, in their own format.
#[test]
fn jobs_of_format_1_go_on_and_are_merged() {
    let mut job = Job::new(RECORDS);
    job.format = 1;
    let (whole, out) = (made(&job), made(&job));
    fs::remove_dir_all(out.path().join("shard-000001")).unwrap();
    flip(&out.path().join("shard-000002/layer_2.npy"));
    let mut now = Job::new(RECORDS);
    now.resume = true;
    let mut model = Hashing::new();
    now.run_with(out.path(), &mut model, &mut Silent, &Stop::new())
        .unwrap();
    assert_eq!(model.sequences, 16);
    assert_same(whole.path(), out.path());
    // For such shards the manifest has the most information.
    let mut other = job.clone();
    other.model = "m1";
    let other = made(&other);
    let shard = out.path().join("shard-000001");
    replace(&shard, &other.path().join("shard-000001"));
    edit(
        &shard.join("shard.json"),
        "\"unknown\": 0",
        "\"unknown\": 7",
    );
    let opened = open_job(out.path(), now.spec(), true, &now.checks(), None).unwrap();
    assert!(
        opened.removed[0]
            .reason
            .contains("not the one that manifest.json lists")
    );
    let parts = shares(&job, 2);
    let merged = tempdir().unwrap();
    merge(&paths(&parts), merged.path()).unwrap();
    assert_same(whole.path(), merged.path());
}

fn shares(job: &Job, of: u64) -> Vec<TempDir> {
    let share = |index| {
        let mut job = job.clone();
        job.read.share = Share { index, of };
        made(&job)
    };
    (1..=of).map(share).collect()
}

fn paths(dirs: &[TempDir]) -> Vec<PathBuf> {
    dirs.iter().map(|d| d.path().to_path_buf()).collect()
}

/// Runs merges that must be refused before anything is written.
#[track_caller]
fn refused(sources: &[PathBuf], says: &str) {
    let out = tempdir().unwrap();
    let error = merge(sources, out.path()).unwrap_err();
    let right = matches!(
        &error,
        JobError::Merge { .. } | JobError::Output(OutputError::Foreign { .. })
    );
    assert!(
        right && error.to_string().contains(says),
        "{error}, not {says}"
    );
    assert!(error.remedy().is_some());
    assert!(tree(out.path()).is_empty());
}

#[test]
fn a_merge_takes_only_what_the_job_made() {
    let job = Job::new(RECORDS);
    let parts = shares(&job, 2);
    // Shard 1 is in the second share.
    for (says, tamper) in tampered() {
        if says == "records of another shard" {
            continue;
        }
        let second = tempdir().unwrap();
        copy(parts[1].path(), second.path());
        tamper(&second.path().join("shard-000001"));
        refused(&[parts[0].path().into(), second.path().into()], says);
    }
    let with = |says: &str, change: &dyn Fn(&Path)| {
        let second = tempdir().unwrap();
        copy(parts[1].path(), second.path());
        change(second.path());
        refused(&[parts[0].path().into(), second.path().into()], says);
    };
    with("holds \"pw\", which is no part", &|dir| {
        std::os::unix::fs::symlink("/etc/passwd", dir.join("shard-000001/pw")).unwrap();
    });
    with("records of another shard", &|dir| {
        replace(&dir.join("shard-000001"), &dir.join("shard-000003"));
    });
    // This shard has the job's own name and settings, but other records.
    let mut changed = job.clone();
    changed.records[9].sequence.push(b'W');
    let changed = made(&changed);
    with("not the one that manifest.json lists", &|dir| {
        replace(
            &dir.join("shard-000001"),
            &changed.path().join("shard-000001"),
        );
    });
    with("shard-000001 stands in the manifest.json of", &|dir| {
        fs::remove_dir_all(dir.join("shard-000001")).unwrap();
    });
    with(
        "shard-000000 is not in the manifest.json beside it",
        &|dir| {
            copy(
                &parts[0].path().join("shard-000000"),
                &dir.join("shard-000000"),
            );
        },
    );
    with(
        "shard-18446744073709551615 is not in the manifest",
        &|dir| {
            fs::create_dir(dir.join("shard-18446744073709551615")).unwrap();
        },
    );
    let manifest = |from: &'static str, to: &'static str| {
        move |dir: &Path| edit(&dir.join("manifest.json"), from, to)
    };
    with(
        "gives other totals",
        &manifest("\"records\": 14", "\"records\": 15"),
    );
    with(
        "gives other totals",
        &manifest("\"unknown\": 0", "\"unknown\": 1"),
    );
    with(
        "not that of a complete job",
        &manifest("\"complete\": true", "\"complete\": false"),
    );
    with(
        "names no share",
        &manifest("\"share\": \"2/2\"", "\"share\": \"3/2\""),
    );
    with(
        "lists shard-000001, which is not in share 1/2",
        &manifest("\"share\": \"2/2\"", "\"share\": \"1/2\""),
    );
    with("has format 3", &manifest("\"format\": 2", "\"format\": 3"));
    with("holds no job.json", &|dir| {
        fs::remove_file(dir.join("job.json")).unwrap()
    });
    with("are of different jobs: model.blake3 was \"m1\"", &|dir| {
        edit(&dir.join("job.json"), "\"m0\"", "\"m1\"");
    });
    // The job.json of the first share becomes the job.json of the whole.
    let first = tempdir().unwrap();
    copy(parts[0].path(), first.path());
    edit(&first.path().join("job.json"), "\"m0\"", "\"m1\"");
    refused(
        &[first.path().into(), parts[1].path().into()],
        "are of different jobs",
    );
    merge(&paths(&parts), tempdir().unwrap().path()).unwrap();
}

#[test]
fn shares_of_a_pipe_are_merged() {
    let mut job = Job::new(RECORDS);
    job.piped = true;
    let (whole, parts, merged) = (made(&job), shares(&job, 2), tempdir().unwrap());
    merge(&paths(&parts), merged.path()).unwrap();
    assert_same(whole.path(), merged.path());
}

#[test]
fn a_merge_that_was_broken_off_goes_on() {
    let job = Job::new(RECORDS);
    let (whole, parts, merged) = (made(&job), shares(&job, 2), tempdir().unwrap());
    let sources = paths(&parts);
    merge(&sources, merged.path()).unwrap();
    let out = merged.path();
    let again = |sources: &[PathBuf]| merge(sources, out).unwrap_err();
    assert!(again(&sources).to_string().contains("already holds a job"));
    fs::remove_file(out.join("manifest.json")).unwrap();
    fs::remove_dir_all(out.join("shard-000001")).unwrap();
    fs::create_dir(out.join(".shard-000002.partial")).unwrap();
    // A copy is incomplete; the share's own file, a second link to the same data, must stay as it
    // is.
    let rows = out.join("shard-000003/layer_2.npy");
    fs::remove_file(&rows).unwrap();
    fs::write(&rows, "torn").unwrap();
    let mut other = job.clone();
    other.model = "m1";
    let said = again(&paths(&shares(&other, 2))).to_string();
    assert!(
        said.contains("another one: model.blake3 was \"m0\", now \"m1\""),
        "{said}"
    );
    assert!(rows.exists(), "what is refused is left as it was");
    merge(&sources, out).unwrap();
    assert_same(whole.path(), out);
    // A full disk is reported in the words of a merge.
    let full = std::io::ErrorKind::StorageFull.into();
    let error = JobError::MergeOutput(OutputError::Io {
        action: "write",
        path: out.join("job.json"),
        shard: None,
        source: full,
    });
    let remedy = error.remedy().unwrap().to_string();
    assert!(
        remedy.contains("merge again") && !remedy.contains("resume"),
        "{remedy}"
    );
}
