//! `bench`: the operations of a model, the comparison with an earlier report, the roofline, and what is
//! refused.

use crate::support::cli::*;
use serde_json::Value;
use std::path::Path;
use std::process::Output;

fn bench(arguments: &[&str]) -> Output {
    seqstream()
        .args(["bench", "--model", "examples/tiny-esm2", "--rounds", "2"])
        .args(arguments)
        .output()
        .unwrap()
}

#[track_caller]
fn json(arguments: &[&str]) -> Value {
    let output = bench(&[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn refused(arguments: &[&str], code: i32) -> String {
    let output = bench(arguments);
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert_eq!(output.stdout, b"");
    String::from_utf8(output.stderr).unwrap()
}

const LENGTH: [&str; 4] = ["--lengths", "40", "--tokens", "400"];

/// The example has 4 layers; 10 sequences of 40 tokens are one batch, and thus one pass.
#[test]
fn operations_of_the_cpu_have_the_work_that_the_model_asks_for() {
    let report = json(&[&LENGTH[..], &["--breakdown"]].concat());
    let config: Value =
        serde_json::from_str(&std::fs::read_to_string("examples/tiny-esm2/config.json").unwrap())
            .unwrap();
    let size = |name: &str| config[name].as_u64().unwrap();
    let (hidden, wide) = (size("hidden_size"), size("intermediate_size"));
    let operations = report["workloads"][0]["operations"].as_array().unwrap();
    let named = |name: &str, shape: Value| {
        let mut found = operations.iter();
        let found = found.find(|o| o["operation"] == name && o["shape"] == shape);
        found.unwrap_or_else(|| panic!("no {name} {shape} in {operations:?}"))
    };
    let flops =
        |o: &Value| 1e9 * o["tflops"].as_f64().unwrap() * o["milliseconds"].as_f64().unwrap();
    let (tokens, layers) = (400.0, 4.0);
    for (name, outputs, inputs) in [
        ("product", 3 * hidden, hidden),
        ("product", hidden, hidden),
        ("product_gelu", wide, hidden),
        ("product", hidden, wide),
    ] {
        let product = named(name, serde_json::json!([outputs, inputs]));
        assert_eq!(product["calls"], 4, "{product}");
        let wanted = layers * 2.0 * tokens * (outputs * inputs) as f64;
        assert!((flops(product) / wanted - 1.0).abs() < 1e-9, "{product}");
    }
    let attention = named("attention", Value::Null);
    let wanted = layers * 10.0 * 4.0 * 40.0 * 40.0 * hidden as f64;
    assert!(
        (flops(attention) / wanted - 1.0).abs() < 1e-9,
        "{attention}"
    );
    let shares = operations.iter().map(|o| o["share"].as_f64().unwrap());
    assert!((shares.sum::<f64>() - 1.0).abs() < 1e-9);
}

#[test]
fn an_earlier_report_is_compared_and_anything_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let old = dir.path().join("old.json");
    let old = old.to_str().unwrap();
    let report = json(&[&LENGTH[..], &["--breakdown"]].concat());
    assert_eq!(report["comparison"], Value::Null);
    std::fs::write(old, report.to_string()).unwrap();
    let compare = ["--compare", old];
    let report = json(&[&LENGTH[..], &compare].concat());
    let comparison = &report["comparison"];
    assert_eq!(comparison["differences"], serde_json::json!([]));
    assert_eq!(comparison["changes"].as_array().unwrap().len(), 1);
    assert_eq!(comparison["changes"][0]["what"], "length 40");
    // Another length is another workload.
    let report = json(&["--lengths", "41", "--tokens", "410", "--compare", old]);
    let missing = report["comparison"]["missing"].as_array().unwrap();
    assert_eq!(missing.len(), 2, "{missing:?}");

    for (text, said) in [
        ("{", "no report of bench"),
        ("{\"model\": 1}", "no report of bench"),
    ] {
        std::fs::write(old, text).unwrap();
        let message = refused(&[&LENGTH[..], &compare].concat(), 2);
        assert!(
            message.contains(said) && message.contains("bench --json"),
            "{message}"
        );
    }
    let message = refused(
        &[&LENGTH[..], &["--compare", "/nonexistent/old.json"]].concat(),
        2,
    );
    assert!(message.contains("/nonexistent/old.json"), "{message}");
}

#[test]
fn the_roofline_is_an_svg_with_a_point_per_product() {
    let dir = tempfile::tempdir().unwrap();
    let figure = dir.path().join("roofline.svg");
    let report = json(&[&LENGTH[..], &["--figure", figure.to_str().unwrap()]].concat());
    let operations = report["workloads"][0]["operations"].as_array().unwrap();
    let multiply = operations
        .iter()
        .filter(|o| o["tflops"].is_number())
        .count();
    let svg = std::fs::read_to_string(&figure).unwrap();
    assert!(
        svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"),
        "{svg}"
    );
    // One dot more stands in the legend.
    assert_eq!(svg.matches("<circle").count(), multiply + 1);
    let message = refused(
        &[&LENGTH[..], &["--figure", "/nonexistent/r.svg"]].concat(),
        5,
    );
    assert!(message.contains("/nonexistent/r.svg"), "{message}");
}

#[test]
fn what_the_cpu_cannot_tell_is_refused_and_not_ignored() {
    let message = refused(&[&LENGTH[..], &["--cold"]].concat(), 2);
    assert!(message.contains("one CUDA device"), "{message}");
    assert!(!Path::new("/nonexistent").exists());
}
