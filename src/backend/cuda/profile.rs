//! How long each kind of operation takes, by timed fences around every one.

use super::driver::{Fence, Stream};
use super::error::CudaError;

/// Fences around operations, by the operation's name.
#[derive(Default)]
pub(super) struct Profile {
    timed: Vec<(&'static str, Fence, Fence)>,
}

impl Profile {
    pub fn around(
        &mut self,
        name: &'static str,
        stream: &Stream,
        run: impl FnOnce() -> Result<(), CudaError>,
    ) -> Result<(), CudaError> {
        let context = stream.context();
        let (start, end) = (Fence::timed(context)?, Fence::timed(context)?);
        stream.record(&start)?;
        run()?;
        stream.record(&end)?;
        self.timed.push((name, start, end));
        Ok(())
    }

    /// Milliseconds and calls of each kind, in the order in which they first came. The stream has been waited for.
    pub fn times(&self) -> Result<Vec<(String, f64, usize)>, CudaError> {
        let mut sums: Vec<(String, f64, usize)> = Vec::new();
        for (name, start, end) in &self.timed {
            let time = f64::from(end.milliseconds_since(start)?.unwrap_or(f32::NAN));
            match sums.iter_mut().find(|(known, _, _)| known == name) {
                Some((_, sum, calls)) => {
                    *sum += time;
                    *calls += 1;
                }
                None => sums.push(((*name).to_owned(), time, 1)),
            }
        }
        Ok(sums)
    }
}
