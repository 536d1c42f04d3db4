//! The checked command line of `embed`: its values do not contradict each other.

use std::path::PathBuf;

use super::Failure;
use super::args::{
    BadRecordsArg, ChainsArg, CleanArg, DtypeArg, EmbedArgs, GapsArg, LayerArg, LongArg, NamesArg,
    OutputDtypeArg, PoolArg, SwitchArg, WeightsArg,
};
use super::remedy::words;
use super::{peers, share};
use seqstream::architecture::ModelConfig;
use seqstream::backend::cuda::{self, WeightMode};
use seqstream::dtype::DType;
use seqstream::engine::Device;
use seqstream::model::{Pool, Request};
use seqstream::output::OutputDtype;
use seqstream::pipeline::{LengthLimit, Long, Share};
use seqstream::sequence::{BadRecords, Chains, Cleaning, Input, Names};

/// The checked options of `embed`.
#[derive(Debug)]
pub struct EmbedOptions {
    /// The input files, in order.
    pub inputs: Vec<Input>,
    /// The model folder or file.
    pub model: PathBuf,
    /// The output directory.
    pub out: PathBuf,
    /// Whether to continue the job in the output directory.
    pub resume: bool,
    /// How to pool the states of a sequence; empty for no pooled rows.
    pub pools: Vec<Pool>,
    /// Whether to keep the states of every token.
    pub per_token: bool,
    /// The layers as the user gave them: negative numbers count from the end.
    pub layers: Vec<LayerArg>,
    /// The data type of the stored values.
    pub output_dtype: OutputDtype,
    /// The maximum length of a sequence, if there is one.
    pub limit: Option<LengthLimit>,
    /// Whether to clean the text of a sequence.
    pub cleaning: Cleaning,
    /// What the name of a record is.
    pub names: Names,
    /// What becomes of a record that is bad by itself.
    pub bad_records: BadRecords,
    /// What becomes of a record of several chains.
    pub chains: Chains,
    /// Whether a character that would be cleaned or counted as unknown is an error.
    pub strict: bool,
    /// Where to compute.
    pub device: Device,
    /// Where the weights stand on CUDA devices.
    pub weights: WeightMode,
    /// Whether to print the plan and stop.
    pub plan: bool,
    /// The number of CPU threads.
    pub threads: usize,
    /// The token budget, if the user gave one; the default depends on the device.
    pub token_budget: Option<usize>,
    /// The share of the shards to compute.
    pub share: Share,
    /// Where the share comes from, if a job array gave it.
    pub notice: Option<String>,
    /// What may be wrong with the options.
    pub warnings: Vec<String>,
    /// The exit code of a job that a signal stopped, if the user gave one.
    pub stopped_code: Option<u8>,
    /// Records per shard.
    pub shard_size: u64,
    /// The job whose GEMM algorithms to use, if the user gave one: its output directory or its
    /// algorithms.json.
    pub gemm_algorithms: Option<PathBuf>,
    /// The file for the trace, if the user gave one.
    pub trace: Option<PathBuf>,
    /// Whether to print the summary as JSON.
    pub json: bool,
}

pub(super) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Failure {
    Failure::Usage {
        message: message.into(),
        hint: Some(hint.into()),
    }
}

/// Returns the data type of a computation on CUDA.
pub fn on_cuda(dtype: Option<DtypeArg>) -> DType {
    match dtype {
        None | Some(DtypeArg::F16) => DType::F16,
        Some(DtypeArg::Bf16) => DType::Bf16,
        Some(DtypeArg::F32) => DType::F32,
    }
}

/// Resolves `--device` against the CUDA devices of this machine. A missing device is an error that
/// names the remedy.
pub fn device(name: &str, dtype: Option<DtypeArg>, streams: SwitchArg) -> Result<Device, Failure> {
    if name == "cpu" {
        if dtype.is_some_and(|d| d != DtypeArg::F32) {
            return Err(usage(
                "--dtype: the CPU computes in f32, whatever the weights are stored in; f16 and bf16 are for GPUs",
                "leave --dtype out; --output-dtype f16 halves the size of the output",
            ));
        }
        return Ok(Device::Cpu);
    }
    let listed = match name.split_once(':') {
        None if name == "cuda" => None,
        Some(("cuda", list)) => {
            let numbers: Result<Vec<u32>, _> = list.split(',').map(str::parse).collect();
            match numbers {
                Ok(numbers) => Some(numbers),
                Err(_) => return Err(no_device(name)),
            }
        }
        _ => return Err(no_device(name)),
    };
    let there = cuda::require().map_err(|missing| Failure::Device {
        message: format!("--device {name}: {missing}"),
        hint: words(&missing.remedy()),
    })?;
    let there: Vec<u32> = there.iter().map(|d| d.ordinal).collect();
    let devices = listed.unwrap_or_else(|| there.clone());
    if let Some(missing) = devices.iter().find(|d| !there.contains(d)) {
        return Err(Failure::Device {
            message: format!(
                "--device {name}: there is no device {missing}, but 0 to {}",
                there.len().saturating_sub(1)
            ),
            hint: "seqstream doctor lists the devices".into(),
        });
    }
    if (1..devices.len()).any(|i| devices[..i].contains(&devices[i])) {
        return Err(usage(
            format!("--device {name}: a device is named twice"),
            "name each once",
        ));
    }
    Ok(Device::Cuda {
        devices,
        dtype: on_cuda(dtype),
        overlap: streams == SwitchArg::On,
    })
}

fn no_device(name: &str) -> Failure {
    usage(
        format!("--device {name} is no device"),
        "give cpu, cuda, or cuda:0,1 with the numbers of devices",
    )
}

/// Checks `--weights` and `--plan`, which are for CUDA devices.
pub fn weights(arg: WeightsArg, plan: bool, device: &Device) -> Result<WeightMode, Failure> {
    let WeightsArg(mode) = arg;
    if *device == Device::Cpu {
        let given = match (mode, plan) {
            (WeightMode::Auto, false) => return Ok(mode),
            (WeightMode::Auto, true) => "--plan",
            _ => "--weights",
        };
        return Err(usage(
            format!(
                "{given} is for CUDA devices: on the CPU weights are used where the files are mapped"
            ),
            "leave it out, or add --device cuda",
        ));
    }
    Ok(mode)
}

impl TryFrom<EmbedArgs> for EmbedOptions {
    type Error = Failure;

    fn try_from(mut args: EmbedArgs) -> Result<Self, Failure> {
        peers::translate(&mut args)?;
        let device = device(&args.device, args.dtype, args.streams)?;
        if args.gemm_algorithms.is_some() && device == Device::Cpu {
            return Err(usage(
                "--gemm-algorithms is for CUDA devices: on the CPU there is nothing to choose",
                "leave it out, or add --device cuda",
            ));
        }
        let weights = weights(args.weights, args.plan, &device)?;
        let pools = pools(&args)?;
        let limit = length_limit(&args)?;
        if args.per_token
            && matches!(
                limit,
                Some(LengthLimit {
                    long: Long::Window { .. },
                    ..
                })
            )
        {
            return Err(usage(
                "--per-token cannot go with --long window: a token in two windows would have two states",
                "use --long truncate, or no --max-length: the models take sequences of any length",
            ));
        }
        let inputs: Vec<Input> = args.inputs.iter().map(Input::from).collect();
        if inputs.iter().filter(|i| matches!(i, Input::Stdin)).count() > 1 {
            return Err(usage(
                "standard input (-) can be read only once",
                "name it once",
            ));
        }
        let threads = args.threads.unwrap_or_else(cores);
        let asked = share::read(&args.share, &|name| {
            std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
        })?;
        Ok(Self {
            inputs,
            model: args.model,
            out: args.out,
            resume: args.resume,
            pools,
            per_token: args.per_token,
            layers: args.layers,
            output_dtype: match args.output_dtype {
                OutputDtypeArg::F32 => OutputDtype::F32,
                OutputDtypeArg::F16 => OutputDtype::F16,
            },
            limit,
            cleaning: cleaning(args.clean, args.gaps)?,
            names: args.names.into(),
            bad_records: args.bad_records.into(),
            chains: args.chains.into(),
            strict: args.strict,
            device,
            weights,
            plan: args.plan,
            threads,
            token_budget: args.token_budget,
            share: asked.share,
            notice: asked.notice,
            warnings: asked.warning.into_iter().collect(),
            stopped_code: args.stopped_code,
            shard_size: args.shard_size as u64,
            gemm_algorithms: args.gemm_algorithms,
            trace: args.trace,
            json: args.json,
        })
    }
}

/// Returns the number of cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// Converts the values of `--clean` and `--gaps`.
pub fn cleaning(clean: CleanArg, gaps: GapsArg) -> Result<Cleaning, Failure> {
    match (clean, gaps) {
        (CleanArg::Off, GapsArg::Drop) => Err(usage(
            "--gaps drop cannot go with --clean off, which leaves the text as it is",
            "leave one of them out",
        )),
        (CleanArg::On, GapsArg::Drop) => Ok(Cleaning::Ungapped),
        (CleanArg::On, GapsArg::Keep) => Ok(Cleaning::On),
        (CleanArg::Off, GapsArg::Keep) => Ok(Cleaning::Off),
    }
}

impl From<NamesArg> for Names {
    fn from(arg: NamesArg) -> Self {
        match arg {
            NamesArg::First => Self::First,
            NamesArg::Header => Self::Header,
        }
    }
}

impl From<BadRecordsArg> for BadRecords {
    fn from(arg: BadRecordsArg) -> Self {
        match arg {
            BadRecordsArg::Stop => Self::Stop,
            BadRecordsArg::Skip => Self::Skip,
        }
    }
}

impl From<ChainsArg> for Chains {
    fn from(arg: ChainsArg) -> Self {
        match arg {
            ChainsArg::Keep => Self::Keep,
            ChainsArg::Split => Self::Split,
        }
    }
}

/// Returns the poolings in the order given, each once.
fn pools(args: &EmbedArgs) -> Result<Vec<Pool>, Failure> {
    if args.pool == [PoolArg::None] && !args.per_token {
        return Err(usage(
            "--pool none leaves nothing to compute",
            "add --per-token",
        ));
    }
    let mut pools = Vec::new();
    for arg in &args.pool {
        let pool = match arg {
            PoolArg::Mean => Pool::Mean,
            PoolArg::Cls => Pool::Cls,
            PoolArg::Max => Pool::Max,
            PoolArg::None if args.pool.len() == 1 => break,
            PoolArg::None => {
                return Err(usage(
                    "--pool none cannot go with another pooling",
                    "leave none out, or give it alone with --per-token",
                ));
            }
        };
        if !pools.contains(&pool) {
            pools.push(pool);
        }
    }
    Ok(pools)
}

fn length_limit(args: &EmbedArgs) -> Result<Option<LengthLimit>, Failure> {
    // Truncation is the default because fair-esm's extract.py truncates, and most users who give a
    // length come from there.
    let how = args.long.unwrap_or(LongArg::Truncate);
    if args.stride.is_some() && how != LongArg::Window {
        return Err(usage(
            "--stride says how far apart windows are",
            "add --long window",
        ));
    }
    let Some(max) = args.max_length else {
        return Ok(None);
    };
    let long = match how {
        LongArg::Truncate => Long::Truncate,
        LongArg::Error => Long::Error,
        LongArg::Window => {
            let stride = args.stride.unwrap_or(max);
            if stride > max {
                return Err(usage(
                    format!(
                        "--stride {stride} is larger than --max-length {max}: tokens between windows would be lost"
                    ),
                    format!("give a stride from 1 to {max}"),
                ));
            }
            Long::Window { stride }
        }
    };
    Ok(Some(LengthLimit { max, long }))
}

/// Makes the request for a model: layers are counted from 0, and each occurs once.
pub fn request(options: &EmbedOptions, config: &ModelConfig) -> Result<Request, Failure> {
    let count = config.layers as i64;
    let mut layers = Vec::new();
    let typed = options.layers.iter().flat_map(|layer| match *layer {
        LayerArg::All => 0..=count,
        LayerArg::Number(number) => number..=number,
    });
    for typed in typed {
        let layer = if typed < 0 { count + 1 + typed } else { typed };
        if !(0..=count).contains(&layer) {
            return Err(usage(
                format!("--layers: there is no layer {typed} in a model of {count} layers"),
                format!(
                    "give layers from 0 to {count}, or from -{} to -1",
                    count + 1
                ),
            ));
        }
        if !layers.contains(&(layer as usize)) {
            layers.push(layer as usize);
        }
    }
    Ok(Request {
        layers,
        pools: options.pools.clone(),
        per_token: options.per_token,
    })
}

#[cfg(test)]
mod tests {
    use super::super::args::{Cli, Command};
    use super::*;
    use clap::Parser;

    fn parse(options: &str) -> Result<EmbedOptions, Failure> {
        let line = format!("seqstream embed a.fa --model m --out o {options}");
        match Cli::try_parse_from(line.split_whitespace())
            .unwrap()
            .command
        {
            Command::Embed(args) => (*args).try_into(),
            _ => unreachable!(),
        }
    }

    fn layers(text: &str) -> Result<Vec<usize>, Failure> {
        let options = parse(&format!("--layers {text}"))?;
        Ok(request(&options, &ModelConfig::esm2(6, 32, 4))?.layers)
    }

    #[test]
    fn layers_count_from_either_end() {
        assert_eq!(layers("-1").unwrap(), [6]);
        assert_eq!(layers("0,3,-1").unwrap(), [0, 3, 6]);
        assert_eq!(layers("-1,-7,6,0").unwrap(), [6, 0]);
        assert_eq!(layers("all").unwrap(), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(layers("-1,all").unwrap(), [6, 0, 1, 2, 3, 4, 5]);
        for wrong in ["ALL", "0,x", "1.5", "last"] {
            let line = format!("seqstream embed a.fa --model m --out o --layers {wrong}");
            let error = Cli::try_parse_from(line.split_whitespace()).unwrap_err();
            let said = error.to_string();
            assert!(said.contains("write numbers such as 0,3,-1"), "{said}");
        }
        for wrong in ["7", "-8", "0,9223372036854775807"] {
            let failure = layers(wrong).unwrap_err();
            assert_eq!(failure.code(), 2);
            assert!(
                failure
                    .hint()
                    .unwrap()
                    .contains("from 0 to 6, or from -7 to -1")
            );
        }
    }

    #[test]
    fn limits_default_to_truncation_and_disjoint_windows() {
        let limit = |text: &str| parse(text).unwrap().limit;
        assert_eq!(limit(""), None);
        assert_eq!(
            limit("--max-length 9"),
            Some(LengthLimit {
                max: 9,
                long: Long::Truncate
            })
        );
        let window = |stride| {
            Some(LengthLimit {
                max: 9,
                long: Long::Window { stride },
            })
        };
        assert_eq!(limit("--max-length 9 --long window"), window(9));
        assert_eq!(limit("--max-length 9 --long window --stride 3"), window(3));
    }

    #[test]
    fn contradictions_are_usage_errors() {
        for wrong in [
            "--pool none",
            "--pool mean,none --per-token",
            "--pool none,none --per-token",
            "--max-length 9 --stride 3",
            "--max-length 9 --long window --stride 10",
            "--max-length 9 --long window --per-token",
            "--dtype bf16",
            "--clean off --gaps drop",
            "--gemm-algorithms other",
            "--weights resident",
            "--weights streamed",
            "--weights streamed:3",
            "--plan",
            "--share 0/2",
            "--share 3/2",
            "--share 1",
            "--share=-1/2",
            "-- - -",
        ] {
            let failure = parse(wrong).unwrap_err();
            assert_eq!(failure.code(), 2, "{wrong}: {failure}");
            assert!(failure.hint().is_some());
        }
        for wrong in ["gpu", "cuda:", "cuda:x", "cuda:0,"] {
            let failure = parse(&format!("--device {wrong}")).unwrap_err();
            assert_eq!(failure.code(), 2, "{wrong}: {failure}");
        }
    }

    #[test]
    fn weights_are_kept_or_streamed_through_two_slots_or_more() {
        let mode = |text: &str| text.parse::<WeightsArg>().map(|arg| arg.0);
        assert_eq!(mode("auto"), Ok(WeightMode::Auto));
        assert_eq!(mode("resident"), Ok(WeightMode::Resident));
        let streamed = |slots| Ok(WeightMode::Streamed { slots });
        assert_eq!(mode("streamed"), streamed(None));
        assert_eq!(mode("streamed:2"), streamed(Some(2)));
        assert_eq!(mode("streamed:48"), streamed(Some(48)));
        for (wrong, says) in [
            ("streamed:0", "at least 2 slots"),
            ("streamed:1", "at least 2 slots"),
            ("streamed:1025", "at most 1024"),
            ("streamed:", "a number of slots after streamed:"),
            ("streamed:-2", "a number of slots after streamed:"),
            ("streamed:2.5", "a number of slots after streamed:"),
            (
                "streamed:99999999999999999999",
                "a number of slots after streamed:",
            ),
            ("stream", "write auto, resident, streamed"),
            ("Auto", "write auto, resident, streamed"),
            ("resident:2", "write auto, resident, streamed"),
            ("", "write auto, resident, streamed"),
        ] {
            let said = mode(wrong).unwrap_err();
            assert!(said.contains(says), "{wrong}: {said}");
        }
    }

    #[test]
    fn what_clap_itself_refuses() {
        for wrong in [
            "--long window",
            "--stride 2",
            "--max-length 0",
            "--threads 0",
            "--weights streamed:1",
            "--weights much",
            "--shard-size 0",
            "-q -v",
        ] {
            let line = format!("seqstream embed a.fa --model m --out o {wrong}");
            assert!(
                Cli::try_parse_from(line.split_whitespace()).is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn old_names_of_options_are_still_read() {
        let share = |text: &str| parse(text).unwrap().share;
        assert_eq!(share("--shard 2/3"), share("--share 2/3"));
        let cleaning = |text: &str| parse(text).unwrap().cleaning;
        for (old, new, cleans) in [
            ("--case upper", "--clean on", Cleaning::On),
            ("--case keep", "--clean off", Cleaning::Off),
        ] {
            assert_eq!(cleaning(old), cleans);
            assert_eq!(cleaning(new), cleans);
        }
    }

    #[test]
    fn shares_are_counted_from_one() {
        assert_eq!(
            parse("--share 2/3").unwrap().share,
            Share { index: 2, of: 3 }
        );
        assert_eq!(parse("").unwrap().share, Share::ALL);
    }
}
