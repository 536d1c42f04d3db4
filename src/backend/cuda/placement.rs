//! Decides where the weights of a model stand on a device, and how many tokens a pass has beside
//! them.

use super::builder::CudaOptions;
use super::memory::{self, Capacity, Needs};
use super::weights::Residency;
use crate::batch::Budget;
use crate::gpu::stream::StreamError;

/// The fewest slots through which layers can be streamed: one is computed with while another is
/// loaded.
pub const LEAST_SLOTS: usize = 2;
/// The most slots that can be asked for. A model with no more layers than slots is not streamed.
pub const MOST_SLOTS: usize = 1024;
/// The slots that are taken by default, if they leave enough memory for a pass. With two slots the
/// loading of a layer begins when the layer before the last one is computed; any delay of loading
/// or of the host delays computing. A third slot lets loading run a whole layer ahead, which evens
/// out passes of different sizes and the ends of passes, at the price of one layer's memory.
const USUAL_SLOTS: usize = 3;
/// A pass of a streamed model should have this many times the tokens at which loading is estimated
/// to take as long as computing, since estimates are rough.
const MARGIN: f64 = 1.25;
/// The most waves per pass that are taken to hide loading. Longer passes take memory, and delay the
/// first results.
const MOST_WAVES: usize = 8;

/// Where the weights of a model stand on a device. The bits of the results are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WeightMode {
    /// All layers stay on the device if a pass of useful size fits beside them; otherwise they are
    /// streamed.
    #[default]
    Auto,
    /// All layers stay on the device.
    Resident,
    /// Layers are streamed from the mapped files through a ring of slots on the device.
    Streamed {
        /// The number of slots, from [`LEAST_SLOTS`] to [`MOST_SLOTS`]; `None` for a number that
        /// follows from the device's memory. With as many slots as layers, all layers stay.
        slots: Option<usize>,
    },
}

impl WeightMode {
    /// Returns the numbers of slots to consider, the preferred one first; `None` for no ring.
    ///
    /// # Errors
    /// [`StreamError::Option`] for a number of slots that is out of range.
    pub(super) fn candidates(self) -> Result<Vec<Option<usize>>, StreamError> {
        let (from, to) = (LEAST_SLOTS, MOST_SLOTS);
        Ok(match self {
            Self::Resident => vec![None],
            Self::Streamed { slots: Some(value) } if !(from..=to).contains(&value) => {
                return Err(StreamError::Option {
                    what: "slots of streamed layers",
                    value,
                    from,
                    to,
                });
            }
            Self::Streamed { slots: Some(slots) } => vec![Some(slots)],
            Self::Streamed { slots: None } => vec![Some(USUAL_SLOTS), Some(LEAST_SLOTS)],
            Self::Auto => vec![None, Some(USUAL_SLOTS), Some(LEAST_SLOTS)],
        })
    }
}

/// A way to divide a device's memory.
#[derive(Debug, Clone)]
pub(super) struct Placement {
    /// Which layers stay, and which are streamed.
    pub residency: Residency,
    /// What decides the memory of a pass beside the weights.
    pub needs: Needs,
    /// How many tokens batches should have.
    pub budget: Budget,
    /// How many tokens a pass should hold.
    pub wanted: usize,
}

impl Placement {
    /// Returns the placement of these weights. `to_hide` is the number of tokens at which loading is
    /// estimated to take as long as computing.
    pub fn new(
        residency: Residency,
        needs: Needs,
        options: &CudaOptions,
        multiprocessors: usize,
        to_hide: usize,
    ) -> Self {
        let usual = memory::budget(multiprocessors, options.tokens);
        let budget = match residency.streamed.is_empty() {
            true => usual,
            false => streamed_budget(
                usual,
                options.tokens,
                memory::wave(multiprocessors),
                to_hide,
            ),
        };
        Self {
            wanted: memory::wanted_tokens(&budget, options),
            residency,
            needs,
            budget,
        }
    }

    /// Returns the tokens of a batch, if a pass holds so many.
    pub fn tokens(&self, capacity: Capacity) -> usize {
        self.budget.within(capacity.tokens).tokens
    }

    /// Returns how fast passes of this capacity run, as a fraction of the speed of passes that fill
    /// the device and hide all loading. A negative number says that the longest sequence does not
    /// fit.
    pub fn speed(
        &self,
        capacity: Capacity,
        longest: Option<usize>,
        wave: usize,
        to_hide: usize,
    ) -> f64 {
        let tokens = capacity.tokens.min(self.budget.tokens);
        let of = |full: usize| (tokens as f64 / full.max(1) as f64).min(1.0);
        let speed = match self.residency.streamed.is_empty() {
            true => of(wave.min(self.budget.tokens)),
            false => of(wave.min(self.budget.tokens)).min(of(to_hide)),
        };
        match longest.is_some_and(|longest| longest > capacity.tokens) {
            true => speed - 1.0,
            false => speed,
        }
    }
}

/// Returns the tokens that the batches of a streamed model should have: the number that the user
/// set, or whole waves in which loading hides. The first batch is like all others.
fn streamed_budget(usual: Budget, tokens: Option<usize>, wave: usize, to_hide: usize) -> Budget {
    let hiding = (MARGIN * to_hide as f64 / wave as f64).ceil() as usize;
    let tokens = tokens.unwrap_or_else(|| usual.tokens.max(hiding.min(MOST_WAVES) * wave));
    Budget {
        first_tokens: tokens,
        tokens,
        ..usual
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_of_a_streamed_model_are_waves_in_which_loading_hides() {
        let wave = memory::wave(132);
        let usual = memory::budget(132, None);
        let tokens = |set, to_hide| streamed_budget(usual, set, wave, to_hide);
        assert_eq!(tokens(None, 11_636).tokens, 2 * wave);
        assert_eq!(tokens(None, 11_636).first_tokens, 2 * wave);
        assert_eq!(tokens(None, 28_000).tokens, 3 * wave);
        assert_eq!(tokens(None, 10_000_000).tokens, MOST_WAVES * wave);
        assert_eq!(tokens(Some(7), 28_000).tokens, 7);
    }

    #[test]
    fn slots_are_at_least_two() {
        let of = |slots| WeightMode::Streamed { slots }.candidates();
        assert_eq!(of(Some(2)), Ok(vec![Some(2)]));
        assert_eq!(of(None), Ok(vec![Some(3), Some(2)]));
        for wrong in [0, 1, MOST_SLOTS + 1] {
            let error = of(Some(wrong)).unwrap_err().to_string();
            assert!(
                error.contains(&format!("{wrong} is not among 2 to 1024")),
                "{error}"
            );
        }
        assert_eq!(WeightMode::default().candidates().unwrap()[0], None);
    }
}
