//! Which process something in an output directory belongs to, and whether that process still runs.
//!
//! Locks are not to be had on every file system. So what a job has not finished carries the name of
//! its process, and a later job removes it only where that process is known to have ended.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::OnceLock;

/// A process on a machine, and one output directory that it has opened.
///
/// As text: `HOST-MACHINE-PROCESS-START-RANDOM`, for example `node12-9f31c0de-4711-5a3c-77aa01be`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    /// The machine's name, for people.
    host: String,
    /// What process numbers are to be compared within: one boot of one machine, one container.
    machine: String,
    process: u32,
    /// When the process began, in the system's own unit: process numbers are given again. 0 where
    /// the system does not tell.
    start: u64,
    /// Tells two output directories of one process apart.
    random: u32,
}

/// What is known of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It is this process.
    Ours,
    /// It runs.
    Running,
    /// It has ended.
    Ended,
    /// It is on another machine, in another container, or was there before this machine's last
    /// start: nothing can be seen of it from here.
    OutOfSight,
}

impl Owner {
    /// This process, with another random part for each call.
    pub(crate) fn new() -> Self {
        let (host, machine) = this_machine().clone();
        let process = std::process::id();
        Self {
            host,
            machine,
            process,
            start: start_of(process).unwrap_or(0),
            // The keys of the standard library's hash maps are random.
            random: RandomState::new().build_hasher().finish() as u32,
        }
    }

    /// Reads what `Display` writes.
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

    /// Whether it still runs.
    pub(crate) fn state(&self) -> State {
        let (host, machine) = this_machine();
        if (&self.host, &self.machine) != (host, machine) {
            return State::OutOfSight;
        }
        let ours = std::process::id() == self.process;
        match start_of(self.process) {
            // Another process was given the number.
            Some(start) if self.start != 0 && start != self.start => State::Ended,
            _ if ours => State::Ours,
            Some(_) => State::Running,
            None if exists(self.process) => State::Running,
            None => State::Ended,
        }
    }

    /// For messages.
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

/// The name of this machine, and what else tells its process numbers from those of others.
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
        // Two machines may have one name, as may two containers on one machine, whose processes
        // have numbers of their own.
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

/// When a process began, in ticks since the machine's start. `None` where there is no such process,
/// where it has ended and only its parent has not noticed, and on systems without /proc.
fn start_of(process: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The program's name stands in parentheses and may hold anything.
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    let state = fields.next()?;
    if ["Z", "X", "x"].contains(&state) {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Whether there is a process of this number that has not ended.
#[cfg(unix)]
fn exists(process: u32) -> bool {
    use rustix::process::{Pid, test_kill_process};
    if std::fs::exists(format!("/proc/{process}/stat")).unwrap_or(false) {
        // It is there, and `start_of` found that it has ended.
        return false;
    }
    let Some(pid) = i32::try_from(process).ok().and_then(Pid::from_raw) else {
        return false;
    };
    // Another user's process answers that it may not be asked.
    !matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH))
}

/// Nothing is known, so it is left alone.
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
        // Another process had this number before.
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
                start,
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
        // It has ended, though its parent has not asked how.
        while start_of(child.id()).is_some() {
            std::thread::yield_now();
        }
        assert_eq!(theirs.state(), State::Ended);
        child.wait().unwrap();
        assert_eq!(theirs.state(), State::Ended);
    }
}
