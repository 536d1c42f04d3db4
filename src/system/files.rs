//! Limits of this process on open files and on the size of a file.

use std::io;

/// Returns advice for an error that means too many open files or a file that is too large; `None`
/// for every other error.
#[cfg(unix)]
pub fn advice(error: &io::Error) -> Option<&'static str> {
    use rustix::io::Errno;
    match Errno::from_io_error(error)? {
        Errno::MFILE => {
            Some("raise the number of files that a process may have open: ulimit -n 1024")
        }
        Errno::NFILE => Some("this machine has too many files open: end other programs"),
        Errno::FBIG => Some("raise the size that a file may have (ulimit -f unlimited)"),
        _ => None,
    }
}

/// Returns `None`: no advice is known on this system.
#[cfg(not(unix))]
pub fn advice(_: &io::Error) -> Option<&'static str> {
    None
}

/// Returns how many more files this process may open; `None` where the limit is not known. The soft
/// limit is first raised to the hard limit.
#[cfg(unix)]
pub fn left() -> Option<usize> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        if setrlimit(Resource::Nofile, raised).is_ok() {
            limit = raised;
        }
    }
    let most = usize::try_from(limit.current?).unwrap_or(usize::MAX);
    // Every entry is an open file. The handle that lists them counts too, but it is closed again.
    let open = std::fs::read_dir("/dev/fd").map_or(16, Iterator::count);
    Some(most.saturating_sub(open.saturating_sub(1)))
}

/// Returns `None`: the limit is not known on this system.
#[cfg(not(unix))]
pub fn left() -> Option<usize> {
    None
}
