//! Events.

use std::ffi::c_uint;

use crate::abi::{Out, api};
use crate::code::Code;
use crate::run::Work;
use crate::sim::{Event, Sim, number};

const BLOCKING_SYNC: c_uint = 1;
const DISABLE_TIMING: c_uint = 2;
const INTERPROCESS: c_uint = 4;

fn record(sim: &mut Sim, event: u64, stream: u64) -> Result<(), Code> {
    let id = sim.stream_of(stream)?;
    let of_event = sim.event_of(event)?.context;
    if sim
        .streams
        .get(&id)
        .is_none_or(|stream| stream.context != of_event)
    {
        sim.find("cuEventRecord: event and stream are of different contexts".to_owned());
        return Err(Code::INVALID_HANDLE);
    }
    sim.counters.event_records += 1;
    sim.note(format_args!(
        "stream={} event={}",
        number(id),
        number(event)
    ));
    let op = sim.submit(id, None, Work::Record { event })?;
    if let Some(event) = sim.events.get_mut(&event) {
        event.record = Some(op);
        event.reached = None;
    }
    sim.touch_event(event);
    Ok(())
}

fn elapsed(sim: &Sim, start: u64, end: u64) -> Result<f32, Code> {
    let (start, end) = (sim.event_of(start)?, sim.event_of(end)?);
    let measures = |event: &Event| event.timing && event.record.is_some();
    if start.context != end.context || !measures(start) || !measures(end) {
        return Err(Code::INVALID_HANDLE);
    }
    let (Some(from), Some(to)) = (start.reached, end.reached) else {
        return Err(Code::NOT_READY);
    };
    Ok(((to - from) / 1000.0) as f32)
}

api! {
    fn cuEventCreate(event: Out<u64>, flags: c_uint) |sim| {
        let context = sim.current()?;
        // Interprocess events must disable timing; beyond this check they are not simulated.
        let interprocess_with_times = flags & INTERPROCESS != 0 && flags & DISABLE_TIMING == 0;
        if flags & !(BLOCKING_SYNC | DISABLE_TIMING | INTERPROCESS) != 0 || interprocess_with_times {
            return Err(Code::INVALID_VALUE);
        }
        let handle = sim.new_handle();
        event.set(handle)?;
        let timing = flags & DISABLE_TIMING == 0;
        sim.events.insert(handle, Event { context, timing, record: None, reached: None, touched: 0.0 });
        Ok(())
    }

    fn cuEventRecord(event: u64, stream: u64) |sim| { record(sim, event, stream) }

    fn cuEventRecordWithFlags(event: u64, stream: u64, flags: c_uint) |sim| {
        if flags != 0 {
            return Err(Code(801));
        }
        record(sim, event, stream)
    }

    fn cuEventQuery(event: u64) |sim| {
        let record = sim.event_of(event)?.record;
        sim.see_event(event);
        let done = sim.query(record.as_slice());
        let over = sim.event_of(event)?.reached.unwrap_or(0.0);
        let done = done && sim.is_past(over);
        sim.event_of(event)?;
        if done { Ok(()) } else { Err(Code::NOT_READY) }
    }

    fn cuEventSynchronize(event: u64) |sim| {
        let record = sim.event_of(event)?.record;
        sim.counters.event_synchronizes += 1;
        sim.see_event(event);
        sim.wait(record);
        let over = sim.event_of(event)?.reached;
        sim.wait_until(over.unwrap_or(0.0));
        sim.event_of(event).map(|_| ())
    }

    fn cuEventElapsedTime(milliseconds: Out<f32>, start: u64, end: u64) |sim| {
        milliseconds.set(elapsed(sim, start, end)?)
    }

    fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: u64, end: u64) |sim| {
        milliseconds.set(elapsed(sim, start, end)?)
    }

    /// Destroys the event; operations that wait for its record still wait.
    fn cuEventDestroy_v2(event: u64) |sim| {
        sim.ready()?;
        let gone = sim.events.remove(&event).ok_or(Code::INVALID_HANDLE)?;
        sim.usable(gone.context)
    }
}
