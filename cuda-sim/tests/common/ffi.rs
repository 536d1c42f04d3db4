//! The C ABI as a caller sees it.
#![allow(non_snake_case)]

use std::ffi::{c_char, c_int, c_void};

use seqstream_cuda_sim::{CostFunction, Counters, EmuKernel};

unsafe extern "C" {
    pub fn cuInit(flags: u32) -> c_int;
    pub fn cuDeviceGetCount(count: *mut c_int) -> c_int;
    pub fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> c_int;
    pub fn cuDeviceGetName(name: *mut c_char, size: c_int, device: c_int) -> c_int;
    pub fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, device: c_int) -> c_int;
    pub fn cuDevicePrimaryCtxRetain(context: *mut u64, device: c_int) -> c_int;
    pub fn cuDevicePrimaryCtxRelease_v2(device: c_int) -> c_int;
    pub fn cuCtxSetCurrent(context: u64) -> c_int;
    pub fn cuCtxGetDevice(device: *mut c_int) -> c_int;
    pub fn cuCtxPushCurrent_v2(context: u64) -> c_int;
    pub fn cuCtxPopCurrent_v2(context: *mut u64) -> c_int;
    pub fn cuCtxSynchronize() -> c_int;
    pub fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> c_int;
    pub fn cuMemAlloc_v2(out: *mut u64, bytes: usize) -> c_int;
    pub fn cuMemFree_v2(address: u64) -> c_int;
    pub fn cuMemHostAlloc(out: *mut *mut c_void, bytes: usize, flags: u32) -> c_int;
    pub fn cuMemFreeHost(address: *mut c_void) -> c_int;
    pub fn cuMemcpyHtoDAsync_v2(
        target: u64,
        source: *const c_void,
        bytes: usize,
        stream: u64,
    ) -> c_int;
    pub fn cuMemcpyDtoHAsync_v2(
        target: *mut c_void,
        source: u64,
        bytes: usize,
        stream: u64,
    ) -> c_int;
    pub fn cuMemcpyDtoDAsync_v2(target: u64, source: u64, bytes: usize, stream: u64) -> c_int;
    pub fn cuMemcpyHtoD_v2(target: u64, source: *const c_void, bytes: usize) -> c_int;
    pub fn cuMemcpyDtoH_v2(target: *mut c_void, source: u64, bytes: usize) -> c_int;
    pub fn cuMemsetD8Async(target: u64, value: u8, count: usize, stream: u64) -> c_int;
    pub fn cuStreamCreate(stream: *mut u64, flags: u32) -> c_int;
    pub fn cuStreamDestroy_v2(stream: u64) -> c_int;
    pub fn cuStreamSynchronize(stream: u64) -> c_int;
    pub fn cuStreamQuery(stream: u64) -> c_int;
    pub fn cuStreamWaitEvent(stream: u64, event: u64, flags: u32) -> c_int;
    pub fn cuEventCreate(event: *mut u64, flags: u32) -> c_int;
    pub fn cuEventRecord(event: u64, stream: u64) -> c_int;
    pub fn cuEventQuery(event: u64) -> c_int;
    pub fn cuEventSynchronize(event: u64) -> c_int;
    pub fn cuEventElapsedTime(milliseconds: *mut f32, start: u64, end: u64) -> c_int;
    pub fn cuEventDestroy_v2(event: u64) -> c_int;
    pub fn cuModuleLoadData(module: *mut u64, image: *const c_void) -> c_int;
    pub fn cuModuleUnload(module: u64) -> c_int;
    pub fn cuModuleGetFunction(out: *mut u64, module: u64, name: *const c_char) -> c_int;
    pub fn cuFuncSetAttribute(function: u64, attribute: c_int, value: c_int) -> c_int;
    pub fn cuLaunchKernel(
        function: u64,
        grid_x: u32,
        grid_y: u32,
        grid_z: u32,
        block_x: u32,
        block_y: u32,
        block_z: u32,
        shared: u32,
        stream: u64,
        params: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) -> c_int;
    #[allow(clippy::too_many_arguments)] // CUDA's
    pub fn cuTensorMapEncodeTiled(
        map: *mut c_void,
        data_type: c_int,
        rank: u32,
        address: *mut c_void,
        dims: *const u64,
        strides: *const u64,
        boxes: *const u32,
        element_strides: *const u32,
        interleave: c_int,
        swizzle: c_int,
        promotion: c_int,
        fill: c_int,
    ) -> c_int;
    pub fn cuGetErrorName(code: c_int, name: *mut *const c_char) -> c_int;

    pub fn seqstream_sim_reset(devices: u32, seed: u64) -> c_int;
    pub fn seqstream_sim_set_machine(
        machine: *const c_char,
        rates: *const c_char,
        costs: Option<CostFunction>,
        values: c_int,
        buffer: *mut c_char,
        size: usize,
    ) -> c_int;
    pub fn seqstream_sim_has_rate(name: *const c_char) -> c_int;
    pub fn seqstream_sim_machine_name(buffer: *mut c_char, size: usize) -> usize;
    pub fn seqstream_sim_now() -> f64;
    pub fn seqstream_sim_host_work(microseconds: f64);
    pub fn seqstream_sim_busy(device: u32, engine: u32) -> f64;
    pub fn seqstream_sim_set_memory(bytes: usize);
    pub fn seqstream_sim_set_fault(fault: *const c_char) -> c_int;
    pub fn seqstream_sim_lose_device(device: u32, code: c_int) -> c_int;
    pub fn seqstream_sim_counters(out: *mut Counters);
    pub fn seqstream_sim_log(buffer: *mut c_char, size: usize) -> usize;
    pub fn seqstream_sim_findings(buffer: *mut c_char, size: usize) -> usize;
    pub fn seqstream_sim_live_allocations(buffer: *mut c_char, size: usize) -> usize;
    pub fn seqstream_sim_register_kernel(kernel: *const EmuKernel);
    pub fn seqstream_sim_check_memory(address: *const c_void, bytes: usize, write: c_int) -> c_int;
}
