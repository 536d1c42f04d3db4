//! What has happened since the last reset. Tests read it whole.

/// Everything is a `u64`, in this order, in C too. `live_*` and `pending_operations` are gauges, the rest only grows.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Calls of `cu*` and `cublasLt*` functions, failed ones too. The n of a fault counts these.
    pub calls: u64,
    /// Calls that did not return 0 (and not 600, not ready).
    pub failed_calls: u64,
    /// Faults that were asked for and came.
    pub faults: u64,

    pub launches: u64,
    /// Blocks of emulated kernels that have run.
    pub blocks: u64,
    pub matmuls: u64,
    pub memsets: u64,
    pub copies_to_device: u64,
    pub bytes_to_device: u64,
    pub copies_to_host: u64,
    pub bytes_to_host: u64,
    pub copies_on_device: u64,
    pub bytes_on_device: u64,
    /// Copies from or to host memory that is not pinned; each made the host wait.
    pub pageable_copies: u64,
    pub pageable_bytes: u64,

    pub stream_synchronizes: u64,
    pub event_synchronizes: u64,
    pub context_synchronizes: u64,
    /// Waits of the host inside other calls: pageable and blocking copies, cuMemFree, cuMemFreeHost, cuModuleUnload.
    pub implicit_synchronizes: u64,
    /// cuStreamQuery and cuEventQuery.
    pub queries: u64,
    pub event_records: u64,
    pub event_waits: u64,

    pub allocations: u64,
    pub frees: u64,
    /// cuMemFree while operations of the device were pending.
    pub frees_while_busy: u64,
    pub host_allocations: u64,
    pub host_frees: u64,
    pub peak_device_bytes: u64,

    pub live_allocations: u64,
    pub live_device_bytes: u64,
    pub live_host_allocations: u64,
    pub live_host_bytes: u64,
    pub live_contexts: u64,
    pub live_streams: u64,
    pub live_events: u64,
    pub live_modules: u64,
    pub live_cublaslt: u64,
    pub pending_operations: u64,
    /// Allocations that stood when their context went.
    pub leaked_allocations: u64,
    /// Contexts that an error made unusable.
    pub lost_contexts: u64,
    /// Operations that a lost context took with it.
    pub discarded_operations: u64,
    /// Legal, and mostly not meant: operations on the legacy NULL stream, which fences every blocking stream.
    pub null_stream_operations: u64,
}
