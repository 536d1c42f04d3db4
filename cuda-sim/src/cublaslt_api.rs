//! The `cublasLt*` symbols: f16, bf16 and f32 in and out, sums in f32, column-major, with or
//! without bias. Everything else that the library can do is "not supported" here.
// The names are those of cuBLASLt.
#![allow(non_snake_case)]

use std::ffi::{c_char, c_int, c_void};

use crate::abi::{In, Out};
use crate::call::call_lt;
use crate::code::Code;
use crate::cublaslt_algorithms::Algorithm;
use crate::matmul::{Element, Order, Product, Stored};
use crate::run::Work;
use crate::sim::{Sim, number};

/// The type `cublasStatus_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub c_int);

impl Status {
    const NOT_INITIALIZED: Self = Self(1);
    const ALLOC_FAILED: Self = Self(3);
    const INVALID_VALUE: Self = Self(7);
    const EXECUTION_FAILED: Self = Self(13);
    const NOT_SUPPORTED: Self = Self(15);

    fn name(self) -> &'static std::ffi::CStr {
        match self.0 {
            0 => c"CUBLAS_STATUS_SUCCESS",
            1 => c"CUBLAS_STATUS_NOT_INITIALIZED",
            3 => c"CUBLAS_STATUS_ALLOC_FAILED",
            7 => c"CUBLAS_STATUS_INVALID_VALUE",
            8 => c"CUBLAS_STATUS_ARCH_MISMATCH",
            11 => c"CUBLAS_STATUS_MAPPING_ERROR",
            13 => c"CUBLAS_STATUS_EXECUTION_FAILED",
            14 => c"CUBLAS_STATUS_INTERNAL_ERROR",
            15 => c"CUBLAS_STATUS_NOT_SUPPORTED",
            16 => c"CUBLAS_STATUS_LICENSE_ERROR",
            _ => c"unknown cuBLAS status",
        }
    }
}

/// Converts an error of the driver below into the library's status.
impl From<Code> for Status {
    fn from(code: Code) -> Self {
        match code {
            Code::INVALID_VALUE | Code::INVALID_HANDLE => Self::INVALID_VALUE,
            Code::OUT_OF_MEMORY => Self::ALLOC_FAILED,
            Code::NOT_INITIALIZED | Code::INVALID_CONTEXT => Self::NOT_INITIALIZED,
            _ => Self::EXECUTION_FAILED,
        }
    }
}

/// The layout of a matrix, `cublasLtMatrixLayout_t`.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    element: c_int,
    rows: u64,
    columns: u64,
    stride: i64,
    order: c_int,
    batches: c_int,
}

/// The description of a product, `cublasLtMatmulDesc_t`.
#[derive(Clone, Copy, Debug)]
pub struct Description {
    compute: c_int,
    scale: c_int,
    pointer_mode: c_int,
    transpose: [c_int; 3],
    epilogue: c_int,
    bias: u64,
    /// The bias's type; -1 means the type of D.
    bias_type: c_int,
}

/// The object behind a handle of this library.
#[derive(Clone, Copy, Debug)]
pub enum LtObject {
    /// The library's own handle.
    Handle,
    /// The description of a product.
    Description(Description),
    /// The layout of a matrix.
    Layout(Layout),
    /// A preference: the algorithms that the heuristic may offer.
    Preference {
        /// The largest workspace in bytes.
        max_workspace: u64,
        /// A mask of reduction schemes.
        schemes: u32,
    },
}

/// The type `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct HeuristicResult {
    algorithm: Algorithm,
    workspace: usize,
    state: c_int,
    waves: f32,
    reserved: [c_int; 4],
}

impl HeuristicResult {
    fn of(algorithm: Algorithm) -> Self {
        Self {
            algorithm,
            workspace: algorithm.workspace(),
            state: 0,
            waves: 1.0,
            reserved: [0; 4],
        }
    }
}

impl Sim {
    fn lt_handle(&self, handle: u64) -> Result<(), Status> {
        match self.lt.get(&handle) {
            Some(LtObject::Handle) => Ok(()),
            _ => Err(Status::NOT_INITIALIZED),
        }
    }

    fn layout(&self, handle: u64) -> Result<Layout, Status> {
        match self.lt.get(&handle) {
            Some(LtObject::Layout(layout)) => Ok(*layout),
            _ => Err(Status::INVALID_VALUE),
        }
    }

    fn description(&self, handle: u64) -> Result<Description, Status> {
        match self.lt.get(&handle) {
            Some(LtObject::Description(description)) => Ok(*description),
            _ => Err(Status::INVALID_VALUE),
        }
    }

    fn new_lt(&mut self, out: &Out<u64>, object: LtObject) -> Result<(), Status> {
        let handle = self.new_handle();
        out.set(handle).map_err(|_| Status::INVALID_VALUE)?;
        self.lt.insert(handle, object);
        Ok(())
    }

    fn drop_lt(&mut self, handle: u64, kind: fn(&LtObject) -> bool) -> Result<(), Status> {
        match self.lt.get(&handle) {
            Some(object) if kind(object) => {
                self.lt.remove(&handle);
                Ok(())
            }
            _ => Err(Status::INVALID_VALUE),
        }
    }

    fn not_supported(&mut self, why: &str) -> Status {
        self.find(format!("cublasLt: not supported here: {why}"));
        Status::NOT_SUPPORTED
    }

    fn stored(&mut self, layout: Layout, address: u64) -> Result<Stored, Status> {
        let Some(element) = Element::from_cuda(layout.element) else {
            return Err(self.not_supported(&format!("data type {}", layout.element)));
        };
        if layout.order != 0 || layout.batches != 1 {
            return Err(self.not_supported("row order, or more than one product a call"));
        }
        let size = |n: u64| {
            usize::try_from(n)
                .ok()
                .filter(|n| *n > 0 && *n < 1 << 31)
                .ok_or(Status::INVALID_VALUE)
        };
        let (rows, columns) = (size(layout.rows)?, size(layout.columns)?);
        let stride = size(u64::try_from(layout.stride).map_err(|_| Status::INVALID_VALUE)?)?;
        if stride < rows {
            return Err(Status::INVALID_VALUE);
        }
        Ok(Stored {
            address: address as usize,
            element,
            rows,
            columns,
            stride,
        })
    }

    /// Builds a product without its scales, or returns why it is not supported.
    fn product(
        &mut self,
        description: u64,
        layouts: [u64; 4],
        addresses: [u64; 4],
    ) -> Result<Product, Status> {
        let Description {
            compute,
            scale,
            pointer_mode,
            transpose,
            epilogue,
            bias,
            bias_type,
        } = self.description(description)?;
        const FAST_TF32: c_int = 77;
        const COMPUTE_32F: [c_int; 3] = [68, 69, FAST_TF32]; // 32F, 32F_PEDANTIC
        if !COMPUTE_32F.contains(&compute) || scale != 0 || pointer_mode != 0 || transpose[2] != 0 {
            return Err(
                self.not_supported("other than f32 sums, f32 scales on the host, and C as it is")
            );
        }
        let mut matrices = Vec::with_capacity(4);
        for (layout, address) in layouts.into_iter().zip(addresses) {
            let layout = self.layout(layout)?;
            matrices.push(self.stored(layout, address)?);
        }
        let [a, b, c, d] = [matrices[0], matrices[1], matrices[2], matrices[3]];
        let turned = |matrix: Stored, transposed: bool| match transposed {
            true => (matrix.columns, matrix.rows),
            false => (matrix.rows, matrix.columns),
        };
        let [transpose_a, transpose_b] = [transpose[0] != 0, transpose[1] != 0];
        let ((m, k), (k_of_b, n)) = (turned(a, transpose_a), turned(b, transpose_b));
        if k != k_of_b || (m, n) != (d.rows, d.columns) || (m, n) != (c.rows, c.columns) {
            return Err(Status::INVALID_VALUE);
        }
        let out_is_legal =
            c.element == d.element && (d.element == a.element || d.element == Element::F32);
        if a.element != b.element || !out_is_legal {
            return Err(self.not_supported("this combination of data types"));
        }
        const DEFAULT: c_int = 1;
        const BIAS: c_int = 4;
        let bias = match epilogue {
            DEFAULT => None,
            BIAS => {
                let element = if bias_type < 0 {
                    Some(d.element)
                } else {
                    Element::from_cuda(bias_type)
                };
                match element {
                    Some(element) if element == d.element => Some((bias as usize, element)),
                    _ => return Err(self.not_supported("a bias of another type than D")),
                }
            }
            other => return Err(self.not_supported(&format!("epilogue {other}"))),
        };
        Ok(Product {
            a,
            b,
            c,
            d,
            transpose_a,
            transpose_b,
            tf32: compute == FAST_TF32 && a.element == Element::F32,
            alpha: 1.0,
            beta: 0.0,
            bias,
            workspace: (0, 0),
            order: Order::Whole,
            slowness: 1.0,
        })
    }
}

/// Reads an attribute of `T`'s size from a caller's buffer.
fn attribute<T: Copy>(value: *const c_void, size: usize) -> Result<T, Status> {
    if value.is_null() || size != size_of::<T>() {
        return Err(Status::INVALID_VALUE);
    }
    // SAFETY: by the API's contract the buffer has `size` bytes, which is the size of the type.
    Ok(unsafe { value.cast::<T>().read_unaligned() })
}

/// Exports functions of the library, like `abi::api`, but with the library's result codes.
macro_rules! lt_api {
    ($($(#[$attribute:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) |$sim:ident| $body:block)*) => {$(
        $(#[$attribute])*
        #[unsafe(no_mangle)]
        pub extern "C" fn $name($($arg: $type),*) -> c_int {
            call_lt(stringify!($name), |$sim: &mut Sim| $body)
        }
    )*};
}

lt_api! {
    fn cublasLtCreate(handle: Out<u64>) |sim| {
        sim.current()?;
        sim.new_lt(&handle, LtObject::Handle)
    }

    fn cublasLtDestroy(handle: u64) |sim| {
        sim.drop_lt(handle, |object| matches!(object, LtObject::Handle)).map_err(|_| Status::NOT_INITIALIZED)
    }

    fn cublasLtMatmulDescCreate(out: Out<u64>, compute: c_int, scale: c_int) |sim| {
        let description = Description {
            compute,
            scale,
            pointer_mode: 0,
            transpose: [0; 3],
            epilogue: 1,
            bias: 0,
            bias_type: -1,
        };
        sim.new_lt(&out, LtObject::Description(description))
    }

    fn cublasLtMatmulDescDestroy(handle: u64) |sim| {
        sim.drop_lt(handle, |object| matches!(object, LtObject::Description(_)))
    }

    fn cublasLtMatmulDescSetAttribute(handle: u64, name: c_int, value: *const c_void, size: usize) |sim| {
        let mut description = sim.description(handle)?;
        match name {
            0 => description.compute = attribute(value, size)?,
            1 => description.scale = attribute(value, size)?,
            2 => description.pointer_mode = attribute(value, size)?,
            3..=5 => description.transpose[(name - 3) as usize] = attribute(value, size)?,
            7 => description.epilogue = attribute(value, size)?,
            8 => description.bias = attribute(value, size)?,
            26 => description.bias_type = attribute(value, size)?,
            // FILL_MODE, SM_COUNT_TARGET and FAST_ACCUM do not influence a result here.
            6 | 15 | 25 => {}
            _ => return Err(sim.not_supported(&format!("attribute {name} of a product"))),
        }
        sim.lt.insert(handle, LtObject::Description(description));
        Ok(())
    }

    fn cublasLtMatrixLayoutCreate(out: Out<u64>, element: c_int, rows: u64, columns: u64, stride: i64) |sim| {
        sim.new_lt(&out, LtObject::Layout(Layout { element, rows, columns, stride, order: 0, batches: 1 }))
    }

    fn cublasLtMatrixLayoutDestroy(handle: u64) |sim| {
        sim.drop_lt(handle, |object| matches!(object, LtObject::Layout(_)))
    }

    fn cublasLtMatrixLayoutSetAttribute(handle: u64, name: c_int, value: *const c_void, size: usize) |sim| {
        let mut layout = sim.layout(handle)?;
        match name {
            0 => layout.element = attribute(value, size)?,
            1 => layout.order = attribute(value, size)?,
            2 => layout.rows = attribute(value, size)?,
            3 => layout.columns = attribute(value, size)?,
            4 => layout.stride = attribute(value, size)?,
            5 => layout.batches = attribute(value, size)?,
            6 => {} // STRIDED_BATCH_OFFSET, irrelevant for a single product
            _ => return Err(sim.not_supported(&format!("attribute {name} of a matrix"))),
        }
        sim.lt.insert(handle, LtObject::Layout(layout));
        Ok(())
    }

    fn cublasLtMatmulPreferenceCreate(out: Out<u64>) |sim| {
        sim.new_lt(&out, LtObject::Preference { max_workspace: 0, schemes: 7 })
    }

    fn cublasLtMatmulPreferenceDestroy(handle: u64) |sim| {
        sim.drop_lt(handle, |object| matches!(object, LtObject::Preference { .. }))
    }

    fn cublasLtMatmulPreferenceSetAttribute(handle: u64, name: c_int, value: *const c_void, size: usize) |sim| {
        let Some(LtObject::Preference { mut max_workspace, mut schemes }) = sim.lt.get(&handle).copied() else {
            return Err(Status::INVALID_VALUE);
        };
        match name {
            1 => max_workspace = attribute(value, size)?,
            3 => schemes = attribute(value, size)?,
            // The other attributes do not narrow the choice further here.
            _ => {}
        }
        sim.lt.insert(handle, LtObject::Preference { max_workspace, schemes });
        Ok(())
    }

    fn cublasLtMatmulAlgoGetHeuristic(
        handle: u64,
        description: u64,
        a: u64,
        b: u64,
        c: u64,
        d: u64,
        preference: u64,
        wanted: c_int,
        results: Out<HeuristicResult>,
        found: Out<c_int>,
    ) |sim| {
        sim.lt_handle(handle)?;
        found.set(0)?;
        let Some(LtObject::Preference { max_workspace, schemes }) = sim.lt.get(&preference).copied() else {
            return Err(Status::INVALID_VALUE);
        };
        let wanted = usize::try_from(wanted).ok().filter(|n| *n > 0).ok_or(Status::INVALID_VALUE)?;
        // Addresses do not influence the choice.
        let product = sim.product(description, [a, b, c, d], [0; 4])?;
        let serves = |algorithm: &Algorithm| {
            algorithm.offer().is_some_and(|offer| product.d.columns as u64 >= offer.fewest_columns)
        };
        let mut count = 0;
        for algorithm in Algorithm::offered(max_workspace, schemes).into_iter().filter(serves).take(wanted) {
            results.set_at(count, HeuristicResult::of(algorithm))?;
            count += 1;
        }
        found.set(count as c_int)?;
        Ok(())
    }

    fn cublasLtMatmulAlgoCheck(
        handle: u64,
        description: u64,
        a: u64,
        b: u64,
        c: u64,
        d: u64,
        algorithm: In<Algorithm>,
        result: Out<HeuristicResult>,
    ) |sim| {
        sim.lt_handle(handle)?;
        let product = sim.product(description, [a, b, c, d], [0; 4])?;
        let algorithm = algorithm.get()?;
        let offer = algorithm.offer().ok_or(Status::INVALID_VALUE)?;
        if (product.d.columns as u64) < offer.fewest_columns {
            return Err(Status::NOT_SUPPORTED);
        }
        result.set(HeuristicResult::of(algorithm))?;
        Ok(())
    }

    fn cublasLtMatmul(
        handle: u64,
        description: u64,
        alpha: In<f32>,
        a: u64,
        layout_a: u64,
        b: u64,
        layout_b: u64,
        beta: In<f32>,
        c: u64,
        layout_c: u64,
        d: u64,
        layout_d: u64,
        algorithm: In<Algorithm>,
        workspace: u64,
        workspace_bytes: usize,
        stream: u64,
    ) |sim| {
        sim.lt_handle(handle)?;
        let current = sim.current()?;
        let stream = sim.stream_of(stream)?;
        if sim.streams.get(&stream).is_none_or(|stream| stream.context != current) {
            sim.find("cublasLtMatmul: the stream is not of the thread's context".to_owned());
            return Err(Status::INVALID_VALUE);
        }
        let mut product =
            sim.product(description, [layout_a, layout_b, layout_c, layout_d], [a, b, c, d])?;
        (product.alpha, product.beta) = (alpha.get()?, beta.get()?);
        // Without an algorithm the library chooses one itself.
        let algorithm = if algorithm.is_null() {
            Algorithm::default_for(workspace_bytes as u64)
        } else {
            algorithm.get()?
        };
        let offer = algorithm.offer().ok_or(Status::INVALID_VALUE)?;
        if (product.d.columns as u64) < offer.fewest_columns {
            return Err(Status::NOT_SUPPORTED);
        }
        (product.order, product.slowness) = (offer.order, offer.slowness);
        let used = algorithm.workspace();
        if used > workspace_bytes || (used > 0 && !workspace.is_multiple_of(16)) {
            return Err(Status::INVALID_VALUE);
        }
        product.workspace = (workspace as usize, used);
        for (what, address, _) in product.ranges() {
            let element = if what == "workspace" { 16 } else { product.a.element.bytes() };
            if address == 0 || !address.is_multiple_of(element) {
                sim.find(format!("cublasLtMatmul: {what} at {address:#x} is null or not aligned"));
                return Err(Status::INVALID_VALUE);
            }
        }
        sim.counters.matmuls += 1;
        sim.note(format_args!("stream={} {product}", number(stream)));
        sim.submit(stream, None, Work::Matmul(Box::new(product)))?;
        Ok(())
    }

    fn cublasLtMatmulAlgoConfigGetAttribute(
        algorithm: In<Algorithm>,
        name: c_int,
        value: *mut c_void,
        size: usize,
        written: Out<usize>,
    ) |_sim| {
        let (number, bytes) = algorithm.get()?.config(name).ok_or(Status::INVALID_VALUE)?;
        if size == 0 && written.set_if_wanted(bytes) {
            return Ok(());
        }
        if value.is_null() || size != bytes {
            return Err(Status::INVALID_VALUE);
        }
        written.set_if_wanted(bytes);
        let number = number.to_le_bytes();
        // SAFETY: by the API's contract the buffer has `size` bytes, which equals `bytes` here.
        unsafe { std::ptr::copy_nonoverlapping(number.as_ptr(), value.cast::<u8>(), bytes) };
        Ok(())
    }
}

/// Returns the version of the library.
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtGetVersion() -> usize {
    // Version 13.0.2.
    130_002
}

/// Returns the version of the CUDA runtime.
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtGetCudartVersion() -> usize {
    13_000
}

/// Returns the name of a status.
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtGetStatusName(status: c_int) -> *const c_char {
    Status(status).name().as_ptr()
}

/// Returns the description of a status, which is its name here.
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtGetStatusString(status: c_int) -> *const c_char {
    Status(status).name().as_ptr()
}
