//! Activations on the host, and the one place where tasks write disjoint parts of them at once.

use std::marker::PhantomData;

/// Row-major [rows, cols], with at least [`MIN_ROWS`] rows allocated.
#[derive(Debug, Default, Clone)]
pub struct Matrix {
    data: Vec<f32>,
    rows: usize,
    cols: usize,
}

/// Rows that are always there, so that a product never has so few that the GEMM crate turns to
/// a matrix-vector kernel, which sums in another order.
pub const MIN_ROWS: usize = 32;

impl Matrix {
    /// Gives it a size. What it held is lost, and rows beyond `rows` hold anything.
    pub fn resize(&mut self, rows: usize, cols: usize) {
        let len = rows.max(MIN_ROWS) * cols;
        if self.data.len() < len {
            // A fresh zeroed allocation: nothing of the old contents is copied.
            self.data = vec![0.0; len];
        }
        self.rows = rows;
        self.cols = cols;
    }

    /// From values, [rows, cols].
    pub fn from_rows(values: &[f32], rows: usize, cols: usize) -> Self {
        assert_eq!(values.len(), rows * cols, "values must be rows x cols");
        let mut m = Self::default();
        m.resize(rows, cols);
        m.values_mut().copy_from_slice(values);
        m
    }

    /// Rows in use.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Rows that a product computes: those in use, and at least [`MIN_ROWS`].
    pub fn padded_rows(&self) -> usize {
        self.rows.max(MIN_ROWS)
    }

    /// The rows in use, [rows, cols].
    pub fn values(&self) -> &[f32] {
        &self.data[..self.rows * self.cols]
    }

    /// The rows in use, [rows, cols].
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.data[..self.rows * self.cols]
    }

    /// The rows a product computes, [padded_rows, cols].
    pub fn padded(&self) -> &[f32] {
        &self.data[..self.padded_rows() * self.cols]
    }

    /// A handle through which tasks write disjoint rectangles of the padded rows.
    pub fn tiles(&mut self) -> Tiles<'_> {
        let rows = self.padded_rows();
        Tiles { base: self.data.as_mut_ptr(), rows, cols: self.cols, borrow: PhantomData }
    }
}

/// Shared write access to a matrix, a rectangle at a time.
#[derive(Clone, Copy)]
pub struct Tiles<'a> {
    base: *mut f32,
    rows: usize,
    cols: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer stands for an exclusive borrow of the matrix, and all access goes through
// `row`, whose callers promise disjoint rectangles.
unsafe impl Send for Tiles<'_> {}
// SAFETY: as above.
unsafe impl Sync for Tiles<'_> {}

impl<'a> Tiles<'a> {
    /// The matrix's columns, and so its row stride.
    pub fn stride(&self) -> usize {
        self.cols
    }

    /// `len` columns from `col` on of one row.
    ///
    /// # Safety
    /// No other slice that overlaps it may live at the same time, on any thread.
    pub unsafe fn row(&self, row: usize, col: usize, len: usize) -> &'a mut [f32] {
        assert!(row < self.rows && col + len <= self.cols, "rectangle outside the matrix");
        // SAFETY: inside the allocation by the assertion; unaliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(row * self.cols + col), len) }
    }

    /// The address of (row, col), for a product that writes `rows` x `cols` from there.
    pub fn at(&self, row: usize, col: usize, rows: usize, cols: usize) -> *mut f32 {
        assert!(row + rows <= self.rows && col + cols <= self.cols, "rectangle outside the matrix");
        self.base.wrapping_add(row * self.cols + col)
    }
}
