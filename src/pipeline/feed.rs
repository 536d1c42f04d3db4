//! The reader thread: it reads and cleans the records, shard by shard, and sends them on in groups.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::blocks::RecordsDigest;
use super::packing::{Gone, Packer, StopReason, WorkSender};
use super::room::check_memory;
use super::tokenizing::{Group, GroupEnd, TokenizeStage};
use super::{JobError, LengthLimit, Stop};
use crate::batch::Budget;
use crate::engine::HostMemory;
use crate::output::{BlockFacts, ShardRecord, read_record, revoke_manifest, shard_name};
use crate::sequence::{
    Alphabet, CleanCounts, Cleaning, InputDigest, Record, SequenceError, SequenceReader, Tokenizer,
    clean,
};
use crate::system::pause::OnPause;

/// A source of records: a `SequenceReader`, or a list in a test.
pub trait Records: Send + 'static {
    /// Returns the next record in input order. After an error it is not called again.
    fn next_record(&mut self) -> Option<Result<Record, SequenceError>>;
    /// Returns the digests of all inputs, in order. It is called after the last record.
    fn digests(&self) -> Vec<InputDigest>;
    /// Sets the function to call when [`next_record`](Self::next_record) would wait for a pipe.
    fn on_pause(&mut self, _: OnPause) {}
}

impl Records for SequenceReader {
    fn next_record(&mut self) -> Option<Result<Record, SequenceError>> {
        self.next()
    }

    fn digests(&self) -> Vec<InputDigest> {
        SequenceReader::digests(self).to_vec()
    }

    fn on_pause(&mut self, act: OnPause) {
        SequenceReader::on_pause(self, act);
    }
}

/// The share `index` of `of` that a job computes: the shards b with `b % of == index - 1`.
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

    /// Whether shard `block` belongs to the share.
    pub fn holds(self, block: u64) -> bool {
        block % self.of == self.index - 1
    }

    /// Returns how many of `records` records belong to the share.
    pub fn records(self, records: u64, shard_size: u64) -> u64 {
        let full = records / shard_size;
        // The number of the share's shards among the first `blocks` shards. The share has the
        // shards index - 1, index - 1 + of, and so on. No sum here overflows, however many shares
        // there are.
        let before = |blocks: u64| {
            blocks
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

/// The options that decide how records become batches.
#[derive(Debug, Clone)]
pub struct FeedOptions {
    /// The alphabet of the model.
    pub alphabet: Alphabet,
    /// Whether text is cleaned, which also upper-cases soft-masked text.
    pub cleaning: Cleaning,
    /// Whether unclean text is an error.
    pub strict: bool,
    /// The most content tokens of a sequence, if they are limited, and the treatment of longer
    /// sequences.
    pub limit: Option<LengthLimit>,
    /// The most tokens of a sequence, special tokens included, that the model can take.
    pub room: usize,
    /// The host memory that a sequence takes and the memory that is available, if they bound the
    /// length of a sequence.
    pub memory: Option<HostMemory>,
    /// The most tokens of each batch.
    pub budget: Budget,
    /// The number of records per shard.
    pub shard_size: u64,
    /// The share that decides which shards are computed.
    pub share: Share,
    /// The number of threads that tokenize. With one thread, the reader itself tokenizes.
    pub threads: usize,
}

/// The counters of the reader for the progress display.
#[derive(Debug, Default)]
pub(crate) struct FeedCounts {
    /// The number of records of finished shards that were read without being computed.
    pub reused: AtomicU64,
    /// Whether the computing thread has nothing to do.
    pub idle: AtomicBool,
}

/// The reader thread's data.
pub(crate) struct Feed<R> {
    pub records: R,
    pub tokenizer: Arc<Tokenizer>,
    pub options: FeedOptions,
    /// The output directory.
    pub out: PathBuf,
    /// The numbers of the shards that exist there, ascending, each verified.
    pub finished: Vec<u64>,
    /// Whether it is certain that no manifest.json exists there.
    pub revoked: bool,
    pub counts: Arc<FeedCounts>,
    pub stop: Stop,
}

/// A group is sent on once its records have this many bytes. Tokenizing so many bytes takes some
/// milliseconds.
const GROUP: usize = 64 << 10;

/// Records that were read and are on their way to the computing thread. The reader adds records.
/// When the reader waits for a pipe, its pause function sends them on.
struct Outgoing {
    group: Group,
    stage: TokenizeStage,
    /// Whether records were read that may not have been sent to the computing thread yet.
    held: bool,
}

impl Outgoing {
    fn send(&mut self) -> Result<(), Gone> {
        self.stage.send(std::mem::take(&mut self.group))
    }

    /// Handles a pause of the input. If the computing thread is idle, all records that were read
    /// are sent to it. Returns whether nothing remains to be done.
    fn pause(&mut self, idle: bool) -> bool {
        if !self.held {
            return true;
        }
        if idle {
            self.held = false;
            self.group.end = Some(GroupEnd::Pause);
            // If the receiver is gone, the reader soon notices this itself.
            let _ = self.send();
        }
        idle
    }
}

fn lock(outgoing: &Mutex<Outgoing>) -> MutexGuard<'_, Outgoing> {
    outgoing.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The shard that is being read.
struct Block {
    number: u64,
    /// The record of the finished shard, if the shard exists already.
    finished: Option<ShardRecord>,
    first_record: u64,
    rows: u64,
    digest: RecordsDigest,
    clean: CleanCounts,
}

impl<R: Records> Feed<R> {
    /// Reads until the input ends, an error occurs, or the receiver is gone.
    pub(crate) fn run(mut self, to: WorkSender) {
        let packer = Packer::new(self.options.clone(), to.clone());
        match TokenizeStage::new(self.options.threads, &self.tokenizer, packer) {
            Ok(stage) => {
                drop(to);
                let outgoing = Arc::new(Mutex::new(Outgoing {
                    group: Group::default(),
                    stage,
                    held: false,
                }));
                let (at_pause, counts) = (Arc::clone(&outgoing), Arc::clone(&self.counts));
                self.records.on_pause(Arc::new(Mutex::new(move || {
                    lock(&at_pause).pause(counts.idle.load(Ordering::Relaxed))
                })));
                if let Err(StopReason::Failed(error)) = self.read_all(&outgoing) {
                    let mut outgoing = lock(&outgoing);
                    outgoing.group.end = Some(GroupEnd::Failed(error));
                    // If the receiver is gone, nobody needs the error.
                    let _ = outgoing.send();
                }
            }
            Err(error) => drop(to.send(Err(error))),
        }
    }

    /// Reads all records. On error, the group keeps the records read so far. The lock is not held
    /// while a record is read.
    fn read_all(&mut self, outgoing: &Mutex<Outgoing>) -> Result<(), StopReason> {
        let mut index = 0;
        let mut block: Option<Block> = None;
        while let Some(record) = self.records.next_record() {
            let record = record?;
            let number = index / self.options.shard_size;
            index += 1;
            if self.options.share.holds(number) {
                let current = match &mut block {
                    Some(current) => current,
                    None => block.insert(self.begin(number, index - 1)?),
                };
                current.take(&record);
                match current.finished {
                    Some(_) => {
                        self.counts.reused.fetch_add(1, Ordering::Relaxed);
                    }
                    None => {
                        let mut outgoing = lock(outgoing);
                        self.clean(record, current, &mut outgoing.group)?;
                        outgoing.held = true;
                        if outgoing.group.bytes >= GROUP {
                            outgoing.send()?;
                        }
                    }
                }
            }
            if index.is_multiple_of(self.options.shard_size)
                && let Some(full) = block.take()
            {
                self.end(full, false, &mut lock(outgoing))?;
            }
            // While nothing is sent, no closed channel tells this thread to stop.
            if block.as_ref().is_none_or(|b| b.finished.is_some())
                && self.stop.requested().is_some()
            {
                return Ok(());
            }
        }
        if let Some(short) = block.take() {
            self.end(short, true, &mut lock(outgoing))?;
        }
        let blocks = index.div_ceil(self.options.shard_size);
        let ours = |b: &u64| *b < blocks && self.options.share.holds(*b);
        if let Some(surplus) = self.finished.iter().find(|b| !ours(b)) {
            let shard = self.out.join(shard_name(*surplus));
            return Err(JobError::Surplus {
                shard,
                records: index,
            }
            .into());
        }
        let mut outgoing = lock(outgoing);
        outgoing.group.end = Some(GroupEnd::InputEnd {
            records: index,
            digests: self.records.digests(),
        });
        outgoing.send()?;
        Ok(())
    }

    fn begin(&mut self, number: u64, first_record: u64) -> Result<Block, JobError> {
        let finished = match self.finished.binary_search(&number) {
            Ok(_) => Some(read_record(&self.out.join(shard_name(number)))?),
            Err(_) => {
                // This is done before anything is computed: a job that lacks a shard is not
                // complete.
                if !std::mem::replace(&mut self.revoked, true) {
                    revoke_manifest(&self.out)?;
                }
                None
            }
        };
        Ok(Block {
            number,
            finished,
            first_record,
            rows: 0,
            digest: RecordsDigest::default(),
            clean: CleanCounts::default(),
        })
    }

    fn clean(
        &self,
        mut record: Record,
        block: &mut Block,
        group: &mut Group,
    ) -> Result<(), StopReason> {
        let options = &self.options;
        let counts = clean(
            options.alphabet,
            options.cleaning,
            options.strict,
            &mut record,
        )?;
        if let Some(memory) = &options.memory {
            check_memory(memory, &record, counts.residues, options, &self.tokenizer)?;
        }
        block.clean += counts;
        group.push(block.number, record);
        Ok(())
    }

    /// Ends a shard. The end of a new shard is sent on at once, because a slow pipe may give
    /// nothing more for a long time. A finished shard is compared with the records of the input.
    fn end(&self, block: Block, short: bool, outgoing: &mut Outgoing) -> Result<(), StopReason> {
        let number = block.number;
        let (facts, finished) = block.facts();
        let Some(finished) = finished else {
            outgoing.group.block = number;
            outgoing.group.end = Some(GroupEnd::BlockEnd { facts, short });
            outgoing.held = false;
            outgoing.send()?;
            return Ok(());
        };
        let there = &finished.facts;
        if (there.first_record, there.rows, &there.digest)
            != (facts.first_record, facts.rows, &facts.digest)
        {
            return Err(JobError::RecordsDiffer {
                shard: self.out.join(shard_name(number)),
                first: facts.first_record + 1,
                last: facts.first_record + facts.rows,
            }
            .into());
        }
        Ok(())
    }
}

impl Block {
    /// Counts a record as it was read, before cleaning.
    fn take(&mut self, record: &Record) {
        self.rows += 1;
        self.digest.take(record);
    }

    /// Returns all facts of the shard except the counts that packing adds, and the record of the
    /// finished shard.
    fn facts(self) -> (BlockFacts, Option<ShardRecord>) {
        let facts = BlockFacts {
            first_record: self.first_record,
            rows: self.rows,
            tokens: 0,
            digest: self.digest.finish(),
            counts: named(&self.clean),
        };
        (facts, self.finished)
    }
}

/// Returns the counts under the names that they are serialised with.
fn named(counts: &CleanCounts) -> BTreeMap<String, u64> {
    let value = serde_json::to_value(counts).unwrap_or_default();
    let fields = value.as_object().cloned().unwrap_or_default();
    fields
        .into_iter()
        .filter_map(|(name, n)| Some((name, n.as_u64()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_divide_the_blocks() {
        for (records, size, of) in [(10, 3, 2), (12, 3, 5), (0, 4, 3), (1, 4, 3), (100, 7, 4)] {
            let shares: Vec<Share> = (1..=of).map(|index| Share { index, of }).collect();
            for block in 0..20 {
                assert_eq!(shares.iter().filter(|s| s.holds(block)).count(), 1);
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
