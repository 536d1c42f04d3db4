//! Measures how long each kind of operation takes, with timed fences around every operation, and
//! how long the GEMMs take on their own.

use super::error::CudaError;
use super::running::{DeviceMatrix, LinearLayer, Running};
use crate::gpu::driver::{Fence, Region, Stream};

/// The timed fences around operations, with each operation's name.
#[derive(Default)]
pub(super) struct Profile {
    timed: Vec<(&'static str, Fence, Fence)>,
}

impl Profile {
    /// Runs an operation between two timed fences on `stream`.
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

    /// Returns the milliseconds and the number of calls of each kind of operation, in the order in
    /// which the kinds first occurred. The stream must have been waited for.
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

impl Running {
    /// Runs the GEMMs of `layers`, in order, on `rows` rows (at most the capacity) of whatever the
    /// matrices hold, and returns the milliseconds that they took.
    pub fn products_alone(
        &mut self,
        layers: &[LinearLayer],
        rows: usize,
    ) -> Result<f32, CudaError> {
        let rows = rows.min(self.capacity.tokens);
        let context = self.compute().context();
        let (start, end) = (Fence::timed(context)?, Fence::timed(context)?);
        self.compute().record(&start)?;
        for layer in layers {
            let spec = *self.products[layer.product].spec();
            let activation = |width: usize, not: u64| {
                let fits = |p: &&DeviceMatrix| p.width >= width && p.activation() != not;
                let wide = |p: &DeviceMatrix| p.activation();
                let found = self
                    .places
                    .iter()
                    .filter(|p| p.activation() != 0)
                    .find(fits);
                let scratch = self.scratch.as_ref().map_or(0, Region::address);
                found.map_or(scratch, wide)
            };
            let x = activation(spec.inputs, 0);
            let out = match layer.adds {
                false => activation(spec.outputs, x),
                true => {
                    let streams = self.places.iter().map(DeviceMatrix::stream);
                    streams
                        .into_iter()
                        .find(|s| *s != 0 && *s != x)
                        .unwrap_or(0)
                }
            };
            self.product(*layer, x, out, rows)?;
        }
        self.compute().record(&end)?;
        self.compute().synchronize()?;
        Ok(end.milliseconds_since(&start)?.unwrap_or(f32::NAN))
    }

    /// Switches timing on or off, and returns what was timed since it was last switched on.
    pub fn profile(&mut self, on: bool) -> Result<Vec<(String, f64, usize)>, CudaError> {
        self.compute().synchronize()?;
        let before = match on {
            true => self.profile.replace(Profile::default()),
            false => self.profile.take(),
        };
        before.map_or(Ok(Vec::new()), |profile| profile.times())
    }
}
