//! Notices names that several records share.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use super::error::Unclean;
use super::{Record, SequenceError};

/// The most names that are remembered, which take about 40 MiB. Names beyond are not compared.
const REMEMBERED: usize = 1 << 20;

/// The names of the records of one shard. A hash stands for each name.
#[derive(Debug, Default)]
pub struct SeenNames {
    seen: HashMap<u64, First>,
}

/// The first record of a name.
#[derive(Debug)]
struct First {
    /// Its number over the job, from 0.
    index: u64,
    /// Whether another record has the name.
    shared: bool,
}

/// A name that two records have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedName {
    /// The name.
    pub name: String,
    /// The numbers of two records that have it, over the whole job, from 1.
    pub records: [u64; 2],
}

impl SeenNames {
    /// Forgets all names, at the begin of a shard.
    pub fn clear(&mut self) {
        self.seen.clear();
    }

    /// Takes the name of a record. Returns by how much it raises the number of records that share
    /// a name, and the first record of the same name.
    ///
    /// # Errors
    /// [`SequenceError::Strict`] if an earlier record has the name and `strict` is set.
    pub fn take(
        &mut self,
        record: &Record,
        strict: bool,
    ) -> Result<(u64, Option<SharedName>), SequenceError> {
        // Equal hashes in every run, so that the counts of a shard are the same whenever it is
        // computed.
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(&record.id);
        let full = self.seen.len() >= REMEMBERED;
        let first = match self.seen.entry(hash) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                if !full {
                    entry.insert(First {
                        index: record.index,
                        shared: false,
                    });
                }
                return Ok((0, None));
            }
        };
        if strict {
            return Err(SequenceError::Strict {
                place: record.place(),
                column: 0,
                position: 0,
                found: Unclean::SharedName(first.index + 1),
            });
        }
        // The second record of a name makes two records that share one.
        let more = if first.shared { 1 } else { 2 };
        first.shared = true;
        let shared = SharedName {
            name: record.id.clone(),
            records: [first.index + 1, record.index + 1],
        };
        Ok((more, Some(shared)))
    }
}
