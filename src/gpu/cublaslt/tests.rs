//! The table of algorithms and its cache, without a device.

use super::algorithm::{Algorithm, Algorithms, Machine, Table};
use super::bindings as sys;
use super::cache::Cache;
use super::library::version_text;
use super::{GemmError, Kind, ProductSpec, WHOLE};
use crate::dtype::DType;
use std::fs;

const HERE: Machine = Machine {
    capability: (9, 0),
    cublaslt: 130_002,
};
const DEVICE: &str = "NVIDIA H100 80GB HBM3";

fn algorithm(seed: u64) -> Algorithm {
    let data = std::array::from_fn(|i| seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> i);
    Algorithm::new(&sys::cublasLtMatmulAlgo_t { data }, seed as usize)
}

fn spec(outputs: usize) -> ProductSpec {
    ProductSpec {
        outputs,
        inputs: 64,
        dtype: DType::F16,
        kind: Kind::Store,
        bias: true,
        chain: WHOLE,
    }
}

fn get(algorithms: &Algorithms, spec: &ProductSpec, seed: u64) -> Result<Algorithm, GemmError> {
    algorithms.get(
        spec,
        (HERE, DEVICE, 0),
        |_| Ok(None),
        || Ok(algorithm(seed)),
    )
}

#[test]
fn a_table_survives_being_written_and_decides_the_fingerprint() {
    let algorithms = Algorithms::new(None);
    assert_eq!(algorithms.fingerprint(), "none");
    let mut prints = Vec::new();
    for n in [8, 16, 24] {
        assert_eq!(
            get(&algorithms, &spec(n), n as u64).unwrap(),
            algorithm(n as u64)
        );
        // Chosen once.
        assert_eq!(get(&algorithms, &spec(n), 99).unwrap(), algorithm(n as u64));
        prints.push(algorithms.fingerprint());
    }
    prints.dedup();
    assert_eq!(prints.len(), 3);
    let json = algorithms.to_json().unwrap();
    let imposed = Algorithms::imposed(&json).unwrap();
    assert_eq!(imposed.fingerprint(), algorithms.fingerprint());
    assert_eq!(get(&imposed, &spec(16), 99).unwrap(), algorithm(16));
    let missing = get(&imposed, &spec(32), 99).unwrap_err().to_string();
    assert!(missing.contains("f16 32x64 store bias"), "{missing}");
    // The order in which products were asked for plays no part.
    let other = Algorithms::new(None);
    for n in [24, 8, 16] {
        get(&other, &spec(n), n as u64).unwrap();
    }
    assert_eq!(other.fingerprint(), algorithms.fingerprint());
    // Another version, another print, and no such job here.
    let elsewhere = json.replace("130002", "120805");
    let elsewhere = Algorithms::imposed(&elsewhere).unwrap();
    assert_ne!(elsewhere.fingerprint(), algorithms.fingerprint());
    let error = elsewhere.admit(HERE, 3).unwrap_err();
    for part in ["device 3", "12.8.5", "13.0.2"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert!(error.hint().is_some());
}

/// A job that was begun with other chains, whose bits are others, is not resumed.
#[test]
fn the_length_of_chains_is_part_of_a_product_s_name() {
    let of = |chain| ProductSpec {
        inputs: 1280,
        dtype: DType::F32,
        chain,
        ..spec(8)
    };
    let name = |chain| of(chain).to_string();
    assert_eq!(name(WHOLE), "f32 8x1280 store bias");
    assert_eq!(name(1280), "f32 8x1280 store bias");
    assert_eq!(name(256), "f32 8x1280 store bias in 256s");
    // Of near-equal length.
    assert_eq!(name(512), "f32 8x1280 store bias in 448s");
    let algorithms = Algorithms::new(None);
    get(&algorithms, &of(256), 1).unwrap();
    let begun = algorithms.to_json().unwrap();
    let resumed = Algorithms::imposed(&begun).unwrap();
    assert!(get(&resumed, &of(128), 1).is_err());
    let other = Algorithms::new(None);
    get(&other, &of(128), 1).unwrap();
    assert_ne!(other.fingerprint(), algorithms.fingerprint());
}

#[test]
fn what_is_no_table_is_refused() {
    let good = Table {
        machine: HERE,
        products: [("f16 8x8 store".to_owned(), algorithm(3))].into(),
    };
    assert!(Algorithms::imposed(&good.to_json()).is_ok());
    let json = good.to_json();
    let digits = json.find("\"algorithm\":\"").unwrap() + 13;
    let with =
        |begin: &str, skip: usize| format!("{}{begin}{}", &json[..digits], &json[digits + skip..]);
    assert_eq!(with("", 0), json);
    for bad in [
        "",
        "[]",
        &json.replace("\"workspace\":3", "\"workspace\":99999999999"),
        &json.replace("\"workspace\":3", "\"workspace\":3,\"more\":1"),
        &with("0", 0),
        &with("+", 1),
        &with("x", 1),
    ] {
        assert!(
            matches!(Algorithms::imposed(bad), Err(GemmError::Table(_))),
            "{bad}"
        );
    }
}

#[test]
fn choices_are_kept_for_the_next_process_and_the_first_stands() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("made").join("when needed");
    let first = Algorithms::new(Some(folder.clone()));
    assert_eq!(get(&first, &spec(8), 1).unwrap(), algorithm(1));
    let second = Algorithms::new(Some(folder.clone()));
    assert_eq!(
        get(&second, &spec(8), 2).unwrap(),
        algorithm(1),
        "from disk"
    );
    assert_eq!(second.fingerprint(), first.fingerprint());
    // Two that choose at once: the second finds the first's when it comes to keep its own.
    let cache = Cache::new(&folder, DEVICE, HERE);
    let third = Algorithms::new(Some(folder.clone()));
    let chosen = third.get(
        &spec(16),
        (HERE, DEVICE, 0),
        |_| Ok(None),
        || {
            cache
                .add(&spec(16).to_string(), &algorithm(5), false)
                .unwrap();
            Ok(algorithm(6))
        },
    );
    assert_eq!(chosen.unwrap(), algorithm(5));
    // One that does not serve is replaced.
    let fourth = Algorithms::new(Some(folder.clone()));
    let refuse = |known: &Algorithm| Ok((*known == algorithm(5)).then(|| "no".to_owned()));
    let chosen = fourth.get(&spec(16), (HERE, DEVICE, 0), refuse, || Ok(algorithm(7)));
    assert_eq!(chosen.unwrap(), algorithm(7));
    assert_eq!(fourth.take_warnings().len(), 1);
    assert_eq!(cache.read().unwrap()[&spec(16).to_string()], algorithm(7));
    // Another kind of device has another file.
    let other = Algorithms::new(Some(folder));
    let chosen = other.get(
        &spec(8),
        (HERE, "NVIDIA H200", 0),
        |_| Ok(None),
        || Ok(algorithm(9)),
    );
    assert_eq!(chosen.unwrap(), algorithm(9));
    for algorithms in [first, second, third, other] {
        assert_eq!(algorithms.take_warnings(), [""; 0]);
    }
}

#[test]
fn many_at_once_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let stood = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8u64)
            .map(|i| {
                let folder = folder.path();
                scope.spawn(move || {
                    let cache = Cache::new(folder, DEVICE, HERE);
                    cache
                        .add(&format!("own {i}"), &algorithm(i), false)
                        .unwrap();
                    cache.add("shared", &algorithm(100 + i), false).unwrap()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect::<Vec<_>>()
    });
    assert!(stood.iter().all(|algorithm| *algorithm == stood[0]));
    let kept = Cache::new(folder.path(), DEVICE, HERE).read().unwrap();
    assert_eq!(kept.len(), 9);
    assert_eq!(kept["shared"], stood[0]);
}

#[test]
fn a_damaged_file_is_warned_of_and_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path(), DEVICE, HERE);
    cache
        .add("f16 8x64 store bias", &algorithm(1), false)
        .unwrap();
    let file = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|e| e == "json"))
        .unwrap();
    let whole = fs::read_to_string(&file).unwrap();
    let flipped = whole.replace("\"workspace\": 1", "\"workspace\": 2");
    assert_ne!(flipped, whole);
    let damaged = [
        "",
        "{",
        &whole[..whole.len() / 2],
        &whole.replace("\"format\": 1", "\"format\": 2"),
        &whole.replace("NVIDIA H100", "NVIDIA H200"),
        &whole.replace("130002", "130003"),
        &flipped,
    ];
    for text in damaged {
        fs::write(&file, text).unwrap();
        let algorithms = Algorithms::new(Some(folder.path().to_owned()));
        assert_eq!(
            get(&algorithms, &spec(8), 2).unwrap(),
            algorithm(2),
            "{text}"
        );
        let warnings = algorithms.take_warnings();
        assert_eq!(warnings.len(), 1, "{text}: {warnings:?}");
        assert!(warnings[0].contains(&file.display().to_string()));
        assert_eq!(cache.read().unwrap().len(), 1, "replaced");
    }
}

#[test]
fn a_folder_that_cannot_be_written_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let taken = folder.path().join("a file");
    fs::write(&taken, "").unwrap();
    for folder in [taken.clone(), taken.join("below")] {
        let algorithms = Algorithms::new(Some(folder));
        assert_eq!(get(&algorithms, &spec(8), 2).unwrap(), algorithm(2));
        assert!(!algorithms.take_warnings().is_empty());
    }
}

#[test]
fn versions_read_as_the_library_writes_them() {
    assert_eq!(version_text(130_002), "13.0.2");
    assert_eq!(version_text(120_805), "12.8.5");
}
