//! `--bad-records skip`: what becomes of the records that are bad, and of those around them.

use std::fs::{read, read_to_string, remove_dir_all, write};

use crate::support::cli::*;

/// Good and bad records in shards of two: of the third shard both are bad, and the last record is
/// too long for [`OPTIONS`].
const TEXT: &str = "\
>k1
MKTLL
>k2 # gene caller
*
>k3
MSTN
>tab\\ k4
>k5
Here is the sequence you asked for:
MK
>k6
MK>k7
MK
>k8
PQRKTK
>k9
MKTLLVAGGAKE
";

const GOOD: &str = ">k1\nMKTLL\n>k3\nMSTN\n>k8\nPQRKTK\n";

const OPTIONS: &str = "--bad-records skip --shard-size 2 --max-length 9 --long error --per-token";

const LISTED: &str = "\
name\tfile\trecord\tline\treason
k2\tin.fa\t2\t3\tthe sequence is only a stop codon
tab\\\\\tin.fa\t4\t7\tthe sequence is empty
k5\tin.fa\t5\t9\tthe line is a sentence, not sequence
k6\tin.fa\t6\t12\t'>' stands inside a sequence line (column 3)
k9\tin.fa\t8\t16\tthe sequence has 12 tokens, and the job allows 9
";

fn place() -> Place {
    let place = Place::new(1);
    write(place.path("in.fa"), TEXT).unwrap();
    place
}

fn manifest(place: &Place, out: &str) -> serde_json::Value {
    serde_json::from_slice(&read(place.path(out).join("manifest.json")).unwrap()).unwrap()
}

#[track_caller]
fn done(mut command: std::process::Command) -> String {
    let output = command.output().unwrap();
    let said = stderr(&output);
    assert!(output.status.success(), "{said}");
    said
}

#[test]
fn the_others_are_embedded_as_if_the_bad_ones_were_not_there() {
    let place = place();
    place.embed_fails(
        "stop",
        "",
        3,
        &[
            "record 2 ('k2'), line 3: the sequence is only a stop codon",
            "--bad-records skip",
        ],
    );
    let said = done(place.embed("out", OPTIONS));
    let warning = "warning: 4 bad records are skipped; rejected.tsv will list them (first: in.fa, \
                   record 2 ('k2'), line 3: the sequence is only a stop codon)\n";
    assert!(said.contains(warning), "{said}");
    let summary = "5 bad records skipped, listed in out/rejected.tsv: in.fa, record 2 ('k2'), line 3: \
                   the sequence is only a stop codon; in.fa, record 4 (";
    assert!(said.contains(summary), "{said}");
    let out = place.path("out");
    assert_eq!(read_to_string(out.join("rejected.tsv")).unwrap(), LISTED);
    let manifest = manifest(&place, "out");
    assert_eq!(
        (&manifest["records"], &manifest["input_records"]),
        (&3.into(), &8.into())
    );
    assert_eq!(manifest["counts"]["rejected"], 5);
    assert_eq!(manifest["rejected"].as_array().unwrap().len(), 5);
    assert_eq!(manifest["rejected"][0]["name"], "k2");
    assert_eq!(manifest["rejected"][4]["record"], 8);
    assert_eq!(manifest["job"]["bad_records"], "skip");
    let ids: Vec<String> = (0..4)
        .map(|n| read_to_string(out.join(format!("shard-00000{n}/ids.txt"))).unwrap())
        .collect();
    assert_eq!(ids, ["k1\n", "k3\n", "", "k8\n"]);
    // The list of a shard has the form of the whole list.
    let header = LISTED.split_inclusive('\n').next().unwrap();
    let listed: String = (0..4)
        .map(|n| read_to_string(out.join(format!("shard-00000{n}/rejected.tsv"))).unwrap())
        .map(|list| list.strip_prefix(header).unwrap().to_owned())
        .collect();
    assert_eq!(format!("{header}{listed}"), LISTED);
    write(place.path("in.fa"), GOOD).unwrap();
    let said = done(place.embed("good", OPTIONS));
    assert!(!said.contains("skipped"), "{said}");
    assert_eq!(rows(&out, 2), rows(&place.path("good"), 2));
    assert_eq!(states(&out, 2), states(&place.path("good"), 2));
    assert_eq!(
        read_to_string(place.path("good/rejected.tsv")).unwrap(),
        header
    );
    assert!(!place.path("good/shard-000000/rejected.tsv").exists());
}

#[test]
fn a_job_without_the_option_writes_what_it_always_wrote() {
    let place = Place::new(3);
    done(place.embed("out", ""));
    assert!(!place.path("out/rejected.tsv").exists());
    for name in ["job.json", "manifest.json", "shard-000000/shard.json"] {
        let text = read_to_string(place.path("out").join(name)).unwrap();
        for word in ["bad_records", "rejected", "chains"] {
            assert!(!text.contains(&format!("\"{word}\"")), "{name}: {text}");
        }
    }
}

#[test]
fn a_pipe_gives_the_same_shards_and_list() {
    let place = place();
    done(place.embed("file", OPTIONS));
    let mut piped = place.embed_from("-", "pipe", OPTIONS);
    piped.stdin(std::fs::File::open(place.path("in.fa")).unwrap());
    let said = done(piped);
    assert!(
        said.contains(
            "5 bad records skipped, listed in pipe/rejected.tsv: standard input, record 2"
        ),
        "{said}"
    );
    let listed = read_to_string(place.path("pipe/rejected.tsv")).unwrap();
    assert_eq!(listed.replace("\t-\t", "\tin.fa\t"), LISTED);
    for (name, bytes) in tree(&place.path("file")) {
        let data = name.ends_with(".npy") || name.ends_with(".txt") || name.ends_with("tensors");
        assert!(
            !data || read(place.path("pipe").join(&name)).unwrap() == bytes,
            "{name}"
        );
    }
}

#[test]
fn shares_list_their_own_and_merge_to_the_list_of_one_job() {
    let place = place();
    done(place.embed("whole", OPTIONS));
    for share in ["1/3", "2/3", "3/3"] {
        done(place.embed(&share[..1], &format!("{OPTIONS} --share {share}")));
    }
    let listed = |out: &str| read_to_string(place.path(out).join("rejected.tsv")).unwrap();
    let all: Vec<&str> = LISTED.lines().collect();
    assert_eq!(
        listed("1").lines().collect::<Vec<_>>(),
        [all[0], all[1], all[5]]
    );
    assert_eq!(
        listed("2").lines().collect::<Vec<_>>(),
        all[..1]
            .iter()
            .chain(&all[2..3])
            .copied()
            .collect::<Vec<_>>()
    );
    assert_eq!(
        listed("3").lines().collect::<Vec<_>>(),
        [all[0], all[3], all[4]]
    );
    let mut merge = place.command(env!("CARGO_BIN_EXE_seqstream"));
    merge.args(["merge", "2", "3", "1", "--out", "merged"]);
    done(merge);
    assert_same(&place.path("whole"), &place.path("merged"));
}

#[test]
fn a_resumed_job_writes_the_same_list() {
    let place = place();
    done(place.embed("whole", OPTIONS));
    let resume = format!("{OPTIONS} --resume");
    type Break = fn(&std::path::Path);
    let broken: [(&str, Break); 6] = [
        ("a shard of two bad records", |out| {
            remove_dir_all(out.join("shard-000002")).unwrap()
        }),
        ("all shards", |out| {
            (0..4).for_each(|n| remove_dir_all(out.join(format!("shard-00000{n}"))).unwrap());
        }),
        ("the list", |out| {
            std::fs::remove_file(out.join("rejected.tsv")).unwrap()
        }),
        ("a changed list", |out| {
            write(out.join("rejected.tsv"), "").unwrap()
        }),
        ("a shard's list", |out| {
            std::fs::remove_file(out.join("shard-000000/rejected.tsv")).unwrap();
        }),
        ("a changed list of a shard", |out| {
            let path = out.join("shard-000000/rejected.tsv");
            write(
                &path,
                read_to_string(&path).unwrap().replace("stop", "STOP"),
            )
            .unwrap();
        }),
    ];
    for (what, destroy) in broken {
        destroy(&place.path("whole"));
        let said = done(place.embed("whole", &resume));
        assert_eq!(
            said.contains("is computed again"),
            what.contains("a shard's list") || what.contains("list of a shard"),
            "{what}: {said}"
        );
        assert_eq!(
            read_to_string(place.path("whole/rejected.tsv")).unwrap(),
            LISTED,
            "{what}"
        );
        done(place.embed("fresh", OPTIONS));
        assert_same(&place.path("whole"), &place.path("fresh"));
        remove_dir_all(place.path("fresh")).unwrap();
    }
    let summary = place.embed_ok("whole", &resume);
    assert_eq!(summary["sequences_reused"], 3);
    assert_eq!(summary["rejected"][0]["name"], "k2");
    place.embed_fails(
        "whole",
        "--resume --shard-size 2 --max-length 9 --long error --per-token",
        3,
        &["only a stop codon"],
    );
    // Where only the option differs, the hint names it.
    write(place.path("in.fa"), GOOD).unwrap();
    done(place.embed("good", "--bad-records skip"));
    place.embed_fails(
        "good",
        "--resume",
        6,
        &[
            "bad_records was \"skip\", now \"stop\"",
            "hint: give --bad-records skip, as for that job; or give another --out",
        ],
    );
}

#[test]
fn strict_skips_what_it_would_refuse() {
    let place = Place::new(1);
    write(place.path("in.fa"), ">a\nMKT\n>b\nMkT\n>a\nMKTL\n>c\nMK-\n").unwrap();
    done(place.embed("out", "--bad-records skip --strict"));
    let listed = read_to_string(place.path("out/rejected.tsv")).unwrap();
    let reasons: Vec<&str> = listed
        .lines()
        .skip(1)
        .map(|l| l.rsplit('\t').next().unwrap())
        .collect();
    assert_eq!(
        reasons,
        [
            "column 2: the lower-case letter 'k' (residue 2)",
            "a name that record 1 of the job has, too",
            "column 3: the gap character '-' (residue 3)"
        ]
    );
}

#[test]
fn what_is_no_fault_of_one_record_ends_the_job() {
    let place = Place::new(1);
    for (text, says) in [
        (
            &b">a\nMKT\n>b\n*\n@c\nACGT\n+\nIIII\n"[..],
            "the line begins with '@'",
        ),
        (b">a\nMKT\n>b\nM\0K\n", "a NUL byte"),
        (b">a\nMKT\n>P1;CRAB\ntitle\nMKT*\n", "a PIR file"),
    ] {
        write(place.path("in.fa"), text).unwrap();
        place.embed_fails("out", "--bad-records skip", 3, &[says]);
        assert!(!place.path("out/manifest.json").exists());
    }
    // A value that is not a number is no fault of the record. The number of the record counts those
    // that were skipped before it.
    write(place.path("in.fa"), TEXT).unwrap();
    const Q: usize = 16;
    place.change_model(|name, values| {
        if name.ends_with("word_embeddings.weight") {
            values[Q * 32] = f32::NAN;
        }
    });
    let says = "record \"k8\" (record 7 of the input): layer 2 gave NaN";
    place.embed_fails("out", OPTIONS, 4, &[says]);
    assert!(!place.path("out/manifest.json").exists());
}

#[test]
fn a_job_of_bad_records_alone_is_complete_and_empty() {
    let place = Place::new(1);
    write(place.path("in.fa"), ">a\n*\n>b\n>c\n").unwrap();
    let summary = place.embed_ok("out", "--bad-records skip");
    assert_eq!(
        (&summary["complete"], &summary["sequences"]),
        (&true.into(), &0.into())
    );
    let listed = read_to_string(place.path("out/rejected.tsv")).unwrap();
    assert_eq!(listed.lines().count(), 4);
    let rows = read(place.path("out/shard-000000/layer_2.npy")).unwrap();
    assert!(rows.len() == 128 && String::from_utf8_lossy(&rows).contains("(0, 32)"));
}

#[test]
fn tokenize_and_bench_skip_them_too() {
    let place = place();
    let run = |options: &str| {
        let mut command = place.command(env!("CARGO_BIN_EXE_seqstream"));
        command.args(options.split_whitespace());
        command.output().unwrap()
    };
    let output = run("tokenize in.fa -m model --bad-records skip");
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let names: Vec<&str> = text.lines().map(|l| l.split('"').nth(3).unwrap()).collect();
    assert_eq!(names, ["k1", "k3", "k8", "k9"]);
    let said = stderr(&output);
    assert!(said.contains("warning: 4 bad records were skipped (first: in.fa, record 2 ('k2'), line 3: the sequence is only a stop codon)"), "{said}");
    let output = run("tokenize in.fa -m model");
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let bench = "bench --fasta in.fa -m model --rounds 1 --tokens 50 --threads 1 --verbose";
    assert_eq!(run(bench).status.code(), Some(3));
    let output = run(&format!("{bench} --bad-records skip"));
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("4 sequences, tokenized at"),
        "{}",
        stderr(&output)
    );
    assert!(
        stderr(&output).contains("; 4 bad records skipped"),
        "{}",
        stderr(&output)
    );
}
