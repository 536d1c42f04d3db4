//! The speed of cuBLASLt at the models' shapes, on a real GPU: `cargo bench --bench gpu_gemm --
//! out.json`.
//!
//! The arguments are `gpu_gemm [FILE.json] [--models 650M,3B] [--rows 4096,33792] [--dtype f16]
//! [--chain 256]`. For each product and number of rows it times the algorithm that seqstream
//! chooses (one for all rows) and the library's own first algorithm (for these rows, split-K or
//! not). They are timed one at a time on an idle device, alternately, with random data and with L2
//! flushed before each run; the result is the median. Then, for each model and number of rows, it
//! times all products of all layers back to back, each layer with weights of its own, as a forward
//! pass without anything else would run them: this is a limit in tokens per second that none of our
//! kernels can exceed.
//!
//! It says so if there is no GPU; with REQUIRE_GPU=1 this is a failure.

#![allow(clippy::unwrap_used)]

use seqstream::dtype::DType;
use seqstream::gpu::cublaslt::{
    Algorithms, Gemm, GemmError, Kind, Operands, Product, ProductSpec, Tuning, WHOLE, WORKSPACE,
    Workbench, randomise,
};
use seqstream::gpu::driver::{
    Arena, Context, Fence, Region, Stream, StreamName, devices, driver_version,
};
use serde_json::{Value, json};
use std::sync::Arc;

/// Multiples of 132 multiprocessors x 64 rows, which are whole waves on an H100 or H200; and the
/// 4096 rows of fair-esm's scripts.
const ROWS: [usize; 5] = [4096, 8448, 16_896, 33_792, 67_584];
/// The number of rows at which algorithms are chosen.
const CHOSEN_AT: usize = 33_792;
const FLUSH: usize = 128 << 20;
/// Timed runs of a product, after two untimed ones.
const RUNS: usize = 15;
/// The time of the timed passes of a model in milliseconds; it decides their number, within bounds.
const PASSES_MS: f32 = 1500.0;
const PASSES: (usize, usize) = (3, 50);

struct Shape {
    name: &'static str,
    layers: usize,
    /// Outputs, inputs, kind and bias of a layer's products, in order.
    products: [(usize, usize, Kind, bool); 4],
}

const fn esm2(name: &'static str, layers: usize, d: usize) -> Shape {
    Shape {
        name,
        layers,
        products: [
            (3 * d, d, Kind::Store, true),
            (d, d, Kind::Accumulate, true),
            (4 * d, d, Kind::Store, true),
            (d, 4 * d, Kind::Accumulate, true),
        ],
    }
}

const MODELS: [Shape; 6] = [
    esm2("8M", 6, 320),
    esm2("35M", 12, 480),
    esm2("150M", 30, 640),
    esm2("650M", 33, 1280),
    esm2("3B", 36, 2560),
    Shape {
        name: "DNABERT-S",
        layers: 12,
        products: [
            (2304, 768, Kind::Store, true),
            (768, 768, Kind::Accumulate, true),
            (6144, 768, Kind::Store, false),
            (768, 3072, Kind::Accumulate, true),
        ],
    },
];

struct Options {
    file: Option<String>,
    models: Vec<&'static Shape>,
    rows: Vec<usize>,
    dtype: DType,
    chain: usize,
}

/// Parses the arguments; the error says which one is invalid.
fn options() -> Result<Options, String> {
    let mut options = Options {
        file: None,
        models: MODELS.iter().collect(),
        rows: ROWS.to_vec(),
        dtype: DType::F16,
        chain: WHOLE,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut list = || -> Result<Vec<String>, String> {
            let value = arguments.next();
            let value = value.ok_or_else(|| format!("{argument} wants a value"))?;
            Ok(value.split(',').map(str::to_owned).collect())
        };
        match argument.as_str() {
            "--models" => {
                let names = list()?;
                options.models.retain(|m| names.iter().any(|n| n == m.name));
            }
            "--rows" => {
                let one = |n: &String| n.parse().map_err(|e| format!("--rows {n}: {e}"));
                options.rows = list()?.iter().map(one).collect::<Result<_, _>>()?;
            }
            "--dtype" => {
                options.dtype = match list()?[0].as_str() {
                    "f16" => DType::F16,
                    "bf16" => DType::Bf16,
                    "f32" => DType::F32,
                    other => return Err(format!("--dtype {other}: f16, bf16 or f32")),
                }
            }
            "--chain" => {
                let length = list()?[0].clone();
                options.chain = length
                    .parse()
                    .map_err(|e| format!("--chain {length}: {e}"))?;
            }
            "--bench" => {} // an argument that cargo adds
            other if other.starts_with('-') => return Err(format!("{other} is not known")),
            file => options.file = Some(file.to_owned()),
        }
    }
    Ok(options)
}

fn main() {
    let options = options().unwrap_or_else(|wrong| {
        eprintln!("gpu_gemm: {wrong}");
        std::process::exit(2);
    });
    let device = match devices() {
        Ok(devices) => devices.into_iter().next().unwrap(),
        Err(error) => {
            eprintln!("gpu_gemm: no GPU, nothing is measured: {error}");
            let required = std::env::var("REQUIRE_GPU").is_ok_and(|v| v == "1");
            std::process::exit(i32::from(required));
        }
    };
    let context = Context::new(0).unwrap();
    let algorithms = Arc::new(Algorithms::new(None));
    let tuning = Tuning::timed(CHOSEN_AT.min(*options.rows.iter().max().unwrap()));
    let gemm = Gemm::load(&context, Arc::clone(&algorithms), tuning).unwrap();
    let (major, minor) = driver_version().unwrap();
    println!(
        "{}, driver for CUDA {major}.{minor}, {}, {}",
        device.name,
        gemm.machine(),
        options.dtype
    );
    let models: Vec<Value> = options
        .models
        .iter()
        .map(|model| measure(&gemm, &context, model, &options).unwrap())
        .collect();
    let result = json!({
        "what": "gpu_gemm",
        "device": device.name,
        "multiprocessors": device.multiprocessors,
        "driver": format!("{major}.{minor}"),
        "library": gemm.machine().to_string(),
        "dtype": options.dtype.to_string(),
        "chosen_at_rows": tuning.rows,
        "flush_bytes": FLUSH,
        "models": models,
        "algorithms": serde_json::from_str::<Value>(&algorithms.table().unwrap().to_json()).unwrap(),
    });
    if let Some(file) = &options.file {
        std::fs::write(file, serde_json::to_string_pretty(&result).unwrap() + "\n").unwrap();
    }
}

fn measure(
    gemm: &Gemm,
    context: &Context,
    model: &Shape,
    options: &Options,
) -> Result<Value, GemmError> {
    println!("\n{}: {} layers", model.name, model.layers);
    println!(
        "{:>34} {:>7} {:>10} {:>10}",
        "product", "rows", "TFLOP/s", "library's"
    );
    let specs = model
        .products
        .map(|(outputs, inputs, kind, bias)| ProductSpec {
            outputs,
            inputs,
            dtype: options.dtype,
            kind,
            bias,
            chain: options.chain,
        });
    let most = *options.rows.iter().max().unwrap();
    let mut products = Vec::new();
    let mut rows_of = Vec::new();
    let mut sums = vec![0f64; options.rows.len()];
    for spec in &specs {
        let product = gemm.product(spec)?;
        let bench = Workbench::new(context, spec, most, FLUSH)?;
        for (i, rows) in options.rows.iter().copied().enumerate() {
            let own = gemm.library_choice(spec, rows)?;
            let [chosen, library] = by_turns(&bench, [&product, &own], rows)?;
            let flop = 2.0 * (rows * spec.outputs * spec.inputs) as f64;
            let tera = |ms: f64| flop / ms / 1e9;
            println!(
                "{:>34} {rows:>7} {:>10.1} {:>10.1}",
                spec.to_string(),
                tera(chosen),
                tera(library)
            );
            sums[i] += chosen;
            rows_of.push(json!({
                "product": spec.to_string(),
                "rows": rows,
                "chosen": {"ms": chosen, "tflops": tera(chosen)},
                "library": {"ms": library, "tflops": tera(library), "same": own.algorithm() == product.algorithm()},
            }));
        }
        products.push(product);
    }
    let flop_a_token: f64 = specs
        .iter()
        .map(|s| 2.0 * (s.outputs * s.inputs) as f64)
        .sum();
    let flop_a_token = flop_a_token * model.layers as f64;
    println!(
        "{:>42} {:>14} {:>14} {:>8}",
        "rows", "tokens/s, sum", "back to back", "TFLOP/s"
    );
    let mut passes = Vec::new();
    for (rows, sum) in options.rows.iter().copied().zip(sums) {
        let by_sum = rows as f64 / (sum * model.layers as f64) * 1e3;
        let pass = whole_pass(context, model, &products, rows)?;
        let together = rows as f64 / pass * 1e3;
        let tera = together * flop_a_token / 1e12;
        println!("{rows:>42} {by_sum:>14.0} {together:>14.0} {tera:>8.1}");
        passes.push(json!({
            "rows": rows,
            "tokens_per_second_sum": by_sum,
            "tokens_per_second_back_to_back": together,
            "tflops_back_to_back": tera,
        }));
    }
    Ok(json!({
        "model": model.name,
        "layers": model.layers,
        "gflop_a_token": flop_a_token / 1e9,
        "products": rows_of,
        "passes": passes,
    }))
}

fn median(mut times: Vec<f32>) -> f64 {
    times.sort_by(f32::total_cmp);
    f64::from(times[times.len() / 2])
}

/// Returns the milliseconds of each product, timed alternately.
fn by_turns(
    bench: &Workbench,
    products: [&Product; 2],
    rows: usize,
) -> Result<[f64; 2], GemmError> {
    let mut times = [Vec::new(), Vec::new()];
    for run in 0..RUNS + 2 {
        for (product, times) in products.iter().zip(&mut times) {
            let time = bench.milliseconds(product, rows)?;
            if run >= 2 {
                times.push(time);
            }
        }
    }
    Ok(times.map(median))
}

/// Returns the milliseconds of all products of all layers, in order, without a gap.
fn whole_pass(
    context: &Context,
    model: &Shape,
    products: &[Product],
    rows: usize,
) -> Result<f64, GemmError> {
    let size = products[0].spec().dtype.size();
    let weights: Vec<usize> = products
        .iter()
        .map(|p| p.spec().outputs * p.spec().inputs * size)
        .collect();
    let widest = products
        .iter()
        .map(|p| p.spec().outputs.max(p.spec().inputs))
        .max()
        .unwrap();
    let hidden = products[0].spec().inputs;
    let layer: usize = weights.iter().sum();
    let sizes = [
        rows * hidden * size, // the output of LayerNorm and attention
        rows * widest * size, // input and output of the wide products
        rows * hidden * 4,    // the residual stream
        widest * 4,           // a bias in f32
        widest * size,        // a bias in the products' dtype
        layer * model.layers,
        WORKSPACE,
    ];
    let padded = |bytes: usize| bytes.next_multiple_of(256);
    let mut arena = Arena::new(context, sizes.map(padded).iter().sum())?;
    let mut regions: Vec<Region> = Vec::new();
    for bytes in sizes {
        regions.push(arena.take("operand", bytes)?);
    }
    let [
        narrow,
        wide,
        residual,
        bias_f32,
        bias,
        all_weights,
        workspace,
    ] = regions.as_slice()
    else {
        unreachable!()
    };
    let stream = Stream::new(context, StreamName::Compute, 0)?;
    let dtype = products[0].spec().dtype;
    // SAFETY: the regions were just allocated.
    unsafe {
        for region in [narrow, wide, bias, all_weights] {
            randomise(&stream, region, dtype)?;
        }
        for region in [residual, bias_f32] {
            randomise(&stream, region, DType::F32)?;
        }
    }
    let pass = || -> Result<(), GemmError> {
        for layer_number in 0..model.layers {
            let mut w = all_weights.address() + (layer_number * layer) as u64;
            for (product, bytes) in products.iter().zip(&weights) {
                let spec = product.spec();
                let (x, out) = match spec.kind {
                    Kind::Store => (narrow, wide),
                    Kind::Accumulate if spec.inputs == hidden => (narrow, residual),
                    Kind::Accumulate => (wide, residual),
                };
                let bias = match spec.bias_dtype() {
                    DType::F32 => bias_f32,
                    _ => bias,
                };
                let operands = Operands {
                    x: x.address(),
                    w,
                    bias: bias.address(),
                    out: out.address(),
                };
                // SAFETY: the regions have the sizes computed above, and only this stream uses
                // them.
                unsafe { product.run(&stream, workspace, operands, rows)? };
                w += *bytes as u64;
            }
        }
        Ok(())
    };
    let timed = |count: usize| -> Result<Vec<f32>, GemmError> {
        let mut fences = Vec::new();
        for _ in 0..=count {
            fences.push(Fence::timed(context)?);
        }
        stream.record(&fences[0])?;
        for fence in &fences[1..] {
            pass()?;
            stream.record(fence)?;
        }
        stream.synchronize()?;
        let pairs = fences.windows(2);
        let times = pairs.map(|f| Ok(f[1].milliseconds_since(&f[0])?.unwrap_or(f32::NAN)));
        times.collect()
    };
    let first = median(timed(2)?) as f32;
    let count = (PASSES_MS / first) as usize;
    Ok(median(timed(count.clamp(PASSES.0, PASSES.1))?))
}
