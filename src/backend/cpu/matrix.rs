//! Holds activations on the host, and provides the only means by which tasks write disjoint parts
//! of a matrix at once ([`Tiles`]).

use std::marker::PhantomData;

/// A row-major matrix, `[rows, cols]`, with at least [`MIN_ROWS`] rows allocated.
#[derive(Debug, Default, Clone)]
pub struct Matrix {
    data: Vec<f32>,
    rows: usize,
    cols: usize,
}

/// Number of rows that are always allocated. A GEMM over at least this many rows never uses the
/// GEMM crate's matrix-vector kernel, which sums in another order.
pub const MIN_ROWS: usize = 32;

impl Matrix {
    /// Sets the size. The old contents are lost, and the allocated rows beyond `rows` hold
    /// arbitrary values.
    pub fn resize(&mut self, rows: usize, cols: usize) {
        let len = rows.max(MIN_ROWS) * cols;
        if self.data.len() < len {
            // This is a fresh zeroed allocation, so nothing of the old contents is copied.
            self.data = vec![0.0; len];
        }
        self.rows = rows;
        self.cols = cols;
    }

    /// Creates a matrix from values, `[rows, cols]`.
    ///
    /// # Panics
    /// Panics if `values` does not hold `rows * cols` values.
    pub fn from_rows(values: &[f32], rows: usize, cols: usize) -> Self {
        assert_eq!(values.len(), rows * cols, "values must be rows x cols");
        let mut m = Self::default();
        m.resize(rows, cols);
        m.values_mut().copy_from_slice(values);
        m
    }

    /// Returns the number of rows in use.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Returns the number of rows that a GEMM computes: the rows in use, and at least [`MIN_ROWS`].
    pub fn padded_rows(&self) -> usize {
        self.rows.max(MIN_ROWS)
    }

    /// Returns the rows in use, `[rows, cols]`.
    pub fn values(&self) -> &[f32] {
        &self.data[..self.rows * self.cols]
    }

    /// Returns the rows in use for writing, `[rows, cols]`.
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.data[..self.rows * self.cols]
    }

    /// Returns the rows that a GEMM computes, `[padded_rows, cols]`.
    pub fn padded(&self) -> &[f32] {
        &self.data[..self.padded_rows() * self.cols]
    }

    /// Returns a handle through which tasks write disjoint rectangles of the padded rows.
    pub fn tiles(&mut self) -> Tiles<'_> {
        let rows = self.padded_rows();
        Tiles {
            base: self.data.as_mut_ptr(),
            rows,
            cols: self.cols,
            borrow: PhantomData,
        }
    }
}

/// Shared write access to a matrix, one rectangle at a time.
#[derive(Clone, Copy)]
pub struct Tiles<'a> {
    base: *mut f32,
    rows: usize,
    cols: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer stands for an exclusive borrow of the matrix. All access goes through `row`
// and the address of `at`, whose callers promise to write disjoint rectangles.
unsafe impl Send for Tiles<'_> {}
// SAFETY: as for `Send` above.
unsafe impl Sync for Tiles<'_> {}

impl<'a> Tiles<'a> {
    /// Returns the number of columns, which is also the row stride.
    pub fn stride(&self) -> usize {
        self.cols
    }

    /// Returns `len` columns of one row, from `col` on.
    ///
    /// # Panics
    /// Panics if these columns do not lie inside the matrix.
    ///
    /// # Safety
    /// No other slice that overlaps this one may be live at the same time, on any thread.
    pub unsafe fn row(&self, row: usize, col: usize, len: usize) -> &'a mut [f32] {
        assert!(
            row < self.rows && col + len <= self.cols,
            "rectangle outside the matrix"
        );
        // SAFETY: the slice lies inside the allocation by the assertion, and the caller promises
        // that nothing else aliases it.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(row * self.cols + col), len) }
    }

    /// Returns the address of element (row, col), for a GEMM that writes `rows` x `cols` elements
    /// from there on.
    ///
    /// # Panics
    /// Panics if the rectangle does not lie inside the matrix.
    pub fn at(&self, row: usize, col: usize, rows: usize, cols: usize) -> *mut f32 {
        assert!(
            row + rows <= self.rows && col + cols <= self.cols,
            "rectangle outside the matrix"
        );
        self.base.wrapping_add(row * self.cols + col)
    }
}
