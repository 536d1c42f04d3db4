//! A device's memory for trying a product: random operands, timed runs, and the test that a row's bits do not depend on
//! how many rows there are.

use super::error::GemmError;
use super::product::{ALIGNMENT, Operands, Product, ProductSpec, WORKSPACE};
use crate::dtype::DType;
use crate::gpu::driver::{Arena, Context, Fence, PinnedBuffer, Region, Stream, StreamName};

/// Numbers of rows, besides the most, at which an algorithm has to serve and give the same bits: one row, less than an
/// instruction's, one tile's, more than one tile of an odd number.
pub(super) const ROWS: [usize; 4] = [1, 7, 64, 1000];
/// Values of the random block that operands are filled with, over and over: a prime, so that no two rows are the same.
const BLOCK: usize = 4_194_301;
/// What outputs hold before: a small f32, and no value that a product is likely to give.
const BEFORE: u8 = 0x3c;

/// Operands of one product for up to a number of rows. Freed when it is dropped.
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
    /// For a part of the rows once more.
    again: Region,
    workspace: Region,
    flush: Option<Region>,
}

/// Bytes of x, w, bias, out, and out of a part.
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
    /// For `rows` rows, or as many as the device's free memory has room for. Between runs `flush` bytes are written, so
    /// that the operands are not in the device's L2; 0 for none.
    ///
    /// # Errors
    /// [`GemmError::Driver`]
    pub fn new(
        context: &Context,
        spec: &ProductSpec,
        rows: usize,
        flush: usize,
    ) -> Result<Self, GemmError> {
        // A tenth, for what the driver and the library want.
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
                bytes => Some(take("room that flushes L2", bytes)?),
            },
        };
        // SAFETY: the regions were made just now.
        unsafe {
            randomise(&bench.stream, &bench.x, spec.dtype)?;
            randomise(&bench.stream, &bench.w, spec.dtype)?;
            randomise(&bench.stream, &bench.bias, spec.bias_dtype())?;
        }
        Ok(bench)
    }

    /// The rows that there is room for.
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
        // SAFETY: the regions have room for `self.rows` rows (`again` for the most that it is used for), and are used
        // on this stream alone.
        unsafe { product.run(&self.stream, &self.workspace, operands, rows) }
    }

    /// How long the product takes for the first `rows` rows, once, on an idle device.
    ///
    /// # Errors
    /// [`GemmError`]
    pub fn milliseconds(&self, product: &Product, rows: usize) -> Result<f32, GemmError> {
        if let Some(flush) = &self.flush {
            // SAFETY: nothing else uses the region.
            unsafe { self.stream.fill(flush, BEFORE)? };
        }
        self.stream.record(&self.start)?;
        self.run(product, 0, rows, &self.out)?;
        self.stream.record(&self.end)?;
        self.end.wait()?;
        // Both fences are timed.
        Ok(self
            .end
            .milliseconds_since(&self.start)?
            .unwrap_or(f32::NAN))
    }

    /// Whether rows have the same bits alone, among few and among all, from the first and from elsewhere. If not, what
    /// differs.
    ///
    /// # Errors
    /// [`GemmError`]
    pub(super) fn differs(&self, product: &Product) -> Result<Option<String>, GemmError> {
        let context = self.stream.context();
        let row = self.spec.outputs * self.spec.out_dtype().size();
        // Rows that x may be taken from: those at a multiple of what operands are aligned to.
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
            // Another order of sums shows in one of some 4000 values that are rounded to f16: many are looked at.
            let places = if rows < 64 { 48 } else { 3 };
            let mut firsts: Vec<usize> = (0..places)
                .map(|i| aligned(i * (self.rows - rows) / (places - 1)).unwrap_or(0))
                .collect();
            firsts.dedup();
            for first in firsts {
                let part = self.out.slice(first * row..(first + rows) * row);
                // SAFETY: as above; the buffers are read after the stream is waited for, and live until then also
                // where a call fails: it is waited for below in any case.
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

/// Fills a region with random values of a dtype, uniform in [-1, 1), and waits: for trials and benches. Zeros would
/// make a GPU faster than it is.
///
/// # Safety
/// Nothing else touches the region meanwhile.
///
/// # Errors
/// [`GemmError::Driver`]
pub unsafe fn randomise(stream: &Stream, region: &Region, dtype: DType) -> Result<(), GemmError> {
    let values = random(BLOCK.min(region.bytes().div_ceil(dtype.size()).max(1)));
    let mut bytes = Vec::new();
    dtype.encode(&values, &mut bytes);
    let mut block = PinnedBuffer::new(stream.context(), bytes.len())?;
    // SAFETY: nothing is copied from or to it yet.
    unsafe { block.bytes_mut() }.copy_from_slice(&bytes);
    let copy = |from: usize| {
        let bytes = block.len().min(region.bytes() - from);
        let part = region.slice(from..from + bytes);
        // SAFETY: the block is written no more, and lives until the stream is waited for below, also where a copy
        // fails; nothing else uses the region, says the caller.
        unsafe { stream.load(&block, 0..bytes, &part) }
    };
    let copied = (0..region.bytes()).step_by(block.len()).try_for_each(copy);
    let waited = stream.synchronize();
    copied?;
    Ok(waited?)
}

/// Uniform in [-1, 1), the same each time (SplitMix64).
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
