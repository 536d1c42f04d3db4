//! Tokenizes records in groups and sends the groups on in order. Several threads tokenize where a
//! device would wait for one thread.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::JobError;
use super::packing::{Gone, Packer};
use crate::output::BlockFacts;
use crate::sequence::{InputDigest, Record, Tokenizer};

/// How many groups may be under way per thread: one that is tokenized, and one that waits.
const AHEAD: usize = 2;

/// Consecutive cleaned records of one shard, and the event that follows them.
#[derive(Default)]
pub(crate) struct Group {
    /// The number of the shard.
    pub block: u64,
    /// The records. Tokenizing removes their text.
    pub records: Vec<Record>,
    /// The number of bytes that the records hold, ids included.
    pub bytes: usize,
    /// The tokens of all records, special tokens included. It is empty before tokenizing.
    pub tokens: Vec<u32>,
    /// The end of each record in `tokens`.
    pub ends: Vec<usize>,
    /// The event that follows the records, if there is one.
    pub end: Option<GroupEnd>,
}

/// The event that follows the records of a group.
pub(crate) enum GroupEnd {
    /// Their shard has no more records.
    BlockEnd {
        /// All facts of the shard except the counts that packing adds.
        facts: BlockFacts,
        /// Whether the input ended before the shard was full.
        short: bool,
    },
    /// The input has been read to its end.
    InputEnd {
        records: u64,
        digests: Vec<InputDigest>,
    },
    /// The input pauses and the model has nothing to do, so the records so far are computed.
    Pause,
    /// The next record could not be read.
    Failed(JobError),
}

impl Group {
    pub fn push(&mut self, block: u64, record: Record) {
        self.block = block;
        self.bytes += record.bytes();
        self.records.push(record);
    }

    /// Tokenizes the records. Only the first `most` content tokens of each record are needed.
    fn tokenize(&mut self, tokenizer: &Tokenizer, most: usize) {
        for record in &mut self.records {
            // The text is not needed again, and a long text takes much memory.
            let text = std::mem::take(&mut record.sequence);
            tokenizer.encode_first(&text, most, &mut self.tokens);
            self.ends.push(self.tokens.len());
        }
    }
}

/// The stage between the reader and the packer.
pub(crate) enum TokenizeStage {
    /// The reader thread tokenizes and packs itself.
    Alone {
        tokenizer: Arc<Tokenizer>,
        packer: Box<Packer>,
    },
    /// Threads tokenize, and one more thread packs the groups in the order in which they were sent,
    /// whichever is done first.
    Pool {
        tokenizer: Arc<Tokenizer>,
        most: usize,
        pool: ThreadPool,
        to_packer: SyncSender<Receiver<Group>>,
    },
}

impl TokenizeStage {
    pub fn new(
        threads: usize,
        tokenizer: &Arc<Tokenizer>,
        mut packer: Packer,
    ) -> Result<Self, JobError> {
        let tokenizer = Arc::clone(tokenizer);
        let most = packer.most_tokens();
        if threads < 2 {
            let packer = Box::new(packer);
            return Ok(Self::Alone { tokenizer, packer });
        }
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("tokens {i}"))
            // The packer notices that a group is missing and reports it.
            .panic_handler(|_| {})
            .build()
            .map_err(|e| JobError::NoThread(e.to_string()))?;
        let (to_packer, groups) = sync_channel::<Receiver<Group>>(AHEAD * threads);
        std::thread::Builder::new()
            .name("packer".into())
            .spawn(move || {
                for group in groups {
                    let taken = match group.recv() {
                        Ok(group) => packer.take(group),
                        Err(_) => {
                            let error = "a thread that tokenizes panicked".into();
                            packer.fail(JobError::Internal(error));
                            Err(Gone)
                        }
                    };
                    if taken.is_err() {
                        return;
                    }
                }
            })
            .map_err(|e| JobError::NoThread(e.to_string()))?;
        Ok(Self::Pool {
            tokenizer,
            most,
            pool,
            to_packer,
        })
    }

    /// Sends a group on, and waits while the greatest number of groups is under way.
    pub fn send(&mut self, mut group: Group) -> Result<(), Gone> {
        match self {
            Self::Alone { tokenizer, packer } => {
                group.tokenize(tokenizer, packer.most_tokens());
                packer.take(group)
            }
            Self::Pool {
                tokenizer,
                most,
                pool,
                to_packer,
            } => {
                let (done, tokenized) = sync_channel(1);
                to_packer.send(tokenized).map_err(|_| Gone)?;
                let (tokenizer, most) = (Arc::clone(tokenizer), *most);
                pool.spawn(move || {
                    group.tokenize(&tokenizer, most);
                    // If the packer has ended, it needs no more groups.
                    let _ = done.send(group);
                });
                Ok(())
            }
        }
    }
}
