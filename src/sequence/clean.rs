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
    /// A gap character.
    Gap,
    /// `U` or `u` in DNA.
    Uracil,
    /// A `:`, with which some programs join chains.
    Colon,
    Unknown,
    NonAscii,
}

static PROTEIN: [Class; 256] = classes(b"LAGVSERTIDPKQNFYMHWCXBUZO", true);
static DNA: [Class; 256] = classes(b"ACGT", false);

const fn classes(alphabet: &[u8], protein: bool) -> [Class; 256] {
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
    table[b'-' as usize] = Class::Gap;
    table[b'.' as usize] = Class::Gap;
    table[b':' as usize] = Class::Colon;
    if protein {
        table[b'<' as usize] = Class::Bracket;
    } else {
        table[b'U' as usize] = Class::Uracil;
        table[b'u' as usize] = Class::Uracil;
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
        chains: (record.chain > 0).into(),
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
    if is_other_alphabet(alphabet, &record.sequence) {
        if strict {
            return Err(SequenceError::Strict {
                place: record.place(),
                column: 0,
                position: 0,
                found: Unclean::OtherAlphabet(alphabet),
            });
        }
        counts.other_alphabet = 1;
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
            Cleaning::On | Cleaning::Ungapped => {
                let mut text = std::mem::take(&mut record.sequence);
                upper(table, alphabet, cleaning, first, &mut text, &mut counts);
                record.sequence = text;
            }
            Cleaning::Off => count(table, alphabet, first, &record.sequence, &mut counts),
        }
    } else {
        counts.residues = record.sequence.len() as u64;
    }
    if counts.residues == 0 {
        return Err(SequenceError::EmptySequence {
            place: record.place(),
            what: match counts {
                CleanCounts {
                    stops_dropped: 1.., ..
                } => "only a stop codon",
                CleanCounts { gaps: 1.., .. } => "only gaps",
                CleanCounts {
                    whitespace: 1.., ..
                } => "only white space",
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
    cleaning: Cleaning,
    first: usize,
    text: &mut Vec<u8>,
    counts: &mut CleanCounts,
) {
    if alphabet == Alphabet::Protein
        && let Some(stop) = trailing_stop(table, cleaning, text)
    {
        counts.stops_dropped = 1;
        for b in text.get(stop + 1..).unwrap_or_default() {
            match table[usize::from(*b)] {
                Class::Gap => counts.gaps += 1,
                _ => counts.whitespace += 1,
            }
        }
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
            Class::Gap => {
                counts.gaps += 1;
                if cleaning == Cleaning::Ungapped {
                    put = None;
                } else if alphabet == Alphabet::Dna {
                    counts.unknown += 1;
                    put = Some(UNKNOWN);
                }
            }
            Class::Uracil => {
                counts.lowercase += u64::from(b == b'u');
                counts.uracil += 1;
                put = Some(b'T');
            }
            Class::Colon => {
                counts.unknown += 1;
                counts.chain_breaks += 1;
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
fn count(
    table: &[Class; 256],
    alphabet: Alphabet,
    first: usize,
    text: &[u8],
    counts: &mut CleanCounts,
) {
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
            Class::Gap => {
                counts.gaps += 1;
                counts.unknown += u64::from(alphabet == Alphabet::Dna);
                1
            }
            Class::Colon => {
                counts.unknown += 1;
                counts.chain_breaks += 1;
                1
            }
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

/// Whether a sequence looks like DNA where the model reads proteins, or like a protein where it
/// reads DNA. Only the beginning of the sequence is looked at.
fn is_other_alphabet(alphabet: Alphabet, text: &[u8]) -> bool {
    /// The bytes that are looked at.
    const BEGINNING: usize = 4096;
    /// The fewest letters that can be told: a short peptide may consist of A, C, G and T.
    const FEWEST: usize = 20;
    let text = text.get(..BEGINNING).unwrap_or(text);
    let mut letters = [0usize; 26];
    for b in text {
        let letter = b.to_ascii_lowercase().wrapping_sub(b'a');
        if let Some(count) = letters.get_mut(usize::from(letter)) {
            *count += 1;
        }
    }
    let of = |letter: u8| letters[usize::from(letter - b'a')];
    let all: usize = letters.iter().sum();
    let [a, c, g, t] = [of(b'a'), of(b'c'), of(b'g'), of(b't') + of(b'u')];
    let nucleotides = a + c + g + t + of(b'n');
    all >= FEWEST
        && match alphabet {
            // All four bases, so that a protein of few kinds of residues is not taken for DNA.
            Alphabet::Protein => {
                nucleotides * 20 >= all * 19 && [a, c, g, t].iter().all(|n| *n > 0)
            }
            Alphabet::Dna => (all - nucleotides) * 3 >= all,
        }
}

/// Returns the position of the stop `*` that ends the text, ignoring white space after it, and also
/// gaps if these are removed.
fn trailing_stop(table: &[Class; 256], cleaning: Cleaning, text: &[u8]) -> Option<usize> {
    let last = text.iter().rposition(|&b| match table[usize::from(b)] {
        Class::Space => false,
        Class::Gap => cleaning != Cleaning::Ungapped,
        _ => true,
    })?;
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
                    && cleaning != Cleaning::Off
                    && trailing_stop(table, cleaning, text) == Some(at) =>
            {
                Unclean::TrailingStop
            }
            Class::Gap => Unclean::Gap(char::from(b)),
            Class::Uracil if b == b'u' => Unclean::Lowercase('u'),
            Class::Uracil if cleaning != Cleaning::Off => Unclean::Uracil,
            Class::Colon => Unclean::ChainBreak,
            Class::Unknown | Class::Bracket | Class::Uracil => Unclean::Unknown(char::from(b)),
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
