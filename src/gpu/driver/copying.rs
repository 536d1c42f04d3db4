//! Measures how fast a device copies within its memory.

use super::{Arena, Context, DriverError, Fence, Stream, StreamName};

/// Returns the bytes per second that `times` copies of `bytes` bytes read and write, each by itself.
/// Fewer bytes are copied if the device has less than four times as many free.
///
/// # Errors
/// [`DriverError`] if the memory cannot be had, or a copy fails.
pub fn copy_rates(context: &Context, bytes: usize, times: usize) -> Result<Vec<f64>, DriverError> {
    let (free, _) = context.memory()?;
    let bytes = bytes.min(free as usize / 4).max(1);
    let mut arena = Arena::new(context, 2 * Arena::footprint(bytes))?;
    let (from, to) = (arena.take("a copy", bytes)?, arena.take("a copy", bytes)?);
    let stream = Stream::new(context, StreamName::Compute, 0)?;
    let (start, end) = (Fence::timed(context)?, Fence::timed(context)?);
    let mut rates = Vec::new();
    for _ in 0..times {
        stream.record(&start)?;
        // SAFETY: the regions live until the fence after the copy has been waited for, or until the
        // stream is dropped, which waits. Nothing else uses them.
        unsafe { stream.copy(&from, &to)? };
        stream.record(&end)?;
        end.wait()?;
        let milliseconds = end.milliseconds_since(&start)?.unwrap_or(f32::NAN);
        rates.push(2.0 * bytes as f64 / (1e-3 * f64::from(milliseconds)));
    }
    Ok(rates)
}
