//! Classifiers in every layout, as a real PyTorch wrote them (tests/golden/classifier), and files
//! that are refused.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use seqstream::dtype::DType;
use seqstream::virnucpro::{Classifier, ClassifierError};
use seqstream::weights::write::{Planned, SafetensorsWriter};
use seqstream::weights::{check_pickle, read_index};

#[path = "../../fuzz/bodies/classifier.rs"]
mod body;

const LAYOUTS: [&str; 8] = [
    "module.pth",
    "module_ordered.pth",
    "module_fork.pth",
    "state_dict.pth",
    "checkpoint.pth",
    "checkpoint_bare.pth",
    "parallel.pth",
    "classifier.safetensors",
];

fn golden(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/classifier");
    root.join(name)
}

/// The vectors and their scores in float64.
fn vectors() -> (Vec<Vec<f32>>, Vec<[f64; 2]>) {
    let text = fs::read_to_string(golden("scores.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let rows: Vec<Vec<f32>> = serde_json::from_value(json["rows"].clone()).unwrap();
    let scores: Vec<[f64; 2]> = serde_json::from_value(json["scores"].clone()).unwrap();
    assert!(rows.len() == scores.len() && rows.len() > 8);
    (rows, scores)
}

#[test]
fn every_layout_gives_the_scores_of_float64() {
    let (rows, wanted) = vectors();
    for name in LAYOUTS {
        let classifier = Classifier::open(&golden(name)).unwrap();
        assert_eq!((classifier.width(), classifier.hidden()), (12, 8), "{name}");
        let bytes = fs::read(golden(name)).unwrap();
        assert_eq!(classifier.blake3(), blake3::hash(&bytes).to_hex().as_str());
        for (row, wanted) in rows.iter().zip(&wanted) {
            let found = classifier.scores(row);
            for (found, wanted) in found.iter().zip(wanted) {
                assert!(
                    (f64::from(*found) - wanted).abs() < 1e-7,
                    "{name}: {found} {wanted}"
                );
            }
        }
    }
}

/// The first class is "others" and the second one "virus": the order of the file, not sorted.
#[test]
fn the_second_score_is_that_of_the_second_class() {
    let (rows, wanted) = vectors();
    let classifier = Classifier::open(&golden("module.pth")).unwrap();
    let viral = (0..rows.len()).max_by(|a, b| wanted[*a][1].total_cmp(&wanted[*b][1]));
    let [others, virus] = classifier.scores(&rows[viral.unwrap()]);
    assert!(virus > 0.9 && others < 0.1, "{others} {virus}");
}

#[test]
fn scores_do_not_depend_on_the_vectors_beside() {
    let (rows, _) = vectors();
    let classifier = Classifier::open(&golden("state_dict.pth")).unwrap();
    let alone: Vec<[f32; 2]> = rows.iter().map(|row| classifier.scores(row)).collect();
    for count in 0..=rows.len() {
        let together = classifier.scores_of_all(&rows[..count].concat());
        assert_eq!(together, alone[..count], "{count}");
    }
}

#[test]
fn a_value_that_is_not_finite_gives_no_score() {
    let (rows, _) = vectors();
    let classifier = Classifier::open(&golden("module.pth")).unwrap();
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, 7, 8, 11] {
            let mut row = rows[0].clone();
            row[at] = value;
            let scores = classifier.scores(&row);
            assert!(scores.iter().all(|s| s.is_nan()), "{scores:?}");
            // The vectors beside it keep their scores.
            let both = classifier.scores_of_all(&[row, rows[1].clone()].concat());
            assert_eq!(both[1], classifier.scores(&rows[1]));
            assert!(both[0][0].is_nan());
        }
    }
}

fn refused(path: &Path) -> (String, String) {
    let error = Classifier::open(path).unwrap_err();
    let hint = error.remedy().unwrap().to_string();
    (error.to_string(), hint)
}

#[test]
fn foreign_globals_are_refused_by_name() {
    let (message, hint) = refused(&golden("foreign.pth"));
    assert!(
        message.contains("foreign.pth: at byte") && message.contains("asks for posix.system"),
        "{message}"
    );
    assert!(hint.contains("nothing was executed"), "{hint}");
    let (message, hint) = refused(&golden("legacy.pth"));
    assert!(message.contains("from before 1.6"), "{message}");
    assert!(hint.contains("state_dict()"), "{hint}");
}

/// The list of classes for classifiers is not that of models.
#[test]
fn a_model_may_still_name_no_class() {
    for name in ["module.pth", "module_ordered.pth", "module_fork.pth"] {
        let error = read_index(&fs::read(golden(name)).unwrap()).unwrap_err();
        assert!(
            error.what.contains(".MLPClassifier, which"),
            "{}",
            error.what
        );
    }
    for (module, name) in [
        ("__main__", "MLPClassifier"),
        ("torch.nn.modules.linear", "Linear"),
        ("numpy.core.multiarray", "scalar"),
        ("torch.torch_version", "TorchVersion"),
    ] {
        let pickle = format!("\u{0}c{module}\n{name}\n.").replace('\u{0}', "");
        let error = check_pickle(pickle.as_bytes()).unwrap_err();
        assert!(error.what.contains(name), "{}", error.what);
    }
}

/// A classifier's tensors in safetensors format, each as `change` leaves it; without those that it
/// gives no shape.
fn changed(
    dir: &Path,
    change: impl Fn(&str, Vec<usize>, Vec<f32>) -> Option<(Vec<usize>, Vec<f32>)>,
) -> PathBuf {
    let classifier = Classifier::open(&golden("module.pth")).unwrap();
    let mut plan = Vec::new();
    let mut bytes = Vec::new();
    for (name, shape, values) in classifier.tensors() {
        if let Some((shape, values)) = change(name, shape, values.to_vec()) {
            bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
            plan.push(Planned {
                name: name.into(),
                dtype: DType::F32,
                shape,
            });
        }
    }
    let path = dir.join("changed.safetensors");
    let mut writer = SafetensorsWriter::create(&path, &plan).unwrap();
    writer.write(&bytes).unwrap();
    writer.finish().unwrap();
    path
}

#[test]
fn tensors_that_do_not_fit_are_named_with_both_shapes() {
    let dir = tempfile::tempdir().unwrap();
    let (rows, _) = vectors();
    let same = changed(dir.path(), |_, shape, values| Some((shape, values)));
    let original = Classifier::open(&golden("module.pth")).unwrap();
    let copy = Classifier::open(&same).unwrap();
    assert_eq!(copy.scores(&rows[0]), original.scores(&rows[0]));

    for tensor in original.tensors().map(|(name, ..)| name) {
        let path = changed(dir.path(), |name, shape, values| {
            (name != tensor).then_some((shape, values))
        });
        let (message, hint) = refused(&path);
        assert!(
            message.contains(&format!("tensor {tensor} is missing, expected shape [")),
            "{message}"
        );
        assert!(hint.contains("500_model.pth"), "{hint}");
        // One value more.
        let path = changed(dir.path(), |name, shape, mut values| {
            if name == tensor {
                values.push(1.0);
                return Some((vec![values.len()], values));
            }
            Some((shape, values))
        });
        let (message, _) = refused(&path);
        assert!(
            message.contains(&format!("tensor {tensor} has shape ["))
                && message.contains("expected ["),
            "{message}"
        );
        for (value, word) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
            let path = changed(dir.path(), |name, shape, mut values| {
                if name == tensor {
                    values[1] = value;
                }
                Some((shape, values))
            });
            let (message, _) = refused(&path);
            let wanted = format!("tensor {tensor} has the value {word} at index 1");
            assert!(message.contains(&wanted), "{message}");
        }
    }
    // Three classes.
    let path = changed(dir.path(), |name, mut shape, mut values| {
        if name.starts_with("output_layer") {
            let row = values.len() / 2;
            values.extend_from_within(..row);
            shape[0] = 3;
        }
        Some((shape, values))
    });
    let (message, hint) = refused(&path);
    assert!(
        message.contains("tensor output_layer.weight has shape [3, 8], expected [2, 8] ([2, H]"),
        "{message}"
    );
    assert!(hint.contains("two classes"), "{hint}");
    // A variance below zero.
    let path = changed(dir.path(), |name, shape, mut values| {
        if name == "bn1.running_var" {
            values[3] = -0.5;
        }
        Some((shape, values))
    });
    let (message, _) = refused(&path);
    assert!(
        message.contains("bn1.running_var has the negative variance -0.5 at index 3"),
        "{message}"
    );
}

#[test]
fn a_width_that_does_not_match_names_both() {
    let classifier = Classifier::open(&golden("module.pth")).unwrap();
    classifier
        .check_width(&[("DNABERT-S", 4), ("ESM-2", 8)])
        .unwrap();
    let error = classifier
        .check_width(&[("DNABERT-S", 768), ("ESM-2", 1280)])
        .unwrap_err();
    assert!(matches!(
        error,
        ClassifierError::Width {
            width: 12,
            found: 2048,
            ..
        }
    ));
    let message = error.to_string();
    assert!(
        message.ends_with(
            "module.pth: this classifier was trained on vectors of 12 values, but the features have \
             2048 values (DNABERT-S 768 + ESM-2 1280)"
        ),
        "{message}"
    );
    assert!(error.remedy().is_some());
}

#[test]
fn only_classifiers_are_taken_for_classifiers() {
    for name in LAYOUTS.into_iter().chain(["foreign.pth", "legacy.pth"]) {
        assert!(Classifier::is_at(&golden(name)), "{name}");
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for other in [
        "tests/golden/torch/one.bin",
        "tests/golden/torch/fair_esm.pt",
        "tests/golden/models/esm2-head16.safetensors",
        "Cargo.toml",
        "tests",
        "nothing",
    ] {
        assert!(!Classifier::is_at(&root.join(other)), "{other}");
        assert!(Classifier::open(&root.join(other)).is_err(), "{other}");
    }
}

/// The body of the fuzz target of the same name, on damaged files.
#[test]
fn damaged_files_are_errors_or_classifiers() {
    let mut state = 21u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    for name in LAYOUTS {
        let whole = fs::read(golden(name)).unwrap();
        for round in 0..400 {
            let mut bytes = whole.clone();
            match round % 4 {
                0 => bytes.truncate(next() % whole.len()),
                1 => bytes.rotate_left(next() % 64),
                _ => {
                    for _ in 0..=round % 3 {
                        let at = next() % bytes.len();
                        bytes[at] = next() as u8;
                    }
                }
            }
            body::check(&bytes);
        }
    }
}

proptest! {
    /// Against the same sums, written plainly.
    #[test]
    fn any_vector_gets_the_scores_of_float64(
        row in proptest::collection::vec(-50f32..50.0, 12),
    ) {
        let classifier = Classifier::open(&golden("classifier.safetensors")).unwrap();
        let tensors: Vec<Vec<f64>> = classifier
            .tensors()
            .map(|(_, _, values)| values.iter().map(|v| f64::from(*v)).collect())
            .collect();
        let [weight, bias, gain, offset, mean, variance, output, output_bias] = &tensors[..] else {
            panic!("8 tensors");
        };
        let mut logits = [output_bias[0], output_bias[1]];
        for unit in 0..8 {
            let sum: f64 = (0..12).map(|i| weight[unit * 12 + i] * f64::from(row[i])).sum();
            let x = (sum + bias[unit] - mean[unit]) / (variance[unit] + 1e-5).sqrt();
            let x = (x * gain[unit] + offset[unit]).max(0.0);
            logits[0] += output[unit] * x;
            logits[1] += output[8 + unit] * x;
        }
        let virus = 1.0 / (1.0 + (logits[0] - logits[1]).exp());
        let [found_others, found_virus] = classifier.scores(&row);
        prop_assert!((f64::from(found_virus) - virus).abs() < 1e-6);
        prop_assert!((f64::from(found_others) - (1.0 - virus)).abs() < 1e-6);
    }
}
