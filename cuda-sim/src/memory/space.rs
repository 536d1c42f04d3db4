//! The allocations of one device (or the pinned allocations of the host) in their address range.

use std::collections::{BTreeMap, VecDeque};

use super::guard;
use super::pages::{self, PAGE, Region};
use crate::code::Code;

/// The alignment that cuMemAlloc guarantees.
const ALIGNMENT: usize = 256;
/// Addresses are much more plentiful than memory: the address space is this many times the
/// capacity, and a freed address is reused only when it is used up.
const SPARE_ADDRESSES: usize = 16;
const LEAST_REGION: usize = 64 << 30;
const FREED_KEPT: usize = 4096;

#[derive(Clone, Debug)]
struct Allocation {
    /// The number of the allocation, from 1, which messages name.
    number: u64,
    bytes: usize,
    /// The start of the pages that hold it.
    start: usize,
    length: usize,
}

/// The location of an address range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The whole range is inside this live allocation.
    Inside,
    /// The range is in this space, but not (or not entirely) in a live allocation; the text says
    /// where it is.
    Outside(String),
    /// The range is not in this space.
    Elsewhere,
}

/// The memory of one device, or the pinned memory of the host.
pub struct Space {
    name: String,
    region: Region,
    capacity: usize,
    used: usize,
    next: usize,
    count: u64,
    live: BTreeMap<usize, Allocation>,
    freed: VecDeque<(usize, Allocation)>,
    /// Whether fresh memory is zeros instead of poison, and its margins are not watched.
    hollow: bool,
}

impl Space {
    /// Reserves the address space. `name`, as in "device 0", is for messages.
    pub fn new(name: &str, capacity: usize) -> std::io::Result<Self> {
        let bytes = (capacity.saturating_mul(SPARE_ADDRESSES))
            .max(LEAST_REGION)
            .next_multiple_of(PAGE);
        let region = Region::reserve(bytes)?;
        guard::watch_region(region.start, region.start + region.bytes);
        let next = region.start + PAGE;
        Ok(Self {
            name: name.to_owned(),
            region,
            capacity,
            used: 0,
            next,
            count: 0,
            live: BTreeMap::new(),
            freed: VecDeque::new(),
            hollow: false,
        })
    }

    /// From now on fresh memory is zeros, which cost nothing, instead of poison; or poison again.
    pub fn set_hollow(&mut self, hollow: bool) {
        self.hollow = hollow;
    }

    /// Returns the capacity in bytes.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Returns the allocated bytes.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Returns the number of live allocations.
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// Returns starts and sizes of all live allocations, ordered by address.
    pub fn live(&self) -> impl Iterator<Item = (usize, usize)> {
        self.live
            .iter()
            .map(|(address, allocation)| (*address, allocation.bytes))
    }

    /// Allocates `bytes` and returns the address.
    pub fn allocate(&mut self, bytes: usize) -> Result<usize, Code> {
        if bytes == 0 {
            return Err(Code::INVALID_VALUE);
        }
        let padded = bytes
            .checked_next_multiple_of(ALIGNMENT)
            .ok_or(Code::OUT_OF_MEMORY)?;
        if padded > self.capacity - self.used {
            return Err(Code::OUT_OF_MEMORY);
        }
        let length = padded.next_multiple_of(PAGE);
        let start = self.find_gap(length).ok_or(Code::OUT_OF_MEMORY)?;
        let opened = match self.hollow {
            true => self.region.open_zero(start, length),
            false => self.region.open(start, length),
        };
        if let Err(error) = opened {
            eprintln!(
                "cuda-sim: no pages for {bytes} bytes of {}: {error}",
                self.name
            );
            return Err(Code::OUT_OF_MEMORY);
        }
        self.next = start + length + PAGE;
        self.used += padded;
        self.count += 1;
        let address = start + length - padded;
        pages::forbid(start, length, address, bytes);
        self.live.insert(
            address,
            Allocation {
                number: self.count,
                bytes,
                start,
                length,
            },
        );
        Ok(address)
    }

    /// Finds a range of closed pages with a closed page on both sides: after the last allocation,
    /// or, if the region is used up, in the first gap.
    fn find_gap(&self, length: usize) -> Option<usize> {
        let end = self.region.start + self.region.bytes;
        if self.next + length + PAGE <= end {
            return Some(self.next);
        }
        let mut candidate = self.region.start + PAGE;
        for allocation in self.live.values() {
            if candidate + length + PAGE <= allocation.start {
                return Some(candidate);
            }
            candidate = allocation.start + allocation.length + PAGE;
        }
        (candidate + length + PAGE <= end).then_some(candidate)
    }

    /// Frees an allocation. Returns the size that `allocate` was called with, and the damage found
    /// around the allocation.
    pub fn free(&mut self, address: usize) -> Result<(usize, Option<String>), Code> {
        let Some(allocation) = self.live.get(&address) else {
            return Err(Code::INVALID_VALUE);
        };
        let damage = self.damage_of(address, allocation);
        let allocation = allocation.clone();
        self.region.close(allocation.start, allocation.length);
        let bytes = allocation.bytes;
        self.used -= bytes.next_multiple_of(ALIGNMENT);
        self.live.remove(&address);
        if self.freed.len() == FREED_KEPT {
            self.freed.pop_front();
        }
        self.freed.push_back((address, allocation));
        Ok((bytes, damage))
    }

    /// Frees everything; returns the number of allocations that were live.
    pub fn free_all(&mut self) -> usize {
        let addresses: Vec<usize> = self.live.keys().copied().collect();
        for address in &addresses {
            // The address was just read from the table, so it is valid.
            let _ = self.free(*address);
        }
        addresses.len()
    }

    /// Starts over, except for the addresses: they continue where they were, so that a stale
    /// pointer stays invalid. Returns false if the region is too small for the capacity.
    pub fn reset(&mut self, capacity: usize) -> bool {
        self.free_all();
        self.count = 0;
        self.capacity = capacity;
        capacity <= self.region.bytes / 2
    }

    /// Returns the location of a range.
    pub fn place(&self, address: usize, bytes: usize) -> Place {
        let region = self.region.start..self.region.start + self.region.bytes;
        if !region.contains(&address) {
            return Place::Elsewhere;
        }
        if let Some((start, allocation)) = self.live.range(..=address).next_back()
            && address - start <= allocation.bytes
            && bytes <= allocation.bytes - (address - start)
        {
            return Place::Inside;
        }
        Place::Outside(self.describe(address, bytes))
    }

    /// Describes the location of a range that is not inside one allocation.
    fn describe(&self, address: usize, bytes: usize) -> String {
        let name = &self.name;
        let of = |start: usize, allocation: &Allocation| {
            format!(
                "allocation {} of {name} ({} bytes at {start:#x})",
                allocation.number, allocation.bytes
            )
        };
        let freed = self
            .freed
            .iter()
            .rev()
            .find(|(start, gone)| (*start..start + gone.bytes).contains(&address));
        if let Some((start, gone)) = freed {
            return format!(
                "{} bytes into {}, which was freed",
                address - start,
                of(*start, gone)
            );
        }
        let below = self.live.range(..=address).next_back();
        let above = self.live.range(address..).next();
        if let Some((start, allocation)) = below
            && address < start + allocation.bytes
        {
            let over = address.saturating_add(bytes) - (start + allocation.bytes);
            return format!("{over} bytes over the end of {}", of(*start, allocation));
        }
        let after = below
            .map(|(start, allocation)| (address - (start + allocation.bytes), *start, allocation));
        let before = above.map(|(start, allocation)| (start - address, *start, allocation));
        match (after, before) {
            (Some((past, start, allocation)), near)
                if near.is_none_or(|(before, _, _)| past <= before) =>
            {
                format!("{past} bytes past the end of {}", of(start, allocation))
            }
            (_, Some((before, start, allocation))) => {
                format!(
                    "{before} bytes before the start of {}",
                    of(start, allocation)
                )
            }
            _ => format!("in the address range of {name}, where nothing is allocated"),
        }
    }

    /// Returns a description of writes outside of an allocation, in the part of its pages that no
    /// closed page protects.
    pub fn damage(&self) -> Option<String> {
        self.live
            .iter()
            .find_map(|(address, allocation)| self.damage_of(*address, allocation))
    }

    fn damage_of(&self, address: usize, allocation: &Allocation) -> Option<String> {
        if self.hollow {
            return None;
        }
        let end = address + allocation.bytes;
        let before = (allocation.start, address - allocation.start);
        let after = (end, allocation.start + allocation.length - end);
        for (side, (start, bytes)) in [("before the start", before), ("past the end", after)] {
            // SAFETY: both margins lie in the pages of a live allocation.
            if !unsafe { pages::is_poison(start, bytes) } {
                let Allocation { number, bytes, .. } = allocation;
                let name = &self.name;
                return Some(format!(
                    "wrote {side} of allocation {number} of {name} ({bytes} bytes at {address:#x})"
                ));
            }
        }
        None
    }

    /// Closes the pages between allocations again that the page fault handler has opened.
    pub fn close_gaps(&self) {
        let mut from = self.region.start;
        for allocation in self.live.values() {
            self.region.close(from, allocation.start - from);
            from = allocation.start + allocation.length;
        }
        self.region
            .close(from, self.region.start + self.region.bytes - from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allocation_is_poison_and_ends_at_a_closed_page() {
        let mut space = Space::new("device 0", 1 << 20).unwrap();
        let a = space.allocate(1000).unwrap();
        assert_eq!(a % ALIGNMENT, 0);
        // SAFETY: the allocation is live.
        assert!(unsafe { pages::is_poison(a, 1000) });
        assert_eq!(space.place(a, 1000), Place::Inside);
        assert_eq!(space.place(a + 1000, 0), Place::Inside);
        let outside = |address, bytes| match space.place(address, bytes) {
            Place::Outside(text) => text,
            other => panic!("{other:?}"),
        };
        assert!(
            outside(a + 996, 8)
                .starts_with("4 bytes over the end of allocation 1 of device 0 (1000 bytes")
        );
        assert!(outside(a + 1004, 4).starts_with("4 bytes past the end of allocation 1"));
        assert!(outside(a - 8, 4).starts_with("8 bytes before the start of allocation 1"));
        assert_eq!(space.place(0x1000, 4), Place::Elsewhere);
    }

    #[test]
    fn memory_runs_out_and_comes_back_at_other_addresses() {
        let mut space = Space::new("device 0", 1 << 20).unwrap();
        let a = space.allocate(1 << 19).unwrap();
        let b = space.allocate(1 << 19).unwrap();
        assert_eq!(space.allocate(1), Err(Code::OUT_OF_MEMORY));
        assert_eq!(space.free(a).unwrap(), (1 << 19, None));
        assert_eq!(space.free(a), Err(Code::INVALID_VALUE));
        let c = space.allocate(1 << 19).unwrap();
        assert!(c != a && c > b);
        let Place::Outside(text) = space.place(a + 16, 4) else {
            panic!()
        };
        assert!(
            text.contains("16 bytes into allocation 1") && text.ends_with("freed"),
            "{text}"
        );
    }

    #[test]
    fn writing_beside_an_allocation_is_seen() {
        let mut space = Space::new("device 0", 1 << 20).unwrap();
        let a = space.allocate(1000).unwrap();
        assert_eq!(space.damage(), None);
        // SAFETY: the margin lies in the allocation's own pages.
        unsafe { pages::write(a + 1000, &[0]) };
        assert!(
            space
                .damage()
                .unwrap()
                .starts_with("wrote past the end of allocation 1")
        );
        assert!(space.free(a).unwrap().1.is_some());
    }
}
