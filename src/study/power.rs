//! The power, the clock and the energy of a CUDA device while something is measured, through NVIDIA's
//! management library (NVML), where it is there.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a device did while something ran on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PowerReport {
    /// The median power in watts.
    pub watts: f64,
    /// The median clock of the multiprocessors in MHz.
    pub sm_mhz: f64,
    /// Why the clock was lower than it could be, in NVML's words, if it was in at least one sample in
    /// ten.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub throttled: Vec<String>,
    /// The energy in joules, by the device's own meter or else by the mean power.
    pub joules: f64,
    /// The energy in joules per million tokens.
    pub joules_per_million_tokens: f64,
}

impl PowerReport {
    /// Divides the energy by the tokens that it was used for.
    pub(super) fn per_token(self, tokens: usize) -> Self {
        Self {
            joules_per_million_tokens: 1e6 * self.joules / tokens as f64,
            ..self
        }
    }
}

impl fmt::Display for PowerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} W, {:.0} MHz", self.watts, self.sm_mhz)?;
        if !self.throttled.is_empty() {
            write!(f, ", lowered by {}", self.throttled.join(", "))?;
        }
        write!(
            f,
            "; {:.0} J per million tokens",
            self.joules_per_million_tokens
        )
    }
}

#[cfg(feature = "nvml")]
pub(super) use nvml::Meter;

#[cfg(feature = "nvml")]
mod nvml {
    use super::PowerReport;
    use crate::study::median;
    use nvml_wrapper::bitmasks::device::ThrottleReasons;
    use nvml_wrapper::enum_wrappers::device::Clock;
    use nvml_wrapper::{Device, Nvml};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;
    use std::time::{Duration, Instant};

    /// The pause between two samples. The device renews its figures ten times per second or more
    /// often.
    const PAUSE: Duration = Duration::from_millis(50);

    /// Reads the figures of one device.
    pub(in crate::study) struct Meter {
        nvml: Nvml,
        index: u32,
    }

    #[derive(Default)]
    struct Samples {
        watts: Vec<f64>,
        mhz: Vec<f64>,
        reasons: Vec<ThrottleReasons>,
    }

    impl Meter {
        /// Returns the meter of the CUDA device with this number and name; `None` if there is no
        /// NVML, or if it cannot be told which of its devices this one is.
        pub fn new(ordinal: u32, name: &str) -> Option<Self> {
            let nvml = Nvml::init().ok()?;
            let index = match std::env::var("CUDA_VISIBLE_DEVICES") {
                Err(_) => ordinal,
                Ok(visible) => {
                    let one = visible.split(',').nth(ordinal as usize)?.trim().to_owned();
                    match one.parse() {
                        Ok(index) => index,
                        Err(_) => nvml.device_by_uuid(one).ok()?.index().ok()?,
                    }
                }
            };
            // CUDA may count devices of different kinds in another order.
            let same = nvml.device_by_index(index).ok()?.name().ok()? == name;
            same.then_some(Self { nvml, index })
        }

        fn device(&self) -> Option<Device<'_>> {
            self.nvml.device_by_index(self.index).ok()
        }

        /// Runs `work`, and reads the figures meanwhile.
        pub fn during<T>(&self, work: impl FnOnce() -> T) -> (T, Option<PowerReport>) {
            let done = AtomicBool::new(false);
            let energy = || self.device()?.total_energy_consumption().ok();
            let (before, began) = (energy(), Instant::now());
            let (result, samples) = thread::scope(|scope| {
                let reading = thread::Builder::new().spawn_scoped(scope, || self.sample(&done));
                let result = work();
                done.store(true, Ordering::Release);
                let samples = reading.ok().and_then(|reading| reading.join().ok());
                (result, samples.unwrap_or_default())
            });
            let seconds = began.elapsed().as_secs_f64();
            let measured = before.zip(energy());
            let joules = measured.map(|(before, after)| after.saturating_sub(before) as f64 / 1e3);
            (result, samples.report(seconds, joules))
        }

        fn sample(&self, done: &AtomicBool) -> Samples {
            let mut samples = Samples::default();
            let Some(device) = self.device() else {
                return samples;
            };
            while !done.load(Ordering::Acquire) {
                if let (Ok(milliwatts), Ok(mhz)) =
                    (device.power_usage(), device.clock_info(Clock::SM))
                {
                    samples.watts.push(f64::from(milliwatts) / 1e3);
                    samples.mhz.push(f64::from(mhz));
                }
                samples.reasons.extend(device.current_throttle_reasons());
                thread::sleep(PAUSE);
            }
            samples
        }
    }

    impl Samples {
        fn report(&self, seconds: f64, joules: Option<f64>) -> Option<PowerReport> {
            let often = |reason: &ThrottleReasons| {
                let count = self.reasons.iter().filter(|seen| seen.contains(*reason));
                10 * count.count() >= self.reasons.len().max(1)
            };
            // These two say that the device was idle, or that somebody set the clock.
            let other = ThrottleReasons::GPU_IDLE | ThrottleReasons::APPLICATIONS_CLOCKS_SETTING;
            let reasons = ThrottleReasons::all() - other;
            let throttled = reasons.iter_names().filter(|(_, reason)| often(reason));
            let mean = self.watts.iter().sum::<f64>() / self.watts.len() as f64;
            (!self.watts.is_empty()).then(|| PowerReport {
                watts: median(self.watts.iter().copied()),
                sm_mhz: median(self.mhz.iter().copied()),
                throttled: throttled
                    .map(|(name, _)| name.to_lowercase().replace('_', " "))
                    .collect(),
                joules: joules.unwrap_or(mean * seconds),
                joules_per_million_tokens: f64::NAN,
            })
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn samples_become_medians_and_a_reason_has_to_be_seen_often() {
            let capped = ThrottleReasons::SW_POWER_CAP | ThrottleReasons::GPU_IDLE;
            let mut reasons = vec![capped; 3];
            reasons.extend(vec![ThrottleReasons::empty(); 16]);
            reasons.push(ThrottleReasons::HW_SLOWDOWN);
            let samples = Samples {
                watts: vec![100.0, 700.0, 640.0],
                mhz: vec![1980.0, 1400.0, 1410.0],
                reasons,
            };
            let report = samples.report(2.0, None).unwrap();
            assert_eq!((report.watts, report.sm_mhz), (640.0, 1410.0));
            assert_eq!(report.throttled, ["sw power cap"]);
            assert_eq!(report.joules, 960.0);
            assert_eq!(samples.report(2.0, Some(5.0)).unwrap().joules, 5.0);
            assert_eq!(Samples::default().report(2.0, Some(5.0)), None);
        }
    }
}

/// Without NVML nothing is read.
#[cfg(not(feature = "nvml"))]
pub(super) struct Meter;

#[cfg(not(feature = "nvml"))]
impl Meter {
    pub fn new(_: u32, _: &str) -> Option<Self> {
        None
    }

    pub fn during<T>(&self, work: impl FnOnce() -> T) -> (T, Option<PowerReport>) {
        (work(), None)
    }
}
