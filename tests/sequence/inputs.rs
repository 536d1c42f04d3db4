//! Compressed inputs, several inputs, and the reading of inputs before a job begins.

use std::io::Write;
use std::path::Path;

use crate::support::sequence::*;
use seqstream::sequence::{
    Alphabet, Cleaning, Input, ReaderOptions, Record, ScanOptions, SequenceError, SequenceReader,
    scan,
};

type Packer = fn(&[u8]) -> Vec<u8>;

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(text).unwrap();
    out.finish().unwrap()
}

fn bzip2(text: &[u8]) -> Vec<u8> {
    let mut out = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    out.write_all(text).unwrap();
    out.finish().unwrap()
}

fn xz(text: &[u8]) -> Vec<u8> {
    let mut out = liblzma::write::XzEncoder::new(Vec::new(), 1);
    out.write_all(text).unwrap();
    out.finish().unwrap()
}

fn zstandard(text: &[u8]) -> Vec<u8> {
    let mut out = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    out.include_checksum(true).unwrap();
    out.write_all(text).unwrap();
    out.finish().unwrap()
}

const PACKERS: [(&str, Packer); 4] = [
    ("gzip", gzip),
    ("bzip2", bzip2),
    ("xz", xz),
    ("zstd", zstandard),
];

#[test]
fn compression_of_one_part_or_several() {
    let text = b">a\nMKVL\n>b\nACD\n";
    let want = own(&[("a", "MKVL"), ("b", "ACD")]);
    for (name, pack) in PACKERS {
        assert_eq!(pairs(&pack(text)), want, "{name}");
        // Split inside a line, with an empty part between.
        let parts = [pack(&text[..5]), pack(b""), pack(&text[5..])].concat();
        assert_eq!(pairs(&parts), want, "{name}");
        assert!(matches!(error(&pack(b"")), SequenceError::NoRecords { .. }));
        assert!(
            error(&pack(&pack(text)))
                .remedy()
                .unwrap()
                .to_string()
                .contains("compressed twice")
        );
    }
}

#[test]
fn compressed_input_cut_short_is_an_error_wherever_it_is_cut() {
    let text = b">a\nMKVL\n>b\nACDEFGHIKLMNPQRSTVWY\n".repeat(4);
    for (name, pack) in PACKERS {
        let packed = pack(&text);
        for end in 0..packed.len() {
            assert!(
                read(&packed[..end]).is_err(),
                "{name} cut after {end} of {} bytes",
                packed.len()
            );
        }
        let two = [packed.clone(), packed].concat();
        let e = error(&two[..two.len() - 3]);
        assert!(
            matches!(&e, SequenceError::Read { compression: Some(c), .. } if *c == name),
            "{e}"
        );
        let place = e.place().unwrap();
        assert!(place.byte.is_some() && place.line > 0, "{e}");
    }
}

#[test]
fn corrupt_compression_is_an_error() {
    let mut state = 7u32;
    let text: Vec<u8> = std::iter::once(b">a\n".to_vec())
        .chain((0..500).map(|_| {
            let line: Vec<u8> = (0..60)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    b"LAGVSERTIDPKQNFY"[(state >> 28) as usize]
                })
                .collect();
            [line, b"\n".to_vec()].concat()
        }))
        .collect::<Vec<_>>()
        .concat();
    for (name, pack) in PACKERS {
        let packed = pack(&text);
        for at in [packed.len() / 3, packed.len() / 2, packed.len() * 2 / 3] {
            let mut bad = packed.clone();
            bad[at] ^= 0x55;
            assert!(read(&bad).is_err(), "{name}, byte {at}");
        }
        assert!(
            read(&[packed, b"garbage after the end".to_vec()].concat()).is_err(),
            "{name}"
        );
    }
}

#[test]
fn several_inputs_in_order_each_with_its_digest() {
    let plain = b">a\nMK\n>b\nVL\n".to_vec();
    let (_d1, first) = temporary("first.txt", &plain);
    let packed = gzip(b"@c\nACGT\n+\nIIII\n");
    let (_d2, second) = temporary("second.fasta", &packed);
    let mut reader = SequenceReader::new(vec![Input::from(&first), Input::from(&second)]);
    let records: Vec<Record> = reader.by_ref().map(Result::unwrap).collect();
    let carried: Vec<_> = records
        .iter()
        .map(|r| (r.id.as_str(), r.file, r.index, r.number))
        .collect();
    assert_eq!(carried, [("a", 0, 0, 1), ("b", 0, 1, 2), ("c", 1, 2, 1)]);
    for (digest, (path, bytes)) in reader
        .digests()
        .iter()
        .zip([(&first, &plain), (&second, &packed)])
    {
        assert_eq!(digest.name, path.to_string_lossy());
        assert_eq!(digest.bytes, bytes.len() as u64);
        assert_eq!(digest.blake3, blake3::hash(bytes).to_hex().as_str());
    }
    assert_eq!(reader.digests().len(), 2);
}

#[test]
fn an_empty_file_among_others_is_named() {
    let (_d1, good) = temporary("good.fa", b">a\nM\n");
    let (_d2, empty) = temporary("empty.fa", b"");
    let mut reader = SequenceReader::new(vec![
        Input::from(&good),
        Input::from(&empty),
        Input::from(&good),
    ]);
    assert!(reader.next().unwrap().is_ok());
    let e = reader.next().unwrap().unwrap_err();
    assert!(matches!(e, SequenceError::NoRecords { .. }) && e.file().ends_with("empty.fa"));
    assert!(reader.next().is_none());
}

#[test]
fn what_cannot_be_opened() {
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path(), Path::new("/nonexistent/x.fa")] {
        let e = SequenceReader::new(vec![Input::from(path)])
            .next()
            .unwrap()
            .unwrap_err();
        assert!(
            matches!(e, SequenceError::Open { .. }) && e.remedy().is_some(),
            "{e}"
        );
        assert_eq!(e.file(), path.to_string_lossy());
    }
    assert_eq!(Input::from("-"), Input::Stdin);
}

#[test]
fn a_scan_counts_and_checks_without_keeping() {
    let (_d1, first) = temporary("a.fa", b">a\nMKv*\n>\nJ<mask>\n");
    let packed = zstandard(b">c\nACDEF\n");
    let (_d2, second) = temporary("b.zst", &packed);
    let mut options = ScanOptions {
        alphabet: Alphabet::Protein,
        cleaning: Cleaning::On,
        strict: false,
        shard_size: 2,
        reader: ReaderOptions::default(),
    };
    let summary = scan(&[Input::from(&first), Input::from(&second)], &options).unwrap();
    assert_eq!(
        (
            summary.records,
            summary.residues,
            summary.longest,
            summary.complete
        ),
        (3, 10, 5, true)
    );
    assert_eq!(
        (
            summary.counts.unnamed,
            summary.counts.unknown,
            summary.counts.stops_dropped
        ),
        (1, 1, 1)
    );
    assert_eq!(
        summary.inputs[1].blake3,
        blake3::hash(&packed).to_hex().as_str()
    );

    let summary = scan(&[Input::Stdin, Input::from(&second)], &options).unwrap();
    assert_eq!(
        (summary.records, summary.complete, summary.inputs.len()),
        (1, false, 1)
    );

    options.strict = true;
    let e = scan(&[Input::from(&second), Input::from(&first)], &options).unwrap_err();
    assert!(
        matches!(e, SequenceError::Strict { .. }) && e.file().ends_with("a.fa"),
        "{e}"
    );
    assert!(scan(&[Input::from("/nonexistent/x.fa")], &options).is_err());
}
