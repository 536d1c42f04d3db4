//! Launches of single kernels on a test's data, and rows like the rows of a residual stream.

use super::gpu::Gpu;
use super::numbers::{Random, bytes, error, values};
use seqstream::dtype::DType;
use seqstream::gpu::driver::Region;

pub fn floats(gpu: &Gpu, given: &[f32]) -> Region {
    gpu.upload(&bytes(given, DType::F32))
}

pub fn read(gpu: &Gpu, region: &Region, dtype: DType) -> Vec<f32> {
    values(&gpu.download(region), dtype)
}

pub fn launch<P: Copy>(
    gpu: &Gpu,
    source: &str,
    name: &str,
    blocks: usize,
    threads: u32,
    params: &P,
) {
    gpu.launch(&gpu.function(source, name, 0), blocks, threads, 0, params);
    gpu.stream.synchronize().unwrap();
    assert_eq!(gpu.findings(), "", "{name}");
}

/// Returns the names of the fast and the plain kernel.
pub fn both(operation: &str, dtype: DType) -> [String; 2] {
    let fast = format!("{operation}_{}", dtype.name());
    [fast.clone(), fast + "_reference"]
}

pub fn agree(what: &str, got: &[f32], wanted: &[f64], tolerance: f64) {
    let off = error(got, wanted);
    println!("{what}: {off:.1e} of {tolerance:.1e}");
    assert!(off <= tolerance, "{what}: {off:e}");
}

/// Returns rows around 0 to 4 with outliers, like ESM-2's stream.
pub fn stream(rows: usize, width: usize, seed: u64) -> Vec<f32> {
    let mut x = Random(seed).normal(rows * width, 2.0);
    for (i, x) in x.iter_mut().enumerate() {
        *x += (i / width % 5) as f32;
        if i % 97 == 5 {
            *x *= 100.0;
        }
    }
    x
}

pub fn layer_normed(row: &[f32], gain: &[f32], bias: &[f32], epsilon: f64) -> Vec<f64> {
    let n = row.len() as f64;
    let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
    let variance = row
        .iter()
        .map(|x| (f64::from(*x) - mean).powi(2))
        .sum::<f64>()
        / n;
    let scale = 1.0 / (variance + epsilon).sqrt();
    let one =
        |i: usize| (f64::from(row[i]) - mean) * scale * f64::from(gain[i]) + f64::from(bias[i]);
    (0..row.len()).map(one).collect()
}
