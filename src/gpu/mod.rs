//! The layer that speaks CUDA and knows no model: the driver, cuBLASLt, and streams that fences
//! order.
//!
//! | module | what it does |
//! |---|---|
//! | [`driver`] | the only module that calls the CUDA driver |
//! | [`cublaslt`] | the only module that calls cuBLASLt |
//! | [`simulator`] | the simulated driver's own functions: virtual time, for studies |
//! | [`stream`] | load, compute and store streams, the ring of slots, the loader of weights |

pub mod cublaslt;
pub mod driver;
pub mod simulator;
pub mod stream;
