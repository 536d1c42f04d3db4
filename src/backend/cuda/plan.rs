//! How a device's memory is divided: how many tokens a pass may hold.

use super::params::{AttentionItem, AttentionSlot};
use crate::gpu::driver::Arena;

/// Rows of a whole wave of a GEMM's tiles, one on each multiprocessor.
const TILE_ROWS: usize = 128;
/// Waves of a pass, unless memory or the user sets another number: launching is hidden, the last wave costs little, and a
/// batch is still read, computed and written in a tenth of a second.
const WAVES: usize = 2;
/// Times that, what a device's first pass may hold. It waits for the weights, layer by layer, so the loading of all but
/// the embedding and the first layer hides behind this one pass, if that takes as long. A pass of t tokens is 2 t FLOP a parameter, a stored parameter 2 or 4 bytes:
/// at 350 TFLOP/s and 20 to 30 GB/s these take the same time at 12,000 to 35,000 tokens, whatever the model.
const FIRST: usize = 2;
/// Bytes of the device that are left to the driver, to cuBLASLt and to modules.
pub(super) const RESERVE: usize = 512 << 20;
/// On average, in a full pass. One of shorter sequences is full before its tokens are; results have room for no more.
const TOKENS_A_SEQUENCE: usize = 16;
/// What parts of a slot start at multiples of: vector loads and copies.
pub(super) const ALIGN: usize = 256;

/// What decides how much a pass takes, besides its tokens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Needs {
    /// Bytes of parameters, products' workspace and all else that does not grow with tokens.
    pub fixed: usize,
    /// Bytes of activations and tables a token.
    pub a_token: usize,
    /// Slots of the ring.
    pub slots: usize,
    /// Width of a representation.
    pub width: usize,
    /// Representations of a pass.
    pub representations: usize,
    /// Whether each has a mean for every sequence.
    pub pooled: bool,
    /// Whether each has a state for every token.
    pub states: bool,
}

/// What a pass may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Capacity {
    pub tokens: usize,
    pub sequences: usize,
}

impl Capacity {
    pub fn of_tokens(tokens: usize) -> Self {
        Self {
            tokens,
            sequences: tokens.div_ceil(TOKENS_A_SEQUENCE).max(64),
        }
    }

    /// The most items of attention's work lists.
    pub fn items(&self) -> usize {
        self.tokens.div_ceil(16) + self.sequences
    }

    /// Bytes of the input of the largest pass.
    pub fn input(&self) -> usize {
        let Self { tokens, sequences } = *self;
        let items = self.items();
        [
            tokens * 4,
            tokens * 4,
            (sequences + 1) * 4,
            sequences * 8,
            items * size_of::<AttentionItem>(),
            items * 4 * size_of::<AttentionSlot>(),
        ]
        .iter()
        .map(|part| part.next_multiple_of(ALIGN))
        .sum()
    }

    /// Bytes of the output of the largest pass.
    pub fn output(&self, needs: &Needs) -> usize {
        let pooled = if needs.pooled {
            self.sequences * needs.width * 4
        } else {
            0
        };
        let states = if needs.states {
            self.tokens * needs.width * 4
        } else {
            0
        };
        let bad = self.sequences * 4;
        let one = [pooled, states, bad].map(|part| part.next_multiple_of(ALIGN));
        needs.representations * one.iter().sum::<usize>()
    }

    /// Bytes of everything.
    pub fn bytes(&self, needs: &Needs) -> usize {
        let slot = Arena::footprint(self.input()) + Arena::footprint(self.output(needs));
        let tokens = self.tokens * needs.a_token + sums(self.tokens, needs.width);
        needs.fixed + tokens + needs.slots * slot
    }
}

/// Bytes of the sums of rows that become means (`kernels/params.h`, `RepresentParams`).
pub(super) fn sums(tokens: usize, width: usize) -> usize {
    (tokens / 32 + 1) * width * size_of::<f64>()
}

/// Rows of a whole wave on a device with so many multiprocessors.
pub(super) fn wave(multiprocessors: usize) -> usize {
    multiprocessors.max(1) * TILE_ROWS
}

/// Tokens of a pass on a device with so many multiprocessors, where nothing else decides.
pub fn default_tokens(multiprocessors: usize) -> usize {
    WAVES * wave(multiprocessors)
}

/// Tokens of a device's first pass, where nothing else decides.
pub fn first_tokens(multiprocessors: usize) -> usize {
    FIRST * default_tokens(multiprocessors)
}

/// Tokens of the smallest pass that is worth having, if so many are wanted.
pub(super) fn smallest(wanted: usize) -> usize {
    TILE_ROWS.min(wanted.max(1))
}

/// The most tokens, fewer than `tokens`, of a pass that fits into `free` bytes.
pub(super) fn most_below(needs: &Needs, tokens: usize, free: usize) -> Option<usize> {
    let fits = |tokens: &usize| Capacity::of_tokens(*tokens).bytes(needs) <= free;
    (1..tokens).rev().find(fits)
}

/// The largest capacity of at most `wanted` tokens that fits into `free` bytes: of what is wanted, or else of whole waves
/// of rows, or where not even one fits of whole tiles. `None` if not even one tile does.
pub(super) fn capacity(needs: &Needs, wanted: usize, wave: usize, free: usize) -> Option<Capacity> {
    let fits = |tokens: usize| Capacity::of_tokens(tokens).bytes(needs) <= free;
    let smallest = smallest(wanted);
    if !fits(smallest) {
        return None;
    }
    // Bytes grow with tokens: the last that fits, by halves.
    let (mut fitting, mut not) = (smallest, wanted.max(1) + 1);
    while not - fitting > 1 {
        let middle = fitting + (not - fitting) / 2;
        if fits(middle) {
            fitting = middle;
        } else {
            not = middle;
        }
    }
    let whole = |rows: usize| fitting / rows * rows;
    let tokens = match fitting {
        all if all == wanted.max(1) => all,
        some if some >= wave => whole(wave),
        few if few >= TILE_ROWS => whole(TILE_ROWS),
        least => least,
    };
    Some(Capacity::of_tokens(tokens))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDS: Needs = Needs {
        fixed: 1 << 30,
        a_token: 40_000,
        slots: 3,
        width: 1280,
        representations: 1,
        pooled: true,
        states: false,
    };

    #[test]
    fn what_is_wanted_is_had_where_it_fits() {
        let wanted = 33_792;
        let needs = Capacity::of_tokens(wanted).bytes(&NEEDS);
        let had = |wanted, free| capacity(&NEEDS, wanted, wave(132), free).unwrap().tokens;
        assert_eq!(had(wanted, needs), wanted);
        assert_eq!(had(7, usize::MAX / 2), 7);
        // What was asked for need not be whole waves.
        assert_eq!(had(wanted - 5, needs), wanted - 5);
    }

    #[test]
    fn what_memory_decides_is_whole_waves() {
        let free = |tokens| Capacity::of_tokens(tokens).bytes(&NEEDS);
        let had = |free| capacity(&NEEDS, 67_584, wave(132), free).unwrap();
        assert_eq!(had(free(67_584) - 1).tokens, 3 * 132 * TILE_ROWS);
        assert_eq!(had(free(33_792)).tokens, 2 * 132 * TILE_ROWS);
        assert_eq!(had(free(33_792) - 1).tokens, 132 * TILE_ROWS);
        // Less than a wave: whole tiles.
        assert_eq!(had(free(16_000)).tokens, 16_000 / TILE_ROWS * TILE_ROWS);
        assert!(had(free(33_792) - 1).bytes(&NEEDS) < free(33_792));
    }

    #[test]
    fn memory_that_holds_no_tile_holds_nothing() {
        assert_eq!(capacity(&NEEDS, 1000, wave(1), 1 << 30), None);
        let states = Needs {
            states: true,
            ..NEEDS
        };
        let free = Capacity::of_tokens(10_000).bytes(&NEEDS);
        assert!(capacity(&states, 10_000, wave(1), free).unwrap().tokens < 10_000);
    }

    #[test]
    fn fewer_tokens_are_the_most_that_fit() {
        let free = |tokens| Capacity::of_tokens(tokens).bytes(&NEEDS);
        assert_eq!(most_below(&NEEDS, 128, free(128)), Some(127));
        assert_eq!(most_below(&NEEDS, 128, free(40)), Some(40));
        assert_eq!(most_below(&NEEDS, 128, free(1)), Some(1));
        assert_eq!(most_below(&NEEDS, 128, free(1) - 1), None);
        assert_eq!(most_below(&NEEDS, 1, free(1)), None);
    }

    #[test]
    fn default_is_whole_waves() {
        assert_eq!(default_tokens(132) % (132 * TILE_ROWS), 0);
    }
}
