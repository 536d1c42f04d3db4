//! Finds the commit that the sources are from, for `seqstream --version`. It depends on the sources
//! alone, so that the same sources make the same program at any time and in any place.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Returns the commit and its date, such as `1dfba5b0... (2026-11-29)`, or `unknown`.
pub fn find(root: &Path) -> String {
    of_checkout(root)
        .or_else(|| of_package(root))
        .or_else(|| of_archive(root))
        .unwrap_or_else(|| "unknown".into())
}

/// Returns a file that changes whenever another commit is checked out.
pub fn changes_with(root: &Path) -> Option<PathBuf> {
    let path = root.join(git(root, &["rev-parse", "--git-path", "logs/HEAD"])?);
    path.is_file().then_some(path)
}

fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(root)
        .args(arguments)
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// A clone. Sources that were unpacked within another repository are not of that repository.
fn of_checkout(root: &Path) -> Option<String> {
    let top = git(root, &["rev-parse", "--show-toplevel"])?;
    if fs::canonicalize(top).ok()? != fs::canonicalize(root).ok()? {
        return None;
    }
    let commit = git(root, &["log", "-1", "--format=%H (%cs)"])?;
    let changed = git(root, &["status", "--porcelain", "--untracked-files=no"])?;
    Some(match changed.is_empty() {
        true => commit,
        false => format!("{commit} with changes"),
    })
}

/// A package of the Rust registry, in which cargo notes the commit.
fn of_package(root: &Path) -> Option<String> {
    let text = fs::read_to_string(root.join(".cargo_vcs_info.json")).ok()?;
    let (_, rest) = text.split_once("\"sha1\"")?;
    let commit = rest.split('"').nth(1)?;
    let changed = match rest.contains("\"dirty\": true") {
        true => " with changes",
        false => "",
    };
    is_hash(commit).then(|| format!("{commit}{changed}"))
}

/// An archive made by `git archive`, which fills in this file (see .gitattributes).
fn of_archive(root: &Path) -> Option<String> {
    let text = fs::read_to_string(root.join("build/commit.txt")).ok()?;
    let commit = text.split(' ').next()?;
    is_hash(commit).then(|| text.trim().to_owned())
}

fn is_hash(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit())
}
