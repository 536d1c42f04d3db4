//! The program itself, run on small random models and made-up sequences.

pub mod jobs;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use seqstream::architecture::ModelConfig;
use seqstream::dtype::DType;
use seqstream::weights::random::write_random;

/// Returns a command that runs the program.
pub fn seqstream() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_seqstream"));
    command.stdin(Stdio::null()).env_remove("NO_COLOR");
    command
}

/// A directory with a model and sequences in it, and the devices on which its jobs compute.
pub struct Place {
    dir: tempfile::TempDir,
    device: Option<&'static str>,
    environment: Vec<(&'static str, OsString)>,
}

impl Place {
    /// Makes a place with an ESM-2 of two layers, and `n` proteins in `in.fa`.
    pub fn new(n: usize) -> Self {
        let place = Self {
            dir: tempfile::tempdir().unwrap(),
            device: None,
            environment: vec![],
        };
        place.model("model", ModelConfig::esm2(2, 32, 4), 1);
        std::fs::write(place.path("in.fa"), fasta(n)).unwrap();
        place
    }

    /// Lets the place's jobs compute on this many devices of a driver; `library` is also used as
    /// cuBLASLt.
    pub fn on_cuda(self, library: &Path, devices: u32) -> Self {
        let mut place = self.on_gpus();
        place.environment.extend([
            ("SEQSTREAM_LIBCUDA", library.into()),
            ("SEQSTREAM_LIBCUBLASLT", library.into()),
            ("SEQSTREAM_SIM_DEVICES", devices.to_string().into()),
        ]);
        place
    }

    /// Lets the place's jobs compute on all GPUs of this machine.
    pub fn on_gpus(mut self) -> Self {
        self.device = Some("cuda");
        self.environment = vec![("SEQSTREAM_CACHE", self.path("cache").into())];
        self
    }

    /// Writes a random model.
    pub fn model(&self, name: &str, config: ModelConfig, seed: u64) {
        write_random(&config.into(), seed, DType::F32, &self.path(name)).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Changes the values of the model, tensor by tensor.
    pub fn change_model(&self, mut change: impl FnMut(&str, &mut [f32])) {
        let path = self.path("model/model.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        let (header, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        for (name, info) in metadata.tensors() {
            let (start, end) = info.data_offsets;
            let data = &mut bytes[8 + header..][start..end];
            let mut values = floats(data);
            change(&name, &mut values);
            data.copy_from_slice(
                &values
                    .iter()
                    .flat_map(|v| v.to_le_bytes())
                    .collect::<Vec<_>>(),
            );
        }
        std::fs::write(path, bytes).unwrap();
    }

    /// Returns a command, run in this directory, that finds the devices of this place.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).env_remove("NO_COLOR");
        command.current_dir(self.dir.path());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Returns `seqstream embed in.fa --model model --out OUT OPTIONS`, run in this directory.
    pub fn embed(&self, out: &str, options: &str) -> Command {
        self.embed_from("in.fa", out, options)
    }

    /// Like `embed`, for another input.
    pub fn embed_from(&self, input: &str, out: &str, options: &str) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_seqstream"));
        command.args(["embed", input, "--model", "model", "--out", out]);
        let defaults = [
            ("--threads", Some("1")),
            ("--shard-size", Some("16")),
            ("--device", self.device),
        ];
        let options: Vec<&str> = options.split_whitespace().collect();
        for (name, value) in defaults {
            if let (Some(value), false) = (value, options.contains(&name)) {
                command.args([name, value]);
            }
        }
        command.args(options);
        command
    }

    /// Runs `embed`, which must succeed; returns the JSON summary.
    #[track_caller]
    pub fn embed_ok(&self, out: &str, options: &str) -> serde_json::Value {
        let output = self.embed(out, options).arg("--json").output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs `embed`, which must fail with this code and print these texts, with a hint as the last
    /// line.
    #[track_caller]
    pub fn embed_fails(&self, out: &str, options: &str, code: i32, says: &[&str]) {
        fails(self.embed(out, options), code, says);
    }
}

/// Runs a command that must fail with this code, print these texts, and give a hint.
#[track_caller]
pub fn fails(mut command: Command, code: i32, says: &[&str]) {
    let output = command.output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for part in says {
        assert!(text.contains(part), "\"{part}\" is not in: {text}");
    }
    assert!(text.contains("hint: "), "{text}");
    assert!(!text.contains("panicked"), "{text}");
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Waits until `path` exists; the child must not end before.
#[track_caller]
pub fn wait_for(path: &Path, child: &mut Child) {
    wait_until(&path.display().to_string(), child, || path.exists());
}

/// Waits until `there` says that `what` is there; the child must not end before.
#[track_caller]
pub fn wait_until(what: &str, child: &mut Child, there: impl Fn() -> bool) {
    // The deadline is much longer than needed; it turns a hang into a failure.
    let deadline = Instant::now() + Duration::from_secs(120);
    while !there() {
        assert!(Instant::now() < deadline, "{what} does not come");
        assert!(
            child.try_wait().unwrap().is_none(),
            "ended before {what} was there"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Returns the directory in which a job is writing a shard, or has left it unfinished.
pub fn partial(out: &Path, block: u64) -> Option<PathBuf> {
    let begins = format!(".shard-{block:06}.");
    // Before the job has begun there is no such directory.
    let mut entries = std::fs::read_dir(out).ok()?.map(|e| e.unwrap());
    let found = entries.find(|e| e.file_name().to_string_lossy().starts_with(&begins));
    found.map(|e| e.path())
}

#[cfg(unix)]
pub fn signal(child: &Child, name: &str) {
    let status = Command::new("sh")
        .args(["-c", &format!("kill -{name} {}", child.id())])
        .status();
    assert!(status.unwrap().success());
}

/// Returns `n` proteins of lengths 20 to 120.
pub fn fasta(n: usize) -> String {
    let mut text = String::new();
    for i in 0..n {
        let length = 20 + i * 7919 % 101;
        let sequence: String = (0..length)
            .map(|j| char::from(b"ACDEFGHIKLMNPQRSTVWY"[(i * 31 + j * j + j / 7) % 20]))
            .collect();
        writeln!(text, ">protein{i} number {i}\n{sequence}").unwrap();
    }
    text
}

/// Returns every file below `dir`, by its path, except what the runs of a job measured.
pub fn tree(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(dir: &Path, prefix: &str, into: &mut BTreeMap<String, Vec<u8>>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            match entry.file_type().unwrap().is_dir() {
                true => walk(&entry.path(), &format!("{name}/"), into),
                false => drop(into.insert(name, std::fs::read(entry.path()).unwrap())),
            }
        }
    }
    let mut files = BTreeMap::new();
    walk(dir, "", &mut files);
    files.remove(seqstream::output::RUNS_FILE);
    files
}

pub fn floats(bytes: &[u8]) -> Vec<f32> {
    let words = bytes.chunks_exact(4);
    words
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

/// Returns the pooled rows of a layer, all shards in order.
pub fn rows(out: &Path, layer: usize) -> Vec<f32> {
    let name = format!("layer_{layer}.npy");
    let mut all = Vec::new();
    for (path, bytes) in tree(out) {
        if path.ends_with(&name) {
            all.extend(floats(&bytes[128..]));
        }
    }
    assert!(!all.is_empty(), "{}: no {name}", out.display());
    all
}

/// Returns the states of a layer's tokens, all shards in order.
pub fn states(out: &Path, layer: usize) -> Vec<f32> {
    let name = format!("layer_{layer}.safetensors");
    let mut all = Vec::new();
    for (path, bytes) in tree(out) {
        if path.ends_with(&name) {
            let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            all.extend(floats(file.tensor("states").unwrap().data()));
        }
    }
    assert!(!all.is_empty(), "{}: no {name}", out.display());
    all
}

/// Asserts that two directories hold the same files with the same bytes.
#[track_caller]
pub fn assert_same(a: &Path, b: &Path) {
    let (a, b) = (tree(a), tree(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (name, bytes) in &a {
        assert!(bytes == &b[name], "{name} differs");
    }
}

/// Returns the modification time and the identity of each file of a finished shard.
#[cfg(unix)]
pub fn written(out: &Path) -> BTreeMap<String, (u64, i64, i64)> {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(out) else {
        return BTreeMap::new();
    };
    let shards = entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
    let mut files = BTreeMap::new();
    for shard in shards.filter(|n| n.starts_with("shard-")) {
        for name in tree(&out.join(&shard)).into_keys() {
            let m = std::fs::metadata(out.join(&shard).join(&name)).unwrap();
            files.insert(
                format!("{shard}/{name}"),
                (m.ino(), m.mtime(), m.mtime_nsec()),
            );
        }
    }
    files
}
