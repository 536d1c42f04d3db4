//! How much memory this process may still allocate.

use std::fmt;

/// The limit that bounds the memory of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// The limit of the address space (`ulimit -v`).
    AddressSpace,
    /// The limit of a process's data (`ulimit -d`).
    Data,
    /// The limit of the control group that this process runs in: a container or a batch job.
    ControlGroup,
    /// The free memory of the machine.
    Machine,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AddressSpace => "by the limit of the address space, ulimit -v",
            Self::Data => "by the limit of a process's data, ulimit -d",
            Self::ControlGroup => "by the memory limit of this container or batch job",
            Self::Machine => "on this machine",
        })
    }
}

/// The memory that this process may still allocate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Available {
    /// The size in bytes.
    pub bytes: u64,
    /// The limit that gives this size.
    pub bound: Bound,
}

/// Returns the memory that this process may still allocate; `None` where it is not known.
///
/// The result is the least of three sizes: the remainder of the process's limits, the remainder of
/// its control groups, and the free memory of the machine. File pages that the system would drop
/// count as free, and so does swap.
#[cfg(target_os = "linux")]
pub fn available() -> Option<Available> {
    linux::available(std::path::Path::new("/"))
}

/// Returns `None`: the size is not known on this system.
#[cfg(not(target_os = "linux"))]
pub fn available() -> Option<Available> {
    None
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs;
    use std::path::Path;

    use rustix::process::{Resource, getrlimit};

    use super::{Available, Bound};

    /// Reads `/proc` and `/sys` below `root`.
    pub(super) fn available(root: &Path) -> Option<Available> {
        let read = |path: &str| fs::read_to_string(root.join(path)).ok();
        let status = read("proc/self/status").unwrap_or_default();
        let machine = read("proc/meminfo").unwrap_or_default();
        let swap = kilobytes(&machine, "SwapFree:").unwrap_or(0);
        let limit = |resource, used| {
            let most = getrlimit(resource).current?;
            Some(most.saturating_sub(kilobytes(&status, used)?))
        };
        let groups = read("proc/self/cgroup").unwrap_or_default();
        let all = [
            (limit(Resource::As, "VmSize:"), Bound::AddressSpace),
            (limit(Resource::Data, "VmData:"), Bound::Data),
            (control_groups(root, &groups, swap), Bound::ControlGroup),
            (
                kilobytes(&machine, "MemAvailable:").map(|free| free.saturating_add(swap)),
                Bound::Machine,
            ),
        ];
        let known = all.into_iter().filter_map(|(bytes, bound)| {
            Some(Available {
                bytes: bytes?,
                bound,
            })
        });
        known.min_by_key(|a| a.bytes)
    }

    /// Returns the value of a field such as `VmSize:   12 kB`, in bytes.
    fn kilobytes(text: &str, field: &str) -> Option<u64> {
        number(text, field)?.checked_mul(1024)
    }

    /// Returns the number that follows the word `field` at the start of a line.
    fn number(text: &str, field: &str) -> Option<u64> {
        let mut lines = text.lines().map(str::split_whitespace);
        lines.find_map(|mut words| {
            let found = words.next() == Some(field);
            found.then(|| words.next()?.parse().ok()).flatten()
        })
    }

    /// Returns the memory that remains in the control groups of this process, of version 2 and of
    /// version 1.
    fn control_groups(root: &Path, groups: &str, swap: u64) -> Option<u64> {
        let mut least: Option<u64> = None;
        for line in groups.lines() {
            let mut parts = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) =
                (parts.next(), parts.next(), parts.next())
            else {
                continue;
            };
            let (base, left): (_, fn(&Path, u64) -> Option<u64>) = match controllers {
                "" => (root.join("sys/fs/cgroup"), unified),
                c if c.split(',').any(|c| c == "memory") => {
                    (root.join("sys/fs/cgroup/memory"), first_version)
                }
                _ => continue,
            };
            // The limit of a group also holds for the groups inside it. In a container the path may
            // be visible to the host only; the container's own group is then the root of the
            // mounted hierarchy.
            for ancestor in Path::new(path).ancestors() {
                let inside = ancestor.strip_prefix("/").unwrap_or(ancestor);
                if let Some(bytes) = left(&base.join(inside), swap) {
                    least = Some(least.map_or(bytes, |l| l.min(bytes)));
                }
            }
        }
        least
    }

    fn file(group: &Path, name: &str) -> Option<String> {
        fs::read_to_string(group.join(name)).ok()
    }

    fn value(group: &Path, name: &str) -> Option<u64> {
        file(group, name)?.trim().parse().ok()
    }

    /// Returns the memory that remains in a group of version 2; `None` if the group has no limit.
    fn unified(group: &Path, swap: u64) -> Option<u64> {
        let most = value(group, "memory.max")?;
        let used = value(group, "memory.current")?;
        let stat = file(group, "memory.stat").unwrap_or_default();
        let droppable = |field| number(&stat, field).unwrap_or(0);
        let dropped =
            droppable("inactive_file") + droppable("active_file") + droppable("slab_reclaimable");
        let swap = match value(group, "memory.swap.max") {
            Some(most) => {
                let used = value(group, "memory.swap.current").unwrap_or(0);
                swap.min(most.saturating_sub(used))
            }
            // The value is "max", or the kernel has no swap; in that case the machine has none
            // either.
            None => swap,
        };
        let kept = used.saturating_sub(dropped);
        Some(most.saturating_sub(kept).saturating_add(swap))
    }

    /// Returns the memory that remains in a group of version 1, which writes a number near 2^63
    /// where there is no limit.
    fn first_version(group: &Path, swap: u64) -> Option<u64> {
        let most = value(group, "memory.limit_in_bytes").filter(|n| *n < 1 << 60)?;
        let used = value(group, "memory.usage_in_bytes")?;
        let stat = file(group, "memory.stat").unwrap_or_default();
        let droppable = |field| number(&stat, field).unwrap_or(0);
        let dropped = droppable("total_inactive_file") + droppable("total_active_file");
        let kept = used.saturating_sub(dropped);
        Some(most.saturating_sub(kept).saturating_add(swap))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        /// Makes a root directory with these files. The machine has 8 GiB free and no swap, unless
        /// a file says otherwise.
        fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
            let dir = tempfile::tempdir().unwrap();
            let machine = (
                "proc/meminfo",
                "MemTotal: 9 kB\nMemAvailable:    8388608 kB\nSwapFree:  0 kB\n",
            );
            for (name, text) in [&machine].into_iter().chain(files) {
                let path = dir.path().join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            dir
        }

        fn found(files: &[(&str, &str)]) -> Option<(u64, Bound)> {
            available(root(files).path()).map(|a| (a.bytes, a.bound))
        }

        #[test]
        fn the_machine_with_its_swap() {
            assert_eq!(found(&[]), Some((8 << 30, Bound::Machine)));
            let swap = ("proc/meminfo", "MemAvailable: 1024 kB\nSwapFree: 1024 kB\n");
            assert_eq!(found(&[swap]), Some((2 << 20, Bound::Machine)));
            assert_eq!(found(&[("proc/meminfo", "")]), None);
        }

        #[test]
        fn the_least_of_a_group_and_those_it_stands_in() {
            let within = [
                ("proc/self/cgroup", "0::/user/job\n"),
                ("sys/fs/cgroup/user/job/memory.max", "max\n"),
                ("sys/fs/cgroup/user/job/memory.current", "1000\n"),
                ("sys/fs/cgroup/user/memory.max", "10000\n"),
                ("sys/fs/cgroup/user/memory.current", "4000\n"),
                (
                    "sys/fs/cgroup/user/memory.stat",
                    "anon 9\nactive_file 500\ninactive_file 1000\nslab_reclaimable 200\n",
                ),
            ];
            assert_eq!(found(&within), Some((7700, Bound::ControlGroup)));
            // In a container, the files of the process's own group are at the root.
            let container = [
                ("proc/self/cgroup", "0::/../../docker/0123\n"),
                ("sys/fs/cgroup/memory.max", "5000\n"),
                ("sys/fs/cgroup/memory.current", "6000\n"),
            ];
            assert_eq!(found(&container), Some((0, Bound::ControlGroup)));
        }

        #[test]
        fn the_first_version_of_groups() {
            let limit = |most| {
                [
                    (
                        "proc/self/cgroup",
                        "9:cpu:/x\n4:hugetlb,memory:/job\n0::/\n",
                    ),
                    ("sys/fs/cgroup/memory/job/memory.limit_in_bytes", most),
                    ("sys/fs/cgroup/memory/job/memory.usage_in_bytes", "3000\n"),
                    (
                        "sys/fs/cgroup/memory/job/memory.stat",
                        "inactive_file 7\ntotal_inactive_file 100\ntotal_active_file 20\n",
                    ),
                ]
            };
            assert_eq!(found(&limit("9000\n")), Some((6120, Bound::ControlGroup)));
            let none = limit("9223372036854771712\n");
            assert_eq!(found(&none), Some((8 << 30, Bound::Machine)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn something_is_known_of_this_machine() {
        assert!(available().is_some_and(|a| a.bytes > 0));
    }
}
