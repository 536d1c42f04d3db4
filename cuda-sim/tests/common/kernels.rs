//! Kernels for tests, in Rust, through the same registry interface as the emulated ones.

use std::ffi::{c_char, c_int, c_void};
use std::sync::Once;

use seqstream_cuda_sim::EmuKernel;

use super::ffi::{seqstream_sim_check_memory, seqstream_sim_register_kernel};

pub const BLOCK: u32 = 32;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct AddParams {
    pub target: u64,
    pub source: u64,
    pub count: u32,
    pub add: f32,
}

/// Seen by `add`: the blocks in the order in which they ran.
pub static BLOCKS: std::sync::Mutex<Vec<u32>> = std::sync::Mutex::new(Vec::new());

fn say(text: &str, message: *mut c_char, size: usize) {
    let length = text.len().min(size - 1);
    // SAFETY: the buffer has `size` bytes.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), message, length);
        message.add(length).write(0);
    }
}

/// `checked`: asks before each access, as emulated kernels do; else it just touches.
unsafe fn add(
    params: *const c_void,
    index: *const u32,
    checked: bool,
    message: *mut c_char,
    size: usize,
) -> c_int {
    // SAFETY: the registry's contract: `params` has AddParams' size; three indices.
    let (p, block) = unsafe { (*params.cast::<AddParams>(), *index) };
    if checked {
        BLOCKS.lock().unwrap().push(block);
    }
    for i in block * BLOCK..((block + 1) * BLOCK).min(p.count) {
        let (source, target) = (
            (p.source as *const f32).wrapping_add(i as usize),
            (p.target as *mut f32).wrapping_add(i as usize),
        );
        for (address, write) in [
            (source.cast::<c_void>(), 0),
            (target.cast_const().cast(), 1),
        ] {
            // SAFETY: as declared.
            if checked && unsafe { seqstream_sim_check_memory(address, 4, write) } != 0 {
                say("global access", message, size);
                return 700;
            }
        }
        // SAFETY: checked, or guarded by the simulator's closed pages.
        unsafe { target.write_volatile(source.read_volatile() + p.add) };
    }
    0
}

unsafe extern "C" fn add_checked(
    params: *const c_void,
    _grid: *const u32,
    _block: *const u32,
    index: *const u32,
    _shared: u32,
    _seed: u64,
    message: *mut c_char,
    size: usize,
) -> c_int {
    // SAFETY: the registry's contract.
    unsafe { add(params, index, true, message, size) }
}

unsafe extern "C" fn add_raw(
    params: *const c_void,
    _grid: *const u32,
    _block: *const u32,
    index: *const u32,
    _shared: u32,
    _seed: u64,
    message: *mut c_char,
    size: usize,
) -> c_int {
    // SAFETY: the registry's contract.
    unsafe { add(params, index, false, message, size) }
}

unsafe extern "C" fn fails(
    _params: *const c_void,
    _grid: *const u32,
    _block: *const u32,
    _index: *const u32,
    _shared: u32,
    _seed: u64,
    message: *mut c_char,
    size: usize,
) -> c_int {
    say("deadlock: 31 threads wait in a barrier", message, size);
    719
}

const PARAMS: u32 = size_of::<AddParams>() as u32;
static ADD: EmuKernel = EmuKernel {
    name: c"add".as_ptr(),
    params_size: PARAMS,
    static_smem: 0,
    run_block: add_checked,
};
static ADD_RAW: EmuKernel = EmuKernel {
    name: c"add_raw".as_ptr(),
    params_size: PARAMS,
    static_smem: 0,
    run_block: add_raw,
};
static FAILS: EmuKernel = EmuKernel {
    name: c"fails".as_ptr(),
    params_size: 0,
    static_smem: 0,
    run_block: fails,
};

pub fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for kernel in [&ADD, &ADD_RAW, &FAILS] {
            // SAFETY: static, and to the registry's contract.
            unsafe { seqstream_sim_register_kernel(kernel) };
        }
    });
}
