//! The share of a job that one machine computes.

/// The share `index` of `of` that a job computes: the shards n with `n % of == index - 1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// The number of the share, from 1.
    pub index: u64,
    /// The number of shares, at least 1.
    pub of: u64,
}

impl Share {
    /// The whole job.
    pub const ALL: Self = Self { index: 1, of: 1 };

    /// Whether shard number `shard` belongs to the share.
    pub fn holds(self, shard: u64) -> bool {
        shard % self.of == self.index - 1
    }

    /// Returns how many of `records` records belong to the share.
    pub fn records(self, records: u64, shard_size: u64) -> u64 {
        let full = records / shard_size;
        // The number of the share's shards among the first `shards` shards. The share has the
        // shards index - 1, index - 1 + of, and so on. No sum here overflows, however many shares
        // there are.
        let before = |shards: u64| {
            shards
                .checked_sub(self.index)
                .map_or(0, |n| n / self.of + 1)
        };
        before(full) * shard_size
            + if self.holds(full) {
                records % shard_size
            } else {
                0
            }
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

impl std::str::FromStr for Share {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (index, of) = text.split_once('/').ok_or(())?;
        let share = Self {
            index: index.parse().map_err(drop)?,
            of: of.parse().map_err(drop)?,
        };
        let there = (1..=share.of).contains(&share.index);
        there.then_some(share).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_divide_the_shards() {
        for (records, size, of) in [(10, 3, 2), (12, 3, 5), (0, 4, 3), (1, 4, 3), (100, 7, 4)] {
            let shares: Vec<Share> = (1..=of).map(|index| Share { index, of }).collect();
            for shard in 0..20 {
                assert_eq!(shares.iter().filter(|s| s.holds(shard)).count(), 1);
            }
            for share in &shares {
                let counted = (0..records).filter(|r| share.holds(r / size)).count() as u64;
                assert_eq!(
                    share.records(records, size),
                    counted,
                    "{records} {size} {share}"
                );
            }
        }
    }

    #[test]
    fn no_number_of_shares_is_too_large() {
        let of = u64::MAX;
        let records = |index, records, size| Share { index, of }.records(records, size);
        assert_eq!(records(1, 100, 1), 1);
        assert_eq!(records(100, 100, 1), 1);
        assert_eq!(records(101, 100, 1), 0);
        assert_eq!(records(of, u64::MAX, 1), 1);
        assert_eq!(records(of, u64::MAX, 2), 0);
        assert_eq!(records(1, u64::MAX, u64::MAX), u64::MAX);
        assert_eq!(Share::ALL.records(u64::MAX, 1), u64::MAX);
        assert_eq!(Share::ALL.records(u64::MAX, 7), u64::MAX);
    }

    #[test]
    fn a_share_is_read_as_it_is_written() {
        assert_eq!("2/3".parse(), Ok(Share { index: 2, of: 3 }));
        let last = format!("{0}/{0}", u64::MAX);
        assert_eq!(last.parse::<Share>().unwrap().to_string(), last);
        for wrong in [
            "",
            "1",
            "0/1",
            "2/1",
            "1/0",
            "0/0",
            "1/2/3",
            "-1/2",
            "1/18446744073709551616",
        ] {
            assert_eq!(wrong.parse::<Share>(), Err(()), "{wrong}");
        }
    }
}
