//! Any bytes as an input file: read, cleaned in every mode, tokenized. Neither the boundaries between
//! pieces of lines nor the options that skip and split records may change what they should not.

use std::io::Cursor;

use seqstream::remedy::Remedy;
use seqstream::sequence::{
    Alphabet, BadRecords, Chains, Cleaning, ReaderOptions, Record, SequenceReader, Tokenizer, clean,
};

/// What reading gives: records, and messages in the places of errors.
type Read = Vec<Result<Record, (String, Option<Remedy>)>>;

fn read(text: &[u8], longest_piece: usize, bad_records: BadRecords, chains: Chains) -> Read {
    let options = ReaderOptions {
        // Compressed input may expand a thousandfold.
        max_sequence: 1 << 20,
        longest_piece,
        bad_records,
        chains,
        ..ReaderOptions::default()
    };
    match SequenceReader::from_reader("fuzz", Cursor::new(text.to_vec()), options) {
        Ok(reader) => reader
            .map(|record| record.map_err(|e| (e.to_string(), e.remedy())))
            .collect(),
        Err(e) => vec![Err((e.to_string(), e.remedy()))],
    }
}

/// The first byte moves the boundaries at which lines are taken apart.
pub fn check(data: &[u8]) {
    let Some((&first, text)) = data.split_first() else {
        return;
    };
    let piece = usize::from(first).max(1);
    let stopped = read(text, usize::MAX, BadRecords::Stop, Chains::Keep);
    assert!(!stopped.is_empty());
    for (bad_records, chains) in [
        (BadRecords::Stop, Chains::Keep),
        (BadRecords::Skip, Chains::Keep),
        (BadRecords::Skip, Chains::Split),
    ] {
        let whole = read(text, usize::MAX, bad_records, chains);
        assert!(whole == read(text, piece, bad_records, chains));
        if chains == Chains::Keep {
            // Up to the first bad record, skipping changes nothing.
            let good = stopped.iter().take_while(|r| r.is_ok()).count();
            assert!(whole.len() >= stopped.len() && whole[..good] == stopped[..good]);
            let last = whole.iter().rposition(Result::is_ok).unwrap_or(0);
            let numbers = whole.iter().take(last + 1).enumerate();
            for (i, record) in numbers.filter_map(|(i, r)| Some((i, r.as_ref().ok()?))) {
                assert_eq!((record.index, record.number), (i as u64, i as u64 + 1));
            }
        } else {
            let kept = read(text, usize::MAX, bad_records, Chains::Keep);
            assert_eq!(joined(&kept), joined(&whole));
        }
    }
    let esm = Tokenizer::esm2();
    let mut ids = Vec::new();
    for record in stopped.into_iter().flatten() {
        for alphabet in [Alphabet::Protein, Alphabet::Dna] {
            for case in [Cleaning::On, Cleaning::Ungapped, Cleaning::Off] {
                let strict = clean(alphabet, case, true, &mut record.clone());
                let mut copy = record.clone();
                match clean(alphabet, case, false, &mut copy) {
                    Ok(counts) if alphabet == Alphabet::Protein && case != Cleaning::Off => {
                        ids.clear();
                        esm.encode(&copy.sequence, &mut ids);
                        assert_eq!(ids.len() as u64, counts.residues + 2);
                    }
                    Ok(_) => {}
                    Err(_) => assert!(strict.is_err()),
                }
            }
        }
        ids.clear();
        esm.encode(&record.sequence, &mut ids);
    }
}

/// Joins the chains of split records again.
fn joined(read: &Read) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = Vec::new();
    for record in read.iter().flatten() {
        match all.last_mut() {
            Some(last) if record.chain > 1 => {
                last.push(b':');
                last.extend(&record.sequence);
            }
            _ => all.push(record.sequence.clone()),
        }
    }
    all
}
