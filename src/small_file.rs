//! Reading small files whose content, size and kind nobody vouches for.

use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::path::Path;

/// Reads a whole text file of at most `most` bytes.
///
/// # Errors
/// Those of the operating system, and [`ErrorKind::InvalidData`] for what can be no such file: a
/// directory, a pipe (which would be waited for without end), a device, too many bytes, no UTF-8.
pub(crate) fn read(path: &Path, most: u64) -> io::Result<String> {
    regular(&fs::metadata(path)?)?;
    let file = File::open(path)?;
    // Once more, of what was opened.
    regular(&file.metadata()?)?;
    let mut text = String::new();
    // The size that the system tells may change while the file is read.
    file.take(most + 1)
        .read_to_string(&mut text)
        .map_err(|e| match e.kind() {
            ErrorKind::InvalidData => bad("it is not UTF-8 text"),
            _ => e,
        })?;
    if text.len() as u64 > most {
        return Err(bad(&format!("it has more than {most} bytes")));
    }
    Ok(text)
}

/// Refuses a path at which something other than a regular file stands; nothing may stand there.
pub(crate) fn regular_or_absent(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(found) => regular(&found),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

fn regular(found: &Metadata) -> io::Result<()> {
    match found {
        found if found.is_file() => Ok(()),
        found if found.is_dir() => Err(bad("it is a directory and not a file")),
        _ => Err(bad("it is a pipe or a device and not a regular file")),
    }
}

fn bad(reason: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_small_regular_text_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("text"), "four").unwrap();
        assert_eq!(read(&path("text"), 4).unwrap(), "four");
        let refused = |name: &str, most| {
            let error = read(&path(name), most).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
            error.to_string()
        };
        assert_eq!(refused("text", 3), "it has more than 3 bytes");
        fs::write(path("bytes"), [0xff, 0xfe]).unwrap();
        assert_eq!(refused("bytes", 9), "it is not UTF-8 text");
        assert_eq!(refused("", 9), "it is a directory and not a file");
        let absent = read(&path("absent"), 9).unwrap_err();
        assert_eq!(absent.kind(), ErrorKind::NotFound);
        assert!(regular_or_absent(&path("absent")).is_ok());
        assert!(regular_or_absent(&path("text")).is_ok());
        assert!(regular_or_absent(dir.path()).is_err());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_device_is_refused_before_it_is_opened() {
        let error = read(Path::new("/dev/zero"), 9).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(regular_or_absent(Path::new("/dev/zero")).is_err());
    }
}
