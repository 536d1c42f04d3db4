//! Names of tensors: what wrappers put before them, and tensors beside the model.

use super::*;

#[test]
fn names_behind_wrappers_are_read() {
    let stem = |name: &str| name.strip_prefix("esm.").unwrap_or(name).to_owned();
    for model in [Model::esm2, Model::dnabert] {
        let reference = model().open();
        for prefix in [
            "module.",
            "model.",
            "_orig_mod.",
            "backbone.",
            "module.model.",
            "_orig_mod.module.",
            "module._orig_mod.model.esm.",
            "net.0.bert.",
            "_fsdp_wrapped_module.esm.",
        ] {
            let wrapped = model().rename(|name| format!("{prefix}{}", stem(name)));
            same(&reference, &wrapped.open());
            assert_eq!(wrapped.open().warnings(), &[] as &[String]);
            // Heads behind the same wrapper, and beside it, do not matter.
            let head = format!("{}lm_head.bias", prefix.trim_end_matches("esm."));
            let heads = [T::new(&head, &[33]), T::new("classifier.weight", &[2, 32])];
            let wrapped = wrapped.with(heads);
            same(&reference, &wrapped.open());
            assert_eq!(wrapped.open().warnings(), &[] as &[String], "{prefix}");
        }
        let inside = model()
            .rename(|name| name.replace("attention.", "_checkpoint_wrapped_module.attention."));
        same(&reference, &inside.open());
    }
}

#[test]
fn fair_esms_names_behind_wrappers_are_read() {
    let model = Model::esm2();
    let reference = model.open();
    for prefix in [
        "",
        "module.",
        "model.encoder.",
        "module.encoder.sentence_encoder.",
    ] {
        let tensors = fair_esm(&model.tensors, prefix);
        let path = model.at("wrapped.pt");
        torch_save(&path, &dict([("model", state(&tensors))]));
        same(&reference, &Checkpoint::open(&path).unwrap());
    }
}

#[test]
fn a_missing_tensor_behind_a_wrapper_is_missed_by_its_name() {
    let whole = |name: &str| format!("module.{name}");
    let (what, _) = Model::esm2()
        .without("layer.1.output.dense.bias")
        .rename(whole)
        .refused();
    has(
        &what,
        &["tensor encoder.layer.1.output.dense.bias is missing, expected shape [32]"],
    );
    assert!(!what.contains("more like it"), "{what}");
    let (what, _) = Model::esm2()
        .without("word_embeddings")
        .rename(whole)
        .refused();
    has(
        &what,
        &["tensor embeddings.word_embeddings.weight is missing"],
    );
    assert!(!what.contains("more like it"), "{what}");
    // Parts of the model that have lost their prefix are not mixed with those that have it.
    let (what, _) = Model::esm2()
        .rename(|name| match name.contains("layer.1.") {
            true => name.replace("esm.", ""),
            false => name.to_owned(),
        })
        .refused();
    has(&what, &["encoder.layer.1.", "missing"]);
}

#[test]
fn two_models_in_one_file_are_not_mixed() {
    let model = Model::esm2();
    let copy = |prefix: &str| {
        let renamed = |t: &T| T {
            name: format!("{prefix}{}", t.name),
            ..t.clone()
        };
        model.tensors.iter().map(renamed).collect::<Vec<_>>()
    };
    let both = [copy("student."), copy("teacher.")].concat();
    write_safetensors(&model.at("model.safetensors"), &both);
    let (what, hint) = model.refused();
    has(
        &what,
        &["several models: one under student.esm., one under teacher.esm."],
    );
    has(&hint, &["state_dict()"]);
    write_safetensors(
        &model.at("model.safetensors"),
        &[copy(""), copy("ema.")].concat(),
    );
    has(&model.refused().0, &["one under ema.esm., one under esm."]);
}

#[test]
fn a_head_of_ones_own_is_passed_over_with_a_warning() {
    let regressor = || {
        [
            T::new("regressor.weight", &[1, 32]),
            T::new("regressor.bias", &[1]),
        ]
    };
    let reference = Model::esm2().open();
    let with = Model::esm2().with(regressor());
    same(&reference, &with.open());
    assert_eq!(
        with.open().warnings(),
        ["2 tensors beside the model are not used: regressor.weight [1, 32], regressor.bias [1]"]
    );
    assert!(with.open().is_beside("regressor.bias") && !with.open().is_beside("lm_head.bias"));
    let listed = with.open().tensors();
    let regressor_info = listed
        .iter()
        .find(|t| t.name == "regressor.weight")
        .unwrap();
    assert!(!regressor_info.used);
    // A bare model, in which the names of the head begin like those of the model.
    let bare = Model::esm2()
        .rename(|name| name.replace("esm.", ""))
        .with(regressor());
    same(&reference, &bare.open());
    has(&bare.open().warnings()[0], &["2 tensors beside the model"]);
    let wrapped = Model::esm2()
        .with(regressor())
        .rename(|name| format!("module.{name}"));
    same(&reference, &wrapped.open());
    has(&wrapped.open().warnings()[0], &["module.regressor.weight"]);
    let dnabert = Model::dnabert().with([T::new("head.weight", &[2, 32])]);
    same(&Model::dnabert().open(), &dnabert.open());
    assert_eq!(
        dnabert.open().warnings(),
        ["a tensor beside the model is not used: head.weight [2, 32]"]
    );
    let many = (0..9).map(|i| T::new(&format!("head.{i}"), &[1]));
    let many = Model::esm2().with(many).open();
    has(&many.warnings()[0], &["9 tensors", "head.2 [1] and 6 more"]);
    // In fair-esm's names, and where averages of weights are counted beside them.
    let path = bare.at("head.pt");
    let mut tensors = fair_esm(&Model::esm2().tensors, "module.");
    tensors.extend([
        T::new("n_averaged", &[]),
        T::new("module.regressor.bias", &[1]),
    ]);
    torch_save(&path, &state(&tensors));
    has(
        &Checkpoint::open(&path).unwrap().warnings()[0],
        &["2 tensors", "n_averaged []"],
    );
}

#[test]
fn what_is_inside_a_model_is_not_passed_over() {
    for name in [
        "esm.regressor.weight",
        "esm.encoder.layer.0.gate.weight",
        "esm.encoder.layer.2.output.dense.bias",
        "encoder.layer.0.gate.weight",
        "esm.embeddings.gate.weight",
        "bert.encoder.layer.0.gate.weight",
    ] {
        let (what, _) = Model::esm2().with([T::new(name, &[32])]).refused();
        has(
            &what,
            &[&format!(
                "tensor {name} of shape [32] has no place in this model"
            )],
        );
    }
    let bare = || Model::esm2().rename(|name| name.replace("esm.", ""));
    for name in [
        "encoder.norm.weight",
        "embeddings.gate",
        "encoder.layer.0.gate",
    ] {
        let (what, _) = bare().with([T::new(name, &[32])]).refused();
        has(
            &what,
            &[&format!(
                "tensor {name} of shape [32] has no place in this model"
            )],
        );
    }
}
