//! What a job plans to do on a device: where the weights stand, how the memory is divided, and what
//! is estimated to bound the job.

use crate::bytes::{Bytes, rounded_up};
use serde::Serialize;
use std::fmt;

/// The plan of a job on one device. It is displayed as lines, with a line end after each.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DevicePlan {
    /// The number of the device.
    pub device: u32,
    /// The name of the device.
    pub name: String,
    /// Whether layers are streamed. If not, all layers stay on the device.
    pub streamed: bool,
    /// Whether the user left the choice to the program.
    pub automatic: bool,
    /// The number of layers that passes go through: those up to the deepest layer that is wanted.
    pub layers: usize,
    /// The number of slots for these layers on the device. It is the number of layers if all stay.
    pub slots: usize,
    /// The bytes of a layer on the device, those of the largest one.
    pub layer_bytes: usize,
    /// The bytes of this layer in the model's files.
    pub layer_stored_bytes: usize,
    /// The bytes of all weights on the device.
    pub weight_bytes: usize,
    /// The bytes of all weights if all layers stayed.
    pub resident_bytes: usize,
    /// The bytes of activations, inputs, results and scratch memory.
    pub pass_bytes: usize,
    /// The bytes that are left to the driver and to cuBLASLt.
    pub reserved_bytes: usize,
    /// The bytes of the device's memory that are free before the job takes any.
    pub free_bytes: u64,
    /// The bytes of `free_bytes` that stay unused.
    pub unused_bytes: u64,
    /// The most tokens that a pass holds.
    pub pass_capacity: usize,
    /// The tokens that a batch has, and so a pass.
    pub tokens_per_pass: usize,
    /// Times, which are estimates.
    pub estimates: Estimates,
    /// What one more slot would do, if layers are streamed.
    pub one_more_slot: Option<OneMoreSlot>,
}

/// Estimated times, and the assumptions behind them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Estimates {
    /// What the rates were taken from. Nothing is measured for a plan.
    pub basis: String,
    /// FLOP per second of the products of a pass.
    pub products_flops_per_second: f64,
    /// Bytes per second over the bus.
    pub bus_bytes_per_second: f64,
    /// Bytes per second from the mapped files into pinned memory.
    pub copying_bytes_per_second: f64,
    /// The milliseconds of loading a layer, from files that the system has in its memory.
    pub load_milliseconds_per_layer: f64,
    /// The milliseconds of the products of a layer for the tokens of a pass. Attention and the rest
    /// come on top.
    pub compute_milliseconds_per_layer: f64,
    /// The fraction of the loading of a layer that hides behind computing one.
    pub hidden_fraction: f64,
    /// The tokens per pass from which on all loading hides.
    pub tokens_to_hide: usize,
    /// What bounds the job: "computing" or "loading".
    pub bound: &'static str,
}

/// What one more slot would do.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct OneMoreSlot {
    /// The bytes that it takes.
    pub bytes: usize,
    /// The tokens per pass beside it; 0 if it does not fit.
    pub tokens_per_pass: usize,
    /// Whether all layers would stay.
    pub all_stay: bool,
}

impl DevicePlan {
    /// Returns one line that says that layers are streamed, if the program chose that.
    pub fn notice(&self) -> Option<String> {
        (self.streamed && self.automatic).then(|| {
            format!(
                "device {}: the weights ({}) and a useful pass do not fit into {} together, so layers are streamed through {} slots",
                self.device,
                rounded_up(self.resident_bytes as u64),
                Bytes(self.free_bytes),
                self.slots
            )
        })
    }
}

impl fmt::Display for DevicePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = |bytes: usize| Bytes(bytes as u64);
        let by = if self.automatic {
            "chosen by memory"
        } else {
            "as asked"
        };
        write!(f, "plan for device {} ({}): ", self.device, self.name)?;
        match self.streamed {
            true => writeln!(
                f,
                "{} layers of {} are streamed through {} slots, {by}",
                self.layers,
                bytes(self.layer_bytes),
                self.slots
            )?,
            false => writeln!(
                f,
                "all {} layers of {} stay on the device, {by}",
                self.layers,
                bytes(self.layer_bytes)
            )?,
        }
        writeln!(
            f,
            "  memory: of {} free, weights take {}, passes {}, {} are reserved, {} stay unused",
            Bytes(self.free_bytes),
            bytes(self.weight_bytes),
            bytes(self.pass_bytes),
            bytes(self.reserved_bytes),
            Bytes(self.unused_bytes)
        )?;
        writeln!(f, "  tokens per pass: {}", self.tokens_per_pass)?;
        let e = &self.estimates;
        writeln!(
            f,
            "  per layer, estimated: {:.2} ms to load, {:.2} ms to compute",
            e.load_milliseconds_per_layer, e.compute_milliseconds_per_layer
        )?;
        match self.streamed {
            true => writeln!(
                f,
                "  estimated: {:.0} % of the loading hides, {} bounds the job; all hides from {} tokens per pass on",
                100.0 * e.hidden_fraction,
                e.bound,
                e.tokens_to_hide
            )?,
            false => writeln!(
                f,
                "  estimated: weights load once, and {:.0} % of it hides behind the first pass; computing bounds the job",
                100.0 * e.hidden_fraction
            )?,
        }
        if let Some(more) = &self.one_more_slot {
            write!(f, "  one more slot: takes {}", bytes(more.bytes))?;
            match (more.tokens_per_pass, more.all_stay) {
                (0, _) => writeln!(f, ", which is not free")?,
                (tokens, true) => writeln!(
                    f,
                    ", leaves {tokens} tokens per pass, and all layers would stay"
                )?,
                (tokens, false) => writeln!(
                    f,
                    ", leaves {tokens} tokens per pass, and lets loading run one more layer ahead; at an even pace it hides no more"
                )?,
            }
        }
        writeln!(
            f,
            "  estimates from {:.0} TFLOP/s, {:.0} GB/s over the bus, {:.0} GB/s out of the files: {}",
            e.products_flops_per_second / 1e12,
            e.bus_bytes_per_second / 1e9,
            e.copying_bytes_per_second / 1e9,
            e.basis
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn plan() -> DevicePlan {
        DevicePlan {
            device: 0,
            name: "NVIDIA H200".into(),
            streamed: true,
            automatic: true,
            layers: 48,
            slots: 3,
            layer_bytes: 629_000_000,
            layer_stored_bytes: 629_000_000,
            weight_bytes: 1_888_000_000,
            resident_bytes: 30_200_000_000,
            pass_bytes: 8 << 30,
            reserved_bytes: 512 << 20,
            free_bytes: 23 << 30,
            unused_bytes: 12 << 30,
            pass_capacity: 33_792,
            tokens_per_pass: 33_792,
            estimates: Estimates {
                basis: "assumed for compute capability 9.0".into(),
                products_flops_per_second: 640e12,
                bus_bytes_per_second: 55e9,
                copying_bytes_per_second: 36e9,
                load_milliseconds_per_layer: 17.47,
                compute_milliseconds_per_layer: 33.22,
                hidden_fraction: 1.0,
                tokens_to_hide: 17_778,
                bound: "computing",
            },
            one_more_slot: Some(OneMoreSlot {
                bytes: 629_000_000,
                tokens_per_pass: 33_792,
                all_stay: false,
            }),
        }
    }

    #[test]
    fn a_plan_is_lines_and_json() {
        assert_eq!(
            plan().to_string(),
            "plan for device 0 (NVIDIA H200): 48 layers of 599.8 MiB are streamed through 3 slots, chosen by memory\n\
             \x20 memory: of 23.0 GiB free, weights take 1.7 GiB, passes 8.0 GiB, 512.0 MiB are reserved, 12.0 GiB stay unused\n\
             \x20 tokens per pass: 33792\n\
             \x20 per layer, estimated: 17.47 ms to load, 33.22 ms to compute\n\
             \x20 estimated: 100 % of the loading hides, computing bounds the job; all hides from 17778 tokens per pass on\n\
             \x20 one more slot: takes 599.8 MiB, leaves 33792 tokens per pass, and lets loading run one more layer ahead; at \
             an even pace it hides no more\n\
             \x20 estimates from 640 TFLOP/s, 55 GB/s over the bus, 36 GB/s out of the files: assumed for compute capability \
             9.0\n"
        );
        assert_eq!(
            plan().notice().unwrap(),
            "device 0: the weights (28.2 GiB) and a useful pass do not fit into 23.0 GiB together, so layers are streamed \
             through 3 slots"
        );
        let json = serde_json::to_value(plan()).unwrap();
        assert_eq!(json["estimates"]["bound"], "computing");
        assert_eq!(json["one_more_slot"]["bytes"], 629_000_000);
    }

    #[test]
    fn a_plan_without_streaming_has_no_notice_and_no_slot() {
        let resident = DevicePlan {
            streamed: false,
            slots: 48,
            one_more_slot: None,
            ..plan()
        };
        assert_eq!(resident.notice(), None);
        let text = resident.to_string();
        assert!(
            text.contains("all 48 layers of 599.8 MiB stay on the device"),
            "{text}"
        );
        assert!(!text.contains("slot"), "{text}");
        let asked = DevicePlan {
            automatic: false,
            ..plan()
        };
        assert_eq!(asked.notice(), None);
    }
}
