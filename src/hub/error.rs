//! The errors of finding a model by its name and of downloading it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Name;
use crate::bytes::{self, Bytes};
use crate::remedy::{Action, Remedy};
use crate::untrusted::{Shown, shown};

/// Why a name leads to no model, or why the model could not be downloaded.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// A text is neither a path nor a name that is known.
    #[error(
        "{}: there is no such file or folder, and no model is known by this name",
        Shown(text)
    )]
    Unknown {
        /// The text.
        text: String,
        /// Known names that resemble it.
        nearest: Vec<&'static str>,
    },
    /// The cache does not have the model, and nothing may be downloaded.
    #[error("{name} is not in the cache ({}){}, and {}", shown::path(cache), lacking(lacks), forbidden(*by))]
    NotCached {
        /// The model.
        name: Name,
        /// The folder of the cache.
        cache: PathBuf,
        /// The files that are missing, if others of the model are there.
        lacks: Vec<String>,
        /// The variable that forbids to download; `None` if this build cannot download.
        by: Option<&'static str>,
    },
    /// The environment gives no place for a cache.
    #[error("there is no place for downloaded models: the home directory is not known")]
    NoCache,
    /// The Hub has no such model, revision or file.
    #[error("{}: there is no such file or folder, and {} has no {what}", Shown(&name.to_string()), Shown(endpoint))]
    Absent {
        /// The model.
        name: Name,
        /// The address of the Hub.
        endpoint: String,
        /// What it does not have: a noun with its name.
        what: String,
        /// Whether another revision of the model may be there.
        revision: bool,
    },
    /// The repository has no weights that can be read.
    #[error("{name} has none of {} on the Hub", super::WEIGHTS.join(", "))]
    NoWeights {
        /// The model.
        name: Name,
    },
    /// The Hub refuses to give the model out.
    #[error(
        "{} refuses to give out {name} ({status}){}",
        Shown(endpoint),
        reason(said)
    )]
    Denied {
        /// The model.
        name: Name,
        /// The address of the Hub.
        endpoint: String,
        /// The status of its answer.
        status: u16,
        /// What the Hub says.
        said: String,
        /// Whether a token was sent.
        token: bool,
        /// Whether the model is given out to those only who accept its terms.
        gated: bool,
    },
    /// The server has too many requests.
    #[error("{} has too many requests (429){}", Shown(host), wait(*after))]
    Busy {
        /// The server.
        host: String,
        /// How long it asks to wait.
        after: Option<Duration>,
    },
    /// A server cannot be reached, or a connection broke again and again.
    #[error("{} cannot be reached: {what}", Shown(host))]
    Unreachable {
        /// The model that was asked for.
        name: Name,
        /// The server.
        host: String,
        /// What failed.
        what: String,
    },
    /// The certificate of a server is not trusted.
    #[error("{} cannot be trusted: {what}", Shown(host))]
    Certificate {
        /// The server.
        host: String,
        /// What is wrong with its certificate.
        what: String,
    },
    /// A server answers with an error of its own.
    #[error("{} fails with status {status}{}", Shown(host), reason(said))]
    Failing {
        /// The server.
        host: String,
        /// The status of its answer.
        status: u16,
        /// What it says.
        said: String,
    },
    /// The answer of a server cannot be understood.
    #[error("{} does not answer as the Hugging Face Hub does: {what}", Shown(host))]
    Answer {
        /// The server.
        host: String,
        /// What is wrong with the answer.
        what: String,
    },
    /// The content of a file is not what the Hub says it is.
    #[error(
        "{} of {name} arrived with wrong bytes: its hash is {found}, and {expected} is right",
        Shown(file)
    )]
    Corrupt {
        /// The model.
        name: Name,
        /// The file.
        file: String,
        /// The hash that the Hub gives.
        expected: String,
        /// The hash of what arrived.
        found: String,
    },
    /// The cache cannot be read or written.
    #[error("{}: cannot be {action}: {source}", shown::path(path))]
    Cache {
        /// The file or folder.
        path: PathBuf,
        /// What failed: "read" or "written".
        action: &'static str,
        /// The error that the system gave.
        source: io::Error,
    },
    /// The disk has too little free space for the model.
    #[error("{}: the download needs {}, and {} are free there", shown::path(path), bytes::rounded_up(*needed), Bytes(*free))]
    Space {
        /// The folder of the cache.
        path: PathBuf,
        /// The bytes that are still to be downloaded.
        needed: u64,
        /// The bytes that are free.
        free: u64,
    },
    /// The token cannot be read or sent.
    #[error("{from} {what}")]
    Token {
        /// The variable or the file.
        from: String,
        /// What is wrong with it.
        what: String,
    },
    /// A setting of the environment cannot be used.
    #[error("{variable}: {what}")]
    Setting {
        /// The variable.
        variable: &'static str,
        /// What is wrong with its value.
        what: String,
    },
}

fn lacking(lacks: &[String]) -> String {
    match lacks {
        [] => String::new(),
        [only] => format!(" as a whole: {} is missing", Shown(only)),
        [first, rest @ ..] => format!(
            " as a whole: {} and {} more files are missing",
            Shown(first),
            rest.len()
        ),
    }
}

fn forbidden(by: Option<&'static str>) -> String {
    match by {
        Some(variable) => format!("{variable} forbids to download it"),
        None => "this build of seqstream cannot download (it lacks the feature `hub`)".into(),
    }
}

fn reason(said: &str) -> String {
    match said {
        "" => String::new(),
        said => format!(": {}", Shown(said)),
    }
}

fn wait(after: Option<Duration>) -> String {
    match after {
        Some(after) => format!(" and asks to wait for {} s", after.as_secs()),
        None => String::new(),
    }
}

impl HubError {
    pub(super) fn read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Cache {
            path,
            action: "read",
            source,
        }
    }

    #[cfg(feature = "hub")]
    pub(super) fn write(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Cache {
            path,
            action: "written",
            source,
        }
    }

    /// Whether the name leads to no model at all, so that to try again would be in vain.
    pub fn leads_nowhere(&self) -> bool {
        matches!(
            self,
            Self::Unknown { .. }
                | Self::NotCached { .. }
                | Self::Absent { .. }
                | Self::NoWeights { .. }
        )
    }

    /// Returns what the user can do about the error, if a remedy is known.
    pub fn remedy(&self) -> Option<Remedy> {
        Some(match self {
            Self::Unknown { nearest, .. } => {
                let check = "check the path, or give a name such as facebook/esm2_t33_650M_UR50D";
                let list = Action::ListModels.into();
                match nearest.as_slice() {
                    [] => Remedy::all([check.into(), list]),
                    names => {
                        let meant = format!("perhaps {} is meant", names.join(" or "));
                        Remedy::all([meant.into(), check.into(), list])
                    }
                }
            }
            Self::NotCached { name, by, .. } => {
                match by {
                    Some(variable) => {
                        Remedy::any_of([fill(name), format!("unset {variable}").into()])
                    }
                    None => fill(name),
                }
            }
            Self::NoCache => "set HF_HUB_CACHE to a folder for downloaded models".into(),
            Self::Absent { revision: true, name, endpoint, .. } => format!(
                "{endpoint}/{}/tree/main lists the branches and tags of the model",
                name.id
            )
            .into(),
            Self::Absent { name, .. } => {
                let check = "check the path or the name; a private model needs a token (`hf auth login`, or HF_TOKEN)";
                match super::name::nearest(&name.id).as_slice() {
                    [] => check.into(),
                    near => Remedy::all([
                        format!("perhaps {} is meant", near.join(" or ")).into(),
                        check.into(),
                    ]),
                }
            }
            Self::NoWeights { .. } => {
                "give a model that is published as model.safetensors or pytorch_model.bin".into()
            }
            Self::Denied { gated: true, name, endpoint, token, .. } => {
                let accept: Remedy =
                    format!("accept the terms of the model on {endpoint}/{}", name.id).into();
                match token {
                    true => accept,
                    false => Remedy::steps([accept, LOG_IN.into()]),
                }
            }
            Self::Denied { token: true, .. } => {
                "the token may be wrong or expired, or have no access to this model: log in again with `hf auth login`, or set HF_TOKEN".into()
            }
            Self::Denied { .. } => LOG_IN.into(),
            Self::Busy { .. } => Remedy::all([
                Remedy::steps(["wait a while".into(), Action::RunAgain.into()]),
                "a token (HF_TOKEN) has a higher limit".into(),
            ]),
            Self::Unreachable { name, .. } => Remedy::all([
                "check the network and its proxy (HTTPS_PROXY), and HF_ENDPOINT if it is set".into(),
                Action::RunAgain.into(),
                "what has arrived is kept".into(),
                Remedy::when("if this machine has no network", fill(name)),
            ]),
            Self::Certificate { .. } => {
                "where a proxy has a certificate of its own, set SSL_CERT_FILE to a file with it".into()
            }
            Self::Failing { .. } => Remedy::steps(["wait a while".into(), Action::RunAgain.into()]),
            Self::Answer { .. } => {
                "check HF_ENDPOINT and the proxy: something else than the Hub may have answered".into()
            }
            Self::Corrupt { .. } => Remedy::all([
                "the file has been removed".into(),
                Action::RunAgain.into(),
                "if it happens again, a proxy on the way may change files".into(),
            ]),
            Self::Cache { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Remedy::any_of([
                    "free some space, and what has arrived is kept".into(),
                    OTHER_CACHE.into(),
                ]),
                _ => OTHER_CACHE.into(),
            },
            Self::Space { .. } => {
                Remedy::any_of(["free some space".into(), OTHER_CACHE.into()])
            }
            Self::Token { .. } => {
                "log in again with `hf auth login`, or set HF_TOKEN to a token, or HF_HUB_DISABLE_IMPLICIT_TOKEN=1 to send none".into()
            }
            Self::Setting { .. } => "correct the variable, or unset it".into(),
        })
    }
}

/// Fetches a model in another way.
fn fill(name: &Name) -> Remedy {
    Action::FillCache {
        name: name.id.clone(),
        revision: (name.revision != super::MAIN).then(|| name.revision.clone()),
    }
    .into()
}

const LOG_IN: &str =
    "log in with `hf auth login`, or set HF_TOKEN to a token with access to the model";
const OTHER_CACHE: &str = "set HF_HUB_CACHE to a folder that can be written";
