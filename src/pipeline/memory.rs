//! Checks whether the embedding of a record fits into the available memory, before it is computed.
//! A program that asks the system for more memory than it has is ended without a message.

use std::sync::Arc;

use super::{JobError, LengthLimit, Long};
use crate::engine::HostMemory;
use crate::sequence::{Alphabet, Cleaning, Record, Tokenizer};

/// The bytes that each letter of a record takes until its tokens are in batches: 1 for the letter
/// and 4 for a token.
const LETTER: u64 = 5;

/// Compares the memory that records need with the memory that is available.
#[derive(Debug, Clone)]
pub struct MemoryCheck {
    /// The memory that a token needs, and the memory that is available.
    pub memory: HostMemory,
    /// The most content tokens of a sequence, if they are limited, and the treatment of longer
    /// sequences.
    pub limit: Option<LengthLimit>,
    /// The alphabet of the model.
    pub alphabet: Alphabet,
    /// Whether text is cleaned.
    pub cleaning: Cleaning,
    /// The tokenizer of the model.
    pub tokenizer: Arc<Tokenizer>,
}

impl MemoryCheck {
    /// Checks a cleaned record of `letters` residues or bases. If it may not fit, its tokens are
    /// counted.
    ///
    /// # Errors
    /// [`JobError::NoMemory`], which names the record.
    pub fn check(&self, record: &Record, letters: u64) -> Result<(), JobError> {
        let (memory, limit) = (&self.memory, self.limit);
        let cut = |tokens: u64| limit.map_or(tokens, |l| tokens.min(l.max as u64));
        let read = match limit.map(|l| l.long) {
            Some(Long::Truncate) => cut(letters),
            _ => letters,
        };
        let read = letters.saturating_add(read.saturating_mul(LETTER - 1));
        let needs = |tokens: u64| {
            let computed = memory
                .per_token
                .saturating_mul(cut(tokens).saturating_add(2));
            computed.saturating_add(read)
        };
        let fits = |needs: u64| needs <= memory.available.bytes;
        // A token has at least one letter.
        let mut needed = needs(letters);
        if fits(needed) {
            return Ok(());
        }
        let letter_by_letter = self.alphabet == Alphabet::Protein && self.cleaning != Cleaning::Off;
        if !letter_by_letter && fits(read) {
            let mut tokens = Vec::new();
            self.tokenizer.encode(&record.sequence, &mut tokens);
            needed = needs(tokens.len().saturating_sub(2) as u64);
            if fits(needed) {
                return Ok(());
            }
        }
        Err(JobError::NoMemory {
            place: record.place(),
            letters,
            needs: needed,
            available: memory.available,
            most: memory.tokens(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::memory::{Available, Bound};

    /// Returns the bytes that a record of this text needs, if they are more than 10,000 bytes, at
    /// 100 bytes per token.
    fn check(
        text: &[u8],
        letters: u64,
        limit: Option<LengthLimit>,
        cleaning: Cleaning,
    ) -> Option<u64> {
        let check = MemoryCheck {
            memory: HostMemory {
                per_token: 100,
                available: Available {
                    bytes: 10_000,
                    bound: Bound::Machine,
                },
            },
            limit,
            alphabet: Alphabet::Protein,
            cleaning,
            tokenizer: Arc::new(Tokenizer::esm2()),
        };
        match check.check(&Record::new("a", text), letters) {
            Ok(()) => None,
            Err(JobError::NoMemory { needs, most, .. }) => {
                assert_eq!(most, 100);
                Some(needs)
            }
            Err(other) => panic!("{other}"),
        }
    }

    fn upper(letters: usize, limit: Option<(usize, Long)>) -> Option<u64> {
        let limit = limit.map(|(max, long)| LengthLimit { max, long });
        check(&b"A".repeat(letters), letters as u64, limit, Cleaning::On)
    }

    #[test]
    fn a_record_fits_to_the_letter() {
        // A letter takes 105 bytes, and each of the two special tokens takes 100 bytes.
        assert_eq!(upper(93, None), None);
        assert_eq!(upper(94, None), Some(200 + 94 * 105));
    }

    #[test]
    fn limits_bound_what_is_computed_and_windows_what_is_read() {
        let windows = Long::Window { stride: 10 };
        assert_eq!(upper(1000, Some((10, windows))), None);
        assert_eq!(upper(5000, Some((10, windows))), Some(1200 + 5000 * 5));
        assert_eq!(upper(5000, Some((10, Long::Truncate))), None);
        assert_eq!(
            upper(1000, Some((95, Long::Truncate))),
            Some(9700 + 1000 + 95 * 4)
        );
        // A record beyond the limit gets another error.
        assert_eq!(upper(1000, Some((10, Long::Error))), None);
    }

    #[test]
    fn where_a_token_has_several_letters_they_are_counted() {
        let unknown = b"j".repeat(1000);
        assert_eq!(check(&unknown, 1000, None, Cleaning::Off), None);
        let spaced = b"j ".repeat(500);
        assert_eq!(
            check(&spaced, 500, None, Cleaning::Off),
            Some(50_200 + 2500)
        );
    }
}
