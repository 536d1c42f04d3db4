//! Packed batches without padding, and how many tokens a batch may have.

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

/// The most tokens of each batch, special tokens included. A longer sequence is a batch of its own.
///
/// The first batch of a CUDA device is computed while the weights still arrive, layer by layer, so
/// it may be longer than the others: more computing hides more loading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// The number of batches at the start whose limit is `first_tokens`: one per CUDA device.
    pub first_batches: usize,
    /// The most tokens of each of the first batches.
    pub first_tokens: usize,
    /// The most tokens of each later batch.
    pub tokens: usize,
}

impl Budget {
    /// Returns the budget that gives every batch the same number of tokens.
    pub const fn even(tokens: usize) -> Self {
        Self {
            first_batches: 0,
            first_tokens: tokens,
            tokens,
        }
    }

    /// Returns the most tokens of the batch with this number, counted from 0.
    pub fn of_batch(&self, number: usize) -> usize {
        match number < self.first_batches {
            true => self.first_tokens,
            false => self.tokens,
        }
    }

    /// Returns the budget for a device on which at most `capacity` tokens fit.
    pub fn within(self, capacity: usize) -> Self {
        Self {
            first_tokens: self.first_tokens.min(capacity),
            tokens: self.tokens.min(capacity),
            ..self
        }
    }

    /// Returns the budget of two devices that share the batches of a job.
    pub fn and(self, other: Self) -> Self {
        Self {
            first_batches: self.first_batches + other.first_batches,
            first_tokens: self.first_tokens.min(other.first_tokens),
            tokens: self.tokens.min(other.tokens),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_batches_have_the_first_limit() {
        let one = Budget {
            first_batches: 1,
            first_tokens: 20,
            tokens: 10,
        };
        let limits = |budget: Budget| [0, 1, 2, 9].map(|number| budget.of_batch(number));
        assert_eq!(limits(one), [20, 10, 10, 10]);
        assert_eq!(limits(one.and(one)), [20, 20, 10, 10]);
        assert_eq!(limits(one.within(15)), [15, 10, 10, 10]);
        assert_eq!(limits(one.and(one.within(5))), [5, 5, 5, 5]);
        assert_eq!(limits(Budget::even(7)), [7, 7, 7, 7]);
    }
}
