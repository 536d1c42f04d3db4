//! Two jobs in one directory whose locks are unavailable, are granted to everyone, or were removed.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use crate::preload;
use crate::support::cli::{Place, assert_same, partial, stderr, tree, wait_until};

/// Runs a command on a file system whose locks behave like this, seen from this machine or, with
/// `boot`, from another machine.
fn on<'a>(command: &'a mut Command, flock: &str, boot: Option<&Path>) -> &'a mut Command {
    preload::load(command).env("FAULT_FLOCK", flock);
    if let Some(boot) = boot {
        command.env("FAULT_BOOT", boot);
    }
    command
}

/// Makes a place with an undisturbed job in it, and the file that simulates another machine.
fn place() -> Place {
    let place = Place::new(800);
    place.embed_ok("whole", "");
    std::fs::write(place.path("boot"), "another machine").unwrap();
    place
}

fn resume(place: &Place) -> Command {
    place.embed("out", "--resume")
}

/// Starts a job, and waits until it has begun the first file of a shard.
fn start(place: &Place, command: &mut Command) -> Child {
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    wait_until("a file of a shard", &mut child, || {
        let shard = partial(&place.path("out"), 0).map(std::fs::read_dir);
        shard.is_some_and(|files| files.is_ok_and(|mut files| files.next().is_some()))
    });
    child
}

#[track_caller]
fn fails(output: &Output, code: i32, says: &[&str]) {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for part in says {
        assert!(said.contains(part), "\"{part}\" is not in: {said}");
    }
    assert!(said.contains("hint: "), "{said}");
}

/// Stops the process, so that nothing changes while other jobs are tried.
fn pause(child: &Child) {
    crate::support::cli::signal(child, "STOP");
}

fn go_on(child: &Child) {
    crate::support::cli::signal(child, "CONT");
}

#[test]
fn locks_that_are_not_to_be_had_are_said_and_a_file_stands_for_them() {
    let place = place();
    let out = place.path("out");
    for flock in ["ENOLCK", "ENOSYS", "granted"] {
        let first = start(&place, on(&mut resume(&place), flock, None));
        pause(&first);
        assert!(out.join(".running").exists(), "{flock}");
        let before = tree(&out);
        let running = format!(
            "another seqstream job is running in out: process {} on ",
            first.id()
        );
        let second = on(&mut resume(&place), flock, None).output().unwrap();
        fails(&second, 6, &[&running]);
        // A job for which locks work is refused as well.
        let second = resume(&place).output().unwrap();
        fails(&second, 6, &[&running]);
        assert_eq!(
            tree(&out),
            before,
            "{flock}: nothing of the first job is touched"
        );
        go_on(&first);
        let first = first.wait_with_output().unwrap();
        let said = stderr(&first);
        assert!(first.status.success(), "{said}");
        assert!(
            said.contains("warning: the file system of out has no locks ("),
            "{said}"
        );
        assert_same(&place.path("whole"), &out);
        std::fs::remove_dir_all(&out).unwrap();
    }
}

#[test]
fn locks_that_are_not_to_be_had_leave_a_killed_job_to_be_resumed() {
    let place = place();
    let out = place.path("out");
    let kill = |boot: Option<&Path>| {
        let mut first = start(&place, on(&mut resume(&place), "ENOLCK", boot));
        first.kill().unwrap();
        first.wait().unwrap();
        assert!(out.join(".running").exists());
    };
    // On this machine the program sees that the process has ended.
    kill(None);
    let next = on(&mut resume(&place), "ENOLCK", None).output().unwrap();
    assert!(next.status.success(), "{}", stderr(&next));
    assert_same(&place.path("whole"), &out);
    // From another machine the program cannot see it.
    std::fs::remove_dir_all(&out).unwrap();
    kill(Some(&place.path("boot")));
    let before = tree(&out);
    let next = on(&mut resume(&place), "ENOLCK", None).output().unwrap();
    fails(
        &next,
        6,
        &[
            "out/.running says that process ",
            "it cannot be seen from here",
            "remove out/.running",
        ],
    );
    assert_eq!(tree(&out), before);
    // Follow the hint. Files that may belong to a running job are left, and named.
    std::fs::remove_file(out.join(".running")).unwrap();
    let left: Vec<String> = before
        .into_keys()
        .filter(|n| n.contains(".partial/"))
        .collect();
    let next = on(&mut resume(&place), "ENOLCK", None).output().unwrap();
    let said = stderr(&next);
    assert!(next.status.success(), "{said}");
    let name = left[0].split_once('/').unwrap().0;
    assert!(
        said.contains(&format!("warning: out/{name} is left where it is")),
        "{said}"
    );
    assert!(left.iter().all(|n| out.join(n).exists()));
    // If locks work, the lock says that no job is running.
    let next = resume(&place).output().unwrap();
    assert!(next.status.success(), "{}", stderr(&next));
    assert_same(&place.path("whole"), &out);
}

#[test]
fn locks_that_someone_removed_do_not_let_a_second_job_in() {
    let place = place();
    let out = place.path("out");
    let first = start(&place, &mut resume(&place));
    pause(&first);
    std::fs::remove_file(out.join(".lock")).unwrap();
    let before = tree(&out);
    let second = resume(&place).output().unwrap();
    let running = format!(
        "another seqstream job is running in out: process {} on ",
        first.id()
    );
    fails(&second, 6, &[&running]);
    let mut after = tree(&out);
    after.remove(".lock");
    assert_eq!(after, before);
    go_on(&first);
    assert!(first.wait_with_output().unwrap().status.success());
    assert_same(&place.path("whole"), &out);
}

/// One job has a lock that the other one cannot see, and neither can see the other's process.
#[test]
fn locks_that_are_worth_nothing_let_the_first_to_name_a_shard_win() {
    let place = place();
    let out = place.path("out");
    let boot = place.path("boot");
    let first = start(&place, on(&mut resume(&place), "local", Some(&boot)));
    pause(&first);
    let second = on(&mut resume(&place), "ENOLCK", None).output().unwrap();
    let said = stderr(&second);
    assert!(second.status.success(), "{said}");
    assert!(
        said.contains(" is left where it is, since process "),
        "{said}"
    );
    let mut before = tree(&out);
    let all = before.len();
    before.retain(|name, _| !name.starts_with(".shard-"));
    assert!(before.len() < all);
    go_on(&first);
    let first = first.wait_with_output().unwrap();
    fails(
        &first,
        6,
        &[
            "out/shard-0000",
            " stands already: another job is writing in this directory, too",
        ],
    );
    assert_eq!(
        tree(&out),
        before,
        "the first job removes its own, and nothing else"
    );
    assert_same(&place.path("whole"), &out);
}

/// Locks work on one machine only, as on Lustre: two machines write in one directory, and notice it
/// only when they meet.
#[test]
fn locks_of_one_machine_cost_another_one_its_work_and_no_bytes() {
    let place = place();
    let out = place.path("out");
    let rounds: usize = std::env::var("ROUNDS").map_or(6, |n| n.parse().unwrap());
    let (mut met, mut both) = (0, 0);
    for round in 0..rounds {
        let boot = place.path("boot");
        let spawn = |boot| {
            on(&mut resume(&place), "local", boot)
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        };
        let mut first = spawn(Some(&*boot));
        // They meet at their start, or later.
        if round % 2 == 1 {
            wait_until("a shard", &mut first, || partial(&out, 0).is_some());
        }
        let second = spawn(None);
        let mut succeeded = 0;
        for child in [first, second] {
            let output = child.wait_with_output().unwrap();
            match output.status.code() {
                Some(0) => succeeded += 1,
                _ => {
                    met += 1;
                    fails(
                        &output,
                        6,
                        &["another job is writing in this directory, too"],
                    );
                }
            }
        }
        both += u32::from(succeeded == 2);
        let whole = tree(&place.path("whole"));
        for (name, bytes) in tree(&out).iter().filter(|(n, _)| !n.starts_with('.')) {
            assert!(whole[name] == *bytes, "round {round}: {name} differs");
        }
        let next = resume(&place).output().unwrap();
        assert!(next.status.success(), "{}", stderr(&next));
        assert_same(&place.path("whole"), &out);
        std::fs::remove_dir_all(&out).unwrap();
    }
    println!("{rounds} rounds: {met} jobs met another and ended, in {both} rounds none did");
    assert!(met > 0, "no two jobs met");
}
