//! Tokenizes records, in groups. Several threads tokenize where a device would wait for one thread.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::messages::{Group, PendingGroup, StopReason};
use super::pack::Packer;
use super::{JobError, LengthLimit, Long};
use crate::sequence::Tokenizer;
use crate::trace::{Trace, host};

/// How many groups may be under way per thread: one that is tokenized, and one that waits.
pub(crate) const GROUPS_PER_THREAD: usize = 2;

/// The tokenizer of a lane.
#[derive(Clone)]
struct LaneTokenizer {
    tokenizer: Arc<Tokenizer>,
    /// How many content tokens of each record are needed.
    most: usize,
}

/// Turns the text of records into tokens.
#[derive(Clone)]
pub(crate) struct GroupTokenizer {
    lanes: Arc<[LaneTokenizer]>,
    trace: Trace,
    /// The name of the track of the thread that tokenizes.
    thread: &'static str,
}

impl GroupTokenizer {
    /// Takes the tokenizer of each lane. With a limit, only the tokens that are needed are made.
    pub(crate) fn new(
        lanes: impl IntoIterator<Item = (Arc<Tokenizer>, Option<LengthLimit>)>,
    ) -> Self {
        let most = |limit| match limit {
            // The tokens that are kept, and one more that tells whether the sequence is longer.
            Some(LengthLimit {
                max,
                long: Long::Truncate,
            }) => max.saturating_add(1),
            _ => usize::MAX,
        };
        let lanes = lanes.into_iter().map(|(tokenizer, limit)| LaneTokenizer {
            tokenizer,
            most: most(limit),
        });
        Self {
            lanes: lanes.collect(),
            trace: Trace::off(),
            thread: host::READER,
        }
    }

    /// Records the tokenizing of each group in a trace.
    pub(crate) fn traced(mut self, trace: Trace, thread: &'static str) -> Self {
        (self.trace, self.thread) = (trace, thread);
        self
    }

    fn tokenize(&self, group: &mut Group) {
        let number = rayon::current_thread_index().unwrap_or(0);
        let mut span = self.trace.stage(self.thread, number, "tokenize");
        for (lane, with) in group.lanes.iter_mut().zip(self.lanes.iter()) {
            for record in &mut lane.records {
                // The text is not needed again, and a long text takes much memory.
                let text = std::mem::take(&mut record.sequence);
                with.tokenizer
                    .encode_first(&text, with.most, &mut lane.tokens);
                lane.ends.push(lane.tokens.len());
            }
        }
        span.note(|args| {
            args.sequences = Some(group.records() as u64);
            args.tokens = Some(group.tokens() as u64);
            args.bytes = Some(group.bytes as u64);
        });
    }
}

/// The stage between the reader and the packer.
pub(crate) enum TokenizeStage {
    /// The reader thread tokenizes and packs itself.
    Inline {
        tokenizer: GroupTokenizer,
        packer: Box<Packer>,
    },
    /// A pool of threads tokenizes. The packing thread receives the groups in the order in which
    /// they were sent, whichever is done first.
    Pool {
        tokenizer: GroupTokenizer,
        threads: ThreadPool,
        to_packer: SyncSender<PendingGroup>,
    },
}

impl TokenizeStage {
    /// Lets the caller's thread tokenize and pack.
    pub(crate) fn inline(tokenizer: GroupTokenizer, packer: Packer) -> Self {
        Self::Inline {
            tokenizer,
            packer: Box::new(packer),
        }
    }

    /// Starts `threads` threads that tokenize.
    pub(crate) fn pool(
        tokenizer: GroupTokenizer,
        threads: usize,
        to_packer: SyncSender<PendingGroup>,
    ) -> Result<Self, JobError> {
        let threads = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("tokens {i}"))
            // The packer notices that a group is missing and reports it.
            .panic_handler(|_| {})
            .build()
            .map_err(|e| JobError::NoThread(e.to_string()))?;
        Ok(Self::Pool {
            tokenizer,
            threads,
            to_packer,
        })
    }

    /// Sends a group on, and waits while the greatest number of groups is under way.
    ///
    /// # Errors
    /// [`StopReason::Disconnected`] if no more groups are needed. The packer reports its errors to
    /// the computing thread itself.
    pub(crate) fn send(&mut self, mut group: Group) -> Result<(), StopReason> {
        match self {
            Self::Inline { tokenizer, packer } => {
                tokenizer.tokenize(&mut group);
                packer.take(group)
            }
            Self::Pool {
                tokenizer,
                threads,
                to_packer,
            } => {
                let (done, pending) = sync_channel(1);
                to_packer.send(pending)?;
                let tokenizer = tokenizer.clone();
                threads.spawn(move || {
                    tokenizer.tokenize(&mut group);
                    // If the packer has ended, it needs no more groups.
                    let _ = done.send(group);
                });
                Ok(())
            }
        }
    }
}
