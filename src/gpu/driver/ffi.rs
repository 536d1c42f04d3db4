//! Declares the driver functions that the engine calls, as the CUDA driver API documents them, but
//! with `i32` for the result codes.
#![allow(missing_docs)]

pub use cust::sys::{CUcontext, CUdevice, CUdeviceptr, CUevent, CUfunction, CUmodule, CUstream};
use std::ffi::{c_char, c_int, c_uint, c_void};

/// `CU_STREAM_NON_BLOCKING`: the stream is not ordered with the legacy NULL stream.
pub const STREAM_NON_BLOCKING: c_uint = 1;
/// `CU_EVENT_BLOCKING_SYNC`: a host thread that waits for the event sleeps.
pub const EVENT_BLOCKING_SYNC: c_uint = 1;
/// `CU_EVENT_DISABLE_TIMING`: the event records no time.
pub const EVENT_DISABLE_TIMING: c_uint = 2;
/// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR` and `.._MINOR`.
pub const COMPUTE_CAPABILITY: [c_int; 2] = [75, 76];
/// `CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT`.
pub const MULTIPROCESSORS: c_int = 16;
/// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`.
pub const MAX_DYNAMIC_SHARED: c_int = 8;

/// `CUDA_SUCCESS`.
pub const SUCCESS: i32 = 0;
/// `CUDA_ERROR_NOT_READY`: the answer of a query while work is pending, not an error.
pub const NOT_READY: i32 = 600;

unsafe extern "C" {
    pub fn cuInit(flags: c_uint) -> i32;
    pub fn cuDriverGetVersion(version: *mut c_int) -> i32;
    pub fn cuGetErrorName(code: i32, name: *mut *const c_char) -> i32;
    pub fn cuGetErrorString(code: i32, text: *mut *const c_char) -> i32;

    pub fn cuDeviceGetCount(count: *mut c_int) -> i32;
    pub fn cuDeviceGet(device: *mut CUdevice, ordinal: c_int) -> i32;
    pub fn cuDeviceGetName(name: *mut c_char, len: c_int, device: CUdevice) -> i32;
    pub fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, device: CUdevice) -> i32;
    pub fn cuDeviceTotalMem_v2(bytes: *mut usize, device: CUdevice) -> i32;
    pub fn cuDevicePrimaryCtxRetain(context: *mut CUcontext, device: CUdevice) -> i32;
    pub fn cuDevicePrimaryCtxRelease_v2(device: CUdevice) -> i32;
    pub fn cuCtxSetCurrent(context: CUcontext) -> i32;
    pub fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> i32;

    pub fn cuMemAlloc_v2(address: *mut CUdeviceptr, bytes: usize) -> i32;
    pub fn cuMemFree_v2(address: CUdeviceptr) -> i32;
    pub fn cuMemHostAlloc(address: *mut *mut c_void, bytes: usize, flags: c_uint) -> i32;
    pub fn cuMemFreeHost(address: *mut c_void) -> i32;
    pub fn cuMemcpyHtoDAsync_v2(
        to: CUdeviceptr,
        from: *const c_void,
        bytes: usize,
        stream: CUstream,
    ) -> i32;
    pub fn cuMemcpyDtoHAsync_v2(
        to: *mut c_void,
        from: CUdeviceptr,
        bytes: usize,
        stream: CUstream,
    ) -> i32;
    pub fn cuMemcpyDtoDAsync_v2(
        to: CUdeviceptr,
        from: CUdeviceptr,
        bytes: usize,
        stream: CUstream,
    ) -> i32;
    pub fn cuMemsetD8Async(address: CUdeviceptr, value: u8, bytes: usize, stream: CUstream) -> i32;

    pub fn cuStreamCreate(stream: *mut CUstream, flags: c_uint) -> i32;
    pub fn cuStreamDestroy_v2(stream: CUstream) -> i32;
    pub fn cuStreamQuery(stream: CUstream) -> i32;
    pub fn cuStreamSynchronize(stream: CUstream) -> i32;
    pub fn cuStreamWaitEvent(stream: CUstream, event: CUevent, flags: c_uint) -> i32;

    pub fn cuEventCreate(event: *mut CUevent, flags: c_uint) -> i32;
    pub fn cuEventDestroy_v2(event: CUevent) -> i32;
    pub fn cuEventRecord(event: CUevent, stream: CUstream) -> i32;
    pub fn cuEventSynchronize(event: CUevent) -> i32;
    pub fn cuEventElapsedTime(milliseconds: *mut f32, start: CUevent, end: CUevent) -> i32;

    pub fn cuModuleLoadData(module: *mut CUmodule, image: *const c_void) -> i32;
    pub fn cuModuleUnload(module: CUmodule) -> i32;
    pub fn cuModuleGetFunction(
        function: *mut CUfunction,
        module: CUmodule,
        name: *const c_char,
    ) -> i32;
    pub fn cuFuncSetAttribute(function: CUfunction, attribute: c_int, value: c_int) -> i32;
    pub fn cuLaunchKernel(
        function: CUfunction,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        shared_bytes: c_uint,
        stream: CUstream,
        params: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) -> i32;

    #[allow(clippy::too_many_arguments)] // CUDA's signature
    pub fn cuTensorMapEncodeTiled(
        map: *mut super::tensor_map::TensorMap,
        data_type: i32,
        rank: c_uint,
        address: *mut c_void,
        dims: *const u64,
        strides: *const u64,
        boxes: *const c_uint,
        element_strides: *const c_uint,
        interleave: i32,
        swizzle: i32,
        promotion: i32,
        fill: i32,
    ) -> i32;

    /// Makes a file the library that the calls go to, unless one is open already. Defined in
    /// `trampolines.c`.
    pub fn cuda_trampoline_choose(path: *const c_char);
    /// Names the library that the calls go to (result 1), or says why there is none (result 0).
    /// Defined in `trampolines.c`.
    pub fn cuda_trampoline_library(text: *mut *const c_char) -> c_int;
}
