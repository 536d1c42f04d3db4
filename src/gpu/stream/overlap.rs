//! The loop over a ring: batches prepared by the host while others are loaded, computed and stored.

use super::error::StreamError;
use super::processor::StreamProcessor;
use crate::gpu::driver::{DriverError, Region, Stream};

/// A batch whose kernels are to be launched.
#[derive(Debug)]
pub struct Launch<'a> {
    /// Its number.
    pub batch: u64,
    /// Its inputs, as many bytes as the host wrote.
    pub input: Region,
    /// Where its results go, with room for the most that a batch has.
    pub output: &'a Region,
    /// Where the kernels go.
    pub compute: &'a Stream,
}

impl StreamProcessor {
    /// Runs a batch an item: `preprocess` writes its inputs and says how many bytes they are,
    /// `launch` puts its kernels on the stream and says how many bytes of results they make, and
    /// `consume` gets those, in the order of the items. As many batches are in flight as there
    /// are slots. The number of batches.
    ///
    /// # Errors
    /// The first of `preprocess` or `consume`, after which the ring is empty and can be used again;
    /// a failure of the device, or one of `launch`, which ends the job.
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
            // Of a failed device there is nothing left to give up, and it has been told.
            let _ = self.abandon();
        }
        result
    }
}
