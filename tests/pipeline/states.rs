//! The states of every token, in files of many blocks: written by any number of threads, from f32
//! and from the f16 of a device.

use std::path::Path;

use crate::job::tokens;
use crate::support::pipeline::*;
use seqstream::model::Pool;
use seqstream::output::{OutputDtype, OutputError};
use seqstream::pipeline::{JobError, Silent, Stop};

/// A job whose shards have files of several blocks, with a border of a block in every batch that is
/// large enough.
fn large() -> Job {
    let mut job = Job::new(9000);
    job.read.shard_size = 4500;
    job.pack.budget.first_tokens = 60_000;
    job.pack.budget.tokens = 20_000;
    job.request.layers = vec![0, 2];
    job.request.per_token = true;
    job
}

fn run(job: &Job, rounds: bool, out: &Path) {
    let mut model = Hashing::new();
    model.rounds = rounds;
    let report = job.run_with(out, &mut model, &mut Silent, &Stop::new());
    assert_eq!(report.unwrap().progress.shards, 2);
}

/// Returns the values that the file of a layer must have.
fn expected(job: &Job, shard: usize, layer: usize) -> Vec<u8> {
    let size = job.read.shard_size as usize;
    let mut bytes = Vec::new();
    for record in &job.records[shard * size..(shard + 1) * size] {
        let tokens = tokens(record);
        for (at, token) in tokens.iter().enumerate().take(tokens.len() - 1).skip(1) {
            for dimension in 0..WIDTH {
                let value = state(layer, *token, at, dimension);
                match job.dtype {
                    OutputDtype::F32 => bytes.extend(value.to_le_bytes()),
                    OutputDtype::F16 => bytes.extend(half::f16::from_f32(value).to_le_bytes()),
                }
            }
        }
    }
    bytes
}

#[test]
fn states_are_the_same_from_any_thread_and_in_either_form() {
    for dtype in [OutputDtype::F32, OutputDtype::F16] {
        let mut job = large();
        job.dtype = dtype;
        job.write_threads = 1;
        let first = tempfile::tempdir().unwrap();
        run(&job, false, first.path());
        let files = tree(first.path());
        for (shard, layer) in [(0, 0), (0, 2), (1, 0), (1, 2)] {
            let bytes = &files[&format!("shard-00000{shard}/layer_{layer}.safetensors")];
            assert!(
                bytes.len() > 2 << 18,
                "{} bytes are few blocks",
                bytes.len()
            );
            let file = safetensors::SafeTensors::deserialize(bytes).unwrap();
            let states = file.tensor("states").unwrap();
            assert!(states.data() == expected(&job, shard, layer));
        }
        for (threads, rounds) in [(3, false), (1, true), (4, true)] {
            if rounds && dtype == OutputDtype::F32 {
                continue;
            }
            job.write_threads = threads;
            let out = tempfile::tempdir().unwrap();
            run(&job, rounds, out.path());
            let others = tree(out.path());
            for (name, bytes) in &files {
                // The manifest has dates.
                let same = name == "manifest.json" || others[name] == *bytes;
                assert!(same, "{name} of {threads} threads, {rounds}");
            }
            // The hashes in shard.json are those of the files.
            job.resume = true;
            let report = job.run(out.path()).unwrap();
            assert_eq!((report.progress.reused, report.progress.records), (9000, 0));
            job.resume = false;
        }
    }
}

/// The first record that cannot be stored is named, with its first value that is not finite, or
/// else beyond the range, whether the host rounds or a device does.
#[test]
fn states_that_cannot_be_stored_are_refused_with_the_record() {
    let mut job = large();
    job.dtype = OutputDtype::F16;
    let length = tokens(&job.records[5003]).len();
    assert!(length > 4);
    for (threads, rounds) in [(1, false), (3, false), (1, true), (3, true)] {
        job.write_threads = threads;
        for pools in [vec![Pool::Mean], vec![]] {
            job.request.pools = pools.clone();
            for (token, layer, value) in [
                (1, 0, 65520.0),
                (length - 2, 2, -1e30),
                (2, 2, f32::NAN),
                (length - 2, 0, f32::NEG_INFINITY),
            ] {
                let out = tempfile::tempdir().unwrap();
                let mut model = Hashing::new();
                model.rounds = rounds;
                model.state_at = Some((5003, token, layer, value));
                let error = job
                    .run_with(out.path(), &mut model, &mut Silent, &Stop::new())
                    .unwrap_err();
                let named = match &error {
                    JobError::NonFinite {
                        id,
                        record: 5004,
                        layer,
                        dimension: 1,
                        value,
                        ..
                    } => (id, *layer, value.to_bits()),
                    JobError::Output(OutputError::F16Overflow { id, layer, value }) => {
                        (id, *layer, value.to_bits())
                    }
                    _ => panic!("{error}"),
                };
                let id = &job.records[5003].id;
                assert_eq!(named, (id, layer, value.to_bits()), "{error}");
                assert_eq!(value.is_finite(), error.to_string().contains("65504"));
                assert!(out.path().join("shard-000000").exists());
                assert!(!out.path().join("shard-000001").exists());
            }
            // The states of cls and eos are not written, so they may be anything.
            for token in [0, length - 1] {
                let out = tempfile::tempdir().unwrap();
                let mut model = Hashing::new();
                model.rounds = rounds;
                model.state_at = Some((5003, token, 2, 1e9));
                let report = job.run_with(out.path(), &mut model, &mut Silent, &Stop::new());
                assert!(report.is_ok(), "{report:?}");
            }
        }
    }
}
