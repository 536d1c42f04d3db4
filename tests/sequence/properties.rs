//! Reading does not depend on block boundaries, line width, line ends or compression.

use std::io::{self, Cursor, Read, Write};

use proptest::prelude::*;
use seqstream::sequence::{
    Alphabet, Cleaning, ReaderOptions, Record, SequenceError, SequenceReader, Tokenizer, clean,
};

/// A reader that returns a few bytes at a time and is sometimes interrupted.
struct Trickle {
    inner: Cursor<Vec<u8>>,
    steps: Vec<usize>,
    reads: usize,
}

impl Read for Trickle {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.reads += 1;
        if self.reads.is_multiple_of(7) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let step = self.steps[self.reads % self.steps.len()].min(buf.len());
        self.inner.read(&mut buf[..step])
    }
}

fn read(text: &[u8], steps: Vec<usize>, longest_piece: usize) -> (Vec<Record>, Option<String>) {
    let options = ReaderOptions {
        longest_piece,
        ..ReaderOptions::default()
    };
    let input = Trickle {
        inner: Cursor::new(text.to_vec()),
        steps,
        reads: 0,
    };
    let mut records = Vec::new();
    let reader = match SequenceReader::from_reader("in", input, options) {
        Ok(reader) => reader,
        Err(e) => return (records, Some(e.to_string())),
    };
    for record in reader {
        match record {
            Ok(record) => records.push(record),
            Err(e) => return (records, Some(e.to_string())),
        }
    }
    (records, None)
}

fn whole(text: &[u8]) -> (Vec<Record>, Option<String>) {
    read(text, vec![1 << 20], usize::MAX)
}

#[derive(Debug, Clone, Copy)]
enum Packing {
    Plain,
    Gzip,
    Bzip2,
    Xz,
    Zstd,
}

fn pack(packing: Packing, text: &[u8]) -> Vec<u8> {
    match packing {
        Packing::Plain => text.to_vec(),
        Packing::Gzip => {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            out.write_all(text).unwrap();
            out.finish().unwrap()
        }
        Packing::Bzip2 => {
            let mut out = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            out.write_all(text).unwrap();
            out.finish().unwrap()
        }
        Packing::Xz => {
            let mut out = liblzma::write::XzEncoder::new(Vec::new(), 0);
            out.write_all(text).unwrap();
            out.finish().unwrap()
        }
        Packing::Zstd => zstd::stream::encode_all(text, 1).unwrap(),
    }
}

fn packing() -> impl Strategy<Value = Packing> {
    use Packing::*;
    prop::sample::select(vec![Plain, Gzip, Bzip2, Xz, Zstd])
}

/// Generates names and sequences; no sequence begins with a character that has a meaning at a line
/// start.
fn records() -> impl Strategy<Value = Vec<(String, String)>> {
    prop::collection::vec(("[a-z|.é]{1,12}", "[A-Za-z*é-]{1,150}"), 1..8)
}

fn steps() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1..50usize, 1..6)
}

/// Splits a sequence into lines of `width` characters; a character is never cut, since the result
/// would not be text any more.
fn lines(sequence: &str, width: usize) -> Vec<String> {
    let chars: Vec<char> = sequence.chars().collect();
    chars
        .chunks(width)
        .map(|line| line.iter().collect())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn fasta_is_read_the_same_however_it_is_written(
        records in records(),
        width in 1..200usize,
        end in prop::sample::select(vec!["\n", "\r\n", "\r"]),
        missing_last in any::<bool>(),
        bom in any::<bool>(),
        packing in packing(),
        cut in any::<prop::sample::Index>(),
        steps in steps(),
        longest_piece in 1..300usize,
    ) {
        // Such a line before a header is the separator of `grep -A`.
        let separator = |sequence: &str| lines(sequence, width).iter().any(|line| line == "--");
        prop_assume!(!records.iter().any(|(_, sequence)| separator(sequence)));
        let mut text = String::from(if bom { "\u{feff}" } else { "" });
        for (id, sequence) in &records {
            text.push_str(&format!(">{id} description > {end}"));
            for line in lines(sequence, width) {
                text.push_str(&line);
                text.push_str(end);
            }
        }
        if missing_last {
            text.truncate(text.len() - end.len());
        }
        // Two members, streams or frames, cut anywhere.
        let (a, b) = text.as_bytes().split_at(cut.index(text.len()));
        let stored = if matches!(packing, Packing::Plain) {
            text.clone().into_bytes()
        } else {
            [pack(packing, a), pack(packing, b)].concat()
        };
        let (read, error) = read(&stored, steps, longest_piece);
        prop_assert_eq!(error, None);
        let got: Vec<(String, String)> =
            read.iter().map(|r| (r.id.clone(), String::from_utf8(r.sequence.clone()).unwrap())).collect();
        prop_assert_eq!(got, records);
        // Every byte of every sequence is located on its line.
        let ends: &[char] = if end == "\r" { &['\r'] } else { &['\n'] };
        let all: Vec<&str> = text.trim_start_matches('\u{feff}').split(ends).collect();
        for record in &read {
            for (i, b) in record.sequence.iter().enumerate() {
                let (line, column) = record.layout.locate(i as u64).unwrap();
                prop_assert_eq!(all[line as usize - 1].as_bytes()[column as usize - 1], *b);
            }
        }
    }

    #[test]
    fn fastq_is_read_the_same_however_it_is_written(
        records in prop::collection::vec(("[a-z]{1,12}", "[ACGTN]{1,80}", any::<u64>()), 1..6),
        width in 1..100usize,
        end in prop::sample::select(vec!["\n", "\r\n", "\r"]),
        steps in steps(),
        longest_piece in 1..100usize,
    ) {
        let mut text = String::new();
        for (id, sequence, seed) in &records {
            // Any quality character may be anywhere, '@' and '+' even at a line start.
            let quality: String =
                (0..sequence.len() as u64).map(|i| b"@+I>;!"[(seed.rotate_left(i as u32) % 6) as usize] as char).collect();
            let body = |s: &str| lines(s, width).join(end);
            text.push_str(&format!("@{id} x{end}{}{end}+{end}{}{end}", body(sequence), body(&quality)));
        }
        let (read, error) = read(text.as_bytes(), steps, longest_piece);
        prop_assert_eq!(error, None);
        let got: Vec<(String, String)> =
            read.into_iter().map(|r| (r.id, String::from_utf8(r.sequence).unwrap())).collect();
        let want: Vec<(String, String)> = records.into_iter().map(|(id, s, _)| (id, s)).collect();
        prop_assert_eq!(got, want);
    }

    /// Almost valid text meets every rule and every error, and no outcome depends on block
    /// boundaries.
    #[test]
    fn dirty_text_is_read_the_same_wherever_blocks_end(
        text in "([>@;+\r\n\n\n ]|>a|>b c|MKVL|<mask>|\u{feff}|é|\0|\r\n|ACGT\n|@r\nAC\n\\+\nII\n){0,40}",
        steps in steps(),
        longest_piece in 1..20usize,
    ) {
        prop_assert_eq!(read(text.as_bytes(), steps, longest_piece), whole(text.as_bytes()));
    }

    #[test]
    fn arbitrary_bytes_never_panic(text in prop::collection::vec(any::<u8>(), 0..400), steps in steps()) {
        let (records, error) = whole(&text);
        prop_assert_eq!(read(&text, steps, 3), (records.clone(), error.clone()));
        prop_assert!(!records.is_empty() || error.is_some());
    }

    #[test]
    fn damaged_compression_never_panics(
        packing in packing(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut stored = pack(packing, &b">a\nMKVLMKVL\n>b\nACDEF\n".repeat(10));
        for (at, byte) in damage {
            let at = at.index(stored.len());
            stored[at] = byte;
        }
        let (records, error) = whole(&stored);
        prop_assert!(!records.is_empty() || error.is_some());
    }

    /// Cleaned text gives one token per residue, the counts add up, and cleaning again changes
    /// nothing.
    #[test]
    fn cleaning_adds_up(text in prop::collection::vec(prop_oneof![
        4 => "[A-Z]".prop_map(String::into_bytes),
        1 => "[a-z*é中 .\t-]|<mask>|<unk>|<".prop_map(String::into_bytes),
        1 => any::<u8>().prop_map(|b| vec![b]),
    ], 1..60).prop_map(|parts| parts.concat()), strict in any::<bool>()) {
        for alphabet in [Alphabet::Protein, Alphabet::Dna] {
            let mut record = Record::new("r", text.clone());
            let counts = match clean(alphabet, Cleaning::On, strict, &mut record) {
                Ok(counts) => counts,
                Err(SequenceError::EmptySequence { .. } | SequenceError::Strict { .. }) => continue,
                Err(e) => return Err(TestCaseError::fail(e.to_string())),
            };
            if strict {
                prop_assert_eq!(&record.sequence, &text);
                prop_assert_eq!(counts.unknown + counts.lowercase + counts.whitespace + counts.stops_dropped, 0);
            }
            if alphabet == Alphabet::Protein {
                let mut ids = Vec::new();
                Tokenizer::esm2().encode(&record.sequence, &mut ids);
                prop_assert_eq!(ids.len() as u64, counts.residues + 2);
                let unknown = ids.iter().filter(|&&id| id == 3).count() as u64;
                prop_assert!(unknown >= counts.unknown && unknown <= counts.unknown + counts.special_tokens);
            } else {
                prop_assert_eq!(record.sequence.len() as u64, counts.residues);
            }
            let once = record.sequence.clone();
            let again = clean(alphabet, Cleaning::On, false, &mut record).unwrap();
            prop_assert_eq!(&record.sequence, &once);
            prop_assert_eq!((again.residues, again.unknown), (counts.residues, counts.unknown));
        }
    }
}
