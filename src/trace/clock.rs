//! Translates the times of a device's events to the clock of the host.
//!
//! The two clocks are compared at the start of a run and at its end, while the device is idle: the
//! host reads its clock, records an event, waits for it, and reads its clock again. In between, a
//! running job tells when it *saw* that an event was passed, which is some microseconds after the
//! event: no wait is added for this. From the second that follows the start on, the smallest of
//! these delays gives the drift of the device's clock, which is corrected linearly.

use serde::{Deserialize, Serialize};

/// A drift beyond this many parts per million is no drift of a real clock: a simulated device may
/// have a clock of its own, which runs at any rate. Such a clock is aligned at the start only.
const MOST_DRIFT_PPM: f64 = 1000.0;
/// How much time must have passed before the drift is corrected. Within less time, the delay of
/// the host would be taken for drift.
const LEAST_NS: f64 = 1e9;

/// A moment on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sync {
    /// The time of the host in nanoseconds since the trace was opened.
    pub host_ns: f64,
    /// The time of the device in nanoseconds since its first event.
    pub device_ns: f64,
    /// How far the two may be apart.
    pub within_ns: f64,
}

/// The alignment of a device's clock, as a trace reports it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ClockReport {
    /// The ordinal of the device.
    pub device: u32,
    /// The comparison of the clocks at the start of the run.
    pub start: Sync,
    /// The comparison at the end of the run, if the run came to its end.
    pub end: Option<Sync>,
    /// How much faster the device's clock runs than the host's, in parts per million. At the end of
    /// a run it is measured; before, it is the estimate that times are corrected by.
    pub drift_ppm: f64,
    /// Whether the drift was corrected. The clock of a simulated device is not.
    pub corrected: bool,
    /// How far the last corrected time was from the comparison at the end, in nanoseconds.
    pub error_ns: Option<f64>,
}

/// The clock of a device, seen from the host.
#[derive(Debug, Clone)]
pub struct DeviceClock {
    device: u32,
    start: Sync,
    end: Option<Sync>,
    /// The nanoseconds of the host per nanosecond of the device.
    rate: f64,
    error: Option<f64>,
    /// The smallest delay so far with which the host saw an event, and the time on the device.
    seen: Option<(f64, f64)>,
    /// Whether a comparison showed a rate that no real clock has.
    foreign: bool,
}

impl DeviceClock {
    /// Begins with the comparison at the start of the run.
    pub fn new(device: u32, start: Sync) -> Self {
        Self {
            device,
            start,
            end: None,
            rate: 1.0,
            error: None,
            seen: None,
            foreign: false,
        }
    }

    /// Translates a time of the device.
    pub fn host_ns(&self, device_ns: f64) -> f64 {
        self.start.host_ns + (device_ns - self.start.device_ns) * self.rate
    }

    fn rate_to(&self, host_ns: f64, device_ns: f64) -> f64 {
        (host_ns - self.start.host_ns) / (device_ns - self.start.device_ns)
    }

    fn drift(rate: f64) -> f64 {
        (1.0 / rate - 1.0) * 1e6
    }

    /// Takes note that the host saw at `host_ns` that an event of the time `device_ns` was passed.
    pub fn saw(&mut self, device_ns: f64, host_ns: f64) {
        if self.foreign || device_ns - self.start.device_ns < LEAST_NS {
            return;
        }
        // The delay against the uncorrected clock also holds the drift so far, so an old delay is
        // compared with a new one at the rate that is known.
        let delay = host_ns - self.host_ns(device_ns);
        let better = match self.seen {
            None => true,
            Some((least, at)) => delay < least || device_ns - at > 10.0 * LEAST_NS,
        };
        if !better {
            return;
        }
        let rate = self.rate_to(host_ns, device_ns);
        self.foreign = Self::drift(rate).abs() > MOST_DRIFT_PPM;
        self.rate = if self.foreign { 1.0 } else { rate };
        self.seen = Some((0.0, device_ns));
    }

    /// Takes the comparison at the end of the run. Times that are translated later use it.
    pub fn end(&mut self, end: Sync) {
        self.error = Some(self.host_ns(end.device_ns) - end.host_ns);
        if end.device_ns > self.start.device_ns {
            let rate = self.rate_to(end.host_ns, end.device_ns);
            self.foreign = Self::drift(rate).abs() > MOST_DRIFT_PPM;
            self.rate = if self.foreign { 1.0 } else { rate };
        }
        self.end = Some(end);
    }

    /// Returns what is known of the clock.
    pub fn report(&self) -> ClockReport {
        let measured = self.end.filter(|end| end.device_ns > self.start.device_ns);
        let rate = measured.map_or(self.rate, |end| self.rate_to(end.host_ns, end.device_ns));
        let drift = Self::drift(rate);
        ClockReport {
            device: self.device,
            start: self.start,
            end: self.end,
            drift_ppm: if drift.is_finite() { drift } else { 0.0 },
            corrected: !self.foreign && self.rate != 1.0,
            error_ns: self.error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: f64 = 1e9;

    fn sync(host_ns: f64, device_ns: f64) -> Sync {
        Sync {
            host_ns,
            device_ns,
            within_ns: 5e3,
        }
    }

    #[test]
    fn a_drift_is_corrected_while_the_job_runs_and_measured_at_its_end() {
        // The device's clock runs 20 ppm fast, and the host sees events 15 to 400 us late.
        let host = |device: f64| 5e6 + device / (1.0 + 20e-6);
        let mut clock = DeviceClock::new(3, sync(5e6, 0.0));
        for step in 1..600 {
            let device = f64::from(step) * 0.1 * SECOND;
            let late = 15e3 + f64::from(step * 7919 % 100) * 4e3;
            clock.saw(device, host(device) + late);
            let off = clock.host_ns(device) - host(device);
            assert!(off.abs() < 450e3, "{step}: {off}");
        }
        let device = 60.0 * SECOND;
        assert!((clock.host_ns(device) - host(device)).abs() < 100e3);
        clock.end(sync(host(device), device));
        let report = clock.report();
        assert!((report.drift_ppm - 20.0).abs() < 0.1, "{report:?}");
        assert!(report.corrected && report.error_ns.unwrap().abs() < 100e3);
        assert!((clock.host_ns(device) - host(device)).abs() < 1.0);
    }

    #[test]
    fn a_clock_that_stands_or_runs_at_another_rate_is_aligned_at_the_start_only() {
        for rate in [0.0, 0.01, 3.0, 200.0] {
            let mut clock = DeviceClock::new(0, sync(7e3, 100.0));
            clock.saw(100.0 + 2.0 * rate * SECOND, 7e3 + 2.0 * SECOND);
            clock.end(sync(7e3 + 4.0 * SECOND, 100.0 + 4.0 * rate * SECOND));
            let report = clock.report();
            assert!(report.drift_ppm.is_finite(), "{report:?}");
            assert_eq!(clock.host_ns(350.0), 7e3 + 250.0, "rate {rate}");
            assert!(!report.corrected, "{report:?}");
        }
    }
}
