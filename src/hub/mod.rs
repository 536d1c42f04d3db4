//! Finds a model by its name: in the local cache of the Hugging Face Hub, or else on the Hub.
//!
//! | file | what it does |
//! |---|---|
//! | `name` | names, revisions and short names of models: [`Name`], [`KNOWN`] |
//! | `environment` | the settings, from the variables of `huggingface_hub`: [`Hub`] |
//! | `cache` | the layout of the cache, and what it has of a model: [`Cache`] |
//! | `client` | requests to the Hub: redirects, the token, errors and repetitions |
//! | `download` | fetches the files of a model into the cache |
//! | `error` | [`HubError`] |
//!
//! The network is used only for a model that the cache does not have as a whole, so that a name
//! means the same files on every run until somebody downloads others. `client` and `download` are
//! parts of the feature `hub`; without it, models are found in the cache only.

#[cfg(feature = "hub")]
mod address;
mod cache;
#[cfg(feature = "hub")]
mod client;
#[cfg(feature = "hub")]
mod download;
mod environment;
mod error;
mod name;
#[cfg(feature = "hub")]
mod patience;

pub use cache::{Cache, Snapshot, WEIGHTS};
pub use environment::{Hub, Token};
pub use error::HubError;
pub use name::{KNOWN, Known, MAIN, Name};

use crate::untrusted::file;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// A model that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The folder or file of the model.
    pub path: PathBuf,
    /// The name on the Hub and the commit, as `NAME@COMMIT`; `None` if the model was given by its
    /// path.
    pub id: Option<String>,
}

/// Is told how a download goes on.
pub trait Observer {
    /// A download of so many bytes begins, of which some are there already from an earlier try.
    fn starts(&mut self, _name: &Name, _bytes: u64) {}
    /// So many bytes of the download are there.
    fn progress(&mut self, _bytes: u64) {}
    /// Something takes longer: another process downloads the same file, or a connection broke.
    fn note(&mut self, _text: &str) {}
    /// The download is complete.
    fn ends(&mut self) {}
}

/// Nobody is told.
impl Observer for () {}

/// Finds the model that `given` means. If there is a file or a folder of this name, it is meant.
/// Otherwise `given` is the name of a model, which is looked for in the cache, and downloaded if
/// the cache does not have it as a whole and nothing forbids the network.
///
/// # Errors
/// [`HubError`] if the name is unknown, or if the model could not be downloaded.
pub fn find(given: &Path, hub: &Hub, observer: &mut dyn Observer) -> Result<Found, HubError> {
    let local = || Found {
        path: given.to_owned(),
        id: None,
    };
    match file::is_there(given) {
        Ok(false) => {}
        // What cannot be examined is for those to name who open it.
        Ok(true) => return Ok(local()),
        Err(error) if error.kind() == ErrorKind::NotADirectory => {}
        Err(_) => return Ok(local()),
    }
    let Some(text) = given.to_str() else {
        return Ok(local());
    };
    let Some(name) = Name::parse(text) else {
        // A single word is no path that somebody typed with care; a path is.
        if given.components().count() != 1 || given.extension().is_some() {
            return Ok(local());
        }
        return Err(HubError::Unknown {
            text: text.to_owned(),
            nearest: name::nearest(text),
        });
    };
    let (folder, commit) = hub.get(&name, observer)?;
    Ok(Found {
        path: folder,
        id: Some(format!("{}@{commit}", name.id)),
    })
}

impl Hub {
    /// The folder and the commit of a model.
    #[cfg_attr(not(feature = "hub"), allow(unused_variables))] // nobody is told of no download
    fn get(&self, name: &Name, observer: &mut dyn Observer) -> Result<(PathBuf, String), HubError> {
        let cache = self.cache.as_ref().ok_or(HubError::NoCache)?;
        let cached = cache.find(name)?;
        if let Some(cached) = &cached
            && (cached.lacks.is_empty() || (cached.weights && !self.may_download()))
        {
            return Ok((cached.folder.clone(), cached.commit.clone()));
        }
        #[cfg(feature = "hub")]
        if self.may_download() {
            return download::download(self, cache, name, observer);
        }
        Err(HubError::NotCached {
            name: name.clone(),
            cache: cache.path().to_owned(),
            lacks: cached.map_or_else(Vec::new, |cached| cached.lacks),
            by: self.offline,
        })
    }

    /// Whether this build can download, and nothing forbids it.
    pub fn may_download(&self) -> bool {
        cfg!(feature = "hub") && self.offline.is_none()
    }
}
