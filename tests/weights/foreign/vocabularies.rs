//! Models with other tokens than those of ESM-2.

use super::*;

#[test]
fn a_vocabulary_of_another_size_is_refused() {
    let saprot = || {
        let mut config = ModelConfig::esm2(2, 32, 4);
        config.vocab = 446;
        Model::new(config)
    };
    let (what, hint) = saprot().set("mask_token_id", json!(445)).refused();
    has(
        &what,
        &[
            "config.json: mask_token_id is 445, and ESM-2's is 32",
            "this is a SaProt",
        ],
    );
    has(&hint, &["give an ESM-2"]);
    let (what, hint) = saprot().refused();
    has(
        &what,
        &[
            "config.json: the vocabulary has 446 tokens",
            "this is a SaProt",
            "no padding",
        ],
    );
    has(&hint, &["only ESM-2's own tokens"]);
    let mut tokens = vec!["<cls>", "<pad>", "<eos>", "<unk>", "<mask>", "Ap", "Aq"];
    tokens.resize(446, "Ay");
    let (what, _) = saprot().beside("vocab.txt", tokens.join("\n")).refused();
    has(
        &what,
        &[
            "vocab.txt: line 5 of it is \"<mask>\", and ESM-2 has L there",
            "SaProt",
        ],
    );
    let (what, _) = Model::esm2().set("pad_token_id", json!(0)).refused();
    has(&what, &["config.json: pad_token_id is 0, and ESM-2's is 1"]);

    // Rows of zeros are no tokens; rows of values may be, unless vocab.txt says otherwise.
    let mut config = ModelConfig::esm2(2, 32, 4);
    config.vocab = 40;
    let (what, hint) = Model::new(config.clone()).refused();
    has(&what, &["the vocabulary has 40 tokens", "rows 33 to 39"]);
    has(&hint, &["put the model's vocab.txt beside"]);
    let mut padded = Model::new(config.clone());
    for t in &mut padded.tensors {
        if t.name.ends_with("word_embeddings.weight") {
            t.bytes[33 * 32 * 4..].fill(0);
        }
    }
    let padded = padded.write();
    assert_eq!(padded.open().config().vocab, 40);
    let listed = Model::new(config.clone()).beside("vocab.txt", vocabulary().join("\n"));
    assert_eq!(listed.open().warnings(), &[] as &[String]);
    // Every row counts, up to the last byte.
    let mut almost = padded;
    for t in &mut almost.tensors {
        if t.name.ends_with("word_embeddings.weight") {
            *t.bytes.last_mut().unwrap() = 1;
        }
    }
    has(&almost.write().refused().0, &["rows 33 to 39"]);
    config.vocab = 25;
    config.mask_token = 24;
    let (what, _) = Model::new(config)
        .set("mask_token_id", Value::Null)
        .refused();
    has(
        &what,
        &["config.json: the vocabulary has 25 tokens, and ESM-2's has 33"],
    );
}

#[test]
fn fair_esm_files_have_the_tokens_of_esm2() {
    let model = Model::esm2();
    let mut tensors = fair_esm(&model.tensors, "");
    let table = tensors
        .iter_mut()
        .find(|t| t.name == "embed_tokens.weight")
        .unwrap();
    table.shape[0] = 35;
    table.bytes.extend([0; 2 * 32 * 4]);
    let path = model.at("esm2.safetensors");
    write_safetensors(&path, &tensors);
    // A vocab.txt in this folder is another model's.
    fs::write(model.at("vocab.txt"), "A\nC\n").unwrap();
    assert_eq!(Checkpoint::open(&path).unwrap().config().vocab, 35);
    let table = tensors
        .iter_mut()
        .find(|t| t.name == "embed_tokens.weight")
        .unwrap();
    *table.bytes.last_mut().unwrap() = 1;
    write_safetensors(&path, &tensors);
    has(&refused(&path).0, &["the vocabulary has 35 tokens"]);
}

#[test]
fn the_first_33_lines_of_vocab_txt_are_esm2s() {
    let with = |text: &[u8]| Model::esm2().beside("vocab.txt", text);
    let lines = |change: &dyn Fn(&mut Vec<&'static str>)| {
        let mut tokens = vocabulary();
        change(&mut tokens);
        tokens.join("\n").into_bytes()
    };
    let text = lines(&|_| {});
    for text in [
        text.clone(),
        [text.as_slice(), b"\n"].concat(),
        [b"\xef\xbb\xbf", text.as_slice()].concat(),
        String::from_utf8(text.clone())
            .unwrap()
            .replace('\n', "\r\n")
            .into_bytes(),
        String::from_utf8(text.clone())
            .unwrap()
            .replace('\n', "\r")
            .into_bytes(),
        lines(&|tokens| tokens.extend(["<new>", "[NEW]"])),
    ] {
        assert_eq!(with(&text).open().warnings(), &[] as &[String]);
    }
    let refused = |text: Vec<u8>, parts: &[&str]| {
        let (what, hint) = with(&text).refused();
        has(&what, &[&["vocab.txt: "], parts].concat());
        assert!(!hint.is_empty());
    };
    refused(
        lines(&|tokens| tokens.swap(4, 5)),
        &["line 5 of it is \"A\", and ESM-2 has L there: the model reads other tokens than ESM-2"],
    );
    refused(
        lines(&|tokens| tokens.sort_unstable()),
        &["line 1 of it is \"-\""],
    );
    refused(
        lines(&|tokens| tokens.insert(4, "")),
        &["line 5 of it is \"\""],
    );
    refused(
        lines(&|tokens| tokens.truncate(20)),
        &["it has 20 tokens", "missing is M"],
    );
    refused(vec![], &["it has 0 tokens", "missing is <cls>"]);
    refused(
        lines(&|tokens| tokens.push("L")),
        &["line 34 of it is L once more"],
    );
    refused(
        [text.as_slice(), b"\n\xff"].concat(),
        &["line 34 is not UTF-8 text"],
    );
    refused(
        b"\xff\xfe<\0c\0l\0s\0>\0\n\0".to_vec(),
        &["line 1 is not UTF-8 text"],
    );
    refused(vec![b'\n'; 2 << 20], &["2097152 bytes are too many"]);
    // A token for a letter that ESM-2 does not know would be read as unknown.
    let warned = with(&lines(&|tokens| tokens.extend(["J", "<x>", "s"])));
    has(
        &warned.open().warnings()[0],
        &["\"J\" in vocab.txt", "2 such tokens"],
    );
}

#[test]
fn other_files_that_list_tokens() {
    let word_level = |change: &[(&'static str, Option<usize>)]| {
        let tokens = vocabulary();
        let mut ids: BTreeMap<&str, usize> = tokens
            .iter()
            .enumerate()
            .map(|(id, token)| (*token, id))
            .collect();
        for (token, id) in change {
            match id {
                Some(id) => ids.insert(*token, *id),
                None => ids.remove(token),
            };
        }
        json!({"version": "1.0", "model": {"type": "WordLevel", "vocab": ids}}).to_string()
    };
    let open = |name: &str, text: String| Model::esm2().beside(name, text);
    open("tokenizer.json", word_level(&[])).open();
    let refused = |name: &str, text: String, parts: &[&str]| {
        has(&open(name, text).refused().0, &[&[name], parts].concat());
    };
    refused(
        "tokenizer.json",
        word_level(&[("L", Some(5)), ("A", Some(4))]),
        &["gives \"A\" the id 4, which is L in ESM-2"],
    );
    refused(
        "tokenizer.json",
        word_level(&[("O", None)]),
        &["no token O"],
    );
    refused(
        "tokenizer.json",
        word_level(&[("L", Some(40))]),
        &["gives L the id 40, and ESM-2 has 4"],
    );
    refused(
        "tokenizer.json",
        r#"{"model": {"vocab": []}}"#.into(),
        &["another kind"],
    );
    refused("tokenizer.json", "{".into(), &["cannot be read"]);
    open("added_tokens.json", r#"{"<mask>": 32, "<new>": 33}"#.into()).open();
    refused(
        "added_tokens.json",
        r#"{"<mask>": 33}"#.into(),
        &["gives <mask> the id 33, and ESM-2 has 32"],
    );
    refused(
        "added_tokens.json",
        r#"{"J": 7}"#.into(),
        &["the id 7, which is V in ESM-2"],
    );
    refused(
        "added_tokens.json",
        r#"{"J": "7"}"#.into(),
        &["\"J\" is no number"],
    );
    refused("added_tokens.json", "[]".into(), &["no list of tokens"]);
    let warned = open("added_tokens.json", r#"{"J": 33}"#.into());
    has(
        &warned.open().warnings()[0],
        &["\"J\" in added_tokens.json"],
    );

    let mut list = vocabulary();
    Model::esm2().set("vocab_list", json!(list)).open();
    list.swap(5, 6);
    let (what, _) = Model::esm2().set("vocab_list", json!(list)).refused();
    has(
        &what,
        &["config.json: entry 6 of vocab_list is \"G\", and ESM-2 has A there"],
    );
    let (what, _) = Model::esm2().set("vocab_list", json!("A")).refused();
    has(&what, &["config.json: its vocab_list is no list"]);
    // DNABERT's tokens are those of its tokenizer.json, whatever else is there.
    Model::dnabert().beside("vocab.txt", "A\n").open();
}
