//! PyTorch files of training scripts: under which key the tensors are.

use super::*;

#[test]
fn the_dict_of_tensors_is_found_by_its_key() {
    let model = Model::esm2();
    let reference = model.open();
    fs::remove_file(model.at("model.safetensors")).unwrap();
    let path = model.at("pytorch_model.bin");
    let tensors = || state(&model.tensors);
    let open = |value: &P| {
        torch_save(&path, value);
        Checkpoint::open(model.path())
    };
    for key in [
        "model",
        "state_dict",
        "model_state_dict",
        "model_state",
        "module",
    ] {
        let value = dict([
            ("epoch", P::Int(3)),
            (key, tensors()),
            (
                "optimizer_state_dict",
                dict([("state", dict([("step", P::Int(1))]))]),
            ),
        ]);
        same(&reference, &open(&value).unwrap());
    }
    // A key may lead to another one, or to settings.
    let nested = dict([("model", dict([("state_dict", tensors())]))]);
    same(&reference, &open(&nested).unwrap());
    let settings = dict([
        ("model", dict([("name", P::Text("esm2"))])),
        ("model_state_dict", tensors()),
    ]);
    same(&reference, &open(&settings).unwrap());
    same(&reference, &open(&tensors()).unwrap());

    let refused = |value: P, parts: &[&str]| {
        let error = open(&value).unwrap_err();
        println!("{error}\n    hint: {}", error.remedy().unwrap());
        has(
            &error.to_string(),
            &[&["pytorch_model.bin: "], parts].concat(),
        );
        error.remedy().unwrap().to_string()
    };
    let averages = dict([
        ("epoch", P::Int(1)),
        ("ema", tensors()),
        ("swa", tensors()),
        ("optimizer", dict([("x", P::Int(1))])),
    ]);
    let hint = refused(
        averages,
        &[
            "holds tensors under ema, swa, and under none of the keys",
            "model_state_dict",
        ],
    );
    has(&hint, &["torch.load(path)[\"ema\"]"]);
    let two = dict([
        ("model", tensors()),
        ("state_dict", state(&model.tensors[..3])),
    ]);
    refused(two, &["holds tensors under model and under state_dict"]);
    refused(dict([("epoch", P::Int(1))]), &["holds no dict of tensors"]);
    refused(
        dict([("model", P::Text("x"))]),
        &["holds no dict of tensors"],
    );
    let many = ["a", "b", "c", "d", "e", "f", "g"].map(|key| (key, state(&model.tensors[..1])));
    refused(dict(many), &["a, b, c, d, e and 2 more keys"]);
}
