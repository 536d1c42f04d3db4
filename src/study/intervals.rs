//! Sets of times: unions, intersections and differences of intervals.

/// Disjoint intervals in ascending order, in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Intervals(Vec<(u64, u64)>);

impl FromIterator<(u64, u64)> for Intervals {
    /// Makes the union of any intervals. Those whose end is not after their start are left out.
    fn from_iter<I: IntoIterator<Item = (u64, u64)>>(all: I) -> Self {
        let mut sorted: Vec<(u64, u64)> = all.into_iter().filter(|(a, b)| a < b).collect();
        sorted.sort_unstable();
        let mut out: Vec<(u64, u64)> = Vec::with_capacity(sorted.len());
        for (start, end) in sorted {
            match out.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => out.push((start, end)),
            }
        }
        Self(out)
    }
}

impl Intervals {
    /// Returns the intervals.
    pub fn as_slice(&self) -> &[(u64, u64)] {
        &self.0
    }

    /// Returns the sum of the lengths, in nanoseconds.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|(start, end)| end - start).sum()
    }

    /// Returns the times that are in any of the two sets.
    pub fn union(&self, other: &Self) -> Self {
        self.0.iter().chain(&other.0).copied().collect()
    }

    /// Returns the times that are in both sets.
    pub fn intersection(&self, other: &Self) -> Self {
        let (mut i, mut j) = (0, 0);
        let mut out = Vec::new();
        while let (Some(a), Some(b)) = (self.0.get(i), other.0.get(j)) {
            let (start, end) = (a.0.max(b.0), a.1.min(b.1));
            if start < end {
                out.push((start, end));
            }
            if a.1 < b.1 {
                i += 1;
            } else {
                j += 1;
            }
        }
        Self(out)
    }

    /// Returns the times of this set that are not in the other one.
    pub fn without(&self, other: &Self) -> Self {
        let mut out = Vec::new();
        let mut rest = other.0.iter().peekable();
        for &(mut start, end) in &self.0 {
            while let Some(&&(from, to)) = rest.peek() {
                if to <= start {
                    rest.next();
                } else if from >= end {
                    break;
                } else {
                    if start < from {
                        out.push((start, from));
                    }
                    start = to;
                    if start >= end {
                        break;
                    }
                    rest.next();
                }
            }
            if start < end {
                out.push((start, end));
            }
        }
        Self(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The nanoseconds of a set, as bits.
    fn bits(set: &Intervals) -> u128 {
        let of = |(start, end): &(u64, u64)| (*start..*end).fold(0u128, |all, i| all | 1 << i);
        set.as_slice().iter().map(of).fold(0, |all, one| all | one)
    }

    fn all_apart(set: &Intervals) -> bool {
        let whole = set.as_slice().iter().all(|(start, end)| start < end);
        whole && set.as_slice().windows(2).all(|w| w[0].1 < w[1].0)
    }

    proptest! {
        #[test]
        fn the_algebra_is_that_of_sets(
            a in prop::collection::vec((0u64..100, 0u64..100), 0..12),
            b in prop::collection::vec((0u64..100, 0u64..100), 0..12),
        ) {
            let given = |all: &[(u64, u64)]| {
                let of = |(start, end): &(u64, u64)| (*start..*end).fold(0u128, |all, i| all | 1 << i);
                all.iter().map(of).fold(0, |all, one| all | one)
            };
            let (x, y): (Intervals, Intervals) =
                (a.iter().copied().collect(), b.iter().copied().collect());
            prop_assert_eq!((bits(&x), bits(&y)), (given(&a), given(&b)));
            prop_assert_eq!(x.total(), u64::from(bits(&x).count_ones()));
            prop_assert_eq!(bits(&x.union(&y)), bits(&x) | bits(&y));
            prop_assert_eq!(bits(&x.intersection(&y)), bits(&x) & bits(&y));
            prop_assert_eq!(bits(&x.without(&y)), bits(&x) & !bits(&y));
            prop_assert!(all_apart(&x) && all_apart(&x.union(&y)));
        }
    }
}
