//! ESM-1b and ESM-1v, whose tensors have the names of ESM-2's.

use super::*;

/// ESM-1v has the tensors of an ESM-2, but for its positions.
#[test]
fn an_esm1v_is_not_computed_as_an_esm2() {
    let model = Model::esm2();
    let tensors = fair_esm(&model.tensors, SENTENCE);
    let without: Vec<T> = tensors
        .iter()
        .filter(|t| !t.name.contains("inv_freq"))
        .cloned()
        .collect();
    let positions = T::new(&format!("{SENTENCE}embed_positions.weight"), &[1026, 32]);
    let sinusoidal = T::new(&format!("{SENTENCE}embed_positions._float_tensor"), &[1]);
    let before = T::new(&format!("{SENTENCE}emb_layer_norm_before.weight"), &[32]);
    let path = model.at("esm1v.pt");
    let published = |more: &[T]| {
        let tensors = [without.as_slice(), more].concat();
        torch_save(
            &path,
            &dict([("args", args("roberta_large")), ("model", state(&tensors))]),
        );
        refused(&path)
    };
    let (what, _) = published(std::slice::from_ref(&positions));
    let said = "this is an ESM-1b or ESM-1v (learned absolute positions, arch roberta_large); of these \
                models only ESM-2 is computed";
    assert_eq!(what, format!("{}: {said}", path.display()));
    let (what, hint) = published(&[positions.clone(), before.clone()]);
    has(&what, &["ESM-1b or ESM-1v"]);
    assert!(!hint.contains("config.json"), "{hint}");
    has(&published(&[sinusoidal]).0, &["ESM-1b or ESM-1v"]);
    has(
        &published(&[before]).0,
        &["ESM-1b or ESM-1v", "a LayerNorm before the layers"],
    );
    // Without a table, the architecture and the absence of rotary frequencies show it.
    has(
        &published(&[]).0,
        &[
            "ESM-1b or ESM-1v",
            "no rotary positions, arch roberta_large",
        ],
    );
    // The table alone shows it in any file, whatever stands before the names.
    for prefix in ["", "module.", "encoder.", "model.encoder.sentence_encoder."] {
        let mut tensors = fair_esm(&model.tensors, prefix);
        tensors.push(T::new(
            &format!("{prefix}embed_positions.weight"),
            &[1026, 32],
        ));
        let path = model.at("esm1v.safetensors");
        write_safetensors(&path, &tensors);
        has(
            &refused(&path).0,
            &["ESM-1b or ESM-1v (learned absolute positions)"],
        );
    }
}

#[test]
fn esm2_of_fair_esm_and_of_hugging_face_goes_on_working() {
    let model = Model::esm2();
    let reference = model.open();
    let tensors = fair_esm(&model.tensors, SENTENCE);
    let path = model.at("esm2.pt");
    // The architecture of fair-esm's file is the name of a training script's setting.
    for arch in ["esm2", "roberta_large"] {
        let mut tensors = tensors.clone();
        tensors.push(T::new("encoder.lm_head.bias", &[33]));
        tensors.push(T::new("contact_head.regression.weight", &[1, 8]));
        let cfg = dict([("model", args(arch))]);
        torch_save(&path, &dict([("cfg", cfg), ("model", state(&tensors))]));
        let torch = Checkpoint::open(&path).unwrap();
        same(&reference, &torch);
        assert_eq!(torch.warnings(), &[] as &[String]);
    }
    // Hugging Face's files of ESM-2 have a table of positions that is not used.
    let published = Model::esm2().with([
        T::new("esm.embeddings.position_embeddings.weight", &[1026, 32]),
        T::new("esm.contact_head.regression.weight", &[1, 8]),
        T::new("lm_head.bias", &[33]),
        T::new("classifier.dense.weight", &[32, 32]),
    ]);
    let published = published.beside("vocab.txt", vocabulary().join("\n"));
    same(&reference, &published.open());
    assert_eq!(published.open().warnings(), &[] as &[String]);
    assert_eq!(
        published.open().vocabulary_paths(),
        [published.at("vocab.txt")]
    );
}

/// The program says the same, whatever it is asked to do.
#[test]
fn the_program_refuses_it_with_the_code_of_bad_weights() {
    let model = Model::esm2();
    let mut tensors = fair_esm(&model.tensors, "");
    tensors.push(T::new("embed_positions.weight", &[1026, 32]));
    let path = model.at("esm1v.pt");
    torch_save(
        &path,
        &dict([("args", args("roberta_large")), ("model", state(&tensors))]),
    );
    fs::write(model.at("a.fasta"), ">a\nMKTLLVAGGA\n").unwrap();
    for arguments in [
        &["embed", "a.fasta", "--model", "esm1v.pt", "--out", "o"][..],
        &["inspect", "esm1v.pt"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_seqstream"))
            .args(arguments)
            .current_dir(model.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(4), "{said}");
        has(
            &said,
            &[
                "error: esm1v.pt: this is an ESM-1b or ESM-1v",
                "hint: give an ESM-2",
            ],
        );
    }
    assert!(!model.at("o").exists());
}

#[test]
fn an_esm1b_in_hugging_faces_names_is_named() {
    let with = || {
        let table = T::new("esm.embeddings.position_embeddings.weight", &[1026, 32]);
        let norm = ["weight", "bias"]
            .map(|part| T::new(&format!("esm.embeddings.layer_norm.{part}"), &[32]));
        Model::esm2().without("inv_freq").with([table]).with(norm)
    };
    let (what, _) = with().refused();
    has(&what, &["by its tensors this is an ESM-1b"]);
    let (what, _) = with()
        .set("position_embedding_type", json!("absolute"))
        .refused();
    has(
        &what,
        &[
            "only rotary is computed (ESM-1b and ESM-1v have absolute ones)",
            "an ESM-1b",
        ],
    );
}
