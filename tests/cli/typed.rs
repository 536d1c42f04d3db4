//! What people type: variables of the environment, options of other programs, `--offline`, and what
//! the program says about itself.

use std::net::TcpListener;

use crate::support::cli::*;

const SEQSTREAM: &str = env!("CARGO_BIN_EXE_seqstream");

#[test]
fn variables_stand_for_options_that_are_not_typed() {
    let place = Place::new(3);
    let embed = |out: &str, variables: &[(&str, &str)], options: &[&str]| {
        let mut command = place.command(SEQSTREAM);
        command.args(["embed", "in.fa", "--out", out]).args(options);
        command.envs(variables.iter().copied());
        command
    };
    let model = ("SEQSTREAM_MODEL", "model");
    let output = embed("out", &[model, ("SEQSTREAM_THREADS", "1")], &[]).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    // What is typed counts.
    let wrong = [
        ("SEQSTREAM_MODEL", "nowhere/to be found"),
        ("SEQSTREAM_DEVICE", "toaster"),
    ];
    let typed = ["--model", "model", "--device", "cpu"];
    let output = embed("typed", &wrong, &typed).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let nogpu = embed(
        "nogpu",
        &[model, ("SEQSTREAM_DEVICE", "cuda")],
        &["--nogpu"],
    )
    .output();
    assert!(nogpu.unwrap().status.success());
    fails(
        embed("no", &[model, ("SEQSTREAM_DEVICE", "toaster")], &[]),
        2,
        &["--device toaster is no device"],
    );
    for (value, says) in [
        ("many", "invalid value 'many' for '--threads <N>'"),
        ("0", "0 is not in 1..=1024"),
    ] {
        let output = embed("no", &[model, ("SEQSTREAM_THREADS", value)], &[]).output();
        let output = output.unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(says), "{text}");
        let tip = "tip: the value may come from the environment variable SEQSTREAM_THREADS";
        assert!(text.contains(tip), "{text}");
    }
    let help = place.command(SEQSTREAM).args(["embed", "--help"]).output();
    let help = String::from_utf8(help.unwrap().stdout).unwrap();
    // Lines are broken at any space.
    let words: Vec<&str> = help.split_whitespace().collect();
    let help = words.join(" ");
    for variable in ["SEQSTREAM_MODEL", "SEQSTREAM_DEVICE", "SEQSTREAM_THREADS"] {
        assert!(help.contains(&format!("[env: {variable}]")), "{help}");
    }
}

#[test]
fn options_of_other_programs_are_read_or_lead_to_ours() {
    let place = Place::new(3);
    place.embed_ok("ours", "--layers 0,2 --pool mean --per-token");
    let theirs = "--repr_layers 0 2 --include mean per_tok --toks_per_batch 64 --nogpu";
    place.embed_ok("theirs", theirs);
    assert_same(&place.path("ours"), &place.path("theirs"));
    let output = place.embed("no", "--batch-size 8").output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text.contains("unexpected argument '--batch-size' found"),
        "{text}"
    );
    assert!(
        text.contains("tip: batches are measured in tokens"),
        "{text}"
    );
}

/// A server that would hear of any connection.
#[test]
fn nothing_is_asked_of_the_network_if_that_is_forbidden() {
    let place = Place::new(1);
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    server.set_nonblocking(true).unwrap();
    let address = format!("http://{}", server.local_addr().unwrap());
    let command = |arguments: &[&str]| {
        let mut command = place.command(SEQSTREAM);
        command.args(arguments).env("HF_ENDPOINT", &address);
        command.env("HF_HUB_CACHE", place.path("cache"));
        command.env_remove("HF_HUB_OFFLINE");
        command
    };
    for arguments in [
        &[
            "embed",
            "in.fa",
            "--model",
            "someone/else",
            "--out",
            "out",
            "--offline",
        ][..],
        &["--offline", "inspect", "someone/else"],
        &["tokenize", "in.fa", "--offline", "--model", "someone/else"],
        &["bench", "--offline", "--model", "someone/else"],
    ] {
        fails(
            command(arguments),
            4,
            &[
                "someone/else is not in the cache",
                "--offline forbids to download it",
            ],
        );
    }
    let error = server.accept().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    let said = |arguments: &[&str]| {
        let output = command(arguments).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let doctor = said(&["doctor", "--offline"]);
    let cache = format!("Hub cache      {}\n", place.path("cache").display());
    assert!(doctor.contains(&cache), "{doctor}");
    assert!(
        doctor.contains("downloads      no: --offline forbids them\n"),
        "{doctor}"
    );
    let json: serde_json::Value = serde_json::from_str(&said(&["doctor", "--json"])).unwrap();
    assert_eq!(json["hub"]["downloads"], cfg!(feature = "hub"));
    assert_eq!(json["hub"]["cache"], place.path("cache").to_str().unwrap());
}

#[test]
fn there_is_a_manual_page_for_every_command() {
    let place = Place::new(0);
    let write = |dir: &str| {
        let output = place.command(SEQSTREAM).args(["man", dir]).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        tree(&place.path(dir))
    };
    let pages = write("share/man/man1");
    let names: Vec<&str> = pages.keys().map(String::as_str).collect();
    let help = place.command(SEQSTREAM).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let commands = help.split("Commands:").nth(1).unwrap();
    let commands = commands.lines().skip(1).take_while(|line| !line.is_empty());
    let mut expected = vec!["seqstream.1".to_owned()];
    for line in commands.filter(|line| !line.starts_with("   ")) {
        let name = line.split_whitespace().next().unwrap();
        if name != "help" {
            expected.push(format!("seqstream-{name}.1"));
        }
    }
    expected.sort();
    assert!(expected.len() > 9, "{expected:?}");
    assert_eq!(names, expected);
    let embed = String::from_utf8_lossy(&pages["seqstream-embed.1"]);
    assert!(
        embed.contains("stopped\\-code") && embed.contains("Exit codes:"),
        "{embed}"
    );
    assert!(!embed.contains("repr_layers"), "{embed}");
    // The pages are the same whatever the machine.
    let main = String::from_utf8_lossy(&pages["seqstream.1"]);
    assert!(
        main.contains(".TH SEQSTREAM 1 ") && !main.contains("SIMD"),
        "{main}"
    );
    assert!(pages == write("again"), "the pages differ from run to run");
    std::fs::write(place.path("file"), "").unwrap();
    fails(
        {
            let mut command = place.command(SEQSTREAM);
            command.args(["man", "file"]);
            command
        },
        5,
        &["file"],
    );
}

#[test]
fn the_version_says_what_the_program_was_built_from() {
    let said = |flag: &str| {
        let output = seqstream().arg(flag).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let short = format!("seqstream {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(said("-V"), short);
    let long = said("--version");
    assert!(long.starts_with(&short), "{long}");
    let lines: Vec<&str> = long.lines().skip(1).collect();
    let names: Vec<_> = lines.iter().map(|l| l.split(':').next().unwrap()).collect();
    assert_eq!(names, ["commit", "kernels", "SIMD", "target"], "{long}");
}
