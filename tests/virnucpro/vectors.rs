//! The three layouts of `.pt` files. `tests/golden/virnucpro/vectors` has what this program writes,
//! which `check_vectors.py` reads with a real PyTorch, and what PyTorch itself writes of the same
//! values.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use seqstream::virnucpro::{ROWS_PER_FILE, VectorFiles, VectorRow};
use seqstream::weights::{pickle_text, read_torch_index};

const FILES: [&str; 3] = [
    "x_nucleotide/output_1_DNABERT_S.pt",
    "x_protein/output_1_ESM.pt",
    "x_merged/output_1_merged.pt",
];

/// The number of residues of each fragment: neither sorted nor all different.
const RESIDUES: [usize; 7] = [9, 4, 9, 100, 4, 30, 9];

fn golden(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/virnucpro/vectors");
    root.join(name)
}

/// The values that `check_vectors.py` makes as well.
fn vector(row: usize, width: usize) -> Vec<f32> {
    let value = |column| ((31 * row + 7 * column + width) % 101) as f32 / 3.0 - 9.0;
    (0..width).map(value).collect()
}

fn write(dir: &Path, models: (bool, bool)) {
    let mut files = VectorFiles::new(dir, "x");
    for (row, residues) in RESIDUES.into_iter().enumerate() {
        let (dna, protein) = (vector(row, 3), vector(row, 5));
        let id = format!("c\u{e9}_chunk_{}F1", row + 1);
        let row = VectorRow {
            id: &id,
            residues,
            dna: models.0.then_some(&*dna),
            protein: models.1.then_some(&*protein),
        };
        files.push(&row).unwrap();
    }
    assert_eq!(files.finish().unwrap(), 1);
}

/// The text of the pickle of an archive, and the bytes of its storages.
fn read(path: &Path) -> (String, Vec<Vec<u8>>) {
    let mut zip = zip::ZipArchive::new(File::open(path).unwrap()).unwrap();
    let first = zip.by_index(0).unwrap().name().unwrap().into_owned();
    let folder = first.split('/').next().unwrap().to_owned();
    let mut entry = |name: &str| {
        let mut file = zip.by_name(&format!("{folder}{name}")).ok()?;
        assert_eq!(file.compression(), zip::CompressionMethod::Stored);
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        Some(bytes)
    };
    assert_eq!(entry("/byteorder").unwrap(), b"little");
    let text = pickle_text(&entry("/data.pkl").unwrap()).unwrap();
    let storages = (0..).map_while(|number| entry(&format!("/data/{number}")));
    (text, storages.collect())
}

#[test]
fn files_are_those_that_a_real_pytorch_has_read() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), (true, true));
    for name in FILES {
        let found = fs::read(dir.path().join(name)).unwrap();
        assert!(found == fs::read(golden(name)).unwrap(), "{name}");
    }
}

#[test]
fn values_are_those_of_the_files_that_pytorch_writes() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), (true, true));
    for name in FILES {
        let (text, storages) = read(&dir.path().join(name));
        let theirs = Path::new("torch").join(Path::new(name).file_name().unwrap());
        let (wanted, wanted_storages) = read(&golden(theirs.to_str().unwrap()));
        assert_eq!(text, wanted, "{name}");
        assert_eq!(storages, wanted_storages, "{name}");
    }
    let (text, _) = read(&golden("x_protein/output_1_ESM.pt"));
    // By length, and where lengths are equal in the order of the fragments.
    let order = [2, 5, 1, 3, 7, 6, 4].map(|n| format!("\"c\u{e9}_chunk_{n}F1\","));
    assert!(
        text.starts_with(&format!("{{\"proteins\":[{}]", order.concat())),
        "{text}"
    );
}

#[test]
fn the_vectors_of_one_model_make_its_file_alone() {
    for (models, present) in [((true, false), FILES[0]), ((false, true), FILES[1])] {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), models);
        for name in FILES {
            assert_eq!(dir.path().join(name).exists(), name == present, "{name}");
        }
        let found = fs::read(dir.path().join(present)).unwrap();
        assert!(found == fs::read(golden(present)).unwrap());
    }
}

#[test]
fn a_file_holds_ten_thousand_fragments() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = VectorFiles::new(dir.path(), "x");
    let count = 2 * ROWS_PER_FILE + 3;
    for row in 0..count {
        let value = row as f32;
        files
            .push(&VectorRow {
                id: &row.to_string(),
                residues: count - row,
                dna: Some(&[value]),
                protein: Some(&[-value, 0.5]),
            })
            .unwrap();
    }
    assert_eq!(files.finish().unwrap(), 3);
    for (number, rows) in [(1, ROWS_PER_FILE), (2, ROWS_PER_FILE), (3, 3)] {
        let first = (number - 1) * ROWS_PER_FILE;
        let path = |kind: &str, suffix: &str| {
            let folder = dir.path().join(format!("x_{kind}"));
            folder.join(format!("output_{number}_{suffix}.pt"))
        };
        let merged = fs::read(path("merged", "merged")).unwrap();
        let index = read_torch_index(&merged).unwrap();
        assert_eq!(index.tensors.len(), 1);
        assert_eq!(index.tensors[0].shape, [rows, 3]);
        let range = index.tensors[0].place.clone().unwrap();
        for (row, bytes) in merged[range].as_chunks::<12>().0.iter().enumerate() {
            let value = (first + row) as f32;
            let wanted: Vec<u8> = [value, -value, 0.5]
                .into_iter()
                .flat_map(f32::to_le_bytes)
                .collect();
            assert_eq!(bytes[..], wanted, "{number} {row}");
        }
        let (text, storages) = read(&path("nucleotide", "DNABERT_S"));
        assert!(
            storages.is_empty() && text.starts_with(&format!("{{\"nucleotide\":[\"{first}\","))
        );
        let (text, storages) = read(&path("protein", "ESM"));
        // The proteins become shorter: each file turns its own fragments round.
        let last = first + rows - 1;
        assert!(text.starts_with(&format!("{{\"proteins\":[\"{last}\",\"{}\",", last - 1)));
        assert_eq!(storages.len(), rows);
        assert_eq!(storages[0][..4], (-(last as f32)).to_le_bytes());
    }
    assert!(!dir.path().join("x_merged/output_4_merged.pt").exists());
}

#[test]
fn fragments_with_other_vectors_than_the_first_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = ([1.0], [1.0, 2.0]);
    let row = |dna, protein| VectorRow {
        id: "c",
        residues: 1,
        dna,
        protein,
    };
    for second in [
        row(None, None),
        row(Some(&two[..]), None),
        row(Some(&one[..]), Some(&one[..])),
    ] {
        let mut files = VectorFiles::new(dir.path(), "x");
        files.push(&row(Some(&one), None)).unwrap();
        let error = files.push(&second).unwrap_err();
        assert!(
            error.to_string().contains("other vectors than the first"),
            "{error}"
        );
    }
    assert_eq!(VectorFiles::new(dir.path(), "x").finish().unwrap(), 0);
}

/// Writes the golden files again, for `check_vectors.py`, into the directory that this variable
/// names.
#[test]
fn golden_files_are_written_where_asked() {
    let Some(dir) = std::env::var_os("SEQSTREAM_WRITE_VECTORS") else {
        assert!(FILES.iter().all(|name| golden(name).exists()));
        return;
    };
    write(Path::new(&dir), (true, true));
}
