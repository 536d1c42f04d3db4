//! The README is right: its commands run, its options exist, and its links lead to existing files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use seqstream::architecture::ModelConfig;
use seqstream::dtype::DType;
use seqstream::weights::random::{RandomSpec, write_random};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn readme() -> String {
    fs::read_to_string(root().join("README.md")).unwrap()
}

/// Returns the page with the table of options and the exit codes.
fn usage() -> String {
    fs::read_to_string(root().join("docs/usage.md")).unwrap()
}

/// Returns the lines of all fenced blocks of one language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut inside = None;
    let mut lines = Vec::new();
    for line in text.lines() {
        match line.strip_prefix("```") {
            Some(fence) => inside = inside.is_none().then(|| fence.to_owned()),
            None if inside.as_deref() == Some(language) => lines.push(line.to_owned()),
            None => {}
        }
    }
    assert!(!lines.is_empty(), "no {language} block");
    lines
}

fn seqstream(args: &[&str]) -> (String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_seqstream"))
        .args(args)
        .current_dir(root())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "{args:?}: {err}");
    (out, err)
}

/// Returns the README's first command with another --out: the words after its `--`.
fn first_command() -> Vec<String> {
    let lines = blocks(&readme(), "sh");
    let command = lines[0]
        .strip_prefix("cargo run --release -- ")
        .unwrap_or_else(|| panic!("the first command is {}", lines[0]));
    command.split_whitespace().map(str::to_owned).collect()
}

/// Reads shape and values of a little-endian f32 `.npy` file.
fn npy(path: &Path) -> (Vec<usize>, Vec<f32>) {
    let bytes = fs::read(path).unwrap();
    assert!(bytes.starts_with(b"\x93NUMPY\x01\x00"));
    let header = String::from_utf8_lossy(&bytes[10..128]).into_owned();
    assert!(header.contains("'descr': '<f4'"), "{header}");
    let (_, shape) = header.split_once("'shape': (").unwrap();
    let (shape, _) = shape.split_once(')').unwrap();
    let shape = shape.split(", ").map(|n| n.parse().unwrap()).collect();
    let values = bytes[128..].chunks_exact(4);
    let values = values.map(|b| f32::from_le_bytes(b.try_into().unwrap()));
    (shape, values.collect())
}

#[test]
fn the_first_command_gives_what_the_readme_shows() {
    let tmp = tempfile::tempdir().unwrap();
    let out = tmp.path().join("out");
    let mut words = first_command();
    let at = words.iter().position(|w| w == "--out").unwrap() + 1;
    let named = std::mem::replace(&mut words[at], out.to_str().unwrap().to_owned());
    assert_eq!(named, "out", "a path that .gitignore names");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (stdout, stderr) = seqstream(&words);
    assert_eq!(stdout, "");

    let shown = blocks(&readme(), "text").join("\n");
    for part in [
        "input: 12 sequences, 1,367 residues, the longest 238",
        "12 sequences, 1,391 tokens",
    ] {
        assert!(stderr.contains(part), "{stderr}");
        assert!(shown.contains(part), "{shown}");
    }
    let (shape, values) = npy(&out.join("shard-000000/layer_4.npy"));
    assert_eq!(shape, [12, 48]);
    assert_eq!(values.len(), 12 * 48);
    // The four values are in a block of their own; their last digits differ between processors.
    let four = shown
        .lines()
        .map(|line| line.split_whitespace().map(str::parse).collect())
        .find_map(|line: Result<Vec<f32>, _>| line.ok().filter(|v| v.len() == 4))
        .expect("the four values");
    for (value, shown) in values.iter().zip(&four) {
        assert!((value - shown).abs() < 1e-4, "{value} {shown}");
    }
    let ids = fs::read_to_string(out.join("shard-000000/ids.txt")).unwrap();
    assert_eq!(ids.lines().count(), 12);
    assert!(out.join("manifest.json").exists());
}

#[test]
fn states_lie_as_the_python_lines_take_them() {
    let tmp = tempfile::tempdir().unwrap();
    let out = tmp.path().join("states");
    let mut words = first_command();
    let at = words.iter().position(|w| w == "--out").unwrap() + 1;
    words[at] = out.to_str().unwrap().to_owned();
    words.push("--per-token".into());
    seqstream(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let bytes = fs::read(out.join("shard-000000/layer_4.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.tensor("states").unwrap().shape(), [1367, 48]);
    let offsets = file.tensor("offsets").unwrap();
    let offsets: Vec<i64> = offsets
        .data()
        .chunks_exact(8)
        .map(|b| i64::from_le_bytes(b.try_into().unwrap()))
        .collect();
    assert_eq!((offsets.len(), offsets[0], offsets[12]), (13, 0, 1367));
    // Ubiquitin has 76 residues; cls and eos have no state in this output.
    assert_eq!(offsets[1], 76);
}

#[test]
fn the_shipped_model_is_what_its_readme_says() {
    let text = fs::read_to_string(root().join("examples/tiny-esm2/README.md")).unwrap();
    let command = "--kind esm2 --layers 4 --hidden 48 --heads 3 --seed 1 --dtype f16";
    assert!(text.contains(command));
    assert!(text.contains("**random**"));
    let tmp = tempfile::tempdir().unwrap();
    let spec = RandomSpec::from(ModelConfig::esm2(4, 48, 3));
    write_random(&spec, 1, DType::F16, tmp.path()).unwrap();
    for name in ["config.json", "model.safetensors"] {
        let shipped = fs::read(root().join("examples/tiny-esm2").join(name)).unwrap();
        assert_eq!(shipped, fs::read(tmp.path().join(name)).unwrap(), "{name}");
        assert!(shipped.len() <= 300_000);
    }
}

/// Returns the pooled rows by name.
fn rows(input: &Path, out: &Path, options: &[&str]) -> BTreeMap<String, Vec<u32>> {
    let (input, to) = (input.to_str().unwrap(), out.to_str().unwrap());
    let mut args = vec!["embed", input, "--model", "examples/tiny-esm2", "--out", to];
    args.extend(options);
    seqstream(&args);
    let mut rows = BTreeMap::new();
    let mut shards: Vec<_> = fs::read_dir(out).unwrap().map(|e| e.unwrap()).collect();
    shards.retain(|shard| shard.path().is_dir());
    for shard in shards {
        let ids = fs::read_to_string(shard.path().join("ids.txt")).unwrap();
        let (shape, values) = npy(&shard.path().join("layer_4.npy"));
        for (id, row) in ids.lines().zip(values.chunks_exact(shape[1])) {
            rows.insert(id.to_owned(), row.iter().map(|v| v.to_bits()).collect());
        }
    }
    rows
}

#[test]
fn an_embedding_depends_on_its_sequence_alone() {
    let tmp = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(root().join("examples/proteins.fasta")).unwrap();
    let mut records: Vec<String> = text
        .split('>')
        .skip(1)
        .map(|record| format!(">{record}"))
        .collect();
    // Short records are computed in separate passes.
    for n in 1..20 {
        records.push(format!(">short_{n}\n{}\n", &"MKVLAERTIDPQNFYHWCGS"[..n]));
    }
    let (forth, back) = (tmp.path().join("forth.fa"), tmp.path().join("back.fa"));
    fs::write(&forth, records.concat()).unwrap();
    records.reverse();
    fs::write(&back, records.concat()).unwrap();

    let whole = rows(&forth, &tmp.path().join("0"), &[]);
    assert_eq!(whole.len(), 31);
    for (i, (input, options)) in [
        (&back, &["--threads", "1"][..]),
        (&forth, &["--token-budget", "1"]),
        (&back, &["--token-budget", "300", "--threads", "3"]),
        (&forth, &["--shard-size", "2", "--threads", "2"]),
    ]
    .into_iter()
    .enumerate()
    {
        let out = tmp.path().join((i + 1).to_string());
        assert!(rows(input, &out, options) == whole, "{options:?}");
    }
}

/// Returns the long options in a text.
fn options(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
        .filter(|word| {
            word.strip_prefix("--")
                .is_some_and(|w| w.starts_with(char::is_alphabetic))
        })
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_option_exists_and_every_option_is_named() {
    // clap lists options in lines such as `  -m, --model <MODEL>  ...`.
    let listed = |line: &str| line.trim_start().starts_with('-');
    let options_of = |command: &str| -> BTreeSet<String> {
        let (help, _) = seqstream(&[command, "--help"]);
        let lines = help.lines().filter(|l| listed(l));
        lines
            .filter_map(|l| l.split_whitespace().find(|word| word.starts_with("--")))
            .map(str::to_owned)
            .collect()
    };
    let mut existing = options_of("embed");
    assert!(existing.len() > 15);

    let text = readme() + &usage();
    let of_virnucpro = options_of("virnucpro");
    let mut named = BTreeSet::new();
    for line in text.lines() {
        if line.starts_with("seqstream virnucpro ") {
            let unknown: Vec<_> = options(line).difference(&of_virnucpro).cloned().collect();
            assert!(unknown.is_empty(), "not in `virnucpro --help`: {unknown:?}");
            continue;
        }
        // Options of other programs are skipped: cargo's options before a ` -- `, and all options
        // of weights-tools and hf.
        let ours = match line.find("cargo ") {
            Some(at) => line[at..].split_once(" -- ").map_or("", |(_, rest)| rest),
            None if line.starts_with("weights-tools ") || line.starts_with("hf ") => "",
            None => line,
        };
        named.extend(options(ours));
    }
    // `--nocapture` in `cargo test -- --nocapture` belongs to the test harness.
    named.remove("--nocapture");
    let unknown: Vec<_> = named.difference(&existing).collect();
    assert!(unknown.is_empty(), "not in `embed --help`: {unknown:?}");

    let table: BTreeSet<String> = text
        .lines()
        .filter(|line| line.starts_with("| `--"))
        .flat_map(|line| options(line.split('|').nth(1).unwrap_or("")))
        .collect();
    existing.remove("--help");
    assert_eq!(
        table, existing,
        "the table of docs/usage.md against `embed --help`"
    );
}

#[test]
fn every_command_of_seqstream_exists() {
    let (help, _) = seqstream(&["--help"]);
    let mut lines = blocks(&readme(), "sh");
    lines.extend(blocks(&usage(), "sh"));
    let used: BTreeSet<&str> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("seqstream ")?.split(' ').next())
        .collect();
    assert!(used.contains("embed") && used.contains("merge"));
    for command in used {
        assert!(help.contains(&format!("\n  {command} ")), "{command}");
    }
}

/// Returns the exit codes in a text: the text after a number at the start of a line or table row.
fn exit_codes(text: &str) -> Vec<(String, String)> {
    text.lines()
        .map(|line| line.trim_matches(['|', ' ']))
        .filter_map(|line| line.split_once(" | ").or_else(|| line.split_once("  ")))
        .map(|(code, what)| (code.trim().to_owned(), what.trim().to_owned()))
        .filter(|(code, _)| code.split(", ").all(|c| c.parse::<u8>().is_ok()))
        .collect()
}

#[test]
fn the_exit_codes_are_those_of_the_help() {
    let (help, _) = seqstream(&["--help"]);
    let (_, codes) = help.split_once("Exit codes:").unwrap();
    let text = usage();
    let (_, table) = text.split_once("| exit code |").unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    let ours = exit_codes(table);
    assert_eq!(ours.len(), 11);
    assert_eq!(ours, exit_codes(codes));
}

/// Returns every file of the repository except build outputs.
fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !["target", ".git", "out", "artifacts", "__pycache__", "venv"]
                .contains(&name.as_str())
            {
                files(&path, found);
            }
        } else if path.is_file() && name != ".git" {
            found.push(path);
        }
    }
}

#[test]
fn nothing_points_outside_the_repository() {
    let outside = concat!("../", "shared");
    let mut found = Vec::new();
    files(root(), &mut found);
    assert!(found.contains(&root().join("README.md")));
    let mut links = 0;
    for path in found {
        let bytes = fs::read(&path).unwrap();
        let mut windows = bytes.windows(outside.len());
        assert!(
            !windows.any(|w| w == outside.as_bytes()),
            "{} refers to {outside}",
            path.display()
        );
        if path.extension().is_none_or(|e| e != "md") {
            continue;
        }
        let text = String::from_utf8(bytes).unwrap();
        for target in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split([')', '#']).next())
            .filter(|target| !target.is_empty() && !target.contains("://"))
        {
            links += 1;
            let to = path.parent().unwrap().join(target);
            let to = fs::canonicalize(&to)
                .unwrap_or_else(|e| panic!("{}: link to {target}: {e}", path.display()));
            assert!(to.starts_with(fs::canonicalize(root()).unwrap()));
        }
    }
    assert!(links > 5, "{links}");
}

#[test]
fn the_readme_is_short() {
    let lines = readme().lines().count();
    assert!(lines <= 160, "{lines} lines");
}
