//! A loop over a ring: the host prepares batches while others are loaded, computed and stored.

use super::error::StreamError;
use super::processor::StreamProcessor;
use crate::gpu::driver::{DriverError, Region, Stream};

/// A batch whose kernels have to be launched.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The batch's number, counted from 0.
    pub batch: u64,
    /// The inputs on the device, with as many bytes as the host wrote.
    pub input: Region,
    /// The region for the results, large enough for any batch.
    pub output: &'a Region,
    /// The stream on which the kernels are launched.
    pub compute: &'a Stream,
}

impl StreamProcessor {
    /// Runs one batch per item. `preprocess` writes the inputs of a batch and returns their size in
    /// bytes. `launch` puts the kernels on the stream and returns the size of the results in bytes.
    /// `consume` gets the results, in the order of the items. As many batches are in flight as
    /// there are slots. Returns the number of batches.
    ///
    /// # Errors
    /// The first error of `preprocess` or `consume`, after which the ring is empty and can be used
    /// again; or a failure of the device or of `launch`, which ends the job.
    pub fn process_with_overlap<I, E: From<StreamError>>(
        &mut self,
        items: impl IntoIterator<Item = I>,
        mut preprocess: impl FnMut(I, &mut [u8]) -> Result<usize, E>,
        mut launch: impl FnMut(&Launch<'_>) -> Result<usize, DriverError>,
        mut consume: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<u64, E> {
        let run = || {
            let mut batches = 0;
            let mut collected = 0;
            for item in items {
                while self.free_slots() == 0 {
                    let results = self.collect()?;
                    consume(results.ticket().batch, &results)?;
                    collected += 1;
                }
                let bytes = preprocess(item, self.stage(batches)?)?;
                self.async_load(bytes)?;
                let open = Launch {
                    batch: batches,
                    input: self.input()?.slice(0..bytes),
                    output: self.output()?,
                    compute: self.compute(),
                };
                let bytes = launch(&open).map_err(|e| self.fail(e))?;
                self.finish(bytes)?;
                batches += 1;
            }
            while collected < batches {
                let results = self.collect()?;
                consume(results.ticket().batch, &results)?;
                collected += 1;
            }
            Ok(batches)
        };
        let result = run();
        if result.is_err() {
            // After a failure of the device there is nothing to give up, and it has been reported.
            let _ = self.abandon();
        }
        result
    }
}
