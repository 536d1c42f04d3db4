//! The treatment of sequences that are longer than `--max-length`.

use std::ops::Range;

/// The most content tokens of one sequence, and the treatment of a longer sequence. Content tokens
/// are residues for ESM-2 and BPE tokens for DNABERT; cls and eos do not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LengthLimit {
    /// The most content tokens, at least 1.
    pub max: usize,
    /// The treatment of a longer sequence.
    pub long: Long,
}

/// The treatment of a sequence that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Long {
    /// Only its first `max` tokens are embedded.
    Truncate,
    /// Windows of `max` tokens, `stride` tokens apart, are each embedded by themselves. Their
    /// pooled rows are averaged, weighted by their content tokens.
    Window {
        /// The stride in tokens, from 1 to `max`. At `max` the windows are disjoint and every token
        /// counts once.
        stride: usize,
    },
    /// The job fails with an error that names the sequence.
    Error,
}

/// The parts of a sequence that are embedded, in order. There may be as many parts as tokens, so
/// they are not stored in a list.
#[derive(Debug)]
pub struct Pieces {
    start: usize,
    /// The end of the last part.
    end: usize,
    max: usize,
    stride: usize,
    done: bool,
}

impl Iterator for Pieces {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        if self.done {
            return None;
        }
        let start = self.start;
        self.done = self.end - start <= self.max;
        self.start += self.stride;
        Some(
            start..if self.done {
                self.end
            } else {
                start + self.max
            },
        )
    }
}

impl Pieces {
    /// Whether the part that was returned last is the final part.
    pub fn done(&self) -> bool {
        self.done
    }
}

/// Returns the parts of a sequence of `content` tokens that are embedded; `None` if the sequence is
/// too long and this is an error.
pub fn pieces(content: usize, limit: Option<LengthLimit>) -> Option<Pieces> {
    let whole = |end| Pieces {
        start: 0,
        end,
        max: end,
        stride: 1,
        done: false,
    };
    let Some(LengthLimit { max, long }) = limit.filter(|l| content > l.max) else {
        return Some(whole(content));
    };
    match long {
        Long::Error => None,
        Long::Truncate => Some(whole(max)),
        Long::Window { stride } => Some(Pieces {
            max,
            stride: stride.clamp(1, max),
            ..whole(content)
        }),
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)] // one piece is a case like any other
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pieces(content: usize, limit: Option<LengthLimit>) -> Option<Vec<Range<usize>>> {
        super::pieces(content, limit).map(Iterator::collect)
    }

    fn window(max: usize, stride: usize) -> Option<LengthLimit> {
        Some(LengthLimit {
            max,
            long: Long::Window { stride },
        })
    }

    #[test]
    fn each_way_by_hand() {
        let one = |long| pieces(10, Some(LengthLimit { max: 4, long }));
        assert_eq!(one(Long::Truncate), Some(vec![0..4]));
        assert_eq!(one(Long::Error), None);
        assert_eq!(pieces(10, window(4, 4)), Some(vec![0..4, 4..8, 8..10]));
        assert_eq!(pieces(10, window(4, 3)), Some(vec![0..4, 3..7, 6..10]));
        assert_eq!(pieces(8, window(4, 4)), Some(vec![0..4, 4..8]));
        assert_eq!(pieces(4, window(4, 2)), Some(vec![0..4]));
        assert_eq!(pieces(10, None), Some(vec![0..10]));
        let error = LengthLimit {
            max: 10,
            long: Long::Error,
        };
        assert_eq!(pieces(10, Some(error)), Some(vec![0..10]));
    }

    #[test]
    fn windows_are_as_many_as_tokens_and_take_no_memory() {
        let windows = super::pieces(1 << 40, window(10, 1)).unwrap();
        let first: Vec<_> = windows.take(2).collect();
        assert_eq!(first, [0..10, 1..11]);
    }

    proptest! {
        #[test]
        fn windows_cover_everything_and_end_at_the_end(
            content in 1usize..500, max in 1usize..50, part in 0.0f64..=1.0
        ) {
            let stride = ((max as f64 * part) as usize).clamp(1, max);
            let windows = pieces(content, window(max, stride)).unwrap();
            prop_assert_eq!(windows[0].start, 0);
            prop_assert_eq!(windows.last().unwrap().end, content);
            for w in &windows {
                prop_assert!(!w.is_empty() && w.len() <= max);
            }
            for pair in windows.windows(2) {
                prop_assert_eq!(pair[1].start - pair[0].start, stride);
                prop_assert!(pair[1].start <= pair[0].end);
                prop_assert!(pair[1].end > pair[0].end, "no window within another");
            }
            if stride == max {
                prop_assert_eq!(windows.iter().map(|w| w.len()).sum::<usize>(), content);
            }
        }
    }
}
