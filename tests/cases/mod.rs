//! One case per operation: its inputs and shapes, its result in f64 with a tolerance that follows
//! from the dtype, and the bytes or FLOPs that bound it. The same cases are tests (`tests/cuda/kernels.rs`)
//! and the benchmark (`cargo bench --bench kernels`), on the CPU backend, the simulated device and
//! a GPU.
//!
//! To add a case for a kernel, write a struct that implements [`Case`], and list its shapes in the
//! file's `small` (for the check) and `large` (for the times).
#![allow(dead_code)] // tests and the benchmark use different parts

pub mod attention;
pub mod device;
pub mod elementwise;
pub mod gemm;
pub mod gemm_gelu;
pub mod norm;
#[allow(clippy::duplicate_mod)] // the benchmark has the numbers without the devices of the tests
#[path = "../support/cuda/numbers.rs"]
pub mod numbers;

use device::{Launch, Machine};
use numbers::error;
use seqstream::backend::cpu::Cpu;
use seqstream::dtype::DType;
use seqstream::gpu::driver::Region;

/// A buffer on the device that a kernel reads or writes.
#[derive(Debug, Clone)]
pub enum Operand {
    /// A matrix that is read. In a benchmark each round reads another one, as in a model.
    Input { count: usize, dtype: DType },
    /// Parameters that are read, which every round shares.
    Parameter { count: usize, dtype: DType },
    /// Bytes that are read: tokens, starts, work lists.
    Bytes(Vec<u8>),
    /// A matrix that is written.
    Output { count: usize, dtype: DType },
    /// A matrix that is read and written.
    InPlace { count: usize, dtype: DType },
}

impl Operand {
    pub fn bytes(&self) -> usize {
        match self {
            Self::Input { count, dtype }
            | Self::Parameter { count, dtype }
            | Self::Output { count, dtype }
            | Self::InPlace { count, dtype } => count * dtype.size(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    pub fn dtype(&self) -> DType {
        match self {
            Self::Input { dtype, .. }
            | Self::Parameter { dtype, .. }
            | Self::Output { dtype, .. }
            | Self::InPlace { dtype, .. } => *dtype,
            Self::Bytes(_) => DType::F32,
        }
    }
}

/// What an operand should contain afterwards.
pub struct Wanted {
    /// The index of the operand.
    pub operand: usize,
    pub values: Vec<f64>,
    /// The bound on the relative error ([`error`]).
    pub tolerance: f64,
}

/// Which kernel computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The kernel that a model uses on this device.
    Kernel,
    /// Its plain reference.
    Reference,
}

/// The operation on the CPU backend.
pub trait OnCpu {
    fn run(&mut self, cpu: &mut Cpu);
    /// Returns what [`Wanted`] number 0 describes.
    fn result(&self) -> Vec<f32>;
}

/// An operation with its inputs.
pub trait Case {
    /// Returns the operation, dtype and shape; the benchmark selects cases by words of the name.
    fn name(&self) -> String;
    /// Returns the operands of these kernels. A work list depends on the kernels.
    fn operands(&self, machine: &Machine, by: By) -> Vec<Operand>;
    /// Returns the values of an operand that is read.
    fn values(&self, operand: usize) -> Vec<f32>;
    /// Returns the launches, in order, for operands at these addresses. The result is `None` if
    /// there is no such kernel.
    fn launches(&self, at: &[u64], machine: &Machine, by: By) -> Option<Vec<Launch>>;
    /// Returns the launches for operands in these regions; an operand without bytes has no region.
    /// Only kernels that take tensor maps need more of a region than its address.
    fn launches_in(
        &self,
        regions: &[Option<Region>],
        machine: &Machine,
        by: By,
    ) -> Option<Vec<Launch>> {
        let address = |region: &Option<Region>| region.as_ref().map_or(0, Region::address);
        let at: Vec<u64> = regions.iter().map(address).collect();
        self.launches(&at, machine, by)
    }
    /// Returns the operation on the CPU backend, if it has this operation.
    fn on_cpu(&self) -> Option<Box<dyn OnCpu>> {
        None
    }
    fn wanted(&self) -> Vec<Wanted>;
    /// Returns the bytes that must be moved at least.
    fn bytes(&self) -> usize;
    /// Returns the floating-point operations; 0 if bytes bound the operation.
    fn flops(&self) -> f64 {
        0.0
    }
}

/// The extent of a list of cases.
#[derive(Debug, Clone, Copy)]
pub enum Extent {
    /// Awkward shapes, which a check in f64 can afford.
    Small,
    /// The shapes of the models, with about this many tokens in a small and in a large batch.
    Large { tokens: [usize; 2] },
}

/// Returns all cases.
pub fn all(extent: Extent) -> Vec<Box<dyn Case>> {
    let mut cases = attention::cases(extent);
    cases.extend(norm::cases(extent));
    cases.extend(elementwise::cases(extent));
    cases.extend(gemm::cases(extent));
    cases.extend(gemm_gelu::cases(extent));
    cases
}

/// Compares results with f64. The error is the largest relative error, in units of its tolerance.
///
/// # Errors
/// Returns what is wrong, if it is more than the tolerance.
pub fn compare(what: &str, got: &[f32], wanted: &Wanted) -> Result<f64, String> {
    let off = error(got, &wanted.values);
    if off <= wanted.tolerance {
        Ok(off / wanted.tolerance)
    } else {
        Err(format!(
            "{what}: error {off:.2e}, more than {:.2e}",
            wanted.tolerance
        ))
    }
}

/// Computes a case on the CPU backend and compares it with f64; `None` if the backend lacks the
/// operation.
///
/// # Errors
/// As for [`compare`].
pub fn check_on_cpu(case: &dyn Case, cpu: &mut Cpu) -> Option<Result<f64, String>> {
    let mut operation = case.on_cpu()?;
    operation.run(cpu);
    let wanted = case.wanted();
    Some(compare(&case.name(), &operation.result(), &wanted[0]))
}

/// Computes a case on a device and compares every result with f64; `None` if there is no such
/// kernel.
///
/// # Errors
/// As for [`compare`]; also the driver's error.
pub fn check(case: &dyn Case, device: &device::Device, by: By) -> Option<Result<f64, String>> {
    let results = match device.compute(case, by) {
        Ok(results) => results?,
        Err(error) => return Some(Err(format!("{}: {error}", case.name()))),
    };
    let operands = case.operands(&device.machine, by);
    let mut worst: f64 = 0.0;
    for wanted in case.wanted() {
        let got = numbers::values(&results[wanted.operand], operands[wanted.operand].dtype());
        match compare(&format!("{} {by:?}", case.name()), &got, &wanted) {
            Ok(off) => worst = worst.max(off),
            wrong => return Some(wrong),
        }
    }
    Some(Ok(worst))
}
