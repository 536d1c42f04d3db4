//! The streams' jobs on the available devices: real ones with SEQSTREAM_TEST_GPU=1, otherwise
//! simulated.

use crate::support::cuda;
use crate::support::cuda::real::{absent, wants_real};
use crate::support::cuda::{Simulator, simulator};
use crate::support::stream::loading::layers_through_two_buffers;
use crate::support::stream::{Plan, Reports, job, right};
use seqstream::gpu::driver;

/// Returns the number of devices, and the simulator if they are simulated. Returns `None`, with a
/// message, if real devices are requested and there are none.
///
/// # Panics If REQUIRE_GPU=1 and there is no real device.
fn devices() -> Option<(u32, Option<Simulator>)> {
    if !wants_real() {
        return Some((2, Some(simulator(2, 7))));
    }
    match driver::devices() {
        Ok(devices) => Some((devices.len() as u32, None)),
        Err(error) => {
            absent(&format!("there is no GPU here: {error}"));
            None
        }
    }
}

#[test]
fn a_job_is_right_with_the_streams_on_and_off() {
    let Some((devices, simulated)) = devices() else {
        return;
    };
    for slots in [1, 2, 4] {
        for overlap in [true, false] {
            let plan = Plan {
                devices,
                slots,
                overlap,
                batches: if simulated.is_some() { 9 } else { 2000 },
                ..Plan::default()
            };
            let reports = Reports::default();
            let (outcomes, result) = job(plan, reports.options());
            assert_eq!(result, Ok(()), "{plan:?}");
            assert_eq!(outcomes.len() as u64, plan.batches * u64::from(devices));
            assert!(outcomes.iter().all(|o| right(plan, o)), "{plan:?}");
            assert_eq!(reports.text(), "");
        }
    }
}

#[test]
fn layers_that_are_streamed_through_two_buffers_are_right() {
    let Some((_, simulated)) = devices() else {
        return;
    };
    let reports = Reports::default();
    layers_through_two_buffers(if simulated.is_some() { 20 } else { 2000 }, &reports);
    assert_eq!(reports.text(), "");
}

#[test]
fn on_a_real_gpu() {
    cuda::real::again(module_path!());
}
