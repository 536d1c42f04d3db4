//! Byte pair encoding in linear time, for text of any length.
//!
//! A contig is one word of up to millions of letters. A heap over the whole word is slow and misses
//! every cache. But whether two neighbouring tokens are compatible, which means that they can stand
//! side by side in an encoding, depends on these two tokens alone: undo their merges in reverse
//! order, and ask at each step whether a merge across the boundary would have come first. A
//! sequence of tokens whose neighbours are all compatible is *the* encoding of its text.
//!
//! The encoder therefore takes the longest match that is compatible with its left neighbour. If no
//! match is compatible, it gives back the last token and tries a shorter one. It never tries a
//! position again that it has given up once, and this bounds the work. (The method is from van
//! Antwerpen and Neubeck, "So many tokens, so little time", GitHub 2024.)
//!
//! The method holds for merges that make each token in exactly one way, in the order of their
//! ranks. [`Backtrack::new`] checks the table for this property, and checks every token against the
//! definition. If the check fails, [`merge_all`] encodes.

use super::merge::{Merge, MergeTable, merge_all};

/// The most letters of the alphabet. Beyond this limit and the next two, the definition encodes.
const MAX_ALPHABET: usize = 64;
/// The most entries of the trie.
const MAX_TABLE: usize = 16 << 20;
/// The most bytes of all merged tokens together.
const MAX_TOKEN_BYTES: usize = 4 << 20;
/// The most entries of the table `leads`.
const MAX_LEADS: usize = 4096;

const NONE: u32 = u32::MAX;

/// The tables of the method.
#[derive(Debug)]
pub(super) struct Backtrack {
    /// Maps a byte to a letter of the alphabet, or to `NO_LETTER`.
    letters: [u8; 256],
    /// The trie: `next[node * width + letter]` is the child of a node, 0 if there is none.
    next: Vec<u32>,
    width: usize,
    /// The longest token on the path to a trie node, including the node itself; `NONE` only at the
    /// root.
    longest: Vec<u32>,
    /// The trie node that each string of `lead` letters leads to, and the depth of the node. One
    /// lookup replaces the first steps of a walk.
    leads: Vec<(u32, u32)>,
    lead: usize,
    tokens: Vec<Token>,
    /// The parts `(left, right)` of each token. They are close together in memory, because undoing
    /// merges is half of the work.
    parts: Vec<(u32, u32)>,
    /// A filter with one bit per hash of a pair. Most pairs are in no table, and the filter answers
    /// for them from the first-level cache.
    filter: Vec<u64>,
    /// Maps a pair of tokens to the merged token. Both have the numbers of this module, which are
    /// also the ranks.
    pairs: MergeTable,
}

/// A token. Tokens are numbered here by the rank of their merge: first the letters, then the result
/// of each merge.
#[derive(Debug, Clone)]
struct Token {
    /// The id in the vocabulary.
    id: u32,
    /// The length in bytes.
    len: u32,
    /// The longest token that is a proper prefix of this token; `NONE` if there is none.
    prefix: u32,
}

const NO_LETTER: u8 = 0xff;

/// One merge: its two parts and its result, as ids of the vocabulary.
pub(super) struct Rule {
    pub left: u32,
    pub right: u32,
    pub id: u32,
}

impl Backtrack {
    /// Builds the tables. `letters` are the single-byte tokens (byte, id), and `rules` are the
    /// merges in the order of their ranks, each pair once. Returns `None` if the method does not
    /// apply.
    pub fn new(letters: &[(u8, u32)], rules: &[Rule]) -> Option<Self> {
        if letters.is_empty() || letters.len() > MAX_ALPHABET {
            return None;
        }
        let mut this = Self {
            letters: [NO_LETTER; 256],
            next: vec![0; letters.len()],
            width: letters.len(),
            longest: vec![NONE],
            leads: Vec::new(),
            lead: 0,
            tokens: Vec::new(),
            parts: Vec::new(),
            filter: vec![0; (rules.len() / 4).next_power_of_two()],
            pairs: MergeTable::with_capacity(rules.len()),
        };
        let mut number = std::collections::HashMap::new();
        let mut texts: Vec<Vec<u8>> = Vec::new();
        for (i, &(byte, id)) in letters.iter().enumerate() {
            *this.letters.get_mut(usize::from(byte))? = i as u8;
            number.insert(id, i as u32);
            texts.push(vec![i as u8]);
            this.tokens.push(Token {
                id,
                len: 1,
                prefix: NONE,
            });
            this.parts.push((i as u32, i as u32));
        }
        let mut bytes = 0;
        for rule in rules {
            // An earlier rule must have made both parts. Otherwise the order of the merges is not
            // the order of their ranks.
            let (left, right) = (*number.get(&rule.left)?, *number.get(&rule.right)?);
            let new = this.tokens.len() as u32;
            if number.insert(rule.id, new).is_some() {
                return None;
            }
            let text = [
                texts.get(left as usize)?.as_slice(),
                texts.get(right as usize)?,
            ]
            .concat();
            bytes += text.len();
            if bytes > MAX_TOKEN_BYTES {
                return None;
            }
            this.tokens.push(Token {
                id: rule.id,
                len: text.len() as u32,
                prefix: NONE,
            });
            this.parts.push((left, right));
            this.pairs.insert(left, right, Merge { rank: new, id: new });
            let (word, bit) = this.filter_bit(left, right);
            *this.filter.get_mut(word)? |= bit;
            texts.push(text);
        }
        if this.pairs.len() != rules.len() {
            return None;
        }
        for (token, text) in texts.iter().enumerate() {
            this.add_to_trie(text, token as u32)?;
        }
        for (token, text) in texts.iter().enumerate() {
            let mut symbols: Vec<u32> = text.iter().map(|&l| l.into()).collect();
            merge_all(&this.pairs, &mut symbols);
            if symbols != [token as u32] {
                return None;
            }
        }
        this.finish(&texts)?;
        Some(this)
    }

    fn add_to_trie(&mut self, text: &[u8], token: u32) -> Option<()> {
        let mut node = 0;
        for &letter in text {
            let at = node * self.width + usize::from(letter);
            if *self.next.get(at)? == 0 {
                if self.next.len() + self.width > MAX_TABLE {
                    return None;
                }
                *self.next.get_mut(at)? = self.longest.len() as u32;
                self.longest.push(NONE);
                self.next.resize(self.next.len() + self.width, 0);
            }
            node = *self.next.get(at)? as usize;
        }
        let slot = self.longest.get_mut(node)?;
        // Two tokens with the same text cannot both be the encoding of that text.
        (*slot == NONE).then(|| *slot = token)
    }

    /// Fills in the tables that need the whole trie: the prefixes, the longest token on the path to
    /// each node, and the leads.
    fn finish(&mut self, texts: &[Vec<u8>]) -> Option<()> {
        for (token, text) in texts.iter().enumerate() {
            let mut node = 0;
            let mut prefix = NONE;
            for &letter in text.get(..text.len() - 1)? {
                node = *self.next.get(node * self.width + usize::from(letter))? as usize;
                let here = *self.longest.get(node)?;
                prefix = if here == NONE { prefix } else { here };
            }
            self.tokens.get_mut(token)?.prefix = prefix;
        }
        // A child has a higher number than its parent, so one loop in this order carries the
        // longest token down the trie.
        for node in 0..self.longest.len() {
            let here = *self.longest.get(node)?;
            for letter in 0..self.width {
                let child = *self.next.get(node * self.width + letter)? as usize;
                if child != 0 && *self.longest.get(child)? == NONE {
                    *self.longest.get_mut(child)? = here;
                }
            }
        }
        while self.width > 1 && self.width.pow(self.lead as u32 + 1) <= MAX_LEADS {
            self.lead += 1;
        }
        for mut code in 0..self.width.pow(self.lead as u32) {
            let mut letters = vec![0; self.lead];
            for letter in letters.iter_mut().rev() {
                *letter = code % self.width;
                code /= self.width;
            }
            let (mut node, mut depth) = (0, 0);
            for letter in letters {
                let child = *self.next.get(node * self.width + letter)? as usize;
                if child == 0 {
                    break;
                }
                (node, depth) = (child, depth + 1);
            }
            self.leads.push((node as u32, depth));
        }
        Some(())
    }

    fn filter_bit(&self, left: u32, right: u32) -> (usize, u64) {
        let hash = left.wrapping_mul(0x9e37_79b1) ^ right.wrapping_mul(0x85eb_ca6b);
        let hash = hash ^ hash >> 15;
        (
            (hash >> 6) as usize & (self.filter.len() - 1),
            1 << (hash & 63),
        )
    }

    /// Returns how many bytes at the start of `text` are letters of the alphabet.
    pub fn run(&self, text: &[u8]) -> usize {
        text.iter()
            .position(|&b| self.letters[usize::from(b)] == NO_LETTER)
            .unwrap_or(text.len())
    }

    fn token(&self, number: u32) -> &Token {
        &self.tokens[number as usize]
    }

    #[inline]
    fn longest_match(&self, text: &[u8]) -> u32 {
        let letter = |b: u8| usize::from(self.letters[usize::from(b)]);
        let mut node = 0;
        let mut rest = text;
        if let Some((head, tail)) = text.split_at_checked(self.lead) {
            let code = head
                .iter()
                .fold(0, |code, &b| code * self.width + letter(b));
            let (lead, depth) = self.leads[code];
            node = lead as usize;
            if (depth as usize) < self.lead {
                return self.longest[node];
            }
            rest = tail;
        }
        for &b in rest {
            let child = self.next[node * self.width + letter(b)] as usize;
            if child == 0 {
                break;
            }
            node = child;
        }
        self.longest[node]
    }

    /// Whether two tokens, each of which is the encoding of its own text, are compatible.
    #[inline]
    fn compatible(&self, mut left: u32, mut right: u32) -> bool {
        let letters = self.width as u32;
        // A merge across the boundary would have come first if its rank is below this limit.
        let mut limit = NONE;
        loop {
            let (word, bit) = self.filter_bit(left, right);
            if self.filter[word] & bit != 0
                && let Some(merge) = self.pairs.get(left, right)
                && merge.rank < limit
            {
                return false;
            }
            // Undo the later of the two last merges; if their ranks are equal, the right one is the
            // later. Letters have the lowest numbers, so if the higher of the two numbers is a
            // letter, no merge remains to be undone.
            if left.max(right) < letters {
                return true;
            }
            if left > right {
                limit = left;
                left = self.parts[left as usize].1;
            } else {
                limit = right + 1;
                right = self.parts[right as usize].0;
            }
        }
    }

    /// Appends the tokens of `text`. All bytes of `text` must be letters of the alphabet.
    pub fn encode(&self, text: &[u8], out: &mut Vec<u32>) {
        let base = out.len();
        // Bit i is set if position i was given up.
        let mut dead = vec![0u64; text.len() / 64 + 1];
        let mut at = 0;
        let mut token = self.longest_match(text);
        while at < text.len() {
            let last = if out.len() > base {
                out.last().copied()
            } else {
                None
            };
            let end = at + self.token(token).len as usize;
            let given_up = dead[end / 64] >> (end % 64) & 1 == 1;
            if !given_up && last.is_none_or(|last| self.compatible(last, token)) {
                out.push(token);
                at = end;
                if at < text.len() {
                    token = self.longest_match(&text[at..]);
                }
            } else if self.token(token).prefix != NONE {
                token = self.token(token).prefix;
            } else if let Some(last) = last {
                dead[at / 64] |= 1 << (at % 64);
                out.pop();
                at -= self.token(last).len as usize;
                token = last;
            } else {
                // This cannot happen: the encoding exists, so its first token fits. A test stops
                // here; in a job the definition encodes.
                debug_assert!(false, "no first token fits");
                let mut symbols: Vec<u32> = text
                    .iter()
                    .map(|&b| u32::from(self.letters[usize::from(b)]))
                    .collect();
                merge_all(&self.pairs, &mut symbols);
                out.extend(symbols);
                break;
            }
        }
        for number in out.get_mut(base..).unwrap_or_default() {
            *number = self.token(*number).id;
        }
    }
}
