//! Any bytes as an input file: read, cleaned in every mode, tokenized.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use seqstream::sequence::{Alphabet, Cleaning, ReaderOptions, SequenceReader, Tokenizer, clean};

fuzz_target!(|data: &[u8]| {
    // The first byte moves the boundaries at which lines are taken apart; they may change no result.
    let Some((&first, text)) = data.split_first() else {
        return;
    };
    let read = |longest_piece| {
        let options = ReaderOptions {
            // Compressed input may expand a thousandfold.
            max_sequence: 1 << 20,
            longest_piece,
            ..ReaderOptions::default()
        };
        let mut records = Vec::new();
        match SequenceReader::from_reader("fuzz", Cursor::new(text.to_vec()), options) {
            Ok(reader) => {
                for record in reader {
                    match record {
                        Ok(record) => records.push(record),
                        Err(e) => return (records, Some((e.to_string(), e.remedy()))),
                    }
                }
                (records, None)
            }
            Err(e) => (records, Some((e.to_string(), e.remedy()))),
        }
    };
    let (records, error) = read(usize::MAX);
    assert!(!records.is_empty() || error.is_some());
    let cut = read(usize::from(first).max(1));
    assert!((&records, &error) == (&cut.0, &cut.1));

    let esm = Tokenizer::esm2();
    let mut ids = Vec::new();
    for record in records {
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
});
