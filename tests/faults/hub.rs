//! A download into the cache of the Hub, whose calls on files fail one after the other.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use seqstream::architecture::ModelConfig;

use crate::preload::{self, Call, Kind};
use crate::support::cli::{Place, stderr};
use crate::support::hub::{COMMIT, FakeHub, Faults, ID, etag};

fn place() -> (Place, FakeHub) {
    let place = Place::new(1);
    fs::remove_dir_all(place.path("model")).unwrap();
    place.model("model", ModelConfig::esm2(2, 96, 4), 1);
    let hub = FakeHub::of(&place.path("model"));
    (place, hub)
}

fn inspect(place: &Place, hub: &FakeHub) -> Command {
    let mut command = place.command(env!("CARGO_BIN_EXE_seqstream"));
    command.args(["inspect", ID]);
    hub.serve(&mut command, &place.path("cache"));
    command
}

/// Whatever has its final name is what the Hub has; `whole` says whether all of it is there.
fn standing(place: &Place, hub: &FakeHub, whole: bool) -> Result<(), String> {
    let folder = place.path("cache/models--facebook--esm2_t6_8M_UR50D");
    let snapshot = folder.join("snapshots").join(COMMIT);
    let mut found = 0;
    for (name, bytes) in hub.files.iter() {
        let blob = folder.join("blobs").join(etag(name, bytes));
        for path in [&blob, &snapshot.join(name)] {
            match fs::read(path) {
                Ok(content) if content == *bytes => found += 1,
                Ok(_) => return Err(format!("{} has other bytes", path.display())),
                // A link may lead nowhere only if it could not be followed for other reasons.
                Err(_) if fs::symlink_metadata(path).is_ok() => {
                    return Err(format!("{} leads nowhere", path.display()));
                }
                Err(_) => {}
            }
        }
    }
    let reference = fs::read_to_string(folder.join("refs/main"));
    if reference.as_ref().is_ok_and(|text| text != COMMIT) {
        return Err(format!("refs/main is {reference:?}"));
    }
    // config.json and the weights, each twice.
    match found == 4 && reference.is_ok() {
        true => Ok(()),
        false if whole => Err("not all of it is there".into()),
        false if reference.is_ok() => Err("refs/main means a part of the model".into()),
        false => Ok(()),
    }
}

fn try_out(kind: Kind, call: &Call, place: &Place, hub: &FakeHub) -> Result<(), String> {
    let _ = fs::remove_dir_all(place.path("cache"));
    let mut command = inspect(place, hub);
    let output = preload::disturb(&mut command, call.number, kind)
        .output()
        .unwrap();
    let said = stderr(&output);
    let status = output.status;
    let may = match kind {
        Kind::Signal(signal) => status.success() || status.signal() == Some(signal),
        Kind::Short | Kind::Interrupt => status.success(),
        Kind::Fail | Kind::Full => status.success() || said.contains("error: "),
    };
    if !may || said.contains("panicked") {
        return Err(format!("it may not end so ({status:?}): {said}"));
    }
    standing(place, hub, false)?;
    let again = inspect(place, hub).output().unwrap();
    if !again.status.success() {
        return Err(format!("the next run fails: {}", stderr(&again)));
    }
    standing(place, hub, true)
}

#[test]
fn sweep_whatever_call_fails_the_next_run_has_the_model() {
    let every: usize =
        std::env::var("FAULT_EVERY").map_or(7, |n| n.parse().expect("FAULT_EVERY is a number"));
    let (place, hub) = place();
    let calls = preload::calls(&mut inspect(&place, &hub), false);
    let names = ["fsync", "rename", "unlink", "mkdir", "ftruncate64"];
    assert!(
        names
            .iter()
            .filter(|n| calls.iter().any(|c| c.operation == **n))
            .count()
            >= 3
    );
    let (mut wrong, mut tried) = (Vec::new(), 0);
    for kind in [Kind::Fail, Kind::Full, Kind::Signal(9), Kind::Short] {
        let short = |call: &Call| ["read", "write"].contains(&call.operation.as_str());
        let suits = calls
            .iter()
            .filter(|call| kind != Kind::Short || short(call));
        for (i, call) in suits.enumerate() {
            let always = kind != Kind::Short && names.contains(&call.operation.as_str());
            if !always && i % every != 0 {
                continue;
            }
            tried += 1;
            if let Err(what) = try_out(kind, call, &place, &hub) {
                let (operation, path) = (&call.operation, call.path.display());
                wrong.push(format!(
                    "{kind:?} at call {}, {operation} {path}: {what}",
                    call.number
                ));
            }
        }
    }
    assert!(tried > 30, "{tried}");
    assert!(
        wrong.is_empty(),
        "{} of {tried}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// On some network file systems every process gets the lock that it asks for.
#[test]
fn processes_that_all_have_the_lock_publish_the_right_bytes() {
    let (place, hub) = place();
    hub.set(Faults {
        cut: Some(150_000),
        ..Faults::default()
    });
    for flock in ["granted", "ENOLCK"] {
        let _ = fs::remove_dir_all(place.path("cache"));
        let start = || {
            let mut command = inspect(&place, &hub);
            preload::load(&mut command).env("FAULT_FLOCK", flock);
            command
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        };
        let children: Vec<_> = (0..3).map(|_| start()).collect();
        for child in children {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{flock}: {}", stderr(&output));
        }
        standing(&place, &hub, true).unwrap();
    }
}
