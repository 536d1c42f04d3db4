//! CUDA: the driver behind one seam.
//!
//! [`driver`] alone touches cust and the driver's calls.

pub mod driver;
