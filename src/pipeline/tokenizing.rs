//! Records are tokenized in groups, by several threads where a device would wait for one, and go on in order.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::JobError;
use super::packing::{Gone, Packer};
use crate::output::BlockFacts;
use crate::sequence::{InputDigest, Record, Tokenizer};

/// Groups under way for each thread: one that is tokenized, and one that waits.
const AHEAD: usize = 2;

/// Consecutive records of one block, cleaned, and what comes after them.
#[derive(Default)]
pub(crate) struct Group {
    pub block: u64,
    pub records: Vec<Record>,
    /// Bytes that they hold, names included.
    pub bytes: usize,
    /// Once tokenized: of all records, special tokens included.
    pub tokens: Vec<u32>,
    /// Where in `tokens` each record ends.
    pub ends: Vec<usize>,
    pub end: Option<GroupEnd>,
}

/// What comes after the records of a group.
pub(crate) enum GroupEnd {
    /// Their block is read to its end.
    BlockEnd {
        /// All but what packing counts.
        facts: BlockFacts,
        /// Whether the input ended before the block was full.
        short: bool,
    },
    /// The input is read to its end.
    InputEnd {
        records: u64,
        digests: Vec<InputDigest>,
    },
    /// The input pauses, and the model has nothing to do: what is there is computed.
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

    /// Of each record as many content tokens as `most`, which makes of it all that is kept.
    fn tokenize(&mut self, tokenizer: &Tokenizer, most: usize) {
        for record in &mut self.records {
            // The text is not needed again, and a long one takes room.
            let text = std::mem::take(&mut record.sequence);
            tokenizer.encode_first(&text, most, &mut self.tokens);
            self.ends.push(self.tokens.len());
        }
    }
}

/// The way of groups from the reader to the packer.
pub(crate) enum TokenizeStage {
    /// The reader does it all.
    Alone {
        tokenizer: Arc<Tokenizer>,
        packer: Box<Packer>,
    },
    /// Threads tokenize, and one more packs: by the order in which groups were sent, whichever is done first.
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
            // The packer misses its group, and says so.
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

    /// Sends a group on; waits while as many as may be are under way.
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
                    // A packer that has ended wants no more.
                    let _ = done.send(group);
                });
                Ok(())
            }
        }
    }
}
