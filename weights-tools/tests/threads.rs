//! Where the system starts no thread.
#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

#[test]
fn threads_that_cannot_be_had_are_an_error() {
    let dir = tempfile::tempdir().unwrap();
    // The program where anyone may run it, and a directory where anyone may write.
    let program = dir.path().join("weights-tools");
    fs::copy(env!("CARGO_BIN_EXE_weights-tools"), &program).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let make = "random --kind esm2 --layers 1 --hidden 8 --heads 1 --out";
    let make = |out: &str| -> Vec<String> {
        let words = make.split(' ').map(String::from);
        words.chain([out.to_owned()]).collect()
    };
    let made = Command::new(&program)
        .args(make("model"))
        .current_dir(dir.path())
        .status();
    assert!(made.unwrap().success());
    let root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    for arguments in [make("other"), vec!["verify".into(), "model".into()]] {
        let mut command = Command::new("prlimit");
        command.arg("--nproc=1").arg(&program).args(&arguments);
        command.current_dir(dir.path());
        if root {
            // No such limit holds for root.
            command.uid(65534).gid(65534);
        }
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
        assert!(
            text.contains("cannot start a thread"),
            "{arguments:?}: {text}"
        );
        assert!(text.contains("ulimit -u"), "{arguments:?}: {text}");
    }
}
