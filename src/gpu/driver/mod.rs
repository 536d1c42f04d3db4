//! The CUDA driver: devices, contexts, streams, fences, memory, modules.
//!
//! The only room that touches cust. cust gives the types and, through the trampolines it links
//! (`cuda-shim/`), the calls; the calls are declared again in `ffi`, with `i32` for the driver's
//! answer: cust has a closed enum of CUDA 11.4's codes there, and to receive another one would be
//! undefined behaviour. Its `Stream::new` also drops NON_BLOCKING, and its `wait_event` consumes
//! the event.
//!
//! Without a driver everything links and starts, and [`init`] says that there is none.

mod context;
mod error;
mod fence;
mod ffi;
mod library;
mod memory;
mod module;
mod stream;
mod tensor_map;

pub use context::{Context, DeviceInfo, devices, driver_version, init};
pub use error::{At, DriverError, StreamName};
pub use fence::Fence;
pub use library::{Library, library};
pub use memory::{Arena, PinnedBuffer, Region};
pub use module::{Function, Module};
pub use stream::{Busy, Observe, Operation, Stream};
pub use tensor_map::{Element, Swizzle, Tensor, TensorMap};
