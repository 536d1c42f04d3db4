//! The speeds that a device is assumed to have, from which a plan estimates times. Nothing here is
//! measured on the device at hand.

use crate::dtype::DType;
use crate::gpu::driver::DeviceInfo;

/// Sustained rates of products in f16 and bf16, in FLOP/s per multiprocessor, and of pinned copies
/// over the bus in bytes per second, by compute capability: H200 640 TFLOP/s and 55 GB/s (measured,
/// power-bound), A100 250 and 25, L40S and RTX 4090 150 and 25, RTX 3090 and A40 65 and 25.
const CLASSES: [((u32, u32), f64, f64); 4] = [
    ((9, 0), 640e12 / 132.0, 55e9),
    ((8, 9), 150e12 / 128.0, 25e9),
    ((8, 6), 65e12 / 82.0, 25e9),
    ((8, 0), 250e12 / 108.0, 25e9),
];
/// Products in f32 run without tensor cores: 128 fused multiply-adds per cycle and multiprocessor,
/// at 1.5 GHz and four fifths of the peak.
const F32_PER_PROCESSOR: f64 = 128.0 * 2.0 * 1.5e9 * 0.8;
/// Bytes per second that each copying thread brings from mapped pages into pinned memory. Eight
/// threads reach 36 GB/s on the host of an H200.
const PER_COPYING_THREAD: f64 = 4.5e9;

/// Speeds that a device and its host are assumed to have.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rates {
    /// FLOP per second of the products of a pass.
    pub products: f64,
    /// Bytes per second of copies from pinned memory to the device.
    pub bus: f64,
    /// Bytes per second that are read from the mapped files and written to pinned memory.
    pub copying: f64,
    /// What the rates were taken from.
    pub basis: String,
}

impl Rates {
    /// Returns the rates of the class that the device belongs to. A device between two classes is
    /// taken for one of the lower class, and an older one for one of the lowest.
    pub fn assumed(device: &DeviceInfo, dtype: DType, threads: usize) -> Self {
        let (major, minor) = device.capability;
        let class = CLASSES
            .iter()
            .find(|(class, ..)| device.capability >= *class);
        let [.., lowest] = &CLASSES;
        let (_, per_processor, bus) = class.unwrap_or(lowest);
        let processors = f64::from(device.multiprocessors.max(1));
        let per_processor = match dtype {
            DType::F32 => F32_PER_PROCESSOR,
            DType::F16 | DType::Bf16 => *per_processor,
        };
        Self {
            products: per_processor * processors,
            bus: *bus,
            copying: PER_COPYING_THREAD * threads as f64,
            basis: format!(
                "assumed for compute capability {major}.{minor}, {} multiprocessors, {dtype}, and {threads} copying threads",
                device.multiprocessors
            ),
        }
    }

    /// Returns the seconds that loading a layer takes, whose values are `stored` bytes in the files
    /// and `placed` bytes on the device. Values are converted on the side of the bus where fewer
    /// bytes cross it.
    pub fn load_seconds(&self, stored: usize, placed: usize) -> f64 {
        let crossing = match stored {
            0 => placed,
            stored => stored.min(placed),
        };
        (crossing as f64 / self.bus).max(stored as f64 / self.copying)
    }

    /// Returns the seconds that the products with this many matrix values take for `tokens` tokens.
    pub fn compute_seconds(&self, values: usize, tokens: usize) -> f64 {
        2.0 * values as f64 * tokens as f64 / self.products
    }

    /// Returns the tokens at which the products with this many matrix values take `seconds`.
    pub fn tokens_for(&self, values: usize, seconds: f64) -> usize {
        (seconds * self.products / (2.0 * values.max(1) as f64)).ceil() as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(capability: (u32, u32), multiprocessors: u32) -> DeviceInfo {
        DeviceInfo {
            ordinal: 0,
            name: "a device".into(),
            capability,
            multiprocessors,
            memory: 24 << 30,
        }
    }

    /// A layer of the 15B model: 629 MB in f16.
    const VALUES: usize = 12 * 5120 * 5120;

    #[test]
    fn loading_hides_from_about_the_known_number_of_tokens_on() {
        for (capability, multiprocessors, threads, tokens) in [
            ((9, 0), 132, 16, 11_636),
            ((9, 0), 132, 8, 17_777),
            ((8, 9), 128, 8, 6_000),
            ((8, 0), 108, 8, 10_000),
            ((7, 0), 108, 8, 10_000),
        ] {
            let rates = Rates::assumed(&device(capability, multiprocessors), DType::F16, threads);
            let load = rates.load_seconds(2 * VALUES, 2 * VALUES);
            let needed = rates.tokens_for(VALUES, load);
            assert!(needed.abs_diff(tokens) <= 2, "{needed} {tokens}");
            let computing = rates.compute_seconds(VALUES, needed);
            assert!((computing / load - 1.0).abs() < 1e-3);
        }
        let rates = Rates::assumed(&device((9, 0), 132), DType::F16, 8);
        let milliseconds = 1e3 * rates.compute_seconds(VALUES, 33_792);
        assert!((33.0..34.0).contains(&milliseconds), "{milliseconds}");
    }

    #[test]
    fn the_smaller_format_crosses_the_bus() {
        let rates = Rates::assumed(&device((9, 0), 132), DType::F16, 100);
        let (small, large) = (1_000_000, 2_000_000);
        assert_eq!(
            rates.load_seconds(large, small),
            rates.load_seconds(small, small)
        );
        assert_eq!(
            rates.load_seconds(small, large),
            rates.load_seconds(small, small)
        );
        assert!(rates.load_seconds(large, large) > rates.load_seconds(small, small));
        // Few threads read slower than the bus takes.
        let slow = Rates::assumed(&device((9, 0), 132), DType::F16, 1);
        assert_eq!(
            slow.load_seconds(large, small),
            2.0 * slow.load_seconds(small, small)
        );
    }
}
