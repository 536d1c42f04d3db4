//! Fences: reusable events that one stream records and other streams, or the host, wait for.

use super::context::Context;
use super::error::{At, DriverError, call};
use super::ffi;
use std::fmt;

/// A point in a stream's work. A fence that was never recorded counts as passed, because the driver
/// treats events in this way.
#[derive(Debug)]
pub struct Fence {
    pub(super) event: ffi::CUevent,
    context: Context,
    timed: bool,
    label: (&'static str, usize),
}

// SAFETY: events may be used from any thread, and the handle is only passed to the driver.
unsafe impl Send for Fence {}
// SAFETY: as above.
unsafe impl Sync for Fence {}

impl Fence {
    /// Creates a fence that orders work and takes no time stamps. This is the cheapest kind.
    ///
    /// # Errors
    /// [`DriverError`] if the event cannot be created.
    pub fn new(context: &Context) -> Result<Self, DriverError> {
        Self::make(context, ffi::EVENT_DISABLE_TIMING)
    }

    /// Creates a fence for the host to wait for. The waiting thread sleeps, which leaves its core
    /// to other threads; on a fence of [`Fence::new`] it would spin.
    ///
    /// # Errors
    /// [`DriverError`] if the event cannot be created.
    pub fn for_host(context: &Context) -> Result<Self, DriverError> {
        Self::make(
            context,
            ffi::EVENT_DISABLE_TIMING | ffi::EVENT_BLOCKING_SYNC,
        )
    }

    /// Creates a fence that also stores the time at which it was passed, for
    /// [`Fence::milliseconds_since`].
    ///
    /// # Errors
    /// [`DriverError`] if the event cannot be created.
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

    /// Gives the fence a name and a number for logs, which show them as `loaded 2`.
    #[must_use]
    pub fn called(mut self, name: &'static str, number: usize) -> Self {
        self.label = (name, number);
        self
    }

    /// Blocks the host until the work before the fence's last record is done.
    ///
    /// # Errors
    /// [`DriverError`], which may also be a failure of that work.
    pub fn wait(&self) -> Result<(), DriverError> {
        self.context.bind()?;
        // SAFETY: this value keeps the event alive.
        unsafe { call!(cuEventSynchronize(self.event)) }.map_err(|e| {
            e.at(&At {
                operation: Some(format!("the host's wait for {self}")),
                ..self.at()
            })
        })
    }

    /// Returns the milliseconds from the time that `start` was passed to the time that this fence
    /// was passed. The result is `None` unless both fences were created by [`Fence::timed`].
    ///
    /// # Errors
    /// [`DriverError`], with code 600 if one of the fences is not passed yet.
    pub fn milliseconds_since(&self, start: &Fence) -> Result<Option<f32>, DriverError> {
        if !(self.timed && start.timed) {
            return Ok(None);
        }
        self.context.bind()?;
        let mut milliseconds = 0f32;
        // SAFETY: both events are live, and `milliseconds` is writable.
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
        // SAFETY: the event was created exactly once, in `make`. The driver keeps it until pending
        // work on it has ended.
        let _ = unsafe { call!(cuEventDestroy_v2(self.event)) };
    }
}
