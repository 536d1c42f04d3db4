//! What a CUDA device can do at most: the rate of a large matrix product, and of a copy.

use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::median;
use super::operations::OfCeiling;
use crate::dtype::DType;
use crate::gpu::cublaslt::{
    Algorithms, Gemm, GemmError, Kind, Product, ProductSpec, Tuning, WHOLE, Workbench,
};
use crate::gpu::driver::{Context, copy_rates};

/// The fewest and the most rows, outputs and inputs of the product.
const SIDES: [usize; 2] = [512, 8192];
/// The product is made larger until it takes this many milliseconds, so that neither its launch nor
/// the last blocks of it matter.
const LONG_ENOUGH: f64 = 1.0;
/// How long the device rests before the first products, so that its clock is not lowered.
const REST: Duration = Duration::from_millis(500);
/// How many products count as a burst.
const BURST: usize = 10;
/// How long products run one after the other for the sustained rate. The clock falls within the first
/// half.
const SUSTAINED: Duration = Duration::from_secs(2);
/// The bytes that are copied at a time, if there is memory for them.
const COPIED: usize = 1 << 30;
/// How many copies are timed.
const COPIES: usize = 20;

/// The most that a machine does, measured in the same run as the operations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ceilings {
    /// The bytes that are read and written per second by a copy within the device's memory, in units
    /// of 10^9.
    pub copy_gb_per_s: f64,
    /// The rates of a large product, in the dtype of the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product: Option<ProductCeilings>,
}

/// The rates of a large product by the library's first choice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProductCeilings {
    /// The number of its rows, outputs and inputs.
    pub side: usize,
    /// The median of the first products after a rest, in units of 10^12 operations per second.
    pub burst_tflops: f64,
    /// The median of products in the second half of two seconds without a pause. A device that is
    /// limited by power has lowered its clock by then.
    pub sustained_tflops: f64,
}

impl fmt::Display for Ceilings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ceilings: a copy moves {:.0} GB/s", self.copy_gb_per_s)?;
        match &self.product {
            Some(p) => write!(
                f,
                ", a product of {0} x {0} x {0} reaches {1:.0} TFLOP/s at first and {2:.0} after two seconds",
                p.side, p.burst_tflops, p.sustained_tflops
            ),
            None => Ok(()),
        }
    }
}

impl Ceilings {
    /// Returns which ceiling bounds an operation of so many floating-point operations and bytes, and
    /// how near `seconds` come to it.
    pub(super) fn of(&self, (flops, bytes): (f64, f64), seconds: f64) -> Option<OfCeiling> {
        let memory = bytes / (1e9 * self.copy_gb_per_s);
        let products = match (&self.product, flops > 0.0) {
            (_, false) => 0.0,
            (Some(product), true) => flops / (1e12 * product.sustained_tflops),
            (None, true) => return None,
        };
        let (bound_by, least) = match products > memory {
            true => ("products", products),
            false => ("memory", memory),
        };
        let of_ceiling = least / seconds;
        of_ceiling.is_finite().then(|| OfCeiling {
            bound_by: bound_by.into(),
            of_ceiling,
        })
    }
}

/// Measures the ceilings of a device on which nothing else runs.
///
/// # Errors
/// [`GemmError`] if the device fails, or has too little memory.
pub(super) fn ceilings(ordinal: u32, dtype: DType) -> Result<Ceilings, GemmError> {
    let context = Context::new(ordinal)?;
    Ok(Ceilings {
        copy_gb_per_s: median(copy_rates(&context, COPIED, COPIES)?) / 1e9,
        product: Some(product(&context, dtype)?),
    })
}

/// A product that is ready to be timed.
struct Large {
    bench: Workbench,
    product: Product,
    side: usize,
}

impl Large {
    fn new(context: &Context, dtype: DType, side: usize) -> Result<Self, GemmError> {
        let spec = ProductSpec {
            outputs: side,
            inputs: side,
            dtype,
            kind: Kind::Store,
            bias: false,
            chain: WHOLE,
        };
        let bench = Workbench::new(context, &spec, side, 0)?;
        // The library's own first choice, which is not kept.
        let chosen = Arc::new(Algorithms::new(None));
        let gemm = Gemm::load(context, chosen, Tuning::timed(bench.rows()))?;
        let product = gemm.library_choice(&spec, bench.rows())?;
        Ok(Self {
            bench,
            product,
            side,
        })
    }

    fn milliseconds(&self) -> Result<f64, GemmError> {
        let time = self.bench.milliseconds(&self.product, self.bench.rows())?;
        Ok(f64::from(time))
    }

    fn tflops(&self) -> Result<f64, GemmError> {
        let flops = 2.0 * (self.bench.rows() * self.side * self.side) as f64;
        Ok(flops / (1e9 * self.milliseconds()?))
    }
}

fn product(context: &Context, dtype: DType) -> Result<ProductCeilings, GemmError> {
    let [least, most] = SIDES;
    let mut large = Large::new(context, dtype, least)?;
    loop {
        // The first run loads the kernel.
        large.milliseconds()?;
        if large.side >= most || large.milliseconds()? >= LONG_ENOUGH {
            break;
        }
        let side = 2 * large.side;
        // The memory of the smaller one is given back first.
        drop(large);
        large = Large::new(context, dtype, side)?;
    }
    thread::sleep(REST);
    let burst: Result<Vec<f64>, GemmError> = (0..BURST).map(|_| large.tflops()).collect();
    let (began, mut late) = (Instant::now(), Vec::new());
    while began.elapsed() < SUSTAINED {
        let rate = large.tflops()?;
        if began.elapsed() > SUSTAINED / 2 || late.is_empty() {
            late.push(rate);
        }
    }
    Ok(ProductCeilings {
        side: large.side,
        burst_tflops: median(burst?),
        sustained_tflops: median(late),
    })
}
