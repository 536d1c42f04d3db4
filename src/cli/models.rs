//! `seqstream models`: lists the models that are known by name, and what the cache has of them.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::args::ModelsArgs;
use super::{Console, Failure, model};
use seqstream::bytes::Bytes;
use seqstream::hub::{Cache, HubError, KNOWN, Known, MAIN, Name};
use seqstream::untrusted::shown;

/// Runs `seqstream models`.
pub fn run(args: &ModelsArgs, console: &Console) -> Result<(), Failure> {
    let hub = model::hub(console);
    let cache = hub.cache.as_ref();
    let models: Result<Vec<Model>, HubError> = KNOWN.iter().map(|m| Model::of(m, cache)).collect();
    let models = Models {
        cache: cache.map(Cache::path),
        downloads: hub.may_download(),
        models: models?,
    };
    console.report(&models, args.json)
}

#[derive(Serialize)]
struct Models<'a> {
    /// The folder of the cache.
    #[serde(serialize_with = "shown_path")]
    cache: Option<&'a Path>,
    /// Whether a model that is not in the cache would be downloaded.
    downloads: bool,
    models: Vec<Model>,
}

fn shown_path<S: serde::Serializer>(path: &Option<&Path>, to: S) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => shown::serialize_path(path, to),
        None => to.serialize_none(),
    }
}

#[derive(Serialize)]
struct Model {
    name: &'static str,
    short: &'static str,
    parameters: u64,
    /// The approximate size of the download.
    bytes: u64,
    /// The commit that the cache has as a whole.
    cached: Option<String>,
    /// The files that are missing from a commit of which the cache has others.
    missing: Vec<String>,
}

impl Model {
    fn of(known: &Known, cache: Option<&Cache>) -> Result<Self, HubError> {
        let name = Name {
            id: known.id.into(),
            revision: MAIN.into(),
        };
        let found = cache.map(|cache| cache.find(&name)).transpose()?.flatten();
        let (cached, missing) = match found {
            None => (None, Vec::new()),
            Some(found) if found.lacks.is_empty() => (Some(found.commit), Vec::new()),
            Some(found) => (None, found.lacks),
        };
        Ok(Self {
            name: known.id,
            short: known.short,
            parameters: known.parameters,
            bytes: known.bytes(),
            cached,
            missing,
        })
    }
}

impl fmt::Display for Models<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |f: &mut fmt::Formatter<'_>, columns: [&str; 4]| {
            let [name, short, size, cached] = columns;
            writeln!(f, "{name:<30} {short:<10} {size:>10}  {cached}")
        };
        line(f, ["name", "short", "size", "in the cache"])?;
        for model in &self.models {
            let cached = match (&model.cached, model.missing.as_slice()) {
                (Some(commit), _) => format!("commit {commit}"),
                (None, []) => "no".into(),
                (None, missing) => format!("in part, without {}", missing.join(", ")),
            };
            let size = Bytes(model.bytes).to_string();
            line(f, [model.name, model.short, &size, &cached])?;
        }
        match self.cache {
            Some(path) => writeln!(f, "cache: {}", shown::path(path))?,
            None => writeln!(f, "cache: none, as the home directory is not known")?,
        }
        match self.downloads {
            true => Ok(()),
            false => writeln!(
                f,
                "downloads: not possible here; models are taken from the cache"
            ),
        }
    }
}
