//! Text that is not sequence: separators, titles, sentences, tables and records of other formats
//! are errors that name what they are, and never become residues.

use std::io::Write;

use crate::support::sequence::*;
use seqstream::sequence::{Alphabet, Cleaning, Record, clean};

/// Checks that the text is refused with these words, at this record and line, with this remedy.
fn refused(text: &[u8], words: &str, place: (u64, u64), remedy: &str) {
    let e = match read(text) {
        Err(e) => e,
        Ok(records) => panic!("{} was read as {records:?}", text.escape_ascii()),
    };
    assert!(
        e.to_string().contains(words),
        "{}: {e}",
        text.escape_ascii()
    );
    assert_eq!(at(&e), place, "{e}");
    let advice = e.remedy().unwrap().to_string();
    assert!(advice.contains(remedy), "{e}: {advice}");
}

#[test]
fn a_separator_before_a_header_is_no_gap() {
    for text in [
        &b">a\nMKTLLV\n--\n>b\nMSTN\n"[..],
        b">a\r\nMKTLLV\r\n--\r\n>b\r\nMSTN\r\n",
        b">a\nMKTLLV\n--\n\n \n>b\nMSTN\n",
        b">a\nMKTLLV\n -- \n;comment\n>b\nMSTN\n",
    ] {
        refused(
            text,
            "the line '--' stands before a header",
            (1, 3),
            "grep -A",
        );
    }
    // Gaps that are followed by no header, or that are not alone, are gaps.
    for (text, want) in [
        (&b">a\n--\nMK\n>b\nM\n"[..], "--MK"),
        (b">a\nMK\n---\n>b\nM\n", "MK---"),
        (b">a\nMK--\n>b\nM\n", "MK--"),
        (b">a\nMK\n-\n>b\nM\n", "MK-"),
    ] {
        assert_eq!(pairs(text)[0].1, want);
    }
}

#[test]
fn pir_files_are_named() {
    for kind in ["P1", "F1", "DL", "DC", "RL", "RC", "N1", "N3", "XX"] {
        let text = format!(">ok\nMK\n>{kind};CRAB\nsmall test protein\nMKTLL*\n");
        refused(text.as_bytes(), "a header of a PIR file", (2, 3), "title");
    }
    // Sizes as vsearch writes them, and other names with a semicolon.
    for name in ["P1;size=10", "P1;size=10;", "P2;x", "OTU1;size=5", "P1"] {
        assert_eq!(pairs(format!(">{name}\nMK\n").as_bytes())[0].0, name);
    }
}

#[test]
fn records_of_the_other_format_are_named() {
    refused(
        b">a\nACGT\n@r1\nACGT\n+\nIIII\n",
        "the line begins with '@'",
        (1, 3),
        "FASTQ records follow FASTA ones",
    );
    refused(
        b">a\nACGT\n+\nIIII\n",
        "the line begins with '+'",
        (1, 3),
        "FASTQ",
    );
    refused(
        b"@r\nACGT\n+\nIIII\n>a\nACGT\n",
        "not '>a'",
        (1, 5),
        "FASTA records follow FASTQ ones",
    );
}

#[test]
fn lines_of_other_text_are_no_residues() {
    for (line, words) in [
        ("{\"sequence\": \"MK\"}", "the character '{'"),
        ("MKT{LL", "the character '{'"),
        ("\"MKTLL\",", "the character '\"'"),
        ("length=12", "the character '='"),
        ("  @r1", "the line begins with '@'"),
        ("# a comment", "the line begins with '#'"),
        ("//", "the line begins with '//'"),
        ("Here is the sequence you asked for:", "a sentence"),
        ("the protein, which binds zinc, is short.", "a sentence"),
        ("I hope that this helps!", "a sentence"),
    ] {
        let text = format!(">z\nMK\n>a\nMKTLL\n{line}\nMSTN\n>b\nMK\n");
        refused(text.as_bytes(), words, (2, 5), "line");
        // The same at the end of the file, and in pieces of other sizes.
        refused(format!(">a\n{line}").as_bytes(), words, (1, 2), "line");
    }
    for line in [
        "mktllvagga kemstnpkpq rk.",
        "MKTLL VAGGA.",
        "mk tl.",
        "MK*?",
        "M<mask>K",
        "1 mktll 6",
    ] {
        assert_eq!(pairs(format!(">a\n{line}\n").as_bytes())[0].1, line);
    }
}

#[test]
fn files_of_other_kinds_are_named() {
    let mut tar = vec![0; 1024];
    tar[..7].copy_from_slice(b"a.fasta");
    tar[257..262].copy_from_slice(b"ustar");
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&tar).unwrap();
    let packed = packed.finish().unwrap();
    for (text, kind) in [
        (&tar[..], "a tar archive"),
        (&packed, "a tar archive"),
        (b"<!DOCTYPE html>\n<html>", "a web page"),
        (b"\n  <HTML lang=en>\n", "a web page"),
        (b"<?xml version=\"1.0\"?>\n", "an XML file"),
        (b"{\n  \"id\": 1\n}\n", "a JSON file"),
        (b"[{\"id\": 1}]\n", "a JSON file"),
        (b"{\\rtf1 >a}", "an RTF document"),
        (b"%PDF-1.4\n", "a PDF document"),
        (b"id,sequence\na,MK\n", "a CSV table"),
        (b"id\tsequence\na\tMK\n", "a TSV table"),
        (b"\n\nid;sequence\na;MK\n", "a CSV table"),
        (
            b"##gff-version 3\nchr1\t.\tgene\t1\t9\t.\t+\t.\tID=1\n",
            "a GFF file",
        ),
        (b"chr1\tx\tgene\t1\t9\t.\t+\t.\tID=1\n", "a GFF or GTF file"),
        (b"##fileformat=VCFv4.2\n", "a VCF file"),
        (b"HEADER    OXYGEN TRANSPORT", "a PDB file"),
        (b"data_1ABC\n#\n", "an mmCIF file"),
    ] {
        let e = read(text).expect_err(kind);
        let advice = e.remedy().unwrap().to_string();
        assert!(
            advice.contains(&format!("looks like {kind}")),
            "{e}: {advice}"
        );
        assert_eq!(advice.contains("tar xf"), kind.contains("tar"), "{advice}");
    }
    // Text of no known kind still has the old remedy.
    assert!(
        read(b"MKTLL\n")
            .unwrap_err()
            .remedy()
            .unwrap()
            .to_string()
            .contains("'>'")
    );
}

#[test]
fn what_left_nothing_is_named() {
    for (text, cleaning, words) in [
        (&b"*"[..], Cleaning::On, "the sequence is only a stop codon"),
        (b" * ", Cleaning::On, "the sequence is only a stop codon"),
        (b" \t", Cleaning::On, "the sequence is only white space"),
        (b" ", Cleaning::Off, "the sequence is only white space"),
    ] {
        let mut record = Record::new("r", text);
        let e = clean(Alphabet::Protein, cleaning, false, &mut record).unwrap_err();
        assert!(e.to_string().ends_with(words), "{e}");
    }
    assert!(
        error(b">a\n>b\nM\n")
            .to_string()
            .ends_with("the sequence is empty")
    );
}

#[test]
fn a_sentence_has_three_words_two_in_lower_case_and_an_end() {
    for end in [".", ":", "!", "?", ",", ";"] {
        let text = format!(">a\nMK\nThis is short{end}\n");
        refused(text.as_bytes(), "a sentence", (1, 3), "line");
    }
    for line in [
        // No end, two words, one word in lower case, and blocks of equal length.
        "This is short",
        "is short.",
        "This Protein is.",
        "mktll vagga kemst.",
    ] {
        assert_eq!(pairs(format!(">a\n{line}\n").as_bytes())[0].1, line);
    }
}
