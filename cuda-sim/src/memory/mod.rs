//! Device and pinned memory. Each allocation lies between closed pages, with its end as near to the
//! next closed page as its alignment allows. Fresh memory is 0xFF throughout (NaN in f16, bf16 and
//! f32, and not a valid index). Freed memory is closed, and its addresses are not reused until the
//! address space is used up.

pub mod guard;
pub mod pages;
mod space;

pub use space::{Place, Space};
