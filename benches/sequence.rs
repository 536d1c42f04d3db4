//! FASTA reading, cleaning and the two tokenizers, in bytes of sequence per second on one core; and
//! a whole job whose model costs nothing, in tokens per second: the rate that its reading thread
//! can supply.

use std::collections::VecDeque;
use std::hint::black_box;
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use seqstream::architecture::ModelConfig;
use seqstream::batch::{Budget, PackedBatch};
use seqstream::model::{Embedder, LayerOutput, ModelError, Pool, Request};
use seqstream::output::{FORMAT, InputSpec, JobSpec, ModelSpec, OutputDtype};
use seqstream::pipeline::{
    Checks, PackOptions, ReadOptions, RunOptions, Share, Silent, Stop, open_job, run,
};
use seqstream::sequence::{
    Alphabet, BadRecords, Cleaning, Fragmenter, ReaderOptions, Record, SequenceReader, Tokenizer,
    clean,
};

const PROTEIN: &[u8] = b"LAGVSERTIDPKQNFYMHWC";

/// Returns letters drawn uniformly by a fixed generator.
fn letters(alphabet: &[u8], n: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    (0..n)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            alphabet[((state >> 33) as usize) % alphabet.len()]
        })
        .collect()
}

fn fasta(alphabet: &[u8], records: usize, length: usize, width: usize) -> Vec<u8> {
    let mut text = Vec::new();
    let all = letters(alphabet, records * length);
    for (i, sequence) in all.chunks(length).enumerate() {
        text.extend_from_slice(
            format!(">sp|Q{i:05}|NAME_{i} some protein OS=Some organism\n").as_bytes(),
        );
        for line in sequence.chunks(width) {
            text.extend_from_slice(line);
            text.push(b'\n');
        }
    }
    text
}

fn read_all(text: Vec<u8>, cleaned: bool) -> u64 {
    let mut reader =
        SequenceReader::from_reader("bench", Cursor::new(text), ReaderOptions::default())
            .unwrap_or_else(|e| panic!("{e}"));
    let mut record = Record::default();
    let mut total = 0;
    while reader
        .next_into(&mut record)
        .unwrap_or_else(|e| panic!("{e}"))
    {
        if cleaned {
            let counts = clean(Alphabet::Protein, Cleaning::On, false, &mut record);
            total += counts.map_or(0, |c| c.residues);
        } else {
            total += record.sequence.len() as u64;
        }
    }
    total
}

fn reading(c: &mut Criterion) {
    let mut group = c.benchmark_group("fasta");
    for (name, text) in [
        (
            "proteins of 350 in lines of 60",
            fasta(PROTEIN, 20_000, 350, 60),
        ),
        (
            "proteins of 350 in one line",
            fasta(PROTEIN, 20_000, 350, 350),
        ),
        (
            "contigs of 1 Mb in lines of 80",
            fasta(PROTEIN, 8, 1_000_000, 80),
        ),
    ] {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |b| {
            b.iter_batched(
                || text.clone(),
                |t| black_box(read_all(t, false)),
                criterion::BatchSize::LargeInput,
            );
        });
        group.bench_function(format!("{name}, cleaned"), |b| {
            b.iter_batched(
                || text.clone(),
                |t| black_box(read_all(t, true)),
                criterion::BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

/// Returns the tokenizer of the tokenizer.json that SEQSTREAM_BENCH_TOKENIZER names, or by default
/// the small tokenizer of the tests.
fn bpe() -> Tokenizer {
    let own = std::env::var("SEQSTREAM_BENCH_TOKENIZER").unwrap_or_else(|_| {
        let small =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokens/bpe_tokenizer.json");
        small.to_string_lossy().into_owned()
    });
    Tokenizer::from_file(Path::new(&own)).unwrap_or_else(|e| panic!("{e}"))
}

fn tokenizing(c: &mut Criterion) {
    let mut group = c.benchmark_group("tokenize");
    let mut out = Vec::new();
    let mut run = |name: String, tokenizer: &Tokenizer, text: &[u8]| {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                out.clear();
                tokenizer.encode(black_box(text), &mut out);
                out.len()
            });
        });
    };
    run(
        "esm2, 350 residues".into(),
        &Tokenizer::esm2(),
        &letters(PROTEIN, 350),
    );
    let bpe = bpe();
    for length in [500, 100_000, 10_000_000] {
        run(
            format!("bpe, {length} bases"),
            &bpe,
            &letters(b"ACGT", length),
        );
    }
    let mut masked = letters(b"ACGT", 100_000);
    masked.iter_mut().step_by(50).for_each(|b| *b = b'N');
    run("bpe, 100000 bases, 2 % N".into(), &bpe, &masked);
    group.finish();
}

/// The budget of one H100.
const BUDGET: Budget = Budget {
    first_batches: 1,
    first_tokens: 67_584,
    tokens: 33_792,
};

/// A model that gives every sequence a single zero.
struct Nothing {
    config: ModelConfig,
    batches: VecDeque<usize>,
}

impl Embedder for Nothing {
    fn submit(&mut self, batch: &PackedBatch, _: &Request) -> Result<(), ModelError> {
        self.batches.push_back(batch.len());
        Ok(())
    }
    fn collect(&mut self) -> Result<Option<Vec<LayerOutput>>, ModelError> {
        let sequences = self.batches.pop_front();
        Ok(sequences.map(|n| {
            vec![LayerOutput {
                layer: 1,
                pooled: vec![0.0; n],
                states: vec![].into(),
            }]
        }))
    }
    fn free_slots(&self) -> usize {
        3usize.saturating_sub(self.batches.len())
    }
    fn budget(&self) -> Budget {
        BUDGET
    }
    fn config(&self) -> &ModelConfig {
        &self.config
    }
}

/// Reads, tokenizes and packs `text`, in one shard; returns the number of tokens.
fn job(text: Vec<u8>, tokenizer: &Arc<Tokenizer>, threads: usize) -> u64 {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let mut model = Nothing {
        config: ModelConfig::dnabert(1, 1, 1),
        batches: VecDeque::new(),
    };
    let request = Request {
        layers: vec![1],
        pools: vec![Pool::Mean],
        per_token: false,
    };
    let spec = JobSpec {
        format: FORMAT,
        seqstream: String::new(),
        model: ModelSpec {
            id: None,
            blake3: String::new(),
            config: model.config.clone(),
        },
        device: "cpu".into(),
        processor: String::new(),
        gemm_algorithms: None,
        dtype: "f32".into(),
        pool: "mean".into(),
        per_token: false,
        layers: request.layers.clone(),
        max_length: None,
        long: None,
        stride: None,
        clean: true,
        strict: false,
        output_dtype: OutputDtype::F32,
        shard_size: u64::MAX,
        share: "1/1".into(),
        names: "first".into(),
        gaps: "keep".into(),
        bad_records: "stop".into(),
        chains: "keep".into(),
        uracil: None,
        virnucpro: None,
        inputs: vec![InputSpec {
            name: "bench".into(),
            blake3: None,
        }],
    };
    let options = RunOptions {
        read: ReadOptions {
            alphabet: Alphabet::Dna,
            cleaning: Cleaning::On,
            strict: false,
            bad_records: BadRecords::Stop,
            memory: None,
            shard_size: spec.shard_size,
            share: Share::ALL,
        },
        tokenize_threads: threads,
        write_threads: 1,
        pack: PackOptions {
            limit: None,
            capacity: usize::MAX,
            bad_records: BadRecords::Stop,
            budget: BUDGET,
        },
        request,
        input_records: None,
        piped: false,
        weights: Vec::new(),
        trace: seqstream::trace::Trace::off(),
    };
    let job = open_job(dir.path(), spec, false, &Checks::default(), None)
        .unwrap_or_else(|e| panic!("{e}"));
    let reader = SequenceReader::from_reader("bench", Cursor::new(text), ReaderOptions::default())
        .unwrap_or_else(|e| panic!("{e}"));
    let report = run(
        &job,
        &options,
        &mut model,
        Arc::clone(tokenizer),
        reader,
        &mut Silent,
        &Stop::new(),
    );
    report.unwrap_or_else(|e| panic!("{e}")).progress.tokens
}

fn feeding(c: &mut Criterion) {
    let tokenizer = Arc::new(bpe());
    let text = fasta(b"ACGT", 20_000, 500, 80);
    let mut group = c.benchmark_group("reader");
    group.sample_size(20);
    group.throughput(Throughput::Elements(job(text.clone(), &tokenizer, 1)));
    for threads in [1, 2, 4] {
        let name = format!("fragments of 500 bases to batches, {threads} threads tokenize");
        group.bench_function(name, |b| {
            b.iter_batched(
                || text.clone(),
                |t| black_box(job(t, &tokenizer, threads)),
                criterion::BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

fn fragmenting(c: &mut Criterion) {
    let mut group = c.benchmark_group("fragments");
    for (name, alphabet) in [
        ("random letters, few frames open", &b"ACGT"[..]),
        ("no stops, all frames open", b"CG"),
    ] {
        let contig = letters(alphabet, 10_000_000);
        group.throughput(Throughput::Bytes(contig.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                Fragmenter::new(500).fragments::<()>(black_box(&contig), |fragment| {
                    black_box(fragment);
                    Ok(())
                })
            });
        });
    }
    group.finish();
}

criterion_group!(benches, reading, tokenizing, feeding, fragmenting);
criterion_main!(benches);
