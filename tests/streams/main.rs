//! Streams, and the boundary to the driver, on the simulated driver alone: it counts calls and
//! waits, tries many schedules, and fails when it is told to.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)] // test helpers may panic, as tests may

mod driver;
mod faults;
mod loader;
mod overlap;
mod timeline;

#[path = "../support"]
mod support {
    #[allow(dead_code)] // only the simulator is used here
    pub mod cuda;
    pub mod stream;
}
