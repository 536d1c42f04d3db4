//! Fragments of contigs: byte for byte those of an independent implementation
//! (tests/golden/fragments), and what holds for every contig.

use std::fmt::Write;

use proptest::prelude::*;
use seqstream::sequence::{Fragmenter, Frame, chunk_ranges};

/// The letters of the made-up contig that `make_fragments.py` makes of the same arguments.
fn letters(kind: &str, seed: u64, length: usize) -> Vec<u8> {
    let alphabet: &[u8] = match kind {
        "plain" => b"ACGTGCCGGCACGGCC",
        "dirty" => b"ACGTGCCGGCACGGCCacgtgccggcNRYUnu-",
        "open" => b"CGCGCCGGCCGGCCGC",
        _ => panic!("no kind of letters is named {kind}"),
    };
    let mut state = seed;
    (0..length)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            alphabet[((state >> 33) % alphabet.len() as u64) as usize]
        })
        .collect()
}

/// All fragments of a contig, one line each, as `make_fragments.py` writes them.
fn lines(contig: &[u8], chunk: usize) -> (usize, String) {
    let mut text = String::new();
    let count = Fragmenter::new(chunk).fragments(contig, |f| {
        writeln!(
            text,
            "{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}",
            f.chunk,
            f.frame,
            f.chunk_range.start,
            f.chunk_range.end,
            f.nucleotide_range.start,
            f.nucleotide_range.end,
            f.dropped,
            String::from_utf8_lossy(f.nucleotides),
            String::from_utf8_lossy(f.protein),
        )
    });
    (count.unwrap(), text)
}

#[test]
fn every_fragment_is_that_of_the_independent_implementation() {
    let golden = include_str!("../golden/fragments/fragments.tsv");
    let mut cases = 0;
    for line in golden.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [kind, chunk, length, count, crc] = fields[..] else {
            panic!("{line}");
        };
        let length: usize = length.parse().unwrap();
        let contig = letters(kind, length as u64, length);
        let (found, text) = lines(&contig, chunk.parse().unwrap());
        assert_eq!(found.to_string(), count, "{line}");
        assert_eq!(
            format!("{:08x}", crc32fast::hash(text.as_bytes())),
            crc,
            "{line}:\n{text}"
        );
        cases += 1;
    }
    assert!(cases > 2000, "{cases}");
}

/// The examples that stand in descriptions of the original.
#[test]
fn chunks_divide_their_surplus_by_the_number_of_chunks() {
    let ranges = |length, chunk| chunk_ranges(length, chunk).collect::<Vec<_>>();
    assert_eq!(ranges(501, 500), [0..500, 250..501]);
    assert_eq!(ranges(999, 500), [0..500, 499..999]);
    assert_eq!(ranges(1001, 500), [0..500, 333..833, 666..1001]);
    assert_eq!(ranges(1501, 500), [0..500, 375..875, 750..1250, 1125..1501]);
    assert_eq!(ranges(301, 300), [0..300, 150..301]);
    assert_eq!(ranges(1000, 500), [0..500, 500..1000]);
    assert_eq!(ranges(7, 500), [0..7; 1]);
    assert_eq!(ranges(0, 500), []);
}

#[test]
fn a_codon_with_another_letter_gives_nothing_and_hides_a_stop() {
    // TAR is a stop, whatever R is, but the original does not see it. No other frame is open.
    let (_, text) = lines(b"ATGTARTTAGCC", 500);
    assert!(
        text.contains("1\tF1\t0\t12\t0\t10\t1\tATGTARTTAG\tMLA\n"),
        "{text}"
    );
    // RNA loses every codon with U; the case of letters does not matter.
    let (_, text) = lines(b"augGCCgcc", 500);
    assert!(
        text.contains("1\tF1\t0\t9\t0\t7\t1\tAUGGCCG\tAA\n"),
        "{text}"
    );
}

#[test]
fn a_reverse_frame_lies_where_its_letters_lie_on_the_forward_strand() {
    let contig = letters("open", 5, 1234);
    let mut seen = 0;
    Fragmenter::new(500)
        .fragments::<()>(&contig, |f| {
            let forward = &contig[f.nucleotide_range.clone()];
            let read: Vec<u8> = match f.frame.is_reverse() {
                false => forward.to_vec(),
                true => forward
                    .iter()
                    .rev()
                    .map(|b| match b {
                        b'C' => b'G',
                        b'G' => b'C',
                        other => panic!("{other}"),
                    })
                    .collect(),
            };
            assert_eq!(read, f.nucleotides, "{}", f.frame);
            seen += usize::from(f.frame.is_reverse());
            Ok(())
        })
        .unwrap();
    assert_eq!(seen, 9, "three chunks of three reverse frames, all open");
}

proptest! {
    #[test]
    fn chunks_cover_a_contig_without_gaps(length in 1usize..20_000, chunk in 1usize..2_000) {
        let mut end = 0;
        let mut last_start = None;
        for range in chunk_ranges(length, chunk) {
            prop_assert!(range.start <= end, "a gap before {range:?}");
            prop_assert!(last_start < Some(range.start));
            prop_assert!(range.len() == chunk || range.end == length);
            prop_assert!(!range.is_empty());
            (end, last_start) = (range.end, Some(range.start));
        }
        prop_assert_eq!(end, length);
    }

    #[test]
    fn any_bytes_give_fragments_of_amino_acids(
        contig in proptest::collection::vec(any::<u8>(), 0..400),
        chunk in 1usize..200,
    ) {
        Fragmenter::new(chunk)
            .fragments::<()>(&contig, |f| {
                assert!(!f.protein.is_empty());
                assert!(f.protein.iter().all(|b| b"ACDEFGHIKLMNPQRSTVWY".contains(b)));
                assert_eq!(f.nucleotides.len(), f.nucleotide_range.len());
                assert!(f.chunk_range.start <= f.nucleotide_range.start);
                assert!(f.nucleotide_range.end <= f.chunk_range.end);
                Ok(())
            })
            .unwrap();
    }
}

#[test]
fn frames_are_named_as_in_the_ids_of_the_original() {
    let names: Vec<String> = Frame::ALL.iter().map(Frame::to_string).collect();
    assert_eq!(names, ["F1", "F2", "F3", "R1", "R2", "R3"]);
}
