//! The ends of compressed files: padding, trailing bytes, a missing end marker, large windows.

use std::io::Write;

use crate::support::sequence::*;
use seqstream::sequence::{Alphabet, Cleaning, Input, ReaderOptions, ScanOptions, scan};

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(text).unwrap();
    out.finish().unwrap()
}

/// Returns one block of bgzip, a gzip member with the extra field BC.
fn block(text: &[u8]) -> Vec<u8> {
    let mut out = flate2::GzBuilder::new()
        .extra(b"BC\x02\0\0\0".to_vec())
        .write(Vec::new(), flate2::Compression::fast());
    out.write_all(text).unwrap();
    out.finish().unwrap()
}

#[test]
fn zero_bytes_may_follow_gzip_data() {
    for zeros in [1, 2, 512, 300_000] {
        let stored = [gzip(b">a\nMK\n"), gzip(b"VL\n"), vec![0; zeros]].concat();
        assert_eq!(pairs(&stored), own(&[("a", "MKVL")]), "{zeros}");
        // The digest covers the padding, too.
        let (_folder, path) = temporary("p.fa.gz", &stored);
        let summary = scan(&[Input::from(&path)], &options(false)).unwrap();
        assert_eq!(summary.inputs[0].bytes, stored.len() as u64);
    }
}

#[test]
fn other_bytes_after_gzip_data_are_called_so() {
    for (trailing, words) in [
        (
            b"trailing".to_vec(),
            "8 bytes follow the end of the gzip data, which are no gzip",
        ),
        (
            b"\x1f".to_vec(),
            "1 byte follows the end of the gzip data, which is no gzip",
        ),
        (b"\x1fx".to_vec(), "2 bytes follow"),
        (b"\0\0\0x".to_vec(), "4 bytes follow"),
        (vec![7; 200_000], "more than 65536 bytes follow"),
    ] {
        let stored = [gzip(b">a\nMK\n"), trailing].concat();
        let e = error(&stored);
        assert!(e.to_string().contains(words), "{e}");
        let advice = e.remedy().unwrap().to_string();
        assert!(advice.contains("gzip -dc IN > OUT"), "{advice}");
        assert!(!advice.contains("cut short"), "{advice}");
    }
    // A second member that is damaged is still called damaged.
    let mut second = gzip(b"VL\n");
    second.truncate(9);
    let e = error(&[gzip(b">a\nMK\n"), second].concat());
    assert!(e.remedy().unwrap().to_string().contains("cut short"), "{e}");
}

#[test]
fn zstd_windows_of_two_gib_are_read() {
    // A frame with a window of 2^31 bytes, as `zstd --long=31` writes it, and one raw block.
    let text = b">a\nMKTLL\n";
    let block_header = ((text.len() as u32) << 3 | 1).to_le_bytes();
    let frame = [
        &b"\x28\xb5\x2f\xfd\x00\xa8"[..],
        &block_header[..3],
        &text[..],
    ]
    .concat();
    assert_eq!(pairs(&frame), own(&[("a", "MKTLL")]));
}

fn options(strict: bool) -> ScanOptions {
    ScanOptions {
        alphabet: Alphabet::Protein,
        cleaning: Cleaning::On,
        strict,
        shard_size: 2048,
        reader: ReaderOptions {
            strict,
            ..ReaderOptions::default()
        },
    }
}

#[test]
fn bgzip_without_its_end_marker_is_noticed() {
    let (first, second, end) = (block(b">a\nMKTLL\n"), block(b">b\nMSTN\n"), block(b""));
    for (stored, missing) in [
        (first.clone(), true),
        ([first.clone(), second.clone()].concat(), true),
        ([first.clone(), end.clone(), second.clone()].concat(), true),
        ([first.clone(), second, end.clone()].concat(), false),
        ([first, end.clone(), vec![0; 9]].concat(), false),
        // Ordinary gzip has no marker.
        (gzip(b">a\nMKTLL\n"), false),
    ] {
        let (_folder, path) = temporary("x.fa.gz", &stored);
        let summary = scan(&[Input::from(&path)], &options(false)).unwrap();
        assert_eq!(summary.without_end.len(), usize::from(missing));
        match scan(&[Input::from(&path)], &options(true)) {
            Ok(_) => assert!(!missing),
            Err(e) => {
                assert!(missing, "{e}");
                assert!(
                    e.to_string().contains("the end marker of bgzip is missing"),
                    "{e}"
                );
                assert!(e.remedy().unwrap().to_string().contains("cut short"));
            }
        }
    }
}

/// What follows bzip2, xz or zstd data is another part of it, or an error, wherever it ends.
#[test]
fn only_another_part_may_follow_other_compressed_data() {
    let bzip2 = |text: &[u8]| {
        let mut out = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        out.write_all(text).unwrap();
        out.finish().unwrap()
    };
    let xz = |text: &[u8]| {
        let mut out = liblzma::write::XzEncoder::new(Vec::new(), 1);
        out.write_all(text).unwrap();
        out.finish().unwrap()
    };
    let zstd = |text: &[u8]| {
        let mut out = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        out.include_checksum(true).unwrap();
        out.write_all(text).unwrap();
        out.finish().unwrap()
    };
    type Packer<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;
    let packers: [(&str, Packer<'_>); 3] = [("bzip2", &bzip2), ("xz", &xz), ("zstd", &zstd)];
    for (name, pack) in packers {
        let (first, second) = (pack(b">a\nMK\n"), pack(b"VL\n"));
        let whole = [first.clone(), second.clone()].concat();
        assert_eq!(pairs(&whole), own(&[("a", "MKVL")]));
        for end in first.len() + 1..whole.len() {
            assert!(read(&whole[..end]).is_err(), "{name}, {end} bytes");
        }
        for trailing in [
            &b"x"[..],
            b"trailing",
            b"\0",
            b"\0\0\0",
            &[0; 512],
            b">b\nMK\n",
        ] {
            let stored = [&first[..], trailing].concat();
            // The format of xz allows zero bytes in fours after its data.
            let padding = name == "xz" && trailing.len() == 512;
            assert_eq!(read(&stored).is_ok(), padding, "{name}, {trailing:?}");
        }
    }
}
