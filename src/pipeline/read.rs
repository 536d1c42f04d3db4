//! The reader thread: it reads and cleans the records, shard by shard, and sends them on in groups.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::fragments::{FragmentStage, ShardTexts};
use super::messages::{Group, GroupEnd, InputEnd, InputNotes, ShardEnd, StopReason};
use super::progress::Counters;
use super::resume::RecordsDigest;
use super::tokenize::TokenizeStage;
use super::{JobError, MemoryCheck, Share, Stop};
use crate::output::{
    BlockFacts, CHUNKS_COUNT, Lengths, REJECTED_COUNT, Rejected, ShardRecord, read_record,
    revoke_manifest, shard_name,
};
use crate::sequence::{
    Alphabet, BadRecords, CleanCounts, Cleaning, InputDigest, Record, SeenNames, SequenceError,
    SequenceReader, SharedName, clean,
};
use crate::system::pause::OnPause;
use crate::trace::{Args, Category, Event, Trace, Track, host};

/// A source of records: a `SequenceReader`, or a list in a test.
pub trait Records: Send + 'static {
    /// Returns the next record in input order. After an error it is called again only if bad records
    /// are skipped and the error concerns one record.
    fn next_record(&mut self) -> Option<Result<Record, SequenceError>>;
    /// Returns the digests of all inputs, in order. It is called after the last record.
    fn digests(&self) -> Vec<InputDigest>;
    /// Returns the names of the inputs that lack the end marker of bgzip. It is called after the
    /// last record.
    fn without_end(&self) -> Vec<Arc<str>> {
        Vec::new()
    }
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

    fn without_end(&self) -> Vec<Arc<str>> {
        SequenceReader::without_end(self).to_vec()
    }

    fn on_pause(&mut self, act: OnPause) {
        SequenceReader::on_pause(self, act);
    }
}

/// The options that decide which records are read, and how they are cleaned and checked.
#[derive(Debug, Clone)]
pub struct ReadOptions {
    /// The alphabet of the model.
    pub alphabet: Alphabet,
    /// Whether text is cleaned, which also upper-cases soft-masked text.
    pub cleaning: Cleaning,
    /// Whether unclean text is an error.
    pub strict: bool,
    /// What becomes of a record that is bad by itself.
    pub bad_records: BadRecords,
    /// The check of each record's need of memory, if memory bounds the length of a sequence.
    pub memory: Option<MemoryCheck>,
    /// The number of records per shard.
    pub shard_size: u64,
    /// The share that decides which shards are computed.
    pub share: Share,
}

/// The reader thread's data.
pub(crate) struct Reader<R> {
    pub records: R,
    pub options: ReadOptions,
    /// The output directory.
    pub out: PathBuf,
    /// The numbers of the shards that exist there, ascending, each verified.
    pub finished: Vec<u64>,
    pub counters: Arc<Counters>,
    pub stop: Stop,
    pub trace: Trace,
    /// The lengths of the sequences so far.
    pub lengths: Lengths,
    /// The first name that two records of one shard share.
    pub shared_name: Option<SharedName>,
    /// Makes fragments of the records, which are chunks of contigs. Without it the records are
    /// cleaned and are themselves what the model reads.
    pub fragments: Option<FragmentStage>,
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
    times: ReadTimes,
}

impl Outgoing {
    fn send(&mut self) -> Result<(), StopReason> {
        self.times.end(&self.group);
        let sent = self.stage.send(std::mem::take(&mut self.group));
        self.times.begin();
        sent
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
            // If no more groups are needed, the reader soon notices this itself.
            let _ = self.send();
        }
        idle
    }
}

/// The times of reading and cleaning a group, for a trace. Records are read and cleaned one by one,
/// so the cleaning of a whole group is shown as one interval, at the end of the group's reading.
struct ReadTimes {
    trace: Trace,
    start_ns: u64,
    cleaning_ns: u64,
}

impl ReadTimes {
    fn new(trace: Trace) -> Self {
        let start_ns = trace.now();
        Self {
            trace,
            start_ns,
            cleaning_ns: 0,
        }
    }

    fn begin(&mut self) {
        (self.start_ns, self.cleaning_ns) = (self.trace.now(), 0);
    }

    fn cleaned(&mut self, began: u64) {
        self.cleaning_ns += self.trace.now() - began;
    }

    /// Ends the reading of a group.
    fn end(&self, group: &Group) {
        if !self.trace.is_on() || group.records() == 0 {
            return;
        }
        let end_ns = self.trace.now();
        let cleaning = end_ns.saturating_sub(self.cleaning_ns).max(self.start_ns);
        for (name, start_ns, end_ns) in [
            ("read", self.start_ns, cleaning),
            ("clean", cleaning, end_ns),
        ] {
            self.trace.add(Event {
                track: Track::host(host::READER, 0),
                name: name.into(),
                category: Category::Stage,
                start_ns,
                end_ns,
                args: Args {
                    sequences: Some(group.records() as u64),
                    bytes: Some(group.bytes as u64),
                    ..Args::default()
                },
            });
        }
    }
}

fn lock(outgoing: &Mutex<Outgoing>) -> MutexGuard<'_, Outgoing> {
    outgoing.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The shard that is being read.
struct Shard {
    number: u64,
    /// The record of the finished shard, if the shard exists already.
    finished: Option<ShardRecord>,
    first_record: u64,
    /// The records that were read, with those that were skipped.
    records: u64,
    rejected: BTreeMap<u64, Rejected>,
    digest: RecordsDigest,
    clean: CleanCounts,
    names: SeenNames,
    /// The texts of the shard, if its records are chunks.
    texts: Option<ShardTexts>,
}

impl<R: Records> Reader<R> {
    /// Reads until the input ends, an error occurs, or no more groups are needed.
    pub(crate) fn run(mut self, stage: TokenizeStage) {
        let outgoing = Arc::new(Mutex::new(Outgoing {
            group: Group::default(),
            stage,
            held: false,
            times: ReadTimes::new(self.trace.clone()),
        }));
        let (at_pause, counters) = (Arc::clone(&outgoing), Arc::clone(&self.counters));
        self.records.on_pause(Arc::new(Mutex::new(move || {
            lock(&at_pause).pause(counters.idle.load(Ordering::Relaxed))
        })));
        if let Err(StopReason::Failed(error)) = self.read_all(&outgoing) {
            let mut outgoing = lock(&outgoing);
            outgoing.group.end = Some(GroupEnd::Failed(error));
            // If no more groups are needed, nobody needs the error.
            let _ = outgoing.send();
        }
    }

    /// Reads all records. On error, the group keeps the records read so far. The lock is not held
    /// while a record is read.
    fn read_all(&mut self, outgoing: &Mutex<Outgoing>) -> Result<(), StopReason> {
        let mut index = 0;
        let mut shard: Option<Shard> = None;
        // Whether it is certain that the output directory holds no manifest.json.
        let mut revoked = false;
        while let Some(read) = self.records.next_record() {
            let read = match read {
                Ok(record) => Ok(record),
                Err(error) => Err(self.skip(error.into())?),
            };
            let number = index / self.options.shard_size;
            index += 1;
            if self.options.share.holds(number) {
                let current = match &mut shard {
                    Some(current) => current,
                    None => shard.insert(self.begin(number, index - 1, &mut revoked)?),
                };
                current.take(&read);
                if let Ok(record) = &read {
                    self.lengths.add(record.sequence.len() as u64);
                }
                match (&current.finished, read) {
                    (Some(_), _) => {
                        // Of chunks, the rows count and not the records.
                        let reused = u64::from(self.fragments.is_none());
                        self.counters.reused.fetch_add(reused, Ordering::Relaxed);
                    }
                    (None, Err(rejected)) => {
                        current.rejected.insert(index - 1, rejected);
                    }
                    (None, Ok(mut record)) => {
                        record.index = index - 1;
                        let mut outgoing = lock(outgoing);
                        let began = self.trace.now();
                        if let Err(error) = self.prepare(record, current, &mut outgoing.group) {
                            // Some of the fragments of a chunk may be on their way already.
                            if self.fragments.is_some() {
                                return Err(error.into());
                            }
                            current.rejected.insert(index - 1, self.skip(error)?);
                        }
                        outgoing.times.cleaned(began);
                        outgoing.held = true;
                        if outgoing.group.bytes >= GROUP {
                            outgoing.send()?;
                        }
                    }
                }
            }
            if index.is_multiple_of(self.options.shard_size)
                && let Some(full) = shard.take()
            {
                self.end(full, false, &mut lock(outgoing))?;
            }
            // While nothing is sent, no closed channel tells this thread to stop.
            if shard.as_ref().is_none_or(|s| s.finished.is_some())
                && self.stop.requested().is_some()
            {
                return Ok(());
            }
        }
        if let Some(short) = shard.take() {
            self.end(short, true, &mut lock(outgoing))?;
        }
        let shards = index.div_ceil(self.options.shard_size);
        let ours = |n: &u64| *n < shards && self.options.share.holds(*n);
        if let Some(surplus) = self.finished.iter().find(|n| !ours(n)) {
            let shard = self.out.join(shard_name(*surplus));
            return Err(JobError::Surplus {
                shard,
                records: index,
            }
            .into());
        }
        let mut outgoing = lock(outgoing);
        outgoing.group.end = Some(GroupEnd::Input(InputEnd {
            records: index,
            digests: self.records.digests(),
            notes: InputNotes {
                shared_name: self.shared_name.take(),
                lengths: std::mem::take(&mut self.lengths),
                without_end: self.records.without_end(),
            },
        }));
        outgoing.send()
    }

    fn begin(&self, number: u64, first_record: u64, revoked: &mut bool) -> Result<Shard, JobError> {
        let finished = match self.finished.binary_search(&number) {
            Ok(_) => Some(read_record(&self.out.join(shard_name(number)))?),
            Err(_) => {
                // This is done before anything is computed: a job that lacks a shard is not
                // complete.
                if !std::mem::replace(revoked, true) {
                    revoke_manifest(&self.out)?;
                }
                None
            }
        };
        Ok(Shard {
            number,
            finished,
            first_record,
            records: 0,
            rejected: BTreeMap::new(),
            digest: RecordsDigest::default(),
            clean: CleanCounts::default(),
            names: SeenNames::default(),
            texts: self.fragments.as_ref().map(|_| ShardTexts::default()),
        })
    }

    /// Returns what rejected.tsv says of a record that is skipped for this error.
    ///
    /// # Errors
    /// The error, if it ends the job.
    fn skip(&self, error: JobError) -> Result<Rejected, JobError> {
        let skips = self.options.bad_records == BadRecords::Skip;
        error.rejected().filter(|_| skips).ok_or(error)
    }

    /// Adds to the group what the models read of a record.
    fn prepare(
        &mut self,
        record: Record,
        shard: &mut Shard,
        group: &mut Group,
    ) -> Result<(), JobError> {
        match (&mut self.fragments, &mut shard.texts) {
            (Some(fragments), Some(texts)) => fragments.take(&record, shard.number, texts, group),
            _ => self.clean(record, shard, group),
        }
    }

    fn clean(
        &mut self,
        mut record: Record,
        shard: &mut Shard,
        group: &mut Group,
    ) -> Result<(), JobError> {
        let options = &self.options;
        let mut counts = clean(
            options.alphabet,
            options.cleaning,
            options.strict,
            &mut record,
        )?;
        if let Some(memory) = &options.memory {
            memory.check(&record, counts.residues)?;
        }
        // A record that is skipped shares its name with nobody.
        let (shared, first) = shard.names.take(&record, options.strict)?;
        self.shared_name = self.shared_name.take().or(first);
        counts.shared_names = shared;
        shard.clean += counts;
        group.push(shard.number, 0, record);
        Ok(())
    }

    /// Ends a shard. The end of a new shard is sent on at once, because a slow pipe may give
    /// nothing more for a long time. A finished shard is compared with the records of the input.
    fn end(&self, shard: Shard, short: bool, outgoing: &mut Outgoing) -> Result<(), StopReason> {
        let number = shard.number;
        let keep = self.fragments.as_ref().is_some_and(FragmentStage::keeps);
        let ShardFacts {
            facts,
            rejected,
            finished,
            texts,
        } = shard.facts(keep);
        let Some(finished) = finished else {
            outgoing.group.end = Some(GroupEnd::Shard(ShardEnd {
                shard: number,
                facts,
                rejected,
                texts,
                short,
            }));
            outgoing.held = false;
            return outgoing.send();
        };
        let there = &finished.facts;
        // The chunks of a shard include those that were skipped.
        let records = match facts.counts.get(CHUNKS_COUNT) {
            Some(chunks) => *chunks,
            None => facts.rows + rejected.len() as u64,
        };
        // Only records with rows count as reused.
        match self.fragments {
            None => {
                let skipped = there.rejected().min(records);
                self.counters.reused.fetch_sub(skipped, Ordering::Relaxed)
            }
            Some(_) => {
                let chunks = &self.counters.reused_chunks;
                chunks.fetch_add(there.records(), Ordering::Relaxed);
                self.counters
                    .reused
                    .fetch_add(there.rows, Ordering::Relaxed)
            }
        };
        if (there.first_record, there.records(), &there.digest)
            != (facts.first_record, records, &facts.digest)
        {
            return Err(JobError::RecordsDiffer {
                shard: self.out.join(shard_name(number)),
                first: facts.first_record + 1,
                last: facts.first_record + records,
            }
            .into());
        }
        Ok(())
    }
}

impl Shard {
    /// Counts a record as it was read, before cleaning, or as the reader skipped it.
    fn take(&mut self, read: &Result<Record, Rejected>) {
        self.records += 1;
        match read {
            Ok(record) => self.digest.take(record),
            Err(rejected) => self.digest.skip(&rejected.name),
        }
    }

    /// Returns all facts of the shard except the counts that packing adds.
    fn facts(self, keep: bool) -> ShardFacts {
        let texts = self.texts.map(|texts| texts.finish(self.records, keep));
        let (rows, counts, texts) = match texts {
            Some(mut texts) => {
                if !self.rejected.is_empty() {
                    let rejected = self.rejected.len() as u64;
                    texts.counts.insert(REJECTED_COUNT.into(), rejected);
                }
                (texts.rows, texts.counts, texts.texts)
            }
            None => {
                let rows = self.records - self.rejected.len() as u64;
                (rows, named(&self.clean), Vec::new())
            }
        };
        ShardFacts {
            facts: BlockFacts {
                first_record: self.first_record,
                rows,
                tokens: 0,
                digest: self.digest.finish(),
                counts,
            },
            rejected: self.rejected,
            finished: self.finished,
            texts,
        }
    }
}

/// What is known of a shard when all its records have been read.
struct ShardFacts {
    facts: BlockFacts,
    rejected: BTreeMap<u64, Rejected>,
    /// The record of the finished shard.
    finished: Option<ShardRecord>,
    texts: Vec<(&'static str, Vec<u8>)>,
}

/// Returns the counts under the names that they are serialized with.
fn named(counts: &CleanCounts) -> BTreeMap<String, u64> {
    let value = serde_json::to_value(counts).unwrap_or_default();
    let fields = value.as_object().cloned().unwrap_or_default();
    fields
        .into_iter()
        .filter_map(|(name, n)| Some((name, n.as_u64()?)))
        .collect()
}
