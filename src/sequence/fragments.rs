//! Cuts contigs into chunks and translates each chunk in six frames, as VirNucPro does.
//!
//! The rules are those of the original program (Li-Jing-1997/VirNucPro, commit 0f93f27), faults of
//! its arithmetic included, because its classifier was trained on their results:
//!
//! - A contig of `L` letters gives `n = ceil(L / c)` chunks of at most `c` letters, which overlap
//!   where `L` is no multiple of `c` ([`chunk_ranges`]).
//! - A chunk is read in the frames F1, F2 and F3, and its reverse complement in R1, R2 and R3
//!   ([`Frame`]). Only whole codons are translated, by NCBI's table 1. A codon that holds a letter
//!   other than A, C, G and T gives no residue at all, so that the protein closes up there.
//! - A frame is kept if its protein has residues and no stop, not even at the end.
//! - The nucleotides of a kept frame are the first `3p + 1` letters of the frame, where `p` is the
//!   number of residues: one letter more than the codons, and not the letters that were translated
//!   if codons were dropped before them.

use std::fmt;
use std::ops::Range;

/// One of the six ways to read a chunk as codons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Frame {
    /// The chunk from its first letter.
    F1,
    /// The chunk from its second letter.
    F2,
    /// The chunk from its third letter.
    F3,
    /// The reverse complement of the chunk from its first letter.
    R1,
    /// The reverse complement of the chunk from its second letter.
    R2,
    /// The reverse complement of the chunk from its third letter.
    R3,
}

impl Frame {
    /// All frames, in the order in which the fragments of a chunk are written.
    pub const ALL: [Self; 6] = [Self::F1, Self::F2, Self::F3, Self::R1, Self::R2, Self::R3];

    /// Returns how many letters of the strand come before the first codon.
    pub fn offset(self) -> usize {
        match self {
            Self::F1 | Self::R1 => 0,
            Self::F2 | Self::R2 => 1,
            Self::F3 | Self::R3 => 2,
        }
    }

    /// Returns whether the frame reads the reverse complement.
    pub fn is_reverse(self) -> bool {
        matches!(self, Self::R1 | Self::R2 | Self::R3)
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let strand = if self.is_reverse() { 'R' } else { 'F' };
        write!(f, "{strand}{}", self.offset() + 1)
    }
}

/// Returns the ranges of the chunks of a contig of `length` letters, in order. Every chunk has
/// `chunk` letters, except the only chunk of a shorter contig and, for many lengths, the last chunk.
///
/// With `n = ceil(length / chunk)`, `q = (n·chunk - length) div n` and `r` the remainder of that
/// division, chunk `k` begins at `k·(chunk - q) - min(k, q + r)`. The original divides the surplus
/// by the number of chunks, although there is one overlap less than there are chunks; this is why
/// the last chunk may be short.
///
/// # Panics
/// If `chunk` is 0.
pub fn chunk_ranges(length: usize, chunk: usize) -> impl ExactSizeIterator<Item = Range<usize>> {
    assert!(chunk > 0, "a chunk has at least one letter");
    let n = length.div_ceil(chunk);
    // Neither product overflows for a length that fits into memory, since n·chunk < length + chunk.
    let surplus = n * chunk - length;
    let (q, r) = (surplus / n.max(1), surplus % n.max(1));
    (0..n).map(move |k| {
        let start = k * (chunk - q) - k.min(q + r);
        start..(start + chunk).min(length)
    })
}

/// A kept frame of a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fragment<'a> {
    /// The number of the chunk within the contig, from 1.
    pub chunk: usize,
    /// The frame.
    pub frame: Frame,
    /// The letters of the contig that the chunk covers, from 0.
    pub chunk_range: Range<usize>,
    /// The letters of the contig that [`nucleotides`](Self::nucleotides) covers, from 0 on the
    /// forward strand, for reverse frames too.
    pub nucleotide_range: Range<usize>,
    /// The letters of the frame's strand, in upper case; letters other than A, C, G and T are kept.
    pub nucleotides: &'a [u8],
    /// The residues, in the 20 letters of the amino acids.
    pub protein: &'a [u8],
    /// The number of codons that gave no residue, because they hold another letter than A, C, G or
    /// T.
    pub dropped: usize,
}

/// Cuts contigs into fragments. It reuses its memory, which is about four times the length of a
/// chunk.
#[derive(Debug, Clone)]
pub struct Fragmenter {
    chunk: usize,
    strand: Vec<u8>,
    codes: Vec<u8>,
    protein: Vec<u8>,
}

impl Fragmenter {
    /// Makes a fragmenter for chunks of `chunk` letters.
    ///
    /// # Panics
    /// If `chunk` is 0.
    pub fn new(chunk: usize) -> Self {
        assert!(chunk > 0, "a chunk has at least one letter");
        Self {
            chunk,
            strand: Vec::new(),
            codes: Vec::new(),
            protein: Vec::new(),
        }
    }

    /// Calls `each` for every fragment of `contig`, chunk by chunk and frame by frame, and returns
    /// the number of fragments. The contig is the sequence without line ends and white space.
    ///
    /// # Errors
    /// The first error that `each` returns, which ends the contig.
    pub fn fragments<E>(
        &mut self,
        contig: &[u8],
        mut each: impl FnMut(Fragment<'_>) -> Result<(), E>,
    ) -> Result<usize, E> {
        let mut count = 0;
        for (k, range) in chunk_ranges(contig.len(), self.chunk).enumerate() {
            for reverse in [false, true] {
                self.read_strand(&contig[range.clone()], reverse);
                for frame in Frame::ALL {
                    if frame.is_reverse() != reverse {
                        continue;
                    }
                    let Some(dropped) = self.translate(frame.offset()) else {
                        continue;
                    };
                    let from = frame.offset();
                    let to = (from + 3 * self.protein.len() + 1).min(self.strand.len());
                    let nucleotide_range = match reverse {
                        false => range.start + from..range.start + to,
                        true => range.end - to..range.end - from,
                    };
                    count += 1;
                    each(Fragment {
                        chunk: k + 1,
                        frame,
                        chunk_range: range.clone(),
                        nucleotide_range,
                        nucleotides: &self.strand[from..to],
                        protein: &self.protein,
                        dropped,
                    })?;
                }
            }
        }
        Ok(count)
    }

    /// Makes `strand` the upper-case letters of `chunk`, or of its reverse complement, and `codes`
    /// their numbers.
    fn read_strand(&mut self, chunk: &[u8], reverse: bool) {
        self.strand.clear();
        match reverse {
            false => self.strand.extend(chunk.iter().map(u8::to_ascii_uppercase)),
            true => self.strand.extend(
                chunk
                    .iter()
                    .rev()
                    .map(|b| complement(b.to_ascii_uppercase())),
            ),
        }
        self.codes.clear();
        self.codes
            .extend(self.strand.iter().map(|&b| CODES[usize::from(b)]));
    }

    /// Translates the strand from `offset` on into `protein`, and returns the number of dropped
    /// codons; `None` if the frame is not kept.
    fn translate(&mut self, offset: usize) -> Option<usize> {
        self.protein.clear();
        let mut dropped = 0;
        for codon in self.codes.get(offset..)?.chunks_exact(3) {
            let residue = codon.iter().fold(0, |n, &code| n << 2 | usize::from(code));
            if codon.contains(&OTHER) {
                dropped += 1;
                continue;
            }
            match TABLE_1[residue] {
                b'*' => return None,
                residue => self.protein.push(residue),
            }
        }
        (!self.protein.is_empty()).then_some(dropped)
    }
}

/// The complement of an upper-case letter. Letters other than A, C, G and T stay as they are, as in
/// the original.
fn complement(letter: u8) -> u8 {
    match letter {
        b'A' => b'T',
        b'C' => b'G',
        b'G' => b'C',
        b'T' => b'A',
        other => other,
    }
}

/// The code of every letter other than A, C, G and T.
const OTHER: u8 = 4;

/// The code of each upper-case letter: T, C, A and G are 0 to 3, in NCBI's order.
static CODES: [u8; 256] = {
    let mut codes = [OTHER; 256];
    codes[b'T' as usize] = 0;
    codes[b'C' as usize] = 1;
    codes[b'A' as usize] = 2;
    codes[b'G' as usize] = 3;
    codes
};

/// NCBI's genetic code 1 in the order of its page: the first base changes slowest, and the bases
/// are in the order T, C, A, G.
static TABLE_1: &[u8; 64] = b"FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG";
