//! A small program's view of the driver: each function is one call, and panics unless it returns 0, but for those
//! that return the code.
// Each test file uses its own part of this; and what cannot go on in a test panics.
#![allow(dead_code, clippy::unwrap_used)]

pub mod ffi;
pub mod kernels;

use std::ffi::{CString, c_char, c_int, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ffi::*;
use seqstream_cuda_sim::Counters;

pub const NON_BLOCKING: u32 = 1;
pub const NOT_READY: c_int = 600;

/// One simulator a process: tests of one file take turns.
static TURN: Mutex<()> = Mutex::new(());

pub struct Sim {
    _turn: MutexGuard<'static, ()>,
    pub contexts: Vec<u64>,
    pub module: u64,
}

#[track_caller]
pub fn ok(code: c_int) {
    assert_eq!(code, 0, "findings: {}", findings());
}

macro_rules! get {
    ($function:ident($($before:expr),*; $($after:expr),*)) => {{
        let mut out = Default::default();
        // SAFETY: the place is of the type that the function's declaration names; so are the arguments.
        ok(unsafe { $function($($before,)* &raw mut out $(, $after)*) });
        out
    }};
}
impl Sim {
    /// A new simulator without any call made.
    pub fn bare(devices: u32, seed: u64) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: as declared.
        unsafe {
            let (none, size) = (std::ptr::null_mut(), 0);
            let clock = seqstream_sim_set_machine(std::ptr::null(), none, None, 1, none, size);
            assert_eq!(clock, 0);
            seqstream_sim_set_memory(64 << 20);
            assert_eq!(seqstream_sim_reset(devices, seed), 0);
        }
        kernels::register();
        Self {
            _turn: turn,
            contexts: Vec::new(),
            module: 0,
        }
    }

    /// With contexts on all devices, that of device 0 current, and a module in it.
    pub fn start(devices: u32, seed: u64) -> Self {
        let mut sim = Self::bare(devices, seed);
        // SAFETY: as declared.
        ok(unsafe { cuInit(0) });
        sim.contexts = (0..devices as c_int)
            .map(|device| get!(cuDevicePrimaryCtxRetain(; device)))
            .collect();
        // SAFETY: as declared.
        unsafe {
            ok(cuCtxSetCurrent(sim.contexts[0]));
            ok(cuModuleLoadData(&mut sim.module, c"image".as_ptr().cast()));
        }
        sim
    }

    pub fn function(&self, name: &str) -> u64 {
        function(self.module, name)
    }
}

pub fn function(module: u64, name: &str) -> u64 {
    let name = CString::new(name).unwrap();
    get!(cuModuleGetFunction(; module, name.as_ptr()))
}

pub fn counters() -> Counters {
    let mut out = Counters::default();
    // SAFETY: a `Counters`.
    unsafe { seqstream_sim_counters(&mut out) };
    out
}

fn text(read: unsafe extern "C" fn(*mut c_char, usize) -> usize) -> String {
    // SAFETY: first without a buffer, then with one of the size given.
    unsafe {
        let mut buffer = vec![0u8; read(std::ptr::null_mut(), 0)];
        read(buffer.as_mut_ptr().cast(), buffer.len());
        buffer.pop();
        String::from_utf8(buffer).unwrap()
    }
}

pub fn findings() -> String {
    text(seqstream_sim_findings)
}

pub fn log() -> String {
    text(seqstream_sim_log)
}

pub fn live_allocations() -> String {
    text(seqstream_sim_live_allocations)
}

pub fn order_fault(fault: &str) {
    let fault = CString::new(fault).unwrap();
    // SAFETY: a C string.
    assert_eq!(unsafe { seqstream_sim_set_fault(fault.as_ptr()) }, 0);
}

pub fn alloc(bytes: usize) -> u64 {
    get!(cuMemAlloc_v2(; bytes))
}

pub fn stream(flags: u32) -> u64 {
    get!(cuStreamCreate(; flags))
}

pub fn event() -> u64 {
    get!(cuEventCreate(; 0))
}

/// Pinned f32.
pub struct Pinned {
    pub at: *mut f32,
    pub len: usize,
}

impl Pinned {
    pub fn new(len: usize) -> Self {
        let mut at: *mut c_void = std::ptr::null_mut();
        // SAFETY: as declared.
        ok(unsafe { cuMemHostAlloc(&mut at, len * 4, 0) });
        Self { at: at.cast(), len }
    }

    pub fn of(values: &[f32]) -> Self {
        let mut new = Self::new(values.len());
        new.slice().copy_from_slice(values);
        new
    }

    /// Only while no operation that writes here is pending.
    pub fn slice(&mut self) -> &mut [f32] {
        // SAFETY: the allocation has so many elements, and is freed by `free` alone.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.len) }
    }

    pub fn free(self) {
        // SAFETY: as declared.
        ok(unsafe { cuMemFreeHost(self.at.cast()) });
    }
}

/// `target[i] = source[i] + add`, by the checked kernel `add`.
pub fn launch_add(
    function: u64,
    stream: u64,
    target: u64,
    source: u64,
    count: u32,
    add: f32,
) -> c_int {
    let mut params = kernels::AddParams {
        target,
        source,
        count,
        add,
    };
    let mut list = [(&raw mut params).cast::<c_void>()];
    let blocks = count.div_ceil(kernels::BLOCK);
    // SAFETY: the kernel's one parameter.
    unsafe {
        let (params, extra) = (list.as_mut_ptr(), std::ptr::null_mut());
        cuLaunchKernel(
            function,
            blocks,
            1,
            1,
            kernels::BLOCK,
            1,
            1,
            0,
            stream,
            params,
            extra,
        )
    }
}

pub fn timeless_event() -> u64 {
    const DISABLE_TIMING: u32 = 2;
    get!(cuEventCreate(; DISABLE_TIMING))
}

/// Launches a kernel with its one struct of parameters on the NULL stream and waits for it.
pub fn launch<P>(function: u64, grid: [u32; 3], block: [u32; 3], shared: u32, params: &P) -> c_int {
    let mut list = [std::ptr::from_ref(params).cast_mut().cast::<c_void>()];
    // SAFETY: the kernel's one parameter, which the caller made for it.
    unsafe {
        let (params, extra) = (list.as_mut_ptr(), std::ptr::null_mut());
        let [x, y, z] = grid;
        let [bx, by, bz] = block;
        let code = cuLaunchKernel(function, x, y, z, bx, by, bz, shared, 0, params, extra);
        if code == 0 { cuCtxSynchronize() } else { code }
    }
}

/// Device memory with these values.
pub fn device<T: Copy>(values: &[T]) -> u64 {
    let address = alloc(size_of_val(values));
    // SAFETY: as many bytes on both sides.
    ok(unsafe { cuMemcpyHtoD_v2(address, values.as_ptr().cast(), size_of_val(values)) });
    address
}

pub fn read<T: Copy + Default>(address: u64, count: usize) -> Vec<T> {
    let mut values = vec![T::default(); count];
    // SAFETY: as many bytes on both sides.
    ok(unsafe {
        cuMemcpyDtoH_v2(
            values.as_mut_ptr().cast(),
            address,
            size_of_val(&values[..]),
        )
    });
    values
}
