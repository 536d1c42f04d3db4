//! Paths and files that hold no model, or only a part of one.

use super::*;

#[test]
fn a_name_on_the_hub_is_no_path() {
    let error = |path: &str| {
        let error = Checkpoint::open(Path::new(path)).unwrap_err();
        println!("{error}\n    hint: {}", error.remedy().unwrap());
        (error.to_string(), error.remedy().unwrap().to_string())
    };
    let (what, hint) = error("facebook/esm2_t33_650M_UR50D");
    has(
        &what,
        &[
            "facebook/esm2_t33_650M_UR50D: there is no such file or folder",
            "Hugging Face Hub",
        ],
    );
    has(
        &hint,
        &[
            "download facebook/esm2_t33_650M_UR50D",
            "such as esm2_t33_650M_UR50D",
        ],
    );
    has(
        &error("DNABERT-S").1,
        &["download zhihan1996/DNABERT-S", "such as DNABERT-S"],
    );
    // A path that is no name of a model is a mistyped path.
    for path in ["./facebook/esm2", "esm2.pt", "models/esm2.safetensors"] {
        let (what, hint) = error(path);
        has(&what, &["cannot be read"]);
        has(&hint, &["check the path"]);
    }
}

#[test]
fn a_folder_of_the_hubs_cache() {
    let model = Model::esm2();
    let reference = model.open();
    let cache = tempfile::tempdir().unwrap();
    let folder = cache.path().join("models--facebook--esm2_t6_8M_UR50D");
    for name in ["blobs", "refs", "snapshots/0a1b", "snapshots/2c3d"] {
        fs::create_dir_all(folder.join(name)).unwrap();
    }
    for name in ["config.json", "model.safetensors"] {
        fs::copy(model.at(name), folder.join("snapshots/2c3d").join(name)).unwrap();
    }
    let (what, hint) = refused(&folder);
    has(
        &what,
        &["a folder of the Hugging Face Hub's cache with 2 snapshots and no refs/main"],
    );
    has(&hint, &["snapshots/0a1b"]);
    for text in ["2c3d", "2c3d\n"] {
        fs::write(folder.join("refs/main"), text).unwrap();
        let cached = Checkpoint::open(&folder).unwrap();
        same(&reference, &cached);
        assert_eq!(cached.hash().unwrap(), reference.hash().unwrap());
    }
    for text in ["4e5f", "../2c3d", "", ".", "snapshots/2c3d"] {
        fs::write(folder.join("refs/main"), text).unwrap();
        has(&refused(&folder).0, &["refs/main names the snapshot"]);
    }
    fs::remove_file(folder.join("refs/main")).unwrap();
    fs::remove_dir(folder.join("snapshots/0a1b")).unwrap();
    same(&reference, &Checkpoint::open(&folder).unwrap());
    let (what, hint) = refused(cache.path());
    has(
        &what,
        &["the folder itself holds no weights, but folders in it do"],
    );
    has(&hint, &["models--facebook--esm2_t6_8M_UR50D"]);
    has(&refused(&folder.join("snapshots")).1, &["such as 2c3d"]);
}

#[test]
fn files_that_hold_no_weights_are_named() {
    let mut tar = vec![0; 1024];
    tar[257..262].copy_from_slice(b"ustar");
    let gzip = |bytes: &[u8]| {
        let mut writer = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap()
    };
    for (bytes, said, remedy) in [
        (tar.clone(), "this is a tar archive, and", "tar xf"),
        (
            gzip(&tar),
            "this is a tar archive compressed with gzip",
            "tar xzf",
        ),
        (gzip(&[7; 99]), "compressed with gzip", "gunzip"),
        (
            gzip(b">a\nMKT\n"),
            "a FASTA file, and no weights file (compressed with gzip)",
            "sequences are the input",
        ),
        (
            b">sp|P1 x\nMKT\n".to_vec(),
            "a FASTA file",
            "sequences are the input",
        ),
        (
            b"@r1\nACGT\n+\nIIII\n".to_vec(),
            "a FASTQ file",
            "sequences are the input",
        ),
        (
            b"<!DOCTYPE html><html></html>".to_vec(),
            "a web page",
            "download the model again",
        ),
        (
            b"\n  <?xml version='1.0'?><Error/>".to_vec(),
            "a web page",
            "download",
        ),
        (
            b"{\"model_type\": \"esm\"}".to_vec(),
            "a JSON file",
            "give the folder",
        ),
        (
            b"\xef\xbb\xbfid,sequence\n1,MKT\n".to_vec(),
            "a table (CSV)",
            "give a model folder",
        ),
        (
            b"id\tsequence\n1\tMKT\n".to_vec(),
            "a table (TSV)",
            "give a model folder",
        ),
        (
            b"##gff-version 3\n".to_vec(),
            "a GFF file",
            "give a model folder",
        ),
        (
            b"# ESM-2\n\nA model.\n".to_vec(),
            "begins with \"# ESM-2\"",
            "give a model folder",
        ),
        (
            b"\x28\xb5\x2f\xfdabcdefgh".to_vec(),
            "a zstd file",
            "zstd -d",
        ),
        (
            b"\x89HDF\r\n\x1a\n........".to_vec(),
            "an HDF5 file",
            "safetensors",
        ),
        (
            b"GGUF\x03\0\0\0........".to_vec(),
            "a GGUF file",
            "safetensors",
        ),
    ] {
        let malformed = read_index(&bytes).unwrap_err();
        println!("{}\n    hint: {}", malformed.what, malformed.hint);
        has(&malformed.what, &[said]);
        has(&malformed.hint, &[remedy]);
        // Any part of the file is no weights file either, and no reason to panic.
        for length in 0..bytes.len().min(64) {
            assert!(read_index(&bytes[..length]).is_err());
        }
    }
    let model = Model::esm2();
    let (what, hint) = refused(&model.at("config.json"));
    has(
        &what,
        &["config.json: this is no index of a sharded checkpoint: missing field `weight_map`"],
    );
    has(&hint, &["give the folder that holds the weights"]);
}

#[test]
fn a_missing_shard_is_named() {
    let model = Model::esm2();
    fs::remove_file(model.at("model.safetensors")).unwrap();
    let name = |n: usize| format!("model-0000{n}-of-00008.safetensors");
    let map: serde_json::Map<_, _> = model
        .tensors
        .iter()
        .enumerate()
        .map(|(i, t)| (t.name.clone(), name(i % 8 + 1).into()))
        .collect();
    let index = json!({"metadata": {}, "weight_map": map}).to_string();
    let model = model.beside("model.safetensors.index.json", index);
    let shard = |n: usize| {
        let tensors = model
            .tensors
            .iter()
            .enumerate()
            .filter(|(i, _)| i % 8 + 1 == n);
        let tensors: Vec<T> = tensors.map(|(_, t)| t.clone()).collect();
        write_safetensors(&model.at(&name(n)), &tensors);
    };
    (1..=8).for_each(shard);
    model.open();
    fs::remove_file(model.at(&name(3))).unwrap();
    let said = "model.safetensors.index.json: the index lists 8 files, \
                model-00003-of-00008.safetensors is not there";
    let (what, hint) = refused(&model.at("model.safetensors.index.json"));
    assert!(what.ends_with(said), "{what}");
    has(&hint, &["every file of a sharded model is needed"]);
    fs::remove_file(model.at(&name(5))).unwrap();
    let error = Checkpoint::open(model.path()).unwrap_err().to_string();
    has(
        &error,
        &["model-00003-of-00008.safetensors and 1 more are not there"],
    );
}

/// Damaged files of the other names beside the one that is read do not matter.
#[test]
fn a_folder_gives_the_first_of_its_weights_files() {
    let model = Model::esm2();
    // The same values in another file, since this one is written again while it is mapped.
    let reference = Model::esm2().open();
    let names = [
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
    ];
    let index = |file: &str| {
        let map: serde_json::Map<_, _> = (model.tensors.iter())
            .map(|t| (t.name.clone(), file.into()))
            .collect();
        json!({ "weight_map": map }).to_string()
    };
    let write = |name: &str, path: &Path| match name {
        "model.safetensors" => write_safetensors(path, &model.tensors),
        "pytorch_model.bin" => torch_save(path, &state(&model.tensors)),
        "model.safetensors.index.json" => {
            write_safetensors(&model.at("part.safetensors"), &model.tensors);
            fs::write(path, index("part.safetensors")).unwrap();
        }
        _ => {
            torch_save(&model.at("part.bin"), &state(&model.tensors));
            fs::write(path, index("part.bin")).unwrap();
        }
    };
    for (at, name) in names.iter().enumerate() {
        write(name, &model.at(name));
        for other in &names[at + 1..] {
            fs::write(model.at(other), "damaged").unwrap();
        }
        same(&reference, &model.open());
        fs::remove_file(model.at(name)).unwrap();
    }
    // Without these four, a single file of weights may have any name.
    for name in ["part.safetensors", "part.bin"] {
        let _ = fs::remove_file(model.at(name));
    }
    torch_save(&model.at("last.pt"), &state(&model.tensors));
    same(&reference, &model.open());
}
