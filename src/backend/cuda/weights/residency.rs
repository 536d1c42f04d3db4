//! Which layers of a model stay on a device, and which layers are streamed through a ring of slots.

use super::{NamedWeights, Parameter};
use crate::gpu::driver::Arena;

/// The division of a model's layers: those that stay on the device, and those that take turns in a
/// ring of slots.
///
/// If all layers stay, there is no ring. Otherwise the ring has fewer slots than layers, and each
/// pass brings all of these layers through it, in the same order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::backend::cuda) struct Residency {
    /// The layers that have a place of their own and are loaded once, in ascending order.
    pub kept: Vec<usize>,
    /// The layers that take turns in the slots, in ascending order, which is the order of a pass.
    pub streamed: Vec<usize>,
    /// The number of slots; 0 if no layer is streamed.
    pub slots: usize,
    /// The bytes of a slot: those of the largest streamed layer.
    pub slot_bytes: usize,
    /// The bytes of the arena that the layers with a place of their own occupy.
    pub kept_bytes: usize,
}

impl Residency {
    /// Divides the layers. Layers with matrices that no pass reaches, because they lie behind the
    /// layer `deepest`, are left out. The other layers with matrices go through `slots` slots,
    /// unless there are as many slots as layers; without a number of slots all layers stay.
    ///
    /// What has no matrix is small, and parts of it are used out of the order of the layers (the
    /// rotary frequencies and slopes belong to the layer of the embedding), so it always stays.
    pub fn new(named: &NamedWeights, deepest: Option<usize>, slots: Option<usize>) -> Self {
        let reached = |layer: &usize| deepest.is_none_or(|deepest| *layer <= deepest);
        let (with_matrices, without): (Vec<_>, Vec<_>) =
            (0..=named.layer).partition(|layer| named.matrices.contains(layer));
        let reached: Vec<usize> = with_matrices.into_iter().filter(reached).collect();
        let (streamed, slots, mut kept) = match slots {
            Some(slots) if slots < reached.len() => (reached, slots, without),
            _ => (Vec::new(), 0, [without, reached].concat()),
        };
        kept.sort_unstable();
        let bytes = |layer: &usize| Self::bytes_of(named, *layer);
        Self {
            slot_bytes: streamed.iter().map(bytes).max().unwrap_or(0),
            kept_bytes: kept.iter().map(bytes).sum(),
            kept,
            streamed,
            slots,
        }
    }

    /// Returns the bytes of an arena that a layer occupies.
    pub fn bytes_of(named: &NamedWeights, layer: usize) -> usize {
        named.of_layer(layer).map(footprint).sum()
    }

    /// Returns the number of layers with matrices that are kept or streamed.
    pub fn layers_with_matrices(&self, named: &NamedWeights) -> usize {
        let kept = self
            .kept
            .iter()
            .filter(|layer| named.matrices.contains(layer));
        kept.count() + self.streamed.len()
    }

    /// Returns the bytes of an arena that the weights occupy.
    pub fn footprint(&self) -> usize {
        self.kept_bytes + self.slots * self.slot_bytes
    }

    /// Returns how many times the memory of a layer is taken: once if it stays, its share of the
    /// slots if it is streamed, and not at all if no pass reaches it.
    pub fn copies(&self, layer: usize) -> f64 {
        match self.streamed.contains(&layer) {
            true => self.slots as f64 / self.streamed.len() as f64,
            false => f64::from(u8::from(self.kept.contains(&layer))),
        }
    }
}

/// Returns the bytes of an arena that a parameter occupies.
pub(super) fn footprint(parameter: &Parameter) -> usize {
    Arena::footprint(parameter.bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cuda::weights::Piece;
    use crate::dtype::DType;

    /// An embedding of 1000 bytes, four layers of one matrix each, and a norm of 10 bytes.
    fn named() -> NamedWeights {
        let mut named = NamedWeights::default();
        named.name(vec![Piece::Zeros(250)], DType::F32);
        for layer in 0..4 {
            named.next_layer();
            named.name_matrix(vec![Piece::Zeros(1000 + 100 * layer)], DType::F16);
            named.name(vec![Piece::Zeros(4)], DType::F32);
        }
        named.next_layer();
        named.name(vec![Piece::Zeros(3)], DType::F32);
        named
    }

    #[test]
    fn without_slots_all_layers_stay_that_a_pass_reaches() {
        let all = Residency::new(&named(), None, None);
        assert_eq!((&all.kept[..], all.slots), (&[0, 1, 2, 3, 4, 5][..], 0));
        let matrices = 2048 + 2304 + 2560 + 2816;
        assert_eq!(all.footprint(), 1024 + matrices + 4 * 256 + 256);
        let two = Residency::new(&named(), Some(2), None);
        assert_eq!(two.kept, [0, 1, 2, 5]);
        assert_eq!(two.copies(2) + two.copies(3), 1.0);
        // As many slots as layers are no ring.
        assert_eq!(Residency::new(&named(), None, Some(4)), all);
        assert_eq!(Residency::new(&named(), Some(2), Some(2)), two);
        assert_eq!(Residency::new(&named(), Some(0), Some(2)).kept, [0, 5]);
    }

    #[test]
    fn layers_with_matrices_take_turns_in_slots_of_the_largest() {
        let ring = Residency::new(&named(), None, Some(3));
        assert_eq!(ring.kept, [0, 5]);
        assert_eq!(ring.streamed, [1, 2, 3, 4]);
        assert_eq!((ring.slots, ring.slot_bytes), (3, 2816 + 256));
        assert_eq!(ring.footprint(), 1024 + 256 + 3 * (2816 + 256));
        assert_eq!(ring.copies(1), 0.75);
        let middle = Residency::new(&named(), Some(3), Some(2));
        assert_eq!(middle.streamed, [1, 2, 3]);
        assert_eq!(middle.slot_bytes, 2560 + 256);
    }
}
