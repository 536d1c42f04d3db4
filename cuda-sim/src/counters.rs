//! What has happened since the last reset. Tests read it whole, or by name.

/// Defines the structure and the list of its fields' names in one.
macro_rules! counters {
    ($($(#[$attribute:meta])* $name:ident,)*) => {
        /// Everything is a `u64`, in this order, in C too. `live_*` and `pending_operations` are gauges, the rest only
        /// grows.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$attribute])* pub $name: u64,)*
        }

        impl Counters {
            /// Each counter by its field's name.
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name)),*]
            }
        }
    };
}

counters! {
    /// Calls of `cu*` and `cublasLt*` functions, failed ones too. The n of a fault counts these.
    calls,
    /// Calls that did not return 0 (and not 600, not ready).
    failed_calls,
    /// Faults that were asked for and came.
    faults,

    launches,
    /// Blocks of emulated kernels that have run.
    blocks,
    matmuls,
    memsets,
    copies_to_device,
    bytes_to_device,
    copies_to_host,
    bytes_to_host,
    copies_on_device,
    bytes_on_device,
    /// Copies from or to host memory that is not pinned; each made the host wait.
    pageable_copies,
    pageable_bytes,

    stream_synchronizes,
    event_synchronizes,
    context_synchronizes,
    /// Waits of the host inside other calls: pageable and blocking copies, cuMemFree, cuMemFreeHost, cuModuleUnload.
    implicit_synchronizes,
    /// cuStreamQuery and cuEventQuery.
    queries,
    event_records,
    event_waits,

    allocations,
    frees,
    /// cuMemFree while operations of the device were pending.
    frees_while_busy,
    host_allocations,
    host_frees,
    peak_device_bytes,

    live_allocations,
    live_device_bytes,
    live_host_allocations,
    live_host_bytes,
    live_contexts,
    live_streams,
    live_events,
    live_modules,
    live_cublaslt,
    pending_operations,
    /// Allocations that stood when their context went.
    leaked_allocations,
    /// Contexts that an error made unusable.
    lost_contexts,
    /// Operations that a lost context took with it.
    discarded_operations,
    /// Legal, and mostly not meant: operations on the legacy NULL stream, which fences every blocking stream.
    null_stream_operations,
}
