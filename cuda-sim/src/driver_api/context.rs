//! Primary contexts, and each thread's stack of them.

use std::ffi::{c_int, c_uint};

use crate::abi::{Out, api};
use crate::call::with_contexts;
use crate::code::Code;

api! {
    fn cuDevicePrimaryCtxRetain(context: Out<u64>, device: c_int) |sim| {
        let index = sim.device_index(device)?;
        let handle = match sim.devices[index].primary {
            Some(handle) => handle,
            None => sim.new_context(index),
        };
        context.set(handle)?;
        sim.devices[index].primary = Some(handle);
        sim.devices[index].retained += 1;
        Ok(())
    }

    fn cuDevicePrimaryCtxRelease_v2(device: c_int) |sim| {
        let index = sim.device_index(device)?;
        let entry = &mut sim.devices[index];
        entry.retained = entry.retained.checked_sub(1).ok_or(Code::INVALID_CONTEXT)?;
        if entry.retained == 0
            && let Some(handle) = entry.primary.take()
        {
            sim.destroy_context(handle);
        }
        Ok(())
    }

    fn cuDevicePrimaryCtxReset_v2(device: c_int) |sim| {
        let index = sim.device_index(device)?;
        if let Some(handle) = sim.devices[index].primary.take() {
            sim.devices[index].retained = 0;
            sim.destroy_context(handle);
        }
        Ok(())
    }

    fn cuDevicePrimaryCtxGetState(device: c_int, flags: Out<c_uint>, active: Out<c_int>) |sim| {
        let index = sim.device_index(device)?;
        flags.set(0)?;
        active.set(c_int::from(sim.devices[index].primary.is_some()))
    }

    fn cuDevicePrimaryCtxSetFlags_v2(device: c_int, _flags: c_uint) |sim| { sim.device_index(device).map(|_| ()) }

    fn cuCtxSetCurrent(context: u64) |sim| {
        sim.ready()?;
        if context != 0 && !sim.contexts.contains_key(&context) {
            return Err(Code::INVALID_CONTEXT);
        }
        with_contexts(|stack| {
            stack.pop();
            if context != 0 {
                stack.push(context);
            }
        });
        Ok(())
    }

    fn cuCtxGetCurrent(context: Out<u64>) |sim| {
        sim.ready()?;
        context.set(with_contexts(|stack| stack.last().copied()).unwrap_or(0))
    }

    fn cuCtxPushCurrent_v2(context: u64) |sim| {
        sim.ready()?;
        if !sim.contexts.contains_key(&context) {
            return Err(Code::INVALID_CONTEXT);
        }
        with_contexts(|stack| stack.push(context));
        Ok(())
    }

    fn cuCtxPopCurrent_v2(context: Out<u64>) |sim| {
        sim.ready()?;
        let popped = with_contexts(Vec::pop).ok_or(Code::INVALID_CONTEXT)?;
        context.set_if_wanted(popped);
        Ok(())
    }

    fn cuCtxGetDevice(device: Out<c_int>) |sim| {
        sim.ready()?;
        let context = with_contexts(|stack| stack.last().copied()).unwrap_or(0);
        // There are at most 16 devices, so the cast is exact.
        device.set(sim.device_of(context)? as c_int)
    }

    fn cuCtxSynchronize() |sim| {
        let context = sim.current()?;
        sim.counters.context_synchronizes += 1;
        sim.wait(sim.pending_of(context));
        sim.wait_for_context(context);
        sim.usable(context)
    }

    fn cuCtxGetFlags(flags: Out<c_uint>) |sim| {
        sim.current()?;
        flags.set(0)
    }

    fn cuCtxGetApiVersion(context: u64, version: Out<c_uint>) |sim| {
        let handle = if context == 0 { sim.current()? } else { context };
        sim.usable(handle)?;
        version.set(3020)
    }

    fn cuCtxGetStreamPriorityRange(least: Out<c_int>, greatest: Out<c_int>) |sim| {
        sim.current()?;
        least.set_if_wanted(0);
        greatest.set_if_wanted(super::stream::GREATEST_PRIORITY);
        Ok(())
    }
}
