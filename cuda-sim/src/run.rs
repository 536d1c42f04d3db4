//! The execution of operations.

use std::fmt;

use crate::code::Code;
use crate::kernel::Launch;
use crate::matmul::Product;
use crate::memory::{Place, pages};
use crate::sim::{Sim, number};

/// The source of a copy's bytes.
pub enum Source {
    /// Memory that is read when the copy runs.
    Address(usize),
    /// Pageable memory, which was read when the copy was submitted.
    Staged(Vec<u8>),
}

/// The direction of a copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From host memory to a device.
    ToDevice,
    /// From a device to host memory.
    ToHost,
    /// Within device memory.
    OnDevice,
}

/// The work of an operation.
pub enum Work {
    /// Copies bytes.
    Copy {
        /// The direction.
        direction: Direction,
        /// The source.
        source: Source,
        /// The address of the target.
        target: usize,
        /// The number of bytes.
        bytes: usize,
        /// Whether the host's side is pinned memory.
        pinned: bool,
    },
    /// Fills memory with a pattern.
    Fill {
        /// The address of the target.
        target: usize,
        /// The pattern.
        pattern: Vec<u8>,
        /// The number of bytes.
        bytes: usize,
    },
    /// Runs a kernel.
    Kernel(Box<Launch>),
    /// Computes a product of cuBLASLt.
    Matmul(Box<Product>),
    /// Records an event.
    Record {
        /// The handle of the event.
        event: u64,
    },
    /// Does nothing; only its place in the order counts.
    Wait,
}

impl Work {
    /// Returns a duration for events to measure. Only its order of magnitude is realistic.
    pub fn microseconds(&self) -> f64 {
        match self {
            Self::Copy {
                direction: Direction::OnDevice,
                bytes,
                ..
            } => 3.0 + *bytes as f64 / 1_000_000.0,
            Self::Copy { bytes, .. } => 8.0 + *bytes as f64 / 25_000.0,
            Self::Fill { bytes, .. } => 3.0 + *bytes as f64 / 2_000_000.0,
            Self::Kernel(launch) => Self::guess(launch),
            Self::Matmul(product) => {
                (5.0 + product.multiplications() as f64 / 200e6) * product.slowness
            }
            Self::Record { .. } | Self::Wait => 0.0,
        }
    }

    /// Returns the microseconds of a kernel of which nothing is known but its number of blocks.
    pub fn guess(launch: &Launch) -> f64 {
        4.0 + launch.blocks() as f64 / 100.0
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Copy {
                direction,
                target,
                bytes,
                ..
            } => write!(f, "copy {direction:?} {bytes} bytes to {target:#x}"),
            Self::Fill { target, bytes, .. } => write!(f, "fill {bytes} bytes at {target:#x}"),
            Self::Kernel(launch) => write!(f, "kernel {}", launch.kernel.name()),
            Self::Matmul(product) => write!(f, "matmul {product}"),
            Self::Record { event } => write!(f, "record event={}", number(*event)),
            Self::Wait => f.write_str("wait"),
        }
    }
}

/// The result of an operation. An error holds the code with which its context is lost, and the
/// reason.
pub type Outcome = Result<(), (Code, String)>;

impl Sim {
    /// Runs the work of operation `id` on a device.
    pub fn perform(&mut self, work: &Work, id: u64, device: usize) -> Outcome {
        if self.clock.as_ref().is_some_and(|clock| !clock.values) {
            return self.perform_hollow(work);
        }
        match work {
            Work::Record { .. } | Work::Wait => Ok(()),
            Work::Copy {
                direction,
                source,
                target,
                bytes,
                pinned: _,
            } => {
                if *direction != Direction::ToHost {
                    self.still_live(*target, *bytes)?;
                }
                match source {
                    Source::Staged(data) => {
                        // SAFETY: the target was just found live, and its size was checked.
                        unsafe { pages::write(*target, data) };
                    }
                    Source::Address(source) => {
                        if *direction != Direction::ToDevice {
                            self.still_live(*source, *bytes)?;
                        }
                        // SAFETY: the device side was just found live. The host side is pinned
                        // memory, which cannot be freed under a pending copy (cuMemFreeHost waits),
                        // or memory of a caller who is waiting for this copy.
                        unsafe { pages::copy(*source, *target, *bytes) };
                    }
                }
                Ok(())
            }
            Work::Fill {
                target,
                pattern,
                bytes,
            } => {
                self.still_live(*target, *bytes)?;
                // A multiple of every pattern's size.
                const PART: usize = 64 << 10;
                let data: Vec<u8> = pattern
                    .iter()
                    .copied()
                    .cycle()
                    .take(PART.min(*bytes))
                    .collect();
                for from in (0..*bytes).step_by(PART) {
                    // SAFETY: the target was just found live for all of these bytes.
                    unsafe { pages::write(*target + from, &data[..PART.min(bytes - from)]) };
                }
                Ok(())
            }
            Work::Kernel(launch) => {
                let shuffle = self
                    .scheduler
                    .shuffles()
                    .then(|| self.scheduler.rng().next());
                let seed = self.config.seed ^ (id << 32);
                let outcome = launch.run(
                    seed,
                    shuffle,
                    &self.devices[device].space,
                    &self.host,
                    &mut self.counters,
                );
                self.undamaged(device, &launch.kernel.name(), outcome)
            }
            Work::Matmul(product) => {
                for (what, address, bytes) in product.ranges() {
                    if self.devices[device].space.place(address, bytes) != Place::Inside {
                        let place = self.devices[device].space.place(address, bytes);
                        let text =
                            format!("matmul's {what}, {bytes} bytes at {address:#x}: {place:?}");
                        return Err((Code::ILLEGAL_ADDRESS, text));
                    }
                }
                // SAFETY: all ranges were just found live on this device.
                unsafe { product.run() };
                self.undamaged(device, "matmul", Ok(()))
            }
        }
    }

    /// Runs an operation where values are off: checks the ranges of a copy or a fill, and computes
    /// nothing.
    fn perform_hollow(&mut self, work: &Work) -> Outcome {
        if let Work::Copy {
            direction,
            target,
            bytes,
            source,
            ..
        } = work
        {
            if *direction != Direction::ToHost {
                self.still_live(*target, *bytes)?;
            }
            if let (Source::Address(source), false) = (source, *direction == Direction::ToDevice) {
                self.still_live(*source, *bytes)?;
            }
        }
        if let Work::Fill { target, bytes, .. } = work {
            self.still_live(*target, *bytes)?;
        }
        if let Some(clock) = &mut self.clock {
            // SAFETY: the device's side of a copy was just found live; for the host's side it is as
            // in `perform`.
            unsafe { clock.perform_hollow(work) };
        }
        Ok(())
    }

    /// Checks a range again: it was checked at submission, but may have been freed since.
    fn still_live(&mut self, address: usize, bytes: usize) -> Outcome {
        let found = self.findings.len();
        self.device_with(address, bytes).map(|_| ()).map_err(|_| {
            let text = self.findings.get(found).cloned().unwrap_or_default();
            (Code::ILLEGAL_ADDRESS, text)
        })
    }

    /// Adds to the operation's own outcome a check whether it wrote outside of an allocation.
    fn undamaged(&mut self, device: usize, name: &str, outcome: Outcome) -> Outcome {
        outcome?;
        match self.devices[device]
            .space
            .damage()
            .or_else(|| self.host.damage())
        {
            Some(text) => Err((Code::ILLEGAL_ADDRESS, format!("{name} {text}"))),
            None => Ok(()),
        }
    }
}
