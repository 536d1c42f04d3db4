//! Computes GEMMs of activations and weights by cuBLASLt. No other module calls that library.
//!
//! The library is opened at run time (`library`), through bindings that bindgen generates from its
//! header (`bindings`, written by `scripts/bindings`). Each [`Product`] is described by N, K, dtype
//! and epilogue, and has one algorithm for every number of rows, without split-K, so that a row's
//! bits depend on that row alone. Where f32 has to be as exact as on the CPU, K is cut into chains,
//! and each chain is a GEMM of the library ([`chain`](field@ProductSpec::chain)). An algorithm is chosen once,
//! by timing (`choose`). The choice is kept on disk (`cache`), shared by the devices of a job, and
//! part of the job's identity ([`Algorithms`]).
//!
//! ```no_run
//! # use seqstream::gpu::{cublaslt::*, driver::*};
//! # use seqstream::dtype::DType;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (context, x, w, bias, out) = (Context::new(0)?, 0, 0, 0, 0);
//! let algorithms = std::sync::Arc::new(Algorithms::new(Algorithms::default_cache()));
//! let gemm = Gemm::load(&context, algorithms, Tuning::timed(33_792))?;
//! let qkv = gemm.product(&ProductSpec {
//!     outputs: 3840,
//!     inputs: 1280,
//!     dtype: DType::F16,
//!     kind: Kind::Store,
//!     bias: true,
//!     chain: WHOLE,
//! })?;
//! let workspace = Arena::new(&context, WORKSPACE)?.take("workspace", WORKSPACE)?;
//! let stream = Stream::new(&context, StreamName::Compute, 0)?;
//! let operands = Operands { x, w, bias, out };
//! // SAFETY: the memory has these sizes, and nothing else touches it.
//! unsafe { qkv.run(&stream, &workspace, operands, 1000)? };
//! # Ok(()) }
//! ```

mod algorithm;
#[allow(unsafe_op_in_unsafe_fn)] // generated code
mod bindings;
mod cache;
mod choose;
mod error;
mod handle;
mod library;
mod product;
mod table;
#[cfg(test)]
mod tests;
mod workbench;

pub use algorithm::{Algorithm, Algorithms, Machine};
pub use choose::Tuning;
pub use error::{CallError, GemmError, Refusal};
pub use library::{choose, look_in};
pub use product::{ALIGNMENT, CHAIN_STEP, Kind, Operands, Product, ProductSpec, WHOLE, WORKSPACE};
pub use table::AlgorithmTable;
pub use workbench::{Workbench, randomise};

use crate::gpu::driver::{Context, devices};
use algorithm::Asking;
use handle::Lt;
use product::Described;
use std::sync::Arc;

/// Finds the cuBLASLt that GEMMs use, whether or not there is a device. Returns its file and its
/// version as text.
///
/// # Errors
/// [`GemmError::Missing`] if there is none, and [`GemmError::Library`] if it cannot be used.
pub fn cublaslt() -> Result<(&'static str, String), GemmError> {
    let library = library::open()?;
    Ok((&library.path, library::version_text(library.version)))
}

/// cuBLASLt on one device: makes the [`Product`]s of a job.
#[derive(Clone)]
pub struct Gemm {
    lt: Arc<Lt>,
    machine: Machine,
    device_name: String,
    algorithms: Arc<Algorithms>,
    tuning: Tuning,
}

impl Gemm {
    /// Opens the library for a device. `algorithms` belongs to the job and is the same for all its
    /// devices.
    ///
    /// # Errors
    /// [`GemmError`] if there is no library, or if the algorithms are for another kind of device or
    /// another version of the library.
    pub fn load(
        context: &Context,
        algorithms: Arc<Algorithms>,
        tuning: Tuning,
    ) -> Result<Self, GemmError> {
        let library = library::open()?;
        let ordinal = context.ordinal();
        let device = devices()?.into_iter().find(|d| d.ordinal == ordinal);
        // The device of a context is always one of the driver's devices.
        let (device_name, capability) = device.map(|d| (d.name, d.capability)).unwrap_or_default();
        let machine = Machine {
            capability,
            cublaslt: library.version,
        };
        let lt = Lt::new(context, library)?;
        algorithms.admit(Asking {
            machine,
            device_name: &device_name,
            ordinal,
        })?;
        Ok(Self {
            lt,
            machine,
            device_name,
            algorithms,
            tuning,
        })
    }

    /// Returns whether the algorithms of all these products are known, so that [`product`] has none
    /// to choose.
    ///
    /// [`product`]: Self::product
    pub fn knows(&self, specs: &[ProductSpec]) -> bool {
        self.algorithms.know(specs, self.asking())
    }

    fn asking(&self) -> Asking<'_> {
        Asking {
            machine: self.machine,
            device_name: &self.device_name,
            ordinal: self.lt.context.ordinal(),
        }
    }

    /// Makes a [`Product`] that is ready to run. If its algorithm has to be chosen first, the call
    /// takes up to about two seconds and, for a moment, memory of the device. So call it before the
    /// job's arena is allocated.
    ///
    /// # Errors
    /// [`GemmError`] if no algorithm can be had or a call fails.
    pub fn product(&self, spec: &ProductSpec) -> Result<Product, GemmError> {
        let most = self.tuning.most();
        let usable = |algorithm: &Algorithm| {
            let mut described = Described::new(&self.lt, spec, most)?;
            let answer = choose::usable(&mut described, spec, &algorithm.library(), most)?;
            Ok(answer.err())
        };
        let choose = || choose::choose(&self.lt, spec, &self.tuning);
        let algorithm = self.algorithms.get(spec, self.asking(), usable, choose)?;
        let described = Described::new(&self.lt, spec, most)?;
        Ok(Product::new(*spec, algorithm, described, most))
    }

    /// Makes a [`Product`] with the algorithm that the library itself prefers for `rows` rows, with
    /// or without split-K. It is for comparisons of speed, not for computing results.
    ///
    /// # Errors
    /// [`GemmError`] if the library offers no algorithm or a call fails.
    pub fn library_choice(&self, spec: &ProductSpec, rows: usize) -> Result<Product, GemmError> {
        let offers = choose::offers(&self.lt, spec, rows, false)?;
        let Some(first) = offers.first() else {
            return Err(GemmError::NoAlgorithm {
                spec: spec.to_string(),
                device: self.lt.context.ordinal(),
                refused: Vec::new(),
            });
        };
        let described = Described::new(&self.lt, spec, rows)?;
        let workspace = described.serves(first, &spec.to_string())?;
        let algorithm = Algorithm::new(first, workspace.unwrap_or(0));
        Ok(Product::new(*spec, algorithm, described, rows))
    }

    /// Returns the [`Algorithms::fingerprint`] of the job's algorithms.
    pub fn fingerprint(&self) -> String {
        self.algorithms.fingerprint()
    }

    /// Returns the library's version and the device's compute capability.
    pub fn machine(&self) -> Machine {
        self.machine
    }

    /// Returns the library's file, as it was opened.
    pub fn library(&self) -> &'static str {
        &self.lt.library.path
    }
}

impl std::fmt::Debug for Gemm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gemm")
            .field("library", &self.library())
            .field("machine", &self.machine)
            .field("algorithms", &self.algorithms)
            .finish_non_exhaustive()
    }
}
