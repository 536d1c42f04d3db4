//! The errors of GEMMs.

use super::bindings as sys;
use crate::gpu::driver::{DriverError, Stream, StreamName};
use crate::remedy::{Action, Remedy};
use std::fmt;

/// Why a GEMM cannot be described or run.
#[derive(Debug, thiserror::Error)]
pub enum GemmError {
    /// There is no cuBLASLt on this machine.
    #[error("cuBLASLt was not found; tried {}", .tried.join(", "))]
    Missing {
        /// The names and folders that were tried, with the dynamic linker's message for each file
        /// that exists.
        tried: Vec<String>,
    },
    /// A library was found but cannot be used.
    #[error("{path} cannot be used: {reason}")]
    Library {
        /// The library's file.
        path: String,
        /// Why it cannot be used.
        reason: String,
    },
    /// A call of cuBLASLt failed.
    #[error("{0}")]
    Call(Box<CallError>),
    /// None of the algorithms that the library offers may be used.
    #[error("cuBLASLt has no algorithm for {spec} on device {device}: {}", refusals(.refused))]
    NoAlgorithm {
        /// The name of the GEMM.
        spec: String,
        /// The device's ordinal.
        device: u32,
        /// For each offered algorithm, why it is refused.
        refused: Vec<String>,
    },
    /// The table that this job has to use does not serve.
    #[error("{table} cannot be used on device {device}: {refusal}")]
    Imposed {
        /// A description of the table.
        table: String,
        /// The device's ordinal.
        device: u32,
        /// Why the table does not serve.
        refusal: Refusal,
    },
    /// A table of algorithms cannot be read.
    #[error("not a table of GEMM algorithms: {0}")]
    Table(String),
    /// The GEMM cannot take these operands.
    #[error("{spec}: {reason}")]
    Operand {
        /// The name of the GEMM.
        spec: String,
        /// What is wrong with the operands.
        reason: String,
    },
    /// A driver call failed.
    #[error(transparent)]
    Driver(#[from] DriverError),
}

/// Why a table of algorithms does not serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The table is for another kind of device, or another version of cuBLASLt.
    #[error("it is for {of}, and here is {here}")]
    Machine {
        /// The device and library that the table is for.
        of: String,
        /// The device and library of this machine.
        here: String,
    },
    /// The table has no algorithm for a GEMM of this job.
    #[error("it has no algorithm for the product {spec}")]
    Lacks {
        /// The name of the GEMM.
        spec: String,
    },
    /// An algorithm of the table may not be used.
    #[error("its algorithm for the product {spec} is refused: {reason}")]
    Unusable {
        /// The name of the GEMM.
        spec: String,
        /// Why the algorithm may not be used.
        reason: String,
    },
}

impl Refusal {
    /// Returns what the user can do.
    fn advice(&self) -> &'static str {
        match self {
            Self::Machine { .. } => {
                "a job goes on only with the kind of GPU and the version of cuBLASLt that it was begun with: choose that GPU, or that library by SEQSTREAM_LIBCUBLASLT; on others begin a new job in another output directory, without this table"
            }
            Self::Lacks { .. } => {
                "the table is of a job with another model, dtype or version of seqstream: give the table of a job with the same ones, or begin a new job without a table"
            }
            Self::Unusable { .. } => {
                "the table is not what this cuBLASLt gave: give the table of another share of the same job, or begin a new job without a table"
            }
        }
    }
}

fn refusals(refused: &[String]) -> String {
    match refused {
        [] => "none is offered".into(),
        some => some.join("; "),
    }
}

/// The details of a cuBLASLt call that failed.
#[derive(Debug)]
pub struct CallError {
    /// The library function that was called.
    pub call: &'static str,
    /// The status code. A newer library may return a code that this program does not know.
    pub status: u32,
    /// The name of the status code, such as `CUBLAS_STATUS_NOT_SUPPORTED`.
    pub name: String,
    /// The library's description of the status code.
    pub meaning: String,
    /// What the call was made for: for the run of a GEMM, its name and number of rows.
    pub operation: String,
    /// The device's ordinal.
    pub device: u32,
    /// The stream's kind and number, if the call enqueued work.
    pub stream: Option<(StreamName, usize)>,
    /// The batch that the stream was working on.
    pub batch: Option<u64>,
    /// The driver's error on the same stream, if there is one. It is then the cause.
    pub cause: Option<DriverError>,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            call,
            status,
            name,
            meaning,
            operation,
            device,
            stream,
            batch,
            cause,
        } = self;
        write!(f, "{call} failed with {status} ({name}")?;
        if meaning != name {
            write!(f, ": {meaning}")?;
        }
        write!(f, "), device {device}")?;
        if let Some((name, number)) = stream {
            write!(f, ", stream {name} {number}")?;
        }
        write!(f, ", in {operation}")?;
        if let Some(batch) = batch {
            write!(f, ", batch {batch}")?;
        }
        match cause {
            Some(cause) => write!(f, "; the driver: {cause}"),
            None => Ok(()),
        }
    }
}

impl GemmError {
    /// Sets the operation that a failed call belongs to. Other errors are returned unchanged.
    pub(super) fn during(mut self, operation: impl FnOnce() -> String) -> Self {
        if let Self::Call(call) = &mut self {
            call.operation = operation();
        }
        self
    }

    /// Adds to a failed call the stream it was made on, its batch, and the driver's error on that
    /// stream. Other errors are returned unchanged.
    pub(super) fn on(mut self, stream: &Stream) -> Self {
        if let Self::Call(call) = &mut self {
            call.stream = Some((stream.name(), stream.number()));
            call.batch = stream.batch();
            call.cause = stream.status().err();
        }
        self
    }

    /// Returns whether a table of algorithms was refused, as opposed to a device that failed.
    pub fn is_refused_table(&self) -> bool {
        matches!(self, Self::Imposed { .. })
    }

    /// Returns what the user can do about the error, if a remedy is known.
    pub fn remedy(&self) -> Option<Remedy> {
        let or_another_dtype =
            |advice: &'static str| Remedy::any_of([advice.into(), Action::OtherDType.into()]);
        Some(match self {
            Self::Missing { .. } | Self::Library { .. } => {
                "install cuBLAS 12 or 13 (the CUDA toolkit, or `pip install nvidia-cublas`), or set SEQSTREAM_LIBCUBLASLT to its libcublasLt.so.13".into()
            }
            Self::Call(error) => match error.status {
                _ if error.cause.is_some() => error.cause.as_ref()?.job_remedy(),
                sys::CUBLAS_STATUS_NOT_INITIALIZED | sys::CUBLAS_STATUS_ALLOC_FAILED => {
                    "the device has too little free memory, or another program's state is in the way: see nvidia-smi".into()
                }
                sys::CUBLAS_STATUS_ARCH_MISMATCH => {
                    "this cuBLAS does not know the device: use a newer one, by SEQSTREAM_LIBCUBLASLT".into()
                }
                sys::CUBLAS_STATUS_EXECUTION_FAILED | sys::CUBLAS_STATUS_INTERNAL_ERROR => {
                    Action::ResumeJob.into()
                }
                sys::CUBLAS_STATUS_NOT_SUPPORTED => or_another_dtype(
                    "this cuBLAS does not compute such a product: use a newer one, by SEQSTREAM_LIBCUBLASLT",
                ),
                _ => return None,
            },
            Self::NoAlgorithm { .. } => {
                or_another_dtype("use another cuBLAS, by SEQSTREAM_LIBCUBLASLT")
            }
            Self::Imposed { refusal, .. } => refusal.advice().into(),
            Self::Driver(error) => error.job_remedy(),
            Self::Table(_) | Self::Operand { .. } => return None,
        })
    }
}
