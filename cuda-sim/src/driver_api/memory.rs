//! Device memory, pinned memory, copies and fills. How a copy synchronizes with the host follows
//! the driver's "API synchronization behavior"; where the document leaves a choice, the simulator
//! takes the reading that is stricter for the program.

use std::ffi::{c_int, c_uint, c_void};

use crate::abi::{Out, api};
use crate::code::Code;
use crate::memory::{Place, pages};
use crate::run::{Direction, Source, Work};
use crate::sim::{Sim, number};

const NULL_STREAM: u64 = 0;

/// Makes the host wait inside a call whose name does not mention a wait. `stream` is an id, also
/// for a NULL stream.
fn wait_inside(sim: &mut Sim, stream: u64) -> Result<(), Code> {
    sim.counters.implicit_synchronizes += 1;
    sim.wait(sim.tails(stream));
    sim.wait_for_stream(stream);
    sim.stream_of(stream).map(|_| ())
}

/// Copies to a device. A pinned source is read when the copy runs. A pageable source is staged: it
/// is read after the stream is idle and before the call returns; the copy to the device then still
/// follows.
fn to_device(
    sim: &mut Sim,
    target: u64,
    source: usize,
    bytes: usize,
    stream: u64,
    blocks: bool,
) -> Result<(), Code> {
    let stream = sim.stream_of(stream)?;
    if bytes == 0 {
        return Ok(());
    }
    let target = target as usize;
    sim.device_with(target, bytes)?;
    let pinned = sim.is_pinned(source, bytes)?;
    sim.counters.copies_to_device += 1;
    sim.counters.bytes_to_device += bytes as u64;
    sim.note(format_args!(
        "stream={} bytes={bytes} pinned={pinned}",
        number(stream)
    ));
    let source = if pinned {
        Source::Address(source)
    } else {
        if source == 0 {
            return Err(Code::INVALID_VALUE);
        }
        sim.counters.pageable_copies += 1;
        sim.counters.pageable_bytes += bytes as u64;
        wait_inside(sim, stream)?;
        // SAFETY: by the API's contract the caller's source is readable for `bytes` bytes.
        Source::Staged(unsafe { pages::read(source, bytes) })
    };
    sim.submit(
        stream,
        None,
        Work::Copy {
            direction: Direction::ToDevice,
            source,
            target,
            bytes,
            pinned,
        },
    )?;
    // In virtual time the copy out of the staging memory is also waited for, as it is where the
    // memory is large.
    if (blocks && pinned) || (!pinned && sim.clock.is_some()) {
        wait_inside(sim, stream)
    } else {
        Ok(())
    }
}

/// Copies to the host. A copy to pinned memory is asynchronous, if the call allows it; a copy to
/// pageable memory never is.
fn to_host(
    sim: &mut Sim,
    target: usize,
    source: u64,
    bytes: usize,
    stream: u64,
    blocks: bool,
) -> Result<(), Code> {
    let stream = sim.stream_of(stream)?;
    if bytes == 0 {
        return Ok(());
    }
    let source = source as usize;
    sim.device_with(source, bytes)?;
    let pinned = sim.is_pinned(target, bytes)?;
    sim.counters.copies_to_host += 1;
    sim.counters.bytes_to_host += bytes as u64;
    sim.note(format_args!(
        "stream={} bytes={bytes} pinned={pinned}",
        number(stream)
    ));
    if !pinned {
        if target == 0 {
            return Err(Code::INVALID_VALUE);
        }
        sim.counters.pageable_copies += 1;
        sim.counters.pageable_bytes += bytes as u64;
    }
    let source = Source::Address(source);
    sim.submit(
        stream,
        None,
        Work::Copy {
            direction: Direction::ToHost,
            source,
            target,
            bytes,
            pinned,
        },
    )?;
    if blocks || !pinned {
        wait_inside(sim, stream)
    } else {
        Ok(())
    }
}

/// Copies within device memory. The host never waits, whichever function calls it.
fn on_device(
    sim: &mut Sim,
    target: u64,
    source: u64,
    bytes: usize,
    stream: u64,
) -> Result<(), Code> {
    let stream = sim.stream_of(stream)?;
    if bytes == 0 {
        return Ok(());
    }
    let (target, source) = (target as usize, source as usize);
    sim.device_with(target, bytes)?;
    sim.device_with(source, bytes)?;
    sim.counters.copies_on_device += 1;
    sim.counters.bytes_on_device += bytes as u64;
    sim.note(format_args!("stream={} bytes={bytes}", number(stream)));
    let source = Source::Address(source);
    sim.submit(
        stream,
        None,
        Work::Copy {
            direction: Direction::OnDevice,
            source,
            target,
            bytes,
            pinned: false,
        },
    )?;
    Ok(())
}

fn fill(sim: &mut Sim, target: u64, pattern: &[u8], count: usize, stream: u64) -> Result<(), Code> {
    let stream = sim.stream_of(stream)?;
    let bytes = count
        .checked_mul(pattern.len())
        .ok_or(Code::INVALID_VALUE)?;
    if !target.is_multiple_of(pattern.len() as u64) {
        return Err(Code::INVALID_VALUE);
    }
    if bytes == 0 {
        return Ok(());
    }
    sim.device_with(target as usize, bytes)?;
    sim.counters.memsets += 1;
    sim.note(format_args!("stream={} bytes={bytes}", number(stream)));
    sim.submit(
        stream,
        None,
        Work::Fill {
            target: target as usize,
            pattern: pattern.to_vec(),
            bytes,
        },
    )?;
    Ok(())
}

fn allocate_host(sim: &mut Sim, out: &Out<*mut c_void>, bytes: usize) -> Result<(), Code> {
    sim.current()?;
    if out.address().is_null() {
        return Err(Code::INVALID_VALUE);
    }
    let address = sim.host.allocate(bytes)?;
    sim.counters.host_allocations += 1;
    if let Some(clock) = &mut sim.clock {
        clock.host_allocated(address);
    }
    sim.note(format_args!("bytes={bytes} at={address:#x}"));
    out.set(address as *mut c_void)
}

/// Fails if no context is current. A lost context is accepted, because functions that release
/// memory work on it, too.
fn a_context_is_current(sim: &Sim) -> Result<(), Code> {
    match sim.current() {
        Err(Code::INVALID_CONTEXT) => Err(Code::INVALID_CONTEXT),
        _ => Ok(()),
    }
}

/// Waits for all work of all contexts that may use the memory.
fn wait_for_all(sim: &mut Sim) {
    let pending: Vec<_> = sim.queue.pending().map(|op| op.id).collect();
    if !pending.is_empty() {
        sim.counters.implicit_synchronizes += 1;
        sim.wait(pending);
    }
    let contexts: Vec<u64> = sim.contexts.keys().copied().collect();
    for context in contexts {
        sim.wait_for_context(context);
    }
}

api! {
    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) |sim| {
        let context = sim.current()?;
        let space = &sim.devices[sim.device_of(context)?].space;
        free.set(space.capacity() - space.used())?;
        total.set(space.capacity())
    }

    fn cuMemAlloc_v2(out: Out<u64>, bytes: usize) |sim| {
        let context = sim.current()?;
        let device = sim.device_of(context)?;
        if out.address().is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let address = sim.devices[device].space.allocate(bytes)?;
        sim.counters.allocations += 1;
        let used = sim.devices.iter().map(|device| device.space.used() as u64).sum();
        sim.counters.peak_device_bytes = sim.counters.peak_device_bytes.max(used);
        sim.note(format_args!("device={device} bytes={bytes} at={address:#x}"));
        out.set(address as u64)
    }

    /// Frees memory after a wait for the device. On a lost context the memory is freed as well, and
    /// the context's error is returned.
    fn cuMemFree_v2(address: u64) |sim| {
        sim.ready()?;
        if address == 0 {
            return Ok(());
        }
        a_context_is_current(sim)?;
        let found = sim.devices.iter().position(|d| d.space.live().any(|(start, _)| start as u64 == address));
        let Some(device) = found else {
            sim.find(format!("cuMemFree: {address:#x} is no allocation, or freed already"));
            return Err(Code::INVALID_VALUE);
        };
        // An allocation is live only as long as its device's context.
        let context = sim.devices[device].primary.ok_or(Code::INVALID_CONTEXT)?;
        let pending = sim.pending_of(context);
        if !pending.is_empty() {
            sim.counters.frees_while_busy += 1;
            sim.counters.implicit_synchronizes += 1;
            sim.wait(pending);
        }
        sim.wait_for_context(context);
        let (bytes, damage) = sim.devices[device].space.free(address as usize)?;
        sim.counters.frees += 1;
        sim.note(format_args!("device={device} bytes={bytes} at={address:#x}"));
        if let Some(damage) = damage {
            sim.find(format!("cuMemFree: something {damage}"));
        }
        sim.usable(context)
    }

    fn cuMemHostAlloc(out: Out<*mut c_void>, bytes: usize, flags: c_uint) |sim| {
        const PORTABLE_MAPPED_WRITE_COMBINED: c_uint = 7;
        if flags & !PORTABLE_MAPPED_WRITE_COMBINED != 0 {
            return Err(Code::INVALID_VALUE);
        }
        allocate_host(sim, &out, bytes)
    }

    fn cuMemAllocHost_v2(out: Out<*mut c_void>, bytes: usize) |sim| { allocate_host(sim, &out, bytes) }

    fn cuMemFreeHost(address: usize) |sim| {
        sim.ready()?;
        a_context_is_current(sim)?;
        if !sim.host.live().any(|(start, _)| start == address) {
            sim.find(format!("cuMemFreeHost: {address:#x} is no pinned memory, or freed already"));
            return Err(Code::INVALID_VALUE);
        }
        wait_for_all(sim);
        let (_, damage) = sim.host.free(address)?;
        sim.counters.host_frees += 1;
        if let Some(damage) = damage {
            sim.find(format!("cuMemFreeHost: something {damage}"));
        }
        sim.current().map(|_| ())
    }

    fn cuMemHostRegister_v2(address: usize, bytes: usize, _flags: c_uint) |sim| {
        sim.current()?;
        let end = address.checked_add(bytes).ok_or(Code::INVALID_VALUE)?;
        if address == 0 || bytes == 0 {
            return Err(Code::INVALID_VALUE);
        }
        let below = sim.registered.range(..end).next_back();
        if below.is_some_and(|(start, length)| start + length > address) {
            return Err(Code::HOST_MEMORY_ALREADY_REGISTERED);
        }
        sim.registered.insert(address, bytes);
        Ok(())
    }

    fn cuMemHostUnregister(address: usize) |sim| {
        sim.ready()?;
        if !sim.registered.contains_key(&address) {
            return Err(Code::HOST_MEMORY_NOT_REGISTERED);
        }
        wait_for_all(sim);
        sim.registered.remove(&address);
        sim.current().map(|_| ())
    }

    fn cuMemHostGetDevicePointer_v2(out: Out<u64>, address: usize, _flags: c_uint) |sim| {
        sim.current()?;
        if !sim.is_pinned(address, 1)? {
            return Err(Code::INVALID_VALUE);
        }
        out.set(address as u64)
    }

    fn cuMemHostGetFlags(flags: Out<c_uint>, address: usize) |sim| {
        sim.current()?;
        if !sim.is_pinned(address, 1)? {
            return Err(Code::INVALID_VALUE);
        }
        flags.set(0)
    }

    /// Supports CU_POINTER_ATTRIBUTE_MEMORY_TYPE, DEVICE_POINTER, HOST_POINTER and DEVICE_ORDINAL.
    fn cuPointerGetAttribute(data: *mut c_void, attribute: c_int, address: u64) |sim| {
        sim.ready()?;
        let place = address as usize;
        let device = sim.devices.iter().position(|device| device.space.place(place, 1) == Place::Inside);
        let pinned = device.is_none() && sim.is_pinned(place, 1)?;
        if data.is_null() || (device.is_none() && !pinned) {
            return Err(Code::INVALID_VALUE);
        }
        const HOST: c_uint = 1;
        const DEVICE: c_uint = 2;
        // SAFETY: by the API's contract `data` has enough bytes for the attribute's type, which is
        // the type written here.
        unsafe {
            match attribute {
                2 => data.cast::<c_uint>().write(if pinned { HOST } else { DEVICE }),
                3 => data.cast::<u64>().write(address),
                4 if pinned => data.cast::<u64>().write(address),
                9 => data.cast::<c_int>().write(device.unwrap_or(0) as c_int),
                _ => return Err(Code::INVALID_VALUE),
            }
        }
        Ok(())
    }

    fn cuMemcpyHtoDAsync_v2(target: u64, source: usize, bytes: usize, stream: u64) |sim| {
        to_device(sim, target, source, bytes, stream, false)
    }

    fn cuMemcpyHtoD_v2(target: u64, source: usize, bytes: usize) |sim| {
        to_device(sim, target, source, bytes, NULL_STREAM, true)
    }

    fn cuMemcpyDtoHAsync_v2(target: usize, source: u64, bytes: usize, stream: u64) |sim| {
        to_host(sim, target, source, bytes, stream, false)
    }

    fn cuMemcpyDtoH_v2(target: usize, source: u64, bytes: usize) |sim| {
        to_host(sim, target, source, bytes, NULL_STREAM, true)
    }

    fn cuMemcpyDtoDAsync_v2(target: u64, source: u64, bytes: usize, stream: u64) |sim| {
        on_device(sim, target, source, bytes, stream)
    }

    fn cuMemcpyDtoD_v2(target: u64, source: u64, bytes: usize) |sim| {
        on_device(sim, target, source, bytes, NULL_STREAM)
    }

    fn cuMemsetD8_v2(target: u64, value: u8, count: usize) |sim| { fill(sim, target, &[value], count, NULL_STREAM) }

    fn cuMemsetD8Async(target: u64, value: u8, count: usize, stream: u64) |sim| {
        fill(sim, target, &[value], count, stream)
    }

    fn cuMemsetD16_v2(target: u64, value: u16, count: usize) |sim| {
        fill(sim, target, &value.to_le_bytes(), count, NULL_STREAM)
    }

    fn cuMemsetD16Async(target: u64, value: u16, count: usize, stream: u64) |sim| {
        fill(sim, target, &value.to_le_bytes(), count, stream)
    }

    fn cuMemsetD32_v2(target: u64, value: u32, count: usize) |sim| {
        fill(sim, target, &value.to_le_bytes(), count, NULL_STREAM)
    }

    fn cuMemsetD32Async(target: u64, value: u32, count: usize, stream: u64) |sim| {
        fill(sim, target, &value.to_le_bytes(), count, stream)
    }
}
