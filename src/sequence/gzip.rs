//! Reads gzip data of one member or several, and what may follow it.

use std::fmt;
use std::io::{self, BufRead, Chain, Cursor, Read};

use flate2::bufread::GzDecoder;

/// The most trailing bytes that are counted.
const COUNTED: u64 = 1 << 16;

/// Bytes that follow the end of gzip data and are neither zero nor another member.
#[derive(Debug)]
pub(super) struct Trailing {
    bytes: u64,
}

impl Trailing {
    /// Whether this is the cause of a failed read.
    pub fn of(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|cause| cause.is::<Self>())
    }
}

impl fmt::Display for Trailing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bytes {
            1 => f.write_str("1 byte follows the end of the gzip data, which is no gzip"),
            n if n > COUNTED => write!(
                f,
                "more than {COUNTED} bytes follow the end of the gzip data, which are no gzip"
            ),
            n => write!(
                f,
                "{n} bytes follow the end of the gzip data, which are no gzip"
            ),
        }
    }
}

impl std::error::Error for Trailing {}

type Member<R> = GzDecoder<Chain<Cursor<Vec<u8>>, R>>;

/// A decoder of all members of a file. Like gzip, it accepts zero bytes after the last member: tapes
/// and block devices pad files with them.
pub(super) struct Members<R, F> {
    /// The current member; `None` at the end of the input.
    member: Option<Member<R>>,
    /// Whether the first member is a block of bgzip; `None` before its header was read.
    bgzip: Option<bool>,
    /// The number of decompressed bytes of the current member.
    length: u64,
    /// It is told at the end whether the end marker of bgzip, an empty block, is missing.
    at_end: F,
}

impl<R: BufRead, F: FnMut(bool)> Members<R, F> {
    pub fn new(raw: R, at_end: F) -> Self {
        Self {
            member: Some(GzDecoder::new(Cursor::new(Vec::new()).chain(raw))),
            bgzip: None,
            length: 0,
            at_end,
        }
    }

    /// Goes on to the member that follows `member`, if there is one.
    fn next_member(&mut self, member: Member<R>) -> io::Result<()> {
        let (_, mut raw) = member.into_inner().into_inner();
        let mut head = Vec::with_capacity(2);
        raw.by_ref().take(2).read_to_end(&mut head)?;
        if head == [0x1f, 0x8b] {
            self.length = 0;
            self.member = Some(GzDecoder::new(Cursor::new(head).chain(raw)));
            return Ok(());
        }
        let mut bytes = head.len() as u64;
        let mut zero = head.iter().all(|b| *b == 0);
        while zero || bytes <= COUNTED {
            let more = match raw.fill_buf() {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                more => more?,
            };
            if more.is_empty() {
                break;
            }
            let n = more.len();
            zero &= more.iter().all(|b| *b == 0);
            bytes += n as u64;
            raw.consume(n);
        }
        if !zero {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                Trailing { bytes },
            ));
        }
        (self.at_end)(self.bgzip == Some(true) && self.length > 0);
        Ok(())
    }
}

impl<R: BufRead, F: FnMut(bool)> Read for Members<R, F> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        while let Some(member) = &mut self.member {
            let n = member.read(buf)?;
            self.bgzip.get_or_insert_with(|| {
                let extra = member.header().and_then(|header| header.extra());
                extra.is_some_and(has_block_size)
            });
            self.length += n as u64;
            if n > 0 {
                return Ok(n);
            }
            if let Some(ended) = self.member.take() {
                self.next_member(ended)?;
            }
        }
        Ok(0)
    }
}

/// Whether an extra field has the subfield BC, in which bgzip writes the size of its block.
fn has_block_size(mut extra: &[u8]) -> bool {
    while let [a, b, low, high, rest @ ..] = extra {
        if [*a, *b] == *b"BC" {
            return true;
        }
        let length = usize::from(u16::from_le_bytes([*low, *high]));
        extra = rest.get(length..).unwrap_or_default();
    }
    false
}
