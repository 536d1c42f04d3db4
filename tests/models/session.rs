//! The library's front door gives the rows of the program, and refuses what the program refuses.

use std::path::Path;
use std::process::Command;

use seqstream::sequence::{Input, SequenceReader};
use seqstream::{Device, EngineError, Pool, Request, Session};

const MODEL: &str = "examples/tiny-esm2";
const PROTEINS: &str = "examples/proteins.fasta";

fn request(layers: &[usize], per_token: bool) -> Request {
    Request {
        layers: layers.to_vec(),
        pools: vec![Pool::Mean],
        per_token,
    }
}

fn session(request: Request) -> Result<Session, EngineError> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    Session::open(&root.join(MODEL), &Device::Cpu, request)
}

fn proteins() -> Vec<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PROTEINS);
    let records = SequenceReader::new(vec![Input::from(&path)]);
    records.map(|record| record.unwrap().sequence).collect()
}

#[test]
fn rows_have_the_bits_that_the_program_writes() {
    let tmp = tempfile::tempdir().unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_seqstream"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args([
            "embed", PROTEINS, "--model", MODEL, "--quiet", "--layers", "1,4", "--out",
        ])
        .arg(tmp.path().join("out"))
        .status();
    assert!(status.unwrap().success());
    let mut session = session(request(&[1, 4], false)).unwrap();
    let embeddings = session.embed(proteins()).unwrap();
    assert_eq!(embeddings.len(), 12);
    for (at, layer) in [1, 4].into_iter().enumerate() {
        let path = tmp
            .path()
            .join(format!("out/shard-000000/layer_{layer}.npy"));
        let file = std::fs::read(path).unwrap();
        let values = file[128..].chunks_exact(4);
        let written: Vec<u32> = values
            .map(|b| u32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        let mut rows = Vec::new();
        for embedding in &embeddings {
            let output = &embedding.layers[at];
            assert_eq!(
                (output.layer, output.pooled.len()),
                (layer, session.width())
            );
            rows.extend(output.pooled.iter().map(|v| v.to_bits()));
        }
        assert!(rows == written, "layer {layer}");
    }
}

#[test]
fn states_come_per_sequence_and_cleaning_is_told() {
    let mut session = session(request(&[4], true)).unwrap();
    let embeddings = session.embed(["mktl", "MKTLJ*", "GG"]).unwrap();
    let tokens: Vec<usize> = embeddings
        .iter()
        .map(|e| e.layers[0].states.len() / session.width())
        .collect();
    assert_eq!(tokens, [6, 7, 4], "with cls and eos");
    assert_eq!(embeddings[0].cleaned.lowercase, 4);
    assert_eq!(embeddings[1].cleaned.unknown, 1);
    assert_eq!(embeddings[1].cleaned.stops_dropped, 1);
    let alone = session.embed(["GG"]).unwrap();
    assert_eq!(alone[0], embeddings[2], "whatever stands beside it");
    assert!(session.embed(Vec::<&str>::new()).unwrap().is_empty());
}

#[test]
fn requests_and_sequences_that_cannot_be_served_are_refused() {
    let refused = |layers: &[usize]| session(request(layers, false)).err().unwrap();
    assert!(matches!(
        refused(&[5]),
        EngineError::NoLayer {
            layer: 5,
            layers: 4
        }
    ));
    assert!(matches!(
        refused(&[2, 1, 2]),
        EngineError::RepeatedLayer { layer: 2 }
    ));
    let missing = Session::open(Path::new("nowhere"), &Device::Cpu, request(&[4], false));
    assert!(matches!(missing, Err(EngineError::Hub(_))));
    let mut session = session(request(&[4], false)).unwrap();
    let error = session.embed(["MKT", "*"]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "sequence 2: the sequence is only a stop codon"
    );
    assert_eq!(session.embed(["MKT"]).unwrap().len(), 1, "it goes on");
}
