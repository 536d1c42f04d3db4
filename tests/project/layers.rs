//! The modules of the library import only from lower levels, and the boundaries to the driver and
//! to cuBLASLt are those that `docs/architecture.md` describes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The modules by level: a module may import modules of lower levels, but none of its own level.
const LEVELS: [&[&str]; 10] = [
    &["dtype", "batch", "system", "untrusted"],
    &["sequence", "architecture"],
    &["weights", "output"],
    &["gpu"],
    &["backend"],
    &["model"],
    &["engine"],
    &["pipeline"],
    &["lib"],
    &["cli", "main"],
];

fn level(module: &str) -> Option<usize> {
    LEVELS.iter().position(|level| level.contains(&module))
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn module_of(file: &Path) -> String {
    let first = file.components().next().unwrap();
    let name = first.as_os_str().to_str().unwrap();
    name.trim_end_matches(".rs").to_owned()
}

/// Returns every module that follows `crate::` in a text, including groups in braces.
fn imports(text: &str) -> BTreeSet<String> {
    let name = |text: &str| -> String {
        text.chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
            .collect()
    };
    let mut found = BTreeSet::new();
    for (at, prefix) in text.match_indices("crate::") {
        let rest = &text[at + prefix.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.insert(name(rest));
            continue;
        };
        let mut depth = 0;
        let mut start = true;
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => start = true,
                c if start && !c.is_whitespace() => {
                    found.insert(name(&group[i..]));
                    start = false;
                }
                _ => {}
            }
        }
    }
    found.retain(|module| level(module).is_some());
    found
}

/// Returns each file's path below `src`, its module, and its text.
fn files() -> Vec<(PathBuf, String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&root, &mut found);
    let read = |path: PathBuf| {
        let file = path.strip_prefix(&root).unwrap().to_owned();
        let module = module_of(&file);
        let text = fs::read_to_string(&path).unwrap();
        (file, module, text)
    };
    found.into_iter().map(read).collect()
}

#[test]
fn modules_import_downward_only() {
    let mut upward = Vec::new();
    let mut edges = 0;
    for (file, module, text) in files() {
        let own = level(&module).unwrap_or_else(|| {
            panic!(
                "{}: give module {module} a level in this test",
                file.display()
            )
        });
        for imported in imports(&text) {
            if imported == module {
                continue;
            }
            edges += 1;
            if level(&imported) >= Some(own) {
                upward.push(format!("{}: {module} imports {imported}", file.display()));
            }
        }
    }
    assert!(upward.is_empty(), "upward imports:\n{}", upward.join("\n"));
    assert!(edges > 100, "only {edges} imports were found");
}

#[test]
fn imports_are_found_in_every_form() {
    let text = "use crate::model::Model;\nuse crate::{batch::PackedBatch, gpu::{driver, stream}};\n\
                let x: crate::weights::Tensor; use crate::{\n    cli,\n    output::Shard,\n};";
    let found: Vec<String> = imports(text).into_iter().collect();
    assert_eq!(found, ["batch", "cli", "gpu", "model", "output", "weights"]);
}

#[test]
fn only_the_driver_touches_cust_and_only_cublaslt_its_library() {
    for (file, _, text) in files() {
        let code = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            let driver = line.contains("cust::");
            assert!(
                !driver || file.starts_with("gpu/driver"),
                "{}: {line}",
                file.display()
            );
            let library = line.contains("cublasLt") && !line.contains('"');
            assert!(
                !library || file.starts_with("gpu/cublaslt"),
                "{}: {line}",
                file.display()
            );
        }
    }
}
