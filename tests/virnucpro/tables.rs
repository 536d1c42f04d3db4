//! The tables, byte for byte those of an independent implementation, and what they refuse.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use seqstream::sequence::Frame;
use seqstream::virnucpro::{
    ContigFacts, FragmentScore, Scores, Style, TABLE_FILES, TableCounts, TableError, TableOptions,
    TableWriter,
};

fn golden(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/virnucpro");
    fs::read_to_string(root.join(name)).unwrap()
}

fn from_bits(text: &str) -> f32 {
    f32::from_bits(u32::from_str_radix(text, 16).unwrap())
}

fn frame(name: &str) -> Frame {
    let found = Frame::ALL.into_iter().find(|f| f.to_string() == name);
    found.unwrap()
}

fn options(style: Style) -> TableOptions {
    TableOptions {
        style,
        rule: Default::default(),
        chunk: 30,
    }
}

fn partials(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    entries.collect()
}

/// Writes the golden fragments into `dir`. `swapped` exchanges the two scores.
fn write(dir: &Path, style: Style, swapped: bool) -> TableCounts {
    let options = options(style);
    let (fragments, facts) = (golden("fragments.tsv"), golden("facts.tsv"));
    let mut by_contig: HashMap<&str, Vec<Vec<&str>>> = HashMap::new();
    for line in fragments.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        by_contig.entry(fields[0]).or_default().push(fields);
    }
    let mut writer = TableWriter::new(dir, &options).unwrap();
    for line in facts.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [name, length, chunks, count] = fields[..] else {
            panic!("{line}");
        };
        for f in by_contig.get(name).into_iter().flatten() {
            let mut scores = [from_bits(f[5]), from_bits(f[6])];
            if swapped {
                scores.reverse();
            }
            let fragment = FragmentScore {
                contig: name,
                chunk: f[1].parse().unwrap(),
                frame: frame(f[2]),
                chunk_start: f[3].parse().unwrap(),
                chunk_end: f[4].parse().unwrap(),
                scores,
            };
            writer.fragment(&fragment).unwrap();
        }
        let facts = ContigFacts {
            name,
            length: length.parse().unwrap(),
            chunks: chunks.parse().unwrap(),
            fragments: count.parse().unwrap(),
        };
        writer.contig(&facts).unwrap();
    }
    writer.finish().unwrap()
}

#[test]
fn numbers_are_written_as_numpy_and_python_write_them() {
    let mut numbers = 0;
    for line in golden("numbers.tsv").lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let value = from_bits(fields[0]);
        for (style, wanted) in [(Style::Original, fields[1]), (Style::Broad, fields[2])] {
            let mut text = String::new();
            style.write_score(value, &mut text);
            assert_eq!(text, wanted, "{line}");
        }
        numbers += 1;
    }
    assert!(numbers > 300, "{numbers}");
}

#[test]
fn tables_are_those_of_the_independent_implementation() {
    for (style, folder) in [(Style::Original, "original"), (Style::Broad, "broad")] {
        let dir = tempfile::tempdir().unwrap();
        let counts = write(dir.path(), style, false);
        for name in TABLE_FILES {
            let found = fs::read_to_string(dir.path().join(name)).unwrap();
            let wanted = golden(&format!("{folder}/{name}"));
            for (number, (found, wanted)) in found.lines().zip(wanted.lines()).enumerate() {
                assert_eq!(found, wanted, "{folder}/{name}, line {}", number + 1);
            }
            assert_eq!(found, wanted, "{folder}/{name}");
        }
        assert_eq!(partials(dir.path()).len(), TABLE_FILES.len());

        let lines = |name: &str, with: &str| {
            let text = golden(&format!("{folder}/{name}"));
            text.lines().skip(1).filter(|l| l.contains(with)).count() as u64
        };
        let wanted = TableCounts {
            fragments: lines("prediction_results.txt", ""),
            viral_fragments: lines("prediction_results.txt", "\tvirus\t"),
            chunks: lines("prediction_results_highestscore.csv", ""),
            viral_chunks: lines("prediction_results_highestscore.csv", "\tTrue"),
            contigs: golden("facts.tsv").lines().count() as u64,
            viral: lines("contigs.tsv", "\tViral\t"),
            nonviral: lines("contigs.tsv", "\tNon-viral\t"),
            ambiguous: lines("contigs.tsv", "\tAmbiguous\t"),
            without_fragment: lines("no_fragment.tsv", ""),
        };
        assert_eq!(counts, wanted);
    }
}

/// Class 0 is "others" and class 1 is "virus". Descriptions of the program exist that have them the
/// other way round.
#[test]
fn exchanged_classes_change_every_table_of_scores() {
    let scores = Scores::from([0.25, 0.75]);
    assert_eq!((scores.others, scores.virus), (0.25, 0.75));
    assert!(scores.is_virus());
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), Style::Broad, true);
    for name in TABLE_FILES.iter().take(4) {
        let found = fs::read_to_string(dir.path().join(name)).unwrap();
        assert_ne!(found, golden(&format!("broad/{name}")), "{name}");
    }
}

#[test]
fn an_empty_input_gives_tables_with_headers() {
    for style in [Style::Original, Style::Broad] {
        let dir = tempfile::tempdir().unwrap();
        let options = options(style);
        let counts = TableWriter::new(dir.path(), &options).unwrap().finish();
        assert_eq!(counts.unwrap(), TableCounts::default());
        for name in TABLE_FILES {
            let text = fs::read_to_string(dir.path().join(name)).unwrap();
            assert_eq!(text.lines().count(), 1, "{name}: {text}");
        }
    }
}

const FRAGMENT: FragmentScore = FragmentScore {
    contig: "c",
    chunk: 1,
    frame: Frame::F2,
    chunk_start: 0,
    chunk_end: 30,
    scores: [0.25, 0.75],
};
const FACTS: ContigFacts = ContigFacts {
    name: "c",
    length: 60,
    chunks: 2,
    fragments: 1,
};

/// Writes `fragments` and `facts`, expects an error, and returns its message.
fn refused(fragments: &[FragmentScore], facts: Option<&ContigFacts>) -> String {
    let dir = tempfile::tempdir().unwrap();
    let options = options(Style::Original);
    let mut writer = TableWriter::new(dir.path(), &options).unwrap();
    let written = (|| {
        fragments.iter().try_for_each(|f| writer.fragment(f))?;
        if let Some(facts) = facts {
            writer.contig(facts)?;
        }
        writer.finish()?;
        Ok::<(), TableError>(())
    })();
    let error = written.unwrap_err();
    assert!(error.remedy().is_some(), "{error}");
    assert_eq!(partials(dir.path()), [] as [PathBuf; 0], "{error}");
    error.to_string()
}

#[test]
fn a_score_that_is_no_probability_never_reaches_a_table() {
    for scores in [
        [f32::NAN, 0.5],
        [0.5, f32::NAN],
        [1.5, 0.5],
        [0.5, -0.5],
        [f32::INFINITY, 0.0],
    ] {
        let message = refused(&[FragmentScore { scores, ..FRAGMENT }], Some(&FACTS));
        assert!(
            message.contains("c_chunk_1F2") && message.contains("no probabilities"),
            "{message}"
        );
    }
}

#[test]
fn shards_that_do_not_fit_together_are_refused() {
    let check = |fragments: &[FragmentScore], facts: Option<&ContigFacts>, with: &str| {
        let message = refused(fragments, facts);
        assert!(message.contains(with), "{message}");
    };
    check(&[FRAGMENT], None, "its facts are missing");
    check(&[], Some(&FACTS), "0 fragments in place of 1");
    check(&[FRAGMENT, FRAGMENT], Some(&FACTS), "out of order");
    let other = FragmentScore {
        contig: "d",
        ..FRAGMENT
    };
    check(&[FRAGMENT, other], Some(&FACTS), "another contig");
    check(&[other], Some(&FACTS), "not followed by its own facts");
    let facts = ContigFacts { chunks: 3, ..FACTS };
    check(&[FRAGMENT], Some(&facts), "3 chunks in place of 2");
    for (chunk, chunk_start, chunk_end) in [(1, 0, 31), (2, 0, 30), (3, 60, 90), (0, 0, 30)] {
        let moved = FragmentScore {
            chunk,
            chunk_start,
            chunk_end,
            ..FRAGMENT
        };
        check(&[moved], Some(&FACTS), "none of its chunks");
    }
    let named = ContigFacts {
        name: "a\tb",
        fragments: 0,
        ..FACTS
    };
    check(&[], Some(&named), "a tab or a line end");
}

#[test]
fn a_writer_that_is_dropped_leaves_the_finished_tables_of_before() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(Style::Broad);
    let mut writer = TableWriter::new(dir.path(), &options).unwrap();
    writer.fragment(&FRAGMENT).unwrap();
    writer.contig(&FACTS).unwrap();
    writer.finish().unwrap();
    let path = dir.path().join(TABLE_FILES[0]);
    let before = fs::read_to_string(&path).unwrap();
    assert!(
        before.contains("c_chunk_1F2\tvirus\t0.25\t0.75\n"),
        "{before}"
    );

    drop(TableWriter::new(dir.path(), &options).unwrap());
    assert_eq!(fs::read_to_string(&path).unwrap(), before);
    assert_eq!(partials(dir.path()).len(), TABLE_FILES.len());
}
