//! Fetches the files of a model into the cache.
//!
//! Content arrives in `blobs/ETAG.seqstream.incomplete`, where the next try continues. It gets its
//! name, `blobs/ETAG`, when its hash has been compared, as it lies on the disk. So no content is
//! published that the Hub does not have, even where a file lock does nothing, as on some network
//! file systems: two processes then write the same bytes to the same places.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::thread;
use std::time::Duration;

use ring::digest;

use super::cache::{CONFIG, TOKENIZER, is_file, is_plain, shards};
use super::client::{Client, Metadata};
use super::patience::{Failed, pause};
use super::{Cache, Hub, HubError, Name, Observer, WEIGHTS};
use crate::untrusted::file;

/// The files beside the weights that seqstream reads.
const BESIDE: [&str; 5] = [
    CONFIG,
    TOKENIZER,
    "vocab.txt",
    "added_tokens.json",
    "adapter_config.json",
];

/// How many bytes are read at once.
const BUFFER: usize = 1 << 18;
/// How long to wait before looking again whether another process has released its lock.
const LOCK_WAIT: Duration = Duration::from_millis(100);

/// Downloads a model, and returns the folder of its files and the commit.
pub(super) fn download(
    hub: &Hub,
    cache: &Cache,
    name: &Name,
    observer: &mut dyn Observer,
) -> Result<(PathBuf, String), HubError> {
    let client = Client::new(hub, name)?;
    let listing = client.listing(observer)?;
    let has = |file: &str| listing.files.iter().any(|listed| listed == file);
    let weights = WEIGHTS.into_iter().find(|file| has(file));
    let weights = weights.ok_or_else(|| HubError::NoWeights { name: name.clone() })?;
    let folder = cache.folder(&name.id);
    let locks = cache.path().join(".locks");
    let download = Download {
        client,
        name,
        commit: &listing.commit,
        snapshot: folder.join("snapshots").join(&listing.commit),
        blobs: folder.join("blobs"),
        locks: locks.join(folder.file_name().unwrap_or_default()),
    };
    for folder in [&download.snapshot, &download.blobs, &download.locks] {
        fs::create_dir_all(folder).map_err(HubError::write(folder))?;
    }
    // The weights come last, so that they are there only if everything else is.
    let beside = BESIDE.into_iter().filter(|file| has(file));
    let mut files: Vec<String> = beside.map(str::to_owned).collect();
    if weights.ends_with(".json") {
        // The index says which shards there are.
        download.all(&[weights.to_owned()], &mut ())?;
        for shard in shards(&download.snapshot.join(weights))? {
            if !has(&shard) {
                return Err(HubError::Absent {
                    name: name.clone(),
                    endpoint: hub.endpoint.clone(),
                    what: format!("file {shard} of it, which {weights} lists"),
                    revision: false,
                });
            }
            files.push(shard);
        }
    } else {
        files.push(weights.to_owned());
    }
    download.all(&files, observer)?;
    if !name.is_pinned() {
        let path = folder.join("refs").join(&name.revision);
        refer(&path, &listing.commit).map_err(HubError::write(&path))?;
    }
    Ok((download.snapshot.clone(), listing.commit.clone()))
}

/// The download of one commit.
struct Download<'a> {
    client: Client<'a>,
    name: &'a Name,
    commit: &'a str,
    snapshot: PathBuf,
    blobs: PathBuf,
    locks: PathBuf,
}

/// A file that is to be fetched.
struct Part<'a> {
    file: &'a str,
    of: Metadata,
    blob: PathBuf,
    partial: PathBuf,
}

impl Part<'_> {
    /// Whether the content is there already.
    fn is_there(&self) -> bool {
        fs::metadata(&self.blob).is_ok_and(|blob| blob.is_file() && blob.len() == self.of.size)
    }

    /// How many bytes an earlier try has left.
    fn arrived(&self) -> u64 {
        let length = fs::metadata(&self.partial).map_or(0, |partial| partial.len());
        if length <= self.of.size { length } else { 0 }
    }
}

impl Download<'_> {
    /// Fetches these files, as far as the snapshot lacks them.
    fn all(&self, files: &[String], observer: &mut dyn Observer) -> Result<(), HubError> {
        let mut parts = Vec::new();
        for file in files.iter().filter(|file| is_plain(file)) {
            if is_file(&self.snapshot.join(file))? {
                continue;
            }
            let of = self.client.metadata(self.commit, file, observer)?;
            parts.push(Part {
                file,
                blob: self.blobs.join(&of.etag),
                partial: self.blobs.join(format!("{}.seqstream.incomplete", of.etag)),
                of,
            });
        }
        let absent: Vec<&Part> = parts.iter().filter(|part| !part.is_there()).collect();
        let needed = absent
            .iter()
            .map(|part| part.of.size - part.arrived())
            .sum();
        if let Some(free) = free(&self.blobs).filter(|free| *free < needed) {
            return Err(HubError::Space {
                path: self.blobs.clone(),
                needed,
                free,
            });
        }
        let total = absent.iter().map(|part| part.of.size).sum();
        if !absent.is_empty() {
            observer.starts(self.name, total);
        }
        let mut done = 0;
        for part in absent {
            self.fetch(part, done, observer)?;
            done += part.of.size;
        }
        for part in &parts {
            self.link(part)?;
        }
        if done > 0 {
            observer.ends();
        }
        Ok(())
    }

    /// Fetches the content of one file; `before` bytes of other files are there.
    fn fetch(&self, part: &Part, before: u64, observer: &mut dyn Observer) -> Result<(), HubError> {
        let _lock = self.lock(part, observer)?;
        if part.is_there() {
            return Ok(());
        }
        let failed = |error| HubError::write(&part.partial)(error);
        loop {
            // An earlier try may have left the bytes of a server that was wrong.
            let resumed = part.arrived() > 0;
            let options = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .clone();
            let mut content = options.open(&part.partial).map_err(failed)?;
            self.receive(part, &mut content, before, observer)?;
            content.set_len(part.of.size).map_err(failed)?;
            let found = hash(&mut content, &part.of).map_err(failed)?;
            if found == part.of.etag {
                content.sync_all().map_err(failed)?;
                break;
            }
            fs::remove_file(&part.partial).map_err(failed)?;
            if !resumed {
                return Err(HubError::Corrupt {
                    name: self.name.clone(),
                    file: part.file.to_owned(),
                    expected: part.of.etag.clone(),
                    found,
                });
            }
            observer.note(&format!(
                "{}: what had arrived earlier was wrong; once more",
                part.file
            ));
        }
        match fs::rename(&part.partial, &part.blob) {
            // Where locks do nothing, another process may have been faster.
            Err(error) if error.kind() == io::ErrorKind::NotFound && part.is_there() => Ok(()),
            named => named.map_err(HubError::write(&part.blob)),
        }
    }

    /// Receives what is missing of a file, as often as the connection breaks, as long as something
    /// arrives.
    fn receive(
        &self,
        part: &Part,
        content: &mut File,
        before: u64,
        observer: &mut dyn Observer,
    ) -> Result<(), HubError> {
        let mut have = part.arrived();
        let mut failures = 0;
        let mut buffer = vec![0; BUFFER];
        while have < part.of.size {
            let earlier = have;
            let result = self.piece(part, content, &mut have, &mut buffer, &mut |have| {
                observer.progress(before + have);
            });
            if let Err(failed) = result {
                if have > earlier {
                    failures = 0;
                }
                pause(failed, &mut failures, observer)?;
            }
        }
        Ok(())
    }

    /// Receives bytes until the file is complete or the connection breaks. `have` counts the bytes
    /// that are there.
    fn piece(
        &self,
        part: &Part,
        content: &mut File,
        have: &mut u64,
        buffer: &mut [u8],
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Failed> {
        let failed = |error| HubError::write(&part.partial)(error);
        let (begins, host, body) = self.client.open(self.commit, part.file, *have)?;
        *have = begins;
        content.seek(SeekFrom::Start(begins)).map_err(failed)?;
        let mut body = body.take(part.of.size - begins);
        loop {
            let count = match body.read(buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.client.broken(&host, &error)),
            };
            if count == 0 && *have < part.of.size {
                return Err(self
                    .client
                    .broken(&host, &io::ErrorKind::UnexpectedEof.into()));
            }
            if count == 0 {
                return Ok(());
            }
            content.write_all(&buffer[..count]).map_err(failed)?;
            *have += count as u64;
            progress(*have);
        }
    }

    /// Waits for the lock of a file, which `huggingface_hub` takes, too. Where there are no locks,
    /// the result is `None`.
    fn lock(&self, part: &Part, observer: &mut dyn Observer) -> Result<Option<File>, HubError> {
        let path = self.locks.join(format!("{}.lock", part.of.etag));
        let options = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .clone();
        let lock = options.open(&path).map_err(HubError::write(&path))?;
        let mut waits = false;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Some(lock)),
                Err(TryLockError::Error(_)) => return Ok(None),
                Err(TryLockError::WouldBlock) => {}
            }
            if !waits {
                observer.note(&format!(
                    "another process downloads {}: waiting for it",
                    part.file
                ));
                waits = true;
            }
            thread::sleep(LOCK_WAIT);
        }
    }

    /// Puts the name of a file into the snapshot.
    fn link(&self, part: &Part) -> Result<(), HubError> {
        let name = self.snapshot.join(part.file);
        let failed = HubError::write(&name);
        // A link that leads nowhere is replaced, at once for everybody who looks at it.
        let own = format!(".{}.{}.tmp", part.file, process::id());
        let own = self.snapshot.join(own);
        let target = Path::new("../../blobs").join(&part.of.etag);
        match symlink(&target, &own) {
            Ok(()) => fs::rename(&own, &name).map_err(failed),
            // Where there are no links, the content itself gets the name.
            Err(error) if has_no_links(&error) => fs::rename(&part.blob, &name).map_err(failed),
            Err(error) => Err(failed(error)),
        }
    }
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    match std::os::unix::fs::symlink(target, link) {
        // A process of the same number, which has been killed, has left it.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(link)?;
            std::os::unix::fs::symlink(target, link)
        }
        made => made,
    }
}

#[cfg(not(unix))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

fn has_no_links(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported
    )
}

/// Lets a revision mean a commit, at once for everybody who reads it.
fn refer(path: &Path, commit: &str) -> io::Result<()> {
    if file::read_text(path, 200).is_ok_and(|text| text == commit) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut own = path.as_os_str().to_owned();
    own.push(format!(".{}.tmp", process::id()));
    let own = PathBuf::from(own);
    let mut reference = File::create(&own)?;
    reference.write_all(commit.as_bytes())?;
    reference.sync_all()?;
    fs::rename(&own, path)
}

/// The hash of a file's content, of the kind that the Hub gives: SHA-256, or git's SHA-1, which
/// begins with the size.
fn hash(content: &mut File, of: &Metadata) -> io::Result<String> {
    let mut context = match of.etag.len() {
        64 => digest::Context::new(&digest::SHA256),
        _ => {
            let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
            context.update(format!("blob {}\0", of.size).as_bytes());
            context
        }
    };
    content.seek(SeekFrom::Start(0))?;
    let mut buffer = vec![0; BUFFER];
    loop {
        match content.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => context.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let bytes = context.finish();
    Ok(bytes
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// The bytes that this user may still write into a folder; `None` if that is not known.
#[cfg(unix)]
fn free(folder: &Path) -> Option<u64> {
    let known = rustix::fs::statvfs(folder).ok()?;
    known.f_bavail.checked_mul(known.f_frsize)
}

#[cfg(not(unix))]
fn free(_: &Path) -> Option<u64> {
    None
}
