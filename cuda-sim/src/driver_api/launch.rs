//! Modules, functions and launches.

use std::ffi::{CString, c_int, c_uint, c_void};

use crate::abi::{In, Out, Text, api};
use crate::code::Code;
use crate::kernel::{Kernel, Launch, Params};
use crate::run::Work;
use crate::sim::{Function, Sim, number};

const MAX_DYNAMIC_SHARED_SIZE_BYTES: c_int = 8;
const DEFAULT_SHARED_LIMIT: c_int = 48 << 10;

/// Loads a module. Its image is ignored: the kernels are those compiled in.
fn load(sim: &mut Sim, module: &Out<u64>, image: *const c_void) -> Result<(), Code> {
    let context = sim.current()?;
    if image.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    let handle = sim.new_handle();
    module.set(handle)?;
    sim.modules.insert(handle, context);
    Ok(())
}

fn shape_is_legal(grid: [u32; 3], block: [u32; 3]) -> bool {
    let threads: u64 = block.iter().map(|n| u64::from(*n)).product();
    grid[0] <= i32::MAX as u32
        && grid[1..].iter().all(|n| *n <= 65_535)
        && block[2] <= 64
        && (1..=1024).contains(&threads)
        && grid.iter().all(|n| *n > 0)
}

/// Copies a kernel's single parameter from the caller's memory, in either of the two ways to pass
/// it.
///
/// # Safety The pointers must be as cuLaunchKernel requires them.
unsafe fn read_params(
    kernel: Kernel,
    params: &In<*const c_void>,
    extra: &In<*const c_void>,
) -> Result<Params, Code> {
    const END: usize = 0;
    const BUFFER_POINTER: usize = 1;
    const BUFFER_SIZE: usize = 2;
    let bytes = kernel.params_size();
    if bytes == 0 {
        // SAFETY: nothing is read.
        return Ok(unsafe { Params::read(std::ptr::null(), 0) });
    }
    let source = match (params.is_null(), extra.is_null()) {
        (false, true) => params.get()?,
        (true, false) => {
            let (mut buffer, mut size, mut at) = (std::ptr::null(), 0, 0);
            loop {
                match extra.at(at)? as usize {
                    END => break,
                    BUFFER_POINTER => buffer = extra.at(at + 1)?,
                    // SAFETY: the entry after BUFFER_SIZE points to a size.
                    BUFFER_SIZE => size = unsafe { extra.at(at + 1)?.cast::<usize>().read() },
                    _ => return Err(Code::INVALID_VALUE),
                }
                at += 2;
            }
            if size < bytes {
                return Err(Code::INVALID_VALUE);
            }
            buffer
        }
        _ => return Err(Code::INVALID_VALUE),
    };
    if source.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: the caller's parameter has the size that the kernel declares.
    Ok(unsafe { Params::read(source, bytes) })
}

api! {
    fn cuModuleLoadData(module: Out<u64>, image: *const c_void) |sim| { load(sim, &module, image) }

    fn cuModuleLoadFatBinary(module: Out<u64>, image: *const c_void) |sim| { load(sim, &module, image) }

    fn cuModuleLoadDataEx(
        module: Out<u64>,
        image: *const c_void,
        _count: c_uint,
        _options: *mut c_int,
        _values: *mut *mut c_void,
    ) |sim| { load(sim, &module, image) }

    fn cuModuleUnload(module: u64) |sim| {
        sim.ready()?;
        let context = *sim.modules.get(&module).ok_or(Code::INVALID_HANDLE)?;
        let pending = sim.pending_of(context);
        if !pending.is_empty() {
            sim.counters.implicit_synchronizes += 1;
            sim.wait(pending);
        }
        sim.modules.remove(&module);
        sim.functions.retain(|_, function| function.module != module);
        sim.usable(context)
    }

    fn cuModuleGetFunction(out: Out<u64>, module: u64, name: Text) |sim| {
        sim.ready()?;
        let context = *sim.modules.get(&module).ok_or(Code::INVALID_HANDLE)?;
        sim.usable(context)?;
        let name = name.get()?;
        let wanted = CString::new(name.clone()).map_err(|_| Code::NOT_FOUND)?;
        let extra = sim.extra_kernels.iter().copied().find(|kernel| kernel.name() == name);
        let Some(kernel) = extra.or_else(|| Kernel::find(&wanted)) else {
            sim.find(format!("cuModuleGetFunction: there is no emulated kernel {name}"));
            return Err(Code::NOT_FOUND);
        };
        let known = sim.functions.iter().find(|(_, f)| f.module == module && f.kernel.name() == name);
        let handle = match known {
            Some((handle, _)) => *handle,
            None => {
                let max_dynamic_shared = DEFAULT_SHARED_LIMIT - kernel.static_shared() as c_int;
                let handle = sim.new_handle();
                sim.functions.insert(handle, Function { module, kernel, max_dynamic_shared });
                handle
            }
        };
        sim.note(format_args!("{name}"));
        out.set(handle)
    }

    fn cuFuncSetAttribute(function: u64, attribute: c_int, value: c_int) |sim| {
        let limit = sim.shared_limit();
        sim.current()?;
        let function = sim.functions.get_mut(&function).ok_or(Code::INVALID_HANDLE)?;
        match attribute {
            MAX_DYNAMIC_SHARED_SIZE_BYTES => {
                if value < 0 || value > limit - function.kernel.static_shared() as c_int {
                    return Err(Code::INVALID_VALUE);
                }
                function.max_dynamic_shared = value;
                Ok(())
            }
            // PREFERRED_SHARED_MEMORY_CARVEOUT and cluster sizes are only hints here.
            9..=15 => Ok(()),
            _ => Err(Code::INVALID_VALUE),
        }
    }

    fn cuFuncGetAttribute(value: Out<c_int>, attribute: c_int, function: u64) |sim| {
        sim.current()?;
        let architecture = sim.config.architecture as c_int;
        let function = sim.functions.get(&function).ok_or(Code::INVALID_HANDLE)?;
        value.set(match attribute {
            0 => 1024,                                        // MAX_THREADS_PER_BLOCK
            1 => function.kernel.static_shared() as c_int,    // SHARED_SIZE_BYTES
            2 | 3 | 7 | 9..=15 => 0,                          // constants, local memory, hints
            4 => 64,                                          // NUM_REGS: an emulated kernel has none
            5 | 6 => architecture,                            // PTX_VERSION, BINARY_VERSION
            MAX_DYNAMIC_SHARED_SIZE_BYTES => function.max_dynamic_shared,
            _ => return Err(Code::INVALID_VALUE),
        })
    }

    fn cuLaunchKernel(
        function: u64,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        shared: c_uint,
        stream: u64,
        params: In<*const c_void>,
        extra: In<*const c_void>,
    ) |sim| {
        let current = sim.current()?;
        let stream = sim.stream_of(stream)?;
        let function = sim.functions.get(&function).ok_or(Code::INVALID_HANDLE)?;
        let of_module = sim.modules.get(&function.module).copied();
        let of_stream = sim.streams.get(&stream).map(|stream| stream.context);
        let kernel = function.kernel;
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        if of_module != Some(current) || of_stream != Some(current) {
            let name = kernel.name();
            sim.find(format!("cuLaunchKernel: {name}'s module, its stream and the thread have different contexts"));
            return Err(Code::INVALID_HANDLE);
        }
        let shared_is_legal = i64::from(shared) <= i64::from(function.max_dynamic_shared);
        if !shape_is_legal(grid, block) || !shared_is_legal {
            let text = format!("{}: grid {grid:?}, block {block:?}, {shared} bytes of shared memory", kernel.name());
            sim.find(format!("cuLaunchKernel: illegal launch of {text}"));
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: by the API's contract the pointers are as `read_params` requires them.
        let params = unsafe { read_params(kernel, &params, &extra) }?;
        sim.counters.launches += 1;
        let (name, on) = (kernel.name(), number(stream));
        sim.note(format_args!("{name} stream={on} grid={grid:?} block={block:?}"));
        let launch = Launch { kernel, params, grid, block, dynamic_shared: shared };
        sim.submit(stream, None, Work::Kernel(Box::new(launch)))?;
        Ok(())
    }
}
