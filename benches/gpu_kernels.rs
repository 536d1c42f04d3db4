//! Times every kernel on a real GPU, and compares it with the device's limit.
//!
//!     cargo bench --bench gpu_kernels [-- WORD]        only the lines that contain the word
//!     cargo bench --bench gpu_kernels -- --small       few tokens and rounds: only checks that it
//!                                                     runs, the times mean nothing
//!
//! The inputs are random numbers. Each round has other inputs than the previous one, so that they
//! come from memory as in a model. The median of the rounds is taken twice, to show the noise. A
//! line shows the name, microseconds (both medians), and GB/s or TFLOP/s of the least data or work.
//! The bench needs a device and kernels; it says so if there are none, and with REQUIRE_GPU=1 this
//! is a failure.

#[path = "gpu_kernels/attention.rs"]
mod attention;
#[path = "gpu_kernels/device.rs"]
mod device;

use attention::{By, attention, attention_by, ragged, uniform};
use device::{Device, Extent, FULL, Floor, SMALL};
use seqstream::backend::cuda;
use seqstream::backend::cuda::params::{
    AddParams, CastParams, EmbedParams, GatedGeluParams, GeluParams, GemmShortParams,
    LayerNormParams, RepresentParams, RotaryTableParams,
};
use seqstream::dtype::DType;
use seqstream::gpu::driver::DriverError;

fn main() {
    let only = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    let small = std::env::args().any(|a| a == "--small");
    let extent = if small { SMALL } else { FULL };
    let device = match cuda::require() {
        Ok(devices) => devices.into_iter().next(),
        Err(missing) => {
            eprintln!("not run: {missing}");
            let required = std::env::var("REQUIRE_GPU").is_ok_and(|v| v == "1");
            std::process::exit(i32::from(required));
        }
    };
    let Some(device) = device else { return };
    println!("{}", device.name);
    if let Err(error) = run(device.multiprocessors as usize, only, extent) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

fn run(multiprocessors: usize, only: Option<String>, extent: Extent) -> Result<(), DriverError> {
    let [few, many] = extent.tokens;
    let longest = if many < 4096 { 130 } else { 4096 };
    let mut device = Device::new(multiprocessors, only, extent)?;
    for length in [51, 100, 170, 350, 512, 1022, 4096] {
        let length = length.min(longest);
        attention(
            &mut device,
            (20, 64),
            DType::F16,
            true,
            &uniform(length, many),
        )?;
    }
    attention(&mut device, (20, 64), DType::F16, true, &ragged(many))?;
    attention(
        &mut device,
        (20, 64),
        DType::F16,
        true,
        &uniform(longest.min(350), few),
    )?;
    attention(
        &mut device,
        (20, 64),
        DType::Bf16,
        true,
        &uniform(longest.min(350), many),
    )?;
    attention(
        &mut device,
        (40, 64),
        DType::F16,
        true,
        &uniform(longest.min(350), many),
    )?;
    for length in [51, 100, 350, 1022] {
        let length = length.min(longest);
        attention(
            &mut device,
            (12, 64),
            DType::F16,
            false,
            &uniform(length, many),
        )?;
    }
    // These lines show whether the kernels for Hopper are worthwhile, and from which length on.
    for (by, rotary, length) in [
        (By::MmaSync, true, 100),
        (By::MmaSync, true, 350),
        (By::MmaSync, true, 1022),
        (By::Long, true, 20),
        (By::Long, true, 35),
        (By::Long, true, 51),
        (By::Long, true, 64),
        (By::Long, false, 51),
        (By::Short, true, 35),
        (By::Short, true, 51),
        (By::Short, true, 64),
        (By::Own, true, 20),
    ] {
        let lengths = uniform(length.min(longest), many);
        let heads = if rotary { 20 } else { 12 };
        attention_by(&mut device, by, (heads, 64), DType::F16, rotary, &lengths)?;
    }
    for (heads, head_dim) in [(20, 16), (20, 24), (20, 32), (8, 96), (40, 128), (20, 40)] {
        attention(
            &mut device,
            (heads, head_dim),
            DType::F16,
            true,
            &uniform(longest.min(350), many),
        )?;
    }
    // Every width at a long length and, where Hopper has a kernel of its own, against mma.sync.
    for (heads, head_dim) in [(20, 16), (20, 24), (20, 32), (40, 128)] {
        for length in [100, 1022, 4096] {
            let lengths = uniform(length.min(longest), many);
            attention(&mut device, (heads, head_dim), DType::F16, true, &lengths)?;
        }
        let lengths = uniform(longest.min(350), many);
        attention(&mut device, (heads, head_dim), DType::Bf16, true, &lengths)?;
        attention(
            &mut device,
            (heads, head_dim),
            DType::F16,
            true,
            &ragged(many),
        )?;
        for length in [100, 350, 1022] {
            let lengths = uniform(length.min(longest), many);
            let by = By::MmaSync;
            attention_by(
                &mut device,
                by,
                (heads, head_dim),
                DType::F16,
                true,
                &lengths,
            )?;
        }
    }
    for (heads, length) in [
        ((20, 64), 51),
        ((20, 64), 350),
        ((20, 64), 1022),
        ((20, 24), 350),
        ((40, 128), 350),
    ] {
        let lengths = uniform(length.min(longest), few);
        attention(&mut device, heads, DType::F32, true, &lengths)?;
    }
    for tokens in [few, many] {
        for width in [320, 768, 1280, 2560, 5120] {
            layer_norm(&mut device, tokens, width, DType::F16)?;
        }
        layer_norm(&mut device, tokens, 1280, DType::F32)?;
        for width in [768, 1280, 2560] {
            embed(&mut device, tokens, width)?;
            gelu(&mut device, tokens, 4 * width, DType::F16)?;
            represent(&mut device, tokens, 352, width, false)?;
        }
        gelu(&mut device, tokens, 5120, DType::Bf16)?;
        gelu(&mut device, tokens, 5120, DType::F32)?;
        represent(&mut device, tokens, 352, 1280, true)?;
        represent(&mut device, tokens, tokens, 1280, false)?;
        gated_gelu(&mut device, tokens, 3072, DType::F16)?;
        add(&mut device, tokens, 1280)?;
    }
    // The largest matrix of 650M.
    for (from, to) in [
        (DType::F16, DType::F32),
        (DType::Bf16, DType::F32),
        (DType::Bf16, DType::F16),
    ] {
        cast(&mut device, few.min(5120) * 1280, from, to)?;
    }
    rotary_table(&mut device, longest, 32)?;
    // fc1 and fc2 of 650M: one sequence, and enough sequences to fill the card.
    for rows in [15, few.min(4096)] {
        gemm_short(&mut device, rows, 5120, 1280)?;
        gemm_short(&mut device, rows, 1280, 5120)?;
    }
    Ok(())
}

fn cast(device: &mut Device, count: usize, from: DType, to: DType) -> Result<(), DriverError> {
    let what = format!("cast {} to {} {count}", from.name(), to.name());
    if !device.wants(&what) {
        return Ok(());
    }
    let name = format!("cast_{}_{}", from.name(), to.name());
    let function = device.function("cast", &name, 0)?;
    let cast = device.memory(count * to.size())?;
    let (blocks, bytes) = (device.blocks(count), count * (from.size() + to.size()));
    device.time(&what, Floor::Bytes(bytes), |device| {
        let params = CastParams {
            from: device.numbers(count * from.size()),
            to: cast.address(),
            count: count as u64,
        };
        // SAFETY: as in `attention`.
        unsafe { device.launch(&function, blocks, 256, 0, &params) }
    })
}

fn add(device: &mut Device, rows: usize, width: usize) -> Result<(), DriverError> {
    let what = format!("add f32 {rows}x{width}");
    if !device.wants(&what) {
        return Ok(());
    }
    let function = device.function("add", "add", 0)?;
    let bytes = rows * width * 4;
    let to = device.memory(bytes)?;
    let blocks = device.blocks(bytes / 16);
    device.time(&what, Floor::Bytes(3 * bytes), |device| {
        let params = AddParams {
            from: device.numbers(bytes),
            to: to.address(),
            count: (rows * width) as u64,
        };
        // SAFETY: as in `attention`.
        unsafe { device.launch(&function, blocks, 256, 0, &params) }
    })
}

fn rotary_table(device: &mut Device, positions: usize, half: usize) -> Result<(), DriverError> {
    let what = format!("rotary_table {positions}x{half}");
    if !device.wants(&what) {
        return Ok(());
    }
    let function = device.function("rotary_table", "rotary_table", 0)?;
    let inv_freq = device.upload(&vec![0x3f; half * 4])?;
    let table = device.memory(positions * half * 8)?;
    let blocks = device.blocks(positions * half);
    device.time(&what, Floor::Bytes(positions * half * 8), |device| {
        let params = RotaryTableParams {
            inv_freq: inv_freq.address(),
            table: table.address(),
            positions: positions as u32,
            half: half as u32,
        };
        // SAFETY: as in `attention`.
        unsafe { device.launch(&function, blocks, 256, 0, &params) }
    })
}

fn gemm_short(
    device: &mut Device,
    rows: usize,
    outputs: usize,
    depth: usize,
) -> Result<(), DriverError> {
    let what = format!("gemm_short f32 {outputs}x{depth}, {rows} rows");
    if !device.wants(&what) {
        return Ok(());
    }
    let function = device.function("gemm_short", "gemm_short", 0)?;
    let to = device.memory(rows * outputs * 4)?;
    let grid = [outputs.div_ceil(64) as u32, rows.div_ceil(64) as u32];
    let flops = 2.0 * rows as f64 * outputs as f64 * depth as f64;
    device.time(&what, Floor::Flops(flops), |device| {
        let params = GemmShortParams {
            from: device.numbers(rows * depth * 4),
            weight: device.numbers(outputs * depth * 4),
            bias: 0,
            to: to.address(),
            rows: rows as u32,
            outputs: outputs as u32,
            depth: depth as u32,
            add: 0,
        };
        // SAFETY: as in `attention`.
        unsafe { device.launch_grid(&function, grid, 256, 0, &params) }
    })
}

fn layer_norm(
    device: &mut Device,
    rows: usize,
    width: usize,
    dtype: DType,
) -> Result<(), DriverError> {
    let what = format!("layer_norm f32 to {} {rows}x{width}", dtype.name());
    if !device.wants(&what) {
        return Ok(());
    }
    let function = device.function("layer_norm", &format!("layer_norm_{}", dtype.name()), 0)?;
    let to = device.memory(rows * width * dtype.size())?;
    let gain = device.upload(&vec![0x3f; width * 4])?;
    let blocks = device.blocks(rows * 32);
    device.time(
        &what,
        Floor::Bytes(rows * width * (4 + dtype.size())),
        |device| {
            let params = LayerNormParams {
                from: device.numbers(rows * width * 4),
                gain: gain.address(),
                bias: gain.address(),
                to: to.address(),
                rows: rows as u32,
                width: width as u32,
                epsilon: 1e-5,
                ..LayerNormParams::default()
            };
            // SAFETY: as in `attention`.
            unsafe { device.launch(&function, blocks, 256, 0, &params) }
        },
    )
}

fn embed(device: &mut Device, tokens: usize, width: usize) -> Result<(), DriverError> {
    let what = format!("embed {tokens}x{width}");
    if !device.wants(&what) {
        return Ok(());
    }
    let function = device.function("embed", "embed", 0)?;
    let ids: Vec<u8> = (0..tokens)
        .flat_map(|t| (4 + t as u32 % 20).to_ne_bytes())
        .collect();
    let (ids, scale) = (
        device.upload(&ids)?,
        device.upload(&vec![0x3f; tokens * 4])?,
    );
    let to = device.memory(tokens * width * 4)?;
    let table = device.numbers(33 * width * 4);
    let blocks = device.blocks(tokens * 32);
    device.time(&what, Floor::Bytes(tokens * width * 4), |device| {
        let params = EmbedParams {
            table,
            tokens: ids.address(),
            scale: scale.address(),
            to: to.address(),
            count: tokens as u32,
            width: width as u32,
            vocabulary: 33,
            ..EmbedParams::default()
        };
        // SAFETY: as in `attention`.
        unsafe { device.launch(&function, blocks, 256, 0, &params) }
    })
}

fn gelu(device: &mut Device, rows: usize, width: usize, dtype: DType) -> Result<(), DriverError> {
    let what = format!("gelu {} {rows}x{width}", dtype.name());
    if !device.wants(&what) {
        return Ok(());
    }
    let function = device.function("gelu", &format!("gelu_{}", dtype.name()), 0)?;
    let bytes = rows * width * dtype.size();
    let blocks = device.blocks(bytes / 16);
    device.time(&what, Floor::Bytes(2 * bytes), |device| {
        let params = GeluParams {
            values: device.numbers(bytes),
            count: (rows * width) as u64,
        };
        // SAFETY: as in `attention`.
        unsafe { device.launch(&function, blocks, 256, 0, &params) }
    })
}

fn gated_gelu(
    device: &mut Device,
    rows: usize,
    width: usize,
    dtype: DType,
) -> Result<(), DriverError> {
    let what = format!("gated_gelu {} {rows}x{width}", dtype.name());
    if !device.wants(&what) {
        return Ok(());
    }
    let function = device.function("gated_gelu", &format!("gated_gelu_{}", dtype.name()), 0)?;
    let bytes = rows * width * dtype.size();
    let to = device.memory(bytes)?;
    let blocks = device.blocks(bytes / 16);
    device.time(&what, Floor::Bytes(3 * bytes), |device| {
        let params = GatedGeluParams {
            from: device.numbers(2 * bytes),
            to: to.address(),
            rows: rows as u32,
            width: width as u32,
        };
        // SAFETY: as in `attention`.
        unsafe { device.launch(&function, blocks, 256, 0, &params) }
    })
}

/// Times `represent` on sequences of this many tokens.
fn represent(
    device: &mut Device,
    rows: usize,
    length: usize,
    width: usize,
    states: bool,
) -> Result<(), DriverError> {
    let what = format!(
        "represent {rows}x{width} length {length}{}",
        if states { " with states" } else { "" }
    );
    if !device.wants(&what) {
        return Ok(());
    }
    let function = device.function("represent", "represent", 0)?;
    let means = device.function("represent", "represent_means", 0)?;
    let starts: Vec<u32> = (0..=rows.div_ceil(length) as u32)
        .map(|s| (s * length as u32).min(rows as u32))
        .collect();
    let sequences = starts.len() - 1;
    let words = |words: &mut dyn Iterator<Item = u32>| {
        words.flat_map(u32::to_ne_bytes).collect::<Vec<u8>>()
    };
    let ranges = words(&mut starts.windows(2).flat_map(|w| [w[0] + 1, w[1] - 1]));
    let ranges = device.upload(&ranges)?;
    let starts = device.upload(&words(&mut starts.iter().copied()))?;
    let gain = device.upload(&vec![0x3f; width * 4])?;
    let pooled = device.memory(sequences * width * 4)?;
    let bad = device.memory(sequences * 4)?;
    let sums = device.memory((rows / 32 + 1) * width * 8)?;
    let all = device.memory(rows * width * 4)?;
    let bytes = rows * width * if states { 8 } else { 4 };
    device.time(&what, Floor::Bytes(bytes), |device| {
        let params = RepresentParams {
            from: device.numbers(rows * width * 4),
            gain: gain.address(),
            bias: gain.address(),
            starts: starts.address(),
            ranges: ranges.address(),
            pooled: pooled.address(),
            states: if states { all.address() } else { 0 },
            bad: bad.address(),
            sums: sums.address(),
            sequences: sequences as u32,
            width: width as u32,
            epsilon: 1e-5,
            padding: 0,
        };
        let (chunks, columns) = (rows / 64 + sequences, sequences * width.div_ceil(128));
        // SAFETY: as in `attention`.
        unsafe {
            device.launch(&function, chunks as u32, 256, 0, &params)?;
            device.launch(&means, columns as u32, 128, 0, &params)
        }
    })
}
