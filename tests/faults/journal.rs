//! The order of writing, syncing and renaming, checked from the log of a job: everything with a
//! final name, and everything that a later step relies on, is on the disk before.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::preload::{self, Call};
use crate::workplace::{Job, Workplace};

/// The state that is not on the disk yet.
#[derive(Default)]
struct Unsynced {
    /// Files and directories whose content or entries differ from the disk.
    content: BTreeSet<PathBuf>,
    /// Final names that were given since their directory was synced.
    names: BTreeSet<PathBuf>,
    /// Final names that were removed since their directory was synced.
    gone: BTreeSet<PathBuf>,
    files_made: u64,
    shards_named: u64,
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap().to_owned()
}

/// Returns whether a name is final: names of unfinished files and of locks begin with a dot.
fn is_final(path: &Path, out: &Path) -> bool {
    parent(path) == out && !path.file_name().unwrap().to_string_lossy().starts_with('.')
}

fn is_shard(path: &Path, out: &Path) -> bool {
    is_final(path, out)
        && path
            .file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with("shard-")
}

impl Unsynced {
    /// Returns a path, at or below `path`, that is not on the disk.
    fn below(&self, path: &Path) -> Option<&PathBuf> {
        self.content.iter().find(|p| p.starts_with(path))
    }

    /// Records that `to` has its final name now. `from` is the name under which it was written.
    fn named(&mut self, from: &Path, to: &Path, out: &Path) -> Result<(), String> {
        let name = to.display();
        if !is_final(to, out) {
            return Ok(());
        }
        if let Some(path) = self.below(from) {
            return Err(format!(
                "{name} gets its name before {} is synced",
                path.display()
            ));
        }
        let first = if is_shard(to, out) {
            Some(out.join("job.json"))
        } else {
            None
        };
        let earlier = match &first {
            // A shard is worth nothing without the job that it belongs to.
            Some(job) => self.names.get(job),
            // manifest.json says that every shard is complete.
            None => self.names.iter().next(),
        };
        if let Some(earlier) = earlier {
            return Err(format!(
                "{name} gets its name before that of {} is synced",
                earlier.display()
            ));
        }
        self.shards_named += u64::from(first.is_some());
        self.names.insert(to.to_owned());
        Ok(())
    }

    fn end_of(&mut self, path: &Path, out: &Path) {
        if is_final(path, out) {
            self.names.remove(path);
            self.gone.insert(path.to_owned());
        }
    }

    fn take(&mut self, call: &Call, out: &Path) -> Result<(), String> {
        let (path, second) = (&call.path, &call.second);
        let inside = |p: &Path| p.starts_with(out);
        if call.result < 0 {
            return Ok(());
        }
        match call.operation.as_str() {
            // A new name appears in the parent directory: for OUT, and for the directories above
            // it, too.
            "mkdir" if inside(path) || out.starts_with(path) => {
                let begins_shard = path.to_string_lossy().contains("/.shard-");
                if let Some(gone) = self.gone.iter().find(|_| begins_shard) {
                    let gone = gone.display();
                    return Err(format!(
                        "a shard is begun before the end of {gone} is synced"
                    ));
                }
                self.content.insert(path.to_owned());
                self.content.insert(parent(path));
            }
            "open" if inside(path) && !second.as_os_str().is_empty() => {
                self.files_made += 1;
                self.content.insert(path.to_owned());
                self.content.insert(parent(path));
            }
            "write" | "pwrite64" | "ftruncate64" | "copy_file_range" if inside(path) => {
                self.content.insert(path.to_owned());
            }
            "fsync" | "fdatasync" => {
                self.content.remove(path);
                self.names.retain(|n| parent(n) != *path);
                self.gone.retain(|n| parent(n) != *path);
            }
            "link" | "linkat" if inside(second) => {
                self.named(path, second, out)?;
                self.content.insert(parent(second));
            }
            "rename" if inside(second) => {
                self.named(path, second, out)?;
                let moved: Vec<PathBuf> = self
                    .content
                    .iter()
                    .filter(|p| p.starts_with(path))
                    .cloned()
                    .collect();
                for from in moved {
                    self.content.remove(&from);
                    let rest = from.strip_prefix(path).unwrap();
                    self.content.insert(if rest.as_os_str().is_empty() {
                        second.clone()
                    } else {
                        second.join(rest)
                    });
                }
                self.content.insert(parent(second));
                self.end_of(path, out);
            }
            "unlink" | "unlinkat" | "rmdir" if inside(path) => {
                self.content.retain(|p| !p.starts_with(path));
                self.content.insert(parent(path));
                self.end_of(path, out);
            }
            _ => {}
        }
        Ok(())
    }
}

/// Checks that a job that made these calls synced everything in time.
fn check(calls: &[Call], out: &Path) -> Result<Unsynced, String> {
    let mut unsynced = Unsynced::default();
    for call in calls {
        unsynced
            .take(call, out)
            .map_err(|why| format!("call {}: {why}", call.number))?;
    }
    let (names, gone) = (&unsynced.names, &unsynced.gone);
    if let Some(name) = names.iter().chain(gone).next() {
        return Err(format!(
            "the job ends before the name of {} is synced",
            name.display()
        ));
    }
    // Locks and unfinished files may come and go.
    let matters = |p: &&PathBuf| match p.strip_prefix(out) {
        Ok(inside) => !inside.to_string_lossy().starts_with('.') && **p != *out,
        Err(_) => true,
    };
    if let Some(path) = unsynced.content.iter().find(matters) {
        return Err(format!("the job ends before {} is synced", path.display()));
    }
    Ok(unsynced)
}

#[test]
fn journal_everything_is_synced_before_it_is_named_and_its_name_after() {
    let place = Workplace::new();
    let mut shards = Vec::new();
    // Directories above OUT are created with it. Without links, merge copies.
    for (out, links) in [("out", "all"), ("new/deep/out", "none")] {
        for job in [Job::Embed, Job::Resume, Job::Merge] {
            let mut command = place.begin(job, out);
            let calls = preload::calls(command.env("FAULT_LINKS", links), false);
            let unsynced = check(&calls, &place.path(out));
            let unsynced = unsynced.unwrap_or_else(|why| panic!("{job:?}, links: {links}: {why}"));
            assert!(unsynced.files_made > 2, "{job:?}: {}", unsynced.files_made);
            shards.push(unsynced.shards_named);
            place.is_whole(out).unwrap();
            std::fs::remove_dir_all(place.path(out.split('/').next().unwrap())).unwrap();
        }
    }
    assert_eq!(shards, [3, 2, 3, 3, 2, 3]);
}

/// Tests the check itself: it notices each missing step.
#[test]
fn journal_a_missing_sync_is_seen() {
    let call = |operation: &str, path: &str, second: &str| Call {
        number: 0,
        operation: operation.into(),
        result: 0,
        path: path.into(),
        second: second.into(),
        data: None,
    };
    let partial = "/a/out/.shard-000000.x.partial";
    let ids = &format!("{partial}/ids.txt");
    let calls = [
        call("mkdir", "/a/out", ""),
        call("fsync", "/a", ""),
        call("open", "/a/out/.job.json.x.partial", "create"),
        call("write", "/a/out/.job.json.x.partial", ""),
        call("fsync", "/a/out/.job.json.x.partial", ""),
        call("link", "/a/out/.job.json.x.partial", "/a/out/job.json"),
        call("unlink", "/a/out/.job.json.x.partial", ""),
        call("fsync", "/a/out", ""),
        call("mkdir", partial, ""),
        call("open", ids, "create"),
        call("write", ids, ""),
        call("fsync", ids, ""),
        call("fsync", partial, ""),
        call("rename", partial, "/a/out/shard-000000"),
        call("fsync", "/a/out", ""),
        call("open", "/a/out/.manifest.json.x.partial", "create"),
        call("fsync", "/a/out/.manifest.json.x.partial", ""),
        call(
            "rename",
            "/a/out/.manifest.json.x.partial",
            "/a/out/manifest.json",
        ),
        call("fsync", "/a/out", ""),
    ];
    let out = Path::new("/a/out");
    assert!(check(&calls, out).is_ok_and(|u| u.shards_named == 1));
    for (i, left_out) in calls
        .iter()
        .enumerate()
        .filter(|(_, c)| c.operation == "fsync")
    {
        let mut calls = calls.to_vec();
        calls.remove(i);
        assert!(
            check(&calls, out).is_err(),
            "{i}: {}",
            left_out.path.display()
        );
        // A failed call does not count.
        calls.insert(
            i,
            Call {
                result: -1,
                ..left_out.clone()
            },
        );
        assert!(
            check(&calls, out).is_err(),
            "{i}: {}",
            left_out.path.display()
        );
    }
}
