//! Every kind of dirty text has one decided outcome: the right sequence, or an error with its
//! location and remedy.

use std::io::Cursor;

use crate::support::sequence::*;
use seqstream::sequence::{
    Alphabet, CleanCounts, Cleaning, ReaderOptions, Record, SequenceError, SequenceReader, clean,
};

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
    // Text with old Mac line ends, joined to other text: the records before `c` would vanish in a
    // header.
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
    // Lines that end in CR, followed by lines that end in CRLF.
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

// Refused text

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
        (Alphabet::Protein, Cleaning::On, &b"*"[..]),
        (Alphabet::Protein, Cleaning::On, b" * "),
        (Alphabet::Dna, Cleaning::On, b" \t"),
        (Alphabet::Protein, Cleaning::Off, b"  "),
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
        assert!(
            matches!(e, SequenceError::Utf16 { .. })
                && e.remedy().unwrap().to_string().contains("iconv")
        );
    }
    for (magic, word) in [
        (&b"PK\x03\x04rest"[..], "zip"),
        (b"LOCUS       AB000001", "GenBank"),
        (b"@HD\tVN:1.6\n", "SAM"),
        (b"\x89\x50\xe5\x01\x02\n", "binary"),
    ] {
        assert!(error(magic).remedy().unwrap().to_string().contains(word));
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

#[test]
fn one_residue_a_line_takes_no_more_memory_than_its_residues() {
    let mut text = b">a\n".to_vec();
    for _ in 0..300_000 {
        text.extend_from_slice(b"A\n\n");
    }
    text.extend_from_slice(b"a\n>b\nMK\nV\n");
    let options = ReaderOptions::default();
    let mut reader = SequenceReader::from_reader("x.fa", Cursor::new(text), options).unwrap();
    let mut first = reader.next().unwrap().unwrap();
    assert_eq!(first.sequence.len(), 300_001);
    // The text's own buffer may be twice as large as the text.
    assert!(first.bytes() < 600_000 + 400_000, "{}", first.bytes());
    // Lines are known as far as they were kept; lines beyond are not guessed.
    assert_eq!(first.layout.locate(0), Some((2, 1)));
    assert_eq!(first.layout.locate(4000), Some((8002, 1)));
    assert_eq!(first.layout.locate(300_000), None);
    let refused = clean(Alphabet::Protein, Cleaning::On, true, &mut first).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "x.fa, record 1 ('a'): the lower-case letter 'a' (residue 300001)"
    );
    // The next record has a layout of its own.
    let second = reader.next().unwrap().unwrap();
    assert_eq!(second.layout.locate(2), Some((600_005, 1)));
}
