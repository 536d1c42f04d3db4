//! Draws figures as SVG, and puts them on pages that need no other file.
//!
//! | file | what it does |
//! |---|---|
//! | `svg` | charts of curves, timelines, and the text of SVG files |
//! | `bars` | histograms, and shares of a whole |
//! | `map` | points in a plane, whose names appear under the pointer |
//! | `page` | a page of HTML with figures and tables |

mod bars;
mod map;
mod page;
mod svg;

pub use bars::{Histogram, Shares};
pub use map::{Map, MapPoint};
pub use page::Page;
pub use svg::{Axis, Bar, Chart, Lane, Mark, Scale, Series, Timeline, escaped};
