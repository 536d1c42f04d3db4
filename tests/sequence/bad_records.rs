//! Reading goes on after a record that is bad by itself, and after nothing else.

use std::io::Cursor;

use seqstream::sequence::{
    Alphabet, BadRecords, Chains, Cleaning, Input, ReaderOptions, Record, ScanOptions,
    SequenceError, SequenceReader, clean, scan,
};

fn options(longest_piece: usize) -> ReaderOptions {
    ReaderOptions {
        max_sequence: 60,
        bad_records: BadRecords::Skip,
        longest_piece,
        ..ReaderOptions::default()
    }
}

/// Reads a text to its end or to the error that ends it.
fn read(text: &[u8], options: ReaderOptions) -> Vec<Result<Record, SequenceError>> {
    match SequenceReader::from_reader("in", Cursor::new(text.to_vec()), options) {
        Ok(reader) => reader.collect(),
        Err(error) => vec![Err(error)],
    }
}

/// Returns what was read: names and sequences, and messages in the places of errors.
fn said(read: &[Result<Record, SequenceError>]) -> Vec<String> {
    let text = |record: &Record| {
        let sequence = String::from_utf8_lossy(&record.sequence);
        format!("{} {} {sequence}", record.index, record.id)
    };
    let of = |r: &Result<Record, SequenceError>| r.as_ref().map_or_else(ToString::to_string, text);
    read.iter().map(of).collect()
}

fn long_name() -> Vec<u8> {
    [b"n".repeat((1 << 20) + 1), b" rest > of it".to_vec()].concat()
}

#[test]
fn a_bad_record_of_fasta_is_left_out_and_the_others_keep_their_numbers() {
    let bad: Vec<(Vec<u8>, &str)> = vec![
        (
            b">bad\n".to_vec(),
            "record 2 ('bad'), line 3: the sequence is empty",
        ),
        (
            b">bad\n\n;c\n\n".to_vec(),
            "record 2 ('bad'), line 3: the sequence is empty",
        ),
        (
            b">bad\nMK\n--\n".to_vec(),
            "line 5: the line '--' stands before a header",
        ),
        (
            b">bad\nMK\nHere is the other one you asked for:\nMK\n".to_vec(),
            "line 5: the line is a sentence",
        ),
        (
            b">bad\n{\"a\": 1}\n>\n".to_vec()[..14].to_vec(),
            "line 4: the line holds the character '{'",
        ),
        (
            b">bad\nMK>lost\nMKT\n".to_vec(),
            "line 4: '>' stands inside a sequence line (column 3)",
        ),
        (
            b">bad\nMK>lost\n#MKT\n".to_vec(),
            "line 4: '>' stands inside a sequence line (column 3)",
        ),
        (
            b">b\xe9d\nMK\nMK\n".to_vec(),
            "record 2, line 3: the record's name is not valid UTF-8",
        ),
        (
            [b">".to_vec(), long_name(), b"\nMK\n".to_vec()].concat(),
            "record 2, line 3: the record's name is longer than 1048576 bytes",
        ),
        (
            [b">bad\n".to_vec(), b"MKT\n".repeat(21)].concat(),
            "record 2 ('bad'), line 3: the sequence is longer than 60 bytes",
        ),
        (
            [b">bad\n".to_vec(), b"M".repeat(61), b"\nMK\n".to_vec()].concat(),
            "record 2 ('bad'), line 3: the sequence is longer than 60 bytes",
        ),
    ];
    for (bad, message) in bad {
        let text = [b">a x\nMKT\n", &bad[..], b">c\nMSTN\nPK\n"].concat();
        for piece in [1, 2, 3, 7, usize::MAX] {
            // A name of a million bytes takes a while, a byte at a time.
            if piece < 7 && text.len() > 1 << 20 {
                continue;
            }
            for ends in ["\n", "\r\n"] {
                let text = match ends {
                    "\n" => text.clone(),
                    _ => text
                        .iter()
                        .flat_map(|b| match b {
                            b'\n' => b"\r\n".to_vec(),
                            b => vec![*b],
                        })
                        .collect(),
                };
                let records = read(&text, options(piece));
                let said = said(&records);
                assert_eq!(said.len(), 3, "{said:?}");
                assert!(said[1].contains(message), "{}", said[1]);
                assert_eq!((&said[0][..], &said[2][..]), ("0 a MKT", "2 c MSTNPK"));
                let last = records[2].as_ref().unwrap();
                assert_eq!(last.number, 3);
                let header = text.windows(2).position(|w| w == b">c").unwrap();
                let line = text[..header].iter().filter(|b| **b == b'\n').count() as u64 + 1;
                assert_eq!(last.line, line);
            }
        }
        // It may be the last one, too.
        let last = [b">a\nMKT\n", &bad[..]].concat();
        let separator = message.contains("--");
        assert_eq!(said(&read(&last, options(usize::MAX))).len(), 2);
        assert_eq!(read(&last, options(usize::MAX))[1].is_err(), !separator);
    }
}

#[test]
fn a_bad_record_of_fastq_is_left_out_with_its_qualities() {
    let bad: Vec<(Vec<u8>, &str)> = vec![
        (b"@bad\n+\n\n".to_vec(), "the sequence is empty"),
        (b"@bad\n\n+bad\n".to_vec(), "the sequence is empty"),
        (b"@b\xe9d\nACGT\n+\n@II@\n".to_vec(), "is not valid UTF-8"),
        (
            [
                b"@".to_vec(),
                long_name(),
                b"\nAC\nGT\n+\nI\n@>I\n".to_vec(),
            ]
            .concat(),
            "the record's name is longer than",
        ),
        (
            b"@bad\nAC\n{\nGT\n+\n@I\n@II\n".to_vec(),
            "the line holds the character '{'",
        ),
        (
            b"@bad\nAC>GT\nA\n+\n@I@I@\nI\n".to_vec(),
            "'>' stands inside a sequence line",
        ),
        (
            [
                b"@bad\nAC\n",
                &b"A".repeat(70)[..],
                b"\nGT\n+\n",
                &b"@".repeat(74),
                b"\n",
            ]
            .concat(),
            "the sequence is longer than 60 bytes",
        ),
    ];
    for (bad, message) in bad {
        let text = [b"@a x\nACGT\n+\nIIII\n", &bad[..], b"@c\nGG\nTT\n+\n@@@@\n"].concat();
        for piece in [1, 2, 7, usize::MAX] {
            if piece < 7 && text.len() > 1 << 20 {
                continue;
            }
            let said = said(&read(&text, options(piece)));
            assert_eq!(said.len(), 3, "{said:?}");
            assert!(said[1].contains(message), "{}", said[1]);
            assert_eq!((&said[0][..], &said[2][..]), ("0 a ACGT", "2 c GGTT"));
        }
    }
}

#[test]
fn what_is_no_fault_of_one_record_still_ends_the_reading() {
    for (text, message) in [
        (&b">a\nMK\n>b\nM\0K\n>c\nMK\n"[..], "a NUL byte"),
        (b">a\nMK\n>P1;CRAB\ntitle\nMK*\n>c\nMK\n", "a PIR file"),
        (
            b">a\nMK\n@b\nACGT\n+\nIIII\n>c\nMK\n",
            "the line begins with '@'",
        ),
        (
            b">a\nMK\n>b\nM>K\n@c\nACGT\n+\nIIII\n>d\nMK\n",
            "the line begins with '@'",
        ),
        (b">a\nMK\n>b\n{}\n+\n>d\nMK\n", "the line begins with '+'"),
        (
            b">a\nMK\n>b\rMK\r>c\nMK\n",
            "a carriage return stands inside the header",
        ),
        (b"MK\n>b\nMK\n", "the text starts with 'MK'"),
        (
            b"@a\nAC\n+\nII\n@b\nACG\n+\nII\n@c\nA\n+\nI\n",
            "quality characters",
        ),
        (
            b"@a\nAC\n+\nII\n@b\nACG\n@c\nA\n+\nI\n",
            "the line with '+' is missing",
        ),
        (
            b"@a\nAC\n+\nII\n@b\n{\n@c\nA\n+\nI\n",
            "the line with '+' is missing",
        ),
        (
            b"@a\nAC\n+\nII\n@b\n{\nAC",
            "the file ends before the line with '+'",
        ),
        (
            b"@a\nAC\n+\nII\n@b\n{\n+\n",
            "the file ends after 0 quality characters for 1 bases",
        ),
        (
            b"@a\nAC\n+\nII\n@b\n{\n+\nI\n>c\nMK\n",
            "FASTA records follow FASTQ ones",
        ),
    ] {
        let read = read(text, options(usize::MAX));
        let said = said(&read);
        let shown = text.escape_ascii();
        assert!(said.last().unwrap().contains(message), "{shown}: {said:?}");
        assert!(
            read.last().unwrap().is_err() && read.len() < 4,
            "{shown}: {said:?}"
        );
    }
    let gz = {
        use std::io::Write;
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(b">a\nMK\n>b\n{}\n>c\nMK\n").unwrap();
        out.finish().unwrap()
    };
    let damaged = read(&gz[..gz.len() - 9], options(usize::MAX));
    let error = damaged.last().unwrap().as_ref().unwrap_err();
    assert!(matches!(error, SequenceError::Read { .. }), "{error}");
}

#[test]
fn without_the_option_the_first_bad_record_is_the_last() {
    let text = b">a\nMK\n>b\n>c\nMK\n";
    assert_eq!(read(text, ReaderOptions::default()).len(), 2);
    assert_eq!(read(text, options(usize::MAX)).len(), 3);
}

#[test]
fn a_scan_counts_what_is_skipped_and_not_what_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in.fa");
    let text = ">a\nMKT\n>a\n*\n>\n>c\nMSTNPK\n>c\n{}\n>d\n--.\n>e\nMKTLL\n";
    std::fs::write(&path, text).unwrap();
    let scan_of = |strict, cleaning| {
        let options = ScanOptions {
            alphabet: Alphabet::Protein,
            cleaning,
            strict,
            shard_size: 100,
            reader: options(usize::MAX),
        };
        scan(&[Input::from(&path)], &options).unwrap()
    };
    let found = scan_of(false, Cleaning::Ungapped);
    assert_eq!((found.records, found.rejected), (7, 4));
    assert_eq!((found.residues, found.longest), (14, 6));
    // No record that is skipped shares its name with another one, or counts.
    assert_eq!((found.counts.shared_names, &found.shared_name), (0, &None));
    assert_eq!((found.counts.unnamed, found.counts.stops_dropped), (0, 0));
    let found = scan_of(true, Cleaning::On);
    assert_eq!(
        (found.records, found.rejected),
        (7, 4),
        "strict skips what it refuses"
    );
}

fn split(text: &str) -> Vec<Record> {
    let options = ReaderOptions {
        chains: Chains::Split,
        ..ReaderOptions::default()
    };
    read(text.as_bytes(), options)
        .into_iter()
        .map(Result::unwrap)
        .collect()
}

#[test]
fn a_record_of_several_chains_becomes_several() {
    let records = split(">a x\nMKT:MS\nTN:\n>b\nMK\n>\nM:K\n>\nMM\n");
    let shown: Vec<_> = records
        .iter()
        .map(|r| {
            (
                r.id.as_str(),
                r.sequence.escape_ascii().to_string(),
                r.index,
                r.number,
            )
        })
        .collect();
    let expected = [
        ("a:1", "MKT", 0, 1),
        ("a:2", "MSTN", 1, 1),
        ("a:3", "", 2, 1),
        ("b", "MK", 3, 2),
        ("record_3:1", "M", 4, 3),
        ("record_3:2", "K", 5, 3),
        ("record_4", "MM", 6, 4),
    ];
    assert_eq!(shown.len(), expected.len());
    for (shown, (id, sequence, index, number)) in shown.iter().zip(expected) {
        assert_eq!(*shown, (id, sequence.to_owned(), index, number));
    }
    let chains: Vec<u64> = records.iter().map(|r| r.chain).collect();
    assert_eq!(chains, [1, 2, 3, 0, 1, 2, 0]);
}

#[test]
fn a_chain_is_counted_and_refused_where_it_stands() {
    let cleaned =
        |mut record: Record, strict| clean(Alphabet::Protein, Cleaning::On, strict, &mut record);
    let records = split(">a\nMKT:M\nS?N:\n");
    let counts: Vec<u64> = records[..2]
        .iter()
        .map(|r| cleaned(r.clone(), false).unwrap())
        .map(|c| c.chains + 10 * c.chain_breaks)
        .collect();
    assert_eq!(counts, [1, 1]);
    let error = cleaned(records[1].clone(), true).unwrap_err().to_string();
    assert!(
        error.contains("record 1 ('a:2'), line 3, column 2: the character '?'"),
        "{error}"
    );
    let error = cleaned(records[2].clone(), false).unwrap_err().to_string();
    assert!(
        error.contains("record 1 ('a:3'), line 1: the sequence is empty"),
        "{error}"
    );
}

#[test]
fn a_record_without_chains_is_the_same_with_and_without_splitting() {
    let text = ">a\nMKT\nMS\n>b\nMK\n";
    let whole = read(text.as_bytes(), ReaderOptions::default());
    let whole: Vec<Record> = whole.into_iter().map(Result::unwrap).collect();
    assert_eq!(split(text), whole);
}
