//! Every kind of dirty input has one decided outcome: the right sequence, or an error with its place and remedy.

// clippy.toml allows this in test functions only, not in their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use seqstream::sequence::{
    Alphabet, Case, CleanCounts, Input, ReaderOptions, Record, ScanOptions, SequenceError,
    SequenceReader, UNKNOWN, Unclean, clean, scan,
};

fn open(text: &[u8]) -> Result<SequenceReader, SequenceError> {
    SequenceReader::from_reader(
        "in.fa",
        Cursor::new(text.to_vec()),
        ReaderOptions::default(),
    )
}

fn read(text: &[u8]) -> Result<Vec<Record>, SequenceError> {
    open(text)?.collect()
}

/// Ids and sequences.
fn pairs(text: &[u8]) -> Vec<(String, String)> {
    let records = read(text).unwrap_or_else(|e| panic!("{e}"));
    records
        .into_iter()
        .map(|r| (r.id, String::from_utf8(r.sequence).unwrap()))
        .collect()
}

fn own(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(a, b)| (a.to_string(), b.to_string()))
        .collect()
}

/// The error of bad text, checked to name its file and a remedy.
fn error(text: &[u8]) -> SequenceError {
    let error = read(text).expect_err("this text is bad");
    assert_eq!(error.file(), "in.fa");
    assert!(error.to_string().starts_with("in.fa"), "{error}");
    assert!(error.hint().is_some(), "{error}");
    error
}

/// Record (1-based, in its file) and line of an error.
fn at(error: &SequenceError) -> (u64, u64) {
    error.place().map(|p| (p.record, p.line)).unwrap()
}

fn cleaned(alphabet: Alphabet, text: &[u8]) -> (Vec<u8>, CleanCounts) {
    let mut record = Record::new("r", text);
    let counts = clean(alphabet, Case::Upper, false, &mut record).unwrap();
    (record.sequence, counts)
}

fn temporary(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    (folder, path)
}

// Line ends and framing

#[test]
fn line_ends_of_every_kind() {
    let want = own(&[("a", "MKVL"), ("b", "ACD")]);
    for text in [
        &b">a x\nMK\nVL\n>b\nACD\n"[..],
        b">a x\r\nMK\r\nVL\r\n>b\r\nACD\r\n",
        b">a x\rMK\rVL\r>b\rACD\r",
        b">a x\nMK\nVL\n>b\nACD",
        b">a x\r\nMK\r\nVL\r\n>b\r\nACD",
        b">a x\rMK\rVL\r>b\rACD",
        b"\xef\xbb\xbf>a x\nMK\nVL\n>b\nACD\n",
        b"\n\n>a x\n\nMK\n\nVL\n\n\n>b\nACD\n\n",
        b">a x\r\nMK\nVL\r\r\n>b\nACD\r",
        b"; old comment\n>a x\nMK\n;another\nVL\n>b\nACD\n",
    ] {
        assert_eq!(pairs(text), want, "{}", text.escape_ascii());
    }
}

#[test]
fn a_stray_carriage_return_loses_nothing() {
    // Text of old Mac glued to other text: the records before `c` would vanish in a header.
    for (text, place) in [
        (&b">a\rMK\r>b\rVL\r>c\nACD\n"[..], (1, 1)),
        (b">c\nACD\n>a\rMK\r>b\rVL\r", (2, 3)),
        (b">c\nACD\n>a x\ry\nMK\n", (2, 3)),
    ] {
        let e = error(text);
        assert!(matches!(e, SequenceError::StrayReturn { .. }), "{e}");
        assert_eq!(at(&e), place);
    }
    assert!(matches!(
        error(b">a\nMK\rVL\r>b\rACD\n"),
        SequenceError::HeaderInsideLine { .. }
    ));
    assert_eq!(pairs(b">a\nMK\rVL\n"), own(&[("a", "MK\rVL")]));
    assert_eq!(
        cleaned(Alphabet::Protein, b"MK\rVL"),
        (
            b"MKVL".to_vec(),
            CleanCounts {
                residues: 4,
                whitespace: 1,
                ..CleanCounts::default()
            }
        )
    );
}

#[test]
fn lines_and_places_are_carried() {
    let records = read(b"\n>a\nMK\n\nVL\n>b desc > more\nACD\n").unwrap();
    let carried: Vec<_> = records
        .iter()
        .map(|r| (r.index, r.number, r.line, r.file))
        .collect();
    assert_eq!(carried, [(0, 1, 2, 0), (1, 2, 6, 0)]);
    assert_eq!(records[0].layout.locate(1), Some((3, 2)));
    assert_eq!(records[0].layout.locate(2), Some((5, 1)));
    // Lines that end in CR, then some that end in CRLF.
    let records = read(
        &[
            b">a\r".to_vec(),
            b"MK\r".repeat(30_000),
            b"V\r\n>b\r\n\r\nA\r".to_vec(),
        ]
        .concat(),
    )
    .unwrap();
    assert_eq!(
        (records[0].sequence.len(), records[1].line),
        (60_001, 30_003)
    );
    assert_eq!(records[1].layout.locate(0), Some((30_005, 1)));
}

#[test]
fn names() {
    assert_eq!(
        pairs(b">\nM\n> \nM\n>a\tb c\nM\n>  a b\nM\n>a\nK\n>sp|P1|X>Y\nM\n"),
        own(&[
            ("record_1", "M"),
            ("record_2", "M"),
            ("a", "M"),
            ("a", "M"),
            ("a", "K"),
            ("sp|P1|X>Y", "M")
        ])
    );
    let unnamed: Vec<bool> = read(b">\nM\n>record_2\nM\n")
        .unwrap()
        .iter()
        .map(|r| r.unnamed)
        .collect();
    assert_eq!(unnamed, [true, false]);
    assert_eq!(pairs(">é中 x\nM\n".as_bytes()), own(&[("é中", "M")]));
    let e = error(b">ok\nM\n>caf\xe9\nM\n");
    assert!(matches!(e, SequenceError::IdNotUtf8 { .. }));
    assert_eq!(at(&e), (2, 3));
}

#[test]
fn long_headers_are_read_and_their_names_bounded() {
    let long = [b">name ".to_vec(), vec![b'x'; 200_000], b"\nMK\n".to_vec()].concat();
    assert_eq!(pairs(&long), own(&[("name", "MK")]));
    let name = "y".repeat(200_000);
    assert_eq!(pairs(format!(">{name}\nMK\n").as_bytes())[0].0, name);
    let e = error(&[b">".to_vec(), vec![b'y'; 1 << 21], b"\nMK\n".to_vec()].concat());
    assert!(matches!(e, SequenceError::IdTooLong { .. }));
    assert!(e.to_string().len() < 300);
}

#[test]
fn sequences_of_any_length() {
    assert_eq!(pairs(b">a\nM"), own(&[("a", "M")]));
    for length in [35_000, 3_000_000] {
        let sequence = "MKVLAT".repeat(length / 6);
        for width in [60, 10_000_000] {
            let mut text = b">a\n".to_vec();
            for line in sequence.as_bytes().chunks(width) {
                text.extend_from_slice(line);
                text.extend_from_slice(b"\r\n");
            }
            assert!(pairs(&text)[0].1 == sequence);
        }
    }
}

#[test]
fn a_sequence_beyond_the_limit_is_an_error() {
    let options = ReaderOptions {
        max_sequence: 10,
        ..ReaderOptions::default()
    };
    let text = Cursor::new(b">a\nMKVLAMKVLA\n>b\nMKVLA\nMKVLAM\n");
    let records: Vec<_> = SequenceReader::from_reader("in.fa", text, options)
        .unwrap()
        .collect();
    assert_eq!(records.len(), 2);
    assert!(records[0].is_ok());
    assert!(
        matches!(&records[1], Err(e @ SequenceError::SequenceTooLong { .. }) if at(e) == (2, 3))
    );
}

// What is refused

#[test]
fn no_record_no_header_no_sequence() {
    for text in [&b""[..], b"\n \n", b"\xef\xbb\xbf", b"; only a comment\n"] {
        assert!(
            matches!(error(text), SequenceError::NoRecords { .. }),
            "{}",
            text.escape_ascii()
        );
    }
    for (text, line) in [
        (&b"MKVL\n"[..], 1),
        (b"\n\nMKVL\n>a\nM\n", 3),
        (b" >a\nMK\n", 1),
    ] {
        let e = error(text);
        assert!(matches!(e, SequenceError::NoHeader { .. }));
        assert_eq!(at(&e).1, line);
    }
    for (text, place) in [
        (&b">a\n>b\nM\n"[..], (1, 1)),
        (b">b\nM\n>a\n\n", (2, 3)),
        (b">a", (1, 1)),
        (b">a\nM\n>b\n;c\n>c\nM\n", (2, 3)),
    ] {
        let e = error(text);
        assert!(matches!(e, SequenceError::EmptySequence { .. }));
        assert_eq!(at(&e), place, "{}", text.escape_ascii());
    }
}

#[test]
fn nothing_left_after_cleaning_is_empty_too() {
    for (alphabet, case, text) in [
        (Alphabet::Protein, Case::Upper, &b"*"[..]),
        (Alphabet::Protein, Case::Upper, b" * "),
        (Alphabet::Dna, Case::Upper, b" \t"),
        (Alphabet::Protein, Case::Keep, b"  "),
    ] {
        let e = clean(alphabet, case, false, &mut Record::new("r", text)).unwrap_err();
        assert!(matches!(e, SequenceError::EmptySequence { .. }));
    }
}

#[test]
fn a_header_inside_a_line() {
    for (text, place, column) in [
        (&b">a\nMK>b\nVL\n"[..], (1, 2), 3),
        (b">a\nMK\nVL >b\n", (1, 3), 4),
        (b">a\nM<mask>K<MASK>\n", (1, 2), 14),
        (b">a\nM<mask>>b\n", (1, 2), 8),
    ] {
        let e = error(text);
        assert_eq!(at(&e), place);
        assert!(
            matches!(e, SequenceError::HeaderInsideLine { column: found, .. } if found == column),
            "{e}"
        );
    }
    assert_eq!(
        pairs(b">a\nM<mask>K<null_1>\n<ma\nsk>L\n"),
        own(&[("a", "M<mask>K<null_1><mask>L")])
    );
}

#[test]
fn what_is_no_text() {
    for (text, place, byte) in [
        (&b">a\nMK\0VL\n"[..], (1, 2), 5),
        (b">a\0\nMK\n", (1, 1), 2),
        (b"\0\0\0", (0, 1), 0),
        (b">\0a\0\n\0M\0", (1, 1), 1),
        (b">a\nM\n;\0\n", (1, 3), 6),
    ] {
        let e = error(text);
        assert!(matches!(e, SequenceError::Nul { .. }), "{e}");
        assert_eq!(at(&e), place);
        assert_eq!(e.place().unwrap().byte, Some(byte));
    }
    for bom in [&b"\xff\xfe>\0a\0"[..], b"\xfe\xff\0>\0a"] {
        let e = error(bom);
        assert!(matches!(e, SequenceError::Utf16 { .. }) && e.hint().unwrap().contains("iconv"));
    }
    for (magic, word) in [
        (&b"PK\x03\x04rest"[..], "zip"),
        (b"LOCUS       AB000001", "GenBank"),
        (b"@HD\tVN:1.6\n", "SAM"),
        (b"\x89\x50\xe5\x01\x02\n", "binary"),
    ] {
        assert!(error(magic).hint().unwrap().contains(word));
    }
}

// FASTQ

#[test]
fn fastq() {
    let want = own(&[("r1", "ACGT"), ("r2", "GG")]);
    for text in [
        &b"@r1 x\nACGT\n+\nIIII\n@r2\nGG\n+r2\n@+\n"[..],
        b"@r1\r\nACGT\r\n+\r\nIIII\r\n@r2\r\nGG\r\n+\r\nII",
        b"@r1\nAC\nGT\n+\n@I\n@I\n\n@r2\nGG\n+\nII\n\n",
        b"\r@r1\rACGT\r+\rIIII\r@r2\rGG\r+\r>I\r",
    ] {
        assert_eq!(pairs(text), want, "{}", text.escape_ascii());
    }
    for (text, words, place) in [
        (
            &b"@r1\nACGT\nIIII\n@r2\nGG\n+\nII\n"[..],
            "'+' is missing",
            (1, 4),
        ),
        (
            b"@r1\nACGT\n+\nIIIII\n",
            "5 quality characters for 4 bases",
            (1, 5),
        ),
        (b"@r1\nACGT\n+\nIII\n", "ends after 3 quality", (1, 5)),
        (
            b"@r1\nACGT\n+\nIII\n@r2\nGG\n+\nII\n",
            "6 quality characters for 4",
            (1, 6),
        ),
        (b"@r1\nACGT\n+\n", "ends after 0 quality", (1, 4)),
        (b"@r1\nACGT\n", "before the line with '+'", (1, 3)),
        (b"@r1\nACGT\n+\nIIII\nACGT\n", "header with '@'", (1, 5)),
    ] {
        let e = error(text);
        assert!(
            matches!(e, SequenceError::Fastq { .. }) && e.to_string().contains(words),
            "{e}"
        );
        assert_eq!(at(&e), place, "{e}");
    }
    assert!(matches!(
        error(b"@r1\n\n+\n\n"),
        SequenceError::EmptySequence { .. }
    ));
    assert!(matches!(
        error(b"@r1\nAC>r2\n+\nIIIIII\n"),
        SequenceError::HeaderInsideLine { .. }
    ));
}

// Cleaning

#[test]
fn proteins_are_cleaned_and_counted() {
    let none = CleanCounts::default();
    let u = UNKNOWN;
    let cases: [(&[u8], &[u8], CleanCounts); 10] = [
        (
            b"LAGVSERTIDPKQNFYMHWCXBUZO.-",
            b"LAGVSERTIDPKQNFYMHWCXBUZO.-",
            CleanCounts {
                residues: 27,
                ..none
            },
        ),
        (
            b"mKvl",
            b"MKVL",
            CleanCounts {
                residues: 4,
                lowercase: 3,
                ..none
            },
        ),
        (
            b"MK*",
            b"MK",
            CleanCounts {
                residues: 2,
                stops_dropped: 1,
                ..none
            },
        ),
        (
            b"MK* \t",
            b"MK",
            CleanCounts {
                residues: 2,
                stops_dropped: 1,
                whitespace: 2,
                ..none
            },
        ),
        (
            b"M*K**",
            &[b'M', u, b'K', u],
            CleanCounts {
                residues: 4,
                stops_dropped: 1,
                unknown: 2,
                ..none
            },
        ),
        (
            b"M K\tV",
            b"MKV",
            CleanCounts {
                residues: 3,
                whitespace: 2,
                ..none
            },
        ),
        (
            b"MJj1?",
            &[b'M', u, u, u, u],
            CleanCounts {
                residues: 5,
                lowercase: 1,
                unknown: 4,
                ..none
            },
        ),
        (
            "Mé中K".as_bytes(),
            &[b'M', u, u, b'K'],
            CleanCounts {
                residues: 4,
                unknown: 2,
                non_ascii: 2,
                ..none
            },
        ),
        (
            b"M\xe9\xffK",
            &[b'M', u, u, b'K'],
            CleanCounts {
                residues: 4,
                unknown: 2,
                non_ascii: 2,
                ..none
            },
        ),
        (
            b"m<mask>k<ma",
            &[
                b'M', b'<', b'm', b'a', b's', b'k', b'>', b'K', u, b'M', b'A',
            ],
            CleanCounts {
                residues: 6,
                lowercase: 4,
                unknown: 1,
                special_tokens: 1,
                ..none
            },
        ),
    ];
    for (text, want, counts) in cases {
        assert_eq!(
            cleaned(Alphabet::Protein, text),
            (want.to_vec(), counts),
            "{}",
            text.escape_ascii()
        );
    }
}

#[test]
fn dna_is_cleaned_and_counted() {
    let none = CleanCounts::default();
    let u = UNKNOWN;
    let cases: [(&[u8], &[u8], CleanCounts); 4] = [
        (
            b"acGT",
            b"ACGT",
            CleanCounts {
                residues: 4,
                lowercase: 2,
                ..none
            },
        ),
        (
            b"ANNnU",
            &[b'A', u, u, u, u],
            CleanCounts {
                residues: 5,
                lowercase: 1,
                unknown: 4,
                ..none
            },
        ),
        (
            b"AC-*",
            &[b'A', b'C', u, u],
            CleanCounts {
                residues: 4,
                unknown: 2,
                ..none
            },
        ),
        (
            b"A<C",
            &[b'A', u, b'C'],
            CleanCounts {
                residues: 3,
                unknown: 1,
                ..none
            },
        ),
    ];
    for (text, want, counts) in cases {
        assert_eq!(
            cleaned(Alphabet::Dna, text),
            (want.to_vec(), counts),
            "{}",
            text.escape_ascii()
        );
    }
}

#[test]
fn kept_text_is_unchanged_and_counted() {
    let text = "mK é\u{a0}J* <mask>\t".as_bytes();
    let mut record = Record::new("r", text);
    let counts = clean(Alphabet::Protein, Case::Keep, false, &mut record).unwrap();
    assert_eq!(record.sequence, text);
    let want = CleanCounts {
        residues: 7,
        unknown: 5,
        non_ascii: 2,
        whitespace: 3,
        special_tokens: 1,
        ..CleanCounts::default()
    };
    assert_eq!(counts, want);
}

#[test]
fn an_unnamed_record_is_counted() {
    let mut record = read(b">\nMK\n").unwrap().remove(0);
    assert_eq!(
        clean(Alphabet::Protein, Case::Upper, false, &mut record)
            .unwrap()
            .unnamed,
        1
    );
    let e = clean(Alphabet::Protein, Case::Upper, true, &mut record).unwrap_err();
    assert!(matches!(
        e,
        SequenceError::Strict {
            found: Unclean::Unnamed,
            ..
        }
    ));
}

#[test]
fn strict_refuses_each_cleaning_with_its_place() {
    for (line, column, found) in [
        ("MKv", 3, Unclean::Lowercase('v')),
        ("MK*", 3, Unclean::TrailingStop),
        ("M*K", 2, Unclean::Unknown('*')),
        ("MK V", 3, Unclean::Whitespace),
        ("MJ", 2, Unclean::Unknown('J')),
        ("é", 1, Unclean::Unknown('é')),
        ("<mask>j", 7, Unclean::Lowercase('j')),
    ] {
        let mut record = read(format!(">z\nAAA\n>a\nMKVL\nMKVL\n{line}\n").as_bytes())
            .unwrap()
            .remove(1);
        let before = record.clone();
        let e = clean(Alphabet::Protein, Case::Upper, true, &mut record).unwrap_err();
        assert_eq!(record, before);
        assert_eq!(at(&e), (2, 6), "{e}");
        assert!(e.hint().is_some());
        match e {
            SequenceError::Strict {
                column: c,
                position,
                found: f,
                ..
            } => {
                assert_eq!((c, position, f), (column, 8 + column, found));
            }
            other => panic!("{other}"),
        }
    }
    let mut fine = Record::new("r", "MK<mask>L");
    assert_eq!(
        clean(Alphabet::Protein, Case::Upper, true, &mut fine)
            .unwrap()
            .residues,
        4
    );
    let e = clean(
        Alphabet::Dna,
        Case::Keep,
        true,
        &mut Record::new("r", "ACN"),
    )
    .unwrap_err();
    assert!(e.to_string().contains("'N'"), "{e}");
}

// Compression and several inputs

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
                .hint()
                .unwrap()
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
            matches!(e, SequenceError::Open { .. }) && e.hint().is_some(),
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
    let mut options = ScanOptions::new(Alphabet::Protein);
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
