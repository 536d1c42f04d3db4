//! Runs one kernel: launches it on a device, and checks it against a reference in f64. It runs on a
//! GPU, or on the simulated driver, which runs the same kernel source on the CPU.
//!
//!     cargo run --example one_kernel

mod device;

use seqstream::backend::cuda::kernels;
use seqstream::backend::cuda::params::GeluParams;
use seqstream::gpu::driver::{Arena, Context, Module, PinnedBuffer, Stream, StreamName};
use std::error::Error;

const COUNT: usize = 10_007; // not a multiple of a vector

/// Returns the error function by its Taylor series, which is exact to f64 for the arguments used
/// here.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

fn main() -> Result<(), Box<dyn Error>> {
    let Some(fatbin) = kernels::fatbin("gelu") else {
        println!("this build has no kernels: run scripts/fetch-nvcc and build again");
        return Ok(());
    };
    device::real_or_simulated();
    let context = Context::new(0)?;
    let stream = Stream::new(&context, StreamName::Compute, 0)?;
    let kernel = Module::load(&context, fatbin)?.function("gelu_f32", 0)?;

    let values: Vec<f32> = (0..COUNT).map(|i| (i as f32 * 0.37).sin() * 4.0).collect();
    let bytes = COUNT * size_of::<f32>();
    let mut host = PinnedBuffer::new(&context, bytes)?;
    let region = Arena::new(&context, bytes)?.take("values", bytes)?;
    // SAFETY: no copy of this buffer is running yet.
    let staging = unsafe { host.bytes_mut() };
    for (to, value) in staging.chunks_exact_mut(4).zip(&values) {
        to.copy_from_slice(&value.to_le_bytes());
    }
    let params = GeluParams {
        values: region.address(),
        count: COUNT as u64,
    };
    // SAFETY: one stream does everything in order; the buffer and the region live until it is
    // synchronized, and `GeluParams` is the parameter of this kernel.
    unsafe {
        stream.load(&host, 0..bytes, &region)?;
        stream.launch(&kernel, [8, 1, 1], [256, 1, 1], 0, &params)?;
        stream.store(&region, &host, 0..bytes)?;
    }
    stream.synchronize()?;

    let (mut difference, mut norm) = (0.0, 0.0);
    // SAFETY: the copy into the buffer has ended.
    let results = unsafe { host.bytes() };
    for (result, value) in results.chunks_exact(4).zip(&values) {
        let got = f64::from(f32::from_le_bytes([
            result[0], result[1], result[2], result[3],
        ]));
        let x = f64::from(*value);
        let wanted = 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2));
        difference += (got - wanted).powi(2);
        norm += wanted * wanted;
    }
    let error = (difference / norm).sqrt();
    println!("gelu_f32 on {COUNT} values: relative error {error:.1e}");
    // The bound is three roundings of f32, each at most 2^-24.
    if error.is_nan() || error > 3.0 * 2f64.powi(-24) {
        return Err("the kernel's results are wrong".into());
    }
    Ok(())
}
