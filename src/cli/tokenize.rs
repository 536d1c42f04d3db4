//! `seqstream tokenize`: prints token ids as JSON lines.

use serde::Serialize;

use super::args::TokenizeArgs;
use super::input::{counted, example};
use super::{Console, Failure, model, options};
use seqstream::engine;
use seqstream::pipeline::JobError;
use seqstream::sequence::{
    Alphabet, BadRecords, Input, ReaderOptions, SequenceReader, Tokenizer, clean,
};

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
    let cleaning = options::cleaning(args.clean, args.gaps)?;
    let reader = ReaderOptions {
        names: args.names.into(),
        bad_records: args.bad_records.into(),
        chains: args.chains.into(),
        strict: args.strict,
        ..ReaderOptions::default()
    };
    let skips = reader.bad_records == BadRecords::Skip;
    let (mut skipped, mut first) = (0, None);
    console.print(|out| {
        let mut ids = Vec::new();
        let inputs = args.inputs.iter().map(Input::from).collect();
        for read in SequenceReader::with_options(inputs, reader) {
            let cleaned = read.and_then(|mut record| {
                clean(alphabet, cleaning, args.strict, &mut record)?;
                Ok(record)
            });
            let record = match cleaned.map_err(JobError::from) {
                Ok(record) => record,
                Err(error) => {
                    let rejected = error.rejected().filter(|_| skips).ok_or(error)?;
                    skipped += 1;
                    first.get_or_insert(rejected);
                    continue;
                }
            };
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
    })?;
    if let Some(first) = first {
        console.warn(&format!(
            "{} (first: {})",
            counted(
                skipped,
                "bad record was skipped",
                "bad records were skipped"
            ),
            example(&first)
        ));
    }
    Ok(())
}
