//! How much is read: long sequences, the limit of a record, many names, and decoders that want more
//! memory than they may have. The text is made while it is read.

use std::io::{Cursor, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::sequence::*;
use seqstream::sequence::{
    BadRecords, ReaderOptions, Record, SeenNames, SequenceError, SequenceReader,
};

/// One line of bases, again and again without end, and how many bytes of it were read.
struct Lines {
    line: &'static [u8],
    at: usize,
    read: Arc<AtomicU64>,
}

fn lines(line: &'static [u8]) -> (Lines, Arc<AtomicU64>) {
    let read = Arc::new(AtomicU64::new(0));
    let at = 0;
    let lines = Lines {
        line,
        at,
        read: read.clone(),
    };
    (lines, read)
}

impl Read for Lines {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            let rest = &self.line[self.at..];
            let taken = rest.len().min(buffer.len() - filled);
            buffer[filled..filled + taken].copy_from_slice(&rest[..taken]);
            filled += taken;
            self.at = (self.at + taken) % self.line.len();
        }
        self.read.fetch_add(filled as u64, Ordering::Relaxed);
        Ok(filled)
    }
}

/// 100 bases and a line end.
const LINE: &[u8] = b"ACGTAGCATCGGATCTATCTATCGACACTTGGTTATCGATCTACGAGCATCTCGTTAGC\
                      ACGTAGCATCGGATCTATCTATCGACACTTGGTTATCGATC\n";

fn open_stream(
    text: impl Read + Send + 'static,
    options: ReaderOptions,
) -> impl Iterator<Item = Result<Record, SequenceError>> {
    SequenceReader::from_reader("in.fa", text, options).unwrap()
}

#[test]
fn a_chromosome_of_100_million_bases_is_read() {
    assert_eq!(LINE.len(), 101);
    let (bases, read) = lines(LINE);
    let text = Cursor::new(b">chr1 the first\n")
        .chain(bases.take(101 * 1_000_000))
        .chain(Cursor::new(b">chr2\nACGT\n"));
    let mut reader = open_stream(text, ReaderOptions::default());
    let first = reader.next().unwrap().unwrap();
    assert_eq!(
        (first.id.as_str(), first.sequence.len()),
        ("chr1", 100_000_000)
    );
    assert!(first.sequence.chunks(100).all(|line| line == &LINE[..100]));
    // A buffer that grows is at most twice as large as what it holds.
    assert!(first.bytes() < 201_000_000, "{}", first.bytes());
    drop(first);
    let second = reader.next().unwrap().unwrap();
    assert_eq!(
        (second.id.as_str(), &second.sequence[..], second.line),
        ("chr2", &b"ACGT"[..], 1_000_002)
    );
    assert!(reader.next().is_none());
    assert_eq!(read.load(Ordering::Relaxed), 101_000_000);
}

#[test]
fn a_sequence_may_have_2_gib_and_more_is_refused_before_it_is_held() {
    assert_eq!(ReaderOptions::default().max_sequence, 2 << 30);
    // The same limit in small, for a record that never ends.
    let limit = 1 << 20;
    let options = |bad_records| ReaderOptions {
        max_sequence: limit,
        bad_records,
        ..ReaderOptions::default()
    };
    let (bases, read) = lines(LINE);
    let text = Cursor::new(b">a\nAC\n>endless\n").chain(bases);
    let mut reader = open_stream(text, options(BadRecords::Stop));
    assert_eq!(reader.next().unwrap().unwrap().sequence, b"AC");
    let e = reader.next().unwrap().unwrap_err();
    assert!(matches!(e, SequenceError::SequenceTooLong { .. }), "{e}");
    assert_eq!(
        e.to_string(),
        "in.fa, record 2 ('endless'), line 3: the sequence is longer than 1048576 bytes"
    );
    assert!(e.remedy().is_some());
    assert!(reader.next().is_none());
    // Nothing is read on: only what the buffers hold lies beyond the limit.
    assert!(read.load(Ordering::Relaxed) < limit as u64 + (2 << 20));
    // A sequence of exactly the limit is read, and one residue more is not, and can be left out.
    let exactly = "M".repeat(limit);
    let text = format!(">a\n{exactly}\n>b\n{exactly}K\n>c\nMK\n");
    let records: Vec<_> =
        open_stream(Cursor::new(text.clone()), options(BadRecords::Skip)).collect();
    assert_eq!(records.len(), 3);
    assert_eq!(records[0].as_ref().unwrap().sequence.len(), limit);
    let refused = records[1].as_ref().unwrap_err();
    assert!(matches!(refused, SequenceError::SequenceTooLong { .. }));
    let last = records[2].as_ref().unwrap();
    assert_eq!((last.id.as_str(), last.number), ("c", 3));
    let records: Vec<_> = open_stream(Cursor::new(text), options(BadRecords::Stop)).collect();
    assert_eq!(records.len(), 2);
}

#[test]
fn the_first_million_names_of_a_shard_are_compared() {
    const MILLION: u64 = 1 << 20;
    let mut names = SeenNames::default();
    let mut record = Record::default();
    let mut take = |name: u64, index: u64| {
        record.id = name.to_string();
        record.index = index;
        names.take(&record, false).unwrap()
    };
    for name in 0..MILLION {
        assert_eq!(take(name, name), (0, None));
    }
    // A new name is not remembered any more.
    assert_eq!(take(MILLION, MILLION), (0, None));
    assert_eq!(take(MILLION, MILLION + 1), (0, None));
    // The others are, the last one of the million too.
    for (name, more) in [(0, 2), (MILLION - 1, 2), (0, 1)] {
        let (shared, first) = take(name, MILLION + 2);
        assert_eq!(shared, more);
        assert_eq!(first.unwrap().records, [name + 1, MILLION + 3]);
    }
    names.clear();
    record.id = "0".into();
    assert_eq!(names.take(&record, false).unwrap(), (0, None));
}

/// An xz file whose header asks for a dictionary of this size: (2 or 3) << n is coded in one byte.
fn xz(text: &[u8], dictionary: u8) -> Vec<u8> {
    let mut out = liblzma::write::XzEncoder::new(Vec::new(), 1);
    out.write_all(text).unwrap();
    let mut file = out.finish().unwrap();
    // The block header follows the stream header of 12 bytes: its size, flags, one filter (LZMA2,
    // one byte of properties), padding, and a checksum.
    let length = 4 * (usize::from(file[12]) + 1);
    let header = &mut file[12..12 + length];
    assert_eq!(header[2..4], [0x21, 1], "the filter LZMA2");
    header[4] = dictionary;
    let sum = crc32fast::hash(&header[..length - 4]);
    header[length - 4..].copy_from_slice(&sum.to_le_bytes());
    file
}

#[test]
fn xz_that_wants_more_memory_than_it_may_have_is_not_called_damaged() {
    // 16 MiB, and 768 MiB.
    for dictionary in [24, 35] {
        assert_eq!(
            pairs(&xz(b">a\nMKTLL\n", dictionary)),
            own(&[("a", "MKTLL")])
        );
    }
    // 1.5 GiB, the most that `xz --lzma2=dict=1536MiB` makes.
    let e = error(&xz(b">a\nMKTLL\n", 37));
    assert!(e.to_string().contains("cannot be read on (xz)"), "{e}");
    let advice = e.remedy().unwrap().to_string();
    assert!(advice.contains("xz -dc IN > OUT"), "{advice}");
    assert!(!advice.contains("damaged"), "{advice}");
    let mut damaged = xz(b">a\nMKTLL\n", 24);
    damaged[14] ^= 1;
    let advice = error(&damaged).remedy().unwrap().to_string();
    assert!(advice.contains("damaged"), "{advice}");
}

#[test]
fn files_of_sequencers_and_archives_are_named() {
    let packed = |text: &[u8]| {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(text).unwrap();
        out.finish().unwrap()
    };
    let bam = b"BAM\x01\x1b\0\0\0@HD\tVN:1.6\n";
    for (text, kind) in [
        (&bam[..], "a BAM file"),
        // As samtools writes it: BAM is compressed with bgzip.
        (&packed(bam), "a BAM file"),
        (b"CRAM\x03\0", "a CRAM file"),
        (b"@HD\tVN:1.6\n", "a SAM file"),
        (b"@SQ\tSN:chr1\tLN:9\n", "a SAM file"),
        (b"@RG\tID:x\n", "a SAM file"),
        (b"@PG\tID:bwa\n", "a SAM file"),
        (b"@CO\tmade by hand\n", "a SAM file"),
        (b"ID   P1_HUMAN\n", "an EMBL or UniProt flat file"),
        (b"# STOCKHOLM 1.0\n", "a Stockholm alignment"),
        (b"CLUSTAL W\n", "a Clustal alignment"),
        (b"ATOM      1  N   MET\n", "a PDB file"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (b"\x1f\x9d\x90", "a file packed with compress (.Z)"),
        (b"\x04\x22\x4d\x18", "an lz4 file"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"PAR1", "a Parquet file"),
        (b"SQLite format 3\0", "an SQLite database"),
        (b"\x93NUMPY\x01\0", "a NumPy array"),
    ] {
        let advice = error(text).remedy().unwrap().to_string();
        assert!(advice.contains(&format!("looks like {kind}")), "{advice}");
    }
    // FASTQ whose names begin in the same way.
    assert_eq!(pairs(b"@RG1\nAC\n+\nII\n"), own(&[("RG1", "AC")]));
    assert_eq!(pairs(b"@CO x\nAC\n+\nII\n"), own(&[("CO", "AC")]));
}
