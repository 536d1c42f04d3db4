//! Measures how long each kind of operation takes, with timed fences around every operation, and
//! how long the GEMMs take on their own.

use super::activations::DeviceMatrix;
use super::backend::Cuda;
use super::builder::Linear;
use super::error::CudaError;
use crate::gpu::driver::{Fence, Stream};

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

impl Cuda {
    /// Returns the milliseconds that only the GEMMs of the linear layers take for this many rows
    /// (at most the capacity), in the order of a pass, on whatever values the last pass left in the
    /// matrices. Where layers are streamed, the GEMMs read the layers that are in the slots. This is
    /// for measuring.
    ///
    /// # Errors
    /// Returns [`CudaError`] if work on the device fails.
    pub fn gemms_alone(&mut self, rows: usize) -> Result<f32, CudaError> {
        let rows = rows.min(self.capacity.tokens);
        // No load is under way meanwhile.
        self.weights.settle(self.processor.compute())?;
        let context = self.compute().context();
        let (start, end) = (Fence::timed(context)?, Fence::timed(context)?);
        self.compute().record(&start)?;
        let placed = |linear: &&Linear| self.weights.is_placed(linear.weight);
        for linear in self.linears.iter().filter(placed) {
            let spec = *self.gemms[linear.gemm].spec();
            let activation = |width: usize, not: u64| {
                let fits = |p: &&DeviceMatrix| p.width >= width && p.activation() != not;
                let wide = |p: &DeviceMatrix| p.activation();
                let found = self
                    .activations
                    .matrices
                    .iter()
                    .filter(|p| p.activation() != 0)
                    .find(fits);
                found.map_or(self.activations.scratch(), wide)
            };
            let x = activation(spec.inputs, 0);
            let out = match linear.adds {
                false => activation(spec.outputs, x),
                true => {
                    let streams = self.activations.matrices.iter().map(DeviceMatrix::stream);
                    streams
                        .into_iter()
                        .find(|s| *s != 0 && *s != x)
                        .unwrap_or(0)
                }
            };
            self.gemm(*linear, x, out, (rows, 0))?;
        }
        self.compute().record(&end)?;
        self.compute().synchronize()?;
        Ok(end.milliseconds_since(&start)?.unwrap_or(f32::NAN))
    }

    /// Switches the timing of operations on or off from the next pass on, and returns what was
    /// timed since it was last switched on: the name, the milliseconds and the calls of each kind
    /// of operation. This is for measuring: it slows passes down.
    ///
    /// # Errors
    /// Returns [`CudaError`] if work on the device fails.
    pub fn profile(&mut self, on: bool) -> Result<Vec<(String, f64, usize)>, CudaError> {
        self.compute().synchronize()?;
        let before = match on {
            true => self.profile.replace(Profile::default()),
            false => self.profile.take(),
        };
        before.map_or(Ok(Vec::new()), |profile| profile.times())
    }
}
