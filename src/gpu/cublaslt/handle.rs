//! cuBLASLt's objects, each given back when it is dropped. The home of this room's `unsafe`, with `product`.

use super::bindings as sys;
use super::error::{CallError, GemmError};
use super::library::Library;
use crate::gpu::driver::{Context, Stream};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::Arc;

/// The library on a device.
pub(super) struct Lt {
    pub library: &'static Library,
    pub context: Context,
    handle: sys::cublasLtHandle_t,
}

// SAFETY: the library's handles may be used from any thread, and by several at once.
unsafe impl Send for Lt {}
// SAFETY: as above.
unsafe impl Sync for Lt {}

/// Makes a call of cuBLASLt with the device's context current, and turns its answer into a result that names it.
macro_rules! call {
    ($lt:expr, $operation:expr, $function:ident($($argument:expr),* $(,)?)) => {{
        let lt: &Lt = &$lt;
        lt.context
            .bind()
            .map_err(GemmError::from)
            .and_then(|()| lt.check(stringify!($function), $operation, lt.library.lt.$function($($argument),*)))
    }};
}

impl Lt {
    pub fn new(context: &Context, library: &'static Library) -> Result<Arc<Self>, GemmError> {
        let mut lt = Self {
            library,
            context: context.clone(),
            handle: std::ptr::null_mut(),
        };
        let mut handle = std::ptr::null_mut();
        // SAFETY: `handle` is writable.
        unsafe { call!(lt, "opening cuBLASLt", cublasLtCreate(&mut handle))? };
        lt.handle = handle;
        Ok(Arc::new(lt))
    }

    /// An answer of the library as a result. `operation` is what the call was made for.
    pub fn check(
        &self,
        call: &'static str,
        operation: &str,
        status: sys::cublasStatus_t,
    ) -> Result<(), GemmError> {
        if status == sys::CUBLAS_STATUS_SUCCESS {
            return Ok(());
        }
        let text = |of: unsafe extern "C" fn(sys::cublasStatus_t) -> *const c_char| {
            // SAFETY: `of` takes any code, and answers null or a string that is never freed.
            unsafe {
                let text = of(status);
                match text.is_null() {
                    true => "unknown".into(),
                    false => CStr::from_ptr(text).to_string_lossy().into_owned(),
                }
            }
        };
        Err(GemmError::Call(Box::new(CallError {
            call,
            status,
            name: text(self.library.lt.cublasLtGetStatusName),
            meaning: text(self.library.lt.cublasLtGetStatusString),
            operation: operation.to_owned(),
            device: self.context.ordinal(),
            stream: None,
            batch: None,
            cause: None,
        })))
    }
}

impl Drop for Lt {
    fn drop(&mut self) {
        if self.handle.is_null() {
            return;
        }
        let _ = self.context.bind();
        // SAFETY: made once, in `new`, and no object of it is left: each holds this value.
        let _ = unsafe { self.library.lt.cublasLtDestroy(self.handle) };
    }
}

/// Defines an object of the library: how it is given back, and how its attributes are set.
macro_rules! object {
    ($(#[$doc:meta])* $name:ident, $type:ty, $destroy:ident, $set:ident, $attribute:ty) => {
        $(#[$doc])*
        pub(super) struct $name {
            object: $type,
            lt: Arc<Lt>,
        }

        // SAFETY: the objects belong to no thread.
        unsafe impl Send for $name {}

        impl $name {
            /// # Safety
            /// `T` is the type that the header gives the attribute.
            pub unsafe fn set<T>(&mut self, attribute: $attribute, value: T) -> Result<(), GemmError> {
                let value_at = std::ptr::from_ref(&value).cast::<c_void>();
                // SAFETY: a live object; the library copies the value's bytes.
                unsafe {
                    call!(self.lt, "describing a product", $set(self.object, attribute, value_at, size_of::<T>()))
                }
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: made once, in `new`, and nobody else has it.
                let _ = unsafe { self.lt.library.lt.$destroy(self.object) };
            }
        }
    };
}

object!(
    /// What is computed: types, transposes, epilogue.
    Description,
    sys::cublasLtMatmulDesc_t,
    cublasLtMatmulDescDestroy,
    cublasLtMatmulDescSetAttribute,
    sys::cublasLtMatmulDescAttributes_t
);
object!(
    /// How a matrix lies in memory, column-major.
    Layout,
    sys::cublasLtMatrixLayout_t,
    cublasLtMatrixLayoutDestroy,
    cublasLtMatrixLayoutSetAttribute,
    sys::cublasLtMatrixLayoutAttribute_t
);
object!(
    /// What algorithms are asked for.
    Preference,
    sys::cublasLtMatmulPreference_t,
    cublasLtMatmulPreferenceDestroy,
    cublasLtMatmulPreferenceSetAttribute,
    sys::cublasLtMatmulPreferenceAttributes_t
);

impl Description {
    /// Sums in f32: `CUBLAS_COMPUTE_32F` never rounds f32 operands to TF32, which has to be asked for by
    /// `_FAST_TF32`; and what `_PEDANTIC` forbids beyond it is a rearrangement of complex products.
    pub fn new(lt: &Arc<Lt>) -> Result<Self, GemmError> {
        let (mut object, scale) = (std::ptr::null_mut(), sys::CUDA_R_32F);
        let compute = sys::CUBLAS_COMPUTE_32F;
        // SAFETY: `object` is writable.
        unsafe {
            call!(
                **lt,
                "describing a product",
                cublasLtMatmulDescCreate(&mut object, compute, scale)
            )?
        };
        let lt = Arc::clone(lt);
        Ok(Self { object, lt })
    }
}

impl Layout {
    /// [rows, columns], column-major, a column `stride` elements behind the one before.
    pub fn new(
        lt: &Arc<Lt>,
        element: sys::cudaDataType,
        (rows, columns): (u64, u64),
        stride: u64,
    ) -> Result<Self, GemmError> {
        let (mut object, stride) = (std::ptr::null_mut(), stride as i64);
        // SAFETY: `object` is writable.
        unsafe {
            call!(
                **lt,
                "describing a matrix",
                cublasLtMatrixLayoutCreate(&mut object, element, rows, columns, stride)
            )?
        };
        let lt = Arc::clone(lt);
        Ok(Self { object, lt })
    }
}

impl Preference {
    pub fn new(lt: &Arc<Lt>) -> Result<Self, GemmError> {
        let mut object = std::ptr::null_mut();
        // SAFETY: `object` is writable.
        unsafe {
            call!(
                **lt,
                "asking for algorithms",
                cublasLtMatmulPreferenceCreate(&mut object)
            )?
        };
        let lt = Arc::clone(lt);
        Ok(Self { object, lt })
    }
}

/// A product as the library sees it, or one chain of it: D = Aᵀ·B (+ C) (+ bias), column-major, C being D.
pub(super) struct Matmul {
    pub description: Description,
    /// W, [inputs, outputs], or some rows of it.
    pub a: Layout,
    /// x, [inputs, rows], or some rows of it.
    pub b: Layout,
    /// out, [outputs, rows].
    pub d: Layout,
}

/// Addresses of a product's operands on the device, as `Matmul` names them.
pub(super) struct Addresses {
    pub a: u64,
    pub b: u64,
    pub d: u64,
}

impl Matmul {
    fn lt(&self) -> &Lt {
        &self.description.lt
    }

    /// The algorithms that the library offers, best first as it thinks.
    pub fn offered(
        &self,
        preference: &Preference,
        most: usize,
        operation: &str,
    ) -> Result<Vec<sys::cublasLtMatmulHeuristicResult_t>, GemmError> {
        let none = sys::cublasLtMatmulHeuristicResult_t {
            algo: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
            workspaceSize: 0,
            state: sys::CUBLAS_STATUS_NOT_SUPPORTED,
            wavesCount: 0.0,
            reserved: [0; 4],
        };
        let (mut results, mut found) = (vec![none; most], 0 as c_int);
        let d = self.d.object;
        // SAFETY: live objects; `results` has room for as many as are asked for.
        unsafe {
            call!(
                self.lt(),
                operation,
                cublasLtMatmulAlgoGetHeuristic(
                    self.lt().handle,
                    self.description.object,
                    self.a.object,
                    self.b.object,
                    d,
                    d,
                    preference.object,
                    most as c_int,
                    results.as_mut_ptr(),
                    &mut found,
                )
            )?
        };
        results.truncate(found.max(0) as usize);
        results.retain(|result| result.state == sys::CUBLAS_STATUS_SUCCESS);
        Ok(results)
    }

    /// The workspace that an algorithm needs for the product as it is described now; `None` where it does not serve.
    pub fn serves(
        &self,
        algorithm: &sys::cublasLtMatmulAlgo_t,
        operation: &str,
    ) -> Result<Option<usize>, GemmError> {
        let mut result = sys::cublasLtMatmulHeuristicResult_t {
            algo: *algorithm,
            workspaceSize: 0,
            state: sys::CUBLAS_STATUS_SUCCESS,
            wavesCount: 0.0,
            reserved: [0; 4],
        };
        let d = self.d.object;
        self.lt().context.bind()?;
        // SAFETY: live objects, and `result` is writable.
        let status = unsafe {
            self.lt().library.lt.cublasLtMatmulAlgoCheck(
                self.lt().handle,
                self.description.object,
                self.a.object,
                self.b.object,
                d,
                d,
                algorithm,
                &mut result,
            )
        };
        match status {
            sys::CUBLAS_STATUS_NOT_SUPPORTED
            | sys::CUBLAS_STATUS_INVALID_VALUE
            | sys::CUBLAS_STATUS_ARCH_MISMATCH => Ok(None),
            status => {
                self.lt()
                    .check("cublasLtMatmulAlgoCheck", operation, status)?;
                Ok(Some(result.workspaceSize))
            }
        }
    }

    /// Enqueues the product.
    ///
    /// # Safety
    /// The addresses are of live memory of the device, large enough for the layouts, and so is that of the bias that
    /// the description names. All of it and the workspace are touched by nothing but this stream until a fence that
    /// is recorded after is passed.
    pub unsafe fn enqueue(
        &self,
        algorithm: &sys::cublasLtMatmulAlgo_t,
        beta: f32,
        at: &Addresses,
        workspace: (u64, usize),
        stream: &Stream,
    ) -> Result<(), GemmError> {
        let (alpha, d) = (1f32, self.d.object);
        let lt = self.lt();
        lt.context.bind()?;
        // SAFETY: live objects; alpha and beta are read before the call returns; the rest the caller promises.
        let status = unsafe {
            lt.library.lt.cublasLtMatmul(
                lt.handle,
                self.description.object,
                std::ptr::from_ref(&alpha).cast(),
                at.a as *const c_void,
                self.a.object,
                at.b as *const c_void,
                self.b.object,
                std::ptr::from_ref(&beta).cast(),
                at.d as *const c_void,
                d,
                at.d as *mut c_void,
                d,
                algorithm,
                workspace.0 as *mut c_void,
                workspace.1,
                stream.handle().cast(),
            )
        };
        lt.check("cublasLtMatmul", "a product", status)
    }

    /// A number of an algorithm's configuration.
    pub fn config<T: Copy + Default>(
        &self,
        algorithm: &sys::cublasLtMatmulAlgo_t,
        attribute: sys::cublasLtMatmulAlgoConfigAttributes_t,
        operation: &str,
    ) -> Result<T, GemmError> {
        let (mut value, mut written) = (T::default(), 0usize);
        let value_at = std::ptr::from_mut(&mut value).cast::<c_void>();
        // SAFETY: `value` has the size that is said; any bytes are a valid `T`, which is an integer here.
        unsafe {
            call!(
                self.lt(),
                operation,
                cublasLtMatmulAlgoConfigGetAttribute(
                    algorithm,
                    attribute,
                    value_at,
                    size_of::<T>(),
                    &mut written
                )
            )?
        };
        Ok(value)
    }
}
