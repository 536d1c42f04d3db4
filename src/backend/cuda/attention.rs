//! Which attention kernel computes what; `work` makes their work lists.
//!
//! A sequence's kernel, tiles and sums follow from its own length and the width of its heads;
//! how sequences share blocks, and in which order blocks run, changes no bit.

mod work;

use super::launch::{
    ATTENTION_F32_KEYS, ATTENTION_F32_PITCH, ATTENTION_F32_ROWS, ATTENTION_F32_THREADS,
    ATTENTION_F32_WIDTHS, ATTENTION_SHORT_THREADS, ATTENTION_SHORT_TOKENS, ATTENTION_TILES,
    HOPPER_CONSUMERS, HOPPER_HEAD_DIM, HOPPER_ROTATES, HOPPER_SHARED_BYTES, HOPPER_SHORT_TOKENS,
    HOPPER_THREADS, HOPPER_TILES, HOPPER_WHOLE, LOOP_THREADS, ROTATE_BLOCKS, TENSOR_ROWS,
    TENSOR_TILES, TensorTile,
};
use super::params::{AttentionParams, AttentionTensorParams};
use crate::dtype::DType;
use crate::gpu::driver::{DriverError, Element, PackedRows, Swizzle, TensorMap};

pub use work::{WorkCounts, WorkList};

/// The source of the kernels for f32.
const PLAIN: &str = "attention_f32";

/// A kernel and how it is launched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttentionKernel {
    /// Its fatbin ([`super::kernels::fatbin`]).
    pub source: String,
    /// Its name in there.
    pub name: String,
    /// The number of threads per block.
    pub threads: u32,
    /// Bytes of dynamic shared memory per block.
    pub shared: u32,
    /// How many blocks a launch has.
    pub grid: Grid,
    /// For a kernel that uses tensor copies, its tile. Its parameters are
    /// [`AttentionTensorParams`], which [`AttentionKernel::tensor_params`] makes, and not
    /// [`AttentionParams`].
    pub tensor: Option<TensorTile>,
}

/// The blocks of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grid {
    /// One block per head of each item.
    Heads,
    /// Persistent: one block per multiprocessor, which loops over the heads of the items.
    Persistent,
    /// This many blocks per item.
    Items(u32),
}

impl AttentionKernel {
    /// The blocks of a launch for `count` items.
    pub fn blocks(&self, heads: u32, count: u32, multiprocessors: u32) -> u32 {
        match self.grid {
            Grid::Heads => heads * count,
            Grid::Persistent => (heads * count).min(multiprocessors),
            Grid::Items(blocks) => blocks * count,
        }
    }

    /// Makes the parameters of a kernel that uses tensor copies, for a pass of this many tokens in
    /// f16 or bf16.
    ///
    /// # Errors
    /// Returns [`DriverError`] if the driver refuses a map of such a matrix.
    pub fn tensor_params(
        tile: &TensorTile,
        attention: AttentionParams,
        tokens: usize,
        dtype: DType,
    ) -> Result<AttentionTensorParams, DriverError> {
        // A row in shared memory has one or more spans of at most 64 columns, or 128 bytes.
        let span = tile.columns.min(64);
        let blocks = tile.columns / span; // per head
        let qkv = TensorMap::packed(&PackedRows {
            element: match dtype {
                DType::F16 => Element::F16,
                DType::Bf16 => Element::Bf16,
                DType::F32 => Element::F32,
            },
            address: attention.qkv,
            rows: tokens as u64,
            blocks: 3 * u64::from(attention.heads) * u64::from(blocks),
            columns: u64::from(tile.head_dim.min(span)),
            box_rows: TENSOR_ROWS,
            box_columns: span,
            box_blocks: blocks,
            swizzle: match span {
                16 => Swizzle::Bytes32,
                32 => Swizzle::Bytes64,
                _ => Swizzle::Bytes128,
            },
        })?;
        Ok(AttentionTensorParams {
            qkv,
            attention,
            ..AttentionTensorParams::default()
        })
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
        // Every kind of kernel has heads of at most this width.
        let widest = ATTENTION_TILES[ATTENTION_TILES.len() - 1];
        let width = u32::try_from(head_dim).ok()?;
        if width == 0 || width > widest.head_dim {
            return None;
        }
        if dtype == DType::F32 {
            let padded = ATTENTION_F32_WIDTHS.into_iter().find(|w| width <= *w)?;
            // Queries, keys and weights transposed, and values.
            let floats = (2 * width + ATTENTION_F32_KEYS) * ATTENTION_F32_PITCH
                + ATTENTION_F32_KEYS * padded;
            return width.is_multiple_of(2).then(|| Self {
                long: AttentionKernel {
                    source: PLAIN.into(),
                    name: format!("attention_f32_{padded}"),
                    threads: ATTENTION_F32_THREADS,
                    shared: 4 * floats,
                    grid: Grid::Heads,
                    tensor: None,
                },
                short: None,
                short_tokens: 0,
                far: None,
                rotates: 0,
                rows: ATTENTION_F32_ROWS as usize,
                whole: 0,
            });
        }
        if !width.is_multiple_of(8) {
            return None;
        }
        let exact = ATTENTION_TILES.iter().find(|tile| tile.head_dim == width);
        let (tile, called) = match exact {
            Some(tile) => (tile, width.to_string()),
            None => (&widest, "any".into()),
        };
        let kernel = |end: &str, threads: u32, shared: u32| AttentionKernel {
            source: format!("attention_{called}"),
            name: format!("attention_{}_{called}{end}", dtype.name()),
            threads,
            shared,
            grid: Grid::Heads,
            tensor: None,
        };
        let short = exact.map(|_| {
            // Queries, keys and values.
            let shared = 3 * ATTENTION_SHORT_TOKENS * width * dtype.size() as u32;
            kernel("_short", ATTENTION_SHORT_THREADS, shared)
        });
        let hopper = |threads: u32, shared: u32| AttentionKernel {
            source: format!("attention90_{width}"),
            name: format!("attention90_{}_{width}", dtype.name()),
            threads,
            shared,
            grid: Grid::Persistent,
            tensor: None,
        };
        // sm_90a's code runs on 9.0 and nowhere else.
        let is_hopper = capability == (9, 0);
        let tensor = TENSOR_TILES.iter().find(|tile| tile.head_dim == width);
        let tensor = tensor.filter(|_| is_hopper);
        if let Some(tile) = tensor.filter(|_| !rotary) {
            return Some(Self {
                long: Self::tensor_kernel(tile, dtype),
                short,
                short_tokens: ATTENTION_SHORT_TOKENS as usize,
                far: None,
                rotates: 0,
                rows: 64 * tile.consumers as usize,
                whole: 0,
            });
        }
        let far = tensor.map(|tile| FarKernels {
            rotate: Self::rotate_kernel(head_dim, dtype),
            attention: Self::tensor_kernel(tile, dtype),
            rows: 64 * tile.consumers as usize,
        });
        if is_hopper && width == HOPPER_HEAD_DIM {
            return Some(Self {
                long: hopper(HOPPER_THREADS, HOPPER_SHARED_BYTES),
                short,
                short_tokens: HOPPER_SHORT_TOKENS as usize,
                far,
                rotates: HOPPER_ROTATES as usize,
                rows: 64 * HOPPER_CONSUMERS as usize,
                whole: HOPPER_WHOLE as usize,
            });
        }
        let own = HOPPER_TILES.iter().find(|tile| tile.head_dim == width);
        if let Some(tile) = own.filter(|_| is_hopper) {
            return Some(Self {
                long: hopper(128 * (1 + tile.consumers), tile.shared_bytes),
                short,
                short_tokens: ATTENTION_SHORT_TOKENS as usize,
                far: far.filter(|_| tile.rotates > 0),
                rotates: tile.rotates as usize,
                rows: 64 * tile.consumers as usize,
                whole: (tile.stages * tile.keys) as usize,
            });
        }
        // The kernel whose name ends with `_ready` takes keys that need no rotation, or have been
        // rotated before: those of sequences of more than one item, since each item would do it again.
        let block = |end| kernel(end, 32 * tile.warps, tile.shared_bytes);
        let rows = (16 * tile.row_tiles * tile.warps) as usize;
        let far = (rotary && exact.is_some()).then(|| FarKernels {
            rotate: Self::rotate_kernel(head_dim, dtype),
            attention: block("_ready"),
            rows,
        });
        let long = block(if rotary || exact.is_none() {
            ""
        } else {
            "_ready"
        });
        Some(Self {
            long,
            short_tokens: short
                .as_ref()
                .map_or(0, |_| ATTENTION_SHORT_TOKENS as usize),
            short,
            rotates: far.as_ref().map_or(0, |far| far.rows),
            far,
            rows,
            whole: rows,
        })
    }

    /// What tells the bits of these kernels from the bits of those that did the same work before them, for the identity
    /// of a job. `None` where there were no others.
    pub fn bits(&self) -> Option<&'static str> {
        let changed = HOPPER_TILES.map(|tile| format!("attention90_{}", tile.head_dim));
        if changed.contains(&self.long.source) {
            return Some("attention90");
        }
        // Since the tensor cores sum up the weights.
        let source = &self.long.source;
        (source.starts_with("attention_") && source != PLAIN).then_some("attention80 sums")
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

    fn tensor_kernel(tile: &TensorTile, dtype: DType) -> AttentionKernel {
        let width = tile.head_dim;
        AttentionKernel {
            source: format!("attention90_{width}"),
            name: format!("attention90_{}_{width}_tensor", dtype.name()),
            threads: 128 * (1 + tile.consumers),
            shared: tile.shared_bytes,
            grid: Grid::Persistent,
            tensor: Some(*tile),
        }
    }

    fn rotate_kernel(head_dim: usize, dtype: DType) -> AttentionKernel {
        AttentionKernel {
            source: "rotate_keys".into(),
            name: format!("rotate_keys_{}_{head_dim}", dtype.name()),
            threads: LOOP_THREADS,
            shared: 0,
            grid: Grid::Items(ROTATE_BLOCKS),
            tensor: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(wide.long.shared, (128 + 2 * 2 * 64) * 64 * 2);
        assert_eq!(wide.short.unwrap().name, "attention_f16_64_short");
        let hopper = AttentionKernels::new(64, DType::F16, true, (9, 0)).unwrap();
        assert_eq!(hopper.long.name, "attention90_f16_64");
        assert!(hopper.long.grid == Grid::Persistent && hopper.long.shared <= 227 * 1024);
        assert_eq!(hopper.long.blocks(20, 97, 132), 132);
        assert_eq!(hopper.long.blocks(20, 3, 132), 60);
        // Heads of 64 have had their kernel from the start.
        assert_eq!(
            (hopper.bits(), hopper.rotates),
            (None, HOPPER_ROTATES as usize)
        );
        for head_dim in [16, 24, 32, 128] {
            for (rotary, dtype) in [(true, DType::F16), (false, DType::Bf16)] {
                let hopper = AttentionKernels::new(head_dim, dtype, rotary, (9, 0)).unwrap();
                let name = format!("attention90_{}_{head_dim}", dtype.name());
                let tensor = format!("{name}_tensor");
                assert_eq!(hopper.long.name, if rotary { &name } else { &tensor }[..]);
                assert_eq!(hopper.long.tensor.is_some(), !rotary);
                assert!(hopper.long.grid == Grid::Persistent && hopper.long.shared <= 227 * 1024);
                assert_eq!(hopper.bits(), Some("attention90"));
                let rotate = format!("rotate_keys_{}_{head_dim}", dtype.name());
                let rotate = (rotary && head_dim == 128).then_some(rotate);
                let names = hopper.far.map(|far| (far.rotate.name, far.attention.name));
                assert_eq!(names, rotate.map(|rotate| (rotate, tensor)));
                for capability in [(8, 0), (10, 0)] {
                    let other = AttentionKernels::new(head_dim, dtype, rotary, capability).unwrap();
                    assert_eq!(other.bits(), Some("attention80 sums"));
                    let rotate = format!("rotate_keys_{}_{head_dim}", dtype.name());
                    let name = format!("attention_{}_{head_dim}", dtype.name());
                    let ready = format!("{name}_ready");
                    assert_eq!(other.long.name, if rotary { &name } else { &ready }[..]);
                    let names = other.far.map(|far| (far.rotate.name, far.attention.name));
                    assert_eq!(names, rotary.then_some((rotate, ready)));
                }
            }
        }
        let later = AttentionKernels::new(64, DType::F16, true, (10, 0)).unwrap();
        assert_eq!(later.long.name, "attention_f16_64");
        assert_eq!(later.long.blocks(20, 97, 132), 20 * 97);
        let odd = AttentionKernels::new(40, DType::Bf16, true, (9, 0)).unwrap();
        assert_eq!(odd.long.name, "attention_bf16_any");
        assert_eq!((odd.short.as_ref(), odd.far.as_ref()), (None, None));
        assert_eq!(odd.bits(), Some("attention80 sums"));
        let plain = AttentionKernels::new(64, DType::F32, true, (8, 0)).unwrap();
        assert_eq!(plain.bits(), None);
    }
}
