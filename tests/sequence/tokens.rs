//! Token ids compared with Hugging Face's (`weights-tools/reference/make_token_golden.py`), and
//! byte pair encoding compared with its definition.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use seqstream::sequence::{Tokenizer, TokenizerError};
use serde_json::Value;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/tokens")
        .join(name)
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(golden(name)).unwrap()).unwrap()
}

fn encode(tokenizer: &Tokenizer, text: &[u8]) -> Vec<u32> {
    let mut out = Vec::new();
    tokenizer.encode(text, &mut out);
    out
}

fn check(tokenizer: &Tokenizer, cases: &str, at_least: usize) {
    let cases = json(cases);
    let cases = cases.as_array().unwrap();
    assert!(cases.len() >= at_least, "only {} cases", cases.len());
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let want: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        assert_eq!(encode(tokenizer, text.as_bytes()), want, "{text:?}");
        assert!(
            want.iter()
                .all(|&id| (id as usize) < tokenizer.vocab_size())
        );
    }
}

#[test]
fn esm_ids_are_hugging_faces() {
    check(&Tokenizer::esm2(), "esm.json", 300);
}

#[test]
fn bpe_ids_are_hugging_faces() {
    check(
        &Tokenizer::from_file(&golden("bpe_tokenizer.json")).unwrap(),
        "bpe.json",
        250,
    );
}

#[test]
fn truncation_and_padding_in_the_file_are_ignored() {
    let file = json("bpe_truncated_tokenizer.json");
    assert!(file["truncation"].is_object() && file["padding"].is_object());
    check(
        &Tokenizer::from_file(&golden("bpe_truncated_tokenizer.json")).unwrap(),
        "bpe_truncated.json",
        100,
    );
}

#[test]
fn fused_unknowns_and_letters_beyond_ascii() {
    check(
        &Tokenizer::from_file(&golden("bpe_fused_tokenizer.json")).unwrap(),
        "bpe_fused.json",
        100,
    );
}

#[test]
fn ids_are_appended() {
    let tokenizer = Tokenizer::from_file(&golden("bpe_tokenizer.json")).unwrap();
    let alone = encode(&tokenizer, b"ACGTTGCANNA[MASK]A");
    let mut out = vec![77];
    tokenizer.encode(b"ACGTTGCANNA[MASK]A", &mut out);
    assert_eq!(out.split_first(), Some((&77, alone.as_slice())));
}

#[test]
fn a_byte_that_is_no_text_is_one_unknown() {
    for name in ["bpe_tokenizer.json", "bpe_fused_tokenizer.json"] {
        let tokenizer = Tokenizer::from_file(&golden(name)).unwrap();
        let a = encode(&tokenizer, b"A")[1];
        assert_eq!(
            encode(&tokenizer, b"A\xff\xffA\xc3A"),
            [1, a, 0, 0, a, 0, a, 2]
        );
    }
}

/// Merges by the definition: repeatedly finds the pair of lowest rank (the leftmost of equals) and
/// merges it.
fn naive(ranks: &HashMap<(String, String), usize>, text: &str) -> Vec<String> {
    let mut parts: Vec<String> = text.chars().map(String::from).collect();
    loop {
        let best = (1..parts.len())
            .filter_map(|i| {
                ranks
                    .get(&(parts[i - 1].clone(), parts[i].clone()))
                    .map(|rank| (*rank, i))
            })
            .min();
        let Some((_, i)) = best else { return parts };
        let right = parts.remove(i);
        parts[i - 1].push_str(&right);
    }
}

fn ranks(file: &Value) -> HashMap<(String, String), usize> {
    let merges = file["model"]["merges"].as_array().unwrap();
    let pair = |merge: &Value| match merge {
        Value::String(text) => {
            let (a, b) = text.split_once(' ').unwrap();
            (a.to_owned(), b.to_owned())
        }
        other => (
            other[0].as_str().unwrap().to_owned(),
            other[1].as_str().unwrap().to_owned(),
        ),
    };
    merges
        .iter()
        .enumerate()
        .map(|(rank, merge)| (pair(merge), rank))
        .collect()
}

fn naive_ids(file: &Value, text: &str) -> Vec<u32> {
    let vocabulary = &file["model"]["vocab"];
    let mut ids = vec![1];
    ids.extend(
        naive(&ranks(file), text)
            .iter()
            .map(|part| vocabulary[part].as_u64().unwrap_or(0) as u32),
    );
    ids.push(2);
    ids
}

/// Returns a tokenizer.json with the given merges, some of which may never apply; the vocabulary
/// contains what the merges need.
fn tokenizer_json(merges: &[(String, String)]) -> Value {
    let mut vocabulary = serde_json::Map::new();
    for special in ["[UNK]", "[CLS]", "[SEP]", "A", "C", "G", "T"] {
        vocabulary.insert(special.to_owned(), vocabulary.len().into());
    }
    for (a, b) in merges {
        for text in [a.clone(), b.clone(), format!("{a}{b}")] {
            let id = vocabulary.len();
            vocabulary.entry(text).or_insert(id.into());
        }
    }
    serde_json::json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "C"}}, {"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "S"}}],
            "special_tokens": {"C": {"ids": [1]}, "S": {"ids": [2]}},
        },
        "model": {"type": "BPE", "unk_token": "[UNK]", "vocab": vocabulary, "merges": merges},
    })
}

/// Generates merges in which each part is a letter or the result of an earlier merge, as training
/// gives them.
fn trained_merges() -> impl Strategy<Value = Vec<(String, String)>> {
    prop::collection::vec(
        (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
        0..40,
    )
    .prop_map(|picks| {
        let mut tokens: Vec<String> = ["A", "C", "G", "T"].map(String::from).to_vec();
        let mut merges = Vec::new();
        for (a, b) in picks {
            let (a, b) = (a.get(&tokens).clone(), b.get(&tokens).clone());
            let new = format!("{a}{b}");
            if new.len() <= 24 && !tokens.contains(&new) {
                tokens.push(new);
                merges.push((a, b));
            }
        }
        merges
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn bpe_is_the_definition(text in "[ACGT]{0,60}|[AC]{0,60}|(AAC|CA|G){0,30}") {
        for name in ["bpe_tokenizer.json", "bpe_truncated_tokenizer.json"] {
            let tokenizer = Tokenizer::from_file(&golden(name)).unwrap();
            prop_assert_eq!(encode(&tokenizer, text.as_bytes()), naive_ids(&json(name), &text));
        }
    }

    #[test]
    fn bpe_is_the_definition_for_other_merges(merges in trained_merges(), text in "[ACGT]{1,60}|[AC]{1,60}|A{1,40}") {
        let file = tokenizer_json(&merges);
        let tokenizer = Tokenizer::from_json("test", file.to_string().as_bytes()).unwrap();
        prop_assert_eq!(encode(&tokenizer, text.as_bytes()), naive_ids(&file, &text));
    }

    /// Tests merges out of order, repeated, unreachable or ambiguous, which training never gives.
    #[test]
    fn bpe_is_the_definition_for_wild_merges(
        merges in prop::collection::vec(("[AC]{1,3}", "[ACG]{1,3}"), 0..25),
        text in "[ACGT]{1,40}|[AC]{1,40}",
    ) {
        let file = tokenizer_json(&merges);
        let tokenizer = Tokenizer::from_json("test", file.to_string().as_bytes()).unwrap();
        prop_assert_eq!(encode(&tokenizer, text.as_bytes()), naive_ids(&file, &text));
    }

    #[test]
    fn encoding_never_panics(text in prop::collection::vec(any::<u8>(), 0..200)) {
        for name in ["bpe_tokenizer.json", "bpe_fused_tokenizer.json"] {
            let tokenizer = Tokenizer::from_file(&golden(name)).unwrap();
            prop_assert!(encode(&tokenizer, &text).len() >= 2);
        }
        let ids = encode(&Tokenizer::esm2(), &text);
        prop_assert!(ids.len() >= 2 && ids.len() <= text.len() + 2);
    }
}

#[test]
fn long_words_are_the_definition_too() {
    // Compares with the heap method: with the same merges, one of them listed twice, the fast
    // method is not used.
    let mut file = json("bpe_tokenizer.json");
    let mut state = 1u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        b"ACGT"[(state >> 62) as usize]
    };
    let text: Vec<u8> = (0..200_000).map(|_| next()).collect();
    let fast = Tokenizer::from_json("fast", file.to_string().as_bytes()).unwrap();
    let merges = file["model"]["merges"].as_array_mut().unwrap();
    merges.push(merges.last().unwrap().clone());
    let slow = Tokenizer::from_json("slow", file.to_string().as_bytes()).unwrap();
    let ids = encode(&fast, &text);
    assert!(ids.len() > 20_000 && ids.len() < 150_000);
    assert!(ids == encode(&slow, &text));
}

fn refused(change: impl FnOnce(&mut Value)) -> TokenizerError {
    let mut file = json("bpe_tokenizer.json");
    change(&mut file);
    let error = Tokenizer::from_json("t.json", file.to_string().as_bytes()).unwrap_err();
    assert!(error.remedy().is_some());
    error
}

#[test]
fn what_is_not_supported_is_named() {
    type Change = fn(&mut Value);
    let unsupported: [(&str, Change); 16] = [
        ("normalizer", |f| {
            f["normalizer"] = serde_json::json!({"type": "Lowercase"})
        }),
        ("pre_tokenizer", |f| {
            f["pre_tokenizer"] = serde_json::json!({"type": "ByteLevel"})
        }),
        ("pre_tokenizer", |f| f["pre_tokenizer"] = Value::Null),
        ("post_processor", |f| f["post_processor"] = Value::Null),
        ("model.type", |f| f["model"]["type"] = "WordPiece".into()),
        ("model.dropout", |f| f["model"]["dropout"] = 0.1.into()),
        ("model.unk_token", |f| f["model"]["unk_token"] = Value::Null),
        ("model.byte_fallback", |f| {
            f["model"]["byte_fallback"] = true.into()
        }),
        ("model.ignore_merges", |f| {
            f["model"]["ignore_merges"] = true.into()
        }),
        ("model.continuing_subword_prefix", |f| {
            f["model"]["continuing_subword_prefix"] = "##".into()
        }),
        ("model.end_of_word_suffix", |f| {
            f["model"]["end_of_word_suffix"] = "</w>".into()
        }),
        ("model.novelty", |f| f["model"]["novelty"] = 1.into()),
        ("novelty", |f| f["novelty"] = 1.into()),
        ("added_tokens[4].lstrip", |f| {
            f["added_tokens"][4]["lstrip"] = true.into()
        }),
        ("added_tokens[0].single_word", |f| {
            f["added_tokens"][0]["single_word"] = true.into()
        }),
        ("version", |f| f["version"] = "2.0".into()),
    ];
    for (field, change) in unsupported {
        match refused(change) {
            TokenizerError::Unsupported { field: found, .. } => assert_eq!(found, field),
            other => panic!("{field}: {other}"),
        }
    }
    let invalid: [(&str, Change); 8] = [
        ("model.unk_token", |f| {
            f["model"]["unk_token"] = "[NO]".into()
        }),
        ("model.vocab", |f| f["model"]["vocab"]["A"] = 6.into()),
        ("model.vocab", |f| f["model"]["vocab"]["A"] = (-1).into()),
        ("model.vocab", |f| f["model"]["vocab"] = Value::Null),
        ("model.merges[0]", |f| {
            f["model"]["merges"][0] = "A C G".into()
        }),
        ("model.merges[1]", |f| {
            f["model"]["merges"][1] = "A XYZ".into()
        }),
        ("added_tokens[1].id", |f| {
            f["added_tokens"][1]["id"] = 3.into()
        }),
        ("post_processor.single", |f| {
            f["post_processor"]["single"] = serde_json::json!([])
        }),
    ];
    for (field, change) in invalid {
        match refused(change) {
            TokenizerError::Invalid { field: found, .. } => assert_eq!(found, field),
            other => panic!("{field}: {other}"),
        }
    }
}

#[test]
fn what_is_no_tokenizer_is_an_error() {
    for text in [
        &b""[..],
        b"{",
        b"[]",
        b"{}",
        b"null",
        b"\xff\xfe",
        &[b'['; 100_000],
    ] {
        let error = Tokenizer::from_json("t.json", text).unwrap_err();
        assert!(error.to_string().starts_with("t.json: "), "{error}");
    }
    let error = Tokenizer::from_file(Path::new("/nonexistent/tokenizer.json")).unwrap_err();
    assert!(matches!(error, TokenizerError::Read { .. }) && error.remedy().is_some());
}
