//! Rows keep their names through batches, windows, shards, merging, and every other option.

use crate::support::pipeline::*;
use proptest::prelude::*;
use seqstream::model::Pool;
use seqstream::output::OutputDtype;
use seqstream::pipeline::{JobError, LengthLimit, Long, Share, Silent, Stop, merge};
use seqstream::sequence::{Record, Tokenizer};
use std::cell::RefCell;
use std::rc::Rc;

pub fn tokens(record: &Record) -> Vec<u32> {
    let mut tokens = Vec::new();
    Tokenizer::esm2().encode(&record.sequence, &mut tokens);
    tokens
}

/// Returns the mean over `part` of the content tokens of a sequence that is embedded by itself.
fn mean(layer: usize, tokens: &[u32], part: std::ops::Range<usize>) -> Vec<f32> {
    let content = &tokens[1 + part.start..1 + part.end];
    (0..WIDTH)
        .map(|d| {
            let sum: f64 = content
                .iter()
                .enumerate()
                .map(|(i, t)| f64::from(state(layer, *t, i + 1, d)))
                .sum();
            (sum / content.len() as f64) as f32
        })
        .collect()
}

/// The first batches, as many as there are devices, are long in order to hide the loading of
/// weights.
#[test]
fn the_first_batches_have_a_budget_of_their_own() {
    let out = tempfile::tempdir().unwrap();
    let mut job = Job::new(60);
    job.read.shard_size = 25;
    (job.pack.budget.first_batches, job.pack.budget.first_tokens) = (2, 300);
    let begins = Rc::new(RefCell::new(Vec::new()));
    let mut model = Hashing::new();
    let seen = Rc::clone(&begins);
    model.before = Box::new(move |sequences| seen.borrow_mut().push(sequences as usize));
    job.run_with(out.path(), &mut model, &mut Silent, &Stop::new())
        .unwrap();
    let mut begins = begins.borrow().clone();
    begins.push(60);
    let lengths: Vec<usize> = job.records.iter().map(|r| tokens(r).len()).collect();
    for (batch, range) in begins.windows(2).enumerate() {
        let (budget, total) = (
            if batch < 2 { 300 } else { 100 },
            lengths[range[0]..range[1]].iter().sum::<usize>(),
        );
        assert!(total <= budget, "batch {batch} has {total} tokens");
        let ends_a_shard = range[1] % 25 == 0 || range[1] == 60;
        assert!(
            ends_a_shard || total + lengths[range[1]] > budget,
            "batch {batch} can take more than {total} tokens"
        );
    }
}

/// Groups are tokenized in any order; the output is byte for byte the output of one thread, and an
/// error is reported at its record.
#[test]
fn however_many_tokenize_the_output_is_the_same() {
    let mut job = Job::new(2000);
    for (i, record) in job.records.iter_mut().enumerate() {
        // Some records fill a group alone, and most are short.
        record.sequence = record
            .sequence
            .repeat(if i % 97 == 5 { 1500 } else { 1 + i % 9 });
    }
    job.read.shard_size = 700;
    let mut failing = job.clone();
    failing.read.strict = true;
    failing.give_each_its_name();
    failing.records[1500].sequence[0] = b'!';
    let (mut outputs, mut errors) = (Vec::new(), Vec::new());
    for threads in [1, 2, 5] {
        let out = tempfile::tempdir().unwrap();
        job.tokenize_threads = threads;
        job.run(out.path()).unwrap();
        outputs.push(tree(out.path()));
        let out = tempfile::tempdir().unwrap();
        failing.tokenize_threads = threads;
        let error = failing.run(out.path()).unwrap_err();
        assert!(matches!(error, JobError::Sequence(_)), "{error}");
        errors.push((error.to_string(), tree(out.path())));
    }
    assert!(outputs[0].len() > 3 * 2 && outputs.iter().all(|o| *o == outputs[0]));
    assert!(errors[0].0.contains("1501") && errors.iter().all(|e| *e == errors[0]));
}

#[test]
fn every_row_is_its_records_own() {
    let out = tempfile::tempdir().unwrap();
    let mut job = Job::new(45);
    job.request.layers = vec![2, 0];
    let report = job.run(out.path()).unwrap();
    let manifest = report.manifest.unwrap();
    assert_eq!(
        (
            manifest.records,
            manifest.input_records,
            report.progress.shards
        ),
        (45, 45, 6)
    );
    assert_eq!(manifest.tokens, report.progress.tokens);
    assert_eq!(
        manifest.counts["residues"],
        job.records
            .iter()
            .map(|r| r.sequence.len() as u64)
            .sum::<u64>()
    );
    for layer in [2, 0] {
        let expected: Vec<(String, Vec<f32>)> = job
            .records
            .iter()
            .map(|r| (r.id.clone(), mean(layer, &tokens(r), 0..r.sequence.len())))
            .collect();
        assert_eq!(rows(out.path(), layer), expected);
    }
}

#[test]
fn states_are_those_of_the_residues() {
    let out = tempfile::tempdir().unwrap();
    let mut job = Job::new(9);
    job.request.per_token = true;
    job.run(out.path()).unwrap();
    let files = tree(out.path());
    for (shard, records) in ["shard-000000", "shard-000001"]
        .iter()
        .zip(job.records.chunks(8))
    {
        let bytes = &files[&format!("{shard}/layer_2.safetensors")];
        let file = safetensors::SafeTensors::deserialize(bytes).unwrap();
        let offsets: Vec<i64> = file
            .tensor("offsets")
            .unwrap()
            .data()
            .chunks(8)
            .map(|c| i64::from_le_bytes(c.try_into().unwrap()))
            .collect();
        let states = file.tensor("states").unwrap();
        let states: Vec<f32> = states
            .data()
            .chunks(4)
            .map(|c| f32::from_le_bytes(c.try_into().unwrap()))
            .collect();
        assert_eq!(offsets.len(), records.len() + 1);
        for (i, record) in records.iter().enumerate() {
            let all = tokens(record);
            let expected: Vec<f32> = (1..all.len() - 1)
                .flat_map(|at| (0..WIDTH).map(move |d| (at, d)))
                .map(|(at, d)| state(2, all[at], at, d))
                .collect();
            let (from, to) = (offsets[i] as usize * WIDTH, offsets[i + 1] as usize * WIDTH);
            assert_eq!(states[from..to], expected);
        }
    }
    job.request.pools = vec![];
    let without = tempfile::tempdir().unwrap();
    job.run(without.path()).unwrap();
    assert!(!without.path().join("shard-000000/layer_2.npy").exists());
    assert_eq!(
        std::fs::read(without.path().join("shard-000000/layer_2.safetensors")).unwrap(),
        files["shard-000000/layer_2.safetensors"]
    );
}

#[test]
fn windows_are_averaged_by_their_residues() {
    for (stride, parts) in [(4, vec![0..4, 4..8, 8..10]), (3, vec![0..4, 3..7, 6..10])] {
        let out = tempfile::tempdir().unwrap();
        let mut job = Job::new(0);
        job.records = ["MKVLAACDEF", "MKV", "MKVLWYHHGG"]
            .iter()
            .enumerate()
            .map(|(i, s)| Record::new(format!("r{i}"), *s))
            .collect();
        // The budget is below two windows, so the windows of one record lie in several batches.
        job.pack.budget.tokens = 7;
        job.pack.limit = Some(LengthLimit {
            max: 4,
            long: Long::Window { stride },
        });
        let manifest = job.run(out.path()).unwrap().manifest.unwrap();
        assert_eq!(
            (manifest.counts["windowed"], manifest.counts["truncated"]),
            (2, 0)
        );
        let rows = rows(out.path(), 2);
        assert_eq!(rows[1].1, mean(2, &tokens(&job.records[1]), 0..3));
        for i in [0, 2] {
            let all = tokens(&job.records[i]);
            let total: usize = parts.iter().map(|p| p.len()).sum();
            for d in 0..WIDTH {
                let sum: f64 = parts
                    .iter()
                    .map(|p| p.len() as f64 * f64::from(mean(2, &all, p.clone())[d]))
                    .sum();
                let expected = sum / total as f64;
                assert!(
                    (f64::from(rows[i].1[d]) - expected).abs() < 1e-7,
                    "{stride} {i} {d}"
                );
            }
        }
    }
}

#[test]
fn what_is_too_long_is_cut_or_refused() {
    let mut job = Job::new(20);
    job.pack.limit = Some(LengthLimit {
        max: 10,
        long: Long::Truncate,
    });
    let out = tempfile::tempdir().unwrap();
    let manifest = job.run(out.path()).unwrap().manifest.unwrap();
    let long = job.records.iter().filter(|r| r.sequence.len() > 10).count() as u64;
    assert!(long > 0);
    assert_eq!(manifest.counts["truncated"], long);
    for ((_, row), record) in rows(out.path(), 2).iter().zip(&job.records) {
        assert_eq!(
            *row,
            mean(2, &tokens(record), 0..record.sequence.len().min(10))
        );
    }
    job.pack.limit = Some(LengthLimit {
        max: 10,
        long: Long::Error,
    });
    let out = tempfile::tempdir().unwrap();
    let error = job.run(out.path()).unwrap_err();
    let first = job.records.iter().find(|r| r.sequence.len() > 10).unwrap();
    assert!(
        error.to_string().contains(&first.id) && error.to_string().contains("allows 10"),
        "{error}"
    );
}

#[test]
fn garbage_does_not_leave_in_silence() {
    let out = tempfile::tempdir().unwrap();
    let mut model = Hashing::new();
    model.nan_at = Some(13);
    let error = Job::new(30)
        .run_with(out.path(), &mut model, &mut Silent, &Stop::new())
        .unwrap_err();
    assert!(
        matches!(
            &error,
            JobError::NonFinite {
                record: 14,
                layer: 2,
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("\"seq13\""), "{error}");
    assert!(
        out.path().join("shard-000000").exists(),
        "the finished shard stays"
    );
    let left: Vec<String> = tree(out.path())
        .into_keys()
        .filter(|n| !n.starts_with("shard-000000"))
        .collect();
    assert_eq!(left, [".lock", "job.json"]);
}

/// A state that is not finite is an error even if every mean is finite, or if no vector is
/// requested: for the last token as for the first, and for any layer.
#[test]
fn a_state_that_is_not_finite_does_not_leave_in_silence() {
    let mut job = Job::new(30);
    job.request.per_token = true;
    job.request.layers = vec![0, 2];
    let length = tokens(&job.records[13]).len();
    assert!(length > 4);
    for pools in [vec![Pool::Mean], vec![Pool::Cls], vec![]] {
        job.request.pools = pools.clone();
        for (token, of, value) in [
            (1, 0, f32::NAN),
            (length - 2, 0, f32::INFINITY),
            (length - 2, 2, f32::NAN),
            (2, 2, f32::NEG_INFINITY),
        ] {
            let out = tempfile::tempdir().unwrap();
            let mut model = Hashing::new();
            model.state_at = Some((13, token, of, value));
            let error = job
                .run_with(out.path(), &mut model, &mut Silent, &Stop::new())
                .unwrap_err();
            let JobError::NonFinite {
                record,
                layer,
                dimension,
                value: found,
                ..
            } = &error
            else {
                panic!("{pools:?}, token {token}: {error}");
            };
            assert_eq!((*record, *layer, *dimension), (14, of, 1), "{error}");
            assert_eq!(found.to_bits(), value.to_bits());
            assert!(error.to_string().contains("\"seq13\""), "{error}");
            assert!(!out.path().join("shard-000001").exists());
        }
    }
}

#[test]
fn f16_halves_the_rows() {
    let out = tempfile::tempdir().unwrap();
    let mut job = Job::new(3);
    job.dtype = OutputDtype::F16;
    job.run(out.path()).unwrap();
    let bytes = std::fs::read(out.path().join("shard-000000/layer_2.npy")).unwrap();
    assert_eq!(bytes.len(), 128 + 3 * WIDTH * 2);
    let first = half::f16::from_le_bytes([bytes[128], bytes[129]]);
    let record = &job.records[0];
    assert_eq!(
        first,
        half::f16::from_f32(mean(2, &tokens(record), 0..record.sequence.len())[0])
    );
}

fn shares(job: &Job, of: u64) -> Vec<tempfile::TempDir> {
    (1..=of)
        .map(|index| {
            let out = tempfile::tempdir().unwrap();
            let mut job = job.clone();
            job.read.share = Share { index, of };
            job.run(out.path()).unwrap();
            out
        })
        .collect()
}

#[test]
fn shares_merge_to_the_whole() {
    for (n, of) in [(45, 2), (45, 3), (48, 4), (5, 3)] {
        let mut job = Job::new(n);
        job.request.per_token = true;
        let whole = tempfile::tempdir().unwrap();
        job.run(whole.path()).unwrap();
        let parts = shares(&job, of);
        let mut paths: Vec<_> = parts.iter().map(|d| d.path().to_path_buf()).collect();
        paths.reverse();
        let merged = tempfile::tempdir().unwrap();
        let report = merge(&paths, merged.path()).unwrap();
        assert_eq!(report.manifest.records, n as u64);
        assert_same(whole.path(), merged.path());
    }
}

#[test]
fn a_merge_that_would_lose_or_double_is_refused() {
    let job = Job::new(45);
    let parts = shares(&job, 3);
    let path = |i: usize| parts[i].path().to_path_buf();
    let refused = |sources: &[std::path::PathBuf]| {
        let out = tempfile::tempdir().unwrap();
        let error = merge(sources, out.path()).unwrap_err();
        assert!(matches!(&error, JobError::Merge { .. }), "{error}");
        assert!(error.remedy().is_some());
        assert!(
            tree(out.path()).is_empty(),
            "nothing is written before all is checked"
        );
        error.to_string()
    };
    let said = refused(&[path(0), path(2)]);
    assert!(said.contains("records 9 to 16 stand in none"), "{said}");
    let said = refused(&[path(0), path(1), path(2), path(1)]);
    assert!(said.contains("records 9 to 16 stand twice"), "{said}");
    let mut other = job.clone();
    other.model = "m1";
    let stranger = &shares(&other, 3)[1];
    let said = refused(&[path(0), stranger.path().to_path_buf(), path(2)]);
    assert!(
        said.contains("model.blake3 was \"m0\", now \"m1\""),
        "{said}"
    );
    std::fs::remove_file(path(1).join("manifest.json")).unwrap();
    let said = refused(&[path(0), path(1), path(2)]);
    assert!(said.contains("not complete"), "{said}");
    let mut again = job.clone();
    again.read.share = Share { index: 2, of: 3 };
    again.resume = true;
    again.run(&path(1)).unwrap();
    let rows = path(1).join("shard-000001/layer_2.npy");
    let mut bytes = std::fs::read(&rows).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&rows, bytes).unwrap();
    let said = refused(&[path(0), path(1), path(2)]);
    assert!(
        said.contains("layer_2.npy") && said.contains("changed"),
        "{said}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn the_bytes_do_not_depend_on_the_budget(n in 1usize..40, budget in 1usize..400) {
        let mut job = Job::new(n);
        job.request.pools = vec![Pool::Cls];
        job.request.per_token = true;
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        job.run(one.path()).unwrap();
        job.pack.budget.tokens = budget;
        job.run(two.path()).unwrap();
        assert_same(one.path(), two.path());
    }
}
