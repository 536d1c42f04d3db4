//! Measures how long each kind of operation takes, by a trace of its own, and how long the GEMMs
//! take on their own.

use super::activations::DeviceMatrix;
use super::backend::Cuda;
use super::builder::Linear;
use super::error::CudaError;
use crate::gpu::driver::Fence;
use crate::gpu::stream::Timeline;
use crate::trace::{Event, Trace};
use std::sync::Arc;

/// The most intervals of a breakdown. A round of 100 batches on a model of 48 layers has 40,000, and
/// as many calls of the host.
const EVENTS: usize = 1 << 22;

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

    /// Switches the timing of operations on or off from the next pass on, and returns the intervals
    /// that were timed since it was last switched on. This is for measuring: it slows passes down.
    ///
    /// # Errors
    /// Returns [`CudaError`] if work on the device fails.
    pub fn profile(&mut self, on: bool) -> Result<Vec<Event>, CudaError> {
        self.compute().synchronize()?;
        let own = self.processor.timeline().cloned();
        let mine = match on {
            true => {
                let trace = Trace::in_memory(EVENTS);
                let stream = self.processor.compute_stream();
                Some(Arc::new(Timeline::growing(&trace, stream)?))
            }
            false => own.clone(),
        };
        let before = std::mem::replace(&mut self.timeline, mine);
        // The timeline of the job's trace is not the one of a breakdown.
        let is_own = |t: &Arc<Timeline>| own.as_ref().is_some_and(|own| Arc::ptr_eq(own, t));
        let Some(timeline) = before.filter(|t| !is_own(t)) else {
            return Ok(Vec::new());
        };
        timeline.read();
        let document = timeline.trace().document();
        Ok(document.map_or(Vec::new(), |d| d.events))
    }
}
