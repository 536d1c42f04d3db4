//! Compiles the kernels in parallel, and only those that changed.

use crate::nvcc::Nvcc;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::{fs, thread};

const OPTIONS: [&str; 8] = [
    "-fatbin",
    "-O3",
    "-std=c++17",
    "-Werror",
    "all-warnings",
    "-lineinfo",
    // Compressed, a fatbin has a third of the size. The driver unpacks what it loads.
    "-Xfatbin",
    "-compress-all",
];

/// Compiles every `.cu` file below a folder. Returns the name and the fatbin of each, sorted by name.
///
/// # Panics
/// Panics with nvcc's messages if a kernel does not compile, and if two files have the same name: the
/// program finds a fatbin by the name of its source alone.
pub fn all(nvcc: &Nvcc, kernels: &Path, out: &Path) -> Vec<(String, PathBuf)> {
    let mut sources = Vec::new();
    collect(kernels, &mut sources);
    sources.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
    for pair in sources.windows(2) {
        let same = pair[0].file_name() == pair[1].file_name();
        assert!(!same, "two kernels have one name: {pair:?}");
    }
    let queue = Mutex::new(sources.iter());
    let failures = Mutex::new(Vec::new());
    let workers = thread::available_parallelism().map_or(2, |n| n.get());
    thread::scope(|scope| {
        for _ in 0..workers.min(sources.len()) {
            scope.spawn(|| {
                loop {
                    let Some(source) = queue.lock().unwrap().next() else {
                        return;
                    };
                    if let Err(message) = one(nvcc, source, out) {
                        failures.lock().unwrap().push(message);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    let name = |source: &Path| source.file_stem().unwrap().to_string_lossy().into_owned();
    sources
        .iter()
        .map(|source| (name(source), fatbin(source, out)))
        .collect()
}

/// Adds the `.cu` files of a folder and of its subfolders.
fn collect(folder: &Path, sources: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, sources);
        } else if path.extension().is_some_and(|e| e == "cu") {
            sources.push(path);
        }
    }
}

fn fatbin(source: &Path, out: &Path) -> PathBuf {
    out.join(source.file_name().unwrap())
        .with_extension("fatbin")
}

fn one(nvcc: &Nvcc, source: &Path, out: &Path) -> Result<(), String> {
    let fatbin = fatbin(source, out);
    let (dependencies, stamp) = (fatbin.with_extension("d"), fatbin.with_extension("stamp"));
    if fatbin.is_file() && fs::read_to_string(&stamp).ok() == state(nvcc, source, &dependencies) {
        return Ok(());
    }
    let output = Command::new(&nvcc.program)
        .args(OPTIONS)
        .args(["-MD", "-MF"])
        .arg(&dependencies)
        .args(nvcc.targets())
        .arg("-o")
        .arg(&fatbin)
        .arg(source)
        .output()
        .map_err(|e| format!("{}: {e}", nvcc.program.display()))?;
    if !output.status.success() {
        let _ = fs::remove_file(&stamp);
        let said = [output.stdout, output.stderr].concat();
        return Err(format!(
            "nvcc could not compile {}:\n{}",
            source.display(),
            String::from_utf8_lossy(&said)
        ));
    }
    fs::write(
        &stamp,
        state(nvcc, source, &dependencies).unwrap_or_default(),
    )
    .map_err(|e| e.to_string())
}

/// Returns a hash of everything that a fatbin was made from: the compiler, its options, the path of
/// the source, and every file that the dependency list names. The result is `None` if one of the
/// files is missing. The path counts because the list has absolute paths: two checkouts that share
/// a target directory must not take each other's fatbins.
fn state(nvcc: &Nvcc, source: &Path, dependencies: &Path) -> Option<String> {
    let list = fs::read_to_string(dependencies).ok()?;
    let (_, files) = list.split_once(':')?;
    let mut hasher = DefaultHasher::new();
    (
        &nvcc.program,
        &nvcc.version,
        nvcc.targets(),
        OPTIONS,
        source,
    )
        .hash(&mut hasher);
    for file in files.split_whitespace().filter(|word| *word != "\\") {
        fs::read(file).ok()?.hash(&mut hasher);
    }
    Some(format!("{:016x}", hasher.finish()))
}
