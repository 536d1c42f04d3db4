//! cuBLASLt's product: D = alpha · op(A) · op(B) + beta · C + bias, column-major, with sums in f32.
//! If the caller asks for it, f32 operands are first rounded to TF32.

use std::fmt;

use half::{bf16, f16};

use crate::memory::pages::{self, POISON};

/// The type of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// 32-bit floats.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
}

impl Element {
    /// Converts a code of CUDA's `cudaDataType`.
    pub fn from_cuda(code: i32) -> Option<Self> {
        match code {
            0 => Some(Self::F32),
            2 => Some(Self::F16),
            14 => Some(Self::Bf16),
            _ => None,
        }
    }

    /// Returns the bytes per element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    fn decode(self, data: &[u8]) -> Vec<f32> {
        let pairs = || {
            data.chunks_exact(2)
                .map(|b| u16::from_le_bytes([b[0], b[1]]))
        };
        match self {
            Self::F32 => data
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect(),
            Self::F16 => pairs().map(|bits| f16::from_bits(bits).to_f32()).collect(),
            Self::Bf16 => pairs().map(|bits| bf16::from_bits(bits).to_f32()).collect(),
        }
    }

    fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Self::F16 => values
                .iter()
                .flat_map(|v| f16::from_f32(*v).to_bits().to_le_bytes())
                .collect(),
            Self::Bf16 => values
                .iter()
                .flat_map(|v| bf16::from_f32(*v).to_bits().to_le_bytes())
                .collect(),
        }
    }
}

/// A matrix in device memory, stored as columns of `rows` elements that begin `stride` elements
/// apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The address of the first element.
    pub address: usize,
    /// The type of the elements.
    pub element: Element,
    /// The number of rows.
    pub rows: usize,
    /// The number of columns.
    pub columns: usize,
    /// The number of elements from the start of one column to the start of the next.
    pub stride: usize,
}

impl Stored {
    /// Returns the bytes from the first element to the last.
    fn bytes(&self) -> usize {
        match self.columns {
            0 => 0,
            columns => ((columns - 1) * self.stride + self.rows) * self.element.bytes(),
        }
    }

    fn column_address(&self, column: usize) -> usize {
        self.address + column * self.stride * self.element.bytes()
    }

    /// Reads one column.
    ///
    /// # Safety The matrix is live memory.
    unsafe fn column(&self, column: usize) -> Vec<f32> {
        // SAFETY: the caller guarantees it.
        self.element.decode(&unsafe {
            pages::read(
                self.column_address(column),
                self.rows * self.element.bytes(),
            )
        })
    }

    /// Reads all elements, as columns of a matrix of `rows`, or of its transpose.
    ///
    /// # Safety The matrix is live memory.
    unsafe fn dense(&self, transpose: bool) -> Vec<f32> {
        let mut dense = vec![0.0; self.rows * self.columns];
        for c in 0..self.columns {
            // SAFETY: the caller guarantees it.
            let column = unsafe { self.column(c) };
            if transpose {
                column
                    .iter()
                    .enumerate()
                    .for_each(|(r, value)| dense[r * self.columns + c] = *value);
            } else {
                dense[c * self.rows..][..self.rows].copy_from_slice(&column);
            }
        }
        dense
    }
}

/// Adds to `sums` the columns of `a`, each multiplied by its factor. It takes the columns in order,
/// four at a time for speed. Each element is one chain of sums, as in the f32 kernels of a device,
/// except that the products are rounded here and fused there.
fn add_columns(sums: &mut [f32], a: &[f32], factors: &[f32]) {
    let m = sums.len();
    let mut quads = a.chunks_exact(4 * m);
    for (quad, f) in quads.by_ref().zip(factors.chunks_exact(4)) {
        let [a0, a1, a2, a3] = [0, 1, 2, 3].map(|i| &quad[i * m..][..m]);
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = (((*sum + a0[i] * f[0]) + a1[i] * f[1]) + a2[i] * f[2]) + a3[i] * f[3];
        }
    }
    let rest = factors.chunks_exact(4).remainder();
    for (column, factor) in quads.remainder().chunks_exact(m).zip(rest) {
        sums.iter_mut()
            .zip(column)
            .for_each(|(sum, a)| *sum += a * factor);
    }
}

/// Rounds an f32 to TF32 as tensor cores read it: 10 mantissa bits, to nearest even. Infinity and
/// NaN stay.
fn tf32(value: f32) -> f32 {
    const DROPPED: u32 = 13;
    if !value.is_finite() {
        return value;
    }
    let bits = value.to_bits();
    let half = (1 << (DROPPED - 1)) - 1 + (bits >> DROPPED & 1);
    // A carry into the exponent is right: the next larger number has the next exponent.
    f32::from_bits((bits + half) >> DROPPED << DROPPED)
}

/// The order in which an algorithm sums over K.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// In one chain, in order.
    Whole,
    /// In this many parts, which are added at the end.
    Parts(usize),
    /// In two parts if D has many columns: the bits of a column depend on the number of columns.
    PartsIfMany,
}

impl Order {
    fn parts(self, columns: usize) -> usize {
        match self {
            Self::Whole => 1,
            Self::Parts(parts) => parts,
            Self::PartsIfMany => 1 + usize::from(columns > 32),
        }
    }
}

/// One product.
pub struct Product {
    /// The operand A.
    pub a: Stored,
    /// The operand B.
    pub b: Stored,
    /// The operand C, which is read only if beta is not 0.
    pub c: Stored,
    /// The result.
    pub d: Stored,
    /// Whether A is transposed.
    pub transpose_a: bool,
    /// Whether B is transposed.
    pub transpose_b: bool,
    /// Whether f32 operands are rounded to TF32.
    pub tf32: bool,
    /// The factor of op(A) · op(B).
    pub alpha: f32,
    /// The factor of C.
    pub beta: f32,
    /// The address and type of the bias, one value per row of D.
    pub bias: Option<(usize, Element)>,
    /// Address and bytes of the workspace that the algorithm uses.
    pub workspace: (usize, usize),
    /// The order of the sums.
    pub order: Order,
    /// Its time, as a multiple of the time of a plain algorithm.
    pub slowness: f64,
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(
            f,
            "m={} n={} k={} to {:#x}",
            self.d.rows,
            self.d.columns,
            self.depth(),
            self.d.address
        )
    }
}

impl Product {
    fn depth(&self) -> usize {
        if self.transpose_a {
            self.a.rows
        } else {
            self.a.columns
        }
    }

    /// Returns m, n and k.
    pub fn shape(&self) -> (usize, usize, usize) {
        (self.d.rows, self.d.columns, self.depth())
    }

    /// Returns the bytes that are read and written if every operand is read once.
    pub fn bytes_moved(&self) -> usize {
        let ranges = self.ranges();
        let matrices = ranges.iter().filter(|(what, ..)| *what != "workspace");
        matrices.map(|(.., bytes)| bytes).sum()
    }

    /// Returns the number of multiplications.
    pub fn multiplications(&self) -> u64 {
        (self.d.rows * self.d.columns * self.depth()) as u64
    }

    /// Returns all memory that the product accesses: name, address, bytes.
    pub fn ranges(&self) -> Vec<(&'static str, usize, usize)> {
        let mut ranges = vec![
            ("A", self.a.address, self.a.bytes()),
            ("B", self.b.address, self.b.bytes()),
            ("D", self.d.address, self.d.bytes()),
        ];
        if self.beta != 0.0 {
            ranges.push(("C", self.c.address, self.c.bytes()));
        }
        if let Some((address, element)) = self.bias {
            ranges.push(("bias", address, self.d.rows * element.bytes()));
        }
        if self.workspace.1 > 0 {
            ranges.push(("workspace", self.workspace.0, self.workspace.1));
        }
        ranges
    }

    /// Computes the product.
    ///
    /// # Safety All of `ranges` is live memory.
    pub unsafe fn run(&self) {
        let (m, n, k) = (self.d.rows, self.d.columns, self.depth());
        // SAFETY: the caller guarantees it, here and below.
        let (mut a, mut b) = unsafe {
            (
                self.a.dense(self.transpose_a),
                self.b.dense(self.transpose_b),
            )
        };
        if self.tf32 {
            a.iter_mut().chain(&mut b).for_each(|x| *x = tf32(*x));
        }
        let bias = self.bias.map(|(address, element)| {
            // SAFETY: as above.
            element.decode(&unsafe { pages::read(address, m * element.bytes()) })
        });
        // The workspace is poisoned: it has no defined content before or after the product.
        // SAFETY: as above.
        unsafe { pages::write(self.workspace.0, &vec![POISON; self.workspace.1]) };
        let (mut sums, mut part) = (vec![0.0f32; m], vec![0.0f32; m]);
        let depth = k.div_ceil(self.order.parts(n));
        for column in 0..n {
            sums.fill(0.0);
            for (a, b) in a.chunks(depth * m).zip(b[column * k..][..k].chunks(depth)) {
                part.fill(0.0);
                add_columns(&mut part, a, b);
                sums.iter_mut()
                    .zip(&part)
                    .for_each(|(sum, part)| *sum += part);
            }
            sums.iter_mut().for_each(|sum| *sum *= self.alpha);
            if self.beta != 0.0 {
                // SAFETY: as above.
                let c = unsafe { self.c.column(column) };
                sums.iter_mut()
                    .zip(c)
                    .for_each(|(sum, c)| *sum += self.beta * c);
            }
            if let Some(bias) = &bias {
                sums.iter_mut()
                    .zip(bias)
                    .for_each(|(sum, bias)| *sum += bias);
            }
            // SAFETY: as above.
            unsafe { pages::write(self.d.column_address(column), &self.d.element.encode(&sums)) };
        }
    }
}
