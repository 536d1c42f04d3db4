//! What a product can fail with.

use super::bindings as sys;
use crate::gpu::driver::{DriverError, Stream, StreamName};
use std::fmt;

/// Why a product cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum GemmError {
    /// No cuBLASLt on this machine.
    #[error("cuBLASLt was not found; tried {}", .tried.join(", "))]
    Missing {
        /// Names and folders, with what the dynamic linker said of files that are there.
        tried: Vec<String>,
    },
    /// A library that is there and cannot serve.
    #[error("{path} cannot be used: {reason}")]
    Library {
        /// Which.
        path: String,
        /// Why not.
        reason: String,
    },
    /// A call of cuBLASLt failed.
    #[error("{0}")]
    Call(Box<CallError>),
    /// Nothing that the library offers may be used.
    #[error("cuBLASLt has no algorithm for {spec} on device {device}: {}", refusals(.refused))]
    NoAlgorithm {
        /// The product.
        spec: String,
        /// The device's ordinal.
        device: u32,
        /// Why each that was offered is refused.
        refused: Vec<String>,
    },
    /// The table that this job has to use does not serve.
    #[error("{table} cannot be used on device {device}: {refusal}")]
    Imposed {
        /// Which table, in words.
        table: String,
        /// The device's ordinal.
        device: u32,
        /// Why not.
        refusal: Refusal,
    },
    /// A table of algorithms that cannot be read.
    #[error("not a table of GEMM algorithms: {0}")]
    Table(String),
    /// Operands that a product cannot take.
    #[error("{spec}: {reason}")]
    Operand {
        /// The product.
        spec: String,
        /// What is wrong.
        reason: String,
    },
    /// The driver failed.
    #[error(transparent)]
    Driver(#[from] DriverError),
}

/// Why a table of algorithms does not serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is of another kind of device, or version of cuBLASLt.
    #[error("it is for {of}, and here is {here}")]
    Machine {
        /// Device and library that it is for.
        of: String,
        /// Device and library that are here.
        here: String,
    },
    /// It has no algorithm for a product of this job.
    #[error("it has no algorithm for the product {spec}")]
    Lacks {
        /// The product.
        spec: String,
    },
    /// An algorithm of the table is none that may be used.
    #[error("its algorithm for the product {spec} is refused: {reason}")]
    Unusable {
        /// The product.
        spec: String,
        /// Why.
        reason: String,
    },
}

impl Refusal {
    /// What may help.
    fn hint(&self) -> &'static str {
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

/// A call of cuBLASLt that failed.
#[derive(Debug)]
pub struct CallError {
    /// The library's function.
    pub call: &'static str,
    /// Its answer; of newer libraries perhaps one that this program does not know.
    pub status: u32,
    /// The answer's name, `CUBLAS_STATUS_NOT_SUPPORTED`.
    pub name: String,
    /// What the library says it means.
    pub meaning: String,
    /// The product and its rows, where the call was made for one.
    pub operation: String,
    /// The device's ordinal.
    pub device: u32,
    /// The stream's kind and number, where the call put something on one.
    pub stream: Option<(StreamName, usize)>,
    /// The batch that the stream was at.
    pub batch: Option<u64>,
    /// What the driver says of the stream, if that is in error too: then it is the cause.
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
    /// The same error, where it is of a call, as one that happened in `operation`.
    pub(super) fn during(mut self, operation: impl FnOnce() -> String) -> Self {
        if let Self::Call(call) = &mut self {
            call.operation = operation();
        }
        self
    }

    /// The same error, where it is of a call, as one that happened on `stream`: with its batch, and what the driver
    /// says of it.
    pub(super) fn on(mut self, stream: &Stream) -> Self {
        if let Self::Call(call) = &mut self {
            call.stream = Some((stream.name(), stream.number()));
            call.batch = stream.batch();
            call.cause = stream.status().err();
        }
        self
    }

    /// Whether a table of algorithms is refused, as opposed to a device that fails.
    pub fn is_refused_table(&self) -> bool {
        matches!(self, Self::Imposed { .. })
    }

    /// What may help.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Missing { .. } | Self::Library { .. } => {
                "install cuBLAS 12 or 13 (the CUDA toolkit, or `pip install nvidia-cublas`), or set SEQSTREAM_LIBCUBLASLT to its libcublasLt.so.13"
            }
            Self::Call(error) => match error.status {
                _ if error.cause.is_some() => error.cause.as_ref()?.job_hint(),
                sys::CUBLAS_STATUS_NOT_INITIALIZED | sys::CUBLAS_STATUS_ALLOC_FAILED => {
                    "the device has too little free memory, or another program's state is in the way: see nvidia-smi"
                }
                sys::CUBLAS_STATUS_ARCH_MISMATCH => {
                    "this cuBLAS does not know the device: use a newer one, by SEQSTREAM_LIBCUBLASLT"
                }
                sys::CUBLAS_STATUS_EXECUTION_FAILED | sys::CUBLAS_STATUS_INTERNAL_ERROR => {
                    "finished shards are kept: run again with --resume"
                }
                sys::CUBLAS_STATUS_NOT_SUPPORTED => {
                    "this cuBLAS does not compute such a product: use a newer one, by SEQSTREAM_LIBCUBLASLT, or another --dtype"
                }
                _ => return None,
            },
            Self::NoAlgorithm { .. } => {
                "use another cuBLAS, by SEQSTREAM_LIBCUBLASLT, or another --dtype"
            }
            Self::Imposed { refusal, .. } => refusal.hint(),
            Self::Driver(error) => error.job_hint(),
            Self::Table(_) | Self::Operand { .. } => return None,
        })
    }
}
