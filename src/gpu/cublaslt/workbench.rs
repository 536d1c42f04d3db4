//! Device memory for trying out a GEMM: random operands, timed runs, and the test that the bits of
//! a row do not depend on the number of rows.

use super::error::GemmError;
use super::product::{ALIGNMENT, Operands, Product, ProductSpec, WORKSPACE};
use crate::dtype::DType;
use crate::gpu::driver::{Arena, Context, Fence, PinnedBuffer, Region, Stream, StreamName};

/// The numbers of rows, besides the largest, at which an algorithm has to work and give the same
/// bits: one row, fewer rows than one instruction computes, the rows of one tile, and several tiles
/// of which the last is partial.
pub(super) const ROWS: [usize; 4] = [1, 7, 64, 1000];
/// The number of values in the random block that operands are filled with repeatedly. It is a
/// prime, so that no two rows are the same.
const BLOCK: usize = 4_194_301;
/// The byte that outputs are filled with before a run. It makes a small f32, which a GEMM is
/// unlikely to produce.
const BEFORE: u8 = 0x3c;

/// The operands of one GEMM for up to a given number of rows. The device memory is freed when the
/// workbench is dropped.
pub struct Workbench {
    spec: ProductSpec,
    rows: usize,
    stream: Stream,
    start: Fence,
    end: Fence,
    x: Region,
    w: Region,
    bias: Region,
    out: Region,
    /// A second output, for some of the rows computed again.
    again: Region,
    workspace: Region,
    flush: Option<Region>,
}

/// Returns the bytes of x, w, bias, out, and the second output.
fn sizes(spec: &ProductSpec, rows: usize) -> [usize; 5] {
    let (from, to) = (spec.dtype.size(), spec.out_dtype().size());
    let most = ROWS.iter().copied().max().unwrap_or(1).min(rows);
    [
        rows * spec.inputs * from,
        spec.outputs * spec.inputs * from,
        spec.outputs * to,
        rows * spec.outputs * to,
        most * spec.outputs * to,
    ]
}

impl Workbench {
    /// Allocates operands for `rows` rows, or for as many rows as the device's free memory allows.
    /// `flush` bytes are written between runs, so that the operands are not in the device's L2;
    /// with 0 nothing is written.
    ///
    /// # Errors
    /// [`GemmError::Driver`] if the memory cannot be allocated or filled.
    pub fn new(
        context: &Context,
        spec: &ProductSpec,
        rows: usize,
        flush: usize,
    ) -> Result<Self, GemmError> {
        // A tenth stays free for the driver and the library.
        let free = context.memory()?.0 as usize / 10 * 9;
        let padded = |bytes: usize| bytes.max(1).next_multiple_of(256);
        let all = |rows| -> usize {
            let operands: usize = sizes(spec, rows).into_iter().map(padded).sum();
            operands + WORKSPACE + padded(flush)
        };
        let mut rows = rows.max(1);
        while rows > 64 && all(rows) > free {
            rows = rows.div_ceil(2);
        }
        let mut arena = Arena::new(context, all(rows))?;
        let [x, w, bias, out, again] = sizes(spec, rows);
        let mut take = |what, bytes| arena.take(what, bytes);
        let bench = Self {
            spec: *spec,
            rows,
            stream: Stream::new(context, StreamName::Compute, 0)?,
            start: Fence::timed(context)?,
            end: Fence::timed(context)?,
            x: take("x of a trial", x)?,
            w: take("weights of a trial", w)?,
            bias: take("bias of a trial", bias)?,
            out: take("output of a trial", out)?,
            again: take("second output of a trial", again)?,
            workspace: take("workspace of a trial", WORKSPACE)?,
            flush: match flush {
                0 => None,
                bytes => Some(take("buffer that flushes L2", bytes)?),
            },
        };
        // SAFETY: the regions were allocated just now, and nothing else uses them.
        unsafe {
            randomise(&bench.stream, &bench.x, spec.dtype)?;
            randomise(&bench.stream, &bench.w, spec.dtype)?;
            randomise(&bench.stream, &bench.bias, spec.bias_dtype())?;
        }
        Ok(bench)
    }

    /// Returns the number of rows that the operands have.
    pub fn rows(&self) -> usize {
        self.rows
    }

    fn run(
        &self,
        product: &Product,
        first: usize,
        rows: usize,
        out: &Region,
    ) -> Result<(), GemmError> {
        debug_assert!(product.spec() == &self.spec && first + rows <= self.rows);
        let row = (self.spec.inputs * self.spec.dtype.size()) as u64;
        let operands = Operands {
            x: self.x.address() + first as u64 * row,
            w: self.w.address(),
            bias: self.bias.address(),
            out: out.address(),
        };
        // SAFETY: the regions hold `self.rows` rows (`again` holds as many rows as it is used for),
        // and are used on this stream alone.
        unsafe { product.run(&self.stream, &self.workspace, operands, rows) }
    }

    /// Measures the milliseconds that the GEMM takes for the first `rows` rows, in one run on an
    /// idle device.
    ///
    /// # Errors
    /// [`GemmError`] if the run fails.
    pub fn milliseconds(&self, product: &Product, rows: usize) -> Result<f32, GemmError> {
        if let Some(flush) = &self.flush {
            // SAFETY: nothing else uses the region.
            unsafe { self.stream.fill(flush, BEFORE)? };
        }
        self.stream.record(&self.start)?;
        self.run(product, 0, rows, &self.out)?;
        self.stream.record(&self.end)?;
        self.end.wait()?;
        // Both fences take time stamps, so there is a time.
        Ok(self
            .end
            .milliseconds_since(&self.start)?
            .unwrap_or(f32::NAN))
    }

    /// Checks that rows have the same bits alone, among few rows and among all, whether or not they
    /// start at the first row. Returns a description of the difference if there is one.
    ///
    /// # Errors
    /// [`GemmError`] if a run fails.
    pub(super) fn differs(&self, product: &Product) -> Result<Option<String>, GemmError> {
        let context = self.stream.context();
        let row = self.spec.outputs * self.spec.out_dtype().size();
        // x may only start at rows whose address is aligned as operands have to be.
        let bytes = self.spec.inputs * self.spec.dtype.size();
        let aligned = |first: usize| {
            (0..=first)
                .rev()
                .find(|i| (i * bytes).is_multiple_of(ALIGNMENT as usize))
        };
        let all = PinnedBuffer::new(context, self.again.bytes())?;
        let few = PinnedBuffer::new(context, self.again.bytes())?;
        // SAFETY: the regions are used on this stream alone.
        unsafe { self.stream.fill(&self.out, BEFORE)? };
        self.run(product, 0, self.rows, &self.out)?;
        for rows in ROWS.into_iter().filter(|rows| *rows < self.rows) {
            // Another order of sums changes about one of 4000 values that are rounded to f16, so
            // many rows are compared.
            let places = if rows < 64 { 48 } else { 3 };
            let mut firsts: Vec<usize> = (0..places)
                .map(|i| aligned(i * (self.rows - rows) / (places - 1)).unwrap_or(0))
                .collect();
            firsts.dedup();
            for first in firsts {
                let part = self.out.slice(first * row..(first + rows) * row);
                // SAFETY: as above. The buffers are read only after the stream has been waited for,
                // which also happens if a call fails, and they live until then.
                let done = unsafe {
                    let copy = || -> Result<(), GemmError> {
                        self.stream.fill(&self.again, BEFORE)?;
                        self.run(product, first, rows, &self.again)?;
                        self.stream.store(&part, &all, 0..rows * row)?;
                        Ok(self.stream.store(&self.again, &few, 0..rows * row)?)
                    };
                    copy()
                };
                let waited = self.stream.synchronize();
                done?;
                waited?;
                // SAFETY: the copies are done.
                let (all, few) =
                    unsafe { (&all.bytes()[..rows * row], &few.bytes()[..rows * row]) };
                if all != few {
                    return Ok(Some(format!(
                        "{rows} rows from row {first} have other bits than among {}",
                        self.rows
                    )));
                }
            }
        }
        Ok(None)
    }
}

/// Fills a region with random values of a dtype, uniform in `[-1, 1)`, and waits until they are
/// there. It serves trials and benchmarks: with zeros a GPU is faster than with real data.
///
/// # Safety
/// Nothing else may touch the region during the call.
///
/// # Errors
/// [`GemmError::Driver`] if the copy fails.
pub unsafe fn randomise(stream: &Stream, region: &Region, dtype: DType) -> Result<(), GemmError> {
    let values = random(BLOCK.min(region.bytes().div_ceil(dtype.size()).max(1)));
    let mut bytes = Vec::new();
    dtype.encode(&values, &mut bytes);
    let mut block = PinnedBuffer::new(stream.context(), bytes.len())?;
    // SAFETY: no copy from or to the block has been enqueued yet.
    unsafe { block.bytes_mut() }.copy_from_slice(&bytes);
    let copy = |from: usize| {
        let bytes = block.len().min(region.bytes() - from);
        let part = region.slice(from..from + bytes);
        // SAFETY: the block is not written again, and lives until the stream has been waited for
        // below, which also happens if a copy fails. The caller promises that nothing else uses the
        // region.
        unsafe { stream.load(&block, 0..bytes, &part) }
    };
    let copied = (0..region.bytes()).step_by(block.len()).try_for_each(copy);
    let waited = stream.synchronize();
    copied?;
    Ok(waited?)
}

/// Returns `count` values uniform in `[-1, 1)`, the same at every call, by SplitMix64 (Steele, Lea
/// and Flood, 2014).
fn random(count: usize) -> Vec<f32> {
    let mut state = 0x5eed_u64;
    let next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}
