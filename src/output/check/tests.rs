//! Each way in which a shard is not what its job made.

use super::super::spec::tests::spec;
use super::super::{BlockFacts, JobDir, Rejected, Row, ShardWriter, Workers, name_shards};
use super::*;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Makes shard 1 of the job, with two records.
fn make(dir: &Path, layout: &ShardLayout) -> PathBuf {
    let dir = JobDir::open(dir).unwrap();
    let mut shard = ShardWriter::create(&dir, 1, layout).unwrap();
    for id in ["a", "b"] {
        let states: Vec<f32> = (0..3 * layout.width).map(|i| i as f32).collect();
        let row = Row {
            id,
            pooled: vec![&states[..layout.width]],
            tokens: 0..3,
        };
        let workers = Workers::new(1).unwrap();
        shard
            .push(&[row], &[&states.clone().into()], &workers)
            .unwrap();
    }
    let facts = BlockFacts {
        first_record: 4,
        rows: 2,
        tokens: 10,
        digest: "d".into(),
        counts: BTreeMap::from([("unknown".to_owned(), 1)]),
    };
    name_shards(vec![shard.complete(facts).unwrap()]).1.unwrap();
    dir.shard(1)
}

fn reason(layout: &ShardLayout, shard: &Path) -> String {
    match layout.verify(shard, 1) {
        Ok(_) => "sound".into(),
        Err(Doubt::Unsound(reason)) => reason,
        Err(Doubt::Failed(error)) => format!("failed: {error}"),
    }
}

/// Applies `change` to shard.json and seals it again, as a careful forger would.
fn rewrite(shard: &Path, change: impl Fn(&mut ShardRecord)) {
    let mut record = read_record(shard).unwrap();
    change(&mut record);
    if record.seal.is_some() {
        record.seal = Some(record.sealed());
    }
    fs::write(
        shard.join(SHARD_FILE),
        super::super::manifest::pretty(&record),
    )
    .unwrap();
}

fn states_spec() -> JobSpec {
    let mut spec = spec();
    spec.per_token = true;
    spec
}

#[test]
fn each_way_in_which_a_shard_is_not_its_jobs() {
    type Break = Box<dyn Fn(&Path)>;
    let edit = |from: &'static str, to: &'static str| -> Break {
        Box::new(move |shard: &Path| {
            let path = shard.join(SHARD_FILE);
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.contains(from), "{from}");
            fs::write(path, text.replace(from, to)).unwrap();
        })
    };
    let flip = |name: &'static str, at: usize| -> Break {
        Box::new(move |shard: &Path| {
            let mut bytes = fs::read(shard.join(name)).unwrap();
            bytes[at] ^= 1;
            fs::write(shard.join(name), bytes).unwrap();
        })
    };
    let lie = |change: fn(&mut ShardRecord)| -> Break {
        Box::new(move |shard: &Path| rewrite(shard, change))
    };
    let cases: Vec<(Break, &str)> = vec![
        (Box::new(|_| {}), "sound"),
        (
            edit("\"unknown\": 1", "\"unknown\": 2"),
            "its shard.json was changed",
        ),
        (
            edit("\"tokens\": 10", "\"tokens\":  10"),
            "not what seqstream writes: another spelling",
        ),
        (
            edit("{", "["),
            "its shard.json is not what seqstream writes",
        ),
        (
            Box::new(|s| fs::remove_file(s.join(SHARD_FILE)).unwrap()),
            "it has no shard.json",
        ),
        (
            lie(|r| r.job = Some("0".repeat(64))),
            "it was made by another job",
        ),
        (lie(|r| r.job = None), "it was made by another job"),
        (
            lie(|r| r.name = "shard-000002".into()),
            "it holds the records of another shard",
        ),
        (
            lie(|r| r.facts.first_record = 0),
            "it holds the records of another shard",
        ),
        (lie(|r| r.facts.rows = 5), "says 5 records, not 1 to 4"),
        (lie(|r| r.facts.rows = 0), "says 0 records, not 1 to 4"),
        (
            lie(|r| r.facts.rows = 3),
            "has not the size of this job's files",
        ),
        (
            lie(|r| drop(r.files.remove("layer_2.npy"))),
            "layer_2.npy has 192 bytes where shard.json lists no",
        ),
        (
            lie(|r| drop(r.files.insert("more".into(), r.files["ids.txt"].clone()))),
            "lists other files than this job makes",
        ),
        (flip("layer_2.npy", 191), "layer_2.npy was changed"),
        (
            flip("layer_2.npy", 25),
            "layer_2.npy has not the shape or the type",
        ),
        (
            flip("layer_2.safetensors", 20),
            "layer_2.safetensors has not the shape or the type",
        ),
        (flip("ids.txt", 0), "ids.txt was changed"),
        (
            Box::new(|s| fs::write(s.join("ids.txt"), "").unwrap()),
            "ids.txt has 0 bytes where shard.json says 4",
        ),
        (
            // A single id that is as long as the two ids together, and a hash that matches.
            Box::new(|s| {
                fs::write(s.join("ids.txt"), "abc\n").unwrap();
                rewrite(s, |r| {
                    let hash = blake3::hash(b"abc\n").to_hex().to_string();
                    r.files.get_mut("ids.txt").unwrap().blake3 = hash;
                });
            }),
            "ids.txt has 1 ids where shard.json says 2",
        ),
        (
            Box::new(|s| fs::remove_file(s.join("ids.txt")).unwrap()),
            "it has no ids.txt",
        ),
        (
            Box::new(|s| fs::write(s.join("layer_1.npy"), "").unwrap()),
            "it has a layer_1.npy, which",
        ),
        (
            Box::new(|s| fs::write(s.join("notes.txt"), "").unwrap()),
            "failed: the output directory",
        ),
        (
            Box::new(|s| fs::create_dir(s.join("layer_01.npy")).unwrap()),
            "failed: the output directory",
        ),
        (
            Box::new(|s| fs::create_dir(s.join("layer_1.npy")).unwrap()),
            "its layer_1.npy is no regular file",
        ),
        (
            Box::new(|s| {
                fs::remove_dir_all(s).unwrap();
                fs::write(s, "").unwrap();
            }),
            "it is no directory",
        ),
    ];
    let layout = ShardLayout::of(&states_spec());
    for (i, (change, expected)) in cases.iter().enumerate() {
        let tmp = tempfile::tempdir().unwrap();
        let shard = make(tmp.path(), &layout);
        change(&shard);
        let said = reason(&layout, &shard);
        assert!(
            said.contains(expected),
            "case {i}: {said} instead of {expected}"
        );
    }
}

#[cfg(unix)]
#[test]
fn links_are_not_followed() {
    let layout = ShardLayout::of(&states_spec());
    let tmp = tempfile::tempdir().unwrap();
    let shard = make(&tmp.path().join("out"), &layout);
    let (ids, elsewhere) = (shard.join("ids.txt"), tmp.path().join("elsewhere"));
    fs::rename(&ids, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &ids).unwrap();
    assert_eq!(reason(&layout, &shard), "its ids.txt is no regular file");
    fs::remove_file(&ids).unwrap();
    fs::rename(&elsewhere, &ids).unwrap();
    assert_eq!(reason(&layout, &shard), "sound");
    fs::rename(&shard, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &shard).unwrap();
    assert_eq!(reason(&layout, &shard), "it is no directory");
}

#[test]
fn the_skipped_records_of_a_shard_are_those_of_its_list() {
    let mut skips = spec();
    skips.bad_records = "skip".into();
    let layout = ShardLayout::of(&skips);
    let rejected = Rejected {
        name: "k2".into(),
        file: "a.fa".into(),
        record: 2,
        line: 3,
        reason: "the sequence is empty".into(),
    };
    let make = |listed: usize, said: u64, rows: u64, layout: &ShardLayout| {
        let tmp = tempfile::tempdir().unwrap();
        let dir = JobDir::open(tmp.path()).unwrap();
        let mut shard = ShardWriter::create(&dir, 1, layout).unwrap();
        (0..listed).for_each(|_| shard.reject(&rejected).unwrap());
        let workers = Workers::new(1).unwrap();
        let row = || Row {
            id: "a",
            pooled: vec![&[0.5; 8]],
            tokens: 0..0,
        };
        (0..rows).for_each(|_| shard.push(&[row()], &[], &workers).unwrap());
        let facts = BlockFacts {
            first_record: 4,
            rows,
            tokens: 10,
            digest: "d".into(),
            counts: BTreeMap::from([("rejected".to_owned(), said)]),
        };
        name_shards(vec![shard.complete(facts).unwrap()]).1.unwrap();
        reason(layout, &dir.shard(1))
    };
    assert_eq!(make(0, 0, 2, &layout), "sound");
    assert_eq!(make(1, 1, 2, &layout), "sound");
    assert_eq!(make(4, 4, 0, &layout), "sound");
    assert_eq!(
        make(2, 0, 2, &layout),
        "it has a rejected.tsv, which this job does not make"
    );
    assert_eq!(make(0, 1, 2, &layout), "it has no rejected.tsv");
    let more = make(1, 2, 2, &layout);
    assert_eq!(more, "rejected.tsv has 1 records where shard.json says 2");
    assert_eq!(
        make(3, 3, 2, &layout),
        "its shard.json says 5 records, not 1 to 4"
    );
    assert_eq!(
        make(0, 0, 0, &layout),
        "its shard.json says 0 records, not 1 to 4"
    );
    let stops = make(1, 1, 2, &ShardLayout::of(&spec()));
    assert_eq!(stops, "it skipped records, which this job does not do");
}

#[test]
fn a_shard_of_another_layout_is_not_this_jobs() {
    let tmp = tempfile::tempdir().unwrap();
    let made = ShardLayout::of(&states_spec());
    let shard = make(tmp.path(), &made);
    let said = |change: &dyn Fn(&mut ShardLayout)| {
        let mut layout = made.clone();
        change(&mut layout);
        reason(&layout, &shard)
    };
    assert!(said(&|l| l.layers = vec![1]).contains("it has no layer_1.npy"));
    assert!(said(&|l| l.per_token = false).contains("it has a layer_2.safetensors"));
    assert!(said(&|l| l.pools = vec![]).contains("it has a layer_2.npy"));
    let several = |l: &mut ShardLayout| l.pools = vec!["mean".into(), "max".into()];
    assert!(said(&several).contains("it has no layer_2_mean.npy"));
    assert!(said(&|l| l.width = 4).contains("layer_2.npy has not the size"));
    assert!(said(&|l| l.width = usize::MAX).contains("layer_2.npy has not the size"));
    assert!(said(&|l| l.shard_size = u64::MAX).contains("records of another shard"));
    // A row has the same number of bytes in this layout.
    let half = said(&|l| (l.width, l.dtype) = (16, super::super::OutputDtype::F16));
    assert!(
        half.contains("layer_2.npy has not the shape or the type"),
        "{half}"
    );
}

#[test]
fn shards_of_format_1_name_no_job_and_are_checked_by_the_rest() {
    let mut old = states_spec();
    old.format = 1;
    let (old, new) = (ShardLayout::of(&old), ShardLayout::of(&states_spec()));
    let tmp = tempfile::tempdir().unwrap();
    let shard = make(tmp.path(), &old);
    let text = fs::read_to_string(shard.join(SHARD_FILE)).unwrap();
    assert!(!text.contains("seal") && !text.contains("job"), "{text}");
    assert_eq!(reason(&old, &shard), "sound");
    assert_eq!(reason(&new, &shard), "it was made by another job");
    fs::write(shard.join("ids.txt"), "a\nc\n").unwrap();
    assert!(reason(&old, &shard).starts_with("ids.txt was changed"));
    let tmp = tempfile::tempdir().unwrap();
    assert_eq!(
        reason(&old, &make(tmp.path(), &new)),
        "it was made by another job"
    );
}
