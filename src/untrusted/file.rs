//! Opens regular files only, and distinguishes an absent file from one that cannot be examined.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::Path;

use super::shown;

/// Returns whether `path` has an entry in its folder; a link that leads nowhere counts as an entry.
/// A path is absent only if the system says so. A path that cannot be examined is an error, since
/// it is no reason to go on without the file.
///
/// # Errors
/// Fails if the system cannot say whether there is an entry.
pub fn is_there(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Returns the metadata of the file at `path`, following links. If a link leads nowhere, the error
/// says so: with "not found" alone, a user would look for the link, which is there.
///
/// # Errors
/// Fails if the file cannot be examined.
pub fn metadata(path: &Path) -> io::Result<Metadata> {
    fs::metadata(path).map_err(|error| match fs::read_link(path) {
        Ok(target) if error.kind() == io::ErrorKind::NotFound => {
            let what = format!("it is a link to {}, where nothing is", shown::path(&target));
            io::Error::new(error.kind(), what)
        }
        _ => error,
    })
}

/// Returns whether there is a regular file at `path`. The file is absent only in the sense of
/// [`is_there`].
///
/// # Errors
/// Fails if there is an entry that cannot be examined, or that is not a regular file.
pub fn is_regular(path: &Path) -> io::Result<bool> {
    if !is_there(path)? {
        return Ok(false);
    }
    check(&metadata(path)?)?;
    Ok(true)
}

/// Opens a regular file. Any other kind of file is refused before it is opened, since opening a
/// named pipe waits for a process that writes to it.
///
/// # Errors
/// Fails if it is not a regular file, or if it cannot be opened.
pub fn open(path: &Path) -> io::Result<File> {
    check(&metadata(path)?)?;
    let file = File::open(path)?;
    check(&file.metadata()?)?;
    Ok(file)
}

/// Reads a regular file of at most `most` bytes. If the file is longer, the inner error is its
/// length.
///
/// # Errors
/// Fails as [`open`] does, and if the file cannot be read.
pub fn read(path: &Path, most: u64) -> io::Result<Result<Vec<u8>, u64>> {
    let file = open(path)?;
    let length = file.metadata()?.len();
    if length > most {
        return Ok(Err(length));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    // The file may have grown since its length was read.
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    let read = bytes.len() as u64;
    Ok(if read > most { Err(read) } else { Ok(bytes) })
}

/// Reads a regular text file of at most `most` bytes.
///
/// # Errors
/// Fails as [`open`] does. The error is [`io::ErrorKind::InvalidData`] if this can be no such file:
/// a folder, a named pipe, a device, a longer file, or bytes that are not UTF-8.
pub fn read_text(path: &Path, most: u64) -> io::Result<String> {
    let bad = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
    let bytes = match read(path, most) {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(_)) => return Err(bad(format!("it has more than {most} bytes"))),
        Err(e) if e.kind() == io::ErrorKind::IsADirectory => {
            return Err(bad("it is a directory and not a file".into()));
        }
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => return Err(bad(e.to_string())),
        Err(e) => return Err(e),
    };
    String::from_utf8(bytes).map_err(|_| bad("it is not UTF-8 text".into()))
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

    #[test]
    fn only_short_texts_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("text"), "four").unwrap();
        fs::write(path("bytes"), [0xff, 0xfe]).unwrap();
        assert_eq!(read_text(&path("text"), 4).unwrap(), "four");
        let refused = |name: &str, most| {
            let error = read_text(&path(name), most).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
            error.to_string()
        };
        assert_eq!(refused("text", 3), "it has more than 3 bytes");
        assert_eq!(refused("bytes", 9), "it is not UTF-8 text");
        assert_eq!(refused("", 9), "it is a directory and not a file");
        let absent = read_text(&path("absent"), 9).unwrap_err();
        assert_eq!(absent.kind(), io::ErrorKind::NotFound);
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
        // A file stands where a folder should be, so the system gives no answer. That is not
        // absence.
        assert!(is_there(&at("blob").join("config.json")).is_err());
    }
}
