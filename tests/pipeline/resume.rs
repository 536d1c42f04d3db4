//! Nothing is lost and nothing is computed twice, however often a job is interrupted.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use crate::support::pipeline::*;
use proptest::prelude::*;
use seqstream::output::OutputError;
use seqstream::pipeline::{JobError, Share, Silent, Stop};

/// Returns the time when each shard's files were written.
fn written(out: &Path) -> BTreeMap<String, SystemTime> {
    let time = |name: &String| {
        std::fs::metadata(out.join(name))
            .unwrap()
            .modified()
            .unwrap()
    };
    tree(out)
        .into_keys()
        .filter(|n| n.starts_with("shard-"))
        .map(|n| (n.clone(), time(&n)))
        .collect()
}

/// Returns a model that requests a stop after it has seen `after` sequences.
fn stopping(after: u64) -> (Hashing, Stop) {
    let stop = Stop::new();
    let mut model = Hashing::new();
    let asked = stop.clone();
    model.before = Box::new(move |seen| {
        if seen >= after {
            asked.request(15);
        }
    });
    (model, stop)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn stopped_at_any_point_and_resumed_is_the_same(
        n in 1usize..60, stops in prop::collection::vec(0u64..30, 1..4), of in 1u64..3
    ) {
        let mut job = Job::new(n);
        job.read.share = Share { index: 1, of };
        let (whole, broken) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        job.run(whole.path()).unwrap();
        job.resume = true;
        let mut computed = 0;
        for after in stops {
            let before = written(broken.path());
            let (mut model, stop) = stopping(after);
            let report = job.run_with(broken.path(), &mut model, &mut Silent, &stop).unwrap();
            computed += model.sequences;
            prop_assert_eq!(report.manifest.is_some(), report.stopped.is_none());
            // The current shard was finished: everything that was computed is kept.
            prop_assert_eq!(rows(broken.path(), 2).len() as u64, computed);
            for (name, time) in before {
                prop_assert_eq!(written(broken.path())[&name], time, "{} was written again", name);
            }
        }
        let mut model = Hashing::new();
        let report = job.run_with(broken.path(), &mut model, &mut Silent, &Stop::new()).unwrap();
        prop_assert_eq!(report.progress.reused, computed);
        prop_assert_eq!(model.sequences + computed, job.read.share.records(n as u64, 8));
        assert_same(whole.path(), broken.path());
    }
}

#[test]
fn what_a_crash_leaves_is_swept_up() {
    let mut job = Job::new(30);
    let (whole, broken) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    job.run(whole.path()).unwrap();
    let (mut model, stop) = stopping(0);
    job.run_with(broken.path(), &mut model, &mut Silent, &stop)
        .unwrap();
    let partial = broken.path().join(".shard-000001.partial");
    std::fs::create_dir(&partial).unwrap();
    std::fs::write(partial.join("ids.txt"), "half a na").unwrap();
    std::fs::write(broken.path().join(".manifest.json.partial"), "{").unwrap();
    job.resume = true;
    job.run(broken.path()).unwrap();
    assert_same(whole.path(), broken.path());
    // Resume once more, on a complete job: nothing changes and nothing is computed.
    let mut model = Hashing::new();
    job.run_with(broken.path(), &mut model, &mut Silent, &Stop::new())
        .unwrap();
    assert_eq!(model.sequences, 0);
    assert_same(whole.path(), broken.path());
}

#[test]
fn a_job_is_not_begun_over_another() {
    let out = tempfile::tempdir().unwrap();
    let job = Job::new(10);
    job.run(out.path()).unwrap();
    let before = tree(out.path());
    let error = job.run(out.path()).unwrap_err();
    assert!(matches!(error, JobError::Exists { .. }), "{error}");
    assert!(error.remedy().unwrap().to_string().contains("resume"));
    assert_eq!(tree(out.path()), before);
}

#[test]
fn resume_refuses_another_job_and_says_in_what() {
    let out = tempfile::tempdir().unwrap();
    let mut job = Job::new(10);
    job.run(out.path()).unwrap();
    job.resume = true;
    let said = |change: &dyn Fn(&mut Job)| {
        let mut job = job.clone();
        change(&mut job);
        let error = job.run(out.path()).unwrap_err();
        assert!(matches!(error, JobError::Differs { .. }), "{error}");
        error.to_string()
    };
    let text = said(&|j| j.model = "m1");
    assert!(
        text.ends_with("another one: model.blake3 was \"m0\", now \"m1\""),
        "{text}"
    );
    let text = said(&|j| j.request.layers = vec![1, 2]);
    assert!(text.contains("layers was [2], now [1,2]"), "{text}");
    let text = said(&|j| {
        j.read.strict = true;
        j.read.shard_size = 4;
    });
    assert!(
        text.contains("strict was false, now true; shard_size was 8, now 4"),
        "{text}"
    );
    let text = said(&|j| j.piped = true);
    assert!(
        text.contains("inputs.1.blake3 was \"i0\", now null"),
        "{text}"
    );
    // Options that do not influence the bytes may change.
    job.pack.budget.tokens = 1;
    job.run(out.path()).unwrap();
}

/// A pipe has no hash beforehand, so only its records show a difference.
#[test]
fn resume_refuses_other_records_and_says_which() {
    let out = tempfile::tempdir().unwrap();
    let mut job = Job::new(30);
    job.piped = true;
    let (mut model, stop) = stopping(10);
    job.run_with(out.path(), &mut model, &mut Silent, &stop)
        .unwrap();
    job.resume = true;
    let mut renamed = job.clone();
    renamed.records[9].id = "else".into();
    let error = renamed.run(out.path()).unwrap_err();
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
    let mut changed = job.clone();
    changed.records[3].sequence[0] ^= 1;
    let error = changed.run(out.path()).unwrap_err();
    assert!(
        matches!(
            error,
            JobError::RecordsDiffer {
                first: 1,
                last: 8,
                ..
            }
        ),
        "{error}"
    );
    let mut cut = job.clone();
    cut.records.truncate(8);
    let error = cut.run(out.path()).unwrap_err();
    assert!(
        matches!(error, JobError::Surplus { records: 8, .. }),
        "{error}"
    );
    job.run(out.path()).unwrap();
}

#[test]
fn an_input_that_changes_under_the_job_fails_it() {
    let out = tempfile::tempdir().unwrap();
    let mut job = Job::new(10);
    job.hash = "i1";
    let error = job.run(out.path()).unwrap_err();
    assert!(
        matches!(&error, JobError::InputChanged { name } if name == "list.fa"),
        "{error}"
    );
    assert!(!out.path().join("manifest.json").exists());
}

/// Ctrl-C also reaches the program that writes to the pipe, so the end of the pipe is not the end
/// of the input.
#[test]
fn the_end_of_a_pipe_after_a_signal_is_not_trusted() {
    let out = tempfile::tempdir().unwrap();
    let mut job = Job::new(10);
    job.piped = true;
    let (mut model, stop) = stopping(8);
    let report = job
        .run_with(out.path(), &mut model, &mut Silent, &stop)
        .unwrap();
    assert_eq!((report.stopped, report.progress.shards), (Some(15), 1));
    assert!(!out.path().join("shard-000001").exists());
    // The end of a file is trusted.
    let out = tempfile::tempdir().unwrap();
    job.piped = false;
    let (mut model, stop) = stopping(8);
    let report = job
        .run_with(out.path(), &mut model, &mut Silent, &stop)
        .unwrap();
    assert_eq!((report.stopped, report.progress.shards), (None, 2));
}

#[test]
fn an_output_that_fails_keeps_what_is_finished() {
    let (whole, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut job = Job::new(30);
    job.run(whole.path()).unwrap();
    // Make a file at the path of the second shard's directory.
    let mut model = Hashing::new();
    let place = out.path().to_owned();
    let (mut placed, mut batches) = (false, 0);
    model.before = Box::new(move |_| {
        batches += 1;
        // The name of a partial directory has a part that only this job knows. Some batches may be
        // under way; at the fourth one the first was sent to the writer, which soon makes its
        // partial directory, and keeps it until this batch is submitted.
        let deadline = Instant::now() + Duration::from_secs(10);
        while batches > 3 && !placed && Instant::now() < deadline {
            let Some((block, found)) = [0, 1]
                .into_iter()
                .find_map(|b| Some((b, partial(&place, b)?)))
            else {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            };
            let second = found
                .to_string_lossy()
                .replace(&format!("shard-00000{block}"), "shard-000002");
            std::fs::write(second, "in the way").unwrap();
            placed = true;
        }
    });
    let error = job
        .run_with(out.path(), &mut model, &mut Silent, &Stop::new())
        .unwrap_err();
    match &error {
        JobError::Output(OutputError::Io {
            path,
            shard: Some(2),
            ..
        }) => assert_eq!(Some(path), partial(out.path(), 2).as_ref()),
        other => panic!("{other}"),
    }
    assert!(error.remedy().unwrap().to_string().contains("resume"));
    assert_eq!(rows(out.path(), 2).len(), 16);
    job.resume = true;
    let mut model = Hashing::new();
    job.run_with(out.path(), &mut model, &mut Silent, &Stop::new())
        .unwrap();
    assert_eq!(model.sequences, 14);
    assert_same(whole.path(), out.path());
}

/// Shards get their names on a separate thread, while later shards are written.
#[test]
fn a_shard_that_gets_no_name_ends_the_job_and_no_later_one_gets_its() {
    let (whole, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut job = Job::new(120);
    job.run(whole.path()).unwrap();
    let mut model = Hashing::new();
    let taken = out.path().join("shard-000003");
    let place = taken.join("in the way");
    model.before = Box::new(move |_| drop(std::fs::create_dir_all(&place)));
    let error = job
        .run_with(out.path(), &mut model, &mut Silent, &Stop::new())
        .unwrap_err();
    match &error {
        JobError::Output(OutputError::Taken { path }) => assert_eq!(*path, taken),
        other => panic!("{other}"),
    }
    std::fs::remove_dir_all(taken).unwrap();
    let stand = |name: &String| name.ends_with("/shard.json");
    assert_eq!(tree(out.path()).into_keys().filter(stand).count(), 3);
    assert_eq!(rows(out.path(), 2).len(), 24);
    let left: Vec<String> = tree(out.path())
        .into_keys()
        .filter(|n| !n.starts_with("shard-"))
        .collect();
    assert_eq!(left, [".lock", "job.json"], "what has no name is removed");
    job.resume = true;
    let mut model = Hashing::new();
    job.run_with(out.path(), &mut model, &mut Silent, &Stop::new())
        .unwrap();
    assert_eq!(model.sequences, 96);
    assert_same(whole.path(), out.path());
}
