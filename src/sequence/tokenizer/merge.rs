//! Byte pair encoding by its definition: the pair with the lowest rank is merged first, and of
//! equal pairs the leftmost.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The result of merging a pair of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Merge {
    /// The merge with the lowest rank comes first.
    pub rank: u32,
    /// The id of the merged token.
    pub id: u32,
}

/// A hash table from pairs to merges. It uses open addressing, because encoding does this lookup
/// more often than anything else.
#[derive(Debug)]
pub(super) struct MergeTable {
    /// The entries. A key is `left << 32 | right`.
    slots: Vec<(u64, Merge)>,
    shift: u32,
    len: usize,
}

const EMPTY: u64 = u64::MAX;

impl MergeTable {
    /// Makes a table for up to `pairs` pairs.
    pub fn with_capacity(pairs: usize) -> Self {
        let size = (pairs.max(8) * 4).next_power_of_two();
        Self {
            slots: vec![(EMPTY, Merge { rank: 0, id: 0 }); size],
            shift: 64 - size.trailing_zeros(),
            len: 0,
        }
    }

    fn slot(&self, key: u64) -> usize {
        (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize
    }

    /// Inserts a pair. If the pair is already in the table, it gets the new merge. The table takes
    /// no more pairs than `with_capacity` was given.
    pub fn insert(&mut self, left: u32, right: u32, merge: Merge) {
        let key = u64::from(left) << 32 | u64::from(right);
        let mut at = self.slot(key);
        while let Some(slot) = self.slots.get_mut(at) {
            if slot.0 == EMPTY || slot.0 == key {
                self.len += usize::from(slot.0 == EMPTY);
                *slot = (key, merge);
                return;
            }
            at = (at + 1) % self.slots.len();
        }
    }

    #[inline]
    pub fn get(&self, left: u32, right: u32) -> Option<Merge> {
        let key = u64::from(left) << 32 | u64::from(right);
        let mut at = self.slot(key);
        while let Some(&(found, merge)) = self.slots.get(at) {
            if found == key {
                return Some(merge);
            }
            if found == EMPTY {
                return None;
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
        None
    }

    pub fn len(&self) -> usize {
        self.len
    }
}

const END: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    prev: u32,
    next: u32,
}

/// Merges `symbols` in place with a linked list and a heap. This takes O(n log n) time, 12 bytes
/// per symbol, and up to 16 bytes per pending pair.
pub(super) fn merge_all(table: &MergeTable, symbols: &mut Vec<u32>) {
    if symbols.len() < 2 {
        return;
    }
    let last = symbols.len() - 1;
    let mut list: Vec<Symbol> = symbols
        .iter()
        .enumerate()
        .map(|(i, &id)| Symbol {
            id,
            prev: if i == 0 { END } else { i as u32 - 1 },
            next: if i == last { END } else { i as u32 + 1 },
        })
        .collect();
    // Entries are (rank, position), the smallest first. An entry is stale if the pair at its
    // position has another rank by now.
    let mut queue: BinaryHeap<Reverse<(u32, u32)>> = symbols
        .windows(2)
        .enumerate()
        .filter_map(|(i, pair)| match pair {
            [a, b] => table.get(*a, *b).map(|m| Reverse((m.rank, i as u32))),
            _ => None,
        })
        .collect();
    let at = |list: &[Symbol], i: u32| list.get(i as usize).copied();
    while let Some(Reverse((rank, position))) = queue.pop() {
        let Some(left) = at(&list, position) else {
            continue;
        };
        let Some(right) = at(&list, left.next) else {
            continue;
        };
        let Some(merge) = table.get(left.id, right.id).filter(|m| m.rank == rank) else {
            continue;
        };
        if let Some(slot) = list.get_mut(left.next as usize) {
            // This symbol is dead: no symbol points to it, and a stale entry for it finds no right
            // neighbour.
            *slot = Symbol {
                id: END,
                prev: END,
                next: END,
            };
        }
        if let Some(slot) = list.get_mut(position as usize) {
            *slot = Symbol {
                id: merge.id,
                next: right.next,
                ..left
            };
        }
        if let Some(after) = list.get_mut(right.next as usize) {
            after.prev = position;
            if let Some(m) = table.get(merge.id, after.id) {
                queue.push(Reverse((m.rank, position)));
            }
        }
        if let Some(before) = at(&list, left.prev)
            && let Some(m) = table.get(before.id, merge.id)
        {
            queue.push(Reverse((m.rank, left.prev)));
        }
    }
    symbols.clear();
    let mut next = 0;
    while let Some(symbol) = at(&list, next) {
        symbols.push(symbol.id);
        next = symbol.next;
    }
}
