//! Downloads that fail: each failure says what is wrong and what to do, and leaves nothing behind
//! that the next run would take for the model.

use std::fs;

use crate::download::{command, folder, holds, partial, place, succeeds};
use crate::support::cli::{fails, stderr};
use crate::support::hub::{Answer, COMMIT, FakeHub, Faults, ID, Server};

#[test]
fn wrong_bytes_are_refused_and_removed() {
    let (place, hub) = place();
    hub.set(Faults {
        wrong: true,
        ..Faults::default()
    });
    let expected = crate::support::hub::sha256(&hub.files["model.safetensors"]);
    fails(
        command(&place, &hub, "inspect esm2_8m"),
        9,
        &[
            &format!("error: model.safetensors of {ID} arrived with wrong bytes: its hash is "),
            &format!(", and {expected} is right\n"),
            "hint: the file has been removed; run the same command again; ",
        ],
    );
    assert!(!partial(&place, &hub).exists());
    assert!(!folder(&place).join("blobs").join(expected).exists());
    hub.set(Faults::default());
    succeeds(command(&place, &hub, "inspect esm2_8m"));
    holds(
        &place,
        &hub,
        &["config.json", "model.safetensors", "vocab.txt"],
    );
}

#[test]
fn a_small_file_with_wrong_bytes_is_refused() {
    let (place, _) = place();
    // The hash is that of the right file, and the content is another one.
    let server = Server::start(|request| match request.path.rsplit('/').next().unwrap() {
        "main" => {
            let mut answer = Answer::new(200);
            let list = format!(
                r#"{{"sha":"{COMMIT}","siblings":[{{"rfilename":"config.json"}},{{"rfilename":"model.safetensors"}}]}}"#
            );
            answer.body = list.into_bytes();
            answer
        }
        _ => {
            let mut answer = Answer::new(200).with("ETag", format!("\"{}\"", "0".repeat(40)));
            answer.body = b"{}".to_vec();
            answer
        }
    });
    let mut command = command(&place, &FakeHub::start([].into()), "inspect esm2_8m");
    command.env("HF_ENDPOINT", server.address());
    fails(
        command,
        9,
        &[
            "config.json of facebook/esm2_t6_8M_UR50D arrived with wrong bytes: its hash is \
             9e26dfeeb6e641a33dae4961196235bdb965b21b, and 000",
        ],
    );
}

/// Answers that the Hub gives to the first request, the exit code, and what is said.
#[test]
fn refusals_are_told_apart() {
    let answer = |status: u16, code: &str| Answer::new(status).with("X-Error-Code", code);
    let cases = [
        (
            answer(403, "GatedRepo").with("X-Error-Message", "Access is restricted"),
            9,
            "refuses to give out facebook/esm2_t6_8M_UR50D (403): Access is restricted",
            "accept the terms of the model on http://127.0.0.1:",
        ),
        (
            Answer::new(401),
            9,
            "refuses to give out facebook/esm2_t6_8M_UR50D (401)",
            "log in with `hf auth login`, or set HF_TOKEN",
        ),
        (
            answer(401, "RepoNotFound"),
            4,
            "facebook/esm2_t6_8M_UR50D: there is no such file or folder, and http://127.0.0.1:",
            "check the path or the name; a private model needs a token",
        ),
        (
            answer(404, "RepoNotFound"),
            4,
            "has no model of that name",
            "check the path or the name",
        ),
        (
            answer(404, "RevisionNotFound"),
            4,
            "has no revision main of it",
            "/tree/main lists the branches and tags",
        ),
        (
            Answer::new(429).with("Retry-After", "100000"),
            9,
            "has too many requests (429) and asks to wait for 100000 s",
            "wait a while; then run the same command again",
        ),
        (
            Answer {
                body: b"{\"error\": \"\\u001b[31mblocked\"}".to_vec(),
                ..Answer::new(451)
            },
            9,
            "fails with status 451: \\u{1b}[31mblocked",
            "run the same command again",
        ),
        (
            Answer::new(200).with("X-Repo-Commit", "\u{1b}[31m"),
            9,
            "does not answer as the Hugging Face Hub does: protocol: http parse fail",
            "check HF_ENDPOINT and the proxy",
        ),
        (
            Answer::new(200),
            9,
            "does not answer as the Hugging Face Hub does: its list of files",
            "check HF_ENDPOINT and the proxy",
        ),
        (
            Answer::new(302).with("Location", "ftp://example.org/x"),
            9,
            "it redirects to no address",
            "check HF_ENDPOINT",
        ),
        (
            Answer::new(302).with("Location", "/api/models/again"),
            9,
            "it redirects more than 10 times",
            "check HF_ENDPOINT",
        ),
    ];
    for (answer, code, what, hint) in cases {
        let (place, hub) = place();
        hub.set(Faults {
            first: 20,
            answer,
            ..Faults::default()
        });
        let output = command(&place, &hub, "inspect esm2_8m").output().unwrap();
        let said = stderr(&output);
        println!("{said}");
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(what), "\"{what}\" is not in: {said}");
        assert!(said.contains(hint), "\"{hint}\" is not in: {said}");
        assert!(!said.contains('\u{1b}'), "{said}");
        // It was asked once: to ask again would be in vain.
        let most = if what.contains("10 times") { 11 } else { 1 };
        assert_eq!(hub.hub.log().len(), most, "{said}");
        assert!(!folder(&place).join("refs").exists());
    }
}

#[test]
fn names_that_the_hub_does_not_have() {
    let (place, hub) = place();
    fails(
        command(&place, &hub, "inspect facebook/esm2_t33_650M_UR50"),
        4,
        &[
            "facebook/esm2_t33_650M_UR50: there is no such file or folder, and http://127.0.0.1:",
            "has no public model of that name",
            "hint: perhaps esm2_t33_650M_UR50D",
        ],
    );
    fails(
        command(&place, &hub, "inspect esm2_8m@v9"),
        4,
        &[
            "has no revision v9 of it",
            "lists the branches and tags of the model",
        ],
    );
    let without = FakeHub::start([("README.md".to_owned(), b"x".to_vec())].into());
    fails(
        command(&place, &without, "inspect esm2_8m"),
        4,
        &[
            "facebook/esm2_t6_8M_UR50D has none of model.safetensors, model.safetensors.index.json, \
             pytorch_model.bin, pytorch_model.bin.index.json on the Hub",
        ],
    );
    let index = br#"{"weight_map": {"a": "model-1.safetensors"}}"#.to_vec();
    let lacking = FakeHub::start([("model.safetensors.index.json".to_owned(), index)].into());
    fails(
        command(&place, &lacking, "inspect esm2_8m"),
        4,
        &["has no file model-1.safetensors of it, which model.safetensors.index.json lists"],
    );
}

#[test]
fn a_token_that_is_refused_is_not_shown() {
    let (place, hub) = place();
    hub.set(Faults {
        token: Some("hf_right"),
        ..Faults::default()
    });
    let mut command = command(&place, &hub, "inspect esm2_8m --verbose");
    let output = command.env("HF_TOKEN", "hf_wrong").output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(9), "{said}");
    assert!(said.contains("the token may be wrong or expired"), "{said}");
    assert!(!said.contains("hf_"), "{said}");
}

#[test]
fn a_server_that_cannot_be_reached_is_said() {
    let (place, hub) = place();
    let mut none = command(&place, &hub, "inspect esm2_8m");
    // The port of a listener that has gone.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    none.env("HF_ENDPOINT", format!("http://127.0.0.1:{port}"));
    fails(
        none,
        9,
        &[
            &format!("error: 127.0.0.1:{port} cannot be reached: "),
            "check the network and its proxy (HTTPS_PROXY)",
            "what has arrived is kept; if this machine has no network, run `hf download facebook/esm2_t6_8M_UR50D`",
        ],
    );
    let mut other = command(&place, &hub, "inspect esm2_8m");
    other.env("HF_ENDPOINT", "huggingface.co");
    fails(
        other,
        9,
        &["HF_ENDPOINT: \"huggingface.co\" is no address that begins with https://"],
    );
}

#[test]
fn a_connection_that_always_breaks_ends_the_try_and_keeps_what_arrived() {
    let (place, hub) = place();
    hub.set(Faults {
        cut: Some(0),
        ..Faults::default()
    });
    fs::create_dir_all(folder(&place).join("blobs")).unwrap();
    fs::write(
        partial(&place, &hub),
        &hub.files["model.safetensors"][..5000],
    )
    .unwrap();
    fails(
        command(&place, &hub, "inspect esm2_8m"),
        9,
        &[
            "cannot be reached: the connection was cut",
            "what has arrived is kept",
        ],
    );
    assert_eq!(fs::metadata(partial(&place, &hub)).unwrap().len(), 5000);
    assert_eq!(hub.ranges(), [Some(5000); 5]);
}

#[test]
fn a_disk_without_space_is_said_before_the_download() {
    let (place, hub) = place();
    hub.set(Faults {
        size: Some(1 << 60),
        ..Faults::default()
    });
    fails(
        command(&place, &hub, "inspect esm2_8m"),
        9,
        &[
            "the download needs 1.1 EiB",
            "are free there",
            "hint: free some space, or set HF_HUB_CACHE",
        ],
    );
    assert_eq!(hub.store.connections(), 0);
}

#[test]
fn a_cache_that_cannot_be_written_is_said() {
    let (place, hub) = place();
    fs::write(place.path("file"), "").unwrap();
    let mut command = command(&place, &hub, "inspect esm2_8m");
    command.env("HF_HUB_CACHE", place.path("file"));
    fails(
        command,
        9,
        &[
            "file/models--facebook--esm2_t6_8M_UR50D",
            "hint: set HF_HUB_CACHE to a folder that can be written",
        ],
    );
}

#[test]
fn certificates_that_cannot_be_used_are_said() {
    let (place, hub) = place();
    fs::write(place.path("empty.pem"), "no certificate\n").unwrap();
    for (path, says) in [
        ("none.pem", "SSL_CERT_FILE: none.pem cannot be read: "),
        (
            "empty.pem",
            "SSL_CERT_FILE: empty.pem holds no certificates",
        ),
    ] {
        let mut command = command(&place, &hub, "inspect esm2_8m");
        command.env("SSL_CERT_FILE", path);
        fails(command, 9, &[says]);
    }
}
