//! Operations that were submitted and have not run yet, as a graph: an operation waits for a set of
//! earlier operations. A stream's order, the wait for an event and the legacy NULL stream are all
//! made of such edges, so that "any order the driver may take" is "any topological order".

use std::collections::{BTreeMap, BTreeSet, HashSet};

/// The id of an operation. It grows with every submission, so the order of ids is the order of
/// submission.
pub type OpId = u64;

/// One operation, with the data that the scheduler and the log need.
pub struct Op<W> {
    /// The operation's id.
    pub id: OpId,
    /// The context that it belongs to.
    pub context: u64,
    /// The stream that it was submitted to.
    pub stream: u64,
    /// The simulated time, in microseconds, at which everything it waits for has finished.
    pub start: f64,
    /// The work itself.
    pub work: W,
    unmet: BTreeSet<OpId>,
    dependents: Vec<OpId>,
}

/// The graph of pending operations.
pub struct Queue<W> {
    pending: BTreeMap<OpId, Op<W>>,
    ready: BTreeSet<OpId>,
    last: OpId,
}

impl<W> Queue<W> {
    /// Creates an empty queue.
    pub fn new() -> Self {
        Self {
            pending: BTreeMap::new(),
            ready: BTreeSet::new(),
            last: 0,
        }
    }

    /// Adds an operation. `after` holds the ids of operations that must have run before it; ids of
    /// operations that have already run are ignored.
    pub fn submit(
        &mut self,
        context: u64,
        stream: u64,
        after: impl IntoIterator<Item = OpId>,
        now: f64,
        work: W,
    ) -> OpId {
        self.last += 1;
        let id = self.last;
        let mut unmet = BTreeSet::new();
        for earlier in after {
            if let Some(op) = self.pending.get_mut(&earlier)
                && unmet.insert(earlier)
            {
                op.dependents.push(id);
            }
        }
        if unmet.is_empty() {
            self.ready.insert(id);
        }
        self.pending.insert(
            id,
            Op {
                id,
                context,
                stream,
                start: now,
                work,
                unmet,
                dependents: Vec::new(),
            },
        );
        id
    }

    /// Returns the number of pending operations.
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// Returns whether an operation is pending.
    pub fn is_pending(&self, id: OpId) -> bool {
        self.pending.contains_key(&id)
    }

    /// Returns the operations that may run now, oldest first.
    pub fn ready(&self) -> impl Iterator<Item = &Op<W>> {
        self.ready.iter().filter_map(|id| self.pending.get(id))
    }

    /// Returns all pending operations, oldest first.
    pub fn pending(&self) -> impl Iterator<Item = &Op<W>> {
        self.pending.values()
    }

    /// Returns the operation that has waited longest; it is always ready.
    pub fn oldest(&self) -> Option<OpId> {
        self.pending.keys().next().copied()
    }

    /// Returns the ready operation with the earliest start; of several the one submitted first.
    pub fn earliest(&self) -> Option<OpId> {
        let ready = self.ready().min_by(|a, b| a.start.total_cmp(&b.start));
        ready.map(|op| op.id)
    }

    /// Removes a ready operation to run it; its dependents wait until `finish`.
    pub fn take(&mut self, id: OpId) -> Option<Op<W>> {
        if !self.ready.remove(&id) {
            return None;
        }
        self.pending.remove(&id)
    }

    /// Records that `op`, which was taken, has run and finished at `finish` (simulated time).
    pub fn finish(&mut self, op: &Op<W>, finish: f64) {
        for dependent in &op.dependents {
            if let Some(next) = self.pending.get_mut(dependent) {
                next.start = next.start.max(finish);
                next.unmet.remove(&op.id);
                if next.unmet.is_empty() {
                    self.ready.insert(*dependent);
                }
            }
        }
    }

    /// Returns `targets` and all operations for which they wait, as far as these are pending.
    pub fn needed(&self, targets: impl IntoIterator<Item = OpId>) -> HashSet<OpId> {
        let mut needed = HashSet::new();
        let mut open: Vec<OpId> = targets.into_iter().collect();
        while let Some(id) = open.pop() {
            if let Some(op) = self.pending.get(&id)
                && needed.insert(id)
            {
                open.extend(op.unmet.iter().copied());
            }
        }
        needed
    }

    /// Drops all operations of a lost context; operations that waited for them no longer wait.
    /// Returns the number of dropped operations.
    pub fn discard(&mut self, context: u64) -> usize {
        let ids: Vec<OpId> = self
            .pending
            .values()
            .filter(|op| op.context == context)
            .map(|op| op.id)
            .collect();
        for id in &ids {
            self.ready.remove(id);
            if let Some(op) = self.pending.remove(id) {
                let start = op.start;
                self.finish(&op, start);
            }
        }
        ids.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(queue: &Queue<()>) -> Vec<OpId> {
        queue.ready().map(|op| op.id).collect()
    }

    #[test]
    fn an_operation_is_ready_when_all_it_waits_for_has_run() {
        let mut queue = Queue::new();
        let a = queue.submit(1, 1, [], 0.0, ());
        let b = queue.submit(1, 2, [], 0.0, ());
        let c = queue.submit(1, 1, [a, b, a], 0.0, ());
        assert_eq!(ready(&queue), [a, b]);
        assert!(queue.take(c).is_none());
        for (id, left) in [(b, vec![a]), (a, vec![c])] {
            let op = queue.take(id).unwrap();
            queue.finish(&op, 3.0 + id as f64);
            assert_eq!(ready(&queue), left);
        }
        assert_eq!(queue.take(c).unwrap().start, 3.0 + b as f64);
    }

    #[test]
    fn needed_is_what_a_target_waits_for() {
        let mut queue = Queue::new();
        let a = queue.submit(1, 1, [], 0.0, ());
        let b = queue.submit(1, 2, [], 0.0, ());
        let c = queue.submit(1, 1, [a], 0.0, ());
        assert_eq!(queue.needed([c]), HashSet::from([a, c]));
        assert_eq!(queue.needed([b]), HashSet::from([b]));
        assert!(queue.needed([77]).is_empty());
    }

    #[test]
    fn a_lost_context_frees_those_who_wait_for_it() {
        let mut queue = Queue::new();
        let a = queue.submit(1, 1, [], 0.0, ());
        let b = queue.submit(2, 2, [a], 0.0, ());
        let c = queue.submit(1, 1, [a, b], 0.0, ());
        assert_eq!(queue.discard(1), 2);
        assert_eq!(ready(&queue), [b]);
        assert!(!queue.is_pending(c));
    }
}
