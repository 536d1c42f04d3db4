//! The values of options, as they are typed.

use clap::ValueEnum;
use clap::builder::TypedValueParser;
use seqstream::backend::cuda::{LEAST_SLOTS, MOST_SLOTS, WeightMode};

/// A layer as it was typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerArg {
    /// Every layer, and the embedding.
    All,
    /// The layer of this number; negative numbers count from the end.
    Number(i64),
}

impl std::str::FromStr for LayerArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::All);
        }
        let number = text.parse().map(Self::Number);
        number.map_err(|_| "write numbers such as 0,3,-1 (-1 is the last layer), or all".into())
    }
}

/// Where the weights stand, as it was typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WeightsArg(pub WeightMode);

impl std::str::FromStr for WeightsArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mode = match text.split_once(':') {
            None if text == "auto" => WeightMode::Auto,
            None if text == "resident" => WeightMode::Resident,
            None if text == "streamed" => WeightMode::Streamed { slots: None },
            Some(("streamed", slots)) => {
                let slots = slots.parse().map_err(|_| {
                    format!(
                        "write a number of slots after streamed:, such as streamed:{LEAST_SLOTS}"
                    )
                })?;
                if slots < LEAST_SLOTS {
                    return Err(format!(
                        "streaming needs at least {LEAST_SLOTS} slots: one layer is loaded while another is computed"
                    ));
                }
                if slots > MOST_SLOTS {
                    return Err(format!("give at most {MOST_SLOTS} slots"));
                }
                WeightMode::Streamed { slots: Some(slots) }
            }
            _ => return Err("write auto, resident, streamed, or streamed:3 for 3 slots".into()),
        };
        Ok(Self(mode))
    }
}

/// The values of `--pool`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum PoolArg {
    Mean,
    #[value(alias = "bos")]
    Cls,
    Max,
    None,
}

/// The values of `--long`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum LongArg {
    Truncate,
    Window,
    Error,
}

/// The values of `--clean`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum CleanArg {
    #[value(alias = "upper")]
    On,
    #[value(alias = "keep")]
    Off,
}

/// The values of `--gaps`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum GapsArg {
    Keep,
    Drop,
}

/// The values of `--names`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum NamesArg {
    First,
    Header,
}

/// The values of `--bad-records`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum BadRecordsArg {
    Stop,
    Skip,
}

/// The values of `--chains`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum ChainsArg {
    Keep,
    Split,
}

/// The values of `--streams`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum SwitchArg {
    On,
    Off,
}

/// The values of `--dtype`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum DtypeArg {
    #[value(aliases = ["float32", "fp32"])]
    F32,
    #[value(aliases = ["float16", "fp16", "half"])]
    F16,
    #[value(alias = "bfloat16")]
    Bf16,
}

/// The values of `--output-dtype`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum OutputDtypeArg {
    #[value(aliases = ["float32", "fp32"])]
    F32,
    #[value(aliases = ["float16", "fp16", "half"])]
    F16,
}

/// Parses a number of threads, at most 1024: large machines have about that many cores. Threads
/// beyond the number of cores search for work in vain, and each takes longer the more of them there
/// are: on two cores, 2048 threads need minutes for work that one thread does at once.
pub fn threads() -> impl TypedValueParser<Value = usize> {
    up_to(1024)
}

/// Parses a token budget. The maximum is more than any device computes at once.
pub fn token_budget() -> impl TypedValueParser<Value = usize> {
    up_to(1 << 32)
}

pub fn up_to(most: u64) -> impl TypedValueParser<Value = usize> {
    clap::value_parser!(u64).range(1..=most).map(|n| n as usize)
}

pub fn bench_length() -> impl TypedValueParser<Value = usize> {
    clap::value_parser!(u64)
        .range(3..=1 << 20)
        .map(|n| n as usize)
}

pub fn positive() -> impl TypedValueParser<Value = usize> {
    up_to(1 << 40)
}
