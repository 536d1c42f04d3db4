//! Cleans sequences: maps every letter to the alphabet and counts everything that was not clean.

use super::error::Unclean;
use super::tokenizer::esm;
use super::{Alphabet, CleanCounts, Cleaning, Place, Record, SequenceError, UNKNOWN, decode};

/// The class of a byte with respect to an alphabet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// A letter of the alphabet.
    Letter,
    /// A lower-case letter that upper-casing turns into a letter of the alphabet.
    Lower,
    /// A lower-case letter that is outside the alphabet even when it is upper-cased.
    LowerUnknown,
    Space,
    /// A `<`, which may begin a special token.
    Bracket,
    Unknown,
    NonAscii,
}

static PROTEIN: [Class; 256] = classes(b"LAGVSERTIDPKQNFYMHWCXBUZO.-", true);
static DNA: [Class; 256] = classes(b"ACGT", false);

const fn classes(alphabet: &[u8], special: bool) -> [Class; 256] {
    let mut table = [Class::Unknown; 256];
    let mut b = 0;
    while b < 256 {
        if b >= 0x80 {
            table[b] = Class::NonAscii;
        } else if (b as u8).is_ascii_lowercase() {
            table[b] = Class::LowerUnknown;
        }
        b += 1;
    }
    let mut i = 0;
    while i < alphabet.len() {
        let letter = alphabet[i];
        table[letter as usize] = Class::Letter;
        if letter.is_ascii_uppercase() {
            table[letter.to_ascii_lowercase() as usize] = Class::Lower;
        }
        i += 1;
    }
    table[b' ' as usize] = Class::Space;
    table[b'\t' as usize] = Class::Space;
    table[b'\r' as usize] = Class::Space;
    table[b'\n' as usize] = Class::Space;
    table[0x0b] = Class::Space;
    table[0x0c] = Class::Space;
    if special {
        table[b'<' as usize] = Class::Bracket;
    }
    table
}

/// Cleans a record in place, or only counts with [`Cleaning::Off`]. The [module](super) lists the
/// rules.
///
/// After cleaning, each byte of a protein's sequence is one token, except for special tokens such
/// as `<mask>`, which keep their text.
///
/// # Errors
/// [`SequenceError::EmptySequence`] if nothing of the sequence remains; [`SequenceError::Strict`]
/// if `strict` is set and anything in the record is not clean.
pub fn clean(
    alphabet: Alphabet,
    cleaning: Cleaning,
    strict: bool,
    record: &mut Record,
) -> Result<CleanCounts, SequenceError> {
    let mut counts = CleanCounts {
        unnamed: record.unnamed.into(),
        ..CleanCounts::default()
    };
    if strict && record.unnamed {
        return Err(SequenceError::Strict {
            place: record.place(),
            column: 1,
            position: 1,
            found: Unclean::Unnamed,
        });
    }
    let table = match alphabet {
        Alphabet::Protein => &PROTEIN,
        Alphabet::Dna => &DNA,
    };
    let first = record
        .sequence
        .iter()
        .position(|&b| table[usize::from(b)] != Class::Letter);
    if let Some(first) = first {
        if strict
            && let Some((at, found)) =
                first_unclean(table, alphabet, cleaning, first, &record.sequence)
        {
            return Err(refusal(record, at, found));
        }
        counts.residues = first as u64;
        match cleaning {
            Cleaning::On => {
                let mut text = std::mem::take(&mut record.sequence);
                upper(table, alphabet, first, &mut text, &mut counts);
                record.sequence = text;
            }
            Cleaning::Off => count(table, first, &record.sequence, &mut counts),
        }
    } else {
        counts.residues = record.sequence.len() as u64;
    }
    if counts.residues == 0 {
        return Err(SequenceError::EmptySequence {
            place: record.place(),
            what: match counts {
                CleanCounts { stops_dropped: 1.., .. } => "only a stop codon",
                CleanCounts { whitespace: 1.., .. } => "only white space",
                _ => "empty",
            },
        });
    }
    Ok(counts)
}

/// Rewrites `text` from `first` on. The text never grows, so this works in place.
fn upper(
    table: &[Class; 256],
    alphabet: Alphabet,
    first: usize,
    text: &mut Vec<u8>,
    counts: &mut CleanCounts,
) {
    if alphabet == Alphabet::Protein
        && let Some(stop) = trailing_stop(table, text)
    {
        counts.stops_dropped = 1;
        counts.whitespace += (text.len() - stop - 1) as u64;
        text.truncate(stop);
    }
    let mut read = first;
    let mut write = first;
    while let Some(&b) = text.get(read) {
        let mut taken = 1;
        let mut put = Some(b);
        match table[usize::from(b)] {
            Class::Letter => {}
            Class::Lower => {
                counts.lowercase += 1;
                put = Some(b.to_ascii_uppercase());
            }
            Class::LowerUnknown => {
                counts.lowercase += 1;
                counts.unknown += 1;
                put = Some(UNKNOWN);
            }
            Class::Space => {
                counts.whitespace += 1;
                put = None;
            }
            Class::Bracket => {
                if let Some((token, _)) = text.get(read..).and_then(esm::special_at) {
                    counts.special_tokens += 1;
                    counts.residues += 1;
                    text.copy_within(read..read + token.len(), write);
                    read += token.len();
                    write += token.len();
                    continue;
                }
                counts.unknown += 1;
                put = Some(UNKNOWN);
            }
            Class::Unknown => {
                counts.unknown += 1;
                put = Some(UNKNOWN);
            }
            Class::NonAscii => {
                taken = decode(text.get(read..).unwrap_or_default()).1;
                counts.unknown += 1;
                counts.non_ascii += 1;
                put = Some(UNKNOWN);
            }
        }
        if let Some(b) = put {
            if let Some(slot) = text.get_mut(write) {
                *slot = b;
            }
            write += 1;
            counts.residues += 1;
        }
        read += taken;
    }
    text.truncate(write);
}

/// Counts like `upper`, for text that is kept. Nothing is upper-cased, so a lower-case letter
/// counts as unknown.
fn count(table: &[Class; 256], first: usize, text: &[u8], counts: &mut CleanCounts) {
    let mut at = first;
    while let Some(&b) = text.get(at) {
        let rest = text.get(at..).unwrap_or_default();
        let class = table[usize::from(b)];
        if class == Class::Space {
            counts.whitespace += 1;
            at += 1;
            continue;
        }
        counts.residues += 1;
        if class == Class::Bracket
            && let Some((token, _)) = esm::special_at(rest)
        {
            counts.special_tokens += 1;
            at += token.len();
            continue;
        }
        at += match class {
            Class::Letter => 1,
            Class::NonAscii => {
                counts.unknown += 1;
                counts.non_ascii += 1;
                decode(rest).1
            }
            _ => {
                counts.unknown += 1;
                1
            }
        };
    }
}

/// Returns the position of the stop `*` that ends the text, ignoring white space after it.
fn trailing_stop(table: &[Class; 256], text: &[u8]) -> Option<usize> {
    let last = text
        .iter()
        .rposition(|&b| table[usize::from(b)] != Class::Space)?;
    (text.get(last) == Some(&b'*')).then_some(last)
}

/// Returns the position and the kind of the first unclean character at or after `first`.
fn first_unclean(
    table: &[Class; 256],
    alphabet: Alphabet,
    cleaning: Cleaning,
    first: usize,
    text: &[u8],
) -> Option<(usize, Unclean)> {
    let mut at = first;
    while let Some(&b) = text.get(at) {
        let rest = text.get(at..).unwrap_or_default();
        let class = table[usize::from(b)];
        if class == Class::Bracket
            && let Some((token, _)) = esm::special_at(rest)
        {
            at += token.len();
            continue;
        }
        let found = match class {
            Class::Letter => {
                at += 1;
                continue;
            }
            Class::Space => Unclean::Whitespace,
            Class::Lower | Class::LowerUnknown => Unclean::Lowercase(char::from(b)),
            Class::NonAscii => decode(rest).0.map_or(Unclean::NotUtf8(b), Unclean::Unknown),
            Class::Unknown
                if alphabet == Alphabet::Protein
                    && cleaning == Cleaning::On
                    && trailing_stop(table, text) == Some(at) =>
            {
                Unclean::TrailingStop
            }
            Class::Unknown | Class::Bracket => Unclean::Unknown(char::from(b)),
        };
        return Some((at, found));
    }
    None
}

fn refusal(record: &Record, at: usize, found: Unclean) -> SequenceError {
    let (line, column) = match record.layout.locate(at as u64) {
        Some(place) => place,
        None if record.layout.ends_before(at as u64) => (0, 0),
        None => (record.line, at as u64 + 1),
    };
    SequenceError::Strict {
        place: Place {
            line,
            ..record.place()
        },
        column,
        position: at as u64 + 1,
        found,
    }
}
