//! Failed requests, and which of them are worth another try.

use std::thread;
use std::time::Duration;

use super::{HubError, Observer};

/// How often something is tried again, in a row and in vain.
const RETRIES: u32 = 4;
/// How long to wait before the first repetition. Before the others it is three times as long each.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// The longest time for which a server may ask to wait.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// A failed request.
pub(super) struct Failed {
    pub error: Box<HubError>,
    /// How long to wait before it is worth to try again; `None` if it never is.
    pub again: Option<Wait>,
}

impl Failed {
    /// A failure after which it is worth to try again.
    pub(super) fn growing(error: HubError) -> Self {
        Self {
            error: Box::new(error),
            again: Some(Wait::Growing),
        }
    }
}

/// The time before a repetition.
pub(super) enum Wait {
    /// It grows with the number of failures.
    Growing,
    /// The server asks for this time.
    Asked(Duration),
}

impl From<HubError> for Failed {
    fn from(error: HubError) -> Self {
        Self {
            error: Box::new(error),
            again: None,
        }
    }
}

/// Tries until it succeeds, fails for good, or has failed too often.
pub(super) fn patiently<T>(
    observer: &mut dyn Observer,
    mut attempt: impl FnMut() -> Result<T, Failed>,
) -> Result<T, HubError> {
    let mut failures = 0;
    loop {
        match attempt() {
            Ok(done) => return Ok(done),
            Err(failed) => pause(failed, &mut failures, observer)?,
        }
    }
}

/// Waits after a failure, or returns its error if it is not worth to try again.
pub(super) fn pause(
    failed: Failed,
    failures: &mut u32,
    observer: &mut dyn Observer,
) -> Result<(), HubError> {
    *failures += 1;
    let wait = match failed.again {
        _ if *failures > RETRIES => return Err(*failed.error),
        None => return Err(*failed.error),
        Some(Wait::Asked(wait)) => wait,
        Some(Wait::Growing) => FIRST_WAIT * 3u32.pow(*failures - 1),
    };
    observer.note(&format!("{}; trying again", failed.error));
    thread::sleep(wait);
    Ok(())
}
