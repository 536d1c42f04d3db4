//! Packed, unpadded batches.

/// Sequences laid end to end, with no pad token between them.
///
/// Sequence `i` is `tokens[starts[i]..starts[i + 1]]`, special tokens included.
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
    /// An empty batch.
    pub fn new() -> Self {
        Self {
            tokens: Vec::new(),
            starts: vec![0],
        }
    }

    /// Appends one sequence of token ids, special tokens included.
    pub fn push(&mut self, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
        self.starts.push(self.tokens.len());
    }

    /// All token ids, `[total]`.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Where each sequence starts, and at the end the total: `[sequences + 1]`.
    pub fn starts(&self) -> &[usize] {
        &self.starts
    }

    /// The number of sequences.
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Whether no sequence stands in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of tokens.
    pub fn total(&self) -> usize {
        self.tokens.len()
    }

    /// The token range of sequence `i`.
    pub fn range(&self, i: usize) -> std::ops::Range<usize> {
        self.starts[i]..self.starts[i + 1]
    }
}
