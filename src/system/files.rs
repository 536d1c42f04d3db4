//! How many files this process may have open.

use std::io;

/// The remedy where the system refuses to open one file more, or to write a larger one.
#[cfg(unix)]
pub fn hint(error: &io::Error) -> Option<&'static str> {
    use rustix::io::Errno;
    match Errno::from_io_error(error)? {
        Errno::MFILE => {
            Some("raise the number of files that a process may have open: ulimit -n 1024")
        }
        Errno::NFILE => Some("this machine has too many files open: end other programs"),
        Errno::FBIG => Some(
            "raise the size that a file may have (ulimit -f unlimited), or write smaller shards (--shard-size)",
        ),
        _ => None,
    }
}

/// None is known here.
#[cfg(not(unix))]
pub fn hint(_: &io::Error) -> Option<&'static str> {
    None
}

/// How many more files this process may open, where that is known. What it may have is raised first to
/// what the system lets it ask for.
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
    // Every entry is an open file; the one that lists them is closed again.
    let open = std::fs::read_dir("/dev/fd").map_or(16, Iterator::count);
    Some(most.saturating_sub(open.saturating_sub(1)))
}

/// Not known here.
#[cfg(not(unix))]
pub fn left() -> Option<usize> {
    None
}
