//! Several poolings in one job: the names of their files, and what is in them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use seqstream::model::Pool;
use seqstream::output::read_manifest;
use seqstream::pipeline::{LengthLimit, Long, Share, merge};

use crate::support::pipeline::*;

const ALL: [Pool; 3] = [Pool::Mean, Pool::Cls, Pool::Max];

fn job(n: usize, pools: &[Pool]) -> Job {
    let mut job = Job::new(n);
    job.request.layers = vec![0, 2];
    job.request.pools = pools.to_vec();
    job
}

/// Returns the files of the output whose names do not begin with a dot.
fn files(job: &Job) -> BTreeMap<String, Vec<u8>> {
    let out = tempfile::tempdir().unwrap();
    job.run(out.path()).unwrap();
    tree(out.path())
}

#[test]
fn each_pooling_has_a_file_with_the_bytes_that_it_has_alone() {
    let together = files(&job(21, &ALL));
    let names: Vec<&str> = together
        .keys()
        .filter_map(|name| name.strip_prefix("shard-000002/"))
        .collect();
    let expected = [
        "ids.txt",
        "layer_0_cls.npy",
        "layer_0_max.npy",
        "layer_0_mean.npy",
        "layer_2_cls.npy",
        "layer_2_max.npy",
        "layer_2_mean.npy",
        "shard.json",
    ];
    assert_eq!(names, expected);
    for (pool, name) in ALL.into_iter().zip(["mean", "cls", "max"]) {
        let alone = files(&job(21, &[pool]));
        for shard in 0..3 {
            for layer in [0, 2] {
                let file = |end: &str| format!("shard-00000{shard}/layer_{layer}{end}.npy");
                let of_many = &together[&file(&format!("_{name}"))];
                assert!(*of_many == alone[&file("")], "{name} of layer {layer}");
            }
        }
        assert!(
            String::from_utf8_lossy(&alone["job.json"]).contains(&format!("\"pool\": \"{name}\""))
        );
    }
    assert!(String::from_utf8_lossy(&together["job.json"]).contains("\"pool\": \"mean,cls,max\""));
}

#[test]
fn windows_have_the_greatest_values_of_all_of_them() {
    let mut job = job(30, &[Pool::Max, Pool::Mean]);
    job.pack.limit = Some(LengthLimit {
        max: 7,
        long: Long::Window { stride: 5 },
    });
    let files = files(&job);
    let (mut at, mut windowed) = (0, 0);
    for (name, bytes) in files
        .iter()
        .filter(|(name, _)| name.ends_with("layer_2_max.npy"))
    {
        for row in npy(bytes).chunks(WIDTH) {
            let tokens = tokens(&job.records[at]);
            let content = &tokens[1..tokens.len() - 1];
            windowed += usize::from(content.len() > 7);
            let mut most = [f32::NEG_INFINITY; WIDTH];
            let mut start = 0;
            loop {
                let end = content.len().min(start + 7);
                for (i, token) in content[start..end].iter().enumerate() {
                    for (d, most) in most.iter_mut().enumerate() {
                        *most = most.max(state(2, *token, i + 1, d));
                    }
                }
                if end == content.len() {
                    break;
                }
                start += 5;
            }
            assert_eq!(row, most, "{name}, record {at}");
            at += 1;
        }
    }
    assert!(at == 30 && windowed > 9);
}

fn tokens(record: &seqstream::sequence::Record) -> Vec<u32> {
    let mut ids = Vec::new();
    seqstream::sequence::Tokenizer::esm2().encode(&record.sequence, &mut ids);
    ids
}

#[test]
fn shares_merge_and_jobs_resume_with_several_poolings() {
    let (tmp, whole) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut job = job(21, &ALL);
    job.run(whole.path()).unwrap();
    let share = |index: u64| -> PathBuf { tmp.path().join(index.to_string()) };
    for index in 1..=2 {
        job.read.share = Share { index, of: 2 };
        job.run(&share(index)).unwrap();
    }
    merge(&[share(1), share(2)], &tmp.path().join("merged")).unwrap();
    assert_same(whole.path(), &tmp.path().join("merged"));
    // A changed file of one pooling is found and made again.
    job.read.share = Share::ALL;
    job.resume = true;
    let path = whole.path().join("shard-000001/layer_2_max.npy");
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(job.run(whole.path()).unwrap().progress.shards, 1);
    assert_same(whole.path(), &tmp.path().join("merged"));
    assert!(read_manifest(whole.path(), &mut |_| Ok(())).is_ok());
    job.request.pools = vec![Pool::Mean];
    let said = job.run(whole.path()).unwrap_err().to_string();
    assert!(
        said.contains("pool was \"mean,cls,max\", now \"mean\""),
        "{said}"
    );
}

#[test]
fn a_value_that_is_not_a_number_ends_the_job_whatever_the_poolings() {
    for pools in [&[Pool::Max][..], &ALL] {
        let out = tempfile::tempdir().unwrap();
        let mut model = Hashing::new();
        model.nan_at = Some(13);
        let (mut silent, stop) = (
            seqstream::pipeline::Silent,
            seqstream::pipeline::Stop::new(),
        );
        let run = job(21, pools).run_with(out.path(), &mut model, &mut silent, &stop);
        let said = run.unwrap_err().to_string();
        assert!(
            said.contains("(record 14 of the input): layer 0 gave NaN"),
            "{said}"
        );
    }
}
