//! `seqstream export`: what it writes is what the job computed, and what it refuses.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use crate::support::cli::*;

fn export(place: &Place, out: &str, dest: &str, options: &str) -> Command {
    let mut command = place.command(env!("CARGO_BIN_EXE_seqstream"));
    command.args(["export", out, dest]);
    command.args(options.split_whitespace());
    command
}

#[track_caller]
fn export_ok(place: &Place, out: &str, dest: &str, options: &str) -> String {
    let output = export(place, out, dest, options).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(output.stdout, b"");
    stderr(&output)
}

/// Returns the ids of all shards, in order.
fn ids(out: &Path) -> Vec<String> {
    let files = tree(out);
    let ids = files.iter().filter(|(name, _)| name.ends_with("/ids.txt"));
    let lines = ids.flat_map(|(_, bytes)| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    });
    lines.collect()
}

/// Returns the files of a zip archive.
fn unzip(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut zip = zip::ZipArchive::new(fs::File::open(path).unwrap()).unwrap();
    let mut files = BTreeMap::new();
    for i in 0..zip.len() {
        let mut file = zip.by_index(i).unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        let name = file.name().unwrap().into_owned();
        files.insert(name, bytes);
    }
    files
}

/// Returns the header and the data of an npy file.
fn npy(bytes: &[u8]) -> (String, &[u8]) {
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let length = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert_eq!(length % 64, 0);
    let header = String::from_utf8(bytes[10..length].to_vec()).unwrap();
    (header.trim_end().to_owned(), &bytes[length..])
}

#[test]
fn csv_holds_every_value_under_its_name() {
    let place = Place::new(40);
    place.embed_ok("out", "");
    let said = export_ok(&place, "out", "out.csv", "--to csv");
    assert_eq!(
        said,
        "exported 40 sequences, layer 2 (mean), into out.csv\n"
    );
    let text = fs::read_to_string(place.path("out.csv")).unwrap();
    let mut lines = text.lines();
    assert!(lines.next().unwrap().starts_with("id,e0,e1,"));
    let wanted = rows(&place.path("out"), 2);
    let names = ids(&place.path("out"));
    let mut read = Vec::new();
    for (line, name) in lines.zip(&names) {
        let (id, values) = line.split_once(',').unwrap();
        assert_eq!(id, name);
        read.extend(values.split(',').map(|v| v.parse::<f32>().unwrap()));
    }
    assert_eq!(names.len(), 40);
    assert!(
        read.iter()
            .map(|v| v.to_bits())
            .eq(wanted.iter().map(|v| v.to_bits()))
    );
}

#[test]
fn npz_holds_the_rows_and_the_names() {
    let place = Place::new(40);
    place.embed_ok("out", "--layers 1,2 --pool mean,max --output-dtype f16");
    export_ok(&place, "out", "out.npz", "--to npz --layer -1 --pool max");
    let files = unzip(&place.path("out.npz"));
    assert_eq!(
        files.keys().collect::<Vec<_>>(),
        ["embeddings.npy", "ids.npy"]
    );
    let (header, data) = npy(&files["embeddings.npy"]);
    assert_eq!(
        header,
        "{'descr': '<f2', 'fortran_order': False, 'shape': (40, 32), }"
    );
    let stored = tree(&place.path("out"));
    let stored = stored
        .iter()
        .filter(|(name, _)| name.ends_with("/layer_2_max.npy"));
    let stored: Vec<u8> = stored
        .flat_map(|(_, bytes)| bytes[128..].to_vec())
        .collect();
    assert!(data == stored);
    let (header, data) = npy(&files["ids.npy"]);
    assert_eq!(
        header,
        "{'descr': '<U9', 'fortran_order': False, 'shape': (40,), }"
    );
    let read = data.chunks_exact(4 * 9).map(|element| {
        let chars = element
            .chunks_exact(4)
            .map(|c| char::from_u32(u32::from_le_bytes(c.try_into().unwrap())).unwrap());
        chars.take_while(|c| *c != '\0').collect::<String>()
    });
    assert_eq!(read.collect::<Vec<_>>(), ids(&place.path("out")));
}

#[test]
fn npz_holds_the_states_of_tokens() {
    let place = Place::new(40);
    place.embed_ok("out", "--per-token --pool none");
    let said = export_ok(&place, "out", "out.npz", "--to npz");
    assert!(said.contains("40 sequences with the states of "), "{said}");
    let files = unzip(&place.path("out.npz"));
    assert_eq!(
        files.keys().collect::<Vec<_>>(),
        ["ids.npy", "offsets.npy", "states.npy"]
    );
    let (_, data) = npy(&files["states.npy"]);
    assert_eq!(floats(data), states(&place.path("out"), 2));
    let (header, data) = npy(&files["offsets.npy"]);
    assert!(
        header.contains("'<i8'") && header.contains("(41,)"),
        "{header}"
    );
    let offsets: Vec<u64> = data
        .chunks_exact(8)
        .map(|c| u64::from_le_bytes(c.try_into().unwrap()))
        .collect();
    // The proteins of `fasta` have these lengths.
    let lengths = (0..40).map(|i| 20 + i * 7919 % 101);
    assert!(offsets.windows(2).map(|w| w[1] - w[0]).eq(lengths));
}

#[test]
fn pt_has_the_files_of_fair_esm() {
    let place = Place::new(20);
    place.embed_ok("out", "--layers 1,2 --pool mean,cls");
    export_ok(&place, "out", "pt", "--to pt");
    let names = ids(&place.path("out"));
    assert_eq!(fs::read_dir(place.path("pt")).unwrap().count(), 20);
    let mut means = Vec::new();
    for name in &names {
        let files = unzip(&place.path("pt").join(format!("{name}.pt")));
        let entries: Vec<&str> = files.keys().map(String::as_str).collect();
        assert_eq!(
            entries,
            [
                "archive/byteorder",
                "archive/data.pkl",
                "archive/data/0",
                "archive/data/1",
                "archive/data/2",
                "archive/data/3",
                "archive/version"
            ]
        );
        // Dictionaries are in the order of their names, and layers in that of their numbers.
        means.extend(floats(&files["archive/data/3"]));
        let pickle = String::from_utf8_lossy(&files["archive/data.pkl"]).into_owned();
        for text in ["label", name, "mean_representations", "bos_representations"] {
            assert!(pickle.contains(text), "{text}");
        }
    }
    let stored = tree(&place.path("out"));
    let stored = stored
        .iter()
        .filter(|(name, _)| name.ends_with("/layer_2_mean.npy"));
    let stored: Vec<f32> = stored
        .flat_map(|(_, bytes)| floats(&bytes[128..]))
        .collect();
    assert_eq!(means, stored);
    // The project's own reader of torch archives accepts the file.
    let text = std::process::Command::new(env!("CARGO_BIN_EXE_seqstream"))
        .args(["inspect"])
        .arg(place.path("pt").join(format!("{}.pt", names[0])))
        .output()
        .unwrap();
    assert!(!stderr(&text).contains("panicked"), "{}", stderr(&text));
}

#[test]
fn exports_are_the_same_bytes_every_time() {
    let place = Place::new(20);
    place.embed_ok("out", "");
    for format in ["csv", "npz", "pt"] {
        for dest in ["a", "b"] {
            export_ok(
                &place,
                "out",
                &format!("{dest}.{format}"),
                &format!("--to {format}"),
            );
        }
        let read = |dest: &str| {
            let path = place.path(&format!("{dest}.{format}"));
            match path.is_dir() {
                true => tree(&path),
                false => BTreeMap::from([(String::new(), fs::read(path).unwrap())]),
            }
        };
        assert!(read("a") == read("b"), "{format}");
    }
}

/// Embeds records of these names.
fn named(place: &Place, out: &str, names: &[&str], options: &str) {
    let records = names.iter().map(|name| format!(">{name}\nMKTAYIAKQR\n"));
    fs::write(place.path("named.fa"), records.collect::<String>()).unwrap();
    let output = place.embed_from("named.fa", out, options).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn keys_are_accessions_where_they_are_asked_for() {
    let place = Place::new(1);
    named(
        &place,
        "out",
        &["sp|P12345|AATM_RABIT", "tr|Q1|X", "own"],
        "",
    );
    export_ok(&place, "out", "pt", "--to pt --key accession");
    let files: Vec<String> = tree(&place.path("pt")).into_keys().collect();
    assert_eq!(files, ["P12345.pt", "Q1.pt", "own.pt"]);
    let label = String::from_utf8_lossy(&tree(&place.path("pt"))["P12345.pt"]).into_owned();
    assert!(
        label.contains("sp|P12345|AATM_RABIT"),
        "the label is the whole name"
    );
    export_ok(&place, "out", "out.csv", "--to csv --key accession");
    let text = fs::read_to_string(place.path("out.csv")).unwrap();
    let first: Vec<&str> = text.lines().map(|l| l.split_once(',').unwrap().0).collect();
    assert_eq!(first, ["id", "P12345", "Q1", "own"]);
}

#[test]
fn names_that_have_no_place_are_refused_with_a_remedy() {
    let place = Place::new(1);
    named(&place, "twice", &["a", "b", "c", "b"], "--shard-size 2");
    named(&place, "slash", &["a", "x/../../y"], "");
    named(
        &place,
        "header",
        &["sp|P1|A first", "tr|P1|B second"],
        "--names header",
    );
    let refused = |out: &str, options: &str, says: &[&str]| {
        fails(export(&place, out, "dest", options), 3, says);
        assert!(!place.path("dest").exists());
        let left = fs::read_dir(place.path("")).unwrap();
        let left = left.map(|e| e.unwrap().file_name().into_string().unwrap());
        let left: Vec<String> = left.filter(|n| n.contains("partial")).collect();
        assert!(left.is_empty(), "{left:?}");
    };
    refused(
        "twice",
        "--to pt",
        &[
            "records 2 and 4 of the output have the same key \"b\", and pt needs a key for each record",
            "use --to npz or --to csv",
        ],
    );
    refused(
        "slash",
        "--to pt",
        &[
            "record 2 of the output has the key \"x/../../y\", which cannot be the name of a file of pt: it contains a slash",
            "use --to npz or --to csv",
        ],
    );
    refused(
        "header",
        "--to pt --key accession",
        &["records 1 and 2", "the same key \"P1\"", "--key id"],
    );
    // The remedies help.
    for (out, format) in [
        ("twice", "csv"),
        ("slash", "npz"),
        ("twice", "npz"),
        ("header", "pt"),
    ] {
        let dest = format!("{out}.{format}");
        export_ok(&place, out, &dest, &format!("--to {format}"));
    }
    assert!(place.path("header.pt/sp|P1|A first.pt").exists());
}

#[test]
fn what_is_not_complete_or_was_changed_is_not_exported() {
    let place = Place::new(40);
    place.embed_ok("out", "");
    let refused = |code: i32, says: &[&str]| {
        for format in ["csv", "npz", "pt"] {
            let options = format!("--to {format}");
            fails(export(&place, "out", "dest", &options), code, says);
            assert!(!place.path("dest").exists());
        }
    };
    fails(
        export(&place, "nowhere", "dest", "--to csv"),
        6,
        &["nowhere holds no output of seqstream: it has no job.json"],
    );
    let manifest = place.path("out/manifest.json");
    let kept = fs::read(&manifest).unwrap();
    fs::remove_file(&manifest).unwrap();
    refused(
        6,
        &[
            "the job in out is not complete: it has 3 finished shards and no manifest.json",
            "run that job again with --resume",
        ],
    );
    let text = String::from_utf8(kept.clone()).unwrap();
    fs::write(&manifest, text.replace("\"rows\":8", "\"rows\":7")).unwrap();
    refused(6, &["gives other totals than its shards add up to"]);
    fs::write(
        &manifest,
        text.replace("\"shard_size\": 16", "\"shard_size\": 17"),
    )
    .unwrap();
    refused(
        6,
        &["is of another job than job.json: shard_size was 16, now 17"],
    );
    fs::write(&manifest, &kept).unwrap();
    let file = place.path("out/shard-000001/layer_2.npy");
    let mut bytes = fs::read(&file).unwrap();
    bytes[200] ^= 1;
    fs::write(&file, &bytes).unwrap();
    refused(
        6,
        &[
            "out/shard-000001 is not what its job made: layer_2.npy was changed",
            "it then computes this shard again",
        ],
    );
    // A shard of the same sizes that another job made.
    bytes[200] ^= 1;
    fs::write(&file, &bytes).unwrap();
    fs::remove_dir_all(place.path("out/shard-000002")).unwrap();
    refused(
        6,
        &["out/shard-000002 is not what its job made: it is not there"],
    );
    place.embed_ok("out", "--resume");
    export_ok(&place, "out", "dest", "--to csv");
}

#[test]
fn several_layers_and_poolings_need_a_choice() {
    let place = Place::new(5);
    place.embed_ok("out", "--layers 0,1 --pool mean,max");
    let refused = |options: &str, says: &[&str]| {
        fails(export(&place, "out", "dest", options), 2, says);
    };
    refused(
        "--to csv",
        &[
            "the output has layers 0, 1, and csv takes one of them",
            "--layer 1",
        ],
    );
    refused(
        "--to csv --layer 2",
        &["the output has no layer 2: it has 0, 1"],
    );
    refused(
        "--to csv --layer -9223372036854775808",
        &["has no layer -9223372036854775808"],
    );
    refused(
        "--to csv --layer 1",
        &[
            "the output has the poolings mean, max, and csv takes one of them",
            "--pool mean",
        ],
    );
    refused(
        "--to csv --layer 1 --pool cls",
        &["the output has no pooling \"cls\": it has mean, max"],
    );
    refused(
        "--to pt",
        &["fair-esm's layout has no place for the pooling \"max\""],
    );
    refused(
        "--to npz --layer 1 --per-token",
        &["the output has no states of tokens", "--per-token"],
    );
    export_ok(&place, "out", "dest", "--to csv --layer -2 --pool max");
    place.embed_ok("states", "--per-token --pool none");
    fails(
        export(&place, "states", "other", "--to csv"),
        2,
        &[
            "csv holds one row per sequence, and not the states of every token",
            "--to npz",
        ],
    );
}

#[test]
fn nothing_is_overwritten() {
    let place = Place::new(5);
    place.embed_ok("out", "");
    fs::write(place.path("mine"), "dear").unwrap();
    fs::create_dir(place.path("folder")).unwrap();
    for (dest, format) in [
        ("mine", "csv"),
        ("folder", "pt"),
        ("folder", "npz"),
        ("out", "csv"),
    ] {
        let command = export(&place, "out", dest, &format!("--to {format}"));
        fails(
            command,
            6,
            &[&format!("{dest} exists already"), "does not exist"],
        );
    }
    assert_eq!(fs::read(place.path("mine")).unwrap(), b"dear");
    fails(
        export(&place, "out", "no/such/dir.csv", "--to csv"),
        5,
        &["cannot create"],
    );
    fails(
        export(&place, "out", "..", "--to csv"),
        6,
        &["exists already"],
    );
}

/// A share of a job is a complete output, too. An output without records has no rows.
#[test]
fn shares_and_empty_outputs_are_exported() {
    let place = Place::new(40);
    place.embed_ok("part", "--share 2/2");
    export_ok(&place, "part", "part.csv", "--to csv");
    let text = fs::read_to_string(place.path("part.csv")).unwrap();
    assert_eq!(text.lines().count(), 1 + 16);
    place.embed_ok("none", "--share 9/9");
    export_ok(&place, "none", "none.csv", "--to csv");
    export_ok(&place, "none", "none.npz", "--to npz");
    let files = unzip(&place.path("none.npz"));
    assert!(npy(&files["embeddings.npy"]).0.contains("(0, 32)"));
    assert!(npy(&files["ids.npy"]).0.contains("'<U1'"));
}

#[cfg(unix)]
#[test]
fn a_full_disk_leaves_nothing() {
    let place = Place::new(60);
    place.embed_ok("out", "");
    for format in ["csv", "npz"] {
        let command = export(&place, "out", "dest", &format!("--to {format}"));
        let mut limited = place.command("sh");
        limited.args(["-c", "trap '' XFSZ; ulimit -f 4; exec \"$@\"", "sh"]);
        limited.arg(command.get_program()).args(command.get_args());
        fails(limited, 5, &["cannot write", "dest"]);
        let left = fs::read_dir(place.path("")).unwrap();
        let left = left.map(|e| e.unwrap().file_name().into_string().unwrap());
        assert_eq!(left.filter(|n| n.contains("dest")).count(), 0, "{format}");
    }
}

#[cfg(not(all(feature = "export-h5", feature = "export-parquet")))]
#[test]
fn a_build_without_a_format_names_the_feature() {
    let place = Place::new(1);
    for (format, feature, has) in [
        ("h5", "export-h5", cfg!(feature = "export-h5")),
        (
            "parquet",
            "export-parquet",
            cfg!(feature = "export-parquet"),
        ),
    ] {
        if !has {
            let missing =
                format!("this build cannot write {format}: it lacks the feature {feature}");
            let says = [&*missing, &format!("--features {feature}"), "--to npz"];
            fails(
                export(&place, "out", "dest", &format!("--to {format}")),
                2,
                &says,
            );
        }
    }
}
