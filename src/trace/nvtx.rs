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
            _open: nvtx::LocalRange::new(text(name)),
        }
    }
}

/// Returns the text for NVTX, which takes no text with a zero byte. Our names have none.
#[cfg(feature = "nvtx")]
fn text(name: &'static str) -> nvtx::Str {
    nvtx::Str::try_from(name).unwrap_or_else(|_| c"?".into())
}
