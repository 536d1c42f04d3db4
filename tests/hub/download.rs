//! Downloads that succeed, whatever happens on the way.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use seqstream::architecture::ModelConfig;
use seqstream::dtype::DType;
use seqstream::weights::Checkpoint;
use seqstream::weights::random::{RandomSpec, write_random};

use crate::support::cli::{Place, assert_same, stderr};
use crate::support::hub::{Answer, COMMIT, FakeHub, Faults, ID, etag, wait_for_bytes};

/// A place with a model of about 0.9 MB, and a Hub that has it.
pub fn place() -> (Place, FakeHub) {
    let place = Place::new(3);
    fs::remove_dir_all(place.path("model")).unwrap();
    place.model("model", ModelConfig::esm2(2, 96, 4), 1);
    fs::write(place.path("model/vocab.txt"), vocabulary()).unwrap();
    let hub = FakeHub::of(&place.path("model"));
    (place, hub)
}

fn vocabulary() -> String {
    let letters = "L A G V S E R T I D P K Q N F Y M H W C X B U Z O . -";
    let tokens = format!("<cls> <pad> <eos> <unk> {letters} <null_1> <mask>");
    tokens.replace(' ', "\n")
}

pub fn command(place: &Place, hub: &FakeHub, words: &str) -> Command {
    let mut command = place.command(env!("CARGO_BIN_EXE_seqstream"));
    command.args(words.split_whitespace());
    hub.serve(&mut command, &place.path("cache"));
    command
}

#[track_caller]
pub fn succeeds(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    output
}

pub fn folder(place: &Place) -> PathBuf {
    place
        .path("cache")
        .join(format!("models--{}", ID.replace('/', "--")))
}

/// The unfinished content of the weights.
pub fn partial(place: &Place, hub: &FakeHub) -> PathBuf {
    let etag = etag("model.safetensors", &hub.files["model.safetensors"]);
    folder(place).join(format!("blobs/{etag}.seqstream.incomplete"))
}

/// Checks that the cache has exactly these files of the model, each with the right content in the
/// right place, and nothing else.
#[track_caller]
pub fn holds(place: &Place, hub: &FakeHub, files: &[&str]) {
    let names = |path: &Path| {
        let entries = fs::read_dir(path).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let folder = folder(place);
    let snapshot = folder.join("snapshots").join(COMMIT);
    let mut sorted = files.to_vec();
    sorted.sort_unstable();
    assert_eq!(names(&snapshot), sorted);
    let mut blobs = Vec::new();
    for name in files {
        let (bytes, link) = (&hub.files[*name], snapshot.join(name));
        let blob = etag(name, bytes);
        assert_eq!(
            fs::read_link(&link).unwrap(),
            Path::new("../../blobs").join(&blob)
        );
        assert!(fs::read(&link).unwrap() == *bytes, "{name}");
        blobs.push(blob);
    }
    blobs.sort();
    assert_eq!(names(&folder.join("blobs")), blobs);
}

const FILES: [&str; 3] = ["config.json", "model.safetensors", "vocab.txt"];

#[test]
fn a_model_is_downloaded_once_and_then_taken_from_the_cache() {
    let (place, hub) = place();
    let embed = |model: &str, out: &str| {
        let words = format!("embed in.fa --model {model} --out {out} --threads 1");
        let mut command = command(&place, &hub, &words);
        command.env("HF_TOKEN", "hf_secret");
        succeeds(command)
    };
    embed("model", "path");
    assert_eq!(hub.hub.connections(), 0);
    let said = stderr(&embed(ID, "name"));
    let downloading = format!("downloading {ID} from the Hugging Face Hub: 8");
    assert!(
        said.contains(&downloading) && said.contains("downloaded in "),
        "{said}"
    );
    holds(&place, &hub, &FILES);
    assert_eq!(
        fs::read_to_string(folder(&place).join("refs/main")).unwrap(),
        COMMIT
    );
    let shard = |out: &str| place.path(out).join("shard-000000");
    assert_same(&shard("path"), &shard("name"));

    // Only what is needed was asked for.
    let (asked, stored) = (hub.hub.log(), hub.store.log());
    assert!(
        asked
            .iter()
            .all(|r| !r.path.contains("README") && !r.path.contains("tf_model"))
    );
    // The token goes to the Hub, and to it alone.
    assert!(
        asked
            .iter()
            .all(|r| r.header("authorization") == Some("Bearer hf_secret"))
    );
    assert!(!stored.is_empty());
    assert!(stored.iter().all(|r| r.header("authorization").is_none()));
    assert!(
        stored
            .iter()
            .all(|r| r.header("user-agent").unwrap().starts_with("seqstream/"))
    );

    let connections = (hub.hub.connections(), hub.store.connections());
    let said = stderr(&embed("esm2_8m", "short"));
    assert!(!said.contains("download"), "{said}");
    assert_same(&shard("path"), &shard("short"));
    assert_eq!(
        (hub.hub.connections(), hub.store.connections()),
        connections
    );
}

#[test]
fn no_socket_is_opened_where_the_network_is_forbidden() {
    let (place, hub) = place();
    for (name, value) in [("HF_HUB_OFFLINE", "1"), ("TRANSFORMERS_OFFLINE", "yes")] {
        for words in ["inspect esm2_8m", "models", "models --json"] {
            let mut command = command(&place, &hub, words);
            let output = command.env(name, value).output().unwrap();
            let code = if words.starts_with("models") { 0 } else { 4 };
            assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        }
    }
    // Listing the models asks nobody either.
    succeeds(command(&place, &hub, "models"));
    assert_eq!((hub.hub.connections(), hub.store.connections()), (0, 0));
    succeeds(command(&place, &hub, "inspect esm2_8m"));
    assert!(hub.hub.connections() > 0);
    let connections = hub.hub.connections();
    let mut offline = command(&place, &hub, "inspect esm2_8m");
    offline.env("HF_HUB_OFFLINE", "1");
    succeeds(offline);
    assert_eq!(hub.hub.connections(), connections);
}

#[test]
fn a_download_that_is_cut_at_every_64_kib_continues_where_it_was() {
    const CUT: usize = 64 << 10;
    let (place, hub) = place();
    hub.set(Faults {
        cut: Some(CUT),
        ..Faults::default()
    });
    let said = stderr(&succeeds(command(&place, &hub, "inspect esm2_8m")));
    assert!(
        said.contains("cannot be reached: the connection was cut; trying again"),
        "{said}"
    );
    holds(&place, &hub, &FILES);
    let pieces = hub.files["model.safetensors"].len().div_ceil(CUT);
    assert!(pieces > 12, "{pieces}");
    let expected: Vec<Option<usize>> = (0..pieces).map(|i| (i > 0).then_some(i * CUT)).collect();
    assert_eq!(hub.ranges(), expected);
}

#[test]
fn a_server_that_cannot_skip_sends_all_of_it_again() {
    let (place, hub) = place();
    let size = hub.files["model.safetensors"].len();
    fs::create_dir_all(folder(&place).join("blobs")).unwrap();
    // The start is right: it would be kept if the server could skip it.
    fs::write(
        partial(&place, &hub),
        &hub.files["model.safetensors"][..size / 2],
    )
    .unwrap();
    hub.set(Faults {
        no_ranges: true,
        ..Faults::default()
    });
    succeeds(command(&place, &hub, "inspect esm2_8m"));
    holds(&place, &hub, &FILES);
    assert_eq!(hub.ranges(), [Some(size / 2)]);
}

#[cfg(unix)]
#[test]
fn a_killed_download_continues_when_it_is_started_again() {
    const CUT: usize = 300_000;
    for signal in ["KILL", "INT"] {
        let (place, hub) = place();
        hub.set(Faults {
            cut: Some(CUT),
            silent: true,
            ..Faults::default()
        });
        let mut first = command(&place, &hub, "inspect esm2_8m");
        let mut child = first.stderr(Stdio::piped()).spawn().unwrap();
        wait_for_bytes(&partial(&place, &hub), CUT as u64);
        crate::support::cli::signal(&child, signal);
        assert!(!child.wait().unwrap().success());
        // Nothing has a name that it does not deserve.
        let snapshot = folder(&place).join("snapshots").join(COMMIT);
        assert_eq!(fs::read_dir(snapshot).unwrap().count(), 0, "{signal}");
        assert!(!folder(&place).join("refs").exists());
        hub.set(Faults::default());
        succeeds(command(&place, &hub, "inspect esm2_8m"));
        assert_eq!(hub.ranges(), [None, Some(CUT)], "{signal}");
        holds(&place, &hub, &FILES);
    }
}

#[test]
fn a_connection_that_falls_silent_is_opened_again() {
    const CUT: usize = 600_000;
    let (place, hub) = place();
    hub.set(Faults {
        cut: Some(CUT),
        silent: true,
        ..Faults::default()
    });
    let mut command = command(&place, &hub, "inspect esm2_8m");
    let said = stderr(&succeeds({
        command.env("HF_HUB_DOWNLOAD_TIMEOUT", "1");
        command
    }));
    assert!(
        said.contains("nothing more arrives; trying again"),
        "{said}"
    );
    assert_eq!(hub.ranges(), [None, Some(CUT)]);
    holds(&place, &hub, &FILES);
}

#[test]
fn two_processes_at_once_download_once() {
    let (place, hub) = place();
    // The cuts make the download last until the other processes have begun.
    hub.set(Faults {
        cut: Some(100_000),
        ..Faults::default()
    });
    let mut children = Vec::new();
    for _ in 0..3 {
        let mut command = command(&place, &hub, "inspect esm2_8m");
        children.push(
            command
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap(),
        );
    }
    let outputs: Vec<Output> = children
        .into_iter()
        .map(|c| c.wait_with_output().unwrap())
        .collect();
    for output in &outputs {
        assert!(output.status.success(), "{}", stderr(output));
    }
    holds(&place, &hub, &FILES);
    let pieces = hub.files["model.safetensors"].len().div_ceil(100_000);
    assert_eq!(hub.store.log().len(), pieces);
}

#[test]
fn a_leftover_with_wrong_bytes_is_fetched_again() {
    let (place, hub) = place();
    let weights = &hub.files["model.safetensors"];
    for (length, note) in [
        (1000, true),
        (weights.len(), true),
        (weights.len() + 1, false),
    ] {
        let _ = fs::remove_dir_all(place.path("cache"));
        fs::create_dir_all(folder(&place).join("blobs")).unwrap();
        fs::write(partial(&place, &hub), vec![7; length]).unwrap();
        let said = stderr(&succeeds(command(&place, &hub, "inspect esm2_8m")));
        let noted =
            said.contains("model.safetensors: what had arrived earlier was wrong; once more");
        assert_eq!(noted, note, "{length}: {said}");
        holds(&place, &hub, &FILES);
    }
}

#[test]
fn what_the_cache_has_is_not_fetched_again() {
    let (place, hub) = place();
    succeeds(command(&place, &hub, "inspect esm2_8m"));
    let fetched = hub.store.log().len();
    // Another program has removed the snapshot, or a part of it; the contents are there.
    let snapshot = folder(&place).join("snapshots").join(COMMIT);
    fs::remove_file(snapshot.join("config.json")).unwrap();
    fs::remove_file(snapshot.join("model.safetensors")).unwrap();
    succeeds(command(&place, &hub, "inspect esm2_8m"));
    assert_eq!(hub.store.log().len(), fetched);
    holds(&place, &hub, &FILES);
    // The content has gone, and a link leads nowhere.
    let blob = etag("model.safetensors", &hub.files["model.safetensors"]);
    fs::remove_file(folder(&place).join("blobs").join(blob)).unwrap();
    succeeds(command(&place, &hub, "inspect esm2_8m"));
    assert_eq!(hub.store.log().len(), fetched + 1);
    holds(&place, &hub, &FILES);
}

#[test]
fn revisions_are_kept_apart() {
    let (place, hub) = place();
    for revision in ["v1", "refs/pr/1", COMMIT] {
        succeeds(command(
            &place,
            &hub,
            &format!("inspect esm2_8m@{revision}"),
        ));
    }
    let refs = folder(&place).join("refs");
    for revision in ["v1", "refs/pr/1"] {
        assert_eq!(fs::read_to_string(refs.join(revision)).unwrap(), COMMIT);
    }
    // A commit needs no reference, and `main` was never asked for.
    assert!(!refs.join(COMMIT).exists() && !refs.join("main").exists());
    assert_eq!(hub.store.log().len(), 1);
    let asked = hub.hub.log();
    assert!(
        asked
            .iter()
            .any(|r| r.path.ends_with("/revision/refs%2Fpr%2F1"))
    );
    assert_eq!(fs::read_dir(&refs).unwrap().count(), 2);
}

#[test]
fn a_sharded_model_comes_with_its_index_and_all_shards() {
    let (place, _) = place();
    let spec = RandomSpec {
        config: ModelConfig::esm2(2, 96, 4),
        max_shard_bytes: Some(300_000),
    };
    write_random(&spec, 1, DType::F32, &place.path("shards")).unwrap();
    // The other format is not preferred.
    fs::write(place.path("shards/pytorch_model.bin"), "pickle").unwrap();
    let hub = FakeHub::of(&place.path("shards"));
    succeeds(command(&place, &hub, "inspect esm2_8m"));
    let mut files: Vec<&str> = hub.files.keys().map(String::as_str).collect();
    files.retain(|name| name.starts_with("model") || *name == "config.json");
    assert!(files.len() > 4, "{files:?}");
    holds(&place, &hub, &files);
    let snapshot = folder(&place).join("snapshots").join(COMMIT);
    let hash = |path: &Path| Checkpoint::open(path).unwrap().hash().unwrap();
    assert_eq!(hash(&snapshot), hash(&place.path("shards")));
}

#[test]
fn weights_of_pytorch_are_taken_where_there_are_no_others() {
    let (place, _) = place();
    fs::create_dir(place.path("bin")).unwrap();
    fs::write(place.path("bin/pytorch_model.bin"), "no pickle").unwrap();
    fs::copy(
        place.path("model/config.json"),
        place.path("bin/config.json"),
    )
    .unwrap();
    let hub = FakeHub::of(&place.path("bin"));
    let output = command(&place, &hub, "inspect esm2_8m").output().unwrap();
    // It is downloaded, and then refused for what it is.
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    holds(&place, &hub, &["config.json", "pytorch_model.bin"]);
}

#[test]
fn a_busy_server_is_asked_again_when_it_says() {
    let (place, hub) = place();
    hub.set(Faults {
        first: 2,
        answer: Answer::new(429).with("Retry-After", "1"),
        ..Faults::default()
    });
    let said = stderr(&succeeds(command(&place, &hub, "inspect esm2_8m")));
    let note = "has too many requests (429) and asks to wait for 1 s; trying again";
    assert_eq!(said.matches(note).count(), 2, "{said}");
    hub.set(Faults {
        first: 1,
        answer: Answer::new(503),
        ..Faults::default()
    });
    fs::remove_dir_all(place.path("cache")).unwrap();
    let said = stderr(&succeeds(command(&place, &hub, "inspect esm2_8m")));
    assert!(
        said.contains("fails with status 503; trying again"),
        "{said}"
    );
    holds(&place, &hub, &FILES);
}

#[test]
fn a_private_model_comes_with_the_token_of_a_file() {
    let (place, hub) = place();
    hub.set(Faults {
        token: Some("hf_file"),
        ..Faults::default()
    });
    fs::write(place.path("token"), "hf_file\n").unwrap();
    let mut command = command(&place, &hub, "inspect esm2_8m");
    command.env("HF_TOKEN_PATH", place.path("token"));
    succeeds(command);
    holds(&place, &hub, &FILES);
    assert!(
        hub.store
            .log()
            .iter()
            .all(|r| r.header("authorization").is_none())
    );
}

#[test]
fn requests_go_through_the_proxy_except_to_the_hosts_that_need_none() {
    use std::io::{BufRead, BufReader};
    let (place, hub) = place();
    let proxy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", proxy.local_addr().unwrap());
    for variable in ["ALL_PROXY", "HTTPS_PROXY"] {
        let mut asking = command(&place, &hub, "inspect esm2_8m");
        asking.env("HF_ENDPOINT", "http://hub.invalid");
        asking.env(variable, &address).stderr(Stdio::null());
        let mut child = asking.spawn().unwrap();
        let (connection, _) = proxy.accept().unwrap();
        let mut line = String::new();
        BufReader::new(connection).read_line(&mut line).unwrap();
        assert!(line.contains("hub.invalid"), "{line}");
        // It would be tried again.
        child.kill().unwrap();
        child.wait().unwrap();
    }
    // Connections of the tries that were begun.
    proxy.set_nonblocking(true).unwrap();
    while proxy.accept().is_ok() {}
    let mut command = command(&place, &hub, "inspect esm2_8m");
    command.env("ALL_PROXY", &address);
    command.env("NO_PROXY", "127.0.0.1");
    succeeds(command);
    holds(&place, &hub, &FILES);
    assert!(proxy.accept().is_err(), "the proxy was asked");
}
