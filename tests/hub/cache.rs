//! The local cache is enough, and no network is needed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use seqstream::architecture::{ModelConfig, layout};
use seqstream::hub::{self, Cache, Found, Hub, HubError, KNOWN};

use crate::support::cli::{Place, assert_same, fails, seqstream, stderr};

const COMMIT: &str = "c731040fcd8d73dceaa04b0a8e6329b345b0f5df";
const OTHER: &str = "0123456789abcdef0123456789abcdef01234567";

/// Copies the place's model into its cache, as one revision of a model there.
fn put(place: &Place, id: &str, commit: &str, revision: &str) -> PathBuf {
    let folder = Cache::new(place.path("cache")).folder(id);
    let snapshot = folder.join("snapshots").join(commit);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(folder.join("blobs")).unwrap();
    fs::create_dir_all(folder.join("refs")).unwrap();
    fs::write(folder.join("refs").join(revision), commit).unwrap();
    for entry in fs::read_dir(place.path("model")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap();
        fs::copy(&path, snapshot.join(name)).unwrap();
    }
    snapshot
}

/// A command that finds nothing but the place's cache, and that can reach no server.
fn offline(mut command: Command, place: &Place) -> Command {
    for name in ["HF_HOME", "TRANSFORMERS_OFFLINE", "HF_TOKEN"] {
        command.env_remove(name);
    }
    command.env("HF_HUB_CACHE", place.path("cache"));
    command
        .env("HF_ENDPOINT", "http://127.0.0.1:9")
        .env("HF_HUB_OFFLINE", "1");
    command
}

fn embed(place: &Place, model: &str, out: &str, options: &str) -> Command {
    let mut command = offline(place.command(env!("CARGO_BIN_EXE_seqstream")), place);
    command.args([
        "embed",
        "in.fa",
        "--model",
        model,
        "--out",
        out,
        "--threads",
        "1",
    ]);
    command
        .args(["--shard-size", "16"])
        .args(options.split_whitespace());
    command
}

#[track_caller]
fn succeeds(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn every_command_takes_a_name_from_the_cache() {
    let place = Place::new(5);
    put(&place, "facebook/esm2_t6_8M_UR50D", COMMIT, "main");
    put(&place, "facebook/esm2_t6_8M_UR50D", OTHER, "v1");
    succeeds(embed(&place, "model", "path", ""));
    let names = [
        ("facebook/esm2_t6_8M_UR50D", COMMIT),
        ("esm2_t6_8M_UR50D", COMMIT),
        ("ESM2-8M", COMMIT),
        ("esm2_8m@v1", OTHER),
        (&format!("esm2_8m@{OTHER}"), OTHER),
        (
            "https://huggingface.co/facebook/esm2_t6_8M_UR50D/tree/v1",
            OTHER,
        ),
    ];
    for (i, (name, commit)) in names.iter().enumerate() {
        let out = format!("out{i}");
        succeeds(embed(&place, name, &out, ""));
        assert_same(
            &place.path("path/shard-000000"),
            &place.path(&format!("{out}/shard-000000")),
        );
        let id = format!("facebook/esm2_t6_8M_UR50D@{commit}");
        for file in ["job.json", "manifest.json"] {
            let json = json(&place.path(&out).join(file));
            let job = if file == "job.json" {
                &json
            } else {
                &json["job"]
            };
            assert_eq!(job["model"]["id"], *id, "{name}");
        }
    }
    assert!(
        json(&place.path("path/job.json"))["model"]
            .get("id")
            .is_none()
    );
    let run = |words: &[&str]| {
        let mut command = offline(place.command(env!("CARGO_BIN_EXE_seqstream")), &place);
        command.args(words);
        succeeds(command)
    };
    let inspected: serde_json::Value =
        serde_json::from_str(&run(&["inspect", "esm2_8m", "--json"])).unwrap();
    assert_eq!(
        inspected["id"],
        format!("facebook/esm2_t6_8M_UR50D@{COMMIT}")
    );
    assert!(run(&["inspect", "esm2_8m"]).starts_with("name        facebook/esm2_t6_8M_UR50D@c73"));
    let tokens = run(&["tokenize", "in.fa", "--model", "esm2_8m"]);
    assert_eq!(tokens, run(&["tokenize", "in.fa", "--model", "model"]));
    let bench = [
        "bench",
        "--model",
        "esm2_8m",
        "--lengths",
        "20",
        "--tokens",
        "40",
        "--rounds",
        "1",
    ];
    assert!(run(&[&bench[..], &["--threads", "1"]].concat()).contains("tokens/s"));
}

#[test]
fn a_job_goes_on_whichever_way_its_model_is_named() {
    let place = Place::new(40);
    put(&place, "facebook/esm2_t6_8M_UR50D", COMMIT, "main");
    put(&place, "facebook/esm2_t12_35M_UR50D", OTHER, "main");
    for (first, then) in [
        ("model", "esm2_8m"),
        ("esm2_8m", "model"),
        ("esm2_8m", "esm2_35m"),
    ] {
        let out = format!("{first}-{then}");
        succeeds(embed(&place, first, &out, ""));
        let whole = fs::read(place.path(&out).join("manifest.json")).unwrap();
        let shard = place.path(&out).join("shard-000001");
        fs::remove_dir_all(&shard).unwrap();
        succeeds(embed(&place, then, &out, "--resume"));
        // The name under which the job began stays.
        assert!(
            fs::read(place.path(&out).join("manifest.json")).unwrap() == whole,
            "{out}"
        );
        assert!(shard.exists());
    }
    // Shares that name the same model in two ways are shares of one job.
    for (i, model) in ["model", "esm2_8m"].iter().enumerate() {
        let share = format!("--share {}/2", i + 1);
        succeeds(embed(&place, model, &format!("part{i}"), &share));
    }
    let mut merge = place.command(env!("CARGO_BIN_EXE_seqstream"));
    merge.args(["merge", "part0", "part1", "--out", "merged"]);
    succeeds(merge);
    let whole = place.path("model-esm2_8m");
    for shard in ["shard-000000", "shard-000001", "shard-000002"] {
        assert_same(&whole.join(shard), &place.path("merged").join(shard));
    }
}

#[test]
fn a_file_or_folder_of_the_name_wins() {
    let place = Place::new(3);
    fs::create_dir(place.path("facebook")).unwrap();
    fs::rename(place.path("model"), place.path("facebook/esm2_t6_8M_UR50D")).unwrap();
    succeeds(embed(&place, "facebook/esm2_t6_8M_UR50D", "out", ""));
    assert!(
        json(&place.path("out/job.json"))["model"]
            .get("id")
            .is_none()
    );
    // It wins even if it cannot be read.
    fs::write(place.path("esm2_8m"), "no model").unwrap();
    fails(embed(&place, "esm2_8m", "other", ""), 4, &["esm2_8m"]);
}

#[test]
fn what_is_not_in_the_cache_is_said_with_the_command_that_brings_it() {
    let place = Place::new(3);
    let cache = place.path("cache");
    fails(
        embed(&place, "esm2_8m", "out", ""),
        4,
        &[
            &format!(
                "error: facebook/esm2_t6_8M_UR50D is not in the cache ({}), and HF_HUB_OFFLINE forbids to \
                 download it\n",
                cache.display()
            ),
            "hint: run `hf download facebook/esm2_t6_8M_UR50D` with the same cache on a machine that \
             has a network, or unset HF_HUB_OFFLINE\n",
        ],
    );
    let mut other = embed(&place, "a/b@v2", "out", "");
    other
        .env_remove("HF_HUB_OFFLINE")
        .env("TRANSFORMERS_OFFLINE", "1");
    fails(
        other,
        4,
        &[
            "a/b@v2 is not in the cache",
            "TRANSFORMERS_OFFLINE forbids",
            "`hf download a/b --revision v2`",
        ],
    );
    let snapshot = put(&place, "facebook/esm2_t6_8M_UR50D", COMMIT, "main");
    fs::remove_file(snapshot.join("model.safetensors")).unwrap();
    fails(
        embed(&place, "esm2_8m", "out", ""),
        4,
        &[
            "in the cache",
            "as a whole: model.safetensors is missing, and HF_HUB_OFFLINE",
        ],
    );
    assert!(!place.path("out").exists());
}

#[test]
fn unknown_names_are_said_with_those_that_resemble_them() {
    let place = Place::new(3);
    fails(
        embed(&place, "esm2_650", "out", ""),
        4,
        &[
            "error: esm2_650: there is no such file or folder, and no model is known by this name\n",
            "hint: perhaps esm2_650m or ",
            "`seqstream models` lists the known names",
        ],
    );
    // A path is no name.
    for path in ["./esm2", "none/at/all", "esm2.pt", "a/model.safetensors"] {
        fails(
            embed(&place, path, "out", ""),
            4,
            &["cannot be read", "check the path"],
        );
    }
}

#[test]
fn the_known_models_are_listed_with_what_the_cache_has() {
    let place = Place::new(1);
    put(&place, "facebook/esm2_t6_8M_UR50D", COMMIT, "main");
    let snapshot = put(&place, "zhihan1996/DNABERT-S", OTHER, "main");
    fs::remove_file(snapshot.join("model.safetensors")).unwrap();
    let run = |words: &[&str]| {
        let mut command = offline(seqstream(), &place);
        command.args(words);
        succeeds(command)
    };
    let text = run(&["models"]);
    let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap();
    assert!(
        line("facebook/esm2_t6_8M_UR50D").ends_with(&format!("commit {COMMIT}")),
        "{text}"
    );
    assert!(
        line("facebook/esm2_t33_650M_UR50D").ends_with("  2.4 GiB  no"),
        "{text}"
    );
    assert!(
        line("zhihan1996/DNABERT-S").ends_with("in part, without model.safetensors"),
        "{text}"
    );
    assert!(
        text.contains(&format!("cache: {}\n", place.path("cache").display())),
        "{text}"
    );
    assert!(text.contains("downloads: not possible here"), "{text}");
    let list: serde_json::Value = serde_json::from_str(&run(&["models", "--json"])).unwrap();
    assert_eq!(list["downloads"], false);
    assert_eq!(list["models"].as_array().unwrap().len(), KNOWN.len());
    assert_eq!(list["models"][0]["cached"], COMMIT);
    assert_eq!(list["models"][0]["short"], "esm2_8m");
    assert_eq!(list["models"][6]["missing"][0], "model.safetensors");
}

#[test]
fn the_known_models_have_the_sizes_that_are_listed() {
    let sizes = [
        ModelConfig::esm2(6, 320, 20),
        ModelConfig::esm2(12, 480, 20),
        ModelConfig::esm2(30, 640, 20),
        ModelConfig::esm2(33, 1280, 20),
        ModelConfig::esm2(36, 2560, 40),
        ModelConfig::esm2(48, 5120, 40),
        ModelConfig::dnabert(12, 768, 12),
        ModelConfig::dnabert(12, 768, 12),
    ];
    let counted = sizes.iter().map(layout::parameters);
    let listed = KNOWN.iter().map(|known| known.parameters);
    assert_eq!(listed.collect::<Vec<_>>(), counted.collect::<Vec<_>>());
}

#[test]
fn the_library_finds_models_by_name() {
    let place = Place::new(1);
    let snapshot = put(&place, "o/m", COMMIT, "main");
    let mut hub = Hub::from_environment();
    hub.cache = Some(Cache::new(place.path("cache")));
    hub.offline = Some("TEST");
    let found = hub::find(Path::new("o/m"), &hub, &mut ()).unwrap();
    let id = Some(format!("o/m@{COMMIT}"));
    assert_eq!(found, Found { path: snapshot, id });
    let error = hub::find(Path::new("o/n"), &hub, &mut ()).unwrap_err();
    assert!(
        matches!(
            error,
            HubError::NotCached {
                by: Some("TEST"),
                ..
            }
        ),
        "{error}"
    );
    // A snapshot that has weights is enough where nothing may be downloaded.
    fs::remove_file(
        place
            .path("cache/models--o--m/snapshots")
            .join(COMMIT)
            .join("config.json"),
    )
    .unwrap();
    assert!(hub::find(Path::new("o/m"), &hub, &mut ()).is_ok());
    hub.cache = None;
    let error = hub::find(Path::new("o/m"), &hub, &mut ()).unwrap_err();
    assert!(matches!(error, HubError::NoCache), "{error}");
}

/// The test runs itself with another environment, since a session takes its names from there.
#[test]
fn a_session_opens_a_model_by_name() {
    use seqstream::{Device, Pool, Request, Session};
    const CHILD: &str = "SEQSTREAM_TEST_SESSION";
    if std::env::var_os(CHILD).is_some() {
        let request = Request {
            layers: vec![2],
            pools: vec![Pool::Mean],
            per_token: false,
        };
        let open = |name: &str| Session::open(Path::new(name), &Device::Cpu, request.clone());
        let mut session = open("esm2_8m").unwrap();
        assert_eq!(session.embed(["MKV"]).unwrap().len(), 1);
        let error = open("esm2_35m").err().unwrap();
        assert!(error.to_string().contains("HF_HUB_OFFLINE"), "{error}");
        assert!(error.remedy().is_some());
        return;
    }
    let place = Place::new(1);
    put(&place, "facebook/esm2_t6_8M_UR50D", COMMIT, "main");
    let mut child = offline(Command::new(std::env::current_exe().unwrap()), &place);
    child
        .args(["--exact", "cache::a_session_opens_a_model_by_name"])
        .env(CHILD, "1");
    assert!(succeeds(child).contains("1 passed"));
}

#[cfg(not(feature = "hub"))]
#[test]
fn a_build_that_cannot_download_says_so() {
    let place = Place::new(1);
    let mut command = embed(&place, "esm2_8m", "out", "");
    command.env_remove("HF_HUB_OFFLINE");
    fails(
        command,
        4,
        &[
            "this build of seqstream cannot download (it lacks the feature `hub`)",
            "hint: run `hf download facebook/esm2_t6_8M_UR50D` with the same cache",
        ],
    );
}
