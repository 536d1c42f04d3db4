//! Small jobs, the output of each if nothing disturbs it, and the files that are allowed while it
//! is unfinished.

use crate::preload;
use crate::preload::Kind;
use crate::support::cli::{fasta, seqstream, stderr, tree};
use seqstream::architecture::ModelConfig;
use seqstream::dtype::DType;
use seqstream::weights::random::write_random;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The files of a directory, by path.
pub type Tree = BTreeMap<String, Vec<u8>>;

/// Whether `merge` continues the output of an earlier merge. Otherwise that output must be removed
/// by hand.
const MERGE_GOES_ON: bool = true;

/// The job that is disturbed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Job {
    /// `embed` into an empty place.
    Embed,
    /// `embed --resume` after a job that was killed while it named its second shard.
    Resume,
    /// The same on a file system without locks.
    Unlocked,
    /// `merge` of two shares.
    Merge,
}

/// A directory with a model, an input of three shards, two shares, and a killed job.
pub struct Workplace {
    dir: tempfile::TempDir,
    /// The files that an undisturbed job leaves.
    pub whole: Tree,
    /// The files that a merge leaves.
    pub merged: Tree,
}

impl Workplace {
    pub fn new() -> Self {
        // Every trial syncs about twenty times, so use a file system in memory if there is one.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let mut place = Self {
            dir: dir.unwrap(),
            whole: Tree::new(),
            merged: Tree::new(),
        };
        write_random(
            &ModelConfig::esm2(1, 16, 2).into(),
            1,
            DType::F32,
            &place.path("model"),
        )
        .unwrap();
        std::fs::write(place.path("in.fa"), fasta(20)).unwrap();
        for (out, options) in [
            ("whole", &[][..]),
            ("part1", &["--share", "1/2"]),
            ("part2", &["--share", "2/2"]),
        ] {
            succeed(place.embed(out).args(options));
        }
        // Kill a job when its second shard is about to get its name.
        let calls = preload::calls(&mut place.embed("counted"), false);
        let names = |c: &&preload::Call| {
            c.operation == "rename" && c.second.ends_with("counted/shard-000001")
        };
        let call = calls.iter().find(names).unwrap().number;
        // The calls of several threads sometimes come in another order.
        for n in call.saturating_sub(20).. {
            let mut command = place.embed("killed");
            let status = preload::disturb(&mut command, n, Kind::Signal(9))
                .status()
                .unwrap();
            assert!(
                !status.success(),
                "it ended before its second shard got its name"
            );
            let stands = |shard: &str| place.path("killed").join(shard).exists();
            if stands("shard-000000") && !stands("shard-000001") {
                break;
            }
            std::fs::remove_dir_all(place.path("killed")).unwrap();
        }
        succeed(&mut place.merge("merged"));
        place.whole = tree(&place.path("whole"));
        place.merged = tree(&place.path("merged"));
        assert_eq!(place.whole, place.merged);
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn embed(&self, out: &str) -> Command {
        let mut command = seqstream();
        command.current_dir(self.dir.path());
        command.args([
            "embed",
            "in.fa",
            "--model",
            "model",
            "--out",
            out,
            "--threads",
            "1",
        ]);
        command.args(["--shard-size", "8", "--per-token", "--quiet"]);
        command
    }

    fn merge(&self, out: &str) -> Command {
        let mut command = seqstream();
        command.current_dir(self.dir.path());
        command.args(["merge", "part1", "part2", "--out", out, "--quiet"]);
        command
    }

    /// Prepares the directory `out`, and returns the command.
    pub fn begin(&self, job: Job, out: &str) -> Command {
        let path = self.path(out);
        if path.exists() {
            std::fs::remove_dir_all(&path).unwrap();
        }
        match job {
            Job::Embed => self.embed(out),
            Job::Resume | Job::Unlocked => {
                copy(&self.path("killed"), &path);
                self.go_on(job, out)
            }
            Job::Merge => self.merge(out),
        }
    }

    /// Returns the command that continues the job in `out`.
    pub fn go_on(&self, job: Job, out: &str) -> Command {
        match job {
            Job::Embed | Job::Resume | Job::Unlocked => {
                let mut command = self.embed(out);
                command.arg("--resume");
                if job == Job::Unlocked {
                    preload::load(&mut command).env("FAULT_FLOCK", "ENOLCK");
                }
                command
            }
            Job::Merge => self.merge(out),
        }
    }

    /// Checks that everything with a final name in `out` is complete.
    pub fn standing(&self, out: &str) -> Result<(), String> {
        let path = self.path(out);
        if !path.exists() {
            return Ok(());
        }
        let there = tree(&path);
        for entry in std::fs::read_dir(&path).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.starts_with('.') {
                continue;
            }
            let part = |tree: &Tree| -> Tree {
                let of = |n: &String| *n == name || n.starts_with(&format!("{name}/"));
                tree.iter()
                    .filter(|(n, _)| of(n))
                    .map(|(n, b)| (n.clone(), b.clone()))
                    .collect()
            };
            if !self.whole.contains_key(&name) && part(&self.whole).is_empty() {
                return Err(format!("{name} is no part of the job"));
            }
            if part(&there) != part(&self.whole) {
                return Err(format!("{name} stands and is not whole"));
            }
        }
        if there.contains_key("manifest.json") {
            let missing = self.whole.keys().find(|n| !there.contains_key(*n));
            if let Some(missing) = missing {
                return Err(format!("manifest.json stands, {missing} does not"));
            }
        }
        Ok(())
    }

    /// Continues the job in `out`: the result must be the output of an undisturbed job.
    pub fn finish(&self, job: Job, out: &str) -> Result<(), String> {
        let merged = job == Job::Merge && self.path(out).join("manifest.json").exists();
        if merged {
            // The merge is complete, and another merge into the directory is refused.
            return self.holds_all(out);
        }
        if job == Job::Merge && !MERGE_GOES_ON && self.path(out).exists() {
            std::fs::remove_dir_all(self.path(out)).unwrap();
        }
        let output = self.go_on(job, out).output().unwrap();
        if !output.status.success() {
            return Err(format!(
                "the next run: {:?}: {}",
                output.status,
                stderr(&output)
            ));
        }
        self.is_whole(out)
    }

    /// Checks that a job that reported success is complete. Files that it could not remove may
    /// remain.
    pub fn holds_all(&self, out: &str) -> Result<(), String> {
        let mut there = tree(&self.path(out));
        there.retain(|name, _| !name.starts_with('.') || name == ".lock");
        self.compare(&there)
    }

    pub fn is_whole(&self, out: &str) -> Result<(), String> {
        self.compare(&tree(&self.path(out)))
    }

    fn compare(&self, there: &Tree) -> Result<(), String> {
        match *there == self.whole {
            true => Ok(()),
            false => Err(format!("other files or bytes: {:?}", there.keys())),
        }
    }
}

#[track_caller]
pub fn succeed(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}

/// Copies a directory of directories of files.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}
