//! What a launch of each kernel costs, for studies on the simulated driver: so many operations or
//! bytes, at one of the machine's rates. The simulator knows machines, and this file knows kernels;
//! products of cuBLASLt have their shapes in their calls, and so their cost is the simulator's.
//!
//! The names of the rates are those of the sections `[rates.NAME]` of a machine file. Rates of
//! operations are in TFLOP/s, rates of bytes in TB/s.

use std::ffi::CStr;
use std::mem::{offset_of, size_of};

use super::attention::AttentionKernels;
use super::fused::Fused;
use super::params::{
    AddParams, AttentionItem, AttentionParams, AttentionSlot, AttentionTensorParams, CastParams,
    EmbedParams, GatedGeluParams, GeluParams, GemmGeluParams, GemmQkvParams, GemmShortParams,
    LayerNormParams, RepresentParams, RotaryTableParams,
};
use super::qkv::Qkv;
use crate::dtype::DType;
use crate::gpu::simulator::{Cost, Launch};

/// Bytes of kernels that read and write rows or elements once.
const ROWS: &CStr = c"rows";
/// Bytes of the kernel `represent`.
const REPRESENT: &CStr = c"represent";
/// Bytes of the kernel `rotate_keys`, by the length of the sequence.
const ROTATE_KEYS: &CStr = c"rotate_keys";
/// Operations of `gemm_short`.
const GEMM_SHORT: &CStr = c"gemm_short";
/// Operations of `gemm_gelu`, by depth.
const GEMM_GELU: &CStr = c"gemm_gelu";
/// Operations of the gated `gemm_gelu`, by depth.
const GEMM_GELU_GATED: &CStr = c"gemm_gelu_gated";
/// Operations of `gemm_qkv`, by depth.
const GEMM_QKV: &CStr = c"gemm_qkv";
/// Operations of attention in f32, by length.
const ATTENTION_F32: &CStr = c"attention_f32";
/// Operations of attention of short sequences, by length.
const ATTENTION_SHORT: &CStr = c"attention_short";

/// The rates of all kernels. Those of attention are by the width of the heads; their size is the
/// length of the sequence.
pub const RATES: [&CStr; 31] = [
    ROWS,
    REPRESENT,
    ROTATE_KEYS,
    GEMM_SHORT,
    GEMM_GELU,
    GEMM_GELU_GATED,
    GEMM_QKV,
    ATTENTION_F32,
    ATTENTION_SHORT,
    // By mma.sync.
    c"attention_16",
    c"attention_24",
    c"attention_32",
    c"attention_64",
    c"attention_96",
    c"attention_128",
    c"attention_any",
    // By wgmma, keys rotated by the kernel.
    c"attention90_16",
    c"attention90_24",
    c"attention90_32",
    c"attention90_64",
    c"attention90_128",
    // By tensor copies, nothing rotated.
    c"attention90_16_tensor",
    c"attention90_24_tensor",
    c"attention90_32_tensor",
    c"attention90_64_tensor",
    c"attention90_128_tensor",
    // By tensor copies, queries rotated by the kernel.
    c"attention90_16_tensor_queries",
    c"attention90_24_tensor_queries",
    c"attention90_32_tensor_queries",
    c"attention90_64_tensor_queries",
    c"attention90_128_tensor_queries",
];

/// Returns the rate of an attention kernel by the kernel's name, which has the dtype in it.
fn attention_rate(kernel: &str, rotated: bool) -> Option<&'static CStr> {
    if kernel.starts_with("attention_f32") {
        return Some(ATTENTION_F32);
    }
    if kernel.ends_with("_short") {
        return Some(ATTENTION_SHORT);
    }
    let (family, rest) = kernel.split_once('_')?;
    let (_dtype, width) = rest.split_once('_')?;
    // Keys that were rotated before take the same time, but for the rotation.
    let width = width.strip_suffix("_ready").unwrap_or(width);
    let queries = match rotated && width.ends_with("_tensor") {
        true => "_queries",
        false => "",
    };
    let name = format!("{family}_{width}{queries}");
    let found = RATES.iter().find(|rate| rate.to_bytes() == name.as_bytes());
    found.copied()
}

/// Returns the rates that a model needs: with so many heads of `head_dim` columns that are rotated or
/// not, and with gated layers or not, in `dtype` on a device of this capability.
pub fn needed(
    (heads, head_dim, rotary, gated): (usize, usize, bool, bool),
    dtype: DType,
    capability: (u32, u32),
) -> Vec<&'static CStr> {
    let mut needed = vec![ROWS, REPRESENT];
    if dtype == DType::F32 {
        needed.push(GEMM_SHORT);
    } else if Fused::is_on(capability) {
        needed.push(if gated { GEMM_GELU_GATED } else { GEMM_GELU });
    }
    let by_product = rotary && Qkv::is_on(capability, dtype, [heads, head_dim]);
    if by_product {
        needed.push(GEMM_QKV);
    }
    let rotary = rotary && !by_product;
    let kernels = AttentionKernels::new(head_dim, dtype, rotary, capability);
    for kernel in kernels.iter().flat_map(|k| k.launches()).flatten() {
        needed.push(match kernel.name.starts_with("rotate_keys") {
            true => ROTATE_KEYS,
            // A kernel without a rate has none in any machine file; its launch then says so.
            false => match attention_rate(&kernel.name, rotary) {
                Some(rate) => rate,
                None => continue,
            },
        });
    }
    needed
}

/// Says what a launch costs. Returns `None` for a kernel that is not the program's, and where a
/// work list cannot be read.
pub fn cost(launch: &Launch<'_>) -> Option<Cost> {
    let name = launch.name;
    let u32 = |offset| launch.u32_at(offset).map(f64::from);
    let count = |offset| launch.u64_at(offset).map(|count| count as f64);
    let bytes = |amount: f64| {
        Some(Cost {
            rate: ROWS,
            amount,
            size: 1.0,
        })
    };
    let element = element_bytes(name);
    if name.starts_with("layer_norm") {
        let written = match launch.u64_at(offset_of!(LayerNormParams, stream))? {
            0 => 0.0,
            _ => 4.0,
        } + match launch.u64_at(offset_of!(LayerNormParams, to))? {
            0 => 0.0,
            _ => element,
        };
        let values =
            u32(offset_of!(LayerNormParams, rows))? * u32(offset_of!(LayerNormParams, width))?;
        return bytes(values * (4.0 + written));
    }
    if name == "embed" {
        // The table stays in L2: only what is written counts.
        let values = u32(offset_of!(EmbedParams, count))? * u32(offset_of!(EmbedParams, width))?;
        return bytes(4.0 * values);
    }
    if name == "add" {
        return bytes(12.0 * count(offset_of!(AddParams, count))?);
    }
    if name.starts_with("gelu") {
        return bytes(2.0 * element * count(offset_of!(GeluParams, count))?);
    }
    if name.starts_with("gated_gelu") {
        let values =
            u32(offset_of!(GatedGeluParams, rows))? * u32(offset_of!(GatedGeluParams, width))?;
        return bytes(3.0 * element * values);
    }
    if name == "rotary_table" {
        let angles = u32(offset_of!(RotaryTableParams, positions))?
            * u32(offset_of!(RotaryTableParams, half))?;
        return bytes(8.0 * angles);
    }
    if let Some(formats) = name.strip_prefix("cast_") {
        let (from, to) = formats.split_once('_')?;
        let both = element_bytes(from) + element_bytes(to);
        return bytes(both * count(offset_of!(CastParams, count))?);
    }
    if name.starts_with("represent") {
        return represent(launch);
    }
    if name == "gemm_short" {
        let product = u32(offset_of!(GemmShortParams, rows))?
            * u32(offset_of!(GemmShortParams, outputs))?
            * u32(offset_of!(GemmShortParams, depth))?;
        return Some(Cost {
            rate: GEMM_SHORT,
            amount: 2.0 * product,
            size: u32(offset_of!(GemmShortParams, rows))?,
        });
    }
    if name.starts_with("gemm_gelu") {
        let depth = u32(offset_of!(GemmGeluParams, depth))?;
        let product = u32(offset_of!(GemmGeluParams, rows))?
            * u32(offset_of!(GemmGeluParams, width))?
            * depth;
        let (rate, products) = match name.contains("gated") {
            true => (GEMM_GELU_GATED, 2.0),
            false => (GEMM_GELU, 1.0),
        };
        return Some(Cost {
            rate,
            amount: 2.0 * product * products,
            size: depth,
        });
    }
    if name.starts_with("gemm_qkv") {
        let depth = u32(offset_of!(GemmQkvParams, depth))?;
        let outputs =
            u32(offset_of!(GemmQkvParams, rows))? * u32(offset_of!(GemmQkvParams, width))?;
        return Some(Cost {
            rate: GEMM_QKV,
            amount: 2.0 * outputs * depth,
            size: depth,
        });
    }
    attention(launch)
}

/// Returns the bytes of an element of the dtype that a name contains.
fn element_bytes(name: &str) -> f64 {
    if name.contains("f32") { 4.0 } else { 2.0 }
}

fn represent(launch: &Launch<'_>) -> Option<Cost> {
    let sequences = launch.u32_at(offset_of!(RepresentParams, sequences))?;
    let width = f64::from(launch.u32_at(offset_of!(RepresentParams, width))?);
    let starts = launch.u64_at(offset_of!(RepresentParams, starts))?;
    let last = launch.read(starts + 4 * u64::from(sequences), 4)?;
    let rows = f64::from(u32::from_le_bytes(last.try_into().ok()?));
    if launch.name == "represent_means" {
        // f64 sums of 32 rows each.
        return Some(Cost {
            rate: ROWS,
            amount: rows / 32.0 * width * 8.0,
            size: 1.0,
        });
    }
    let states = match launch.u64_at(offset_of!(RepresentParams, states))? {
        0 => 0.0,
        _ => 4.0,
    };
    Some(Cost {
        rate: REPRESENT,
        amount: rows * width * (4.0 + states),
        size: 1.0,
    })
}

/// The cost of the kernels that have a work list: `attention_*` and `rotate_keys_*`.
fn attention(launch: &Launch<'_>) -> Option<Cost> {
    let name = launch.name;
    let base = match name.ends_with("_tensor") {
        true => offset_of!(AttentionTensorParams, attention),
        false => 0,
    };
    let u32 = |offset| launch.u32_at(base + offset);
    let heads = u32(offset_of!(AttentionParams, heads))? as usize;
    let width = (heads * u32(offset_of!(AttentionParams, head_dim))? as usize) as f64;
    let count = u32(offset_of!(AttentionParams, count))? as usize;
    let list = launch.u64_at(base + offset_of!(AttentionParams, items))?;
    let rotary = launch.u64_at(base + offset_of!(AttentionParams, rotary))?;
    // The rows of all queries, and the pairs of a query and a key.
    let (mut rows, mut pairs) = (0.0, 0.0);
    let mut add = |queries: u32, length: u32| {
        rows += f64::from(queries);
        pairs += f64::from(queries) * f64::from(length);
    };
    let field = |entry: &[u8], at: usize| -> Option<u32> {
        Some(u32::from_le_bytes(entry.get(at..at + 4)?.try_into().ok()?))
    };
    if name.ends_with("_short") {
        let bytes = launch.read(list, count * 4 * size_of::<AttentionSlot>())?;
        for slot in bytes.chunks_exact(size_of::<AttentionSlot>()) {
            // The length is the lower half of the field.
            let both = field(slot, offset_of!(AttentionSlot, length))?;
            let (length, piece) = (both & 0xffff, both >> 16);
            add(length.saturating_sub(16 * piece).min(16), length);
        }
    } else {
        let bytes = launch.read(list, count * size_of::<AttentionItem>())?;
        for item in bytes.chunks_exact(size_of::<AttentionItem>()) {
            add(
                field(item, offset_of!(AttentionItem, rows))?,
                field(item, offset_of!(AttentionItem, length))?,
            );
        }
    }
    let size = if rows > 0.0 { pairs / rows } else { 1.0 };
    if name.starts_with("rotate_keys") {
        return Some(Cost {
            rate: ROTATE_KEYS,
            // Keys are read and written in 16 bits.
            amount: rows * width * 4.0,
            size,
        });
    }
    Some(Cost {
        rate: attention_rate(name, rotary != 0)?,
        amount: 4.0 * pairs * width,
        size,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attention_kernel_of_the_published_models_has_a_rate() {
        for (head_dim, rotary) in [
            (16, true),
            (24, true),
            (32, true),
            (64, true),
            (128, true),
            (64, false),
        ] {
            for capability in [(8, 0), (8, 9), (9, 0)] {
                for dtype in [DType::F16, DType::Bf16, DType::F32] {
                    let kernels =
                        AttentionKernels::new(head_dim, dtype, rotary, capability).unwrap();
                    for kernel in kernels.launches().into_iter().flatten() {
                        let rate = attention_rate(&kernel.name, rotary);
                        let rotates = kernel.name.starts_with("rotate_keys");
                        assert!(rotates || rate.is_some(), "{}", kernel.name);
                    }
                    let needed = needed((20, head_dim, rotary, false), dtype, capability);
                    assert!(needed.iter().all(|rate| RATES.contains(rate)), "{needed:?}");
                }
            }
        }
        let rate = |name, rotated| attention_rate(name, rotated).map(|rate| rate.to_str().unwrap());
        assert_eq!(rate("attention90_f16_64", true), Some("attention90_64"));
        assert_eq!(
            rate("attention90_bf16_128_tensor", true),
            Some("attention90_128_tensor_queries")
        );
        assert_eq!(
            rate("attention90_f16_64_tensor", false),
            Some("attention90_64_tensor")
        );
        assert_eq!(rate("attention_f16_any", true), Some("attention_any"));
        assert_eq!(rate("attention_f16_64_ready", true), Some("attention_64"));
        assert_eq!(
            rate("attention_f16_64_short", true),
            Some("attention_short")
        );
        assert_eq!(rate("attention_f16_40", true), None);
    }
}
