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
        self.submit_after(stream, also, 0.0, work)
    }

    /// Like `submit`, for work that in virtual time starts no earlier than `not_before`.
    pub fn submit_after(
        &mut self,
        stream: u64,
        also: Option<OpId>,
        not_before: f64,
        work: Work,
    ) -> Result<OpId, Code> {
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
        let now = self.submission(stream, &work).max(not_before);
        let task = Task {
            work,
            function: self.function,
            call: self.counters.calls,
            planned: self.planned.take(),
        };
        let id = self.queue.submit(context, stream, after, now, task);
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.tail = Some(id);
        }
        self.note(format_args!("op={id}"));
        if self.queue.len() > MAX_PENDING
            && let Some(oldest) = self.queue.oldest()
        {
            let next = self.clock.as_ref().and_then(|_| self.queue.earliest());
            self.run(next.unwrap_or(oldest));
        }
        Ok(id)
    }

    // ---- virtual time; all of this does nothing where no machine is set

    /// Lets the calling thread submit, and returns the time from which on the work may run.
    fn submission(&mut self, stream: u64, work: &Work) -> f64 {
        let over = self.stream_over(stream);
        let (Some(clock), Some(stream)) = (&mut self.clock, self.streams.get_mut(&stream)) else {
            return self.waited;
        };
        clock.reach(stream.touched);
        let ready = clock.submit(work);
        stream.touched = clock.now();
        ready.max(over)
    }

    /// Returns when everything is over that has run on a stream, and on those that fence it.
    pub fn stream_over(&self, stream: u64) -> f64 {
        let Some(own) = self.streams.get(&stream) else {
            return 0.0;
        };
        let fences = |other: &&Stream| {
            other.context == own.context
                && match own.kind {
                    StreamKind::NonBlocking => false,
                    StreamKind::Blocking => other.kind == StreamKind::Null,
                    StreamKind::Null => other.kind == StreamKind::Blocking,
                }
        };
        let others = self.streams.values().filter(fences);
        others.map(|other| other.over).fold(own.over, f64::max)
    }

    /// Makes the calling thread wait until `over`.
    pub fn wait_until(&mut self, over: f64) {
        if let Some(clock) = &mut self.clock {
            clock.wait_until(over);
        }
    }

    /// Makes the calling thread wait for all that has run on a stream.
    pub fn wait_for_stream(&mut self, stream: u64) {
        self.wait_until(self.stream_over(stream));
    }

    /// Makes the calling thread wait for all that has run in a context.
    pub fn wait_for_context(&mut self, context: u64) {
        let streams = self.streams.values().filter(|s| s.context == context);
        let over = streams.map(|stream| stream.over).fold(0.0, f64::max);
        self.wait_until(over);
    }

    /// Returns whether the calling thread's time has reached `over`. A thread that asks again and
    /// again gets there.
    pub fn is_past(&mut self, over: f64) -> bool {
        let Some(clock) = &mut self.clock else {
            return true;
        };
        if over <= clock.now() {
            return true;
        }
        // The thread does something else until it asks again.
        let between = (over - clock.now()) / 2.0;
        clock.work(between.max(1.0));
        false
    }

    /// Makes the calling thread at least as late as the threads that recorded the event.
    pub fn see_event(&mut self, event: u64) {
        if let (Some(clock), Some(event)) = (&mut self.clock, self.events.get(&event)) {
            clock.reach(event.touched);
        }
    }

    /// Notes that the calling thread recorded the event.
    pub fn touch_event(&mut self, event: u64) {
        if let (Some(clock), Some(event)) = (&mut self.clock, self.events.get_mut(&event)) {
            event.touched = event.touched.max(clock.now());
        }
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
        if self.clock.is_some() {
            // In virtual time operations run in the order of their starts, whoever waits.
            let targets: Vec<OpId> = targets.into_iter().collect();
            while targets.iter().any(|id| self.queue.is_pending(*id))
                && let Some(id) = self.queue.earliest()
            {
                self.run(id);
            }
            return;
        }
        let needed = self.queue.needed(targets);
        if needed.is_empty() {
            return;
        }
        self.scheduler.begin_wait(&self.queue);
        while let Some(id) = self.scheduler.next_needed(&self.queue, &needed) {
            let over = self.run(id);
            if needed.contains(&id) {
                self.waited = self.waited.max(over);
            }
        }
    }

    /// Makes the host ask without waiting; some of the operations may run. Returns true if none is
    /// pending.
    pub fn query(&mut self, targets: &[OpId]) -> bool {
        self.counters.queries += 1;
        if self.clock.is_some() {
            self.wait(targets.iter().copied());
        }
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
            return self.waited;
        };
        let (handle, stream) = (op.stream, number(op.stream));
        let device = self.device_of(op.context).unwrap_or(0);
        let Task {
            function,
            call,
            planned,
            ..
        } = op.work;
        let placed = match &mut self.clock {
            None => Ok((op.start, op.start + op.work.work.microseconds())),
            Some(clock) => {
                let space = &self.devices[device].space;
                clock.place(&op.work.work, device, op.start, space)
            }
        };
        let mut line = format!(
            "run op={id} device={device} stream={stream} {}",
            op.work.work
        );
        if let (Some(_), Ok((start, over))) = (&self.clock, &placed) {
            line += &format!(" from={start:.3} to={over:.3}");
        }
        self.log.line(line);
        let outcome = match (planned, &placed) {
            (Some(code), _) => Err((code, "fault ordered for this operation".to_owned())),
            (None, Err(no_time)) => Err(no_time.clone()),
            (None, Ok(_)) => self.perform(&op.work.work, id, device),
        };
        let over = placed.map_or(op.start, |(_, over)| over);
        if let Some(stream) = self.streams.get_mut(&handle) {
            stream.over = stream.over.max(over);
        }
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
