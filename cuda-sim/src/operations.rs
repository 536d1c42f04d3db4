//! How operations enter the queue, and how the host makes them run.

use crate::code::Code;
use crate::queue::OpId;
use crate::run::Work;
use crate::sim::{Sim, Stream, StreamKind, Task, number};

/// The largest number of pending operations; the driver's own queues are bounded, too.
const MAX_PENDING: usize = 4096;

impl Sim {
    /// Submits work to a stream; `also` is an operation for which it waits besides the stream's own
    /// order.
    pub fn submit(&mut self, stream: u64, also: Option<OpId>, work: Work) -> Result<OpId, Code> {
        let Stream {
            context,
            kind,
            tail,
            ..
        } = *self.streams.get(&stream).ok_or(Code::INVALID_HANDLE)?;
        let mut after: Vec<OpId> = tail.into_iter().chain(also).collect();
        match kind {
            StreamKind::NonBlocking => {}
            StreamKind::Blocking => after.extend(self.null_tail(context)),
            StreamKind::Null => {
                self.counters.null_stream_operations += 1;
                after.extend(self.blocking_tails(context));
            }
        }
        let task = Task {
            work,
            function: self.function,
            call: self.counters.calls,
            planned: self.planned.take(),
        };
        let id = self.queue.submit(context, stream, after, self.clock, task);
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.tail = Some(id);
        }
        self.note(format_args!("op={id}"));
        if self.queue.len() > MAX_PENDING
            && let Some(oldest) = self.queue.oldest()
        {
            self.run(oldest);
        }
        Ok(id)
    }

    fn null_tail(&self, context: u64) -> Option<OpId> {
        self.streams
            .get(&self.contexts.get(&context)?.null_stream)?
            .tail
    }

    fn blocking_tails(&self, context: u64) -> Vec<OpId> {
        let streams = self
            .streams
            .values()
            .filter(|s| s.context == context && s.kind == StreamKind::Blocking);
        let orphans = self
            .contexts
            .get(&context)
            .map(|context| context.orphans.clone())
            .unwrap_or_default();
        streams
            .filter_map(|stream| stream.tail)
            .chain(orphans)
            .filter(|id| self.queue.is_pending(*id))
            .collect()
    }

    /// Returns the operations that must have run for a stream to be idle.
    pub fn tails(&self, stream: u64) -> Vec<OpId> {
        let Some(Stream {
            context,
            kind,
            tail,
            ..
        }) = self.streams.get(&stream)
        else {
            return Vec::new();
        };
        let mut tails: Vec<OpId> = tail
            .iter()
            .copied()
            .filter(|id| self.queue.is_pending(*id))
            .collect();
        if *kind == StreamKind::Null {
            tails.extend(self.blocking_tails(*context));
        }
        tails
    }

    /// Returns the pending operations of a context.
    pub fn pending_of(&self, context: u64) -> Vec<OpId> {
        self.queue
            .pending()
            .filter(|op| op.context == context)
            .map(|op| op.id)
            .collect()
    }

    /// Removes a stream; its pending operations still run.
    pub fn forget_stream(&mut self, handle: u64) -> Result<(), Code> {
        let stream = self.streams.remove(&handle).ok_or(Code::INVALID_HANDLE)?;
        let pending = stream.tail.filter(|id| self.queue.is_pending(*id));
        if stream.kind == StreamKind::Blocking
            && let Some(context) = self.contexts.get_mut(&stream.context)
        {
            context.orphans.extend(pending);
        }
        Ok(())
    }

    /// Makes the host wait for these operations. The caller must check whether a context was lost
    /// meanwhile.
    pub fn wait(&mut self, targets: impl IntoIterator<Item = OpId>) {
        let needed = self.queue.needed(targets);
        if needed.is_empty() {
            return;
        }
        self.scheduler.begin_wait(&self.queue);
        while let Some(id) = self.scheduler.next_needed(&self.queue, &needed) {
            let over = self.run(id);
            if needed.contains(&id) {
                self.clock = self.clock.max(over);
            }
        }
    }

    /// Makes the host ask without waiting; some of the operations may run. Returns true if none is
    /// pending.
    pub fn query(&mut self, targets: &[OpId]) -> bool {
        self.counters.queries += 1;
        for _ in 0..self.scheduler.progress() {
            let needed = self.queue.needed(targets.iter().copied());
            match self.scheduler.next_needed(&self.queue, &needed) {
                Some(id) => self.run(id),
                None => break,
            };
        }
        targets.iter().all(|id| !self.queue.is_pending(*id))
    }

    /// Runs one ready operation; returns when it finished, in simulated microseconds.
    pub fn run(&mut self, id: OpId) -> f64 {
        let Some(op) = self.queue.take(id) else {
            return self.clock;
        };
        let stream = number(op.stream);
        let device = self.device_of(op.context).unwrap_or(0);
        let Task {
            function,
            call,
            planned,
            ..
        } = op.work;
        self.log.line(format!(
            "run op={id} device={device} stream={stream} {}",
            op.work.work
        ));
        let outcome = match planned {
            Some(code) => Err((code, "fault ordered for this operation".to_owned())),
            None => self.perform(&op.work.work, id, device),
        };
        let over = op.start + op.work.work.microseconds();
        self.queue.finish(&op, over);
        if let Work::Record { event } = op.work.work
            && let Some(event) = self.events.get_mut(&event)
            && event.record == Some(id)
        {
            event.reached = Some(over);
        }
        if let Err((code, message)) = outcome {
            let text = format!(
                "op {id} ({function}, call {call}) on device {device}, stream {stream}: {message}"
            );
            self.lose(op.context, code, &text);
        }
        over
    }

    /// Loses a context by an error.
    pub fn lose(&mut self, context: u64, code: Code, message: &str) {
        let Some(lost) = self.contexts.get_mut(&context) else {
            return;
        };
        if lost.lost.is_some() {
            return;
        }
        lost.lost = Some(code);
        let discarded = self.queue.discard(context);
        self.counters.lost_contexts += 1;
        self.counters.discarded_operations += discarded as u64;
        self.find(format!(
            "{message}: the context is lost with code {}",
            code.0
        ));
    }
}
