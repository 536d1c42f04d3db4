//! Opens regular files only, and tells absence from a fault.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::Path;

use super::shown;

/// Whether `path` has an entry in its folder, be it a link that leads nowhere. Only where the system
/// says that there is none is it absent: what cannot be looked at is no reason to go on without it.
///
/// # Errors
/// Where the system cannot say.
pub fn is_there(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// What stands under `path`, links followed. Of a link that leads nowhere the error says so: "not
/// found" alone would send a user to look for the link, which is there.
///
/// # Errors
/// Where it cannot be looked at.
pub fn metadata(path: &Path) -> io::Result<Metadata> {
    fs::metadata(path).map_err(|error| match fs::read_link(path) {
        Ok(target) if error.kind() == io::ErrorKind::NotFound => {
            let what = format!("it is a link to {}, where nothing is", shown::path(&target));
            io::Error::new(error.kind(), what)
        }
        _ => error,
    })
}

/// Whether `path` is a regular file that is there; absent only as [`is_there`] says.
///
/// # Errors
/// Where it is there and cannot be looked at, or is no regular file.
pub fn is_regular(path: &Path) -> io::Result<bool> {
    if !is_there(path)? {
        return Ok(false);
    }
    check(&metadata(path)?)?;
    Ok(true)
}

/// Opens a regular file. Anything else is refused before it is opened, since to open a named pipe
/// is to wait for whoever writes to it.
///
/// # Errors
/// Where it is no regular file, or cannot be opened.
pub fn open(path: &Path) -> io::Result<File> {
    check(&metadata(path)?)?;
    let file = File::open(path)?;
    check(&file.metadata()?)?;
    Ok(file)
}

/// Reads a regular file of at most `most` bytes; of a longer one its length is the inner error.
///
/// # Errors
/// As [`open`], and where it cannot be read.
pub fn read(path: &Path, most: u64) -> io::Result<Result<Vec<u8>, u64>> {
    let file = open(path)?;
    let length = file.metadata()?.len();
    if length > most {
        return Ok(Err(length));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    // It may have grown since it was measured.
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    let read = bytes.len() as u64;
    Ok(if read > most { Err(read) } else { Ok(bytes) })
}

fn check(metadata: &Metadata) -> io::Result<()> {
    if metadata.is_file() {
        return Ok(());
    }
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let what = format!("it is {}, and only regular files are read", kind(metadata));
    Err(io::Error::new(io::ErrorKind::InvalidInput, what))
}

#[cfg(unix)]
fn kind(metadata: &Metadata) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    let kind = metadata.file_type();
    if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

#[cfg(not(unix))]
fn kind(_: &Metadata) -> &'static str {
    "no file"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, b"12345").unwrap();
        assert_eq!(read(&path, 5).unwrap(), Ok(b"12345".to_vec()));
        assert_eq!(read(&path, 4).unwrap(), Err(5));
        let kind = |path: &Path| read(path, 9).unwrap_err().kind();
        assert_eq!(kind(dir.path()), io::ErrorKind::IsADirectory);
        assert_eq!(kind(&dir.path().join("none")), io::ErrorKind::NotFound);
    }

    #[cfg(unix)]
    #[test]
    fn devices_are_refused_and_links_followed() {
        use std::os::unix::fs::symlink;
        let error = open(Path::new("/dev/zero")).unwrap_err().to_string();
        assert!(error.contains("it is a device"), "{error}");
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("blob"), b"x").unwrap();
        symlink(at("blob"), at("link")).unwrap();
        symlink(at("lost"), at("dangling")).unwrap();
        assert!(is_regular(&at("link")).unwrap());
        assert!(!is_regular(&at("lost")).unwrap());
        assert!(is_there(&at("dangling")).unwrap());
        let error = is_regular(&at("dangling")).unwrap_err().to_string();
        assert!(
            error.contains("a link to") && error.contains("lost, where nothing is"),
            "{error}"
        );
        // A file where a folder should be: no answer, and so no absence.
        assert!(is_there(&at("blob").join("config.json")).is_err());
    }
}
