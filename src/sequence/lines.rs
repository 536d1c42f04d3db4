//! Splits blocks of decompressed bytes into lines, and holds only one block at a time.

use std::io;

use super::source::Source;

/// The bytes of a block of decompressed text. Measurements show the same speed from 64 KiB to 1
/// MiB.
const BLOCK: usize = 256 * 1024;
/// How many bytes are searched for a line end before the first line is read.
const PEEK: usize = 64 * 1024;

/// The reason why no line can be returned.
pub(super) enum LineError {
    /// Reading the source failed.
    Io(io::Error),
    /// The text holds a NUL byte.
    Nul,
}

/// A part of one line: the whole line, unless it crosses the end of a block.
pub(super) struct Piece<'a> {
    /// The bytes of the part, without the line end.
    pub bytes: &'a [u8],
    /// The number of carriage returns that come before `bytes` and turned out not to belong to the
    /// line end.
    pub returns: usize,
    /// Whether the line ends with this part.
    pub last: bool,
}

/// The lines of one input. LF and CRLF end a line. A lone CR ends a line only in a text whose
/// beginning has no LF (old Mac). Otherwise a stray CR inside a header would turn the rest of the
/// header into sequence.
pub(super) struct Lines {
    source: Source,
    block: Vec<u8>,
    start: usize,
    end: usize,
    eof: bool,
    /// An error from reading the first block. It is returned once the text before it is used up.
    error: Option<io::Error>,
    mac: bool,
    after_cr: bool,
    held_returns: usize,
    /// Whether the last piece did not end its line.
    inside: bool,
    line: u64,
    offset: u64,
    /// The most bytes of a piece; tests set it to move the boundaries.
    longest_piece: usize,
}

impl Lines {
    /// Reads the first block, drops a UTF-8 byte order mark, and decides what ends a line. The
    /// first LF decides this, so the method does not wait for more of a pipe once it has an LF.
    pub fn new(source: Source, longest_piece: usize) -> Self {
        let mut lines = Self {
            source,
            block: vec![0; BLOCK],
            start: 0,
            end: 0,
            eof: false,
            error: None,
            mac: false,
            after_cr: false,
            held_returns: 0,
            inside: false,
            line: 1,
            offset: 0,
            longest_piece: longest_piece.max(1),
        };
        let mut decided = false;
        while lines.end < PEEK && !lines.eof && lines.error.is_none() && !decided {
            let before = lines.end;
            match lines
                .source
                .read(lines.block.get_mut(lines.end..).unwrap_or_default())
            {
                Ok(n) => {
                    lines.end += n;
                    lines.eof = n == 0;
                    let read = lines.block.get(before..lines.end).unwrap_or_default();
                    // What follows blank lines is needed to tell the kind of the file.
                    decided = memchr::memchr(b'\n', read).is_some()
                        && memchr::memchr(b'\n', lines.held().trim_ascii_start()).is_some();
                }
                Err(e) => lines.error = Some(e),
            }
        }
        if lines.held().starts_with(b"\xef\xbb\xbf") {
            lines.advance(3);
        }
        let head = lines.held();
        let head = head.get(..PEEK).unwrap_or(head);
        lines.mac = memchr::memchr(b'\r', head).is_some() && memchr::memchr(b'\n', head).is_none();
        lines
    }

    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Returns the number of the current line, from 1.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// Whether the current position is inside a line, of which a part has been returned.
    pub fn inside_line(&self) -> bool {
        self.inside
    }

    /// Returns the number of decompressed bytes before the current position.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns the bytes of the block that have not been given out yet.
    pub fn held(&self) -> &[u8] {
        self.block.get(self.start..self.end).unwrap_or_default()
    }

    fn advance(&mut self, n: usize) {
        self.start += n;
        self.offset += n as u64;
    }

    /// Reads the next block if `held` is empty. Returns false at the end of the input.
    fn fill(&mut self) -> io::Result<bool> {
        while self.start == self.end && !self.eof {
            if let Some(e) = self.error.take() {
                return Err(e);
            }
            self.start = 0;
            self.end = 0;
            self.end = self.source.read(&mut self.block)?;
            self.eof = self.end == 0;
        }
        Ok(self.start < self.end)
    }

    /// Returns the first byte of the next line; `None` at the end of the input. The current
    /// position must be the start of a line.
    pub fn peek(&mut self) -> Result<Option<u8>, LineError> {
        while self.fill().map_err(LineError::Io)? {
            let first = self.held().first().copied();
            // In a text whose lines end at CR, this LF is the second byte of a CRLF.
            if self.after_cr && first == Some(b'\n') {
                self.after_cr = false;
                self.advance(1);
                continue;
            }
            return Ok(first);
        }
        Ok(None)
    }

    /// Returns the next part of the current line. The caller calls this after `peek` has returned a
    /// byte, and repeats the call until `last` is set.
    pub fn piece(&mut self) -> Result<Piece<'_>, LineError> {
        loop {
            if !self.fill().map_err(LineError::Io)? {
                // The last line has no LF. The carriage returns that were held back count as its
                // line end.
                self.held_returns = 0;
                self.inside = false;
                return Ok(Piece {
                    bytes: &[],
                    returns: 0,
                    last: true,
                });
            }
            let held = self.held();
            let window = held.get(..self.longest_piece).unwrap_or(held);
            let found = if self.mac {
                memchr::memchr3(b'\n', b'\r', 0, window)
            } else {
                memchr::memchr2(b'\n', 0, window)
            };
            let stop = found.and_then(|i| window.get(i).copied());
            let mut len = found.unwrap_or(window.len());
            let begin = self.start;
            let last = stop.is_some_and(|b| b != 0);
            if stop == Some(0) && len == 0 {
                return Err(LineError::Nul);
            }
            self.advance(len + usize::from(last));
            self.inside = !last;
            if last {
                self.line += 1;
                self.after_cr = stop == Some(b'\r');
            } else {
                self.after_cr = false;
            }
            let mut returns = 0;
            if !self.mac {
                let bytes = self.block.get(begin..begin + len).unwrap_or_default();
                let trailing = bytes.iter().rev().take_while(|&&b| b == b'\r').count();
                len -= trailing;
                if len > 0 {
                    returns = std::mem::take(&mut self.held_returns);
                }
                if last {
                    self.held_returns = 0;
                } else {
                    self.held_returns += trailing;
                    if len == 0 {
                        continue;
                    }
                }
            }
            let bytes = self.block.get(begin..begin + len).unwrap_or_default();
            return Ok(Piece {
                bytes,
                returns,
                last,
            });
        }
    }
}
