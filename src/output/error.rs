//! The errors of writing the output.

use std::io;
use std::path::{Path, PathBuf};

use crate::system::files;
use crate::untrusted::Shown;

/// An output that could not be written, or an output directory that must not be written to.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The operating system refused a file operation.
    #[error("cannot {action} {}{}: {source}", path.display(), in_shard(*shard))]
    Io {
        /// The attempted operation: "create", "write", "sync", "rename", "read" ...
        action: &'static str,
        /// The file or directory concerned.
        path: PathBuf,
        /// The shard that was being written, if any.
        shard: Option<u64>,
        /// The error that the operating system returned.
        source: io::Error,
    },
    /// A value that f16 cannot represent.
    #[error(
        "record \"{}\", layer {layer}: the value {value} is beyond the range of f16 (65504)",
        Shown(id)
    )]
    F16Overflow {
        /// The id of the record.
        id: String,
        /// The number of the layer.
        layer: usize,
        /// The first value out of range.
        value: f32,
    },
    /// The directory contains an entry that no seqstream job wrote.
    #[error("the output directory {} holds \"{}\", which is no part of a seqstream job", path.display(), Shown(name))]
    Foreign {
        /// The output directory.
        path: PathBuf,
        /// The name of the first such entry.
        name: String,
    },
    /// Another process is writing in the directory.
    #[error("another seqstream job is running in {}{}", path.display(), who(by.as_deref()))]
    Locked {
        /// The output directory.
        path: PathBuf,
        /// Which process this is, if known.
        by: Option<String>,
    },
    /// On a file system without locks: a job was started in the directory, and it cannot be
    /// determined from here whether the job still runs.
    #[error("{} says that {by} is running there, and it cannot be seen from here whether it still is", path.display())]
    Marked {
        /// The file that names the job.
        path: PathBuf,
        /// The job that the file names.
        by: String,
    },
    /// Another job has created the shard or file that this job was about to create.
    #[error("{} stands already: another job is writing in this directory, too", path.display())]
    Taken {
        /// The shard or the file.
        path: PathBuf,
    },
    /// Another job has removed the shard or file that this job was writing.
    #[error("{} was removed while this job was writing it: another job is writing in this directory, too", path.display())]
    Removed {
        /// The partial shard or file.
        path: PathBuf,
    },
    /// A finished shard is not what its job made.
    #[error("{} is not what this job made: {reason}", shard.display())]
    Unsound {
        /// The directory of the shard.
        shard: PathBuf,
        /// The reason, as a clause.
        reason: String,
    },
    /// A job.json, shard.json or manifest.json that is not valid.
    #[error("{} is not what seqstream writes: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

fn is_shard(path: &Path) -> bool {
    let name = path.file_name().map(|n| n.to_string_lossy());
    name.is_some_and(|n| n.starts_with("shard-"))
}

fn in_shard(shard: Option<u64>) -> String {
    shard.map(|b| format!(" (shard {b})")).unwrap_or_default()
}

fn who(by: Option<&str>) -> String {
    by.map(|by| format!(": {by}")).unwrap_or_default()
}

impl OutputError {
    /// A failed call on `path`: `action` is the verb that the message uses, `shard` the shard it is
    /// about.
    pub fn io(action: &'static str, path: &Path, shard: Option<u64>, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_path_buf(),
            shard,
            source,
        }
    }

    /// Returns what the user can do about the error, if a remedy is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => Some(
                "free some space, then run the same command with --resume: finished shards are kept".into(),
            ),
            Self::Io { source, .. } if files::hint(source).is_some() => files::hint(source).map(|what| {
                format!("{what}; then run the same command with --resume: finished shards are kept")
            }),
            Self::Io { action: "read" | "list", .. } => Some(
                "run the same command again; if it fails again, see that the file is there, may be read, and that its disk is sound".into(),
            ),
            Self::Io { .. } => {
                Some("when this is mended, run the same command with --resume: finished shards are kept".into())
            }
            Self::F16Overflow { .. } => Some("write f32 instead: --output-dtype f32".into()),
            Self::Foreign { path, .. } if is_shard(path) => {
                Some("move it elsewhere, then run the same command again".into())
            }
            Self::Foreign { .. } => Some("give an empty or a new directory as --out".into()),
            Self::Unsound { .. } => Some(
                "it was changed while the job was running: run `embed` once more with --resume, which computes it again".into(),
            ),
            Self::Locked { .. } => Some("wait for it to end, or give another --out".into()),
            Self::Marked { path, .. } => Some(format!(
                "wait for it to end; if it was killed, remove {} and run the same command again",
                path.display()
            )),
            Self::Taken { .. } | Self::Removed { .. } => Some(
                "nothing of the other job was touched; when it has ended, run the same command with --resume".into(),
            ),
            Self::Malformed { path, .. } => match path.parent() {
                _ if path.file_name().is_some_and(|n| n == super::MANIFEST_FILE) => {
                    Some("run the job of that directory again with --resume, which writes it anew".into())
                }
                Some(shard) if is_shard(shard) => {
                    Some(format!("remove {}: --resume then computes it again", shard.display()))
                }
                _ => Some("start again with another --out".into()),
            },
        }
    }
}
