//! Tables of GEMM algorithms that somebody has changed.
#![allow(dead_code)] // not every program uses all of it

use serde_json::Value;
use std::ops::Range;

/// Where in a table as text the first algorithm's second word stands: its place in the simulator's list
/// (cuda-sim/src/cublaslt_algorithms.rs).
pub fn place_in(json: &str) -> Range<usize> {
    let digits = json.find("\"algorithm\": \"").unwrap() + 14;
    digits + 16..digits + 32
}

/// The table with the digest that belongs to its content, as a careful forger makes it.
pub fn sealed(json: &str) -> String {
    let mut value: Value = serde_json::from_str(json).unwrap();
    let table = value["table"].to_string();
    value["digest"] = blake3::hash(table.as_bytes()).to_hex().as_str().into();
    format!("{value:#}\n")
}

/// The table with another algorithm for every product: one that may be used as well, and that timing would not choose.
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

/// The table without one of its products.
pub fn without_one(json: &str) -> String {
    let mut value: Value = serde_json::from_str(json).unwrap();
    let products = value["table"]["products"].as_object_mut().unwrap();
    let first = products.keys().next().unwrap().clone();
    products.shift_remove(&first);
    sealed(&value.to_string())
}
