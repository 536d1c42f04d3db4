//! The errors of writing the output.

use std::io;
use std::path::{Path, PathBuf};

use crate::remedy::{Action, Remedy};
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
    /// A file or directory that is to be written exists.
    #[error("{} exists already", path.display())]
    Exists {
        /// The file or directory.
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
    pub fn remedy(&self) -> Option<Remedy> {
        Some(match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Remedy::steps(["free some space".into(), Action::ResumeJob.into()])
            }
            Self::Io { action, source, .. } => match (files::advice(source), *action) {
                (Some(advice), _) => {
                    let go_on = Remedy::steps([advice.into(), Action::ResumeJob.into()]);
                    match source.kind() {
                        // The size of the shards is part of a job, so this is another job.
                        io::ErrorKind::FileTooLarge => {
                            Remedy::any_of([go_on, Action::SmallerShards.into()])
                        }
                        _ => go_on,
                    }
                }
                (None, "read" | "list") => Remedy::all([
                    Action::RunAgain.into(),
                    "if it fails again, see that the file is there, may be read, and that its disk is sound"
                        .into(),
                ]),
                (None, _) => Remedy::when("when this is mended", Action::ResumeJob),
            },
            Self::F16Overflow { .. } => Action::WriteF32.into(),
            Self::Exists { .. } => Remedy::any_of([
                "give the name of a file or directory that does not exist".into(),
                "remove what is there".into(),
            ]),
            Self::Foreign { path, .. } if is_shard(path) => {
                Remedy::steps(["move it elsewhere".into(), Action::RunAgain.into()])
            }
            Self::Foreign { .. } => Action::EmptyOutput.into(),
            Self::Unsound { .. } => Remedy::all([
                "it was changed while the job was running".into(),
                Action::ResumeAffected.into(),
            ]),
            Self::Locked { .. } => {
                Remedy::any_of(["wait for it to end".into(), Action::OtherOutput.into()])
            }
            Self::Marked { path, .. } => Remedy::all([
                "wait for it to end".into(),
                Remedy::when(
                    "if it was killed",
                    Remedy::steps([
                        format!("remove {}", path.display()).into(),
                        Action::RunAgain.into(),
                    ]),
                ),
            ]),
            Self::Taken { .. } | Self::Removed { .. } => Remedy::all([
                "nothing of the other job was touched".into(),
                Remedy::when("when it has ended", Action::ResumeJob),
            ]),
            Self::Malformed { path, .. } => match path.parent() {
                _ if path.file_name().is_some_and(|n| n == super::MANIFEST_FILE) => Remedy::all([
                    Action::ResumeThatJob.into(),
                    "a job writes this file anew when it ends".into(),
                ]),
                Some(shard) if is_shard(shard) => Action::RecomputeShard {
                    shard: shard.to_owned(),
                }
                .into(),
                _ => Action::OtherOutput.into(),
            },
        })
    }
}
