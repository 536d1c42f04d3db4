//! A GEMM that is described once and then run for any number of rows.

use super::algorithm::Algorithm;
use super::bindings as sys;
use super::error::GemmError;
use super::handle::{Addresses, Description, Layout, Lt, Matmul};
use crate::dtype::DType;
use crate::gpu::driver::{Operation, Region, Stream};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// What is done with the result of a GEMM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `out = x·Wᵀ + bias`, in the dtype of x and W.
    Store,
    /// `out += x·Wᵀ + bias`, in place on an f32 matrix: the residual stream.
    Accumulate,
}

/// Describes the GEMM of x `[rows, inputs]` and W `[outputs, inputs]`, both row-major, for any
/// number of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProductSpec {
    /// N: the rows of W and the columns of `out`.
    pub outputs: usize,
    /// K: the columns of x and W.
    pub inputs: usize,
    /// The number format of x and W. Sums are in f32, and f32 operands are never rounded to TF32.
    pub dtype: DType,
    /// Whether the result is stored, or added onto an f32 matrix.
    pub kind: Kind,
    /// Whether there is a bias `[outputs]`.
    pub bias: bool,
    /// The most terms along K that are summed in one chain, a multiple of [`CHAIN_STEP`]. K is cut
    /// into chains of equal length, of which the last may be shorter. Each chain is a GEMM of the
    /// library; their results are added in order, and rounded to `out`'s dtype each time. With
    /// [`WHOLE`], K is one chain.
    pub chain: usize,
}

/// The value of [`chain`](field@ProductSpec::chain) that leaves K in one piece.
pub const WHOLE: usize = usize::MAX;
/// The length of every chain except the last is a multiple of this. Chains are then whole steps of
/// the library's kernels, and their operands start at multiples of [`ALIGNMENT`].
pub const CHAIN_STEP: usize = 32;

impl ProductSpec {
    /// Returns the number of terms in every chain but the last. If there is one chain, it is all of
    /// K.
    pub(super) fn chain(&self) -> usize {
        match self.inputs.div_ceil(self.chain.max(1)) {
            0 | 1 => self.inputs.max(1),
            chains => self.inputs.div_ceil(chains).next_multiple_of(CHAIN_STEP),
        }
    }

    /// Returns the number of chains that K is cut into.
    pub fn chains(&self) -> usize {
        self.inputs.div_ceil(self.chain()).max(1)
    }

    /// Returns the dtype of `out`: the dtype of x if the result is stored, f32 if it is
    /// accumulated.
    pub fn out_dtype(&self) -> DType {
        match self.kind {
            Kind::Store => self.dtype,
            Kind::Accumulate => DType::F32,
        }
    }

    /// Returns the dtype of the bias. It is the dtype of `out`, since cuBLASLt takes no other for
    /// these types. So the bias of an f16 layer is f16 if the result is stored, and f32 if it is
    /// added to the residual stream.
    pub fn bias_dtype(&self) -> DType {
        self.out_dtype()
    }
}

/// Writes the name under which the GEMM's algorithm is kept, such as
/// `f32 3840x1280 store bias in 256s`: outputs x inputs, and the length of the chains if K is cut.
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

/// The addresses of a GEMM's operands on the device, all multiples of [`ALIGNMENT`].
#[derive(Debug, Clone, Copy)]
pub struct Operands {
    /// x `[rows, inputs]`, row-major, in the dtype of the [`ProductSpec`].
    pub x: u64,
    /// W `[outputs, inputs]`, row-major, in the dtype of the [`ProductSpec`].
    pub w: u64,
    /// The bias `[outputs]`, in [`ProductSpec::bias_dtype`]; 0 if there is no bias.
    pub bias: u64,
    /// The result `[rows, outputs]`, row-major, in [`ProductSpec::out_dtype`].
    pub out: u64,
}

/// The alignment of operands in bytes, which TMA requires. Algorithms are chosen for no stricter
/// alignment.
pub const ALIGNMENT: u64 = 16;
/// The bytes of workspace that an algorithm may use, as NVIDIA recommends for Hopper.
pub const WORKSPACE: usize = 32 << 20;

/// The library's description of a GEMM, and the values that it was last set to.
pub(super) struct Described {
    /// The last chain, which is mostly the only one. It adds the bias.
    pub last: Matmul,
    /// The chains before the last, which all have the same length.
    before: Option<Matmul>,
    rows: usize,
    bias: u64,
}

/// Describes one chain of `depth` terms along K.
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
    // SAFETY: these are the header's types, of 32 bits each.
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
        // A row-major `[n, k]` is a column-major `[k, n]`. A chain takes `depth` of its rows.
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

    /// Returns the largest workspace in bytes that an algorithm needs for any of the chains, or
    /// `None` if it does not serve all of them.
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
        // The number of rows is unknown until both layouts are set.
        self.rows = 0;
        let columns = sys::CUBLASLT_MATRIX_LAYOUT_COLS;
        for matmul in std::iter::once(&mut self.last).chain(&mut self.before) {
            // SAFETY: this is the header's type, of 64 bits.
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
        // SAFETY: this is the header's type: a pointer, which has 64 bits here.
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

/// A GEMM with the one algorithm that computes it, for any number of rows. The bits of a row depend
/// neither on the number of rows nor on the row's position.
pub struct Product {
    spec: ProductSpec,
    /// The spec as text, for logs.
    name: String,
    algorithm: Algorithm,
    described: Mutex<Described>,
    /// The largest number of rows that the algorithm was tried with.
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

    /// Returns the description of the GEMM.
    pub fn spec(&self) -> &ProductSpec {
        &self.spec
    }

    /// Returns the algorithm that computes the GEMM.
    pub fn algorithm(&self) -> &Algorithm {
        &self.algorithm
    }

    /// Enqueues the GEMM. If there are more rows than its algorithm was tried with, it runs in
    /// several parts. Nothing is allocated, and the host does not wait. `workspace` has at least
    /// [`WORKSPACE`] bytes at a multiple of 256, and each stream needs a workspace of its own.
    ///
    /// # Safety
    /// The operands must be live memory of the stream's device, with the sizes and types that
    /// [`Operands`] states. Until a fence that is recorded after the GEMM has been passed, nothing
    /// but work on this stream may touch them or the workspace.
    ///
    /// # Errors
    /// [`GemmError`] if an operand is unsuitable or a call fails.
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
            // A panic may have left a setter half done. The setters notice that and start again.
            let mut described = self
                .described
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if self.spec.bias {
                described.set_bias(operands.bias)?;
            }
            for row in (0..rows).step_by(self.most) {
                described.set_rows(self.most.min(rows - row))?;
                // SAFETY: the caller's promise covers these rows.
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
    /// The same conditions hold as for [`Self::run`].
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
        // There is at least one chain, even if K is 0.
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
            // SAFETY: the caller promises that the operands have these sizes. The layouts describe
            // one chain; their strides skip the rest of each row of x and W.
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
