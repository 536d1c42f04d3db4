//! Tables of GEMM algorithms that were changed.

use serde_json::Value;
use std::ops::Range;

/// Returns the position of the first algorithm's second word in a table as text: the algorithm's
/// index in the simulator's list (cuda-sim/src/cublaslt_algorithms.rs).
pub fn place_in(json: &str) -> Range<usize> {
    let digits = json.find("\"algorithm\": \"").unwrap() + 14;
    digits + 16..digits + 32
}

/// Returns the table with the digest that matches its content, as a careful forger would make it.
pub fn sealed(json: &str) -> String {
    let mut value: Value = serde_json::from_str(json).unwrap();
    let table = value["table"].to_string();
    value["digest"] = blake3::hash(table.as_bytes()).to_hex().as_str().into();
    format!("{value:#}\n")
}

/// Returns the table with another algorithm for every product: an algorithm that may be used as
/// well, but that timing would not choose.
#[allow(dead_code)] // used by `cli` only
pub fn with_others(json: &str) -> String {
    let mut value: Value = serde_json::from_str(json).unwrap();
    let products = value["table"]["products"].as_object_mut().unwrap();
    assert!(!products.is_empty());
    for product in products.values_mut() {
        let mut digits = product["algorithm"].as_str().unwrap().to_owned();
        let other = match digits.as_bytes()[31] {
            b'7' => '6',
            _ => '7',
        };
        digits.replace_range(31..32, &other.to_string());
        product["algorithm"] = digits.into();
    }
    sealed(&value.to_string())
}

/// Returns the table without one of its products.
#[allow(dead_code)] // used by `cli` only
pub fn without_one(json: &str) -> String {
    let mut value: Value = serde_json::from_str(json).unwrap();
    let products = value["table"]["products"].as_object_mut().unwrap();
    let first = products.keys().next().unwrap().clone();
    products.shift_remove(&first);
    sealed(&value.to_string())
}
