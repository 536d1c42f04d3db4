//! Chooses which ready operation runs next. Every choice here is an order that the driver may take.
//!
//! Seed 0 is the plain schedule: nothing runs before the host must know its result, and then
//! operations run in the order of submission. Every other seed mixes several behaviours, because a
//! missing fence shows in different orders:
//! - each stream has a temper: lazy (runs only when the host needs it), eager (runs as soon as it
//!   is ready), or moody;
//! - the operations that the host needs run in a random order, newest first, oldest first, or with
//!   one stream far ahead of the others;
//! - in between, operations that the host does not need may run, too.

use std::collections::{HashMap, HashSet};

use crate::queue::{OpId, Queue};
use crate::random::Rng;

#[derive(Clone, Copy, PartialEq)]
enum Temper {
    Lazy,
    Moody,
    Eager,
}

#[derive(Clone, Copy)]
enum Order {
    Oldest,
    Newest,
    Random,
    Stream(u64),
}

/// The scheduler.
pub struct Scheduler {
    seed: u64,
    rng: Rng,
    tempers: HashMap<u64, Temper>,
    order: Order,
    /// The probability, in %, that an operation runs that the host does not need.
    stray: u64,
}

impl Scheduler {
    /// Creates the schedule of a seed.
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let stray = if seed == 0 {
            0
        } else {
            [0, 15, 50][rng.below(3)]
        };
        Self {
            seed,
            rng,
            tempers: HashMap::new(),
            order: Order::Oldest,
            stray,
        }
    }

    /// Returns the schedule's random numbers.
    pub fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    /// Returns whether the blocks of a kernel run in a shuffled order.
    pub fn shuffles(&self) -> bool {
        self.seed != 0
    }

    fn temper(&mut self, stream: u64) -> Temper {
        if self.seed == 0 {
            return Temper::Lazy;
        }
        let rng = &mut self.rng;
        *self.tempers.entry(stream).or_insert_with(|| {
            [Temper::Lazy, Temper::Lazy, Temper::Moody, Temper::Eager][rng.below(4)]
        })
    }

    /// Begins a wait of the host: chooses a new order, and sometimes new tempers.
    pub fn begin_wait<W>(&mut self, queue: &Queue<W>) {
        if self.seed == 0 {
            return;
        }
        if self.rng.chance(10) {
            self.tempers.clear();
        }
        self.order = match self.rng.below(4) {
            0 => Order::Oldest,
            1 => Order::Newest,
            2 => Order::Random,
            _ => {
                let streams: Vec<u64> = queue.ready().map(|op| op.stream).collect();
                if streams.is_empty() {
                    Order::Random
                } else {
                    Order::Stream(streams[self.rng.below(streams.len())])
                }
            }
        };
    }

    /// Returns the operation that runs next while the host waits for `needed`, or `None` if none of
    /// `needed` is pending.
    pub fn next_needed<W>(&mut self, queue: &Queue<W>, needed: &HashSet<OpId>) -> Option<OpId> {
        let (wanted, others): (Vec<_>, Vec<_>) = queue
            .ready()
            .map(|op| (op.id, op.stream))
            .partition(|(id, _)| needed.contains(id));
        if wanted.is_empty() {
            return None;
        }
        if !others.is_empty() && self.rng.chance(self.stray) {
            return Some(others[self.rng.below(others.len())].0);
        }
        let chosen = match self.order {
            Order::Oldest => wanted[0],
            Order::Newest => wanted[wanted.len() - 1],
            Order::Random => wanted[self.rng.below(wanted.len())],
            Order::Stream(favourite) => {
                match wanted.iter().find(|(_, stream)| *stream == favourite) {
                    Some(found) => *found,
                    None => wanted[self.rng.below(wanted.len())],
                }
            }
        };
        Some(chosen.0)
    }

    /// Returns an operation that runs although the host waits for nothing. It is called after each
    /// submission, until it returns `None`.
    pub fn next_unasked<W>(&mut self, queue: &Queue<W>) -> Option<OpId> {
        if self.seed == 0 {
            return None;
        }
        let ready: Vec<_> = queue.ready().map(|op| (op.id, op.stream)).collect();
        for (id, stream) in ready {
            match self.temper(stream) {
                Temper::Lazy => {}
                Temper::Moody if self.rng.chance(30) => return Some(id),
                Temper::Moody => {}
                Temper::Eager => return Some(id),
            }
        }
        None
    }

    /// Returns how many operations a query lets run.
    pub fn progress(&mut self) -> usize {
        if self.seed == 0 { 1 } else { self.rng.below(3) }
    }
}
