//! ESM-2's tokenizer, which makes one token per letter.
//!
//! It does the same as Hugging Face's `EsmTokenizer`. Every entry of the vocabulary is matched
//! wherever it occurs, the longest first. The text between the matches is split at white space
//! (Python's `str.split`), and each stretch of it, however long, is one `<unk>`. White space itself
//! gives no token.

use crate::sequence::{UNKNOWN, decode};

/// The 33 tokens, in the order of their ids.
pub const VOCABULARY: [&str; 33] = [
    "<cls>", "<pad>", "<eos>", "<unk>", "L", "A", "G", "V", "S", "E", "R", "T", "I", "D", "P", "K",
    "Q", "N", "F", "Y", "M", "H", "W", "C", "X", "B", "U", "Z", "O", ".", "-", "<null_1>",
    "<mask>",
];
const CLS: u32 = 0;
const EOS: u32 = 2;
const UNK: u32 = 3;
const SPECIAL: [(&[u8], u32); 6] = [
    (b"<cls>", CLS),
    (b"<pad>", 1),
    (b"<eos>", EOS),
    (b"<unk>", UNK),
    (b"<null_1>", 31),
    (b"<mask>", 32),
];

/// The ids of the one-letter tokens. Every other byte is `NO_LETTER` and needs a closer look.
static LETTERS: [u8; 256] = letters();
const NO_LETTER: u8 = 0xff;

const fn letters() -> [u8; 256] {
    let mut table = [NO_LETTER; 256];
    let mut id = 0;
    while id < VOCABULARY.len() {
        let token = VOCABULARY[id].as_bytes();
        if token.len() == 1 {
            table[token[0] as usize] = id as u8;
        }
        id += 1;
    }
    table
}

/// Returns the special token at the start of `text` and its id.
pub(in crate::sequence) fn special_at(text: &[u8]) -> Option<(&'static [u8], u32)> {
    SPECIAL
        .into_iter()
        .find(|(token, _)| text.starts_with(token))
}

/// Whether `text` ends in a special token.
pub(in crate::sequence) fn ends_in_special(text: &[u8]) -> bool {
    SPECIAL.iter().any(|(token, _)| text.ends_with(token))
}

/// Whether `c` is white space for Python's `str.split`: Unicode white space and the four ASCII
/// separators.
fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\x1c'..='\x1f')
}

/// ESM-2's tokenizer, which is the same for models of every size.
#[derive(Debug, Clone, Copy, Default)]
pub struct Esm;

impl Esm {
    /// Appends `<cls>`, the tokens of `text`, and `<eos>`.
    pub fn encode(&self, text: &[u8], out: &mut Vec<u32>) {
        self.encode_first(text, usize::MAX, out);
    }

    /// Encodes like [`encode`](Self::encode), but appends only the first `most` tokens of `text`.
    pub(super) fn encode_first(&self, text: &[u8], most: usize, out: &mut Vec<u32>) {
        out.reserve(text.len().min(most) + 2);
        out.push(CLS);
        let end = out.len().saturating_add(most);
        let mut at = 0;
        // Whether the preceding text is unknown, so that the next unknown character joins its
        // token.
        let mut open = false;
        while out.len() < end
            && let Some(&b) = text.get(at)
        {
            let id = LETTERS[usize::from(b)];
            if id != NO_LETTER {
                out.push(id.into());
                open = false;
                at += 1;
                continue;
            }
            if b == UNKNOWN {
                out.push(UNK);
                open = false;
                at += 1;
                continue;
            }
            let rest = text.get(at..).unwrap_or_default();
            if let Some((token, id)) = special_at(rest) {
                out.push(id);
                open = false;
                at += token.len();
                continue;
            }
            let (c, len) = decode(rest);
            match c {
                Some(c) if is_space(c) => open = false,
                Some(_) => {
                    if !open {
                        out.push(UNK);
                    }
                    open = true;
                }
                None => {
                    out.push(UNK);
                    open = false;
                }
            }
            at += len;
        }
        out.push(EOS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(text: &[u8]) -> Vec<u32> {
        let mut out = Vec::new();
        Esm.encode(text, &mut out);
        out
    }

    #[test]
    fn the_first_tokens_are_those_of_the_whole() {
        let text = "M<mask>JJ \u{e9}\u{2003}KL\u{1f}".as_bytes();
        let whole = ids(text);
        for most in 0..12 {
            let mut first = vec![9];
            Esm.encode_first(text, most, &mut first);
            let kept = most.min(whole.len() - 2);
            assert_eq!(first[..2], [9, 0]);
            assert_eq!(first[2..first.len() - 1], whole[1..1 + kept], "{most}");
            assert_eq!(first.last(), Some(&EOS));
        }
    }

    #[test]
    fn letters_have_the_published_ids() {
        assert_eq!(ids(b"LAGVSERTIDPKQNFYMHWCXBUZO.-"), {
            let mut all = vec![0];
            all.extend(4..31);
            all.push(2);
            all
        });
    }

    #[test]
    fn a_run_of_unknown_text_is_one_token() {
        assert_eq!(ids(b"MKJJL"), [0, 20, 15, 3, 4, 2]);
        assert_eq!(ids(b"J J"), [0, 3, 3, 2]);
        assert_eq!(ids("J\u{2003}é\u{1f}j".as_bytes()), [0, 3, 3, 3, 2]);
    }

    #[test]
    fn the_unknown_byte_never_fuses() {
        assert_eq!(ids(b"\xff\xff"), [0, 3, 3, 2]);
        assert_eq!(ids(b"J\xffJ"), [0, 3, 3, 3, 2]);
    }

    #[test]
    fn special_tokens_are_matched_inside_text() {
        assert_eq!(ids(b"M<mask>L"), [0, 20, 32, 4, 2]);
        assert_eq!(ids(b"<null_1>A"), [0, 31, 5, 2]);
        assert_eq!(ids(b"<mas"), [0, 3, 2]);
        assert_eq!(ids(b"<<mask>>"), [0, 3, 32, 3, 2]);
        assert_eq!(ids(b""), [0, 2]);
    }
}
