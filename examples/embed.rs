//! Turns sequences into rows: reads a FASTA file, embeds it on the CPU, and prints the start of
//! each row.
//!
//!     cargo run --example embed [MODEL [FASTA]]

use seqstream::sequence::{Input, SequenceReader};
use seqstream::{Device, Pool, Request, Session};
use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let model = arguments
        .next()
        .unwrap_or_else(|| "examples/tiny-esm2".into());
    let fasta = arguments
        .next()
        .unwrap_or_else(|| "examples/proteins.fasta".into());

    let (mut names, mut sequences) = (Vec::new(), Vec::new());
    for record in SequenceReader::new(vec![Input::from(&fasta)]) {
        let record = record.inspect_err(|error| {
            // A program can say where the file has to be mended.
            let line = error.place().map_or(0, |place| place.line);
            eprintln!("mend {} at line {line}", error.file());
        })?;
        names.push(record.id);
        sequences.push(record.sequence);
    }
    let request = Request {
        layers: vec![0, 4],
        pools: vec![Pool::Mean],
        per_token: false,
    };
    let mut session = Session::open(&model, &Device::Cpu, request)?;
    for warning in session.warnings() {
        eprintln!("warning: {warning}");
    }
    for (name, embedding) in names.iter().zip(session.embed(&sequences)?) {
        let row = &embedding.layers[1].pooled;
        println!(
            "{name:<24} {:9.5} {:9.5} {:9.5} ...",
            row[0], row[1], row[2]
        );
        if embedding.cleaned.unknown > 0 {
            println!("  unknown residues: {}", embedding.cleaned.unknown);
        }
    }
    println!("{} rows of {} values", names.len(), session.width());
    Ok(())
}
