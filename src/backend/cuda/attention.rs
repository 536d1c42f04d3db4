//! Which attention kernel computes what, and their work lists: from the batch's `starts` to items,
//! longest first, instead of a padded grid.
//!
//! A sequence's kernel, tiles and sums follow from its own length and the width of its heads;
//! how sequences share blocks, and in which order blocks run, changes no bit.

use std::ops::Range;

use super::params::{
    AttentionItem, AttentionParams, AttentionSlot, AttentionTensorParams, TensorMap as MapWords,
};
use crate::dtype::DType;
use crate::gpu::driver::{DriverError, Element, PackedRows, Swizzle, TensorMap};

/// `kernels/tiles.h`, where the reasons stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tile {
    head_dim: usize,
    row_tiles: usize,
    warps: usize,
    keys: usize,
    stages: usize,
    held: bool,
}

const fn tile(head_dim: usize, row_tiles: usize, keys: usize, stages: usize, held: bool) -> Tile {
    Tile {
        head_dim,
        row_tiles,
        warps: 4,
        keys,
        stages,
        held,
    }
}

const TILES: [Tile; 6] = [
    tile(16, 2, 64, 4, true),
    tile(24, 2, 64, 4, true),
    tile(32, 2, 64, 4, true),
    tile(64, 2, 64, 3, true),
    tile(96, 2, 32, 3, false),
    tile(128, 2, 32, 3, false),
];
/// Warps, and slots of 16 queries, of a block of the short kernels.
const SHORT_SLOTS: usize = 4;
/// The longest sequence of the short kernels.
const SHORT_TOKENS: usize = 16 * SHORT_SLOTS;
/// The longest where rotated ones of more go to the kernel for Hopper.
const HOPPER_SHORT_TOKENS: usize = 32;
/// The longest sequence whose keys the kernel for heads of 64 rotates itself.
const HOPPER_ROTATES: usize = 896;
/// What the kernels for Hopper take, and how: `kernels/tiles.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct HopperTile {
    head_dim: usize,
    consumers: usize,
    keys: usize,
    stages: usize,
    consumer_registers: usize,
    producer_registers: usize,
    rotates: usize,
}

const fn hopper_tile(
    [head_dim, consumers, keys, stages]: [usize; 4],
    [consumer_registers, producer_registers]: [usize; 2],
    rotates: usize,
) -> HopperTile {
    HopperTile {
        head_dim,
        consumers,
        keys,
        stages,
        consumer_registers,
        producer_registers,
        rotates,
    }
}

const HOPPER_TILES: [HopperTile; 4] = [
    hopper_tile([16, 5, 64, 20], [88, 40], 0),
    hopper_tile([24, 5, 64, 20], [88, 40], 0),
    hopper_tile([32, 5, 64, 20], [88, 40], 0),
    hopper_tile([128, 3, 64, 6], [160, 32], 384),
];
/// What the kernels for Hopper by tensor copies take, and how: `kernels/tiles.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TensorTile {
    head_dim: usize,
    consumers: usize,
    stages: usize,
    split: usize,
    consumer_registers: usize,
    producer_registers: usize,
}

const fn tensor_tile(
    [head_dim, consumers, stages, split]: [usize; 4],
    [consumer_registers, producer_registers]: [usize; 2],
) -> TensorTile {
    TensorTile {
        head_dim,
        consumers,
        stages,
        split,
        consumer_registers,
        producer_registers,
    }
}

const TENSOR_TILES: [TensorTile; 5] = [
    tensor_tile([16, 6, 24, 0], [80, 24]),
    tensor_tile([24, 6, 20, 0], [80, 24]),
    tensor_tile([32, 5, 20, 0], [88, 40]),
    tensor_tile([64, 4, 10, 1], [112, 32]),
    tensor_tile([128, 3, 5, 1], [160, 32]),
];
/// Rows of queries, keys or values that one tensor copy brings.
const TENSOR_ROWS: usize = 64;
/// Blocks that rotate the keys of a sequence.
const ROTATE_BLOCKS: u32 = 32;
const ROTATE_THREADS: u32 = 256;
const HOPPER_HEAD_DIM: usize = 64;
const HOPPER_CONSUMERS: usize = 4;
const HOPPER_KEYS: usize = 64;
const HOPPER_STAGES: usize = 11;
const HOPPER_AHEAD: usize = 2;
const HOPPER_WHOLE: usize = (HOPPER_STAGES - HOPPER_AHEAD) * HOPPER_KEYS;
const F32_ROWS: usize = 64;
const F32_KEYS: usize = 64;
const F32_THREADS: u32 = 128;
/// The widest heads that each of its kernels takes.
const F32_WIDTHS: [usize; 5] = [16, 32, 64, 96, 128];
/// The widest head.
const WIDEST: usize = 128;

/// A kernel and how it is launched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttentionKernel {
    /// Its fatbin ([`super::kernels::fatbin`]).
    pub source: String,
    /// Its name in there.
    pub name: String,
    /// Threads a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory a block.
    pub shared: u32,
    /// How many blocks a launch has.
    pub grid: Grid,
    /// Whether its parameters are [`AttentionTensorParams`], which [`AttentionKernel::tensor_params`]
    /// makes, and not [`AttentionParams`].
    pub tensor: bool,
}

/// The blocks of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grid {
    /// One for each head of each item.
    Heads,
    /// They stay, one for each multiprocessor, and take one item's head after the other.
    Stay,
    /// So many for each item.
    Items(u32),
}

impl AttentionKernel {
    /// The blocks of a launch for `count` items.
    pub fn blocks(&self, heads: u32, count: u32, multiprocessors: u32) -> u32 {
        match self.grid {
            Grid::Heads => heads * count,
            Grid::Stay => (heads * count).min(multiprocessors),
            Grid::Items(blocks) => blocks * count,
        }
    }

    /// Makes the parameters of a kernel that uses tensor copies, for a pass of this many tokens in
    /// f16 or bf16.
    ///
    /// # Errors
    /// Returns [`DriverError`] if the driver refuses a map of such a matrix.
    pub fn tensor_params(
        attention: AttentionParams,
        tokens: usize,
        dtype: DType,
    ) -> Result<AttentionTensorParams, DriverError> {
        let head_dim = attention.head_dim as usize;
        let columns = head_dim.min(TENSOR_ROWS);
        let map = TensorMap::packed(&PackedRows {
            element: match dtype {
                DType::F16 => Element::F16,
                DType::Bf16 => Element::Bf16,
                DType::F32 => Element::F32,
            },
            address: attention.qkv,
            rows: tokens as u64,
            blocks: 3 * u64::from(attention.heads) * head_dim.div_ceil(columns.max(1)) as u64,
            columns: columns as u64,
            box_rows: TENSOR_ROWS as u32,
            box_columns: shared_columns(head_dim).min(64) as u32,
            box_blocks: head_dim.div_ceil(64) as u32,
            swizzle: match shared_columns(head_dim) {
                16 => Swizzle::Bytes32,
                32 => Swizzle::Bytes64,
                _ => Swizzle::Bytes128,
            },
        })?;
        Ok(AttentionTensorParams {
            qkv: MapWords {
                opaque: map.words(),
            },
            attention,
            ..AttentionTensorParams::default()
        })
    }
}

/// Columns of a row in shared memory that wgmma reads: rows of 32, 64 or a multiple of 128 bytes.
fn shared_columns(head_dim: usize) -> usize {
    match head_dim {
        0..=16 => 16,
        17..=32 => 32,
        _ => head_dim.next_multiple_of(64),
    }
}

/// The kernels for sequences that are too long for [`AttentionKernels::long`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FarKernels {
    /// Rotates the keys of these sequences in place, before `attention` runs.
    pub rotate: AttentionKernel,
    /// Takes the first items of [`WorkList::items`].
    pub attention: AttentionKernel,
    /// Queries of an item, at most.
    rows: usize,
}

/// The kernels for heads of one width and dtype.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttentionKernels {
    /// Takes [`WorkList::items`].
    pub long: AttentionKernel,
    /// Takes [`WorkList::slots`].
    pub short: Option<AttentionKernel>,
    /// The longest sequence that has slots, of at most 64; 0 where there is no short kernel.
    pub short_tokens: usize,
    /// What sequences of more than `rotates` tokens have instead of the long kernel.
    pub far: Option<FarKernels>,
    /// The longest sequence of the long kernel; used with `far` alone.
    rotates: usize,
    /// Queries of an item, at most.
    rows: usize,
    /// A sequence of at most so many tokens is one item: its keys stay in shared memory.
    whole: usize,
}

impl AttentionKernels {
    /// The kernels on a device of this compute capability, for heads that are rotated or not. `None` where no kernel takes
    /// such heads: f16 and bf16 want a multiple of 8 up to 128, f32 an even number up to 128.
    pub fn new(
        head_dim: usize,
        dtype: DType,
        rotary: bool,
        capability: (u32, u32),
    ) -> Option<Self> {
        if head_dim == 0 || head_dim > WIDEST {
            return None;
        }
        if dtype == DType::F32 {
            let width = F32_WIDTHS.into_iter().find(|width| head_dim <= *width)?;
            // Queries, keys and weights with rows of 64 and a vector more, and values.
            let floats = (2 * head_dim + F32_KEYS) * (F32_ROWS + 4) + F32_KEYS * width;
            return head_dim.is_multiple_of(2).then(|| Self {
                long: AttentionKernel {
                    source: "attention_f32".into(),
                    name: format!("attention_f32_{width}"),
                    threads: F32_THREADS,
                    shared: 4 * floats as u32,
                    grid: Grid::Heads,
                    tensor: false,
                },
                short: None,
                short_tokens: 0,
                far: None,
                rotates: 0,
                rows: F32_ROWS,
                whole: 0,
            });
        }
        if !head_dim.is_multiple_of(8) {
            return None;
        }
        let exact = TILES.iter().find(|tile| tile.head_dim == head_dim);
        let (tile, width) = match exact {
            Some(tile) => (tile, head_dim.to_string()),
            None => (&TILES[TILES.len() - 1], "any".into()),
        };
        let pass = 16 * tile.row_tiles * tile.warps;
        let shared = |rows: usize| (rows * tile.head_dim * dtype.size()) as u32;
        let kernel = |end: &str, threads: usize, rows: usize| AttentionKernel {
            source: format!("attention_{width}"),
            name: format!("attention_{}_{width}{end}", dtype.name()),
            threads: threads as u32,
            shared: shared(rows),
            grid: Grid::Heads,
            tensor: false,
        };
        let short = exact.map(|_| kernel("_short", 32 * SHORT_SLOTS, 3 * SHORT_TOKENS));
        // sm_90a's code runs on 9.0 and nowhere else.
        let tensor = TENSOR_TILES
            .iter()
            .find(|tile| tile.head_dim == head_dim && capability == (9, 0));
        if let Some(tile) = tensor.filter(|_| !rotary) {
            return Some(Self {
                long: Self::tensor_kernel(tile, dtype),
                short,
                short_tokens: SHORT_TOKENS,
                far: None,
                rotates: 0,
                rows: 64 * tile.consumers,
                whole: 0,
            });
        }
        let far = || {
            tensor.map(|tile| FarKernels {
                rotate: Self::rotate_kernel(head_dim, dtype),
                attention: Self::tensor_kernel(tile, dtype),
                rows: 64 * tile.consumers,
            })
        };
        if head_dim == HOPPER_HEAD_DIM && capability == (9, 0) {
            let barriers = HOPPER_STAGES * 2 * size_of::<u64>();
            // Of the tiles under way and the one that is rotated: a cosine and a sine, in f32, for two columns.
            let angles = (HOPPER_AHEAD + 1) * HOPPER_KEYS * HOPPER_HEAD_DIM * size_of::<f32>();
            return Some(Self {
                long: AttentionKernel {
                    source: "attention90_64".into(),
                    name: format!("attention90_{}_64", dtype.name()),
                    threads: 128 * (1 + HOPPER_CONSUMERS) as u32,
                    shared: shared(2 * HOPPER_STAGES * HOPPER_KEYS) + (barriers + angles) as u32,
                    grid: Grid::Stay,
                    tensor: false,
                },
                short,
                short_tokens: HOPPER_SHORT_TOKENS,
                far: far(),
                rotates: HOPPER_ROTATES,
                rows: 64 * HOPPER_CONSUMERS,
                whole: HOPPER_WHOLE,
            });
        }
        let hopper = HOPPER_TILES.iter().find(|tile| tile.head_dim == head_dim);
        if let Some(tile) = hopper.filter(|_| capability == (9, 0)) {
            let ring = tile.stages * 2 * tile.keys * shared_columns(head_dim) * dtype.size();
            // Of the tiles under way and the one that is rotated, three times 16 bytes for each producing thread.
            let angles = (HOPPER_AHEAD + 1) * 3 * 128 * 16;
            let barriers = tile.stages * 2 * size_of::<u64>();
            return Some(Self {
                long: AttentionKernel {
                    source: format!("attention90_{head_dim}"),
                    name: format!("attention90_{}_{head_dim}", dtype.name()),
                    threads: 128 * (1 + tile.consumers) as u32,
                    shared: (ring + angles + barriers) as u32,
                    grid: Grid::Stay,
                    tensor: false,
                },
                short,
                short_tokens: SHORT_TOKENS,
                far: far().filter(|_| tile.rotates > 0),
                rotates: tile.rotates,
                rows: 64 * tile.consumers,
                whole: tile.stages * tile.keys,
            });
        }
        Some(Self {
            long: kernel("", 32 * tile.warps, pass + tile.stages * 2 * tile.keys),
            short_tokens: if short.is_some() { SHORT_TOKENS } else { 0 },
            short,
            far: None,
            rotates: 0,
            rows: pass,
            whole: tile.stages * tile.keys,
        })
    }

    /// What tells the bits of these kernels from the bits of those that did the same work before them, for the identity
    /// of a job. `None` where there were no others.
    pub fn bits(&self) -> Option<&'static str> {
        let changed = HOPPER_TILES.map(|tile| format!("attention90_{}", tile.head_dim));
        changed.contains(&self.long.source).then_some("attention90")
    }

    /// The kernels in the order of their launches, as [`WorkCounts::lists`] has their work.
    pub fn launches(&self) -> [Option<&AttentionKernel>; 4] {
        let far = self.far.as_ref();
        [
            far.map(|far| &far.rotate),
            far.map(|far| &far.attention),
            Some(&self.long),
            self.short.as_ref(),
        ]
    }

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
        if self.long.grid == Grid::Stay {
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

    fn tensor_kernel(tile: &TensorTile, dtype: DType) -> AttentionKernel {
        let head_dim = tile.head_dim;
        let tiles = 2 * tile.stages + tile.consumers;
        let barriers = 4 * tile.stages + 2 * tile.consumers;
        let tile_bytes = TENSOR_ROWS * shared_columns(head_dim) * dtype.size();
        AttentionKernel {
            source: format!("attention90_{head_dim}"),
            name: format!("attention90_{}_{head_dim}_tensor", dtype.name()),
            threads: 128 * (1 + tile.consumers) as u32,
            shared: (tiles * tile_bytes + barriers * size_of::<u64>()) as u32,
            grid: Grid::Stay,
            tensor: true,
        }
    }

    fn rotate_kernel(head_dim: usize, dtype: DType) -> AttentionKernel {
        AttentionKernel {
            source: "rotate_keys".into(),
            name: format!("rotate_keys_{}_{head_dim}", dtype.name()),
            threads: ROTATE_THREADS,
            shared: 0,
            grid: Grid::Items(ROTATE_BLOCKS),
            tensor: false,
        }
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
    use crate::backend::cuda::plan::Capacity;

    #[test]
    fn tiles_are_those_of_the_header() {
        let header = include_str!("../../../kernels/tiles.h");
        let mut rows = header
            .lines()
            .filter_map(|line| line.trim().strip_prefix('{')?.strip_suffix("},"));
        let expected = TILES.map(|t| {
            let Tile {
                head_dim,
                row_tiles,
                warps,
                keys,
                stages,
                held,
            } = t;
            format!("{head_dim}, {row_tiles}, {warps}, {keys}, {stages}, {held}")
        });
        assert_eq!(
            rows.by_ref().take(TILES.len()).collect::<Vec<_>>(),
            expected
        );
        let expected = HOPPER_TILES.map(|t| {
            let numbers = [
                t.head_dim,
                t.consumers,
                t.keys,
                t.stages,
                t.consumer_registers,
                t.producer_registers,
                t.rotates,
            ];
            numbers.map(|n| n.to_string()).join(", ")
        });
        assert_eq!(
            rows.by_ref().take(HOPPER_TILES.len()).collect::<Vec<_>>(),
            expected
        );
        let expected = TENSOR_TILES.map(|t| {
            let numbers = [
                t.head_dim,
                t.consumers,
                t.stages,
                t.split,
                t.consumer_registers,
                t.producer_registers,
            ];
            numbers.map(|n| n.to_string()).join(", ")
        });
        assert_eq!(rows.collect::<Vec<_>>(), expected);
        for line in [
            format!("HOPPER_ROTATES = {HOPPER_ROTATES};"),
            format!("TENSOR_ROWS = {TENSOR_ROWS};"),
            format!("ROTATE_BLOCKS = {ROTATE_BLOCKS};"),
            format!("SHORT_SLOTS = {SHORT_SLOTS};"),
            "SHORT_TOKENS = 16 * SHORT_SLOTS;".into(),
            format!("HOPPER_SHORT_TOKENS = {HOPPER_SHORT_TOKENS};"),
            format!("HOPPER_CONSUMERS = {HOPPER_CONSUMERS};"),
            format!("HOPPER_KEYS = {HOPPER_KEYS};"),
            format!("HOPPER_STAGES = {HOPPER_STAGES};"),
            format!("HOPPER_AHEAD = {HOPPER_AHEAD};"),
            "HOPPER_WHOLE = (HOPPER_STAGES - HOPPER_AHEAD) * HOPPER_KEYS;".into(),
            format!("F32_ROWS = {F32_ROWS};"),
            format!("F32_KEYS = {F32_KEYS};"),
            format!("F32_THREADS = {F32_THREADS};"),
        ] {
            assert!(header.contains(&line), "{line}");
        }
    }

    #[test]
    fn every_published_width_has_its_kernel_and_others_the_padded_one() {
        for head_dim in 0..=136 {
            for dtype in [DType::F16, DType::Bf16, DType::F32] {
                let found = AttentionKernels::new(head_dim, dtype, true, (8, 0));
                let step = if dtype == DType::F32 { 2 } else { 8 };
                let taken = (1..=128).contains(&head_dim) && head_dim % step == 0;
                assert_eq!(found.is_some(), taken, "{head_dim} {dtype:?}");
                let Some(found) = found else { continue };
                // What an SM of sm_90 gives a block; on sm_89, 99 KiB, widths up to 96 fit.
                assert!(found.long.shared <= 227 * 1024);
                if head_dim <= 96 {
                    assert!(found.long.shared <= 99 * 1024, "{head_dim} {dtype:?}");
                }
            }
        }
        let wide = AttentionKernels::new(64, DType::F16, true, (8, 0)).unwrap();
        assert_eq!(wide.long.name, "attention_f16_64");
        assert_eq!(wide.long.shared, (128 + 3 * 2 * 64) * 64 * 2);
        assert_eq!(wide.short.unwrap().name, "attention_f16_64_short");
        let hopper = AttentionKernels::new(64, DType::F16, true, (9, 0)).unwrap();
        assert_eq!(hopper.long.name, "attention90_f16_64");
        assert!(hopper.long.grid == Grid::Stay && hopper.long.shared <= 227 * 1024);
        assert_eq!(hopper.long.blocks(20, 97, 132), 132);
        assert_eq!(hopper.long.blocks(20, 3, 132), 60);
        // Heads of 64 have had their kernel from the start.
        assert_eq!((hopper.bits(), hopper.rotates), (None, HOPPER_ROTATES));
        for head_dim in [16, 24, 32, 128] {
            for (rotary, dtype) in [(true, DType::F16), (false, DType::Bf16)] {
                let hopper = AttentionKernels::new(head_dim, dtype, rotary, (9, 0)).unwrap();
                let name = format!("attention90_{}_{head_dim}", dtype.name());
                let tensor = format!("{name}_tensor");
                assert_eq!(hopper.long.name, if rotary { &name } else { &tensor }[..]);
                assert_eq!(hopper.long.tensor, !rotary);
                assert!(hopper.long.grid == Grid::Stay && hopper.long.shared <= 227 * 1024);
                assert_eq!(hopper.bits(), Some("attention90"));
                let rotate = format!("rotate_keys_{}_{head_dim}", dtype.name());
                let rotate = (rotary && head_dim == 128).then_some(rotate);
                let names = hopper.far.map(|far| (far.rotate.name, far.attention.name));
                assert_eq!(names, rotate.map(|rotate| (rotate, tensor)));
                for capability in [(8, 0), (10, 0)] {
                    let other = AttentionKernels::new(head_dim, dtype, rotary, capability).unwrap();
                    assert_eq!((other.bits(), other.far), (None, None));
                }
            }
        }
        let later = AttentionKernels::new(64, DType::F16, true, (10, 0)).unwrap();
        assert_eq!(later.long.name, "attention_f16_64");
        assert_eq!(later.long.blocks(20, 97, 132), 20 * 97);
        let odd = AttentionKernels::new(40, DType::Bf16, true, (9, 0)).unwrap();
        assert_eq!(odd.long.name, "attention_bf16_any");
        assert_eq!(odd.short, None);
    }

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
                // What a pass has room for.
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
        let kernels = AttentionKernels::new(64, DType::F16, true, (9, 0)).unwrap();
        assert_eq!(far(&kernels, &[0, HOPPER_ROTATES]), 0);
        assert_eq!(far(&kernels, &[0, HOPPER_ROTATES + 1]), 4);
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
