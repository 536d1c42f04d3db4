//! Device and pinned memory. Each allocation stands alone between closed pages, its end as near to the next one as
//! its alignment allows; fresh memory is 0xFF throughout (NaN in f16, bf16 and f32, and no index); freed memory is
//! closed, and its addresses do not come again until the address space is used up.

pub mod guard;
pub mod pages;
mod space;

pub use space::{Place, Space};
