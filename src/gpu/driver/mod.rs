//! Wraps the CUDA driver: devices, contexts, streams, fences, memory and kernel modules.
//!
//! No other module touches the crate cust. cust supplies the types and, through the trampolines
//! that it links (`trampolines.c`), the driver's functions. `ffi` declares these functions again, with
//! `i32` as the type of the driver's result codes: cust returns a closed enum of the codes of CUDA
//! 11.4, and to receive a code that the enum lacks would be undefined behaviour. Two of cust's
//! wrappers cannot be used either: `Stream::new` drops the flag NON_BLOCKING, and `wait_event`
//! consumes the event.
//!
//! Without a driver the program still links and starts, and [`init`] reports that there is no
//! driver.

mod context;
mod copying;
mod error;
mod fence;
mod ffi;
mod library;
mod memory;
mod module;
mod stream;
mod tensor_map;

pub use context::{Context, DeviceInfo, devices, driver_version, init};
pub use copying::copy_rates;
pub use error::{At, DriverError, StreamName};
pub use fence::Fence;
pub use library::{Library, choose, library};
pub use memory::{Arena, PinnedBuffer, Region};
pub use module::{Function, Module};
pub use stream::{Busy, Observe, Operation, Stream};
pub use tensor_map::{Element, PackedRows, Swizzle, Tensor, TensorMap};
