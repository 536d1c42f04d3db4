//! Letters and names that are computed, but are probably not what the user wants: gaps, U in DNA,
//! chains joined by a colon, the other kind of sequence, names that several records share.

use std::io::Cursor;

use crate::support::sequence::*;
use seqstream::sequence::{
    Alphabet, Cleaning, Input, Names, ReaderOptions, Record, ScanOptions, SeenNames, SequenceError,
    SequenceReader, SharedName, UNKNOWN, clean, scan,
};

fn refused(alphabet: Alphabet, text: &[u8]) -> String {
    let mut record = Record::new("r", text);
    let e = clean(alphabet, Cleaning::On, true, &mut record).unwrap_err();
    assert!(e.remedy().is_some());
    e.to_string()
}

#[test]
fn gaps_are_counted_kept_or_dropped() {
    for (alphabet, text, kept, dropped, gaps) in [
        (
            Alphabet::Protein,
            &b"--MK.L-"[..],
            &b"--MK.L-"[..],
            &b"MKL"[..],
            4,
        ),
        // A3M: the lower-case insertions are residues of the sequence.
        (Alphabet::Protein, b"M-kl.A", b"M-KL.A", b"MKLA", 2),
        (Alphabet::Protein, b"MK*--", b"MK\xff--", b"MK", 2),
        (Alphabet::Dna, b"A-C.", b"A\xffC\xff", b"AC", 2),
    ] {
        for (cleaning, want) in [(Cleaning::On, kept), (Cleaning::Ungapped, dropped)] {
            let mut record = Record::new("r", text);
            let counts = clean(alphabet, cleaning, false, &mut record).unwrap();
            assert_eq!(record.sequence, want, "{}", text.escape_ascii());
            assert_eq!((counts.gaps, counts.residues), (gaps, want.len() as u64));
        }
        let counts = clean(alphabet, Cleaning::Off, false, &mut Record::new("r", text)).unwrap();
        assert_eq!(counts.gaps, gaps);
    }
    let mut only = Record::new("r", b"-.-");
    let e = clean(Alphabet::Protein, Cleaning::Ungapped, false, &mut only).unwrap_err();
    assert!(e.to_string().ends_with("the sequence is only gaps"), "{e}");
    assert!(refused(Alphabet::Protein, b"MK-L").contains("the gap character '-' (residue 3)"));
    assert!(refused(Alphabet::Dna, b"AC.").contains("the gap character '.'"));
}

#[test]
fn uracil_is_read_as_thymine_in_dna() {
    let (text, counts) = cleaned(Alphabet::Dna, b"AUGu");
    assert_eq!(text, b"ATGT");
    assert_eq!((counts.uracil, counts.lowercase, counts.unknown), (2, 1, 0));
    assert!(refused(Alphabet::Dna, b"AUG").contains("the letter 'U' in DNA (residue 2)"));
    // Text that is not cleaned keeps its U, and selenocysteine is a residue.
    let mut record = Record::new("r", b"AUG");
    let counts = clean(Alphabet::Dna, Cleaning::Off, false, &mut record).unwrap();
    assert_eq!(
        (&record.sequence[..], counts.uracil, counts.unknown),
        (&b"AUG"[..], 0, 1)
    );
    assert_eq!(cleaned(Alphabet::Protein, b"MUK").1.uracil, 0);
}

#[test]
fn chains_joined_by_a_colon_are_counted() {
    for alphabet in [Alphabet::Protein, Alphabet::Dna] {
        let (text, counts) = cleaned(alphabet, b"A:CA:G");
        assert_eq!(text, [b'A', UNKNOWN, b'C', b'A', UNKNOWN, b'G']);
        assert_eq!((counts.chain_breaks, counts.unknown), (2, 2));
        assert!(refused(alphabet, b"A:C").contains("a ':' between two chains (residue 2)"));
    }
}

#[test]
fn the_other_kind_of_sequence_is_noticed() {
    let protein = b"MKTLLVAGGAKEMSTNPKPQRKTKRNTNRRPQDVKFPGG";
    for (alphabet, text, other) in [
        (
            Alphabet::Protein,
            &b"ACGTAGCATCGGATCTATCTATCGACACTTGG"[..],
            true,
        ),
        (
            Alphabet::Protein,
            b"GGGTTTAAACCCGGGTTTAAACCCATATATATGCGC",
            true,
        ),
        (Alphabet::Protein, b"acguagcaucggaucuaucuanncg", true),
        (
            Alphabet::Protein,
            b"ACGTAGCATCGGATCTATCTATCGACACTTGGR",
            true,
        ),
        (Alphabet::Protein, protein, false),
        // Too short to tell, and too few kinds of letters.
        (Alphabet::Protein, b"ACGTAGCATCGGATCTATC", false),
        (Alphabet::Protein, b"GGGGGAGGGGGAGGGGGAGGGGGAGGGGG", false),
        (Alphabet::Dna, protein, true),
        (Alphabet::Dna, b"ACGTAGCATCGGATCTATCTATCGACACTTGG", false),
        (Alphabet::Dna, b"ACGTNNNNNNNNNNNNNNNNNNNNNNNNNNNN", false),
        (Alphabet::Dna, b"ACGTRYACGTRYACGTACGTACGT", false),
    ] {
        let counts = cleaned(alphabet, text).1;
        assert_eq!(
            counts.other_alphabet,
            u64::from(other),
            "{}",
            text.escape_ascii()
        );
        let mut record = Record::new("r", text);
        let strict = clean(alphabet, Cleaning::On, true, &mut record);
        let said = strict.map_or_else(|e| e.to_string(), |_| String::new());
        assert_eq!(said.contains("looks like"), other, "{said}");
    }
}

fn options(strict: bool, shard_size: u64) -> ScanOptions {
    ScanOptions {
        alphabet: Alphabet::Protein,
        cleaning: Cleaning::On,
        strict,
        shard_size,
        reader: ReaderOptions::default(),
    }
}

#[test]
fn names_that_records_share_are_counted_within_a_shard() {
    let text = b">x\nM\n>a 1\nMK\n>b\nMK\n>a 2\nMK\n>a 3\nMK\n>b\nMK\n";
    let (_folder, path) = temporary("a.fa", text);
    let inputs = [Input::from(&path)];
    let summary = scan(&inputs, &options(false, 100)).unwrap();
    assert_eq!(summary.counts.shared_names, 5);
    let first = SharedName {
        name: "a".into(),
        records: [2, 4],
    };
    assert_eq!(summary.shared_name, Some(first));
    // Shards of three records: x a b, a a b.
    assert_eq!(
        scan(&inputs, &options(false, 3))
            .unwrap()
            .counts
            .shared_names,
        2
    );
    assert_eq!(
        scan(&inputs, &options(false, 1))
            .unwrap()
            .counts
            .shared_names,
        0
    );
    let e = scan(&inputs, &options(true, 100)).unwrap_err();
    assert_eq!(at(&e), (4, 7));
    let said = e.to_string();
    assert!(
        said.ends_with("line 7: a name that record 2 of the job has, too"),
        "{said}"
    );
    assert!(
        e.remedy()
            .unwrap()
            .to_string()
            .contains("a name of its own")
    );
    assert!(scan(&inputs, &options(true, 3)).is_err());
    assert!(scan(&inputs, &options(true, 1)).is_ok());
    // Records without a name have different names.
    let mut names = SeenNames::default();
    for record in read(b">\nM\n>\nM\n").unwrap() {
        assert_eq!(names.take(&record, true).unwrap(), (0, None));
    }
}

#[test]
fn a_name_may_be_the_whole_header() {
    let read = |text: &[u8], longest_piece| -> Result<Vec<String>, SequenceError> {
        let options = ReaderOptions {
            names: Names::Header,
            longest_piece,
            ..ReaderOptions::default()
        };
        let reader = SequenceReader::from_reader("in.fa", Cursor::new(text.to_vec()), options)?;
        reader.map(|record| Ok(record?.id)).collect()
    };
    let text = b">PREDICTED fold for X1 \nMK\n> PREDICTED  fold\tfor X2\r\nMK\n>\nM\n";
    let want = [
        "PREDICTED fold for X1",
        "PREDICTED  fold\tfor X2",
        "record_3",
    ];
    for longest_piece in [1, 2, 3, 7, usize::MAX] {
        assert_eq!(read(text, longest_piece).unwrap(), want);
    }
    assert_eq!(read(b"@r 1:N:0\nAC\n+\nII\n", 9).unwrap(), ["r 1:N:0"]);
    let e = read(b">a caf\xe9\nM\n", 9).unwrap_err();
    assert!(matches!(e, SequenceError::IdNotUtf8 { .. }), "{e}");
    assert!(read(b">P1;CRAB a=b\ntitle\nM*\n", 9).is_err());
}

#[test]
fn the_other_kind_begins_at_95_percent_and_at_a_third() {
    let other = |alphabet, text: &str| cleaned(alphabet, text.as_bytes()).1.other_alphabet == 1;
    let bases = "ACGT".repeat(10);
    for (length, letters, noticed) in [(20, 1, true), (20, 2, false), (40, 2, true), (40, 3, false)]
    {
        let text = format!("{}{}", &bases[..length - letters], "M".repeat(letters));
        assert_eq!(other(Alphabet::Protein, &text), noticed, "{text}");
    }
    for (length, letters, noticed) in [
        (20, 7, true),
        (20, 6, false),
        (21, 7, true),
        (19, 19, false),
    ] {
        let text = format!("{}{}", &bases[..length - letters], "M".repeat(letters));
        assert_eq!(other(Alphabet::Dna, &text), noticed, "{text}");
    }
}

#[test]
fn the_name_of_a_chain_may_be_that_of_another_record() {
    let (_folder, path) = temporary("a.fa", b">id\nM:K\n>b\nMK\n>id:1\nMK\n");
    let mut options = options(false, 100);
    options.reader.chains = seqstream::sequence::Chains::Split;
    let summary = scan(&[Input::from(&path)], &options).unwrap();
    assert_eq!(summary.counts.shared_names, 2);
    let first = SharedName {
        name: "id:1".into(),
        records: [1, 4],
    };
    assert_eq!(summary.shared_name, Some(first));
}

#[test]
fn records_without_a_name_are_numbered_over_the_whole_job() {
    let (_first, one) = temporary("one.fa", b">\nMK\n>a\nMK\n");
    let (_second, two) = temporary("two.fa", b">\nMK\n");
    let reader = SequenceReader::new(vec![Input::from(&one), Input::from(&two)]);
    let names: Vec<String> = reader.map(|record| record.unwrap().id).collect();
    assert_eq!(names, ["record_1", "a", "record_3"]);
}
