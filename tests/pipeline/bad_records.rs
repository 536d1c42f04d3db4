//! Bad records that the job finds after reading: too long for the device or the limit.

use seqstream::pipeline::{JobError, LengthLimit, Long, Share, merge};
use seqstream::sequence::BadRecords;

use crate::support::pipeline::*;

/// A job that skips what has more than `capacity` tokens.
fn job(n: usize, capacity: usize) -> Job {
    let mut job = Job::new(n);
    job.read.bad_records = BadRecords::Skip;
    job.pack.bad_records = BadRecords::Skip;
    job.pack.capacity = capacity;
    job
}

fn listed(out: &std::path::Path) -> Vec<(String, u64)> {
    let text = std::fs::read_to_string(out.join("rejected.tsv")).unwrap();
    let row = |line: &str| {
        let fields: Vec<&str> = line.split('\t').collect();
        assert_eq!(fields.len(), 5);
        (fields[0].to_owned(), fields[2].parse().unwrap())
    };
    text.lines().skip(1).map(row).collect()
}

#[test]
fn a_sequence_beyond_the_capacity_is_left_out() {
    for threads in 1..=3 {
        let mut job = job(40, 30);
        job.tokenize_threads = threads;
        let (out, all) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let report = job.run(out.path()).unwrap();
        let long = |r: &&seqstream::sequence::Record| r.sequence.len() + 2 > 30;
        let expected: Vec<_> = job
            .records
            .iter()
            .filter(long)
            .map(|r| (r.id.clone(), r.number))
            .collect();
        assert!(expected.len() > 5);
        assert_eq!(listed(out.path()), expected);
        let manifest = report.manifest.unwrap();
        assert_eq!(manifest.records, 40 - expected.len() as u64);
        assert_eq!(manifest.counts["rejected"], expected.len() as u64);
        // The rows of the others are those of the job without a limit.
        let mut whole = job.clone();
        whole.pack.capacity = usize::MAX;
        whole.run(all.path()).unwrap();
        let numbers = 1..=40u64;
        let kept = rows(all.path(), 2).into_iter().zip(numbers);
        let kept: Vec<_> = kept
            .filter(|(_, n)| !expected.iter().any(|(_, bad)| bad == n))
            .map(|(row, _)| row)
            .collect();
        assert_eq!(rows(out.path(), 2), kept);
        // Without the option it ends the job.
        job.pack.bad_records = BadRecords::Stop;
        let stopped = tempfile::tempdir().unwrap();
        let error = job.run(stopped.path()).unwrap_err();
        assert!(matches!(error, JobError::OverCapacity { .. }), "{error}");
    }
}

#[test]
fn windows_of_the_limit_fit_where_the_sequence_does_not() {
    let mut job = job(40, 12);
    job.pack.limit = Some(LengthLimit {
        max: 10,
        long: Long::Window { stride: 10 },
    });
    let out = tempfile::tempdir().unwrap();
    job.run(out.path()).unwrap();
    assert_eq!(listed(out.path()), []);
    job.pack.capacity = 11;
    let out = tempfile::tempdir().unwrap();
    job.run(out.path()).unwrap();
    let long = job.records.iter().filter(|r| r.sequence.len() > 9).count();
    assert_eq!(listed(out.path()).len(), long);
}

#[test]
fn shares_merge_and_jobs_resume_with_records_left_out() {
    let (tmp, whole) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut job = job(45, 30);
    job.run(whole.path()).unwrap();
    let paths: Vec<_> = (1..=3u64).map(|n| tmp.path().join(n.to_string())).collect();
    for (index, path) in (1..).zip(&paths) {
        job.read.share = Share { index, of: 3 };
        job.run(path).unwrap();
    }
    merge(&paths, &tmp.path().join("merged")).unwrap();
    assert_same(whole.path(), &tmp.path().join("merged"));
    job.read.share = Share::ALL;
    job.resume = true;
    for shard in [0, 3] {
        std::fs::remove_dir_all(whole.path().join(format!("shard-00000{shard}"))).unwrap();
    }
    let report = job.run(whole.path()).unwrap();
    assert_same(whole.path(), &tmp.path().join("merged"));
    let total = report.progress.records + report.progress.reused;
    assert_eq!(total, 45 - listed(whole.path()).len() as u64);
}
