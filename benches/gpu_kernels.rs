//! Times every kernel on a real GPU, against what bounds it.
//!
//!     cargo bench --bench gpu_kernels [-- WORD]        only the lines that contain the word
//!     cargo bench --bench gpu_kernels -- --small       that it runs: few tokens, few rounds, no sense in the times
//!
//! Random numbers; the inputs of a round are not those of the last one, so that they come from memory as
//! in a model; the median of the rounds, twice, to show the noise. A line: what, microseconds (both
//! medians), and GB/s or TFLOP/s of what it must move or compute. Needs a device and kernels; says so
//! where there are none.

use std::collections::HashMap;

use seqstream::backend::cuda::attention::{AttentionKernel, AttentionKernels};
use seqstream::backend::cuda::driver::{
    Arena, Context, DriverError, Fence, Function, Module, PinnedBuffer, Region, Stream, StreamName,
};
use seqstream::backend::cuda::params::{
    AttentionParams, EmbedParams, GatedGeluParams, GeluParams, LayerNormParams, RepresentParams,
    RotaryTableParams,
};
use seqstream::backend::cuda::{self, kernels};
use seqstream::weights::DType;

/// What is timed.
struct Extent {
    /// Of batches, the smaller and the larger.
    tokens: [usize; 2],
    /// Rounds of a median.
    rounds: usize,
    /// Bytes of random numbers on the device, of which each round takes another part.
    pool: usize,
}

const FULL: Extent = Extent {
    tokens: [16_896, 33_792],
    rounds: 30,
    pool: 6 << 30,
};
const SMALL: Extent = Extent {
    tokens: [40, 80],
    rounds: 1,
    pool: 64 << 20,
};

struct Device {
    context: Context,
    stream: Stream,
    multiprocessors: usize,
    modules: HashMap<String, Module>,
    /// Numbers of deviation 1 in f16; in f32 they are some numbers, mostly small.
    pool: Region,
    next: usize,
    only: Option<String>,
    extent: Extent,
}

/// What a kernel must do at least.
enum Floor {
    Bytes(usize),
    Flops(f64),
}

fn main() {
    let only = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    let small = std::env::args().any(|a| a == "--small");
    let extent = if small { SMALL } else { FULL };
    let device = match cuda::require() {
        Ok(devices) => devices.into_iter().next(),
        Err(missing) => {
            eprintln!("not run: {missing}");
            return;
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
    for (heads, head_dim) in [(20, 16), (20, 24), (20, 32), (8, 96), (40, 128), (20, 40)] {
        attention(
            &mut device,
            (heads, head_dim),
            DType::F16,
            true,
            &uniform(longest.min(350), many),
        )?;
    }
    attention(
        &mut device,
        (20, 64),
        DType::F32,
        true,
        &uniform(longest.min(350), many),
    )?;
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
    }
    Ok(())
}

/// Sequences of one length, about so many tokens.
fn uniform(length: usize, tokens: usize) -> Vec<usize> {
    vec![length; tokens.div_ceil(length)]
}

/// Lengths as proteins have them: log-normal around 290, at most 1022.
fn ragged(tokens: usize) -> Vec<usize> {
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

impl Device {
    fn new(
        multiprocessors: usize,
        only: Option<String>,
        extent: Extent,
    ) -> Result<Self, DriverError> {
        let context = Context::new(0)?;
        let stream = Stream::new(&context, StreamName::Compute, 0)?;
        let pool = Arena::new(&context, extent.pool)?.take("random numbers", extent.pool)?;
        let part = extent.pool.min(64 << 20);
        let mut pinned = PinnedBuffer::new(&context, part)?;
        let mut state = 1u64;
        let mut byte = || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 40) as u32
        };
        // SAFETY: nothing is under way.
        for pair in unsafe { pinned.bytes_mut() }.chunks_exact_mut(2) {
            // A sum of four uniform numbers, of deviation 1.
            let sum: u32 = (0..4).map(|_| byte() & 0xffff).sum();
            let x = (sum as f32 / 65536.0 - 2.0) * 3f32.sqrt();
            pair.copy_from_slice(&half::f16::from_f32(x).to_ne_bytes());
        }
        for at in (0..extent.pool).step_by(part) {
            // SAFETY: nobody else knows the pool, and the stream is waited for.
            unsafe { stream.load(&pinned, 0..part, &pool.part(at..at + part))? };
        }
        stream.synchronize()?;
        Ok(Self {
            context,
            stream,
            multiprocessors,
            modules: HashMap::new(),
            pool,
            next: 0,
            only,
            extent,
        })
    }

    /// The next part of the pool.
    fn numbers(&mut self, bytes: usize) -> u64 {
        let bytes = bytes.next_multiple_of(256);
        assert!(
            bytes <= self.extent.pool,
            "the pool is smaller than one matrix"
        );
        if self.next + bytes > self.extent.pool {
            self.next = 0;
        }
        let address = self.pool.address() + self.next as u64;
        self.next += bytes;
        address
    }

    fn memory(&self, bytes: usize) -> Result<Region, DriverError> {
        Arena::new(&self.context, bytes)?.take("a bench", bytes)
    }

    fn upload(&self, bytes: &[u8]) -> Result<Region, DriverError> {
        let region = self.memory(bytes.len())?;
        let mut pinned = PinnedBuffer::new(&self.context, bytes.len())?;
        // SAFETY: nobody else knows the two, and the stream is waited for.
        unsafe {
            pinned.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
            self.stream.load(&pinned, 0..bytes.len(), &region)?;
        }
        self.stream.synchronize()?;
        Ok(region)
    }

    fn function(&mut self, source: &str, name: &str, shared: u32) -> Result<Function, DriverError> {
        if !self.modules.contains_key(source) {
            let image = kernels::fatbin(source).unwrap_or_else(|| panic!("no fatbin {source}"));
            let module = Module::load(&self.context, image)?;
            self.modules.insert(source.to_owned(), module);
        }
        self.modules[source].function(name, shared)
    }

    /// Blocks of 256 threads for so many threads' work: some a multiprocessor, and no more than work.
    fn blocks(&self, threads: usize) -> u32 {
        threads.div_ceil(256).clamp(1, 64 * self.multiprocessors) as u32
    }

    /// Whether a line is wanted.
    fn wants(&self, what: &str) -> bool {
        self.only
            .as_ref()
            .is_none_or(|word| what.contains(word.as_str()))
    }

    /// Times `enqueue`, and prints the line.
    fn time(
        &mut self,
        what: &str,
        floor: Floor,
        mut enqueue: impl FnMut(&mut Self) -> Result<(), DriverError>,
    ) -> Result<(), DriverError> {
        for _ in 0..3 {
            enqueue(self)?;
        }
        let mut medians = [0f64; 2];
        for median in &mut medians {
            let fences = (0..=self.extent.rounds)
                .map(|_| Fence::timed(&self.context))
                .collect::<Result<Vec<_>, _>>()?;
            self.stream.record(&fences[0])?;
            for fence in &fences[1..] {
                enqueue(self)?;
                self.stream.record(fence)?;
            }
            self.stream.synchronize()?;
            let mut times = Vec::new();
            for pair in fences.windows(2) {
                times.extend(pair[1].milliseconds_since(&pair[0])?.map(f64::from));
            }
            times.sort_by(f64::total_cmp);
            *median = times[times.len() / 2] * 1e-3;
        }
        let [first, second] = medians;
        let rate = match floor {
            Floor::Bytes(bytes) => format!("{:7.0} GB/s", bytes as f64 / second * 1e-9),
            Floor::Flops(flops) => format!("{:7.1} TFLOP/s", flops / second * 1e-12),
        };
        println!(
            "{what:<58} {:9.1} {:9.1} us {rate}",
            first * 1e6,
            second * 1e6
        );
        Ok(())
    }

    /// # Safety
    /// As [`Stream::launch`].
    unsafe fn launch<P: Copy>(
        &self,
        function: &Function,
        blocks: u32,
        threads: u32,
        shared: u32,
        params: &P,
    ) -> Result<(), DriverError> {
        // SAFETY: the caller's.
        unsafe {
            self.stream
                .launch(function, [blocks, 1, 1], [threads, 1, 1], shared, params)
        }
    }
}

fn attention(
    device: &mut Device,
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
    let what = format!(
        "attention {} {heads}x{head_dim} {position} length {shape}, {tokens} tokens",
        dtype.name()
    );
    if !device.wants(&what) {
        return Ok(());
    }
    let (capability, multiprocessors) = (
        device.context.info()?.capability,
        device.multiprocessors as u32,
    );
    let Some(kernels) = AttentionKernels::new(head_dim, dtype, capability) else {
        return Ok(());
    };
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
    // SAFETY: regions of these sizes, that live until the stream is idle. So for all that follow.
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
    let lists = [
        (Some(&kernels.long), items.address(), work.items.len()),
        (kernels.short.as_ref(), slots.address(), work.short_items()),
    ];
    for (kernel, address, count) in lists {
        if let Some(kernel) = kernel.filter(|_| count > 0) {
            let function = device.function(&kernel.source, &kernel.name, kernel.shared)?;
            launches.push((function, kernel.clone(), address, count as u32));
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
                // SAFETY: as above.
                unsafe {
                    device.launch(
                        function,
                        kernel.blocks(params.heads, *count, multiprocessors),
                        kernel.threads,
                        kernel.shared,
                        &params,
                    )?
                };
            }
            Ok(())
        },
    )
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
    let what = format!("embed f16 {tokens}x{width}");
    if !device.wants(&what) {
        return Ok(());
    }
    let function = device.function("embed", "embed_f16", 0)?;
    let ids: Vec<u8> = (0..tokens)
        .flat_map(|t| (4 + t as u32 % 20).to_ne_bytes())
        .collect();
    let (ids, scale) = (
        device.upload(&ids)?,
        device.upload(&vec![0x3f; tokens * 4])?,
    );
    let to = device.memory(tokens * width * 4)?;
    let table = device.numbers(33 * width * 2);
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

/// Of sequences of so many tokens.
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
