//! Lines between the records of a file that are no sequence, such as separators, comments, sentences
//! and text of other formats. None of them may become residues.

use std::fmt;

/// What stands where sequence should stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intruder {
    /// A line `--` before a header, as `grep -A` writes it between its matches.
    Separator,
    /// A header of a PIR (NBRF) file, whose next line is a title.
    Pir,
    /// These characters at the start of a line.
    Start(&'static str),
    /// This character inside a line.
    Inside(char),
    /// Words of a language, ended by punctuation.
    Sentence,
}

impl fmt::Display for Intruder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Separator => f.write_str("the line '--' stands before a header"),
            Self::Pir => f.write_str("this is a header of a PIR file, not of a FASTA file"),
            Self::Start(start) => {
                write!(f, "the line begins with '{start}', so it is not sequence")
            }
            Self::Inside(c) => {
                write!(
                    f,
                    "the line holds the character '{c}', so it is not sequence"
                )
            }
            Self::Sentence => f.write_str("the line is a sentence, not sequence"),
        }
    }
}

impl Intruder {
    /// Returns what to do about the line.
    pub(super) fn advice(&self) -> &'static str {
        match self {
            Self::Separator => {
                "grep -A writes such lines between its matches: remove them, e.g. grep -vx -e -- IN > OUT, or run grep with its option no-group-separator; if the line is a piece of an alignment, write each sequence on one line"
            }
            Self::Pir => {
                "convert it to FASTA: the line after each header is a title, which FASTA does not have, and '*' ends each sequence"
            }
            Self::Start("@" | "+") => {
                "if FASTQ records follow FASTA ones, put them into a file of their own; otherwise remove the line"
            }
            _ => {
                "remove the line, or check which step wrote it: only headers and sequences belong in the file"
            }
        }
    }

    /// Looks at a whole line of a sequence.
    ///
    /// The bytes that are sought in long lines are found with vector instructions, because a line
    /// may hold a whole chromosome.
    pub(super) fn of_line(line: &[u8]) -> Option<Self> {
        let text = line.trim_ascii();
        if let Some(start) = ["@", "+", "#", "//"]
            .into_iter()
            .find(|start| text.starts_with(start.as_bytes()))
        {
            return Some(Self::Start(start));
        }
        if let Some(at) = memchr::memchr3(b'{', b'"', b'=', text) {
            return text.get(at).map(|b| Self::Inside(char::from(*b)));
        }
        is_sentence(text).then_some(Self::Sentence)
    }

    /// Whether the name of a record is that of a PIR file: the kind of the sequence, a semicolon,
    /// and a code. Names such as `P1;size=10` come from clustering tools and are none.
    pub(super) fn is_pir(name: &str) -> bool {
        const KINDS: [&str; 9] = ["P1", "F1", "DL", "DC", "RL", "RC", "N1", "N3", "XX"];
        name.split_once(';')
            .is_some_and(|(kind, code)| KINDS.contains(&kind) && !code.contains('='))
    }
}

/// Whether a line is the separator that `grep -A` writes.
pub(super) fn is_separator(line: &[u8]) -> bool {
    line.trim_ascii() == b"--"
}

/// Whether the text is at least three words that end in punctuation. Blocks of equal length, into
/// which some programs divide sequences, are no words.
fn is_sentence(text: &[u8]) -> bool {
    /// Longer lines are no sentences but sequences with blanks in them.
    const LONGEST: usize = 2000;
    if text.len() > LONGEST || !matches!(text.last(), Some(b'.' | b':' | b'!' | b'?' | b',' | b';'))
    {
        return false;
    }
    let words: Vec<&[u8]> = text
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
        .collect();
    let Some((_, blocks)) = words.split_last() else {
        return false;
    };
    let width = blocks.first().map_or(0, |block| block.len());
    let lower = words
        .iter()
        .filter(|word| word.first().is_some_and(u8::is_ascii_lowercase))
        .count();
    words.len() >= 3 && lower >= 2 && blocks.iter().any(|block| block.len() != width)
}
