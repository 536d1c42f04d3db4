//! FASTA reading, cleaning and the two tokenisers, in bytes of sequence a second on one core.

use std::hint::black_box;
use std::io::Cursor;
use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use seqstream::sequence::{Alphabet, Case, ReaderOptions, Record, SequenceReader, Tokenizer, clean};

/// Letters drawn evenly by a fixed generator.
fn letters(alphabet: &[u8], n: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            alphabet[((state >> 33) as usize) % alphabet.len()]
        })
        .collect()
}

fn fasta(records: usize, length: usize, width: usize) -> Vec<u8> {
    let mut text = Vec::new();
    for i in 0..records {
        text.extend_from_slice(format!(">sp|Q{i:05}|NAME_{i} some protein OS=Some organism\n").as_bytes());
        for line in letters(b"LAGVSERTIDPKQNFYMHWC", length).chunks(width) {
            text.extend_from_slice(line);
            text.push(b'\n');
        }
    }
    text
}

fn read_all(text: Vec<u8>, cleaned: bool) -> u64 {
    let mut reader = SequenceReader::from_reader("bench", Cursor::new(text), ReaderOptions::default())
        .unwrap_or_else(|e| panic!("{e}"));
    let mut record = Record::default();
    let mut total = 0;
    while reader.next_into(&mut record).unwrap_or_else(|e| panic!("{e}")) {
        if cleaned {
            let counts = clean(Alphabet::Protein, Case::Upper, false, &mut record);
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
        ("proteins of 350 in lines of 60", fasta(20_000, 350, 60)),
        ("proteins of 350 in one line", fasta(20_000, 350, 350)),
        ("contigs of 1 Mb in lines of 80", fasta(8, 1_000_000, 80)),
    ] {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |b| {
            b.iter_batched(|| text.clone(), |t| black_box(read_all(t, false)), criterion::BatchSize::LargeInput);
        });
        group.bench_function(format!("{name}, cleaned"), |b| {
            b.iter_batched(|| text.clone(), |t| black_box(read_all(t, true)), criterion::BatchSize::LargeInput);
        });
    }
    group.finish();
}

fn tokenising(c: &mut Criterion) {
    let mut group = c.benchmark_group("tokenise");
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
    run("esm2, 350 residues".into(), &Tokenizer::esm2(), &letters(b"LAGVSERTIDPKQNFYMHWC", 350));
    // SEQSTREAM_BENCH_TOKENIZER names a published tokenizer.json; the small one of the tests stands in for it.
    let own = std::env::var("SEQSTREAM_BENCH_TOKENIZER").unwrap_or_else(|_| {
        let small = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokens/bpe_tokenizer.json");
        small.to_string_lossy().into_owned()
    });
    let bpe = Tokenizer::from_file(Path::new(&own)).unwrap_or_else(|e| panic!("{e}"));
    for length in [500, 100_000, 10_000_000] {
        run(format!("bpe, {length} bases"), &bpe, &letters(b"ACGT", length));
    }
    let mut masked = letters(b"ACGT", 100_000);
    masked.iter_mut().step_by(50).for_each(|b| *b = b'N');
    run("bpe, 100000 bases, 2 % N".into(), &bpe, &masked);
    group.finish();
}

criterion_group!(benches, reading, tokenising);
criterion_main!(benches);
