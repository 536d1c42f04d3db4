//! Packed batches without padding.

/// Sequences that are stored one after another, with no pad token between them.
///
/// The tokens of sequence `i` are `tokens[starts[i]..starts[i + 1]]`, special tokens included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedBatch {
    tokens: Vec<u32>,
    starts: Vec<usize>,
}

impl Default for PackedBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl PackedBatch {
    /// Creates an empty batch.
    pub fn new() -> Self {
        Self {
            tokens: Vec::new(),
            starts: vec![0],
        }
    }

    /// Appends one sequence of token ids, which include the special tokens.
    pub fn push(&mut self, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
        self.starts.push(self.tokens.len());
    }

    /// Returns all token ids, `[total]`.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Returns the start of each sequence, and last the total number of tokens: `[sequences + 1]`.
    pub fn starts(&self) -> &[usize] {
        &self.starts
    }

    /// Returns the number of sequences.
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Returns whether the batch has no sequence.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of tokens.
    pub fn total(&self) -> usize {
        self.tokens.len()
    }

    /// Returns the range of sequence `i` in [`tokens`](Self::tokens).
    pub fn range(&self, i: usize) -> std::ops::Range<usize> {
        self.starts[i]..self.starts[i + 1]
    }
}
