//! The handling of every character outside the alphabet; every such character is counted.

use crate::support::sequence::*;
use seqstream::sequence::{
    Alphabet, CleanCounts, Cleaning, Record, SequenceError, UNKNOWN, Unclean, clean,
};

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
                gaps: 2,
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
            &[b'A', u, u, u, b'T'],
            CleanCounts {
                residues: 5,
                lowercase: 1,
                unknown: 3,
                uracil: 1,
                ..none
            },
        ),
        (
            b"AC-*",
            &[b'A', b'C', u, u],
            CleanCounts {
                residues: 4,
                unknown: 2,
                gaps: 1,
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
    let counts = clean(Alphabet::Protein, Cleaning::Off, false, &mut record).unwrap();
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
        clean(Alphabet::Protein, Cleaning::On, false, &mut record)
            .unwrap()
            .unnamed,
        1
    );
    let e = clean(Alphabet::Protein, Cleaning::On, true, &mut record).unwrap_err();
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
        let e = clean(Alphabet::Protein, Cleaning::On, true, &mut record).unwrap_err();
        assert_eq!(record, before);
        assert_eq!(at(&e), (2, 6), "{e}");
        assert!(e.remedy().is_some());
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
        clean(Alphabet::Protein, Cleaning::On, true, &mut fine)
            .unwrap()
            .residues,
        4
    );
    let e = clean(
        Alphabet::Dna,
        Cleaning::Off,
        true,
        &mut Record::new("r", "ACN"),
    )
    .unwrap_err();
    assert!(e.to_string().contains("'N'"), "{e}");
}
