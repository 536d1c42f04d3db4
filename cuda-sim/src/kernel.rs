//! Emulated kernels: how they are found, and how a launch runs block by block.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_char, c_int, c_void};

use crate::code::Code;
use crate::counters::Counters;
use crate::memory::{Place, Space, guard};
use crate::random::Rng;
use crate::run::Outcome;

/// The function that runs one block of a kernel. It takes parameters, grid, block, index of the
/// block, bytes of dynamic shared memory, seed, and a buffer for an error message. It returns 0 or
/// an error code.
pub type RunBlock = unsafe extern "C" fn(
    params: *const c_void,
    grid: *const u32,
    block: *const u32,
    block_index: *const u32,
    dynamic_smem: u32,
    seed: u64,
    message: *mut c_char,
    message_size: usize,
) -> c_int;

/// An entry of the registry, as declared in `emu/registry.h`.
#[repr(C)]
pub struct EmuKernel {
    /// The kernel's name.
    pub name: *const c_char,
    /// The size of the parameter in bytes.
    pub params_size: u32,
    /// Static shared memory in bytes.
    pub static_smem: u32,
    /// The function that runs one block.
    pub run_block: RunBlock,
}

// SAFETY: an entry is constant data and a function, and the simulator calls the function only under
// its lock.
unsafe impl Sync for EmuKernel {}

/// A kernel of the registry.
#[derive(Clone, Copy)]
pub struct Kernel(&'static EmuKernel);

#[cfg(emulated_kernels)]
mod registry {
    use super::{EmuKernel, c_char, c_int, c_void};
    unsafe extern "C" {
        /// Finds a kernel by name; null if there is none.
        pub fn emu_find_kernel(name: *const c_char) -> *const EmuKernel;
        /// Sets the check that the emulator calls before its own accesses to global memory.
        pub fn emu_set_memory_check(
            check: Option<
                extern "C" fn(address: *const c_void, bytes: usize, write: c_int) -> c_int,
            >,
        );
        /// Writes the protected ranges on both sides of dynamic shared memory.
        pub fn emu_shared_guards(guards: *mut usize);
    }
}

impl Kernel {
    /// Finds a kernel among those compiled in.
    #[cfg(emulated_kernels)]
    pub fn find(name: &CStr) -> Option<Self> {
        // SAFETY: the name is a C string; the registry's entries live as long as the program.
        unsafe { registry::emu_find_kernel(name.as_ptr()).as_ref() }.map(Self)
    }

    /// Finds nothing, since no kernels are compiled in.
    #[cfg(not(emulated_kernels))]
    pub fn find(_name: &CStr) -> Option<Self> {
        None
    }

    /// Wraps an entry.
    pub fn new(entry: &'static EmuKernel) -> Self {
        Self(entry)
    }

    /// Returns the kernel's name.
    pub fn name(&self) -> String {
        // SAFETY: a registry's names are C strings that live as long as the program.
        unsafe { CStr::from_ptr(self.0.name) }
            .to_string_lossy()
            .into_owned()
    }

    /// Returns the size of the parameter in bytes.
    pub fn params_size(&self) -> usize {
        self.0.params_size as usize
    }

    /// Returns the static shared memory in bytes.
    pub fn static_shared(&self) -> u32 {
        self.0.static_smem
    }
}

/// A line of 64 bytes of a kernel's parameters, aligned for the strictest of them (a tensor map).
#[repr(align(64))]
#[derive(Clone, Copy)]
struct Line(#[allow(dead_code)] [u8; 64]); // read by kernels, through a pointer

/// A copy of a kernel's parameters.
pub struct Params(Vec<Line>);

impl Params {
    /// Copies the parameters.
    ///
    /// # Safety `source` is readable for `bytes`.
    pub unsafe fn read(source: *const c_void, bytes: usize) -> Self {
        let mut lines = vec![Line([0; 64]); bytes.div_ceil(64).max(1)];
        // SAFETY: the caller guarantees the source; the lines have at least as many bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(
                source.cast::<u8>(),
                lines.as_mut_ptr().cast::<u8>(),
                bytes,
            )
        };
        Self(lines)
    }

    /// Returns the address of the parameters, and of their `bytes` as many as there are.
    pub fn raw(&self, bytes: usize) -> (*const c_void, usize) {
        (self.0.as_ptr().cast(), bytes.min(size_of_val(&self.0[..])))
    }
}

/// One launch of a kernel.
pub struct Launch {
    /// The kernel.
    pub kernel: Kernel,
    /// Its parameters.
    pub params: Params,
    /// The number of blocks in each dimension.
    pub grid: [u32; 3],
    /// The number of threads per block in each dimension.
    pub block: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub dynamic_shared: u32,
}

impl Launch {
    /// Returns the number of blocks.
    pub fn blocks(&self) -> u64 {
        self.grid.iter().map(|n| u64::from(*n)).product()
    }

    /// Runs all blocks, in the order of their indices, or in an order shuffled by `shuffle`.
    pub fn run(
        &self,
        seed: u64,
        shuffle: Option<u64>,
        device: &Space,
        host: &Space,
        counters: &mut Counters,
    ) -> Outcome {
        // Pinned host memory is mapped into every device's address space.
        let mut live: Vec<_> = device
            .live()
            .chain(host.live())
            .map(|(start, bytes)| (start, start + bytes))
            .collect();
        live.sort_unstable();
        LIVE.set(live);
        LAST.set((0, 0));
        let _ = shared_guards();
        #[cfg(emulated_kernels)]
        // SAFETY: the callback is a plain function that lives as long as the program.
        unsafe {
            registry::emu_set_memory_check(Some(seqstream_sim_check_memory));
        }
        let total = self.blocks();
        const LARGEST_SHUFFLED: u64 = 1 << 22;
        let order: Option<Vec<u32>> =
            shuffle
                .filter(|_| total <= LARGEST_SHUFFLED)
                .map(|shuffle| {
                    let mut order: Vec<u32> = (0..total as u32).collect();
                    Rng::new(shuffle).shuffle(&mut order);
                    order
                });
        for turn in 0..total {
            let index = order
                .as_ref()
                .map_or(turn, |order| u64::from(order[turn as usize]));
            counters.blocks += 1;
            self.run_block(index, seed, device, host)?;
        }
        Ok(())
    }

    fn run_block(&self, index: u64, seed: u64, device: &Space, host: &Space) -> Outcome {
        let [width, height, _] = self.grid.map(u64::from);
        let at = [
            (index % width) as u32,
            (index / width % height) as u32,
            (index / (width * height)) as u32,
        ];
        let seed = Rng::new(seed ^ index.wrapping_mul(0x9e37_79b9)).next();
        let mut message = [0 as c_char; 512];
        BAD_ACCESS.set(None);
        let (code, fault) = guard::watch(|| {
            // SAFETY: the registry's contract holds; parameters and arrays outlive the call, and
            // the message buffer has the given size.
            unsafe {
                (self.kernel.0.run_block)(
                    self.params.0.as_ptr().cast(),
                    self.grid.as_ptr(),
                    self.block.as_ptr(),
                    at.as_ptr(),
                    self.dynamic_shared,
                    seed,
                    message.as_mut_ptr(),
                    message.len(),
                )
            }
        });
        let access = BAD_ACCESS
            .take()
            .or(fault.map(|fault| (fault.address, 1, fault.write)));
        if fault.is_some() {
            device.close_gaps();
            host.close_gaps();
            close_shared_guards();
        }
        if code == 0 && access.is_none() {
            return Ok(());
        }
        let mut text = format!("kernel {}, block {at:?}: ", self.kernel.name());
        message[message.len() - 1] = 0;
        // SAFETY: the buffer is ours and ends with a zero.
        text += &unsafe { CStr::from_ptr(message.as_ptr()) }.to_string_lossy();
        if let Some((address, bytes, write)) = access {
            let beside_shared = shared_guards()
                .iter()
                .any(|[start, end]| (*start..*end).contains(&address));
            let place = match (device.place(address, bytes), host.place(address, bytes)) {
                _ if beside_shared => "beside shared memory".to_owned(),
                (Place::Outside(text), _) | (_, Place::Outside(text)) => text,
                _ => "no memory of this device".to_owned(),
            };
            let what = if write { "write" } else { "read" };
            text += &format!("[{what} of {bytes} bytes at {address:#x}: {place}]");
        }
        let code = if code == 0 {
            Code::ILLEGAL_ADDRESS
        } else {
            Code(code)
        };
        Err((code, text))
    }
}

/// Returns the protected ranges on both sides of dynamic shared memory: starts and ends. They are
/// watched from the first call on.
fn shared_guards() -> &'static [[usize; 2]] {
    #[cfg(emulated_kernels)]
    {
        static GUARDS: std::sync::OnceLock<[[usize; 2]; 2]> = std::sync::OnceLock::new();
        GUARDS.get_or_init(|| {
            let mut guards = [[0; 2]; 2];
            // SAFETY: the array has space for the four numbers that the function writes.
            unsafe { registry::emu_shared_guards(guards.as_mut_ptr().cast()) };
            for [start, end] in guards {
                guard::watch_region(start, end);
            }
            guards
        })
    }
    #[cfg(not(emulated_kernels))]
    &[]
}

/// Closes the pages again that an access of a kernel has opened.
fn close_shared_guards() {
    for [start, end] in shared_guards() {
        // SAFETY: these pages belong to the emulator, which keeps nothing in them.
        unsafe { libc::mprotect(*start as *mut c_void, end - start, libc::PROT_NONE) };
    }
}

thread_local! {
    /// Live memory that the running kernel may access: starts and ends, ordered by address.
    static LIVE: RefCell<Vec<(usize, usize)>> = const { RefCell::new(Vec::new()) };
    /// The range of the last access; most accesses come in runs.
    static LAST: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
    /// The first invalid access: address, bytes, and whether it was a write.
    static BAD_ACCESS: Cell<Option<(usize, usize, bool)>> = const { Cell::new(None) };
}

/// Returns 0 if a range lies inside one live allocation that the running kernel may access.
/// Emulated kernels call it before each access to global memory.
#[unsafe(no_mangle)]
pub extern "C" fn seqstream_sim_check_memory(
    address: *const c_void,
    bytes: usize,
    write: c_int,
) -> c_int {
    let start = address as usize;
    let inside = |(from, to): (usize, usize)| from <= start && start <= to && bytes <= to - start;
    if bytes > 0 && inside(LAST.get()) {
        return 0;
    }
    let ok = LIVE.with_borrow(|live| {
        let Some(found) = live
            .partition_point(|(from, _)| *from <= start)
            .checked_sub(1)
            .map(|at| live[at])
        else {
            return false;
        };
        LAST.set(found);
        inside(found)
    });
    if !ok && BAD_ACCESS.get().is_none() {
        BAD_ACCESS.set(Some((start, bytes, write != 0)));
    }
    c_int::from(!ok)
}
