//! The layout of a slot: where the parts of a pass's input lie, and how they are written and read.

use super::attention::WorkList;
use super::memory::ALIGN;
use crate::batch::PackedBatch;
use std::ops::Range;

/// The byte ranges of the parts of a pass's input, counted from its start.
#[derive(Debug, Clone, Default)]
pub(super) struct InputLayout {
    /// Token ids: u32, `[tokens]`.
    pub tokens: Range<usize>,
    /// The scale of each token's embedding: f32, `[tokens]`.
    pub scale: Range<usize>,
    /// The position of each token in its sequence: u32, `[tokens]`; empty if no kernel reads it.
    pub positions: Range<usize>,
    /// The first row of each sequence, and the end of the last one: u32, `[sequences + 1]`.
    pub starts: Range<usize>,
    /// The pooled range of each sequence, as its first row and its end: u32, `[sequences, 2]`.
    pub pooled: Range<usize>,
    /// The first row of each sequence as a range: u32, `[sequences, 2]`.
    pub firsts: Range<usize>,
    /// The work list of long sequences: AttentionItem, `[items]`.
    pub items: Range<usize>,
    /// The work list of short sequences: AttentionSlot, `[blocks, 4]`.
    pub slots: Range<usize>,
    /// The length of the whole input in bytes.
    pub bytes: usize,
}

impl InputLayout {
    /// Computes the layout for a batch and its attention work list, with or without the positions of
    /// the tokens.
    pub fn new(batch: &PackedBatch, work: &WorkList, positions: bool) -> Self {
        let mut end = 0usize;
        let mut part = |bytes: usize| {
            let start = end.next_multiple_of(ALIGN);
            end = start + bytes;
            start..end
        };
        let mut layout = Self {
            tokens: part(batch.total() * 4),
            scale: part(batch.total() * 4),
            positions: part(if positions { batch.total() * 4 } else { 0 }),
            starts: part((batch.len() + 1) * 4),
            pooled: part(batch.len() * 8),
            firsts: part(batch.len() * 8),
            items: part(size_of_val(&work.items[..])),
            slots: part(size_of_val(&work.slots[..])),
            bytes: 0,
        };
        layout.bytes = end;
        layout
    }

    /// Writes all parts except the scale.
    pub fn write(
        &self,
        to: &mut [u8],
        batch: &PackedBatch,
        pooled: &[Range<usize>],
        work: &WorkList,
    ) {
        put(&mut to[self.tokens.clone()], batch.tokens().iter().copied());
        // Does nothing if the layout has no positions.
        let positions = (0..batch.len()).flat_map(|i| 0..batch.range(i).len() as u32);
        put(&mut to[self.positions.clone()], positions);
        let starts = batch.starts().iter().map(|s| *s as u32);
        put(&mut to[self.starts.clone()], starts);
        let ends = pooled.iter().flat_map(|r| [r.start as u32, r.end as u32]);
        put(&mut to[self.pooled.clone()], ends);
        let firsts = batch.starts().iter().take(batch.len());
        let firsts = firsts.flat_map(|s| [*s as u32, *s as u32 + 1]);
        put(&mut to[self.firsts.clone()], firsts);
        to[self.items.clone()].copy_from_slice(&work.item_bytes());
        to[self.slots.clone()].copy_from_slice(&work.slot_bytes());
    }

    /// Writes the scale, one f32 value per token.
    pub fn write_scale(&self, to: &mut [u8], scale: &[f64]) {
        put(
            &mut to[self.scale.clone()],
            scale.iter().map(|s| (*s as f32).to_bits()),
        );
    }
}

fn put(to: &mut [u8], words: impl Iterator<Item = u32>) {
    for (to, word) in to.chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
}

/// Decodes values that the device wrote.
pub(super) fn floats(bytes: &[u8]) -> Vec<f32> {
    let words = bytes.chunks_exact(4);
    words
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect()
}
