//! What can go wrong on the way to the disk.

use std::io;
use std::path::{Path, PathBuf};

use crate::untrusted::Shown;

/// An output that could not be written, or an output directory that may not be written to.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The operating system refused a file operation.
    #[error("cannot {action} {}{}: {source}", path.display(), in_shard(*shard))]
    Io {
        /// What was tried: "create", "write", "sync", "rename", "read" ...
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The shard that was being written, if any.
        shard: Option<u64>,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A value that f16 cannot hold.
    #[error(
        "record \"{}\", layer {layer}: the value {value} is beyond the range of f16 (65504)",
        Shown(id)
    )]
    F16Overflow {
        /// Id of the record.
        id: String,
        /// The layer.
        layer: usize,
        /// The first value out of range.
        value: f32,
    },
    /// The directory holds something that no job of ours wrote.
    #[error("the output directory {} holds \"{}\", which is no part of a seqstream job", path.display(), Shown(name))]
    Foreign {
        /// The output directory.
        path: PathBuf,
        /// The first such entry, by name.
        name: String,
    },
    /// Another process is writing there.
    #[error("another seqstream job is running in {}", path.display())]
    Locked {
        /// The output directory.
        path: PathBuf,
    },
    /// A job.json, shard.json or manifest.json that cannot be understood.
    #[error("{} is not what seqstream writes: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

fn in_shard(shard: Option<u64>) -> String {
    shard.map(|b| format!(" (shard {b})")).unwrap_or_default()
}

impl OutputError {
    pub(crate) fn io(
        action: &'static str,
        path: &Path,
        shard: Option<u64>,
        source: io::Error,
    ) -> Self {
        Self::Io {
            action,
            path: path.to_path_buf(),
            shard,
            source,
        }
    }

    /// The remedy, where one is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => Some(
                "free some space, then run the same command with --resume: finished shards are kept".into(),
            ),
            Self::Io { action: "read", .. } => None,
            Self::Io { .. } => {
                Some("when this is mended, run the same command with --resume: finished shards are kept".into())
            }
            Self::F16Overflow { .. } => Some("write f32 instead: --output-dtype f32".into()),
            Self::Foreign { .. } => Some("give an empty or a new directory as --out".into()),
            Self::Locked { .. } => Some("wait for it to end, or give another --out".into()),
            Self::Malformed { path, .. } => match path.parent() {
                Some(shard) if shard.file_name().is_some_and(|n| n.to_string_lossy().starts_with("shard-")) => {
                    Some(format!("remove {}: --resume then computes it again", shard.display()))
                }
                _ => Some("start again with another --out".into()),
            },
        }
    }
}
