//! `seqstream tokenize`: prints token ids as JSON lines.

use serde::Serialize;

use super::args::TokenizeArgs;
use super::{Console, Failure, model, options};
use seqstream::engine;
use seqstream::sequence::{Alphabet, Input, SequenceReader, Tokenizer, clean};

#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    ids: &'a [u32],
}

/// Runs `seqstream tokenize`.
pub fn run(args: &TokenizeArgs, console: &Console) -> Result<(), Failure> {
    let (tokenizer, alphabet) = if args.model.extension().is_some_and(|e| e == "json") {
        let tokenizer = Tokenizer::from_file(&args.model)?;
        let alphabet = match tokenizer {
            Tokenizer::Esm2(_) => Alphabet::Protein,
            Tokenizer::Bpe(_) => Alphabet::Dna,
        };
        (tokenizer, alphabet)
    } else {
        let path = model::find(&args.model, console)?.path;
        let checkpoint = model::open(&path, console)?;
        (
            engine::tokenizer(&path, &checkpoint)?,
            engine::alphabet(checkpoint.config().kind),
        )
    };
    let cleaning = options::cleaning(args.clean);
    console.print(|out| {
        let mut ids = Vec::new();
        for record in SequenceReader::new(args.inputs.iter().map(Input::from).collect()) {
            let mut record = record?;
            clean(alphabet, cleaning, args.strict, &mut record)?;
            ids.clear();
            tokenizer.encode(&record.sequence, &mut ids);
            let line = Line {
                id: &record.id,
                ids: &ids,
            };
            serde_json::to_writer(&mut *out, &line).map_err(|e| Failure::Stdout(e.into()))?;
            out.write_all(b"\n").map_err(Failure::Stdout)?;
        }
        Ok(())
    })
}
