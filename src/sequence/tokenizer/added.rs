//! Added tokens, such as `[MASK]`, which are matched in the text before anything else.

/// One added token.
#[derive(Debug, Clone)]
pub(super) struct Added {
    /// The text that is matched.
    pub text: Vec<u8>,
    /// The id of the token.
    pub id: u32,
}

/// A set of added tokens that is matched in one scan of the text: the leftmost match wins, and of
/// the tokens that begin at the same position the longest.
#[derive(Debug, Default)]
pub(super) struct AddedTokens {
    /// The tokens, the longest first.
    tokens: Vec<Added>,
    /// Marks the bytes that begin a token.
    begins: Option<Box<[bool; 256]>>,
    /// The byte that begins every token, if there is only one such byte. It can be searched for
    /// fast.
    only: Option<u8>,
}

impl AddedTokens {
    /// Makes a set. Tokens without text would match nothing and are dropped.
    pub fn new(mut tokens: Vec<Added>) -> Self {
        tokens.retain(|t| !t.text.is_empty());
        tokens.sort_by_key(|t| std::cmp::Reverse(t.text.len()));
        let mut begins = Box::new([false; 256]);
        for first in tokens.iter().filter_map(|t| t.text.first()) {
            begins[usize::from(*first)] = true;
        }
        let mut firsts = (0..=255u8).filter(|b| begins[usize::from(*b)]);
        let only = match (firsts.next(), firsts.next()) {
            (Some(b), None) => Some(b),
            _ => None,
        };
        Self {
            tokens,
            begins: Some(begins),
            only,
        }
    }

    /// Finds the first token in `text`. Returns its position, its length in bytes and its id.
    pub fn find(&self, text: &[u8]) -> Option<(usize, usize, u32)> {
        let begins = self.begins.as_ref()?;
        if self.tokens.is_empty() {
            return None;
        }
        let mut at = 0;
        while let Some(rest) = text.get(at..) {
            let skip = match self.only {
                Some(b) => memchr::memchr(b, rest)?,
                None => rest.iter().position(|&b| begins[usize::from(b)])?,
            };
            let rest = rest.get(skip..)?;
            if let Some(token) = self.tokens.iter().find(|t| rest.starts_with(&t.text)) {
                return Some((at + skip, token.text.len(), token.id));
            }
            at += skip + 1;
        }
        None
    }
}
