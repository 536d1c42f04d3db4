//! What a user sees if the input is not what the model reads: warnings, counts, and `--strict`.

use crate::support::cli::*;
use seqstream::architecture::ModelConfig;

/// Runs `embed` on this text, and returns what it prints and the counts of the manifest.
fn embed(place: &Place, text: &str, out: &str, options: &str) -> (String, serde_json::Value) {
    std::fs::write(place.path("in.fa"), text).unwrap();
    let output = place.embed(out, options).output().unwrap();
    let said = stderr(&output);
    assert!(output.status.success(), "{said}");
    let manifest = std::fs::read(place.path(out).join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    (said, manifest)
}

fn ids(place: &Place, out: &str) -> String {
    std::fs::read_to_string(place.path(out).join("shard-000000/ids.txt")).unwrap()
}

#[test]
fn names_that_records_share_are_said_and_kept_whole_on_demand() {
    let place = Place::new(1);
    let text = ">PREDICTED fold 1\nMKTLLVAGGA\n>PREDICTED fold 2\nMSTNPKPQRK\n";
    let (said, manifest) = embed(&place, text, "first", "");
    let warning = "warning: 2 records share a name (first: PREDICTED, records 1 and 2); rows go by \
                   position; --names header keeps the whole header\n";
    assert!(said.contains(warning), "{said}");
    assert!(said.contains("2 records that share a name"), "{said}");
    assert_eq!(manifest["counts"]["shared_names"], 2);
    assert!(manifest["job"].get("names").is_none(), "as in older jobs");
    assert_eq!(ids(&place, "first"), "PREDICTED\nPREDICTED\n");
    let (said, manifest) = embed(&place, text, "header", "--names header --strict");
    assert!(!said.contains("share a name"), "{said}");
    assert_eq!(manifest["job"]["names"], "header");
    assert_eq!(
        ids(&place, "header"),
        "PREDICTED fold 1\nPREDICTED fold 2\n"
    );
    let rows = |out: &str| std::fs::read(place.path(out).join("shard-000000/layer_2.npy")).unwrap();
    assert_eq!(rows("first"), rows("header"));
    place.embed_fails(
        "strict",
        "--strict",
        3,
        &["record 2 ('PREDICTED'), line 3: a name that record 1 of the job has, too"],
    );
    // A pipe is not read in advance, and the job itself refuses the name.
    let piped = || {
        let mut command = place.embed_from("-", "piped", "--strict");
        command.stdin(std::fs::File::open(place.path("in.fa")).unwrap());
        command
    };
    // A regular file on standard input counts as a pipe, too.
    fails(piped(), 3, &["a name that record 1 of the job has, too"]);
    place.embed_fails(
        "first",
        "--resume --names header",
        6,
        &["names was \"first\", now \"header\"", "--names first"],
    );
}

#[test]
fn gaps_are_said_and_dropped_on_demand() {
    let place = Place::new(1);
    let text = ">q\nMKTLLVAGGAKE\n>h\n--TLLV--GAKE\n";
    let (said, manifest) = embed(&place, text, "keep", "");
    let warning = "warning: gap characters are kept (4): ESM-2 has tokens for gaps but was not \
                   trained on alignments; --gaps drop removes them\n";
    assert!(said.contains(warning), "{said}");
    assert_eq!(manifest["counts"]["gaps"], 4);
    assert!(manifest["job"].get("gaps").is_none(), "as in older jobs");
    let (said, manifest) = embed(&place, text, "drop", "--gaps drop");
    assert!(!said.contains("are kept"), "{said}");
    assert!(said.contains("in the input: 4 gap characters"), "{said}");
    assert_eq!(manifest["job"]["gaps"], "drop");
    assert_eq!(manifest["tokens"], 12 + 8 + 4);
    place.embed_fails(
        "strict",
        "--strict",
        3,
        &["record 2 ('h'), line 4, column 1: the gap"],
    );
    place.embed_fails(
        "keep",
        "--resume --gaps drop",
        6,
        &["gaps was \"keep\", now \"drop\"", "--gaps keep"],
    );
}

#[test]
fn the_other_kind_of_sequence_is_warned_of() {
    let place = Place::new(1);
    let dna = ">r1\nACGTAGCATCGGATCTATCTATCGACACTTGG\n>r2\nGGGTTTAAACCCGGGTTTAAACCCATATATATGCGC\n";
    let (said, manifest) = embed(&place, dna, "out", "");
    let warning = "warning: this looks like DNA, and the model reads proteins (2 of 2 sequences)\n";
    assert!(said.contains(warning), "{said}");
    assert_eq!(manifest["counts"]["other_alphabet"], 2);
    place.embed_fails(
        "strict",
        "--strict",
        3,
        &["record 1 ('r1'), line 1: this looks like DNA, and the model reads proteins"],
    );
    let (said, _) = embed(&place, ">p\nMKTLLVAGGAKEMSTNPKPQRKTK\n", "fine", "--strict");
    assert!(!said.contains("warning"), "{said}");
}

#[test]
fn intruders_and_chains_are_named() {
    let place = Place::new(1);
    let (said, manifest) = embed(&place, ">m\nMKTLL:MSTN\n", "chains", "");
    assert!(
        said.contains("warning: colons between chains become unknown tokens (1): "),
        "{said}"
    );
    assert_eq!(manifest["counts"]["chain_breaks"], 1);
    for (text, says) in [
        (
            ">a\nMKTLL\n--\n>b\nMSTN\n",
            "in.fa, record 1 ('a'), line 3: the line '--' stands before a header",
        ),
        (
            ">P1;CRAB\nsmall test protein\nMKTLL*\n",
            "in.fa, record 1 ('P1;CRAB'), line 1: this is a header of a PIR file, not of a FASTA file",
        ),
        (
            ">a\nMKTLL\nHere is the sequence you asked for:\n",
            "in.fa, record 1 ('a'), line 3: the line is a sentence, not sequence",
        ),
    ] {
        std::fs::write(place.path("in.fa"), text).unwrap();
        place.embed_fails("out", "", 3, &[says]);
    }
    // A block of bgzip without the end marker: the extra field BC is enough.
    let mut packed = flate2::GzBuilder::new()
        .extra(b"BC\x02\0\0\0".to_vec())
        .write(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, b">a\nMKTLL\n").unwrap();
    std::fs::write(place.path("in.fa"), packed.finish().unwrap()).unwrap();
    let said = stderr(&place.embed("cut", "").output().unwrap());
    let warning = "warning: in.fa: the end marker of bgzip is missing; the file may be cut short";
    assert!(said.contains(warning), "{said}");
    place.embed_fails(
        "strict",
        "--strict",
        3,
        &["the end marker of bgzip is missing"],
    );
}

#[test]
fn uracil_is_part_of_a_job_that_has_it() {
    let place = Place::new(1);
    place.model("dna", ModelConfig::dnabert(2, 32, 4), 1);
    std::fs::rename(place.path("model"), place.path("esm")).unwrap();
    std::fs::rename(place.path("dna"), place.path("model")).unwrap();
    let (said, manifest) = embed(&place, ">r\nACGUACGU\n", "rna", "");
    assert!(
        said.contains("in the input: 2 letters U read as T"),
        "{said}"
    );
    assert_eq!(manifest["job"]["uracil"], "T");
    let (_, manifest) = embed(&place, ">r\nACGTACGT\n", "dna", "");
    assert!(manifest["job"].get("uracil").is_none());
    let rows = |out: &str| std::fs::read(place.path(out).join("shard-000000/layer_2.npy")).unwrap();
    assert_eq!(rows("rna"), rows("dna"));
}
