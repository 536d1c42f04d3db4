//! What the records of the blocks are, so that a finished shard can be held to its own.

use std::collections::{BTreeMap, BTreeSet};

use super::Share;
use crate::sequence::Record;

/// The digest of consecutive records, as read: before cleaning.
#[derive(Default)]
pub(crate) struct RecordsDigest(blake3::Hasher);

impl RecordsDigest {
    /// Adds a record. Lengths are digested too: a letter may move from one part to the next.
    pub(crate) fn take(&mut self, record: &Record) {
        for part in [record.id.as_bytes(), &record.sequence] {
            self.0.update(&(part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
    }

    /// In hex.
    pub(crate) fn finish(&self) -> String {
        self.0.finalize().to_hex().to_string()
    }
}

/// What a job's input holds where shards stand, of an input that is read before the job begins.
pub struct StandingBlocks {
    shard_size: u64,
    share: Share,
    standing: BTreeSet<u64>,
    records: u64,
    current: Option<(u64, u64, RecordsDigest)>,
    blocks: BTreeMap<u64, (u64, String)>,
}

impl StandingBlocks {
    /// Of these blocks, no record read yet.
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

    /// Takes the next record of the input, as read.
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

    /// The input has no more records.
    pub fn finish(mut self) -> Self {
        self.close();
        self
    }

    fn close(&mut self) {
        if let Some((block, rows, digest)) = self.current.take() {
            self.blocks.insert(block, (rows, digest.finish()));
        }
    }

    /// Records in the input.
    pub(crate) fn records(&self) -> u64 {
        self.records
    }

    /// Whether the input and the share have this block.
    pub(crate) fn has(&self, block: u64) -> bool {
        self.share.holds(block) && block < self.records.div_ceil(self.shard_size)
    }

    /// Rows and digest of a block, if a shard stood there when the input was read.
    pub(crate) fn get(&self, block: u64) -> Option<(u64, &str)> {
        let (rows, digest) = self.blocks.get(&block)?;
        Some((*rows, digest))
    }
}
