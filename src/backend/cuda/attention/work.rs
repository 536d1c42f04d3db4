//! The work lists of attention: from the batch's `starts` to items, longest first, instead of a
//! padded grid.

use std::ops::Range;

use super::{AttentionKernels, FarKernels, Grid};
use crate::backend::cuda::launch::ATTENTION_SHORT_SLOTS;
use crate::backend::cuda::params::{AttentionItem, AttentionSlot};

const SHORT_SLOTS: usize = ATTENTION_SHORT_SLOTS as usize;

impl AttentionKernels {
    /// The kernels of a sequence of this length, if these are not the usual ones.
    fn far(&self, length: usize) -> Option<&FarKernels> {
        self.far.as_ref().filter(|_| length > self.rotates)
    }

    /// The queries of each item of a sequence.
    fn pieces(&self, length: usize) -> Vec<Range<usize>> {
        if let Some(far) = self.far(length) {
            return Self::even_pieces(length, far.rows);
        }
        if length <= self.whole {
            // One item, or none.
            return std::iter::once(0..length)
                .filter(|r| !r.is_empty())
                .collect();
        }
        if self.long.grid == Grid::Persistent {
            return Self::even_pieces(length, self.rows);
        }
        let rows = self.rows.max(1);
        let starts = (0..length).step_by(rows);
        starts.map(|row| row..(row + rows).min(length)).collect()
    }

    /// Warpgroups take 64 queries each: no item has fewer turns than it must.
    fn even_pieces(length: usize, rows: usize) -> Vec<Range<usize>> {
        let turns = length.div_ceil(64);
        let items = (64 * turns).div_ceil(rows.max(64)).max(1);
        let start = |item: usize| (64 * (item * turns / items)).min(length);
        (0..items).map(|i| start(i)..start(i + 1)).collect()
    }

    /// The work of a batch. `starts` has the first token of each sequence and, last, the number of
    /// tokens, which fits 32 bits. Empty sequences have no work.
    pub fn work(&self, starts: &[usize]) -> WorkList {
        let mut work = WorkList::default();
        // Short sequences by the slots they take, 1 to 4.
        let mut short: [Vec<(u32, u16)>; SHORT_SLOTS + 1] = Default::default();
        for pair in starts.windows(2) {
            let (first, length) = (pair[0], pair[1] - pair[0]);
            if length <= self.short_tokens {
                short[length.div_ceil(16)].push((first as u32, length as u16));
                continue;
            }
            for rows in self.pieces(length) {
                work.items.push(AttentionItem {
                    first: first as u32,
                    length: length as u32,
                    row: rows.start as u32,
                    rows: rows.len() as u32,
                });
            }
        }
        // Longest first: the short ones fill the gaps at the end.
        let cost = |item: &AttentionItem| u64::from(item.rows) * u64::from(item.length);
        let far = |item: &AttentionItem| self.far(item.length as usize).is_some();
        work.items
            .sort_by_key(|item| std::cmp::Reverse((far(item), cost(item))));
        work.far = work.items.partition_point(far);
        work.fill_slots(short);
        work
    }
}

/// The work of one batch, for every head alike.
#[derive(Debug, Clone, Default)]
pub struct WorkList {
    /// For the far kernels, the most work first; after these for the long kernel, in this order,
    /// too.
    pub items: Vec<AttentionItem>,
    /// How many items are for the far kernels.
    pub far: usize,
    /// For the short kernel, [`WorkList::SLOTS`] of them an item.
    pub slots: Vec<AttentionSlot>,
}

/// How much work there is, for a launch.
#[derive(Debug, Clone, Copy, Default)]
pub struct WorkCounts {
    /// Items of the far kernels.
    pub far: usize,
    /// Items of the long kernel.
    pub long: usize,
    /// Items of the short kernel.
    pub short: usize,
}

impl WorkCounts {
    /// Where the items of each launch begin, and how many there are. `items` and `slots` are the
    /// addresses of the two lists of a [`WorkList`].
    pub fn lists(&self, items: u64, slots: u64) -> [(u64, u32); 4] {
        let long = items + (self.far * size_of::<AttentionItem>()) as u64;
        let (far, long_count) = (self.far as u32, self.long as u32);
        [
            (items, far),
            (items, far),
            (long, long_count),
            (slots, self.short as u32),
        ]
    }
}

impl WorkList {
    /// Slots that make an item.
    pub const SLOTS: usize = SHORT_SLOTS;

    /// The lengths of the lists, for launching.
    pub fn counts(&self) -> WorkCounts {
        WorkCounts {
            far: self.far,
            long: self.items.len() - self.far,
            short: self.short_items(),
        }
    }

    /// Items of the short kernel.
    pub fn short_items(&self) -> usize {
        self.slots.len() / Self::SLOTS
    }

    /// [`WorkList::items`] as the device reads them.
    pub fn item_bytes(&self) -> Vec<u8> {
        let words = |item: &AttentionItem| [item.first, item.length, item.row, item.rows];
        let words = self.items.iter().flat_map(words);
        words.flat_map(u32::to_ne_bytes).collect()
    }

    /// [`WorkList::slots`] as the device reads them.
    pub fn slot_bytes(&self) -> Vec<u8> {
        let bytes = |slot: &AttentionSlot| {
            let [a, b, c, d] = slot.first.to_ne_bytes();
            let ([e, f], [g, h]) = (slot.length.to_ne_bytes(), slot.piece.to_ne_bytes());
            [a, b, c, d, e, f, g, h]
        };
        self.slots.iter().flat_map(bytes).collect()
    }

    /// Sequences into items of four slots: 4, 3 + 1, 2 + 2, 2 + 1 + 1, 1 + 1 + 1 + 1.
    fn fill_slots(&mut self, sequences: [Vec<(u32, u16)>; SHORT_SLOTS + 1]) {
        // From the front, so that the order of the batch is kept.
        let mut waiting = sequences.map(Vec::into_iter);
        for wide in (1..=SHORT_SLOTS).rev() {
            while let Some(sequence) = waiting[wide].next() {
                self.push(sequence);
                let mut left = SHORT_SLOTS - wide;
                while left > 0 {
                    let next = (1..=left).rev().find_map(|w| Some((w, waiting[w].next()?)));
                    match next {
                        Some((w, sequence)) => {
                            self.push(sequence);
                            left -= w;
                        }
                        None => {
                            let empty = AttentionSlot::default();
                            self.slots.extend(std::iter::repeat_n(empty, left));
                            left = 0;
                        }
                    }
                }
            }
        }
    }

    fn push(&mut self, (first, length): (u32, u16)) {
        self.slots
            .extend((0..length.div_ceil(16)).map(|piece| AttentionSlot {
                first,
                length,
                piece,
            }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cuda::launch::HOPPER_ROTATES;
    use crate::backend::cuda::memory::Capacity;
    use crate::dtype::DType;

    /// Each query of each sequence is in exactly one item or slot, and slots of a sequence stand
    /// together within one item.
    #[test]
    fn every_query_is_computed_once() {
        let mut state = 7u64;
        for round in 0..200 {
            let mut lengths = Vec::new();
            for _ in 0..round {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
                let most = [5, 64, 70, 1500][(state >> 60) as usize % 4];
                lengths.push((state >> 33) as usize % most);
            }
            let mut starts = vec![0];
            starts.extend(lengths.iter().scan(0, |sum, length| {
                *sum += length;
                Some(*sum)
            }));
            let tokens = starts[lengths.len()];
            for (head_dim, dtype, rotary, capability) in [
                (16, DType::F16, true, (9, 0)),
                (64, DType::F16, true, (8, 0)),
                (64, DType::F16, true, (9, 0)),
                (64, DType::F16, false, (9, 0)),
                (40, DType::F16, true, (8, 9)),
                (6, DType::F32, true, (9, 0)),
            ] {
                let kernels = AttentionKernels::new(head_dim, dtype, rotary, capability).unwrap();
                let work = kernels.work(&starts);
                // The capacity of a pass.
                let capacity = Capacity {
                    tokens,
                    sequences: lengths.len(),
                };
                assert!(work.items.len() <= capacity.items());
                assert!(work.short_items() <= capacity.items());
                let mut times = vec![0; tokens];
                let mut cost = u64::MAX;
                for (i, item) in work.items.iter().enumerate() {
                    if i == work.far {
                        cost = u64::MAX;
                    }
                    let next = u64::from(item.rows) * u64::from(item.length);
                    assert!(next <= cost && next > 0);
                    cost = next;
                    let sequence = starts.iter().rposition(|s| *s == item.first as usize);
                    assert_eq!(item.length as usize, lengths[sequence.unwrap()]);
                    assert_eq!(item.row % 64, 0);
                    for row in item.row..item.row + item.rows {
                        times[(item.first + row) as usize] += 1;
                    }
                }
                assert_eq!(work.slots.len(), work.short_items() * 4);
                for item in work.slots.chunks(4) {
                    assert_ne!(item[0].length, 0);
                    for (i, slot) in item.iter().enumerate() {
                        if slot.length == 0 {
                            continue;
                        }
                        let base = i - usize::from(slot.piece);
                        assert_eq!((item[base].first, item[base].piece), (slot.first, 0));
                        assert!(base + usize::from(slot.length.div_ceil(16)) <= 4);
                        let rows = slot.piece * 16..slot.length.min(slot.piece * 16 + 16);
                        assert!(!rows.is_empty());
                        for row in rows {
                            times[slot.first as usize + usize::from(row)] += 1;
                        }
                    }
                }
                assert!(times.iter().all(|n| *n == 1), "{head_dim} {starts:?}");
            }
        }
    }

    /// Items of long sequences have as many queries as their block's warpgroups take at once, or 64
    /// fewer. The far kernels take sequences whose keys are too many to be rotated again and again.
    #[test]
    fn long_sequences_are_cut_evenly_and_rotated_before() {
        let kernels = AttentionKernels::new(128, DType::F16, true, (9, 0)).unwrap();
        let rows = |kernels: &AttentionKernels, length: usize| -> Vec<u32> {
            let work = kernels.work(&[0, length]);
            let mut items = work.items;
            items.sort_by_key(|item| item.row);
            items.iter().map(|item| item.rows).collect()
        };
        assert_eq!(rows(&kernels, 384), [384]);
        assert_eq!(rows(&kernels, 385), [128, 128, 129]);
        assert_eq!(rows(&kernels, 1022), [128, 192, 192, 128, 192, 190]);
        let far = |kernels: &AttentionKernels, starts: &[usize]| kernels.work(starts).far;
        assert_eq!(far(&kernels, &[0, 384, 700]), 0);
        // The items of the second sequence come first, although each has less work.
        let work = kernels.work(&[0, 384, 769]);
        assert_eq!((work.far, work.items.len()), (3, 4));
        assert!(work.items[..3].iter().all(|item| item.first == 384));
        let counts = work.counts();
        assert_eq!((counts.far, counts.long, counts.short), (3, 1, 0));
        assert_eq!(
            counts.lists(4096, 8192),
            [(4096, 3), (4096, 3), (4096 + 48, 1), (8192, 0)]
        );
        let rotate = &kernels.far.as_ref().unwrap().rotate;
        assert_eq!(rotate.blocks(40, 3, 132), 96);
        let kernels = AttentionKernels::new(128, DType::F16, false, (9, 0)).unwrap();
        assert_eq!(far(&kernels, &[0, 4000]), 0);
        // Nothing stays in shared memory for another pass.
        assert_eq!(rows(&kernels, 384), [192, 192]);
        // Without wgmma: items of as many queries as a block takes, and keys of more than one item
        // are rotated before, where there is a kernel for it.
        for (head_dim, rotary, items) in
            [(64, true, 3), (24, true, 3), (40, true, 0), (64, false, 0)]
        {
            let kernels = AttentionKernels::new(head_dim, DType::F16, rotary, (8, 6)).unwrap();
            assert_eq!(rows(&kernels, 128), [128]);
            assert_eq!(rows(&kernels, 350), [128, 128, 94]);
            assert_eq!(far(&kernels, &[0, 128]), 0);
            assert_eq!(far(&kernels, &[0, 350, 478]), items);
        }
        let kernels = AttentionKernels::new(64, DType::F16, true, (9, 0)).unwrap();
        let longest = HOPPER_ROTATES as usize;
        assert_eq!(far(&kernels, &[0, longest]), 0);
        assert_eq!(far(&kernels, &[0, longest + 1]), 4);
    }

    #[test]
    fn short_sequences_share_items() {
        let kernels = AttentionKernels::new(64, DType::F16, true, (8, 0)).unwrap();
        // 3 + 1, 2 + 2, and a 1 left over.
        let starts = [0, 48, 64, 96, 120, 121];
        assert_eq!(kernels.work(&starts).short_items(), 3);
        assert!(kernels.work(&starts).items.is_empty());
        assert_eq!(kernels.work(&[0]).short_items(), 0);
        assert_eq!(kernels.work(&[0, 0, 65]).items.len(), 1);
        // On Hopper rotated ones are short to 32 tokens only.
        for (rotary, short) in [(true, 32), (false, 64)] {
            let kernels = AttentionKernels::new(64, DType::F16, rotary, (9, 0)).unwrap();
            assert!(kernels.work(&[0, short]).items.is_empty());
            assert!(kernels.work(&[0, short + 1]).slots.is_empty());
        }
    }
}
