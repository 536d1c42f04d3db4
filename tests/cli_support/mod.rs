//! The program itself, on small random models and made-up sequences.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use seqstream::model::config::ModelConfig;
use seqstream::weights::DType;
use seqstream::weights::random::write_random;

/// The program.
pub fn seqstream() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_seqstream"));
    command.stdin(Stdio::null()).env_remove("NO_COLOR");
    command
}

/// A directory with a model and sequences in it.
pub struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    /// An ESM-2 of two layers, and `n` proteins in `in.fa`.
    pub fn new(n: usize) -> Self {
        let place = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        place.model("model", ModelConfig::esm2(2, 32, 4), 1);
        std::fs::write(place.path("in.fa"), fasta(n)).unwrap();
        place
    }

    /// Writes a random model.
    pub fn model(&self, name: &str, config: ModelConfig, seed: u64) {
        write_random(&config.into(), seed, DType::F32, &self.path(name)).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `seqstream embed in.fa --model model --out OUT OPTIONS`, run in this directory.
    pub fn embed(&self, out: &str, options: &str) -> Command {
        let mut command = seqstream();
        command.current_dir(self.dir.path());
        command.args([
            "embed",
            "in.fa",
            "--model",
            "model",
            "--threads",
            "1",
            "--shard-size",
            "16",
            "--out",
            out,
        ]);
        command.args(options.split_whitespace());
        command
    }

    /// Runs it, which must succeed; the JSON summary.
    #[track_caller]
    pub fn embed_ok(&self, out: &str, options: &str) -> serde_json::Value {
        let output = self.embed(out, options).arg("--json").output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs it, which must fail with this code and say these things, the last line being a hint.
    #[track_caller]
    pub fn embed_fails(&self, out: &str, options: &str, code: i32, says: &[&str]) {
        fails(self.embed(out, options), code, says);
    }
}

/// Runs a command that must fail with this code, say these things, and give a hint.
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

/// `n` proteins of lengths 20 to 120.
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

/// Every file below `dir`, by its path.
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
    files
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

/// When and as what each file of a finished shard was written.
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
