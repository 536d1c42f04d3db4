//! What the build script finds: the commit of the sources, and the functions of the CUDA driver.

#[path = "../../build/commit.rs"]
mod commit;
#[path = "../../build/trampolines.rs"]
mod trampolines;

use std::fs;
use std::path::Path;
use std::process::Command;

fn git(folder: &Path, line: &str) -> String {
    let output = Command::new("git")
        .args([
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b",
            "-c",
            "init.defaultBranch=main",
        ])
        .args(line.split_whitespace())
        .current_dir(folder)
        .env("GIT_COMMITTER_DATE", "2026-01-02T03:04:05Z")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap();
    assert!(output.status.success(), "git {line}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn the_commit_is_that_of_the_checkout() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    assert_eq!(commit::find(root), "unknown");
    assert_eq!(commit::changes_with(root), None);
    git(root, "init --quiet");
    // There is no commit yet.
    assert_eq!(commit::find(root), "unknown");
    fs::write(root.join("a"), "1").unwrap();
    git(root, "add a");
    git(root, "commit --quiet -m one");
    let hash = git(root, "rev-parse HEAD");
    assert_eq!(commit::find(root), format!("{hash} (2026-01-02)"));
    let log = commit::changes_with(root).unwrap();
    let before = fs::read(&log).unwrap();
    // Files that git does not know are no part of the sources; changes are.
    fs::write(root.join("b"), "1").unwrap();
    assert_eq!(commit::find(root), format!("{hash} (2026-01-02)"));
    fs::write(root.join("a"), "2").unwrap();
    let changed = format!("{hash} (2026-01-02) with changes");
    assert_eq!(commit::find(root), changed);
    git(root, "commit --quiet -a -m two");
    assert_ne!(fs::read(&log).unwrap(), before);
    // Sources that were unpacked within the repository are not of it.
    let inner = root.join("inner");
    fs::create_dir(&inner).unwrap();
    assert_eq!(commit::find(&inner), "unknown");
}

#[test]
fn a_package_and_an_archive_carry_their_commit() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let hash = "0123456789abcdef0123456789abcdef01234567";
    fs::create_dir(root.join("build")).unwrap();
    let archive = root.join("build/commit.txt");
    fs::write(&archive, include_str!("../../build/commit.txt")).unwrap();
    assert_eq!(commit::find(root), "unknown");
    fs::write(&archive, format!("{hash} (2026-01-02)\n")).unwrap();
    assert_eq!(commit::find(root), format!("{hash} (2026-01-02)"));
    let package = root.join(".cargo_vcs_info.json");
    let other = hash.replace('0', "f");
    for (text, found) in [
        (
            format!("{{\n  \"git\": {{\n    \"sha1\": \"{other}\"\n  }}\n}}"),
            other.clone(),
        ),
        (
            format!("{{\n  \"git\": {{\n    \"sha1\": \"{other}\",\n    \"dirty\": true\n  }}\n}}"),
            format!("{other} with changes"),
        ),
        (
            "{\"git\": {\"sha1\": \"no hash\"}}".into(),
            format!("{hash} (2026-01-02)"),
        ),
        ("{\"sha1\"".into(), format!("{hash} (2026-01-02)")),
    ] {
        fs::write(&package, &text).unwrap();
        assert_eq!(commit::find(root), found, "{text}");
    }
}

#[test]
fn git_archive_fills_in_the_commit() {
    let attributes = include_str!("../../.gitattributes");
    assert!(attributes.contains("build/commit.txt export-subst"));
    assert_eq!(
        include_str!("../../build/commit.txt"),
        "$Format:%H (%cs)$\n"
    );
}

#[test]
fn the_table_numbers_every_symbol_once() {
    let c = trampolines::table("cuInit\n\n  cuCtxSynchronize \n");
    assert_eq!(
        c,
        "#define SYMBOLS(X) \\\n  X(cuInit, 0) \\\n  X(cuCtxSynchronize, 1) \\\n\n#define SYMBOL_COUNT 2\n"
    );
}

#[test]
fn no_symbol_is_listed_twice() {
    let mut names: Vec<_> = include_str!("../../src/gpu/driver/symbols.txt")
        .lines()
        .collect();
    let listed = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), listed);
    assert!(names.iter().all(|n| n.starts_with("cu")), "{names:?}");
}
