//! Tests that disturb every call on a file in turn.
//!
//! `FAULT_EVERY=1 cargo test --test faults sweep` disturbs each call instead of a part of them.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::preload::{self, Call, Kind};
use crate::support::cli::{stderr, tree};
use crate::workplace::{Job, Workplace};

const SIGINT: i32 = 2;
const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

/// Returns whether the disturbance suits the call: short and interrupted calls must be repeated
/// without any effect.
fn goes_on(kind: Kind, call: &Call) -> bool {
    let calls: &[&str] = match kind {
        Kind::Short => &["read", "pread64", "write", "pwrite64"],
        Kind::Interrupt => &[
            "read",
            "pread64",
            "write",
            "pwrite64",
            "open",
            "openat64",
            "fsync",
            "ftruncate64",
        ],
        Kind::Fail | Kind::Full | Kind::Signal(_) => return true,
    };
    calls.contains(&call.operation.as_str())
}

/// Returns whether a call is always tried: calls that make or remove names are few.
fn always(kind: Kind, call: &Call) -> bool {
    let calls = ["fsync", "rename", "linkat", "unlink", "mkdir", "flock"];
    [Kind::Fail, Kind::Signal(SIGKILL)].contains(&kind) && calls.contains(&call.operation.as_str())
}

struct Trial {
    job: Job,
    kind: Kind,
    call: Call,
}

impl Trial {
    fn run(&self, place: &Workplace, out: &str) -> Result<(), String> {
        let mut command = place.begin(self.job, out);
        let output = preload::disturb(&mut command, self.call.number, self.kind)
            .output()
            .unwrap();
        let said = stderr(&output);
        let fail = |what: &str| Err(format!("{what} ({:?}): {said}", output.status));
        if !self.may_end_so(output.status) {
            return fail("it may not end so");
        }
        if ["panicked", "internal error"]
            .iter()
            .any(|w| said.contains(w))
        {
            return fail("it speaks of a fault of its own");
        }
        // The call that failed may have been the write to standard error.
        let told = said.contains("error: ")
            || self.call.path.starts_with("/dev")
            || !self.call.path.is_absolute();
        if output.status.code().is_some_and(|c| (1..9).contains(&c)) && !told {
            return fail("it fails without a word");
        }
        place.standing(out)?;
        if output.status.success() {
            place.holds_all(out)?;
        }
        place.finish(self.job, out)
    }

    /// Returns whether the exit status is allowed: the documented exit codes, and for a signal the
    /// default effect on a program that does not handle it yet.
    fn may_end_so(&self, status: ExitStatus) -> bool {
        match self.kind {
            Kind::Fail => status.code().is_some_and(|c| (0..9).contains(&c)),
            Kind::Full => [Some(0), Some(5)].contains(&status.code()),
            Kind::Short | Kind::Interrupt => status.success(),
            // If the call's number is not reached, since threads make calls in another order, the
            // job ends well.
            Kind::Signal(s) => {
                status.success() || status.signal() == Some(s) || status.code() == Some(128 + s)
            }
        }
    }

    fn name(&self) -> String {
        let Call {
            number,
            operation,
            path,
            ..
        } = &self.call;
        format!(
            "{:?}: {:?} at call {number}, {operation} {}",
            self.job,
            self.kind,
            path.display()
        )
    }
}

#[test]
fn sweep_whatever_call_fails_the_next_run_leaves_the_same_bytes() {
    let every: usize =
        std::env::var("FAULT_EVERY").map_or(9, |n| n.parse().expect("FAULT_EVERY is a number"));
    let place = Workplace::new();
    let mut trials = Vec::new();
    let mut operations = BTreeSet::new();
    for job in [Job::Embed, Job::Resume, Job::Unlocked, Job::Merge] {
        let calls = preload::calls(&mut place.begin(job, "counted"), false);
        assert!(
            calls.len() > 100,
            "{} calls: the library is not loaded",
            calls.len()
        );
        let kinds = [Kind::Fail, Kind::Full, Kind::Short, Kind::Interrupt]
            .into_iter()
            .chain([SIGKILL, SIGTERM, SIGINT].map(Kind::Signal));
        for (i, kind) in kinds.enumerate() {
            let fit = calls.iter().filter(|c| goes_on(kind, c)).enumerate();
            let taken = fit.filter(|(n, call)| n % every == i % every || always(kind, call));
            trials.extend(taken.map(|(_, call)| Trial {
                job,
                kind,
                call: call.clone(),
            }));
        }
        operations.extend(calls.into_iter().map(|c| c.operation));
    }
    for needed in [
        "open", "read", "write", "fsync", "rename", "linkat", "unlink", "unlinkat", "mkdir",
        "flock", "mmap64",
    ] {
        let seen = operations
            .iter()
            .any(|o| o.trim_end_matches("64") == needed.trim_end_matches("64"));
        assert!(seen, "{needed} is not seen among {operations:?}");
    }
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let parts = [tree(&place.path("part1")), tree(&place.path("part2"))];
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get());
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (place, trials, next, failed) = (&place, &trials, &next, &failed);
            scope.spawn(move || {
                let out = format!("out{thread}");
                while let Some(trial) = trials.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(why) = trial.run(place, &out) {
                        failed
                            .lock()
                            .unwrap()
                            .push(format!("{}: {why}", trial.name()));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    println!(
        "{} trials, {} failed; calls: {operations:?}",
        trials.len(),
        failed.len()
    );
    let shown = failed.iter().take(40).fold(String::new(), |mut text, f| {
        writeln!(text, "- {f}").unwrap();
        text
    });
    assert!(
        failed.is_empty(),
        "{} of {} trials:\n{shown}",
        failed.len(),
        trials.len()
    );
    assert!(
        parts == [tree(&place.path("part1")), tree(&place.path("part2"))],
        "a merge changed a share"
    );
}
