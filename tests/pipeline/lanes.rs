//! Jobs of two models over one stream of fragments, with models that hash: neither the budgets nor
//! the threads of either model change a byte, and no model waits for the other one for ever.

use std::path::Path;
use std::sync::Arc;

use seqstream::batch::Budget;
use seqstream::model::{Pool, Request};
use seqstream::output::{Features, TablesSpec, Vectors, VirnucproSpec};
use seqstream::pipeline::{
    Checks, Chunks, ContigNames, DuplicateIds, FragmentOptions, JobError, JoinOptions, Lane,
    PackOptions, Report, RunOptions, Silent, Stop, open_job, run_fragments,
};
use seqstream::sequence::{BadRecords, Record, Tokenizer};

use crate::support::pipeline::*;

/// Contigs of one letter and of many, without stops.
fn contigs(n: usize) -> Vec<Record> {
    (0..n)
        .map(|i| {
            let length = [0, 1, 40, 700, 90, 5000, 33][i % 7] + i;
            let sequence: Vec<u8> = (0..length)
                .map(|j| b"GCGCCGAGC"[(i + j * j + j / 3) % 9])
                .collect();
            let mut record =
                Record::new(format!("c{i}"), if i % 7 == 0 { vec![] } else { sequence });
            record.source = "list.fa".into();
            record.number = i as u64 + 1;
            record
        })
        .collect()
}

struct Two {
    shard_size: u64,
    budgets: [usize; 2],
    tokenize_threads: usize,
    /// The number of sequences of the DNA model after which the job is asked to stop.
    stop_at: Option<u64>,
    /// The model, and the number of its sequence, that gives NaN.
    nan: Option<(usize, u64)>,
}

impl Two {
    fn new(shard_size: u64) -> Self {
        Self {
            shard_size,
            budgets: [500, 500],
            tokenize_threads: 1,
            stop_at: None,
            nan: None,
        }
    }

    fn run(&self, contigs: &[Record], out: &Path, resume: bool) -> Result<Report, JobError> {
        let mut job = Job::new(0);
        job.read.shard_size = self.shard_size;
        let mut spec = job.spec();
        spec.virnucpro = Some(VirnucproSpec {
            chunk: 120,
            features: Features::Both,
            protein_model: Some(spec.model.clone()),
            classifier: None,
            vectors: Vectors::All,
            fragments: true,
            torch_files: false,
            duplicate_ids: "error".into(),
            tables: TablesSpec {
                style: "original".into(),
                rule: Default::default(),
            },
        });
        let checks = Checks {
            threads: 1,
            input: None,
        };
        let open = open_job(out, spec, resume, &checks, None)?;
        let pack = |tokens| PackOptions {
            limit: None,
            capacity: usize::MAX,
            budget: Budget::even(tokens),
            bad_records: BadRecords::Stop,
        };
        let request = Request {
            layers: vec![2],
            pools: vec![Pool::Mean],
            per_token: false,
        };
        let options = RunOptions {
            read: job.read.clone(),
            tokenize_threads: self.tokenize_threads,
            write_threads: 1,
            pack: pack(1),
            request: request.clone(),
            input_records: None,
            piped: false,
            weights: Vec::new(),
            trace: seqstream::trace::Trace::off(),
        };
        let mut models = [Hashing::new(), Hashing::new()];
        if let Some((model, sequence)) = self.nan {
            models[model].nan_at = Some(sequence);
        }
        let stop = Stop::new();
        if let Some(at) = self.stop_at {
            let stop = stop.clone();
            models[0].before = Box::new(move |sequences| {
                if sequences >= at {
                    stop.request(15);
                }
            });
        }
        let lanes = models
            .iter_mut()
            .zip(self.budgets)
            .map(|(embedder, tokens)| Lane {
                embedder,
                tokenizer: Arc::new(Tokenizer::esm2()),
                pack: pack(tokens),
                request: request.clone(),
            });
        let fragments = FragmentOptions {
            chunk: 120,
            features: Features::Both,
            keep: true,
            memory: [None, None],
        };
        let join = JoinOptions {
            features: Features::Both,
            vectors: Vectors::All,
            score: None,
        };
        let list = List {
            records: Vec::from(contigs).into_iter(),
            blake3: job.hash.into(),
        };
        let names = ContigNames::new(DuplicateIds::Error);
        run_fragments(
            &open,
            &options,
            lanes.collect(),
            (fragments, &join),
            Chunks::new(list, 120, names),
            &mut Silent,
            &stop,
        )
    }
}

#[test]
fn budgets_far_apart_change_no_byte_and_block_nothing() {
    let tmp = tempfile::tempdir().unwrap();
    let contigs = contigs(30);
    for shard_size in [1, 9, 1000] {
        let whole = tmp.path().join(format!("whole{shard_size}"));
        let report = Two::new(shard_size).run(&contigs, &whole, false).unwrap();
        let manifest = report.manifest.unwrap();
        assert!(manifest.records > 300, "{}", manifest.records);
        assert_eq!(report.progress.records, manifest.records);
        for (i, budgets) in [[1, 1_000_000], [1_000_000, 1], [40, 900]]
            .into_iter()
            .enumerate()
        {
            for tokenize_threads in [1, 3] {
                let two = Two {
                    budgets,
                    tokenize_threads,
                    ..Two::new(shard_size)
                };
                let out = tmp
                    .path()
                    .join(format!("{shard_size}-{i}-{tokenize_threads}"));
                two.run(&contigs, &out, false).unwrap();
                assert_same(&whole, &out);
            }
        }
    }
}

/// The protein model's rows are those of the proteins, the DNA model's those of the nucleotides.
#[test]
fn each_model_reads_its_own_text() {
    let tmp = tempfile::tempdir().unwrap();
    Two::new(16).run(&contigs(10), tmp.path(), false).unwrap();
    let files = tree(tmp.path());
    let mut checked = 0;
    for (name, fasta) in [("dna.npy", "nucleotide.fa"), ("protein.npy", "protein.faa")] {
        for (path, bytes) in files.iter().filter(|(path, _)| path.ends_with(name)) {
            let shard = path.split('/').next().unwrap();
            let text = std::str::from_utf8(&files[&format!("{shard}/{fasta}")]).unwrap();
            let sequences = text.lines().filter(|line| !line.starts_with('>'));
            let rows = npy(bytes);
            assert_eq!(sequences.clone().count(), rows.len() / WIDTH);
            for (sequence, row) in sequences.zip(rows.chunks(WIDTH)) {
                let mut tokens = Vec::new();
                Tokenizer::esm2().encode(sequence.as_bytes(), &mut tokens);
                for (dimension, value) in row.iter().enumerate() {
                    let states = (1..tokens.len() - 1)
                        .map(|at| f64::from(state(2, tokens[at], at, dimension)));
                    let mean = states.sum::<f64>() / (tokens.len() - 2) as f64;
                    assert_eq!(*value, mean as f32, "{sequence}");
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 200, "{checked}");
}

#[test]
fn a_value_that_is_not_finite_names_its_fragment_whichever_model_gave_it() {
    for model in [0, 1] {
        let tmp = tempfile::tempdir().unwrap();
        let two = Two {
            nan: Some((model, 40)),
            ..Two::new(8)
        };
        let error = two.run(&contigs(10), tmp.path(), false).unwrap_err();
        let JobError::NonFinite { id, .. } = error else {
            panic!("{error}");
        };
        let whole = tempfile::tempdir().unwrap();
        Two::new(1000)
            .run(&contigs(10), whole.path(), false)
            .unwrap();
        let ids = std::fs::read_to_string(whole.path().join("shard-000000/ids.txt")).unwrap();
        assert_eq!(ids.lines().nth(40), Some(id.as_str()), "model {model}");
    }
}

/// A job that is asked to stop finishes the shard in hand for both models, and goes on later.
#[test]
fn a_stopped_job_goes_on_to_the_same_bytes() {
    let tmp = tempfile::tempdir().unwrap();
    let contigs = contigs(30);
    let whole = tmp.path().join("whole");
    Two::new(9).run(&contigs, &whole, false).unwrap();
    for budgets in [[300, 300], [1, 1_000_000], [1_000_000, 1]] {
        let out = tmp.path().join(format!("out{}", budgets[0]));
        let (mut runs, mut stood) = (0, 0);
        loop {
            let two = Two {
                stop_at: Some(60),
                budgets,
                tokenize_threads: 1 + runs % 2,
                ..Two::new(9)
            };
            let report = two.run(&contigs, &out, runs > 0).unwrap();
            runs += 1;
            let files = tree(&out);
            assert!(files.keys().all(|name| !name.contains(".partial")));
            let shards = files.keys().filter(|name| name.ends_with("shard.json"));
            let stands = shards.count();
            assert!(stands > stood, "run {runs} made no shard");
            stood = stands;
            if report.manifest.is_some() {
                break;
            }
            assert_eq!(report.stopped, Some(15));
        }
        assert!(runs > 1, "the job was never stopped");
        assert_same(&whole, &out);
    }
}

/// A shard whose chunks have been changed since it was made is not believed.
#[test]
fn a_shard_of_other_chunks_is_an_error() {
    let tmp = tempfile::tempdir().unwrap();
    let mut contigs = contigs(12);
    Two::new(9).run(&contigs, tmp.path(), false).unwrap();
    std::fs::remove_file(tmp.path().join("manifest.json")).unwrap();
    std::fs::remove_dir_all(tmp.path().join("shard-000001")).unwrap();
    // The first chunks keep their letters, and their contig is longer.
    contigs[3].sequence.extend_from_slice(b"GCGCGC");
    let error = Two::new(9).run(&contigs, tmp.path(), true).unwrap_err();
    assert!(matches!(error, JobError::RecordsDiffer { .. }), "{error}");
}

/// A chunk whose letters are the same is another one if its contig has another length.
#[test]
fn the_place_of_a_chunk_is_part_of_its_shard() {
    let tmp = tempfile::tempdir().unwrap();
    let mut contigs = contigs(4);
    let contig = contigs.remove(3);
    let mut contigs = vec![contig];
    Two::new(1).run(&contigs, tmp.path(), false).unwrap();
    std::fs::remove_file(tmp.path().join("manifest.json")).unwrap();
    std::fs::remove_dir_all(tmp.path().join("shard-000005")).unwrap();
    contigs[0].sequence.pop();
    let error = Two::new(1).run(&contigs, tmp.path(), true).unwrap_err();
    assert!(
        matches!(
            error,
            JobError::RecordsDiffer {
                first: 1,
                last: 1,
                ..
            }
        ),
        "{error}"
    );
}
