//! The `cu*` symbols. Each function checks its arguments as the driver does and leaves the work to
//! `sim`.
// The names are those of CUDA.
#![allow(non_snake_case)]

mod context;
mod device;
mod event;
mod launch;
mod memory;
mod stream;
mod tensor_map;

pub use context::*;
pub use device::*;
pub use event::*;
pub use launch::*;
pub use memory::*;
pub use stream::*;
pub use tensor_map::*;
