//! The modules of the library import only from lower levels, and the boundaries to the driver and
//! to cuBLASLt are those that `docs/architecture.md` describes. Only the program knows its flags.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The modules by level: a module may import modules of lower levels, but none of its own level.
const LEVELS: [&[&str]; 12] = [
    &["bytes"],
    &["remedy"],
    &["dtype", "batch", "system", "trace", "untrusted"],
    &["sequence", "architecture", "hub"],
    &["weights", "output"],
    &["gpu", "virnucpro"],
    &["backend"],
    &["model"],
    &["engine"],
    &["pipeline", "study"],
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

/// Returns the contents of all string literals of a source, escapes included, each with the number
/// of its line.
fn literals(source: &str) -> Vec<(usize, String)> {
    let text: Vec<char> = source.chars().collect();
    let starts = |at: usize, with: &str| {
        with.chars()
            .eq(text[at..].iter().copied().take(with.chars().count()))
    };
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < text.len() {
        let from = at;
        if starts(at, "//") {
            at += text[at..].iter().take_while(|c| **c != '\n').count();
        } else if starts(at, "/*") {
            let mut depth = 0;
            while at < text.len() {
                let (open, close) = (starts(at, "/*"), starts(at, "*/"));
                depth = depth + usize::from(open) - usize::from(close);
                at += if open || close { 2 } else { 1 };
                if depth == 0 {
                    break;
                }
            }
        } else if text[at] == 'r' && !after_a_word(&text, at) && raw_hashes(&text, at).is_some() {
            let hashes = raw_hashes(&text, at).unwrap();
            let end = format!("\"{}", "#".repeat(hashes));
            let start = at + hashes + 2;
            at = (start..text.len()).find(|i| starts(*i, &end)).unwrap();
            found.push((line, text[start..at].iter().collect()));
            at += end.len();
        } else if text[at] == '"' {
            let start = at + 1;
            at = start;
            while text[at] != '"' {
                at += if text[at] == '\\' { 2 } else { 1 };
            }
            found.push((line, text[start..at].iter().collect()));
            at += 1;
        } else if text[at] == '\'' && text.get(at + 1) == Some(&'\\') {
            // The escape itself may be a quotation mark.
            at += 3;
            at += text[at..].iter().take_while(|c| **c != '\'').count() + 1;
        } else if text[at] == '\'' && text.get(at + 2) == Some(&'\'') {
            at += 3;
        } else {
            at += 1;
        }
        let end = at.min(text.len());
        line += text[from..end].iter().filter(|c| **c == '\n').count();
    }
    found
}

fn after_a_word(text: &[char], at: usize) -> bool {
    at > 0 && (text[at - 1].is_alphanumeric() && text[at - 1] != 'b' || text[at - 1] == '_')
}

/// Returns the number of `#` of a raw string literal whose `r` is at `at`, if it is one.
fn raw_hashes(text: &[char], at: usize) -> Option<usize> {
    let rest = &text[at + 1..];
    let hashes = rest.iter().take_while(|c| **c == '#').count();
    (rest.get(hashes) == Some(&'"')).then_some(hashes)
}

/// Returns whether a text names a flag: two hyphens and a letter, at the start of a word.
fn names_a_flag(text: &str) -> bool {
    text.match_indices("--").any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + 2..].chars().next();
        before.is_none_or(|c| c != '-' && !c.is_alphanumeric())
            && after.is_some_and(|c| c.is_ascii_lowercase())
    })
}

#[test]
fn only_the_program_knows_its_flags() {
    let mut flags = Vec::new();
    let mut strings = 0;
    for (file, module, text) in files() {
        if ["cli", "main"].contains(&module.as_str()) {
            continue;
        }
        for (line, literal) in literals(&text) {
            strings += 1;
            if names_a_flag(&literal) {
                flags.push(format!("{}:{line}: {literal}", file.display()));
            }
        }
    }
    assert!(flags.is_empty(), "flags below cli:\n{}", flags.join("\n"));
    assert!(strings > 1000, "only {strings} string literals were found");
}

#[test]
fn string_literals_are_found_in_every_form() {
    let source = "let a = \"one\"; // \"not this\"\n/* \"nor /* this */ \" */ let b = r#\"t\"wo\"#;\n\
                  let c = ['\"', '\\'', '\\n', '-']; fn f<'a>(x: &'a str) {}\n\
                  let d = b\"th\\\"ree\"; let e = format!(\"fo\\\n    ur\"); let var = \"five\";";
    let found = literals(source);
    let texts: Vec<&str> = found.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(texts, ["one", "t\"wo", "th\\\"ree", "fo\\\n    ur", "five"]);
    let lines: Vec<usize> = found.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [1, 2, 4, 4, 5]);
    for (text, is) in [
        ("give --out", true),
        ("--resume", true),
        ("(--long window)", true),
        ("a -- b", false),
        ("---bar", false),
        ("x--y", false),
    ] {
        assert_eq!(names_a_flag(text), is, "{text}");
    }
}
