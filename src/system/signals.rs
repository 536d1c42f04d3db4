//! Signals other than the requests to stop a job, which `pipeline/stop.rs` handles.
//!
//! This file holds the only `unsafe` code of the module: the calls of `sigaction` and `signal`, and
//! the handler of SIGBUS. The handler reads atomics and calls `write`, `signal`, `raise` and
//! `_exit`, and POSIX allows a handler to call these four functions.

use std::path::Path;
use std::sync::OnceLock;

/// The most bytes of a message. The end of a longer path is left out.
const TEXT: usize = 1024;

/// A region of memory that maps a file. While this value exists, reading a page of the region that
/// cannot be read ends the program with a message that names the file.
#[derive(Debug)]
pub struct MappedRegion {
    #[cfg(unix)]
    slot: Option<usize>,
}

/// The most bytes of a hint. The end of a longer hint is left out.
const HINT: usize = 256;

/// What the user can do when a mapped file can no longer be read, in the words of the program.
static REMEDY: OnceLock<&str> = OnceLock::new();

/// Returns the message to print when a page of the file cannot be read.
fn message(path: &Path, remedy: Option<&str>) -> Vec<u8> {
    // A file name may hold any character, even a control sequence of the terminal.
    let name: String = path.to_string_lossy().escape_debug().collect();
    let hint = remedy.map_or(String::new(), |remedy| {
        let short: String = remedy.chars().take(HINT / 4).collect();
        let remedy = if remedy.len() > HINT { &short } else { remedy };
        format!("hint: {remedy}\n")
    });
    let end = format!(
        "can no longer be read: the file was shortened while it was in use, or its disk failed\n{hint}"
    );
    let start = "error: ";
    let most = TEXT - start.len() - end.len() - 1;
    let shown: String = name.chars().take(most / 4).collect();
    format!("{start}{shown} {end}").into_bytes()
}

#[cfg(unix)]
mod unix {
    use std::path::Path;
    use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

    use super::{MappedRegion, REMEDY, TEXT, message};

    /// The exit code for bad weights, because only weights are mapped.
    const LOST: libc::c_int = 4;
    /// The most files that are watched at the same time. Further files are mapped but not watched.
    const SLOTS: usize = 128;

    const FREE: u8 = 0;
    const CHANGING: u8 = 1;
    const IN_USE: u8 = 2;

    /// One watched region and its message. All fields are atomic and none is a pointer, so the
    /// handler may read a slot while other threads change it.
    struct Slot {
        state: AtomicU8,
        start: AtomicUsize,
        end: AtomicUsize,
        length: AtomicUsize,
        text: [AtomicU8; TEXT],
    }

    static REGIONS: [Slot; SLOTS] = [const {
        Slot {
            state: AtomicU8::new(FREE),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            length: AtomicUsize::new(0),
            text: [const { AtomicU8::new(0) }; TEXT],
        }
    }; SLOTS];

    impl MappedRegion {
        /// Watches `bytes`, a mapping of the file at `path`, until the returned value is dropped.
        pub fn watch(bytes: &[u8], path: &Path) -> Self {
            let range = bytes.as_ptr_range();
            let claim = |slot: &Slot| {
                let (order, failed) = (Ordering::Acquire, Ordering::Relaxed);
                let claimed = slot.state.compare_exchange(FREE, CHANGING, order, failed);
                claimed.is_ok()
            };
            let slot = REGIONS.iter().position(claim);
            if let Some(slot) = slot.and_then(|i| REGIONS.get(i)) {
                let text = message(path, REMEDY.get().copied());
                for (to, from) in slot.text.iter().zip(&text) {
                    to.store(*from, Ordering::Relaxed);
                }
                slot.length.store(text.len().min(TEXT), Ordering::Relaxed);
                slot.start.store(range.start as usize, Ordering::Relaxed);
                slot.end.store(range.end as usize, Ordering::Relaxed);
                slot.state.store(IN_USE, Ordering::Release);
            }
            Self { slot }
        }
    }

    impl Drop for MappedRegion {
        fn drop(&mut self) {
            if let Some(slot) = self.slot.and_then(|i| REGIONS.get(i)) {
                slot.state.store(FREE, Ordering::Release);
            }
        }
    }

    /// Whether this process ignores `signal` because the program that started it wants this, as
    /// `nohup` does, or a script that ends a command with `&`.
    pub fn is_ignored(signal: i32) -> bool {
        // SAFETY: `sigaction` is a plain struct of integers and addresses, and zeros are valid for
        // all of them.
        let mut now: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: without a new action the call changes nothing, and `now` is valid for writes.
        let asked = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut now) };
        asked == 0 && now.sa_sigaction == libc::SIG_IGN
    }

    /// Turns two signals that would kill this process silently into errors. A write beyond the
    /// limit of `ulimit -f` fails with an error, and a mapped page that cannot be read ends the
    /// program with a message that names the file, and with `remedy` as its hint. A program calls
    /// this once, at its start.
    pub fn prepare(remedy: &'static str) {
        // The words of a first call stay, if there is a second one.
        let _ = REMEDY.set(remedy);
        // SAFETY: ignoring a signal runs no code of this program.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        // SAFETY: the reason is the same as in `is_ignored`.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = lost;
        action.sa_sigaction = handler as libc::sighandler_t;
        // The stack of the thread may be the memory that is lost; Rust gives each thread a second
        // stack for signals.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: the handler has the signature that SA_SIGINFO requires, and it does only what
        // POSIX allows in a handler: it reads atomics and calls async-signal-safe functions.
        unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) };
    }

    /// Handles SIGBUS.
    extern "C" fn lost(
        signal: libc::c_int,
        info: *mut libc::siginfo_t,
        _context: *mut libc::c_void,
    ) {
        // SAFETY: the system passes a valid `info` to a handler that has SA_SIGINFO.
        let address = unsafe { (*info).si_addr() } as usize;
        let holds = |slot: &&Slot| {
            slot.state.load(Ordering::Acquire) == IN_USE
                && slot.start.load(Ordering::Relaxed) <= address
                && address < slot.end.load(Ordering::Relaxed)
        };
        let Some(slot) = REGIONS.iter().find(holds) else {
            // The address is in no watched region, so the signal ends the program as if there were
            // no handler. The signal is blocked while this handler runs, so the raised signal
            // arrives when the handler returns.
            // SAFETY: both functions are async-signal-safe.
            unsafe {
                libc::signal(signal, libc::SIG_DFL);
                libc::raise(signal);
            }
            return;
        };
        let mut text = [0u8; TEXT];
        for (to, from) in text.iter_mut().zip(&slot.text) {
            *to = from.load(Ordering::Relaxed);
        }
        let length = slot.length.load(Ordering::Relaxed).min(TEXT);
        // SAFETY: both functions are async-signal-safe, and `text` has at least `length` bytes.
        unsafe {
            libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), length);
            libc::_exit(LOST);
        }
    }
}

#[cfg(unix)]
pub use unix::{is_ignored, prepare};

#[cfg(not(unix))]
impl MappedRegion {
    /// Does nothing, because this system has no such signals.
    pub fn watch(_: &[u8], _: &Path) -> Self {
        Self {}
    }
}

/// Returns false, because this system has no such signals.
#[cfg(not(unix))]
pub fn is_ignored(_: i32) -> bool {
    false
}

/// Does nothing, because this system has no such signals.
#[cfg(not(unix))]
pub fn prepare(_: &'static str) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_fits_whatever_the_name() {
        let long = "é".repeat(9000);
        for (name, remedy) in [
            ("m.safetensors", "restore it"),
            (&*"\u{1b}]0;x\u{7}é".repeat(9000), &*long),
        ] {
            let text = message(Path::new(name), Some(remedy));
            assert!(text.len() <= TEXT, "{}", text.len());
            let text = String::from_utf8(text).unwrap();
            assert!(
                text.starts_with("error: ") && text.contains("\nhint: "),
                "{text}"
            );
            assert!(!text.contains('\u{1b}'), "{text}");
        }
        let text = String::from_utf8(message(Path::new("m/model.safetensors"), None)).unwrap();
        assert!(
            text.starts_with("error: m/model.safetensors can no longer") && !text.contains("hint"),
            "{text}"
        );
    }
}
