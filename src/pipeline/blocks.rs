//! Digests of the records of each shard, so that a finished shard can be compared with the input.

use std::collections::{BTreeMap, BTreeSet};

use super::Share;
use crate::sequence::Record;

/// The digest of consecutive records as they were read, before cleaning.
#[derive(Default)]
pub(crate) struct RecordsDigest(blake3::Hasher);

impl RecordsDigest {
    /// Adds a record. The lengths are digested too, so that the digest changes when a letter moves
    /// from one part to the next.
    pub(crate) fn take(&mut self, record: &Record) {
        for part in [record.id.as_bytes(), &record.sequence] {
            self.0.update(&(part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
    }

    /// Returns the digest in hex.
    pub(crate) fn finish(&self) -> String {
        self.0.finalize().to_hex().to_string()
    }
}

/// The digests of the input's records for the shards that exist already. It is filled from an input
/// that is read before the job begins.
pub struct StandingBlocks {
    shard_size: u64,
    share: Share,
    standing: BTreeSet<u64>,
    records: u64,
    current: Option<(u64, u64, RecordsDigest)>,
    blocks: BTreeMap<u64, (u64, String)>,
}

impl StandingBlocks {
    /// Starts without records. `standing` are the numbers of the existing shards.
    pub fn new(shard_size: u64, share: Share, standing: &[u64]) -> Self {
        Self {
            shard_size: shard_size.max(1),
            share,
            standing: standing.iter().copied().collect(),
            records: 0,
            current: None,
            blocks: BTreeMap::new(),
        }
    }

    /// Takes the next record of the input as it was read.
    pub fn take(&mut self, record: &Record) {
        let block = self.records / self.shard_size;
        self.records += 1;
        if self
            .current
            .as_ref()
            .is_some_and(|(number, ..)| *number != block)
        {
            self.close();
        }
        if self.share.holds(block) && self.standing.contains(&block) {
            let current = self
                .current
                .get_or_insert_with(|| (block, 0, RecordsDigest::default()));
            current.1 += 1;
            current.2.take(record);
        }
    }

    /// Ends the last shard: the input has no more records.
    pub fn finish(mut self) -> Self {
        self.close();
        self
    }

    fn close(&mut self) {
        if let Some((block, rows, digest)) = self.current.take() {
            self.blocks.insert(block, (rows, digest.finish()));
        }
    }

    /// Returns the number of records in the input.
    pub(crate) fn records(&self) -> u64 {
        self.records
    }

    /// Whether shard `block` belongs to the share and the input has records for it.
    pub(crate) fn has(&self, block: u64) -> bool {
        self.share.holds(block) && block < self.records.div_ceil(self.shard_size)
    }

    /// Returns the number of rows and the digest of a shard, if the shard existed when the input
    /// was read.
    pub(crate) fn get(&self, block: u64) -> Option<(u64, &str)> {
        let (rows, digest) = self.blocks.get(&block)?;
        Some((*rows, digest))
    }
}
