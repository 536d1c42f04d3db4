//! One product, described once and run for any number of rows.

use super::algorithm::Algorithm;
use super::bindings as sys;
use super::error::GemmError;
use super::handle::{Addresses, Description, Layout, Lt, Matmul};
use crate::dtype::DType;
use crate::gpu::driver::{Operation, Region, Stream};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// What becomes of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `out = x·Wᵀ + bias`, in the dtype of x and W.
    Store,
    /// `out += x·Wᵀ + bias`, in place on an f32 matrix: the residual stream.
    Accumulate,
}

/// A product of x [rows, inputs] and W [outputs, inputs], both row-major, whatever the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProductSpec {
    /// N: rows of W, columns of `out`.
    pub outputs: usize,
    /// K: columns of x and W.
    pub inputs: usize,
    /// Of x and W. Sums are in f32, and f32 operands are never rounded to TF32.
    pub dtype: DType,
    /// Stored, or added onto f32.
    pub kind: Kind,
    /// Whether there is a bias [outputs].
    pub bias: bool,
    /// The most products of one chain of sums, a multiple of [`CHAIN_STEP`]. K is cut into chains of one length, the
    /// last one shorter; each is a product of the library's, and they are added in order, rounded to `out`'s dtype
    /// each time. [`WHOLE`]: K is one chain.
    pub chain: usize,
}

/// No cut of K: [`ProductSpec::chain`].
pub const WHOLE: usize = usize::MAX;
/// What chains are a multiple of, but for the last of a product: whole steps of the library's kernels, and operands at
/// multiples of [`ALIGNMENT`].
pub const CHAIN_STEP: usize = 32;

impl ProductSpec {
    /// Products of every chain but the last; all of K if there is one.
    pub(super) fn chain(&self) -> usize {
        match self.inputs.div_ceil(self.chain.max(1)) {
            0 | 1 => self.inputs.max(1),
            chains => self.inputs.div_ceil(chains).next_multiple_of(CHAIN_STEP),
        }
    }

    /// Chains that K is cut into.
    pub fn chains(&self) -> usize {
        self.inputs.div_ceil(self.chain()).max(1)
    }

    /// Of `out`: x's dtype if stored, f32 if accumulated.
    pub fn out_dtype(&self) -> DType {
        match self.kind {
            Kind::Store => self.dtype,
            Kind::Accumulate => DType::F32,
        }
    }

    /// Of the bias: that of `out`, which is the only one that cuBLASLt takes for these types. So an f16 layer's bias
    /// is f16 where it is stored, and f32 where it goes onto the residual stream.
    pub fn bias_dtype(&self) -> DType {
        self.out_dtype()
    }
}

/// `f32 3840x1280 store bias in 256s`: outputs x inputs, and the length of its chains where K is cut. The name under
/// which its algorithm is kept.
impl fmt::Display for ProductSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Store => "store",
            Kind::Accumulate => "accumulate",
        };
        let bias = if self.bias { " bias" } else { "" };
        write!(
            f,
            "{} {}x{} {kind}{bias}",
            self.dtype, self.outputs, self.inputs
        )?;
        match self.chains() {
            1 => Ok(()),
            _ => write!(f, " in {}s", self.chain()),
        }
    }
}

/// Where a product's operands lie on the device: addresses, multiples of [`ALIGNMENT`].
#[derive(Debug, Clone, Copy)]
pub struct Operands {
    /// [rows, inputs], row-major, in the product's dtype.
    pub x: u64,
    /// [outputs, inputs], row-major, in the product's dtype.
    pub w: u64,
    /// [outputs], in [`ProductSpec::bias_dtype`]; 0 if the product has none.
    pub bias: u64,
    /// [rows, outputs], row-major, in [`ProductSpec::out_dtype`].
    pub out: u64,
}

/// Bytes that operands are aligned to: what TMA wants. Algorithms are chosen for no more than that.
pub const ALIGNMENT: u64 = 16;
/// Bytes of workspace that an algorithm may use: what NVIDIA recommends for Hopper.
pub const WORKSPACE: usize = 32 << 20;

/// The library's description of a product, and what it was last set to.
pub(super) struct Described {
    /// The chain that is the last one, and mostly the only one: with the bias.
    pub last: Matmul,
    /// Those before it.
    before: Option<Matmul>,
    rows: usize,
    bias: u64,
}

/// A chain of `depth` products.
fn chain(
    lt: &Arc<Lt>,
    spec: &ProductSpec,
    rows: usize,
    depth: usize,
    bias: bool,
) -> Result<Matmul, GemmError> {
    let (outputs, inputs, depth) = (spec.outputs as u64, spec.inputs as u64, depth as u64);
    let (from, to) = (cuda_type(spec.dtype), cuda_type(spec.out_dtype()));
    let mut description = Description::new(lt)?;
    // SAFETY: the header's types: 32 bits each.
    unsafe {
        description.set(sys::CUBLASLT_MATMUL_DESC_TRANSA, sys::CUBLAS_OP_T)?;
        if bias {
            let epilogue = sys::CUBLASLT_EPILOGUE_BIAS;
            description.set(sys::CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue)?;
            let of = cuda_type(spec.bias_dtype());
            description.set(sys::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, of)?;
        }
    }
    Ok(Matmul {
        description,
        // Row-major [n, k] is column-major [k, n]; of its rows a chain takes `depth`.
        a: Layout::new(lt, from, (depth, outputs), inputs)?,
        b: Layout::new(lt, from, (depth, rows as u64), inputs)?,
        d: Layout::new(lt, to, (outputs, rows as u64), outputs)?,
    })
}

impl Described {
    pub fn new(lt: &Arc<Lt>, spec: &ProductSpec, rows: usize) -> Result<Self, GemmError> {
        let before = spec.chain() * (spec.chains() - 1);
        Ok(Self {
            last: chain(lt, spec, rows, spec.inputs - before, spec.bias)?,
            before: match before {
                0 => None,
                _ => Some(chain(lt, spec, rows, spec.chain(), false)?),
            },
            rows,
            bias: 0,
        })
    }

    /// The workspace that an algorithm needs at most for any of the chains; `None` where it does not serve all.
    pub fn serves(
        &self,
        algorithm: &sys::cublasLtMatmulAlgo_t,
        operation: &str,
    ) -> Result<Option<usize>, GemmError> {
        let mut most = Some(0);
        for matmul in std::iter::once(&self.last).chain(&self.before) {
            let needs = matmul.serves(algorithm, operation)?;
            most = most.zip(needs).map(|(most, needs)| most.max(needs));
        }
        Ok(most)
    }

    pub fn set_rows(&mut self, rows: usize) -> Result<(), GemmError> {
        if self.rows == rows {
            return Ok(());
        }
        // Unknown until both are set.
        self.rows = 0;
        let columns = sys::CUBLASLT_MATRIX_LAYOUT_COLS;
        for matmul in std::iter::once(&mut self.last).chain(&mut self.before) {
            // SAFETY: the header's type: 64 bits.
            unsafe {
                matmul.b.set(columns, rows as u64)?;
                matmul.d.set(columns, rows as u64)?;
            }
        }
        self.rows = rows;
        Ok(())
    }

    fn set_bias(&mut self, bias: u64) -> Result<(), GemmError> {
        if self.bias == bias {
            return Ok(());
        }
        self.bias = 0;
        // SAFETY: the header's type: a pointer, of 64 bits here.
        unsafe {
            let pointer = sys::CUBLASLT_MATMUL_DESC_BIAS_POINTER;
            self.last.description.set(pointer, bias)?;
        }
        self.bias = bias;
        Ok(())
    }
}

fn cuda_type(dtype: DType) -> sys::cudaDataType {
    match dtype {
        DType::F32 => sys::CUDA_R_32F,
        DType::F16 => sys::CUDA_R_16F,
        DType::Bf16 => sys::CUDA_R_16BF,
    }
}

/// A product with the one algorithm that computes it, for any number of rows: a row's bits do not depend on how many
/// there are, nor on its place.
pub struct Product {
    spec: ProductSpec,
    /// The spec as text, for logs.
    name: String,
    algorithm: Algorithm,
    described: Mutex<Described>,
    /// The most rows that the algorithm was tried with.
    most: usize,
}

impl Product {
    pub(super) fn new(
        spec: ProductSpec,
        algorithm: Algorithm,
        described: Described,
        most: usize,
    ) -> Self {
        Self {
            name: spec.to_string(),
            spec,
            algorithm,
            described: Mutex::new(described),
            most: most.max(1),
        }
    }

    /// What it computes.
    pub fn spec(&self) -> &ProductSpec {
        &self.spec
    }

    /// What computes it.
    pub fn algorithm(&self) -> &Algorithm {
        &self.algorithm
    }

    /// Enqueues it, in parts where there are more rows than its algorithm was tried with. Nothing is allocated, and the
    /// host does not wait. `workspace` has [`WORKSPACE`] bytes at a multiple of 256, and each stream one of its own.
    ///
    /// # Safety
    /// The operands are live memory of the stream's device of the sizes and types that [`Operands`] says. They and
    /// the workspace are touched by nothing but this stream until a fence that is recorded after is passed.
    ///
    /// # Errors
    /// [`GemmError`]
    pub unsafe fn run(
        &self,
        stream: &Stream,
        workspace: &Region,
        operands: Operands,
        rows: usize,
    ) -> Result<(), GemmError> {
        if rows == 0 {
            return Ok(());
        }
        self.check(workspace, operands)?;
        let enqueue = || {
            // What a panic could leave half done, the setters notice.
            let mut described = self
                .described
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if self.spec.bias {
                described.set_bias(operands.bias)?;
            }
            for row in (0..rows).step_by(self.most) {
                described.set_rows(self.most.min(rows - row))?;
                // SAFETY: the caller's promise, of these rows.
                unsafe { self.part(&described, stream, workspace, operands, row)? };
            }
            Ok(())
        };
        enqueue().map_err(|e: GemmError| {
            e.during(|| format!("{} of {rows} rows", self.spec))
                .on(stream)
        })?;
        let kernel = self.name.as_str();
        Ok(stream.enqueued(Ok(()), Operation::Launch { kernel })?)
    }

    /// Enqueues the rows from `row` on, as many as are described.
    ///
    /// # Safety
    /// As [`Self::run`].
    unsafe fn part(
        &self,
        described: &Described,
        stream: &Stream,
        workspace: &Region,
        Operands { x, w, out, .. }: Operands,
        row: usize,
    ) -> Result<(), GemmError> {
        let (from, to) = (self.spec.dtype.size(), self.spec.out_dtype().size());
        let x = x + (row * self.spec.inputs * from) as u64;
        let out = out + (row * self.spec.outputs * to) as u64;
        let algorithm = self.algorithm.library();
        let workspace = (workspace.address(), workspace.bytes());
        let (chain, inputs) = (self.spec.chain(), self.spec.inputs);
        // At least one, also where K is 0.
        for first in (0..inputs.max(1)).step_by(chain) {
            let matmul = match &described.before {
                Some(before) if first + chain < inputs => before,
                _ => &described.last,
            };
            let beta = match self.spec.kind {
                Kind::Store if first == 0 => 0.0,
                Kind::Store | Kind::Accumulate => 1.0,
            };
            let skipped = (first * self.spec.dtype.size()) as u64;
            let at = Addresses {
                a: w + skipped,
                b: x + skipped,
                d: out,
            };
            // SAFETY: the caller's promise; the layouts are of these sizes, and what is skipped of each row of x
            // and W is what their rows are longer than the layouts'.
            unsafe { matmul.enqueue(&algorithm, beta, &at, workspace, stream)? };
        }
        Ok(())
    }

    fn check(&self, workspace: &Region, operands: Operands) -> Result<(), GemmError> {
        let wrong = |reason: String| {
            Err(GemmError::Operand {
                spec: self.spec.to_string(),
                reason,
            })
        };
        let Operands { x, w, bias, out } = operands;
        for (name, address) in [("x", x), ("w", w), ("bias", bias), ("out", out)] {
            if name == "bias" && !self.spec.bias {
                continue;
            }
            if address == 0 || !address.is_multiple_of(ALIGNMENT) {
                return wrong(format!(
                    "{name} at {address:#x} is not at a multiple of {ALIGNMENT}"
                ));
            }
        }
        if workspace.bytes() < WORKSPACE {
            let has = workspace.bytes();
            return wrong(format!("a workspace of {has} bytes, not of {WORKSPACE}"));
        }
        if !workspace.address().is_multiple_of(256) {
            return wrong("a workspace that is not at a multiple of 256".into());
        }
        Ok(())
    }
}

impl fmt::Debug for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Product")
            .field("spec", &self.spec)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}
