//! A fence: an event that one stream records and others wait for. It can be recorded again.

use super::context::Context;
use super::error::{At, DriverError, call};
use super::ffi;
use std::fmt;

/// A point in a stream's work. Never recorded, it counts as passed, as the driver has it.
#[derive(Debug)]
pub struct Fence {
    pub(super) event: ffi::CUevent,
    context: Context,
    timed: bool,
    label: (&'static str, usize),
}

// SAFETY: events may be used from any thread; the handle is only passed to the driver.
unsafe impl Send for Fence {}
// SAFETY: as above.
unsafe impl Sync for Fence {}

impl Fence {
    /// A fence that orders and does not time: the cheap kind.
    ///
    /// # Errors
    /// [`DriverError`]
    pub fn new(context: &Context) -> Result<Self, DriverError> {
        Self::make(context, ffi::EVENT_DISABLE_TIMING)
    }

    /// A fence that the host will wait for: its thread sleeps meanwhile, where it would spin on
    /// [`Fence::new`]'s, and leaves the core to those who have work.
    ///
    /// # Errors
    /// [`DriverError`]
    pub fn for_host(context: &Context) -> Result<Self, DriverError> {
        Self::make(
            context,
            ffi::EVENT_DISABLE_TIMING | ffi::EVENT_BLOCKING_SYNC,
        )
    }

    /// A fence that also knows when it was passed, for [`Fence::milliseconds_since`].
    ///
    /// # Errors
    /// [`DriverError`]
    pub fn timed(context: &Context) -> Result<Self, DriverError> {
        Self::make(context, 0)
    }

    fn make(context: &Context, flags: std::ffi::c_uint) -> Result<Self, DriverError> {
        context.bind()?;
        let mut event = std::ptr::null_mut();
        // SAFETY: `event` is writable and a context is current.
        unsafe { call!(cuEventCreate(&mut event, flags)) }.map_err(|e| e.at(&context.at()))?;
        Ok(Self {
            event,
            context: context.clone(),
            timed: flags & ffi::EVENT_DISABLE_TIMING == 0,
            label: ("fence", 0),
        })
    }

    /// Gives it a name and a number, for logs: `loaded 2`.
    #[must_use]
    pub fn called(mut self, name: &'static str, number: usize) -> Self {
        self.label = (name, number);
        self
    }

    /// Blocks the host until the work before the last record is done.
    ///
    /// # Errors
    /// [`DriverError`], of that work too.
    pub fn wait(&self) -> Result<(), DriverError> {
        self.context.bind()?;
        // SAFETY: an event that this value holds.
        unsafe { call!(cuEventSynchronize(self.event)) }.map_err(|e| {
            e.at(&At {
                operation: Some(format!("the host's wait for {self}")),
                ..self.at()
            })
        })
    }

    /// Milliseconds from when `start` was passed to when this one was. `None` unless both are timed.
    ///
    /// # Errors
    /// [`DriverError`]: code 600 where one is not yet passed.
    pub fn milliseconds_since(&self, start: &Fence) -> Result<Option<f32>, DriverError> {
        if !(self.timed && start.timed) {
            return Ok(None);
        }
        self.context.bind()?;
        let mut milliseconds = 0f32;
        // SAFETY: two live events, and `milliseconds` is writable.
        unsafe {
            call!(cuEventElapsedTime(
                &mut milliseconds,
                start.event,
                self.event
            ))
        }
        .map_err(|e| e.at(&self.at()))?;
        Ok(Some(milliseconds))
    }

    fn at(&self) -> At {
        self.context.at()
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, number) = self.label;
        write!(f, "{name} {number}")
    }
}

impl Drop for Fence {
    fn drop(&mut self) {
        let _ = self.context.bind();
        // SAFETY: made once, in `make`. The driver keeps the event until work on it has ended.
        let _ = unsafe { call!(cuEventDestroy_v2(self.event)) };
    }
}
