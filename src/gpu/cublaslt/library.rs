//! Finds cuBLASLt and opens it.

use super::bindings::CublasLt;
use super::error::GemmError;
use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

/// The library's file names in the order of preference. The last name is the one that a toolkit's
/// development files use.
const NAMES: [&str; 3] = ["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"];
/// The oldest version whose behaviour this code was written for: 12.0.
const OLDEST: usize = 12_00_00;

/// An opened library. It is never closed, since the driver state that it holds outlives every
/// handle.
pub(super) struct Library {
    /// The library's functions.
    pub lt: CublasLt,
    /// The file that it was opened from.
    pub path: String,
    /// The version as `cublasLtGetVersion` returns it: 130002 for 13.0.2.
    pub version: usize,
}

/// Writes a version such as 130002 as 13.0.2.
pub(super) fn version_text(version: usize) -> String {
    format!(
        "{}.{}.{}",
        version / 10_000,
        version / 100 % 100,
        version % 100
    )
}

static CHOSEN: OnceLock<PathBuf> = OnceLock::new();

/// Makes a file the only place that is searched for cuBLASLt. A file that was chosen before stays.
pub fn choose(path: &Path) {
    CHOSEN.get_or_init(|| path.to_owned());
}

static MORE_FOLDERS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Adds a folder that is searched for cuBLASLt, before the folders that are found without it. A
/// program that is part of a Python knows where NVIDIA's wheels are, whichever environment is
/// activated.
pub fn look_in(folder: &Path) {
    // The list holds whole entries only, so a panic elsewhere leaves it valid.
    let mut more = MORE_FOLDERS.lock().unwrap_or_else(PoisonError::into_inner);
    more.push(folder.to_owned());
}

/// Opens cuBLASLt, or returns the library that is open already. If [`choose`] or
/// `$SEQSTREAM_LIBCUBLASLT` names a file, no other place is searched.
///
/// # Errors
/// [`GemmError::Missing`] if there is none, and [`GemmError::Library`] if it cannot be used.
pub(super) fn open() -> Result<&'static Library, GemmError> {
    let mut tried = Vec::new();
    let chosen = CHOSEN.get().map(|path| path.clone().into_os_string());
    let named = || env::var_os("SEQSTREAM_LIBCUBLASLT").filter(|v| !v.is_empty());
    if let Some(path) = chosen.or_else(named) {
        return match open_one(&path, &mut tried)? {
            Some(library) => Ok(library),
            None => {
                tried.push("and no other, since SEQSTREAM_LIBCUBLASLT names it".into());
                Err(GemmError::Missing { tried })
            }
        };
    }
    let folders = folders();
    for name in NAMES {
        if let Some(library) = open_one(OsStr::new(name), &mut tried)? {
            return Ok(library);
        }
        for file in folders.iter().map(|folder| folder.join(name)) {
            if file.is_file()
                && let Some(library) = open_one(file.as_os_str(), &mut tried)?
            {
                return Ok(library);
            }
        }
    }
    let folders = folders.iter().map(|folder| folder.display().to_string());
    let folders: Vec<String> = folders.collect();
    tried.push(match folders.is_empty() {
        true => "and no folder of a CUDA toolkit or of NVIDIA's Python packages is there".into(),
        false => format!("in {}", folders.join(", ")),
    });
    Err(GemmError::Missing { tried })
}

/// Opens one file or name. The result is `None` if it does not exist or cannot be loaded, which is
/// then noted in `tried`.
fn open_one(path: &OsStr, tried: &mut Vec<String>) -> Result<Option<&'static Library>, GemmError> {
    static OPEN: Mutex<Vec<&'static Library>> = Mutex::new(Vec::new());
    // The list holds finished entries only, so a panic elsewhere leaves it whole.
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let name = path.to_string_lossy().into_owned();
    if let Some(library) = open.iter().find(|library| library.path == name) {
        return Ok(Some(library));
    }
    // SAFETY: loading runs the library's constructors. The file is cuBLASLt by its name, or by the
    // word of the user.
    let file = match unsafe { libloading::Library::new(path) } {
        Ok(file) => file,
        Err(error) => {
            let there = Path::new(path).is_file();
            tried.push(if there { said(&error) } else { name });
            return Ok(None);
        }
    };
    let refused = |reason: String| GemmError::Library {
        path: name.clone(),
        reason,
    };
    // SAFETY: the symbols have the types of cuBLASLt's header, from which the bindings are
    // generated.
    let lt = unsafe { CublasLt::from_library(file) }.map_err(|e| {
        refused(format!(
            "it is not a cuBLASLt that is known here: {}",
            said(&e)
        ))
    })?;
    // SAFETY: the call has no preconditions.
    let version = unsafe { lt.cublasLtGetVersion() };
    if version < OLDEST {
        let (has, wants) = (version_text(version), version_text(OLDEST));
        return Err(refused(format!("it is {has}, and {wants} is the oldest")));
    }
    let library = Box::leak(Box::new(Library {
        lt,
        path: name,
        version,
    }));
    open.push(library);
    Ok(Some(library))
}

/// Returns the dynamic linker's message.
fn said(error: &libloading::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => cause.to_string(),
        None => error.to_string(),
    }
}

/// Returns the existing folders that may hold the library on machines whose dynamic linker does not
/// know it: those of CUDA toolkits, and those of NVIDIA's wheels for each Python in use.
fn folders() -> Vec<PathBuf> {
    let more = MORE_FOLDERS.lock().unwrap_or_else(PoisonError::into_inner);
    let mut folders = more.clone();
    drop(more);
    for variable in ["CUDA_HOME", "CUDA_PATH"] {
        let Some(root) = env::var_os(variable).filter(|v| !v.is_empty()) else {
            continue;
        };
        folders.push(PathBuf::from(root).join("lib64"));
    }
    folders.push("/usr/local/cuda/lib64".into());
    for toolkit in below(Path::new("/usr/local"), "cuda-").into_iter().rev() {
        folders.push(toolkit.join("lib64"));
    }
    folders.push("/opt/cuda/lib64".into());
    let mut roots: Vec<PathBuf> = ["VIRTUAL_ENV", "CONDA_PREFIX"]
        .iter()
        .filter_map(env::var_os)
        .filter(|v| !v.is_empty())
        .map(PathBuf::from)
        .collect();
    folders.extend(roots.iter().map(|root| root.join("lib")));
    if let Some(path) = env::var_os("PATH") {
        // Each entry of PATH with a python3 in it is `<root>/bin`.
        roots.extend(
            env::split_paths(&path)
                .filter(|bin| bin.join("python3").is_file())
                .filter_map(|bin| Some(bin.parent()?.to_owned())),
        );
    }
    roots.push("/usr/local".into());
    roots.extend(env::var_os("HOME").map(|home| PathBuf::from(home).join(".local")));
    for root in roots {
        for python in below(&root.join("lib"), "python3") {
            for packages in ["site-packages", "dist-packages"] {
                for wheel in ["nvidia/cu13/lib", "nvidia/cublas/lib"] {
                    folders.push(python.join(packages).join(wheel));
                }
            }
        }
    }
    folders.retain(|folder| folder.is_dir());
    let mut once = Vec::new();
    for folder in folders {
        if !once.contains(&folder) {
            once.push(folder);
        }
    }
    once
}

/// Returns the entries of a folder whose names start with `begin`, sorted by name.
fn below(folder: &Path, begin: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(begin))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}
