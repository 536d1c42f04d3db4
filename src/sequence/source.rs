//! Opens inputs: decompresses files and standard input, and hashes the raw bytes while they are
//! read.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

pub(super) use super::gzip::Trailing;

use super::SequenceError;
use super::gzip::Members;
use crate::system::pause::{OnPause, Pausing};

/// The most bytes of one raw read: enough that hashing takes far longer than the system call.
const RAW_BLOCK: usize = 256 * 1024;
/// The most memory in bytes that an xz header may ask for; `xz -9` needs 65 MiB.
const XZ_MEMORY: u64 = 1 << 30;

/// One input of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Standard input, which the user writes as `-`.
    Stdin,
    /// A file, a named pipe or a device.
    Path(PathBuf),
}

impl Input {
    /// Returns the name for messages and digests: the path as given, or `-`.
    pub fn name(&self) -> Arc<str> {
        match self {
            Self::Stdin => "-".into(),
            Self::Path(path) => path.to_string_lossy().into(),
        }
    }
}

impl<P: AsRef<Path> + ?Sized> From<&P> for Input {
    fn from(path: &P) -> Self {
        let path = path.as_ref();
        if path.as_os_str() == "-" {
            Self::Stdin
        } else {
            Self::Path(path.to_owned())
        }
    }
}

/// The identity of an input: the size and the hash of its bytes before decompression.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct InputDigest {
    /// The path as given, or `-`.
    pub name: String,
    /// The number of bytes as stored.
    pub bytes: u64,
    /// The BLAKE3 hash of these bytes in 64 hex digits.
    pub blake3: String,
}

/// An open input. It gives decompressed bytes and hashes the raw bytes.
pub(super) struct Source {
    pub name: Arc<str>,
    pub compression: Option<&'static str>,
    reader: Box<dyn Read + Send>,
    raw: Arc<Mutex<Raw>>,
}

#[derive(Default)]
struct Raw {
    hasher: blake3::Hasher,
    bytes: u64,
    /// Whether the input has ended, consists of bgzip blocks, and lacks the last, empty block.
    lacks_end: bool,
}

/// A reader that hashes the bytes that pass through it. The decoder owns the reader, so the state
/// of the hash is shared.
struct Hashing<R> {
    inner: R,
    raw: Arc<Mutex<Raw>>,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        let mut raw = self.raw.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(read) = buf.get(..n) {
            raw.hasher.update(read);
        }
        raw.bytes += n as u64;
        Ok(n)
    }
}

impl Source {
    /// Opens an input. If reading may have to wait, as for a pipe, `on_pause` is called before it
    /// waits.
    pub fn open(input: &Input, on_pause: Option<OnPause>) -> Result<Self, SequenceError> {
        let name = input.name();
        let failed = |source| SequenceError::Open {
            file: name.clone(),
            source,
        };
        let reader: Box<dyn Read + Send> = match input {
            Input::Stdin => Box::new(Pausing::new(io::stdin(), on_pause)),
            Input::Path(path) => {
                let file = File::open(path).map_err(failed)?;
                let kind = file.metadata().map(|m| m.file_type());
                match kind {
                    // Opening a directory succeeds. Only reading it fails, with a less helpful
                    // message.
                    Ok(kind) if kind.is_dir() => {
                        return Err(failed(io::ErrorKind::IsADirectory.into()));
                    }
                    Ok(kind) if kind.is_file() => Box::new(file),
                    _ => Box::new(Pausing::new(file, on_pause)),
                }
            }
        };
        Self::new(name.clone(), reader).map_err(failed)
    }

    /// Looks at the first bytes of `reader` and puts the right decoder on top of it.
    pub fn new(name: Arc<str>, reader: Box<dyn Read + Send>) -> io::Result<Self> {
        let raw = Arc::new(Mutex::new(Raw::default()));
        let mut reader = BufReader::with_capacity(
            RAW_BLOCK,
            Hashing {
                inner: reader,
                raw: raw.clone(),
            },
        );
        let mut magic = Vec::with_capacity(6);
        // A pipe may return one byte at a time; `take` reads on until it has six bytes or the input
        // ends.
        reader.by_ref().take(6).read_to_end(&mut magic)?;
        let compression = compression_of(&magic);
        let all = Cursor::new(magic).chain(reader);
        let reader = decoder(compression, all, &raw)?;
        Ok(Self {
            name,
            compression,
            reader,
            raw,
        })
    }

    /// Reads decompressed bytes once. Returns 0 at the end of the input.
    pub fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.reader.read(buf) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    /// Returns whether the end marker of bgzip is missing. Once `read` has returned 0, this holds
    /// for the whole input.
    pub fn lacks_end(&self) -> bool {
        let raw = self.raw.lock().unwrap_or_else(PoisonError::into_inner);
        raw.lacks_end
    }

    /// Returns the digest of the bytes read so far. Once `read` has returned 0, this is the digest
    /// of the whole input.
    pub fn digest(&self) -> InputDigest {
        let raw = self.raw.lock().unwrap_or_else(PoisonError::into_inner);
        InputDigest {
            name: self.name.to_string(),
            bytes: raw.bytes,
            blake3: raw.hasher.finalize().to_hex().to_string(),
        }
    }
}

/// Returns the compression that the first bytes of a file announce.
fn compression_of(magic: &[u8]) -> Option<&'static str> {
    match magic {
        [0x1f, 0x8b, ..] => Some("gzip"),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some("bzip2"),
        [0xfd, b'7', b'z', b'X', b'Z', 0x00, ..] => Some("xz"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("zstd"),
        // A skippable frame, which may be at the start of files from pzstd and of seekable zstd
        // files.
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some("zstd"),
        _ => None,
    }
}

/// Returns the kind of a file that this program does not read, if the first bytes of the file tell
/// it.
pub(super) fn what_else(head: &[u8]) -> Option<&'static str> {
    const KNOWN: [(&[u8], &str); 29] = [
        (b"PK\x03\x04", "a zip archive"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (b"\x1f\x9d", "a file packed with compress (.Z)"),
        (b"\x04\x22\x4d\x18", "an lz4 file"),
        (b"BAM\x01", "a BAM file"),
        (b"CRAM", "a CRAM file"),
        (b"@HD\t", "a SAM file"),
        (b"@SQ\t", "a SAM file"),
        (b"@RG\tID:", "a SAM file"),
        (b"@PG\tID:", "a SAM file"),
        (b"@CO\t", "a SAM file"),
        (b"LOCUS ", "a GenBank file"),
        (b"ID   ", "an EMBL or UniProt flat file"),
        (b"# STOCKHOLM", "a Stockholm alignment"),
        (b"CLUSTAL", "a Clustal alignment"),
        (b"<?xml", "an XML file"),
        (b"##gff-version", "a GFF file"),
        (b"##fileformat=VCF", "a VCF file"),
        (b"HEADER    ", "a PDB file"),
        (b"ATOM  ", "a PDB file"),
        (b"data_", "an mmCIF file"),
        (b"{\\rtf", "an RTF document"),
        (b"%PDF", "a PDF document"),
        (b"\x89HDF", "an HDF5 file"),
        (b"PAR1", "a Parquet file"),
        (b"SQLite format 3", "an SQLite database"),
        (b"\x93NUMPY", "a NumPy array"),
        (b"{", "a JSON file"),
        (b"[", "a JSON file"),
    ];
    /// Where a tar archive has its magic number.
    const TAR: usize = 257;
    if head
        .get(TAR..)
        .is_some_and(|rest| rest.starts_with(b"ustar"))
    {
        return Some("a tar archive");
    }
    if let page @ Some(_) = web_page(head) {
        return page;
    }
    let text = head.trim_ascii_start();
    let known = KNOWN
        .iter()
        .find(|(magic, _)| head.starts_with(magic) || text.starts_with(magic))
        .map(|(_, what)| *what);
    known.or_else(|| compression_of(head).map(|_| "a file compressed twice"))
}

fn web_page(head: &[u8]) -> Option<&'static str> {
    let text = head.trim_ascii_start();
    let page = ["<!doctype html", "<html", "<head", "<body"]
        .iter()
        .any(|tag| {
            text.get(..tag.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(tag.as_bytes()))
        });
    page.then_some("a web page")
}

/// Returns the kind of a table, if the first line of `text` is that of a table. It must not be a
/// header of a record.
pub(super) fn what_table(text: &[u8]) -> Option<&'static str> {
    let end = memchr::memchr2(b'\n', b'\r', text).unwrap_or(text.len());
    let line = text.get(..end)?;
    let count = |separator| memchr::memchr_iter(separator, line).count();
    match (count(b'\t'), count(b',') + count(b';')) {
        (8, _) => Some("a GFF or GTF file"),
        (1.., _) => Some("a TSV table"),
        (0, 1..) => Some("a CSV table"),
        (0, 0) => None,
    }
}

/// Returns whether a decoder failed because the file asks for more memory than the decoder may have
/// or than there is. Such a file is not damaged.
pub(super) fn wants_memory(error: &io::Error) -> bool {
    use liblzma::stream::Error::{Mem, MemLimit};
    use zstd::zstd_safe::zstd_sys::ZSTD_ErrorCode::{
        ZSTD_error_frameParameter_windowTooLarge, ZSTD_error_memory_allocation,
    };
    let Some(inner) = error.get_ref() else {
        return false;
    };
    if let Some(xz) = inner.downcast_ref() {
        return matches!(xz, Mem | MemLimit);
    }
    let zstd = inner.downcast_ref::<zstd::Error>();
    zstd.is_some_and(|e| {
        e.is(ZSTD_error_memory_allocation) || e.is(ZSTD_error_frameParameter_windowTooLarge)
    })
}

/// Puts the decoder for `compression` on top of `raw`. Every decoder continues past the first
/// member, stream or frame, to the end of the input.
fn decoder(
    compression: Option<&'static str>,
    raw: impl BufRead + Send + 'static,
    state: &Arc<Mutex<Raw>>,
) -> io::Result<Box<dyn Read + Send>> {
    Ok(match compression {
        Some("gzip") => {
            let state = Arc::clone(state);
            let at_end = move |lacks_end| {
                let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                state.lacks_end = lacks_end;
            };
            Box::new(Members::new(raw, at_end))
        }
        Some("bzip2") => Box::new(bzip2::bufread::MultiBzDecoder::new(raw)),
        Some("xz") => {
            let stream = liblzma::stream::Stream::new_stream_decoder(
                XZ_MEMORY,
                liblzma::stream::CONCATENATED,
            )?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(raw, stream))
        }
        Some(_) => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(raw)?;
            // `zstd --long=31` makes the largest windows. Only a file with such a window takes the
            // memory for it.
            decoder.window_log_max(if usize::BITS == 64 { 31 } else { 30 })?;
            Box::new(decoder)
        }
        None => Box::new(raw),
    })
}
