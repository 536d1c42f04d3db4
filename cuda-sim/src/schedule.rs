//! Which ready operation runs next. Everything chosen here is an order that the driver may take.
//!
//! Seed 0 is the plain one: nothing runs before the host must know its result, and then in the order of submission.
//! Any other seed mixes, because a missing fence shows in different orders:
//! - each stream has a temper: lazy (runs only when the host needs it), eager (runs as soon as it is ready), or moody;
//! - what the host needs is run in a random order, newest first, oldest first, or one stream far ahead of the others;
//! - in between, operations that nobody asked for may run too.

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

pub struct Scheduler {
    seed: u64,
    rng: Rng,
    tempers: HashMap<u64, Temper>,
    order: Order,
    /// Chance in a hundred that an operation runs that the host did not ask for.
    stray: u64,
}

impl Scheduler {
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

    pub fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

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

    /// The host comes to wait: a new order, and now and then new tempers.
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

    /// What runs next while the host waits for `needed`; `None` when nothing of it is left.
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

    /// What runs although the host waits for nothing: after each submission, until `None`.
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

    /// How many of the operations that a query asks about make progress.
    pub fn progress(&mut self) -> usize {
        if self.seed == 0 { 1 } else { self.rng.below(3) }
    }
}
