//! Divides a device's memory: decides how many tokens a batch should have and a pass may hold.

use super::builder::CudaOptions;
use super::launch::REPRESENT_SUM_ROWS;
use super::params::{AttentionItem, AttentionSlot};
use crate::batch::Budget;
use crate::gpu::driver::Arena;

/// Rows per tile of a GEMM. A whole wave of tiles has one tile on each multiprocessor.
const TILE_ROWS: usize = 128;
/// Waves per pass, unless memory or the user sets another number. At this size launches are hidden,
/// the last wave costs little, and a batch is still read, computed and written in a tenth of a
/// second.
const WAVES: usize = 2;
/// The first pass of a device may hold this many times the tokens of [`default_tokens`]. It waits
/// for the weights layer by layer, so the loading of all weights but those of the embedding and of
/// the first layer hides behind this pass if the pass takes as long as the loading. A pass of t
/// tokens takes 2 t FLOP per parameter, and a stored parameter has 2 or 4 bytes: at 350 TFLOP/s and
/// 20 to 30 GB/s, computing and loading take the same time at 12,000 to 35,000 tokens, whatever the
/// model.
const FIRST: usize = 2;
/// Bytes of the device's memory that stay free for the driver, for cuBLASLt and for modules.
pub(super) const RESERVE: usize = 512 << 20;
/// Average tokens per sequence in a full pass. Passes of shorter sequences are cut by their number
/// of sequences, because the results have no capacity for more.
const TOKENS_PER_SEQUENCE: usize = 16;
/// The parts of a slot start at multiples of this many bytes, for vector loads and copies.
pub(super) const ALIGN: usize = 256;

/// What decides the memory that a pass takes, besides its number of tokens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Needs {
    /// Bytes of parameters, of the GEMMs' workspace and of everything else that does not grow with
    /// the number of tokens.
    pub fixed: usize,
    /// Bytes of activations and tables per token.
    pub bytes_per_token: usize,
    /// Number of slots of the ring.
    pub slots: usize,
    /// Width of a representation.
    pub width: usize,
    /// Number of matrices per pass that are represented.
    pub representations: usize,
    /// Number of representations of each of these matrices that have a row for every sequence.
    pub poolings: usize,
    /// Whether each matrix has a representation with a state for every token.
    pub states: bool,
    /// Whether the states are rounded to f16.
    pub half: bool,
}

/// How much a pass may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Capacity {
    /// The most tokens per pass.
    pub tokens: usize,
    /// The most sequences per pass.
    pub sequences: usize,
}

impl Capacity {
    /// Returns the capacity for this many tokens, with a number of sequences that follows from it.
    pub fn of_tokens(tokens: usize) -> Self {
        Self {
            tokens,
            sequences: tokens.div_ceil(TOKENS_PER_SEQUENCE).max(64),
        }
    }

    /// Returns the most items that attention's work lists can have.
    pub fn items(&self) -> usize {
        self.tokens.div_ceil(16) + self.sequences
    }

    /// Returns the bytes of the largest input of a pass.
    pub fn input(&self) -> usize {
        let Self { tokens, sequences } = *self;
        let items = self.items();
        [
            tokens * 4,
            tokens * 4,
            tokens * 4,
            (sequences + 1) * 4,
            sequences * 8,
            sequences * 8,
            items * size_of::<AttentionItem>(),
            items * 4 * size_of::<AttentionSlot>(),
        ]
        .iter()
        .map(|part| part.next_multiple_of(ALIGN))
        .sum()
    }

    /// Returns the bytes of the largest output of a pass.
    pub fn output(&self, needs: &Needs) -> usize {
        let pooled = self.sequences * needs.width * 4;
        let (states, beyond) = match (needs.states, needs.half) {
            (false, _) => (0, 0),
            (true, false) => (self.tokens * needs.width * 4, 0),
            (true, true) => (self.tokens * needs.width * 2, self.tokens * 8),
        };
        let bad = self.sequences * 4;
        let [pooled, states, beyond, bad] =
            [pooled, states, beyond, bad].map(|part| part.next_multiple_of(ALIGN));
        let one = needs.poolings * pooled + states + beyond + needs.poolings.max(1) * bad;
        needs.representations * one
    }

    /// Returns the bytes of the device's memory that everything takes together.
    pub fn bytes(&self, needs: &Needs) -> usize {
        let slot = Arena::footprint(self.input()) + Arena::footprint(self.output(needs));
        let tokens = self.tokens * needs.bytes_per_token + sums(self.tokens, needs.width);
        needs.fixed + tokens + needs.slots * slot
    }
}

/// Returns the bytes of the sums of rows from which means are computed (`kernels/params.h`,
/// `RepresentParams`).
pub(super) fn sums(tokens: usize, width: usize) -> usize {
    (tokens / REPRESENT_SUM_ROWS as usize + 1) * width * size_of::<f64>()
}

/// Returns the rows of a whole wave on a device with this many multiprocessors.
pub(super) fn wave(multiprocessors: usize) -> usize {
    multiprocessors.max(1) * TILE_ROWS
}

/// Returns the tokens of a pass on a device with this many multiprocessors, if neither memory nor
/// the user sets another number.
pub(super) fn default_tokens(multiprocessors: usize) -> usize {
    WAVES * wave(multiprocessors)
}

/// Returns the tokens that the batches of one device should have: the number that the user set, or
/// the number that fills the device well. The first batch may have more, since it hides the loading
/// of the weights. What fits into the memory may be less ([`Budget::within`]).
pub(super) fn budget(multiprocessors: usize, tokens: Option<usize>) -> Budget {
    let usual = default_tokens(multiprocessors);
    Budget {
        first_batches: 1,
        first_tokens: tokens.unwrap_or(FIRST * usual),
        tokens: tokens.unwrap_or(usual),
    }
}

/// Returns the tokens that a pass should hold, if the device has enough memory.
pub(super) fn wanted_tokens(budget: &Budget, options: &CudaOptions) -> usize {
    let tokens = match options.states {
        // Allocating the pinned memory for more states would take longer than the longer first pass
        // would hide.
        true => budget.tokens,
        false => budget.first_tokens,
    };
    tokens.max(options.longest.unwrap_or(0))
}

/// Returns the tokens of the smallest pass that is worth running, if `wanted` tokens are wanted.
pub(super) fn smallest(wanted: usize) -> usize {
    TILE_ROWS.min(wanted.max(1))
}

/// Returns the most tokens, fewer than `tokens`, of a pass that fits into `free` bytes.
pub(super) fn most_below(needs: &Needs, tokens: usize, free: usize) -> Option<usize> {
    let fits = |tokens: &usize| Capacity::of_tokens(*tokens).bytes(needs) <= free;
    (1..tokens).rev().find(fits)
}

/// Returns the largest capacity of at most `wanted` tokens that fits into `free` bytes: all of
/// `wanted` if possible, else whole waves of rows, or whole tiles if not even one wave fits.
/// Returns `None` if not even one tile fits.
pub(super) fn capacity(needs: &Needs, wanted: usize, wave: usize, free: usize) -> Option<Capacity> {
    let fits = |tokens: usize| Capacity::of_tokens(tokens).bytes(needs) <= free;
    let smallest = smallest(wanted);
    if !fits(smallest) {
        return None;
    }
    // The bytes grow with the tokens, so a binary search finds the most tokens that fit.
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
        bytes_per_token: 40_000,
        slots: 3,
        width: 1280,
        representations: 1,
        poolings: 1,
        states: false,
        half: false,
    };

    #[test]
    fn what_is_wanted_is_had_where_it_fits() {
        let wanted = 33_792;
        let needs = Capacity::of_tokens(wanted).bytes(&NEEDS);
        let had = |wanted, free| capacity(&NEEDS, wanted, wave(132), free).unwrap().tokens;
        assert_eq!(had(wanted, needs), wanted);
        assert_eq!(had(7, usize::MAX / 2), 7);
        // A number that the user asked for need not be whole waves.
        assert_eq!(had(wanted - 5, needs), wanted - 5);
    }

    #[test]
    fn what_memory_decides_is_whole_waves() {
        let free = |tokens| Capacity::of_tokens(tokens).bytes(&NEEDS);
        let had = |free| capacity(&NEEDS, 67_584, wave(132), free).unwrap();
        assert_eq!(had(free(67_584) - 1).tokens, 3 * 132 * TILE_ROWS);
        assert_eq!(had(free(33_792)).tokens, 2 * 132 * TILE_ROWS);
        assert_eq!(had(free(33_792) - 1).tokens, 132 * TILE_ROWS);
        // Less than a wave is cut to whole tiles.
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
    fn states_in_f16_take_half_the_memory() {
        let output = |states, half| {
            let needs = Needs {
                states,
                half,
                ..NEEDS
            };
            Capacity::of_tokens(1024).output(&needs)
        };
        let none = output(false, true);
        assert_eq!(output(true, false) - none, 1024 * 1280 * 4);
        assert_eq!(output(true, true) - none, 1024 * (1280 * 2 + 8));
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

    #[test]
    fn a_pass_holds_the_first_batch_unless_states_are_wanted() {
        let options = |tokens, longest, states| CudaOptions {
            dtype: crate::dtype::DType::F16,
            tokens,
            longest,
            representations: 1,
            poolings: 1,
            states,
            half_states: false,
            upload_slot: None,
            weights: Default::default(),
            loading: Default::default(),
            deepest: None,
        };
        let wanted = |options: CudaOptions| wanted_tokens(&budget(132, options.tokens), &options);
        assert_eq!(wanted(options(None, None, false)), 67_584);
        assert_eq!(wanted(options(None, None, true)), 33_792);
        assert_eq!(wanted(options(None, Some(40_000), true)), 40_000);
        assert_eq!(wanted(options(Some(100), None, false)), 100);
        assert_eq!(wanted(options(Some(100), Some(300), false)), 300);
    }
}
