//! Byte pair encoding of the words that a split at white space and punctuation gives.

use std::collections::HashMap;

use super::added::AddedTokens;
use super::backtrack::Backtrack;
use super::merge::{MergeTable, merge_all};
use crate::sequence::decode;

/// The tokenizer that a `tokenizer.json` describes.
#[derive(Debug)]
pub struct Bpe {
    /// The id of the special token before the text.
    pub(super) before: u32,
    /// The id of the special token after the text.
    pub(super) after: u32,
    /// The added tokens. The first set is matched in the text as it is; the second set, whose
    /// tokens are marked as normalised, is matched in the remaining text.
    pub(super) added: [AddedTokens; 2],
    /// The id of the unknown token.
    pub(super) unknown: u32,
    /// Whether a run of unknown characters is one unknown token.
    pub(super) fuse_unknown: bool,
    /// The tokens of a single character.
    pub(super) characters: HashMap<char, u32>,
    /// All merges, for encoding by the definition.
    pub(super) merges: MergeTable,
    /// The tables of the fast method; `None` if the merges are not of the usual kind.
    pub(super) backtrack: Option<Backtrack>,
    /// One more than the highest id.
    pub(super) vocab_size: usize,
}

/// The classes of characters that the pre-tokenizer `\w+|[^\w\s]+` distinguishes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Word,
    Space,
    Other,
    /// A byte that is not UTF-8. It is a word by itself.
    Broken,
}

static ASCII: [Kind; 128] = ascii();

const fn ascii() -> [Kind; 128] {
    let mut table = [Kind::Other; 128];
    let mut b = 0;
    while b < 128 {
        if (b as u8).is_ascii_alphanumeric() || b as u8 == b'_' {
            table[b] = Kind::Word;
        } else if matches!(b as u8, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c) {
            table[b] = Kind::Space;
        }
        b += 1;
    }
    table
}

fn kind_at(text: &[u8]) -> (Kind, usize) {
    if let Some(kind) = text.first().and_then(|&b| ASCII.get(usize::from(b))) {
        return (*kind, 1);
    }
    match decode(text) {
        (Some(c), len) if regex_syntax::is_word_character(c) => (Kind::Word, len),
        (Some(c), len) if c.is_whitespace() => (Kind::Space, len),
        (Some(_), len) => (Kind::Other, len),
        (None, len) => (Kind::Broken, len),
    }
}

impl Bpe {
    /// Appends the special tokens and, between them, the tokens of `text`.
    pub fn encode(&self, text: &[u8], out: &mut Vec<u32>) {
        self.encode_first(text, usize::MAX, out);
    }

    /// Encodes like [`encode`](Self::encode), but stops after the word with which `text` has
    /// reached `most` tokens. No word is cut, because the end of a word may decide which tokens it
    /// begins with.
    pub(super) fn encode_first(&self, text: &[u8], most: usize, out: &mut Vec<u32>) {
        out.push(self.before);
        let [plain, normalized] = &self.added;
        let end = out.len().saturating_add(most);
        split(plain, text, end, out, &mut |piece, out| {
            split(normalized, piece, end, out, &mut |piece, out| {
                self.words(piece, end, out)
            });
        });
        out.push(self.after);
    }

    /// Returns one more than the highest id.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Appends the tokens of the words of `text`, and stops at a word once `out` has `most`
    /// entries.
    fn words(&self, text: &[u8], most: usize, out: &mut Vec<u32>) {
        let mut at = 0;
        while at < text.len() && out.len() < most {
            let (kind, mut end) = kind_at(text.get(at..).unwrap_or_default());
            end += at;
            if kind != Kind::Broken {
                while let Some(rest) = text.get(end..)
                    && !rest.is_empty()
                {
                    let (next, len) = kind_at(rest);
                    if next != kind {
                        break;
                    }
                    end += len;
                }
            }
            let word = text.get(at..end).unwrap_or_default();
            match kind {
                Kind::Space => {}
                Kind::Broken => out.push(self.unknown),
                Kind::Word | Kind::Other => match &self.backtrack {
                    Some(backtrack) => self.by_backtracking(backtrack, word, out),
                    None => self.by_definition(word, out),
                },
            }
            at = end;
        }
    }

    /// Encodes a word by the fast method. A character that takes part in no merge is a token by
    /// itself, and cuts the word into runs of letters.
    fn by_backtracking(&self, backtrack: &Backtrack, word: &[u8], out: &mut Vec<u32>) {
        let mut rest = word;
        let mut after_unknown = false;
        while !rest.is_empty() {
            let run = backtrack.run(rest);
            if run > 0 {
                backtrack.encode(rest.get(..run).unwrap_or_default(), out);
                rest = rest.get(run..).unwrap_or_default();
                after_unknown = false;
                continue;
            }
            let (c, len) = decode(rest);
            match c.and_then(|c| self.characters.get(&c)) {
                Some(&id) => {
                    out.push(id);
                    after_unknown = false;
                }
                None => {
                    if !(self.fuse_unknown && after_unknown) {
                        out.push(self.unknown);
                    }
                    after_unknown = true;
                }
            }
            rest = rest.get(len..).unwrap_or_default();
        }
    }

    /// Encodes a word by the definition of byte pair encoding.
    fn by_definition(&self, word: &[u8], out: &mut Vec<u32>) {
        let mut symbols = Vec::with_capacity(word.len());
        let mut rest = word;
        let mut after_unknown = false;
        while !rest.is_empty() {
            let (c, len) = decode(rest);
            let known = c.and_then(|c| self.characters.get(&c)).copied();
            if known.is_some() || !(self.fuse_unknown && after_unknown) {
                symbols.push(known.unwrap_or(self.unknown));
            }
            after_unknown = known.is_none();
            rest = rest.get(len..).unwrap_or_default();
        }
        merge_all(&self.merges, &mut symbols);
        out.append(&mut symbols);
    }
}

/// Appends the ids of the added tokens in `text` to `out`, and passes the text between them to
/// `rest`. It stops once `out` has `most` entries.
fn split(
    added: &AddedTokens,
    mut text: &[u8],
    most: usize,
    out: &mut Vec<u32>,
    rest: &mut dyn FnMut(&[u8], &mut Vec<u32>),
) {
    while let Some((start, len, id)) = added.find(text) {
        rest(text.get(..start).unwrap_or_default(), out);
        if out.len() >= most {
            return;
        }
        out.push(id);
        text = text.get(start + len..).unwrap_or_default();
    }
    rest(text, out);
}
