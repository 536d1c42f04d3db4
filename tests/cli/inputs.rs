//! Options that decide how a text becomes records and tokens, and what is said of a pipe.

use std::fs::{File, read, read_to_string, write};
use std::process::Output;

use crate::support::cli::*;

fn piped(place: &Place, out: &str, options: &str) -> Output {
    let mut command = place.embed_from("-", out, options);
    command.stdin(File::open(place.path("in.fa")).unwrap());
    command.output().unwrap()
}

#[test]
fn a_record_is_split_at_its_colons() {
    let place = Place::new(1);
    write(place.path("in.fa"), ">m of two\nMKTLL:MS\nTN\n>b\nPQRK\n").unwrap();
    let output = place.embed("split", "--chains split").output().unwrap();
    let said = stderr(&output);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("2 chains that became records of their own"),
        "{said}"
    );
    assert!(!said.contains("warning"), "{said}");
    let ids = read_to_string(place.path("split/shard-000000/ids.txt")).unwrap();
    assert_eq!(ids, "m:1\nm:2\nb\n");
    let manifest = read(place.path("split/manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["counts"]["chains"], 2);
    assert_eq!(manifest["job"]["chains"], "split");
    assert_eq!(manifest["records"], 3);
    place.embed_ok("strict", "--chains split --strict");
    write(place.path("in.fa"), ">x\nMKTLL\n>y\nMSTN\n>b\nPQRK\n").unwrap();
    place.embed_ok("apart", "");
    assert_eq!(rows(&place.path("split"), 2), rows(&place.path("apart"), 2));
    place.embed_fails(
        "apart",
        "--resume --chains split",
        6,
        &["chains was \"keep\", now \"split\""],
    );
    write(place.path("in.fa"), ">m\nMKTLL::MSTN\n").unwrap();
    place.embed_fails(
        "empty",
        "--chains split",
        3,
        &["record 1 ('m:2'), line 1: the sequence is empty"],
    );
}

#[test]
fn shares_of_split_records_merge() {
    let place = Place::new(1);
    write(
        place.path("in.fa"),
        ">m\nMKTLL:MSTN:PQR\n>b\nPQRK\n>c\nM:K\n",
    )
    .unwrap();
    let options = "--chains split --shard-size 2";
    place.embed_ok("whole", options);
    place.embed_ok("1", &format!("{options} --share 1/2"));
    place.embed_ok("2", &format!("{options} --share 2/2"));
    let mut merge = place.command(env!("CARGO_BIN_EXE_seqstream"));
    merge.args(["merge", "1", "2", "--out", "merged"]);
    assert!(merge.output().unwrap().status.success());
    assert_same(&place.path("whole"), &place.path("merged"));
}

#[test]
fn a_pipe_is_warned_of_at_the_end_in_the_words_for_a_file() {
    let place = Place::new(1);
    let dna = "ACGTAGCATCGGATCTATCTATCGACACTTGG";
    write(
        place.path("in.fa"),
        format!(">a\n{dna}\n>a\nMK-T\n>c\nMK:T\n"),
    )
    .unwrap();
    let warnings = |output: &Output| -> Vec<String> {
        let said = stderr(output);
        assert!(output.status.success(), "{said}");
        let lines = said.lines().filter(|line| line.starts_with("warning"));
        lines.map(str::to_owned).collect()
    };
    let file = warnings(&place.embed("file", "").output().unwrap());
    assert_eq!(file.len(), 4, "{file:?}");
    assert_eq!(warnings(&piped(&place, "pipe", "")), file);
    // Strict refuses each when it comes.
    for (text, says) in [
        (format!(">a\n{dna}\n"), "this looks like DNA"),
        (
            ">a\nMKT\n>a\nMKT\n".into(),
            "a name that record 1 of the job has, too",
        ),
        (">a\nMKT\n>b\nMK-T\n".into(), "the gap character '-'"),
        (">a\nMK:T\n".into(), "a ':' between two chains"),
    ] {
        write(place.path("in.fa"), text).unwrap();
        let output = piped(&place, "strict", "--strict");
        assert_eq!(output.status.code(), Some(3));
        assert!(stderr(&output).contains(says), "{}", stderr(&output));
        std::fs::remove_dir_all(place.path("strict")).unwrap();
    }
}

#[test]
fn a_piped_file_of_bgzip_without_its_end_is_warned_of() {
    let place = Place::new(1);
    // A block of bgzip: a member of gzip with the extra field BC.
    let mut block = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x06\0BC\x02\0".to_vec();
    let text = b">a\nMKTLL\n";
    // One stored block of deflate.
    let mut deflated = vec![1];
    deflated.extend((text.len() as u16).to_le_bytes());
    deflated.extend((!(text.len() as u16)).to_le_bytes());
    deflated.extend(text);
    block.extend((deflated.len() as u16 + 25).to_le_bytes());
    block.extend(&deflated);
    let mut crc = flate2::Crc::new();
    crc.update(text);
    block.extend(crc.sum().to_le_bytes());
    block.extend((text.len() as u32).to_le_bytes());
    write(place.path("in.fa"), block).unwrap();
    let output = piped(&place, "out", "");
    let warning = "warning: -: the end marker of bgzip is missing; the file may be cut short\n";
    assert!(stderr(&output).contains(warning), "{}", stderr(&output));
    let output = piped(&place, "strict", "--strict");
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
}

#[test]
fn tokenize_takes_the_options_of_embed() {
    let place = Place::new(1);
    write(place.path("in.fa"), ">a one\nMK-T\n>m\nM:K\n").unwrap();
    let run = |options: &str| {
        let mut command = place.command(env!("CARGO_BIN_EXE_seqstream"));
        command.args(["tokenize", "in.fa", "-m", "model"]);
        command.args(options.split_whitespace());
        let output = command.output().unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    let plain = "{\"id\":\"a\",\"ids\":[0,20,15,30,11,2]}\n";
    let chains = "{\"id\":\"m\",\"ids\":[0,20,3,15,2]}\n";
    assert_eq!(run(""), (Some(0), format!("{plain}{chains}")));
    let ungapped = "{\"id\":\"a one\",\"ids\":[0,20,15,11,2]}\n";
    assert_eq!(
        run("--gaps drop --names header"),
        (Some(0), format!("{ungapped}{chains}"))
    );
    let split = "{\"id\":\"m:1\",\"ids\":[0,20,2]}\n{\"id\":\"m:2\",\"ids\":[0,15,2]}\n";
    assert_eq!(run("--chains split"), (Some(0), format!("{plain}{split}")));
    assert_eq!(run("--gaps drop --clean off").0, Some(2));
}

#[test]
fn poolings_are_a_list_with_a_file_for_each() {
    let place = Place::new(5);
    let output = place
        .embed("all", "--pool max,mean,cls,max --per-token")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let shard = |out: &str, name: &str| read(place.path(out).join("shard-000000").join(name));
    for pool in ["max", "mean", "cls"] {
        place.embed_ok(pool, &format!("--pool {pool}"));
        let of_many = shard("all", &format!("layer_2_{pool}.npy")).unwrap();
        assert!(of_many == shard(pool, "layer_2.npy").unwrap(), "{pool}");
    }
    assert!(shard("all", "layer_2.npy").is_err() && shard("all", "layer_2.safetensors").is_ok());
    // The greatest value of each dimension over the residues, from the states.
    let states = states(&place.path("all"), 2);
    let ids = read_to_string(place.path("in.fa")).unwrap();
    let lengths: Vec<usize> = ids.lines().skip(1).step_by(2).map(str::len).collect();
    let maxima = floats(&shard("max", "layer_2.npy").unwrap()[128..]);
    let mut row = 0;
    for (length, got) in lengths.into_iter().zip(maxima.chunks(32)) {
        let rows = states[row * 32..(row + length) * 32].chunks(32);
        let wanted = rows.fold([f32::MIN; 32], |most, row| {
            std::array::from_fn(|d| most[d].max(row[d]))
        });
        assert_eq!(got, wanted);
        row += length;
    }
    assert_eq!(row * 32, states.len());
    let job = read_to_string(place.path("all/job.json")).unwrap();
    assert!(job.contains("\"pool\": \"max,mean,cls\""), "{job}");
    place.embed_fails(
        "none",
        "--pool mean,none --per-token",
        2,
        &["--pool none cannot go"],
    );
}
