//! Finds nvcc, and the architectures that it can compile for.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The architectures to compile machine code for. An architecture that nvcc does not know is left
/// out.
const REAL: [&str; 4] = ["80", "89", "90a", "100"];
/// The environment variable that selects some of [`REAL`], separated by commas. Compiling for one
/// architecture is several times faster, which helps while working on kernels. The program then
/// runs on those chips alone.
const CHOICE: &str = "SEQSTREAM_CUDA_ARCHITECTURES";
/// The architecture of the PTX, which the driver compiles for later chips. It is not 90a, whose PTX
/// runs on compute capability 9.0 alone.
const PTX: &str = "90";

/// An nvcc that works.
pub struct Nvcc {
    /// The compiler's file.
    pub program: PathBuf,
    /// The release and version, such as `13.0, V13.0.88`.
    pub version: String,
    /// The architectures of [`REAL`] that are compiled for.
    real: Vec<&'static str>,
    /// Whether PTX is compiled as well.
    ptx: bool,
}

impl Nvcc {
    /// Returns the `-gencode` options. `-arch=sm_90a` would also compile for plain compute_90,
    /// which has no wgmma.
    pub fn targets(&self) -> Vec<String> {
        let real = self.real.iter().flat_map(|a| {
            [
                "-gencode".to_owned(),
                format!("arch=compute_{a},code=sm_{a}"),
            ]
        });
        let ptx = [
            "-gencode".to_owned(),
            format!("arch=compute_{PTX},code=compute_{PTX}"),
        ];
        let ptx = ptx.into_iter().take(if self.ptx { 2 } else { 0 });
        real.chain(ptx).collect()
    }

    /// Returns the names of what the fatbins hold: `sm_80` and so on, and `compute_90` for the PTX.
    pub fn architectures(&self) -> Vec<String> {
        let real = self.real.iter().map(|a| format!("sm_{a}"));
        let ptx = self.ptx.then(|| format!("compute_{PTX}"));
        real.chain(ptx).collect()
    }
}

/// Finds nvcc. The places are searched in this order: `$NVCC` (`none` asks for a build without
/// kernels), `PATH`, `CUDA_HOME`, `CUDA_PATH`, the folder that `scripts/fetch-nvcc` makes inside
/// the project, the usual folders, and the active Python environment, where NVIDIA's packages
/// install it. The error says why there is none.
pub fn find(root: &Path) -> Result<Nvcc, String> {
    // PATH is not in this list: it differs between a shell and an editor, and each of them would
    // rebuild what the other has built.
    for variable in ["NVCC", "CUDA_HOME", "CUDA_PATH", "VIRTUAL_ENV", CHOICE] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    // A path that does not exist would cause a rebuild every time, so the script is watched, which
    // touches itself.
    println!("cargo:rerun-if-changed=scripts/fetch-nvcc");
    let fetched = root.join("third_party/cuda");
    if let Some(chosen) = env::var_os("NVCC") {
        if chosen == "none" {
            return Err("NVCC=none asked for it".into());
        }
        return probe(Path::new(&chosen)).map_err(|e| format!("$NVCC does not work: {e}"));
    }
    let mut candidates: Vec<PathBuf> = Vec::new();
    let path = env::var_os("PATH").unwrap_or_default();
    candidates.extend(env::split_paths(&path).map(|folder| folder.join("nvcc")));
    for variable in ["CUDA_HOME", "CUDA_PATH"] {
        candidates.extend(env::var_os(variable).map(|home| Path::new(&home).join("bin/nvcc")));
    }
    candidates.extend(wheels(&fetched));
    candidates.extend(subfolders(Path::new("/usr/local"), "cuda").map(|f| f.join("bin/nvcc")));
    candidates.push("/opt/cuda/bin/nvcc".into());
    if let Some(venv) = env::var_os("VIRTUAL_ENV") {
        for python in subfolders(&Path::new(&venv).join("lib"), "python") {
            candidates.extend(wheels(&python.join("site-packages")));
        }
    }
    let mut broken = String::new();
    for candidate in candidates.iter().filter(|c| c.is_file()) {
        match probe(candidate) {
            Ok(nvcc) => return Ok(nvcc),
            Err(reason) => broken = format!(" ({reason})"),
        }
    }
    Err(format!(
        "no nvcc found{broken}; scripts/fetch-nvcc fetches one into this folder, or set NVCC or CUDA_HOME"
    ))
}

/// Returns nvcc in the layout of NVIDIA's wheels below a site-packages folder:
/// `nvidia/cu13/bin/nvcc`.
fn wheels(site_packages: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    subfolders(&site_packages.join("nvidia"), "cu").map(|f| f.join("bin/nvcc"))
}

/// Returns the folders whose names start with `start`, last name first, so that the newest version
/// comes first.
fn subfolders(folder: &Path, start: &str) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let named = entries.filter(|e| e.file_name().to_string_lossy().starts_with(start));
    let mut found: Vec<_> = named.map(|e| e.path()).collect();
    found.sort();
    found.into_iter().rev()
}

fn run(program: &Path, option: &str) -> Result<String, String> {
    let failed = |e: &dyn std::fmt::Display| format!("{} {option}: {e}", program.display());
    let output = Command::new(program)
        .arg(option)
        .output()
        .map_err(|e| failed(&e))?;
    if !output.status.success() {
        return Err(failed(&String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn probe(program: &Path) -> Result<Nvcc, String> {
    let said = run(program, "--version")?;
    // The line reads "Cuda compilation tools, release 13.0, V13.0.88".
    let version = said
        .lines()
        .find_map(|line| line.split_once("release "))
        .map(|(_, version)| version.trim().to_owned())
        .ok_or_else(|| format!("{} --version says no release", program.display()))?;
    let known = run(program, "--list-gpu-code")?;
    let chosen = env::var(CHOICE).ok().filter(|list| !list.is_empty());
    let wanted = |a: &&str| {
        let list = chosen.as_deref();
        list.is_none_or(|list| list.split(',').any(|c| c.trim() == *a))
    };
    let real = REAL
        .into_iter()
        .filter(wanted)
        .filter(|a| {
            // sm_90a is sm_90 with features of that chip alone, and nvcc does not list it
            // separately.
            let listed = format!("sm_{}", a.trim_end_matches('a'));
            known.lines().any(|line| line.trim() == listed)
        })
        .collect();
    Ok(Nvcc {
        program: program.to_owned(),
        version,
        real,
        ptx: chosen.is_none(),
    })
}
