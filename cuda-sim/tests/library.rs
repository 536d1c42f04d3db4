//! The shared library itself: where it is, and what it exports.
#![allow(clippy::unwrap_used)] // what cannot go on in a test panics

use std::ffi::{CStr, CString, c_int};

/// All that seqstream resolves by name.
const SYMBOLS: &str = "cuInit cuDriverGetVersion cuDeviceGetCount cuDeviceGet cuDeviceGetName cuDeviceGetAttribute \
    cuDeviceTotalMem_v2 cuDevicePrimaryCtxRetain cuDevicePrimaryCtxRelease_v2 cuCtxSetCurrent cuCtxGetCurrent \
    cuCtxPushCurrent_v2 cuCtxPopCurrent_v2 cuCtxSynchronize cuCtxGetDevice cuMemGetInfo_v2 cuMemAlloc_v2 \
    cuMemFree_v2 cuMemHostAlloc cuMemAllocHost_v2 cuMemFreeHost cuStreamCreate cuStreamCreateWithPriority \
    cuStreamDestroy_v2 cuStreamSynchronize cuStreamQuery cuStreamWaitEvent cuEventCreate cuEventRecord cuEventQuery \
    cuEventSynchronize cuEventElapsedTime cuEventDestroy_v2 cuMemcpyHtoDAsync_v2 cuMemcpyDtoHAsync_v2 \
    cuMemcpyDtoDAsync_v2 cuMemcpyHtoD_v2 cuMemcpyDtoH_v2 cuMemsetD8Async cuModuleLoadData cuModuleUnload \
    cuModuleGetFunction cuFuncSetAttribute cuFuncGetAttribute cuLaunchKernel cuGetErrorName cuGetErrorString \
    cuDeviceGetPCIBusId \
    cublasLtCreate cublasLtDestroy cublasLtGetVersion cublasLtMatmulDescCreate cublasLtMatmulDescDestroy \
    cublasLtMatmulDescSetAttribute cublasLtMatrixLayoutCreate cublasLtMatrixLayoutDestroy \
    cublasLtMatrixLayoutSetAttribute cublasLtMatmulPreferenceCreate cublasLtMatmulPreferenceDestroy \
    cublasLtMatmulPreferenceSetAttribute cublasLtMatmulAlgoGetHeuristic cublasLtMatmul \
    cublasLtMatmulAlgoConfigGetAttribute cublasLtGetStatusString \
    seqstream_sim_reset seqstream_sim_reset_from_environment seqstream_sim_set_memory seqstream_sim_set_seed \
    seqstream_sim_set_architecture seqstream_sim_set_fault seqstream_sim_lose_device seqstream_sim_counters \
    seqstream_sim_counters_size seqstream_sim_counter seqstream_sim_log seqstream_sim_findings \
    seqstream_sim_live_allocations \
    seqstream_sim_set_log seqstream_sim_register_kernel";

struct Library(*mut libc::c_void);

impl Library {
    fn open() -> Self {
        let deps = std::env::current_exe()
            .unwrap()
            .parent()
            .unwrap()
            .to_owned();
        let path = CString::new(deps.join("libseqstream_cuda_sim.so").to_str().unwrap()).unwrap();
        // SAFETY: a C string; the library's constructors are those of the emulated kernels' registry.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!handle.is_null(), "{path:?}");
        Self(handle)
    }

    fn symbol(&self, name: &str) -> *mut libc::c_void {
        let name = CString::new(name).unwrap();
        // SAFETY: an open library and a C string.
        unsafe { libc::dlsym(self.0, name.as_ptr()) }
    }
}

#[test]
fn the_library_beside_the_tests_exports_all_that_the_engine_calls() {
    let library = Library::open();
    let missing: Vec<&str> = SYMBOLS
        .split_whitespace()
        .filter(|name| library.symbol(name).is_null())
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_settings_come_from_the_environment() {
    // In a process of its own, for the environment is read once.
    const CHILD: &str = "CUDA_SIM_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        let library = Library::open();
        let mut count: c_int = 0;
        // SAFETY: both symbols have these types.
        unsafe {
            let init: extern "C" fn(u32) -> c_int = std::mem::transmute(library.symbol("cuInit"));
            let devices: extern "C" fn(*mut c_int) -> c_int =
                std::mem::transmute(library.symbol("cuDeviceGetCount"));
            assert_eq!((init(0), devices(&mut count), count), (0, 0, 3));
            assert_eq!(devices(&mut count), 999);
        }
        return;
    }
    let folder = std::env::temp_dir().join(format!("cuda-sim-log-{}", std::process::id()));
    let child = |devices: &str| {
        std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_settings_come_from_the_environment"])
            .env(CHILD, "1")
            .env("SEQSTREAM_SIM_DEVICES", devices)
            .env("SEQSTREAM_SIM_FAULT", "cuDeviceGetCount#2:999")
            .env("SEQSTREAM_SIM_LOG", &folder)
            .output()
            .unwrap()
    };
    let output = child("3");
    let log = std::fs::read_to_string(&folder).unwrap();
    std::fs::remove_file(&folder).unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(log.lines().next(), Some("call 1 cuInit = 0"));
    assert_eq!(
        log.lines().last(),
        Some("call 3 cuDeviceGetCount [fault] = 999")
    );
    let refused = child("many");
    assert!(!refused.status.success());
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        told.contains("SEQSTREAM_SIM_DEVICES=many is not possible"),
        "{told}"
    );
}

#[test]
fn host_code_that_touches_freed_device_memory_is_told_so() {
    const CHILD: &str = "CUDA_SIM_TEST_TOUCH";
    if std::env::var_os(CHILD).is_some() {
        let library = Library::open();
        // SAFETY: the symbols have these types; the last access is the mistake that is tested.
        unsafe {
            let reset: extern "C" fn(u32, u64) -> c_int =
                std::mem::transmute(library.symbol("seqstream_sim_reset"));
            let init: extern "C" fn(u32) -> c_int = std::mem::transmute(library.symbol("cuInit"));
            let retain: extern "C" fn(*mut u64, c_int) -> c_int =
                std::mem::transmute(library.symbol("cuDevicePrimaryCtxRetain"));
            let current: extern "C" fn(u64) -> c_int =
                std::mem::transmute(library.symbol("cuCtxSetCurrent"));
            let alloc: extern "C" fn(*mut u64, usize) -> c_int =
                std::mem::transmute(library.symbol("cuMemAlloc_v2"));
            let free: extern "C" fn(u64) -> c_int =
                std::mem::transmute(library.symbol("cuMemFree_v2"));
            let (mut context, mut at) = (0, 0);
            assert_eq!(
                (
                    reset(1, 0),
                    init(0),
                    retain(&mut context, 0),
                    current(context)
                ),
                (0, 0, 0, 0)
            );
            assert_eq!((alloc(&mut at, 64), free(at)), (0, 0));
            std::hint::black_box((at as *const u32).read_volatile());
        }
        return;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "host_code_that_touches_freed_device_memory_is_told_so",
        ])
        .env(CHILD, "1")
        .output()
        .unwrap();
    assert!(!output.status.success());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        told.contains("cuda-sim: host code touched freed or unallocated simulated memory at 0x"),
        "{told}"
    );
}

#[test]
fn names_of_errors_are_static_text() {
    let library = Library::open();
    // SAFETY: both symbols have these types; the names are static C strings.
    unsafe {
        let name: extern "C" fn(c_int, *mut *const libc::c_char) -> c_int =
            std::mem::transmute(library.symbol("cuGetErrorName"));
        let status: extern "C" fn(c_int) -> *const libc::c_char =
            std::mem::transmute(library.symbol("cublasLtGetStatusString"));
        let mut out = std::ptr::null();
        assert_eq!(name(719, &mut out), 0);
        assert_eq!(CStr::from_ptr(out), c"CUDA_ERROR_LAUNCH_FAILED");
        assert_eq!(CStr::from_ptr(status(15)), c"CUBLAS_STATUS_NOT_SUPPORTED");
    }
}

#[test]
fn a_counter_has_a_name() {
    let library = Library::open();
    // SAFETY: both symbols have these types.
    unsafe {
        let counter: extern "C" fn(*const libc::c_char) -> u64 =
            std::mem::transmute(library.symbol("seqstream_sim_counter"));
        let size: extern "C" fn() -> usize =
            std::mem::transmute(library.symbol("seqstream_sim_counters_size"));
        assert_eq!(counter(c"live_modules".as_ptr()), 0);
        assert_eq!(counter(c"no_such".as_ptr()), u64::MAX);
        assert_eq!(size() % 8, 0);
    }
}
