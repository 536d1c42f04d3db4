//! The body of the fuzz target `fasta`, on its corpus and on changed texts.

use std::path::Path;

#[path = "../../fuzz/bodies/fasta.rs"]
mod body;

fn corpus() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/fasta");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
        .iter()
        .map(|file| std::fs::read(file).unwrap())
        .collect()
}

/// The number of changed texts.
const ROUNDS: usize = 4000;

#[test]
fn the_corpus_passes_whole_and_changed() {
    let mut texts = corpus();
    assert!(texts.len() >= 10);
    texts.iter().for_each(|text| body::check(text));
    for text in [
        &b"\x03>a\nMKT:MS\n>b\n*\n>c\nMK>d\nMK\n--\n>e\n{\nMK\n"[..],
        b"\x05@a\nACGT\n+\n@@@@\n@b\n\n+\n\n@c\nA>CCCGGGTTT\n+\n>@>@@@@@@@@\n@d\nGG\nTT\n+d\nII\nII\n",
    ] {
        texts.push(text.to_vec());
    }
    let mut state = 11u64;
    let mut next = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below.max(1)
    };
    const PIECES: [&[u8]; 20] = [
        b">", b"\n", b"\r", b"\r\n", b"@", b"+", b"\n+\n", b"\n>", b"\n@", b"--\n", b":", b"*",
        b"-", b";", b"{", b"\0", b"\xff", b" ", b"<mask>", b"\n\n",
    ];
    for round in 0..ROUNDS {
        let mut text = texts[round % texts.len()].clone();
        for _ in 0..1 + next(6) {
            let at = next(text.len() + 1);
            match next(5) {
                0 => text
                    .splice(at..at, PIECES[next(PIECES.len())].iter().copied())
                    .for_each(drop),
                1 => text.truncate(at),
                2 => {
                    let end = (at + next(9)).min(text.len());
                    text.drain(at..end).for_each(drop);
                }
                3 => {
                    let end = (at + next(40)).min(text.len());
                    let copy = text[at..end].to_vec();
                    let to = next(text.len() + 1);
                    text.splice(to..to, copy).for_each(drop);
                }
                _ => {
                    if let Some(byte) = text.get_mut(at) {
                        *byte = next(256) as u8;
                    }
                }
            }
        }
        body::check(&text);
    }
}
