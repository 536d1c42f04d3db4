//! The handler of page faults. If a kernel accesses a closed page of simulated memory through a
//! plain pointer, the handler opens the page and the kernel continues; the access is reported at
//! the end of its block, as the driver reports an illegal address. Any other access to a closed
//! page ends the process, with a line that explains it.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::pages::{PAGE, POISON};

const MAX_REGIONS: usize = 256;
static REGIONS: [[AtomicUsize; 2]; MAX_REGIONS] =
    [const { [AtomicUsize::new(0), AtomicUsize::new(0)] }; MAX_REGIONS];
static REGION_COUNT: AtomicUsize = AtomicUsize::new(0);
static INSTALL: Once = Once::new();
/// The handler that was installed before ours; written once, before our handler is installed.
static PREVIOUS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    // These have no destructors and constant initial values, so a signal handler may read them.
    static IN_KERNEL: Cell<bool> = const { Cell::new(false) };
    static FAULT: Cell<Option<PageFault>> = const { Cell::new(None) };
}

/// An access to a closed page.
#[derive(Clone, Copy, Debug)]
pub struct PageFault {
    /// The address.
    pub address: usize,
    /// Whether it was a write.
    pub write: bool,
}

/// Watches an address range: from now on its page faults are handled here.
pub fn watch_region(start: usize, end: usize) {
    INSTALL.call_once(install);
    let index = REGION_COUNT.load(Ordering::Acquire);
    assert!(index < MAX_REGIONS, "too many regions of simulated memory");
    REGIONS[index][0].store(start, Ordering::Release);
    REGIONS[index][1].store(end, Ordering::Release);
    REGION_COUNT.store(index + 1, Ordering::Release);
}

/// Runs kernel code; returns its result with the first access to a closed page.
pub fn watch<R>(kernel: impl FnOnce() -> R) -> (R, Option<PageFault>) {
    FAULT.set(None);
    IN_KERNEL.set(true);
    let result = kernel();
    IN_KERNEL.set(false);
    (result, FAULT.take())
}

fn install() {
    // SAFETY: `sigaction` is plain data, for which zeroes are valid.
    let (mut action, mut previous): (libc::sigaction, libc::sigaction) =
        unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_fault as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
    // SAFETY: both structures are valid; the handler does only what a signal handler may do.
    unsafe {
        if libc::sigaction(libc::SIGSEGV, ptr::null(), &mut previous) == 0 {
            PREVIOUS.store(
                Box::into_raw(Box::new(previous)) as usize,
                Ordering::Release,
            );
        }
        libc::sigaction(libc::SIGSEGV, &action, ptr::null_mut());
    }
}

fn is_ours(address: usize) -> bool {
    REGIONS[..REGION_COUNT.load(Ordering::Acquire)]
        .iter()
        .any(|[start, end]| {
            start.load(Ordering::Acquire) <= address && address < end.load(Ordering::Acquire)
        })
}

unsafe extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the operating system passes a valid siginfo for SIGSEGV.
    let address = unsafe { (*info).si_addr() } as usize;
    let ours = is_ours(address);
    let in_kernel = IN_KERNEL.get();
    if ours && in_kernel {
        let page = address & !(PAGE - 1);
        // SAFETY: the page lies in one of our regions, which hold only simulated memory; it stays
        // open until the end of the block, when `Space::close_gaps` closes it.
        let opened = unsafe {
            let opened = libc::mprotect(
                page as *mut c_void,
                PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
            ) == 0;
            if opened {
                ptr::write_bytes(page as *mut u8, POISON, PAGE);
            }
            opened
        };
        if opened {
            if FAULT.get().is_none() {
                FAULT.set(Some(PageFault {
                    address,
                    write: is_write(context),
                }));
            }
            return;
        }
    }
    let who: &str = match (ours, in_kernel) {
        (true, _) => "cuda-sim: host code touched freed or unallocated simulated memory at 0x",
        (false, true) => "cuda-sim: an emulated kernel touched what is no device memory at 0x",
        (false, false) => "",
    };
    if !who.is_empty() {
        say(who, address);
    }
    pass_on(signal, info, context);
}

/// Returns whether the access was a write, if the processor tells.
fn is_write(_context: *mut c_void) -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: the operating system passes a valid ucontext to a handler with SA_SIGINFO.
        let context = unsafe { &*_context.cast::<libc::ucontext_t>() };
        context.uc_mcontext.gregs[libc::REG_ERR as usize] & 2 != 0
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Writes a line without allocating.
fn say(text: &str, address: usize) {
    let mut digits = [0u8; 17];
    for (i, digit) in digits[..16].iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(address >> (60 - 4 * i)) & 15];
    }
    digits[16] = b'\n';
    // SAFETY: both buffers are valid for their lengths; a failed write changes nothing.
    unsafe {
        libc::write(2, text.as_ptr().cast(), text.len());
        libc::write(2, digits.as_ptr().cast(), digits.len());
    }
}

fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let previous = PREVIOUS.load(Ordering::Acquire) as *const libc::sigaction;
    // SAFETY: `previous` was stored once, from a box that is never freed; it names a handler that
    // was valid.
    unsafe {
        let handler = previous
            .as_ref()
            .map_or(libc::SIG_DFL, |previous| previous.sa_sigaction);
        if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
            // After the return the access faults again, and then ends the process.
            libc::signal(signal, libc::SIG_DFL);
        } else if previous
            .as_ref()
            .is_some_and(|previous| previous.sa_flags & libc::SA_SIGINFO != 0)
        {
            let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
                std::mem::transmute(handler);
            handler(signal, info, context);
        } else {
            let handler: extern "C" fn(c_int) = std::mem::transmute(handler);
            handler(signal);
        }
    }
}
