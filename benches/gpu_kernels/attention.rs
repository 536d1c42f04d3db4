//! Attention over sequences of one length, and of mixed lengths.

use super::device::{Device, Floor};
use seqstream::backend::cuda::attention::{AttentionKernel, AttentionKernels};
use seqstream::backend::cuda::params::{AttentionParams, RotaryTableParams};
use seqstream::dtype::DType;
use seqstream::gpu::driver::{DriverError, Function};

/// Returns sequences of one length, with about this many tokens.
pub fn uniform(length: usize, tokens: usize) -> Vec<usize> {
    vec![length; tokens.div_ceil(length)]
}

/// Returns lengths like those of proteins: log-normal around 290, at most 1022.
pub fn ragged(tokens: usize) -> Vec<usize> {
    let mut state = 5u64;
    let mut uniform = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) as f64 / (1u64 << 31) as f64
    };
    let mut lengths = Vec::new();
    while lengths.iter().sum::<usize>() < tokens {
        let sum: f64 = (0..12).map(|_| uniform()).sum();
        lengths.push((290.0 * (0.7 * (sum - 6.0)).exp()).clamp(20.0, 1022.0) as usize);
    }
    lengths
}

/// The kernels that are timed.
#[derive(Clone, Copy)]
pub enum By {
    /// The kernels that a model uses on this device.
    Own,
    /// The kernels that a model uses on devices without wgmma.
    MmaSync,
    /// The long kernel, for short sequences too.
    Long,
    /// The short kernel, for all lengths that it supports, up to 64 tokens.
    Short,
}

/// Times the kernels that a model uses on this device.
pub fn attention(
    device: &mut Device,
    heads: (usize, usize),
    dtype: DType,
    rotary: bool,
    lengths: &[usize],
) -> Result<(), DriverError> {
    attention_by(device, By::Own, heads, dtype, rotary, lengths)
}

/// Times certain kernels on sequences of these lengths.
pub fn attention_by(
    device: &mut Device,
    by: By,
    (heads, head_dim): (usize, usize),
    dtype: DType,
    rotary: bool,
    lengths: &[usize],
) -> Result<(), DriverError> {
    let tokens: usize = lengths.iter().sum();
    let longest = lengths.iter().copied().max().unwrap_or(1);
    let shape = if lengths.iter().all(|l| *l == longest) {
        longest.to_string()
    } else {
        "ragged".into()
    };
    let position = if rotary { "rotary" } else { "alibi" };
    let kernels = match by {
        By::Own => "",
        By::MmaSync => ", mma.sync",
        By::Long => ", by the long one",
        By::Short => ", by the short one",
    };
    let what = format!(
        "attention {} {heads}x{head_dim} {position} length {shape}, {tokens} tokens{kernels}",
        dtype.name()
    );
    if !device.wants(&what) {
        return Ok(());
    }
    let (capability, multiprocessors) = (
        device.context.info()?.capability,
        device.multiprocessors as u32,
    );
    let capability = match by {
        By::MmaSync => (8, 0),
        By::Own | By::Long | By::Short => capability,
    };
    let Some(mut kernels) = AttentionKernels::new(head_dim, dtype, rotary, capability) else {
        return Ok(());
    };
    match by {
        By::Long => kernels.short_tokens = 0,
        By::Short => kernels.short_tokens = 64,
        By::Own | By::MmaSync => {}
    }
    let mut starts = vec![0];
    for length in lengths {
        starts.push(starts[starts.len() - 1] + length);
    }
    let work = kernels.work(&starts);
    let (items, slots) = (
        device.upload(&work.item_bytes())?,
        device.upload(&work.slot_bytes())?,
    );
    let width = heads * head_dim;
    let out = device.memory(tokens * width * dtype.size())?;
    let table = device.memory(longest * head_dim * 4)?;
    let half = head_dim / 2;
    let inv_freq: Vec<u8> = (0..half)
        .flat_map(|i| 10000f32.powf(-(i as f32) / half as f32).to_ne_bytes())
        .collect();
    let slopes: Vec<u8> = (0..heads)
        .flat_map(|h| 0.5f32.powf((h % 8) as f32 + 1.0).to_ne_bytes())
        .collect();
    let (inv_freq, slopes) = (device.upload(&inv_freq)?, device.upload(&slopes)?);
    let angles = RotaryTableParams {
        inv_freq: inv_freq.address(),
        table: table.address(),
        positions: longest as u32,
        half: half as u32,
    };
    let fill = device.function("rotary_table", "rotary_table", 0)?;
    // SAFETY: the regions have these sizes and live until the stream is idle. This also holds for
    // all launches below.
    unsafe { device.launch(&fill, 64, 256, 0, &angles)? };
    let params = AttentionParams {
        out: out.address(),
        rotary: if rotary { table.address() } else { 0 },
        slopes: if rotary { 0 } else { slopes.address() },
        heads: heads as u32,
        head_dim: head_dim as u32,
        scale: (head_dim as f32).powf(-0.5),
        ..AttentionParams::default()
    };
    let mut launches: Vec<(Function, AttentionKernel, u64, u32)> = Vec::new();
    let lists = work.counts().lists(items.address(), slots.address());
    for (kernel, (address, count)) in kernels.launches().into_iter().zip(lists) {
        if let Some(kernel) = kernel.filter(|_| count > 0) {
            let function = device.function(&kernel.source, &kernel.name, kernel.shared)?;
            launches.push((function, kernel.clone(), address, count));
        }
    }
    let squares: f64 = lengths.iter().map(|l| (*l as f64).powi(2)).sum();
    device.time(
        &what,
        Floor::Flops(4.0 * width as f64 * squares),
        |device| {
            let qkv = device.numbers(tokens * 3 * width * dtype.size());
            for (function, kernel, items, count) in &launches {
                let params = AttentionParams {
                    qkv,
                    items: *items,
                    count: *count,
                    ..params
                };
                let blocks = kernel.blocks(params.heads, *count, multiprocessors);
                let (threads, shared) = (kernel.threads, kernel.shared);
                if kernel.tensor {
                    let params = AttentionKernel::tensor_params(params, tokens, dtype)?;
                    // SAFETY: as above.
                    unsafe { device.launch(function, blocks, threads, shared, &params)? };
                } else {
                    // SAFETY: as above.
                    unsafe { device.launch(function, blocks, threads, shared, &params)? };
                }
            }
            Ok(())
        },
    )
}
