//! Small files that promise much: they are refused, or read, in little memory.

use super::*;

/// Runs the program under a limit of its address space that is too small for anything whose size a
/// file only promises. More memory would end the program by SIGABRT, or it would be killed.
fn in_300_mb(arguments: &[&str], file: &Path) -> Output {
    limited(300_000, arguments, file)
}

/// Runs the program under a limit in kilobytes, in which a mapped file counts entirely.
fn limited(kilobytes: u64, arguments: &[&str], file: &Path) -> Output {
    Command::new("sh")
        .args(["-c", &format!("ulimit -v {kilobytes}; exec \"$@\""), "sh"])
        .arg(env!("CARGO_BIN_EXE_seqstream"))
        .args(arguments)
        .arg(file)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap()
}

#[track_caller]
fn refused_in_300_mb(arguments: &[&str], file: &Path, parts: &[&str]) {
    let output = in_300_mb(arguments, file);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(4), "{said}");
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines.len() == 2 && lines[1].starts_with("hint: "), "{said}");
    fit_for_a_terminal(lines[0]);
    has(lines[0], parts);
}

#[test]
fn a_small_pickle_takes_little_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.bin");
    let name = path.to_str().unwrap().to_owned();
    let check = |pickle: &[u8], parts: &[&str]| {
        fs::write(&path, torch(pickle)).unwrap();
        refused_in_300_mb(&["inspect"], &path, &[&[name.as_str()], parts].concat());
    };
    // One name of a megabyte under 8000 pairs: 8 GB of copies.
    let long = [
        kept(&"n".repeat(1 << 20)),
        b"h\x00h\x01s".repeat(8000),
        b".".to_vec(),
    ]
    .concat();
    check(&long, &["tensor's name, nnnn", "1048576 bytes"]);
    // One tensor seven million times: 2.5 GB.
    let many = [
        kept("n"),
        b"(".to_vec(),
        b"h\x00h\x01".repeat(7 << 20),
        b"u.".to_vec(),
    ]
    .concat();
    check(&many, &["at its byte", "instructions"]);
    // Memo entries, marks, stack entries and values, each made by one byte.
    for instruction in [0x94, b'(', b'2', b'N', b')', b'}'] {
        let pickle = [vec![b'N'], vec![instruction; 30 << 20], vec![b'.']].concat();
        check(&pickle, &["at its byte 104", "instructions"]);
    }
    // The same number of one-element lists, nested in each other.
    let nested = [vec![b')'], vec![0x85; 30 << 20], vec![b'.']].concat();
    check(&nested, &["at its byte 104", "instructions"]);
}

#[test]
fn a_small_header_takes_little_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    let check = |header: &str, data: usize, parts: &[&str]| {
        fs::write(&path, safetensors(header, data)).unwrap();
        refused_in_300_mb(&["inspect"], &path, parts);
    };
    // A million tensors without values.
    let mut header = String::from("{");
    for i in 0..1_000_000 {
        write!(
            header,
            r#""{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}},"#
        )
        .unwrap();
    }
    header.pop();
    header.push('}');
    check(&header, 0, &["more than 65536 tensors", "at line 1 column"]);
    // A shape of 20 million sizes.
    let shape = format!("[{}1]", "1,".repeat(20_000_000));
    check(
        &one_tensor("a", "F32", &shape),
        4,
        &["more than 64 dimensions", "at line 1 column"],
    );
    // A name of 20 MB.
    let name = "n".repeat(20_000_000);
    check(
        &one_tensor(&name, "F32", "[1]"),
        4,
        &["20000000 bytes", "at line 1 column"],
    );
}

/// The end record of an archive may promise as many entries as the file has bytes.
#[test]
fn an_archive_that_promises_entries_takes_no_memory_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.bin");
    let length: u64 = 8 << 30; // a sparse file, of which almost nothing is stored
    let entries: u64 = 100_000_000;
    let start = length - 46 * entries;
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(b"PK\x03\x04").unwrap();
    file.set_len(length).unwrap();
    file.seek(SeekFrom::Start(start)).unwrap();
    file.write_all(b"PK\x01\x02").unwrap();
    let mut end = Vec::new();
    end.extend(b"PK\x06\x06");
    end.extend(44u64.to_le_bytes());
    end.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for n in [entries, entries, 46 * entries, start] {
        end.extend(n.to_le_bytes());
    }
    end.extend(b"PK\x06\x07\0\0\0\0");
    end.extend(length.to_le_bytes());
    end.extend([1, 0, 0, 0]);
    end.extend(b"PK\x05\x06\0\0\0\0");
    end.extend([0xff; 12]);
    end.extend([0, 0]);
    file.seek(SeekFrom::End(0)).unwrap();
    file.write_all(&end).unwrap();
    drop(file);
    let output = limited(9_500_000, &["inspect"], &path);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(4), "{said}");
    has(
        &said,
        &["m.bin", "gives itself 100000000 entries", "hint: "],
    );
}

#[test]
fn small_json_files_take_little_memory() {
    let dir = model();
    let at = |name: &str| dir.path().join(name);
    let empty_keys = |bytes: usize| format!(r#"{{"x":[{}0],"#, r#"{"":0},"#.repeat(bytes / 7));
    let config = fs::read_to_string(at("config.json")).unwrap();
    // Parts that are not needed are skipped ...
    fs::write(
        at("config.json"),
        config.replacen('{', &empty_keys(1_000_000), 1),
    )
    .unwrap();
    let output = in_300_mb(&["inspect"], dir.path());
    assert!(output.status.success());
    // ... and a longer file is not read at all.
    fs::write(
        at("config.json"),
        config.replacen('{', &empty_keys(63 << 20), 1),
    )
    .unwrap();
    refused_in_300_mb(
        &["inspect"],
        dir.path(),
        &["config.json", "1048576 are read"],
    );
    fs::write(at("config.json"), config).unwrap();

    fs::rename(at("model.safetensors"), at("a.safetensors")).unwrap();
    let index = at("model.safetensors.index.json");
    let mut map = String::from(r#"{"weight_map":{"#);
    for i in 0..400_000 {
        write!(map, r#""{i}":"b","#).unwrap();
    }
    map.push_str(r#""x":"b"}}"#);
    fs::write(&index, &map).unwrap();
    refused_in_300_mb(
        &["inspect"],
        dir.path(),
        &["index.json", "more than 65536 tensors"],
    );
    fs::write(&index, " ".repeat(9 << 20)).unwrap();
    refused_in_300_mb(
        &["inspect"],
        dir.path(),
        &["index.json", "9437184 bytes are too many"],
    );

    let tokenizer = at("t.json");
    fs::write(&tokenizer, format!("[{}0]", r#"{"":0},"#.repeat(2_000_000))).unwrap();
    let fasta = dir.path().join("x.fa");
    fs::write(&fasta, ">a\nACGT\n").unwrap();
    let name = tokenizer.to_str().unwrap();
    refused_in_300_mb(
        &["tokenize", "--model", name],
        &fasta,
        &["t.json", "more values"],
    );
}
