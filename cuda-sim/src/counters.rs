//! Counters of everything since the last reset. Tests read them all at once, or one by name.

/// Defines the structure together with the list of its fields' names.
macro_rules! counters {
    ($($(#[$attribute:meta])* $name:ident,)*) => {
        /// The counters. Each is a `u64`, in this order, in C too. `live_*` and
        /// `pending_operations` are gauges; all others only grow.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$attribute])* pub $name: u64,)*
        }

        impl Counters {
            /// Returns each counter with its field's name.
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name)),*]
            }
        }
    };
}

counters! {
    /// Calls of `cu*` and `cublasLt*` functions, including failed ones. The n of a fault counts
    /// these calls.
    calls,
    /// Calls that did not return 0 (or 600, not ready).
    failed_calls,
    /// Planned faults that occurred.
    faults,

    /// Launches of kernels.
    launches,
    /// Blocks of emulated kernels that have run.
    blocks,
    /// Products of cuBLASLt.
    matmuls,
    /// Fills of device memory.
    memsets,
    /// Copies from the host to a device.
    copies_to_device,
    /// Bytes of copies from the host to a device.
    bytes_to_device,
    /// Copies from a device to the host.
    copies_to_host,
    /// Bytes of copies from a device to the host.
    bytes_to_host,
    /// Copies within device memory.
    copies_on_device,
    /// Bytes of copies within device memory.
    bytes_on_device,
    /// Copies from or to host memory that is not pinned; each copy made the host wait.
    pageable_copies,
    /// Bytes of copies from or to host memory that is not pinned.
    pageable_bytes,

    /// Calls of cuStreamSynchronize.
    stream_synchronizes,
    /// Calls of cuEventSynchronize.
    event_synchronizes,
    /// Calls of cuCtxSynchronize.
    context_synchronizes,
    /// Waits of the host inside other calls: pageable and blocking copies, cuMemFree, cuMemFreeHost
    /// and cuModuleUnload.
    implicit_synchronizes,
    /// Calls of cuStreamQuery and cuEventQuery.
    queries,
    /// Records of events.
    event_records,
    /// Calls of cuStreamWaitEvent.
    event_waits,

    /// Allocations of device memory.
    allocations,
    /// Frees of device memory.
    frees,
    /// Calls of cuMemFree while operations of the device were pending.
    frees_while_busy,
    /// Allocations of pinned memory.
    host_allocations,
    /// Frees of pinned memory.
    host_frees,
    /// The largest number of bytes that were allocated on the devices at one time.
    peak_device_bytes,

    /// Live device allocations.
    live_allocations,
    /// Bytes of live device allocations.
    live_device_bytes,
    /// Live pinned allocations.
    live_host_allocations,
    /// Bytes of live pinned allocations.
    live_host_bytes,
    /// Live contexts.
    live_contexts,
    /// Live streams.
    live_streams,
    /// Live events.
    live_events,
    /// Loaded modules.
    live_modules,
    /// Live objects of cuBLASLt.
    live_cublaslt,
    /// Operations that were submitted and have not run.
    pending_operations,
    /// Allocations that were still live when their context was destroyed.
    leaked_allocations,
    /// Contexts that an error made unusable.
    lost_contexts,
    /// Operations that were dropped with a lost context.
    discarded_operations,
    /// Operations on the legacy NULL stream, which fences every blocking stream. They are legal,
    /// but mostly not intended.
    null_stream_operations,
}
