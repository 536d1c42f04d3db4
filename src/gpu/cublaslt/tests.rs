//! Tests the table of algorithms and its cache, without a device.

use super::GemmError;
use super::Kind;
use super::ProductSpec;
use super::Refusal;
use super::WHOLE;
use super::algorithm::{Algorithm, Algorithms, Asking, Machine};
use super::bindings as sys;
use super::cache::Cache;
use super::library::version_text;
use super::table::AlgorithmTable;
use super::table::Table;
use crate::dtype::DType;
use std::fs;
use std::time::Duration;

const HERE: Machine = Machine {
    capability: (9, 0),
    cublaslt: 130_002,
};
const DEVICE: &str = "NVIDIA H100 80GB HBM3";

const ASKING: Asking<'static> = Asking {
    machine: HERE,
    device_name: DEVICE,
    ordinal: 0,
};

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
    algorithms.get(spec, ASKING, |_| Ok(None), || Ok(algorithm(seed)))
}

/// Returns the algorithms of a job that continues with those of `algorithms`.
fn imposed(algorithms: &Algorithms) -> Algorithms {
    let text = algorithms.table().unwrap().to_json();
    Algorithms::imposed(AlgorithmTable::parse(&text).unwrap(), "the table T".into())
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
        // A GEMM's algorithm is chosen once.
        assert_eq!(get(&algorithms, &spec(n), 99).unwrap(), algorithm(n as u64));
        prints.push(algorithms.fingerprint());
    }
    prints.dedup();
    assert_eq!(prints.len(), 3);
    let given = imposed(&algorithms);
    assert_eq!(get(&given, &spec(16), 99).unwrap(), algorithm(16));
    // The fingerprint covers the part of a table that is in use.
    assert_ne!(given.fingerprint(), algorithms.fingerprint());
    let part = given.table().unwrap();
    assert!(part.is_part_of(&algorithms.table().unwrap()));
    assert!(!algorithms.table().unwrap().is_part_of(&part));
    for n in [8, 24] {
        assert_eq!(get(&given, &spec(n), 99).unwrap(), algorithm(n as u64));
    }
    assert_eq!(given.fingerprint(), algorithms.fingerprint());
    assert_eq!(given.table(), algorithms.table());
    let error = get(&given, &spec(32), 99).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the table T cannot be used on device 0: it has no algorithm for the product f16 32x64 store bias"
    );
    assert!(
        error
            .remedy()
            .unwrap()
            .to_string()
            .contains("another model, dtype")
    );
    // Nothing was chosen in place of the missing algorithm.
    assert_eq!(given.table(), algorithms.table());
    // The order in which GEMMs were asked for plays no part.
    let other = Algorithms::new(None);
    for n in [24, 8, 16] {
        get(&other, &spec(n), n as u64).unwrap();
    }
    assert_eq!(other.fingerprint(), algorithms.fingerprint());
    // A table of another library version, capability or device is refused.
    let table = algorithms.table().unwrap();
    let machine = |capability, cublaslt| Machine {
        capability,
        cublaslt,
    };
    for (of, device, says) in [
        (machine((9, 0), 120_805), DEVICE, "12.8.5"),
        (machine((8, 0), 130_002), DEVICE, "capability 8.0"),
        (HERE, "NVIDIA H200", "NVIDIA H200"),
    ] {
        let mut table = table.clone();
        table.table.machine = of;
        table.device = device.into();
        let elsewhere = Algorithms::imposed(table, "the table T".into());
        let error = elsewhere
            .admit(Asking {
                ordinal: 3,
                ..ASKING
            })
            .unwrap_err();
        let text = error.to_string();
        let here = "and here is NVIDIA H100 80GB HBM3, cuBLASLt 13.0.2 on compute capability 9.0";
        for part in ["the table T", "device 3", says, here] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(
            error
                .remedy()
                .unwrap()
                .to_string()
                .contains("SEQSTREAM_LIBCUBLASLT")
        );
        let refusal = matches!(
            error,
            GemmError::Imposed {
                refusal: Refusal::Machine { .. },
                ..
            }
        );
        assert!(refusal && error.is_refused_table());
    }
    assert!(imposed(&algorithms).admit(ASKING).is_ok());
}

/// A job that was begun with other chains has other bits, so it is not resumed.
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
    // Chains have near-equal length.
    assert_eq!(name(512), "f32 8x1280 store bias in 448s");
    let algorithms = Algorithms::new(None);
    get(&algorithms, &of(256), 1).unwrap();
    assert!(get(&imposed(&algorithms), &of(128), 1).is_err());
    let other = Algorithms::new(None);
    get(&other, &of(128), 1).unwrap();
    assert_ne!(other.fingerprint(), algorithms.fingerprint());
}

#[test]
fn what_is_no_table_is_refused() {
    let good = AlgorithmTable {
        device: DEVICE.into(),
        table: Table {
            machine: HERE,
            products: [("f16 8x8 store".to_owned(), algorithm(3))].into(),
        },
    };
    let json = good.to_json();
    assert_eq!(AlgorithmTable::parse(&json).unwrap(), good);
    assert!(json.contains(&format!("\"digest\": \"{}", good.fingerprint())));
    let digits = json.find("\"algorithm\": \"").unwrap() + 14;
    let with =
        |begin: &str, skip: usize| format!("{}{begin}{}", &json[..digits], &json[digits + skip..]);
    assert_eq!(with("", 0), json);
    let replaced = |from: &str, to: &str| {
        assert!(json.contains(from), "{from}");
        json.replacen(from, to, 1)
    };
    for (bad, says) in [
        ("", "EOF"),
        ("[]", "invalid"),
        ("{\"table\": {}}", "missing field `format`"),
        (
            &replaced("\"format\": 1", "\"format\": 2"),
            "its format is 2",
        ),
        (&replaced("\"workspace\": 3", "\"workspace\": 4"), "digest"),
        (&replaced("130002", "130003"), "digest"),
        (
            &replaced("\"workspace\": 3", "\"workspace\": 99999999999"),
            "bytes of workspace",
        ),
        (
            &replaced("\"workspace\": 3", "\"workspace\": 3, \"more\": 1"),
            "unknown field",
        ),
        (&json[..json.len() / 2], "EOF"),
        (&with("0", 0), "128 hexadecimal digits"),
        (&with("+", 1), "128 hexadecimal digits"),
        (&with("x", 1), "128 hexadecimal digits"),
    ] {
        let error = AlgorithmTable::parse(bad).unwrap_err();
        assert!(matches!(error, GemmError::Table(_)), "{bad}: {error}");
        assert!(error.to_string().contains(says), "{bad}: {error}");
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
    // Two jobs choose at once: the second finds the choice of the first when it keeps its own.
    let cache = Cache::new(&folder, DEVICE, HERE);
    let third = Algorithms::new(Some(folder.clone()));
    let chosen = third.get(
        &spec(16),
        ASKING,
        |_| Ok(None),
        || {
            cache
                .add(&spec(16).to_string(), &algorithm(5), false)
                .unwrap();
            Ok(algorithm(6))
        },
    );
    assert_eq!(chosen.unwrap(), algorithm(5));
    // A kept algorithm that does not serve is replaced.
    let fourth = Algorithms::new(Some(folder.clone()));
    let refuse = |known: &Algorithm| Ok((*known == algorithm(5)).then(|| "no".to_owned()));
    let chosen = fourth.get(&spec(16), ASKING, refuse, || Ok(algorithm(7)));
    assert_eq!(chosen.unwrap(), algorithm(7));
    assert_eq!(fourth.take_warnings().len(), 1);
    assert_eq!(cache.read().unwrap()[&spec(16).to_string()], algorithm(7));
    // Another kind of device has another file.
    let other = Algorithms::new(Some(folder));
    let chosen = other.get(
        &spec(8),
        Asking {
            device_name: "NVIDIA H200",
            ..ASKING
        },
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
        let warnings = algorithms.take_warnings();
        assert!(!warnings.is_empty());
        // The warning is given once, whatever else is chosen.
        get(&algorithms, &spec(16), 3).unwrap();
        assert_eq!(algorithms.take_warnings(), [""; 0]);
        assert_eq!(algorithms.table().unwrap().table.products.len(), 2);
    }
}

/// If a process holds the lock too long, waiting ends with a warning; if it holds the lock for a
/// moment, it is waited for.
#[test]
fn the_lock_is_waited_for_with_a_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let cache = || Cache::new(folder.path(), DEVICE, HERE);
    cache().add("first", &algorithm(1), false).unwrap();
    let path = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|e| e == "lock"))
        .unwrap();
    let lock = fs::File::open(&path).unwrap();
    lock.lock().unwrap();
    let hasty = cache().patient(Duration::from_millis(50));
    let warning = hasty.add("second", &algorithm(2), false).unwrap_err();
    for part in [
        "cannot be kept",
        "another process, which may be stopped, has held",
        &path.display().to_string(),
        "50ms",
    ] {
        assert!(warning.contains(part), "{warning}");
    }
    // The kept choices can still be read.
    assert_eq!(hasty.read().unwrap().len(), 1);
    std::thread::scope(|scope| {
        let patient = cache().patient(Duration::from_secs(600));
        let adding = scope.spawn(move || patient.add("second", &algorithm(2), false));
        lock.unlock().unwrap();
        assert_eq!(adding.join().unwrap().unwrap(), algorithm(2));
    });
}

/// Opening a pipe would wait until another process opens its other end.
#[cfg(unix)]
#[test]
fn what_is_no_file_is_never_opened() {
    let pipe = |path: &std::path::Path| {
        let made = std::process::Command::new("mkfifo").arg(path).status();
        assert!(made.unwrap().success());
    };
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path(), DEVICE, HERE);
    cache.add("first", &algorithm(1), false).unwrap();
    let path = |end: &str| {
        let entries = fs::read_dir(folder.path()).unwrap();
        let mut paths = entries.map(|entry| entry.unwrap().path());
        let found = paths.find(|path| path.extension().is_some_and(|e| e == "lock"));
        found.unwrap().with_extension(end)
    };
    let (file, lock, partial) = (path("json"), path("lock"), path("partial"));
    // If the file itself is a pipe, there is a warning, and it is replaced where that is possible.
    fs::remove_file(&file).unwrap();
    pipe(&file);
    let warning = cache.read().unwrap_err();
    assert!(warning.contains("it is a named pipe"), "{warning}");
    assert!(warning.contains(&file.display().to_string()), "{warning}");
    pipe(&partial);
    cache.add("second", &algorithm(2), false).unwrap();
    assert_eq!(cache.read().unwrap().len(), 1);
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert!(cache.read().unwrap_err().contains("it is a directory"));
    assert!(cache.add("third", &algorithm(3), false).is_err());
    fs::remove_dir(&file).unwrap();
    // The lock is a pipe.
    fs::remove_file(&lock).unwrap();
    pipe(&lock);
    let warning = cache.add("third", &algorithm(3), false).unwrap_err();
    assert!(warning.contains("it is a named pipe"), "{warning}");
    assert!(warning.contains(&lock.display().to_string()), "{warning}");
}

#[test]
fn versions_read_as_the_library_writes_them() {
    assert_eq!(version_text(130_002), "13.0.2");
    assert_eq!(version_text(120_805), "12.8.5");
}
