//! What a user sees if finished output is not what its job made, or cannot be read.
#![cfg(unix)]

use crate::support::cli::*;
use seqstream::architecture::ModelConfig;
use std::fs;
use std::process::Command;

fn merge(place: &Place, sources: &[&str], out: &str) -> Command {
    let mut command = place.command(env!("CARGO_BIN_EXE_seqstream"));
    command.arg("merge").args(sources).args(["--out", out]);
    command
}

/// Runs a script in a shell, in the directory of `place`.
fn shell(place: &Place, script: &str) {
    let status = place.command("sh").args(["-ec", script]).status();
    assert!(status.unwrap().success(), "{script}");
}

#[test]
fn resume_says_which_shards_are_computed_again_and_why() {
    let place = Place::new(50);
    place.embed_ok("whole", "");
    place.embed_ok("layer1", "--layers 1");
    place.model("model2", ModelConfig::esm2(2, 32, 4), 2);
    shell(&place, "mv model model1; mv model2 model");
    place.embed_ok("model2", "");
    shell(
        &place,
        "mv model other; mv model1 model; cp -r whole out; cd out; rm -r shard-000000 shard-000001 manifest.json
         cp -r ../model2/shard-000000 ../layer1/shard-000001 .
         printf X | dd of=shard-000002/layer_2.npy bs=1 seek=300 conv=notrunc status=none",
    );
    let output = place.embed("out", "--resume").output().unwrap();
    let text = stderr(&output);
    assert!(output.status.success(), "{text}");
    let warnings: Vec<&str> = text
        .lines()
        .filter(|l| l.starts_with("warning: "))
        .collect();
    assert_eq!(
        warnings,
        [
            "warning: out/shard-000000 is computed again: it was made by another job",
            "warning: out/shard-000001 is computed again: it was made by another job",
            "warning: out/shard-000002 is computed again: layer_2.npy was changed: it has not the hash that shard.json gives",
        ]
    );
    assert!(
        text.contains("3 shards computed, 2 sequences stood already"),
        "{text}"
    );
    assert_same(&place.path("whole"), &place.path("out"));
}

#[test]
fn merge_refuses_what_is_not_its_share() {
    let place = Place::new(50);
    for i in 1..=2 {
        place.embed_ok(&format!("part{i}"), &format!("--share {i}/2"));
    }
    place.embed_ok("layer1", "--share 2/2 --layers 1");
    shell(
        &place,
        "cp -r part2 changed; rm -r changed/shard-000001; cp -r layer1/shard-000001 changed
         cp -r part2 stray; ln -s /etc/passwd stray/shard-000001/pw
         cp -r part2 less; rm less/shard-000001/shard.json
         cp -r part1 first; cp layer1/job.json first",
    );
    let refused = |sources: &[&str], says: &[&str]| {
        fails(merge(&place, sources, "out"), 6, says);
        assert!(!place.path("out").exists(), "{says:?}");
    };
    refused(
        &["part1", "changed"],
        &[
            "changed/shard-000001 is not what its job made: it was made by another job",
            "with --resume",
        ],
    );
    refused(&["part1", "stray"], &["holds \"pw\"", "move it elsewhere"]);
    refused(
        &["part1", "less"],
        &[
            "less/shard-000001 is not what its job made: it has no shard.json",
            "with --resume",
        ],
    );
    refused(
        &["first", "part2"],
        &[
            "the job.json and the manifest.json of first are of different jobs: layers was [1], now [2]",
        ],
    );
    // The advice of the hint works.
    place.embed_ok("changed", "--share 2/2 --resume");
    place.embed_ok("less", "--share 2/2 --resume");
    assert_same(&place.path("part2"), &place.path("changed"));
    assert_same(&place.path("part2"), &place.path("less"));
}

#[test]
fn a_merge_without_space_can_be_given_again() {
    let place = Place::new(150);
    place.embed_ok("whole", "");
    for i in 1..=2 {
        place.embed_ok(&format!("part{i}"), &format!("--share {i}/2"));
    }
    let merge = merge(&place, &["part1", "part2"], "out");
    let mut limited = place.command("sh");
    // Files have at most 2 kB (1 kB if the shell's block is 512 bytes): too little for the
    // manifest.
    limited.args(["-c", "trap '' XFSZ; ulimit -f 2; exec \"$@\"", "sh"]);
    limited.arg(merge.get_program()).args(merge.get_args());
    fails(
        limited,
        5,
        &[
            "cannot write",
            "run the same merge again: it goes on where it ended",
        ],
    );
    assert!(!place.path("out/manifest.json").exists());
    let mut merge = merge;
    assert!(merge.status().unwrap().success());
    assert_same(&place.path("whole"), &place.path("out"));
}

/// Returns a file that can be opened, but gives an I/O error when it is read.
#[cfg(target_os = "linux")]
const UNREADABLE: &str = "/proc/self/mem";

#[cfg(target_os = "linux")]
#[test]
fn what_cannot_be_read_is_to_be_tried_again() {
    let place = Place::new(40);
    place.embed_ok("out", "--share 1/2");
    place.embed_ok("rest", "--share 2/2");
    for name in ["job.json", "manifest.json"] {
        let file = place.path("out").join(name);
        fs::rename(&file, place.path("kept")).unwrap();
        std::os::unix::fs::symlink(UNREADABLE, &file).unwrap();
        for command in [
            place.embed("out", "--share 1/2 --resume"),
            merge(&place, &["out", "rest"], "whole"),
        ] {
            let says = [
                "cannot read",
                name,
                "Input/output error",
                "run the same command again",
            ];
            fails(command, 5, &says);
        }
        fs::remove_file(&file).unwrap();
        fs::rename(place.path("kept"), &file).unwrap();
    }
    place.embed_ok("out", "--share 1/2 --resume");
}

#[test]
fn a_pipe_in_place_of_a_file_holds_nothing_up() {
    let place = Place::new(40);
    place.embed_ok("out", "");
    shell(&place, "mv out/job.json kept; mkfifo out/job.json");
    place.embed_fails(
        "out",
        "--resume",
        6,
        &["job.json is not what seqstream writes: it is no regular file"],
    );
    shell(
        &place,
        "mv kept out/job.json; rm out/manifest.json; mkfifo out/manifest.json",
    );
    fails(
        merge(&place, &["out"], "whole"),
        6,
        &["manifest.json is not what seqstream writes"],
    );
    place.embed_ok("out", "--resume");
    assert!(merge(&place, &["out"], "whole").status().unwrap().success());
}

#[test]
fn output_without_its_job_is_not_told_to_resume() {
    let place = Place::new(20);
    place.embed_ok("out", "");
    fs::remove_file(place.path("out/job.json")).unwrap();
    for options in ["", "--resume"] {
        let output = place.embed("out", options).output().unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(6), "{text}");
        assert!(
            text.contains("no job.json that says which job made it"),
            "{text}"
        );
        assert!(
            text.contains("hint: ") && !text.contains("--resume"),
            "{text}"
        );
    }
}

#[test]
fn one_share_of_very_many() {
    let place = Place::new(5);
    for (share, sequences) in [("1", 1), ("5", 1), ("6", 0), ("18446744073709551615", 0)] {
        let options = format!("--share {share}/18446744073709551615 --shard-size 1");
        let summary = place.embed_ok(&format!("out{share}"), &options);
        assert_eq!(summary["sequences"], sequences, "{share}");
    }
    let beyond = "--share 1/18446744073709551616";
    place.embed_fails("out", beyond, 2, &["is not a share"]);
}
