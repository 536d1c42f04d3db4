//! Ranges for NVIDIA's tools (Nsight Systems), behind the cargo feature `nvtx`.

/// A range from its creation to its drop. Without the feature it is nothing.
#[derive(Debug)]
pub(crate) struct Range {
    #[cfg(feature = "nvtx")]
    _open: nvtx::LocalRange,
}

impl Range {
    /// Opens a range on the calling thread.
    #[allow(unused_variables)] // without the feature
    pub fn new(name: &'static str) -> Self {
        Self {
            #[cfg(feature = "nvtx")]
            _open: nvtx::LocalRange::new(name),
        }
    }
}
