//! Identifies the process that owns a file in an output directory, and finds out whether that
//! process still runs.
//!
//! Not every file system has locks. Therefore the name of each unfinished file names the process
//! that writes it, and a later job removes the file only if that process is known to have ended.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::OnceLock;

/// A process on a machine, and one output directory that the process has opened.
///
/// The text form is `HOST-MACHINE-PROCESS-START-RANDOM`, for example
/// `node12-9f31c0de-4711-5a3c-77aa01be`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    /// The name of the machine, for messages.
    host: String,
    /// The scope within which process numbers can be compared: one boot of one machine, one
    /// container.
    machine: String,
    process: u32,
    /// The start time of the process, in the unit of the system. It is needed because process
    /// numbers are reused. It is 0 if the system does not provide it.
    start: u64,
    /// Distinguishes two output directories of one process.
    random: u32,
}

/// What is known about the process of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// The owner is this process.
    Ours,
    /// The process is running.
    Running,
    /// The process has ended.
    Ended,
    /// The process is on another machine or in another container, or it ran before the last boot of
    /// this machine. It cannot be seen from here.
    OutOfSight,
}

impl Owner {
    /// Returns an owner for this process. Each call uses a new random part.
    pub(crate) fn new() -> Self {
        let (host, machine) = this_machine().clone();
        let process = std::process::id();
        Self {
            host,
            machine,
            process,
            start: start_of(process).unwrap_or(0),
            // The standard library keys its hash maps randomly.
            random: RandomState::new().build_hasher().finish() as u32,
        }
    }

    /// Parses the text that `Display` writes.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.rsplitn(5, '-');
        let random = u32::from_str_radix(parts.next()?, 16).ok()?;
        let start = u64::from_str_radix(parts.next()?, 16).ok()?;
        let process = parts.next()?.parse().ok()?;
        let (machine, host) = (parts.next()?.to_owned(), parts.next()?.to_owned());
        let owner = Self {
            host,
            machine,
            process,
            start,
            random,
        };
        (owner.to_string() == text).then_some(owner)
    }

    /// Finds out whether the process still runs.
    pub(crate) fn state(&self) -> State {
        let (host, machine) = this_machine();
        if (&self.host, &self.machine) != (host, machine) {
            return State::OutOfSight;
        }
        let ours = std::process::id() == self.process;
        match start_of(self.process) {
            // The number now belongs to another process.
            Some(start) if self.start != 0 && start != self.start => State::Ended,
            _ if ours => State::Ours,
            Some(_) => State::Running,
            None if exists(self.process) => State::Running,
            None => State::Ended,
        }
    }

    /// Describes the process for messages.
    pub(crate) fn describe(&self) -> String {
        format!("process {} on {}", self.process, self.host)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            host,
            machine,
            process,
            start,
            random,
        } = self;
        write!(f, "{host}-{machine}-{process}-{start:x}-{random:08x}")
    }
}

/// Returns the name of this machine, and a hash that distinguishes its process numbers from the
/// process numbers of other machines.
fn this_machine() -> &'static (String, String) {
    static MACHINE: OnceLock<(String, String)> = OnceLock::new();
    MACHINE.get_or_init(|| {
        let mut host: String = host_name()
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
            .take(32)
            .collect();
        if host.is_empty() {
            host.push('_');
        }
        // Two machines may have the same name. Two containers on one machine may, too, and each
        // container numbers its processes separately.
        let boot = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let container = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        let mut hasher = blake3::Hasher::new();
        hasher.update(&boot);
        hasher.update(container.as_os_str().as_encoded_bytes());
        let machine = hasher.finalize().to_hex()[..8].to_owned();
        (host, machine)
    })
}

#[cfg(unix)]
fn host_name() -> String {
    let system = rustix::system::uname();
    system.nodename().to_string_lossy().into_owned()
}

#[cfg(not(unix))]
fn host_name() -> String {
    std::env::var("COMPUTERNAME").unwrap_or_default()
}

/// Returns the start time of a process in ticks since the boot of the machine. Returns `None` if
/// there is no such process, if the process is a zombie, or if the system has no /proc.
fn start_of(process: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The program name is in parentheses and may contain any character.
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    let state = fields.next()?;
    if ["Z", "X", "x"].contains(&state) {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Returns whether there is a process with this number that has not ended.
#[cfg(unix)]
fn exists(process: u32) -> bool {
    use rustix::process::{Pid, test_kill_process};
    if std::fs::exists(format!("/proc/{process}/stat")).unwrap_or(false) {
        // The process is listed, but `start_of` has found that it has ended.
        return false;
    }
    let Some(pid) = i32::try_from(process).ok().and_then(Pid::from_raw) else {
        return false;
    };
    // For a process of another user the call fails with a permission error, which shows that it
    // exists.
    !matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH))
}

/// Always returns true: the state is unknown, so the files of the process are kept.
#[cfg(not(unix))]
fn exists(_: u32) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_read_back() {
        let owner = Owner::new();
        let text = owner.to_string();
        assert_eq!(Owner::parse(&text), Some(owner), "{text}");
        assert!(
            text.chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
        );
        assert_ne!(Owner::new().to_string(), text);
        for other in [
            "",
            "a",
            "a-b-1-0",
            "a-b-x-0-00000000",
            "a-b-1-0-1",
            "a-b-01-0-00000001",
        ] {
            assert_eq!(Owner::parse(other), None, "{other}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn an_owner_runs_until_it_has_ended() {
        let ours = Owner::new();
        assert_eq!(ours.state(), State::Ours);
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let theirs = Owner {
            process: child.id(),
            start: start_of(child.id()).unwrap(),
            ..ours.clone()
        };
        assert_eq!(theirs.state(), State::Running);
        // Another process had this number earlier.
        let start = theirs.start - 1;
        assert_eq!(
            Owner {
                start,
                ..theirs.clone()
            }
            .state(),
            State::Ended
        );
        assert_eq!(
            Owner {
                start: ours.start - 1,
                ..ours.clone()
            }
            .state(),
            State::Ended
        );
        let machine = "00000000".to_owned();
        assert_eq!(
            Owner {
                machine,
                ..theirs.clone()
            }
            .state(),
            State::OutOfSight
        );
        child.kill().unwrap();
        // The process has ended, but its parent has not waited for it.
        while start_of(child.id()).is_some() {
            std::thread::yield_now();
        }
        assert_eq!(theirs.state(), State::Ended);
        child.wait().unwrap();
        assert_eq!(theirs.state(), State::Ended);
    }
}
