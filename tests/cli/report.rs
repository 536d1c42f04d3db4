//! `seqstream report`: its numbers are those of the manifest, and nothing in it is markup but its
//! own.

use std::fs;
use std::process::Command;

use crate::support::cli::*;

fn report(place: &Place, out: &str) -> Command {
    let mut command = place.command(env!("CARGO_BIN_EXE_seqstream"));
    command.args(["report", out]);
    command
}

#[track_caller]
fn report_ok(place: &Place, out: &str) -> (String, serde_json::Value) {
    let output = report(place, out).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let read = |name: &str| fs::read_to_string(place.path(out).join(name)).unwrap();
    let multiqc = serde_json::from_str(&read("seqstream_mqc.json")).unwrap();
    (read("report.html"), multiqc)
}

fn manifest(place: &Place, out: &str) -> serde_json::Value {
    let bytes = fs::read(place.path(out).join("manifest.json")).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// Returns the value beside a name in a table of the page.
#[track_caller]
fn cell(page: &str, name: &str) -> String {
    let row = format!("<th scope=\"row\">{name}</th><td");
    let at = page
        .find(&row)
        .unwrap_or_else(|| panic!("{name} is not in {page}"));
    let rest = &page[at + row.len()..];
    let start = rest.find('>').unwrap() + 1;
    rest[start..rest.find("</td>").unwrap()].to_owned()
}

fn number(text: &str) -> u64 {
    text.replace(',', "").parse().unwrap()
}

#[test]
fn the_numbers_are_those_of_the_manifest() {
    let place = Place::new(60);
    // Letters that are counted, and one record that is bad.
    let mut text = fasta(60);
    text += ">soft\nmktayiakqr\n>odd\nMKJJJ\n>empty\n>last\nMKTAYIAKQRQISFVKSHFSRQ\n";
    fs::write(place.path("in.fa"), text).unwrap();
    place.embed_ok("out", "--bad-records skip --max-length 100");
    let (page, multiqc) = report_ok(&place, "out");
    let manifest = manifest(&place, "out");
    let whole = |name: &str| manifest[name].as_u64().unwrap();
    assert_eq!(number(&cell(&page, "sequences")), whole("records"));
    assert_eq!(number(&cell(&page, "tokens computed")), whole("tokens"));
    assert_eq!(
        number(&cell(&page, "sequences in the whole input")),
        whole("input_records")
    );
    let shards = manifest["shards"].as_array().unwrap().len() as u64;
    assert_eq!(number(&cell(&page, "shards")), shards);
    let row = &multiqc["data"]["out"];
    assert_eq!(multiqc["plot_type"], "table");
    assert_eq!(row["sequences"], manifest["records"]);
    assert_eq!(row["tokens"], manifest["tokens"]);
    let counts = manifest["counts"].as_object().unwrap();
    let texts = [
        ("lowercase", "lower-case letters upper-cased"),
        ("unknown", "characters outside the alphabet"),
        ("truncated", "sequences truncated"),
        ("rejected", "bad records skipped"),
    ];
    for (name, text) in texts {
        let n = counts[name].as_u64().unwrap();
        assert!(n > 0, "{name}");
        assert_eq!(number(&cell(&page, text)), n, "{name}");
        assert_eq!(row[name], n, "{name}");
        assert!(multiqc["headers"][name]["title"].is_string(), "{name}");
    }
    // What is not in the manifest's counts is not in the table.
    let met = counts.values().filter(|n| n.as_u64().unwrap() > 0).count();
    // The residues are counted as well.
    assert_eq!(met, texts.len() + 1, "{counts:?}");
    assert_eq!(cell(&page, "residues"), cell(&page, "letters"));
    // Hashes and options.
    let hash = blake3::hash(&fs::read(place.path("out/manifest.json")).unwrap());
    assert_eq!(
        cell(&page, "BLAKE3 of manifest.json"),
        hash.to_hex().as_str()
    );
    let job = &manifest["job"];
    assert_eq!(
        cell(&page, "model.blake3"),
        job["model"]["blake3"].as_str().unwrap()
    );
    assert_eq!(
        cell(&page, "inputs.1.blake3"),
        job["inputs"][0]["blake3"].as_str().unwrap()
    );
    assert_eq!(cell(&page, "seqstream"), env!("CARGO_PKG_VERSION"));
    // The lengths are of all records that could be read: the empty one is bad by itself.
    let read = number(&cell(&page, "sequences read"));
    assert!(read == 64 || read == 63, "{read}");
    assert_eq!(cell(&page, "longest"), "120");
    // A map with a point and a name for each row.
    assert_eq!(page.matches("fill-opacity='0.6'").count(), 63);
    assert!(page.contains("<title>protein7</title>"));
    assert!(page.contains("Tokens per second") && page.contains("Who waited for whom"));
    assert_eq!(cell(&page, "sequences computed"), "63");
}

#[test]
fn a_report_loads_nothing_and_names_are_no_markup() {
    let place = Place::new(1);
    let bad = "</title><script>alert(1)</script><img/onerror=x>'\"&amp;";
    let records = (0..5).map(|i| format!(">{bad}{i}\n{}\n", "MKTAYIAKQR".repeat(i + 1)));
    let file = "<b>&'.fa";
    fs::write(place.path(file), records.collect::<String>() + ">x\u{1}\n").unwrap();
    let out = "<i>out";
    let output = place
        .embed_from(file, out, "--bad-records skip")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let (page, multiqc) = report_ok(&place, out);
    for markup in [
        "<script", "<img", "<b>", "<i>", "src=", "href", "url(", "@import", "\u{1}",
    ] {
        assert!(!page.contains(markup), "{markup}");
    }
    let names = page.matches("&lt;/title&gt;&lt;script&gt;alert(1)").count();
    assert_eq!(names, 5);
    assert!(page.contains("&lt;b&gt;&amp;&#39;.fa") && page.contains("seqstream: &lt;i&gt;out"));
    assert!(!page.contains("http"), "the page names no other place");
    assert!(multiqc["data"][out].is_object());
}

#[test]
fn a_job_goes_on_beside_its_report_and_runs_add_up() {
    let place = Place::new(60);
    place.embed_ok("whole", "");
    place.embed_ok("out", "");
    report_ok(&place, "out");
    fs::remove_dir_all(place.path("out/shard-000001")).unwrap();
    fails(
        report(&place, "out"),
        6,
        &["out/shard-000001 is not what its job made: it is not there"],
    );
    place.embed_ok("out", "--resume");
    let (page, multiqc) = report_ok(&place, "out");
    assert!(page.contains("<p>Run 1</p>") && page.contains("<p>Run 2</p>"));
    assert!(page.contains(
        "<th scope=\"row\">sequences that stood already</th><td class=\"number\">44</td>"
    ));
    assert_eq!(multiqc["data"]["out"]["sequences"], 60);
    // Neither the report nor the record of the runs changes the output.
    for name in ["report.html", "seqstream_mqc.json"] {
        fs::remove_file(place.path("out").join(name)).unwrap();
    }
    assert_same(&place.path("whole"), &place.path("out"));
    let lines = fs::read_to_string(place.path("out/.runs.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 2);
}

#[test]
fn outputs_without_a_record_of_their_runs_have_a_report() {
    let place = Place::new(40);
    for i in 1..=2 {
        place.embed_ok(&format!("part{i}"), &format!("--share {i}/2"));
    }
    let mut merge = place.command(env!("CARGO_BIN_EXE_seqstream"));
    merge.args(["merge", "part1", "part2", "--out", "whole", "-q"]);
    assert!(merge.status().unwrap().success());
    let (page, _) = report_ok(&place, "whole");
    assert!(page.contains("The lengths are not known"), "{page}");
    assert!(page.contains("No run of this job left a record"), "{page}");
    assert_eq!(number(&cell(&page, "sequences")), 40);
    // The share's own lengths are those of its records alone.
    let (page, _) = report_ok(&place, "part2");
    assert_eq!(number(&cell(&page, "sequences read")), 16);
    // Two rows have no plane; no records have no rows.
    fs::write(place.path("in.fa"), fasta(2)).unwrap();
    place.embed_ok("two", "");
    assert!(report_ok(&place, "two").0.contains("There is no map"));
    place.embed_ok("none", "--share 9/9");
    assert!(report_ok(&place, "none").0.contains("There is no map"));
}

#[test]
fn states_alone_have_a_map_and_a_report_can_lie_elsewhere() {
    let place = Place::new(20);
    place.embed_ok(
        "out",
        "--per-token --pool none --layers 1,2 --output-dtype f16",
    );
    let mut command = report(&place, "out");
    command.args(["--html", "page.html", "--name", "sample<1>"]);
    assert!(command.status().unwrap().success());
    let page = fs::read_to_string(place.path("page.html")).unwrap();
    assert_eq!(page.matches("fill-opacity='0.6'").count(), 20);
    assert!(
        page.contains("Layer 2, mean over the stored states"),
        "{page}"
    );
    assert!(
        page.contains("<h1>seqstream: sample&lt;1&gt;</h1>"),
        "{page}"
    );
    let multiqc = fs::read(place.path("out/seqstream_mqc.json")).unwrap();
    let multiqc: serde_json::Value = serde_json::from_slice(&multiqc).unwrap();
    assert_eq!(multiqc["data"]["sample<1>"]["sequences"], 20);
    assert!(!place.path("out/report.html").exists());
    let mut command = report(&place, "out");
    command.args(["--html", "no/such/page.html"]);
    fails(command, 5, &["cannot", "no/such/page.html"]);
}

#[test]
fn a_job_without_its_record_is_complete_and_a_strange_record_is_left_out() {
    let place = Place::new(20);
    place.embed_ok("whole", "");
    let runs = place.path("whole/.runs.jsonl");
    fs::write(
        &runs,
        "{\"device\": 7}\nnothing\n{\"lengths\":{\"bins\":[1,2],\"sequences\":3}}\n",
    )
    .unwrap();
    let (page, _) = report_ok(&place, "whole");
    assert!(page.contains("<p>Run 1</p>") && !page.contains("<p>Run 2</p>"));
    fs::remove_file(&runs).unwrap();
    report_ok(&place, "whole");
    fs::create_dir(&runs).unwrap();
    fails(report(&place, "whole"), 5, &["cannot read", ".runs.jsonl"]);
}

/// The page takes the place of an older page, and of nothing else: as root, it would replace devices.
#[test]
#[cfg(unix)]
fn a_page_replaces_no_link_and_no_directory() {
    let place = Place::new(3);
    place.embed_ok("out", "");
    fs::write(place.path("target"), "mine").unwrap();
    std::os::unix::fs::symlink("target", place.path("link")).unwrap();
    fs::create_dir(place.path("folder")).unwrap();
    for name in ["link", "folder"] {
        let output = report(&place, "out")
            .args(["--html", name])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
        assert!(
            stderr(&output).contains("no regular file"),
            "{}",
            stderr(&output)
        );
    }
    assert!(place.path("link").is_symlink());
    assert_eq!(fs::read_to_string(place.path("target")).unwrap(), "mine");
}
