//! Wraps cuBLASLt's objects; each is destroyed when it is dropped. Most of the `unsafe` code of
//! `cublaslt` is here and in `product`.

use super::bindings as sys;
use super::error::{CallError, GemmError};
use super::library::Library;
use crate::gpu::driver::{Context, Stream};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::Arc;

/// The library's handle on one device.
pub(super) struct Lt {
    pub library: &'static Library,
    pub context: Context,
    handle: sys::cublasLtHandle_t,
}

// SAFETY: the library's handles may be used from any thread, and by several threads at once.
unsafe impl Send for Lt {}
// SAFETY: as above.
unsafe impl Sync for Lt {}

/// Makes a cuBLASLt call with the device's context current, and turns its status into a `Result`
/// whose error names the function.
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

    /// Turns a status of the library into a `Result`. `operation` says what the call was made for.
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
            // SAFETY: `of` takes any code, and returns null or a string that is never freed.
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
        // SAFETY: the handle was created exactly once, in `new`, and no object of it is left, since
        // each object holds this value.
        let _ = unsafe { self.library.lt.cublasLtDestroy(self.handle) };
    }
}

/// Defines a wrapper of one kind of library object: how it is destroyed, and how its attributes are
/// set.
macro_rules! object {
    ($(#[$doc:meta])* $name:ident, $type:ty, $destroy:ident, $set:ident, $attribute:ty) => {
        $(#[$doc])*
        pub(super) struct $name {
            object: $type,
            lt: Arc<Lt>,
        }

        // SAFETY: the objects are not bound to a thread.
        unsafe impl Send for $name {}

        impl $name {
            /// Sets an attribute.
            ///
            /// # Safety
            /// `T` must be the type that the header gives the attribute.
            pub unsafe fn set<T>(&mut self, attribute: $attribute, value: T) -> Result<(), GemmError> {
                let value_at = std::ptr::from_ref(&value).cast::<c_void>();
                // SAFETY: the object is live, and the library copies the value's bytes.
                unsafe {
                    call!(self.lt, "describing a product", $set(self.object, attribute, value_at, size_of::<T>()))
                }
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: the object was created exactly once, in `new`, and nobody else uses it.
                let _ = unsafe { self.lt.library.lt.$destroy(self.object) };
            }
        }
    };
}

object!(
    /// Describes what is computed: types, transposes and epilogue.
    Description,
    sys::cublasLtMatmulDesc_t,
    cublasLtMatmulDescDestroy,
    cublasLtMatmulDescSetAttribute,
    sys::cublasLtMatmulDescAttributes_t
);
object!(
    /// Describes how a matrix lies in memory, column-major.
    Layout,
    sys::cublasLtMatrixLayout_t,
    cublasLtMatrixLayoutDestroy,
    cublasLtMatrixLayoutSetAttribute,
    sys::cublasLtMatrixLayoutAttribute_t
);
object!(
    /// Describes which algorithms are asked for.
    Preference,
    sys::cublasLtMatmulPreference_t,
    cublasLtMatmulPreferenceDestroy,
    cublasLtMatmulPreferenceSetAttribute,
    sys::cublasLtMatmulPreferenceAttributes_t
);

impl Description {
    /// Creates a description that sums in f32. `CUBLAS_COMPUTE_32F` never rounds f32 operands to
    /// TF32: that has to be requested by `_FAST_TF32`. `_PEDANTIC` would only forbid a
    /// rearrangement of complex products as well.
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
    /// Describes a column-major matrix `[rows, columns]` whose columns start `stride` elements
    /// apart.
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

/// A GEMM as the library sees it, or one chain of it: D = Aᵀ·B (+ C) (+ bias), all column-major,
/// where C is D.
pub(super) struct Matmul {
    pub description: Description,
    /// W `[inputs, outputs]`, or some rows of it.
    pub a: Layout,
    /// x `[inputs, rows]`, or some rows of it.
    pub b: Layout,
    /// out `[outputs, rows]`.
    pub d: Layout,
}

/// The addresses of a GEMM's operands on the device, with the names of [`Matmul`].
pub(super) struct Addresses {
    pub a: u64,
    pub b: u64,
    pub d: u64,
}

impl Matmul {
    fn lt(&self) -> &Lt {
        &self.description.lt
    }

    /// Returns up to `most` algorithms that the library offers, in its own order of preference.
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
        // SAFETY: the objects are live, and `results` holds as many entries as are asked for.
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

    /// Returns the workspace in bytes that an algorithm needs for the GEMM as it is described now,
    /// or `None` if the algorithm does not serve it.
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
        // SAFETY: the objects are live, and `result` is writable.
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

    /// Enqueues the GEMM.
    ///
    /// # Safety
    /// The addresses, and the address of the bias in the description, must point at live memory of
    /// the device that is large enough for the layouts. Until a fence that is recorded after the
    /// GEMM has been passed, nothing but work on this stream may touch that memory or the
    /// workspace.
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
        // SAFETY: the objects are live, and alpha and beta are read before the call returns. The
        // caller promises the rest.
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

    /// Reads an integer from an algorithm's configuration.
    pub fn config<T: Copy + Default>(
        &self,
        algorithm: &sys::cublasLtMatmulAlgo_t,
        attribute: sys::cublasLtMatmulAlgoConfigAttributes_t,
        operation: &str,
    ) -> Result<T, GemmError> {
        let (mut value, mut written) = (T::default(), 0usize);
        let value_at = std::ptr::from_mut(&mut value).cast::<c_void>();
        // SAFETY: `value` has the size that is passed, and any bytes are a valid `T`, which is an
        // integer here.
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
