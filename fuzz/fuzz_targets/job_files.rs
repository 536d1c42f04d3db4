//! Any bytes as job.json, shard.json and manifest.json, read as a resumed job and a merge read them:
//! what is refused is refused with a remedy, and what is accepted comes back when it is written.
#![no_main]

use std::path::Path;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use seqstream::output::{
    JOB_FILE, JobSpec, MANIFEST_FILE, ManifestHead, OutputError, ShardRecord, read_job,
    read_manifest, read_record,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

fuzz_target!(|bytes: &[u8]| {
    static PLACE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let place = PLACE.get_or_init(|| {
        // In memory, if that can be had: each input is three files.
        let place = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        place.expect("a temporary directory")
    });
    let read = |name: &str| {
        std::fs::write(place.path().join(name), bytes).expect("a file");
        place.path()
    };
    // Numbers with a fraction may come back one bit off: the one that a job has is not compared.
    if let Some(job) = checked(read_job(read(JOB_FILE))) {
        same(&job, &again(&job));
    }
    if let Some(head) = checked(read_manifest(read(MANIFEST_FILE), &mut |_| Ok(()))) {
        let back: ManifestHead = again(&head);
        same(&head.job, &back.job);
        assert_eq!(
            (head.records, head.tokens, head.counts),
            (back.records, back.tokens, back.counts)
        );
    }
    let shard: &Path = read("shard.json");
    if let Some(record) = checked(read_record(shard)) {
        let back: ShardRecord = again(&record);
        assert!(record == back);
    }
});

fn checked<T>(result: Result<T, OutputError>) -> Option<T> {
    result
        .inspect_err(|e| {
            assert!(!e.to_string().is_empty());
            let io = matches!(e, OutputError::Io { .. });
            assert!(io || e.remedy().is_some(), "{e}");
        })
        .ok()
}

fn again<T: Serialize + DeserializeOwned>(value: &T) -> T {
    let text = serde_json::to_vec(value).expect("what was read can be written");
    serde_json::from_slice(&text).expect("what was written can be read")
}

fn same(a: &JobSpec, b: &JobSpec) {
    let mut differences = a.differences(b);
    differences.retain(|d| !d.field.ends_with("layer_norm_eps"));
    assert!(differences.is_empty(), "{differences:?}");
}
