//! Streams.

use std::ffi::{c_int, c_uint};

use crate::abi::{Out, api};
use crate::code::Code;
use crate::run::Work;
use crate::sim::{Sim, StreamKind, number};

/// The numerically smallest, greatest priority of a stream.
pub(super) const GREATEST_PRIORITY: c_int = -5;
const NON_BLOCKING: c_uint = 1;

fn create(sim: &mut Sim, out: &Out<u64>, flags: c_uint, priority: c_int) -> Result<(), Code> {
    let context = sim.current()?;
    if flags & !NON_BLOCKING != 0 || out.address().is_null() {
        return Err(Code::INVALID_VALUE);
    }
    let kind = if flags & NON_BLOCKING != 0 {
        StreamKind::NonBlocking
    } else {
        StreamKind::Blocking
    };
    // Other priorities are clamped, as in the driver.
    let handle = sim.new_stream(context, kind, priority.clamp(GREATEST_PRIORITY, 0));
    sim.note(format_args!("stream={} flags={flags}", number(handle)));
    out.set(handle)
}

api! {
    fn cuStreamCreate(stream: Out<u64>, flags: c_uint) |sim| { create(sim, &stream, flags, 0) }

    fn cuStreamCreateWithPriority(stream: Out<u64>, flags: c_uint, priority: c_int) |sim| {
        create(sim, &stream, flags, priority)
    }

    /// Returns at once; operations submitted to the stream still run.
    fn cuStreamDestroy_v2(stream: u64) |sim| {
        sim.ready()?;
        let entry = sim.streams.get(&stream).ok_or(Code::INVALID_HANDLE)?;
        if entry.kind == StreamKind::Null {
            return Err(Code::INVALID_HANDLE);
        }
        let context = entry.context;
        sim.forget_stream(stream)?;
        sim.usable(context)
    }

    fn cuStreamSynchronize(stream: u64) |sim| {
        let id = sim.stream_of(stream)?;
        sim.counters.stream_synchronizes += 1;
        sim.wait(sim.tails(id));
        sim.wait_for_stream(id);
        sim.stream_of(stream).map(|_| ())
    }

    fn cuStreamQuery(stream: u64) |sim| {
        let id = sim.stream_of(stream)?;
        let idle = sim.query(&sim.tails(id));
        let idle = idle && sim.is_past(sim.stream_over(id));
        sim.stream_of(stream)?;
        if idle { Ok(()) } else { Err(Code::NOT_READY) }
    }

    /// Makes the stream wait for the event's latest record at the time of this call; an event that
    /// was never recorded is complete.
    fn cuStreamWaitEvent(stream: u64, event: u64, _flags: c_uint) |sim| {
        let id = sim.stream_of(stream)?;
        let record = sim.event_of(event)?.record;
        sim.counters.event_waits += 1;
        sim.note(format_args!("stream={} event={}", number(id), number(event)));
        sim.see_event(event);
        if let Some(record) = record {
            let reached = sim.event_of(event)?.reached.unwrap_or(0.0);
            sim.submit_after(id, Some(record), reached, Work::Wait)?;
        }
        Ok(())
    }

    fn cuStreamGetFlags(stream: u64, flags: Out<c_uint>) |sim| {
        let id = sim.stream_of(stream)?;
        let blocking = sim.streams.get(&id).is_none_or(|stream| stream.kind != StreamKind::NonBlocking);
        flags.set(if blocking { 0 } else { NON_BLOCKING })
    }

    fn cuStreamGetPriority(stream: u64, priority: Out<c_int>) |sim| {
        let id = sim.stream_of(stream)?;
        priority.set(sim.streams.get(&id).map_or(0, |stream| stream.priority))
    }

    fn cuStreamGetCtx(stream: u64, context: Out<u64>) |sim| {
        let id = sim.stream_of(stream)?;
        context.set(sim.streams.get(&id).ok_or(Code::INVALID_HANDLE)?.context)
    }
}
