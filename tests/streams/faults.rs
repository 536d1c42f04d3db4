//! Faults: whatever fails on a device, and whenever, gives one complete error, and leaks nothing.

use crate::support::cuda::simulator;
use crate::support::stream::{Plan, Reports, Unit, job, right, run, units, watchdog};
use seqstream::gpu::driver::{Arena, Context, StreamName};
use seqstream::stream::{StreamError, StreamManager, StreamOptions};

/// Runs a job with a fault at call `n`; calls after `own` are those that release things.
#[allow(clippy::too_many_arguments)] // a row of the table
fn faulted(plan: Plan, n: u64, own: u64, code: i32, variant: &str) -> bool {
    let simulator = simulator(plan.devices, n % 5);
    let what = format!("{} devices, call {n}:{code}{variant}", plan.devices);
    simulator.fault(&format!("{n}:{code}{variant}"));
    let reports = Reports::default();
    let (outcomes, result) = job(plan, reports.options());
    // Collected results are right.
    assert!(
        outcomes.iter().all(|outcome| right(plan, outcome)),
        "{what}"
    );
    assert_eq!(simulator.counter("faults"), 1, "{what}");
    simulator.assert_nothing_left(&what);
    match result {
        Err(StreamError::Driver(error)) => {
            assert_eq!(error.code, code, "{what}: {error}");
            let told = reports.text();
            assert!(told.contains(&error.to_string()), "{what}: {error}\n{told}");
            assert!(error.at.device.is_some(), "{what}: {error}");
            true
        }
        Err(other) => panic!("{what}: {other}"),
        Ok(()) => {
            let all = plan.batches * u64::from(plan.devices);
            assert_eq!(outcomes.len() as u64, all, "{what}");
            // An operation that fails after the last batch is reported when the streams are
            // drained.
            let harmless = n > own
                || simulator.findings().contains("found no operation to fail")
                || reports.text().contains(&format!("failed with {code} "));
            assert!(
                harmless,
                "{what}: nobody was told\n{}",
                simulator.findings()
            );
            false
        }
    }
}

#[test]
fn a_fault_at_every_call_is_one_clean_error() {
    let watchdog = watchdog("faults");
    for devices in [1, 2] {
        let plan = Plan {
            devices,
            batches: 4,
            ..Plan::default()
        };
        let (own, all) = {
            let simulator = simulator(devices, 0);
            let (manager, mut units) = units(plan, Reports::default().options()).unwrap();
            run(plan, &mut units, &mut Vec::new()).unwrap();
            let own = simulator.counter("calls");
            drop((units, manager));
            (own, simulator.counter("calls"))
        };
        println!("{devices} devices: {own} calls, {} to give back", all - own);
        // Out of memory, illegal address, launch failure, unknown to the program, a code that no
        // driver has.
        for code in [2, 700, 719, 999, 54321] {
            for variant in ["", ":sticky", ":async"] {
                let mut errors = 0;
                for n in 1..=all {
                    watchdog.alive();
                    let error = faulted(plan, n, own, code, variant);
                    errors += u64::from(error);
                    if variant.is_empty() || variant == ":sticky" {
                        assert_eq!(
                            error,
                            n <= own,
                            "{devices} devices, call {n}:{code}{variant}"
                        );
                    }
                }
                println!("{code}{variant}: {all} faults, {errors} errors, no leak, no hang");
                assert!(errors > own / 5, "{code}{variant}: {errors} of {own}");
            }
        }
    }
}

#[test]
fn a_failure_says_all_and_every_later_call_answers_with_it() {
    let simulator = simulator(2, 4);
    let plan = Plan {
        devices: 2,
        ..Plan::default()
    };
    let reports = Reports::default();
    let options = StreamOptions {
        log: Some(100),
        ..reports.options()
    };
    let (manager, mut units) = units(plan, options).unwrap();
    for unit in &mut units {
        unit.start(plan).unwrap();
    }
    let mut outcomes = Vec::new();
    units[1].submit(0).unwrap();
    units[1].submit(1).unwrap();
    units[1].collect(&mut outcomes).unwrap();
    // There are two loads per batch: this is the first load of batch 2.
    simulator.fault("cuMemcpyHtoDAsync_v2#1:700");
    let error = units[1].submit(2).unwrap_err();
    let StreamError::Driver(driver) = &error else {
        panic!("{error}");
    };
    assert_eq!(driver.code, 700);
    let told = reports.text();
    for part in [
        "cuMemcpyHtoDAsync_v2 failed with 700 (CUDA_ERROR_ILLEGAL_ADDRESS: ",
        "device 1",
        "stream load 0",
        "in load 12 bytes",
        "batch 2",
        "hint: a kernel failed",
        "the latest operations:",
        "device 1 store 0 batch 1: record stored 1",
        "device 1 host batch 0: wait for stored 0",
    ] {
        assert!(told.contains(part), "{part} is not in\n{told}");
    }
    assert_eq!(
        told.matches("failed with 700").count(),
        1,
        "told once:\n{told}"
    );
    // Collected results stay, and no work is running on the failed device.
    assert!(right(plan, &outcomes[0]));
    let ring = &mut units[1].ring;
    assert_eq!(ring.stage(3).err(), Some(error.clone()));
    assert_eq!(ring.async_load(1), Err(error.clone()));
    assert_eq!(ring.finish(1), Err(error.clone()));
    assert_eq!(ring.collect().err(), Some(error.clone()));
    assert_eq!(ring.abandon(), Err(error.clone()));
    // The work of the other device ends, too.
    assert_eq!(units[0].submit(0), Err(error.clone()));
    assert_eq!(simulator.counter("pending_operations"), 0, "drained");
    assert_eq!(manager.synchronize(None), Err(error.clone()));
    assert_eq!(manager.status(), Err(error.clone()));
    assert_eq!(manager.check(), Err(error));
    drop((units, manager));
    simulator.assert_nothing_left("after a failure");
}

#[test]
fn a_scope_leaves_no_work_behind_on_any_way_out() {
    for seed in [0, 1, 2] {
        let simulator = simulator(2, seed);
        let reports = Reports::default();
        let mut manager = StreamManager::new(reports.options()).unwrap();
        let contexts = [0, 1].map(|device| Context::new(device).unwrap());
        manager.create_streams(&contexts).unwrap();
        let regions = contexts
            .each_ref()
            .map(|context| Arena::new(context, 64).unwrap().take("filled", 64).unwrap());
        let work = |devices: &[u32]| {
            for device in devices {
                let stream = manager
                    .get_stream_at(*device, StreamName::Store, 0)
                    .unwrap();
                // SAFETY: nothing else accesses the region.
                unsafe { stream.fill(&regions[*device as usize], 1).unwrap() };
            }
        };
        let pending = || simulator.counter("pending_operations");
        let leave_early = || -> Result<(), StreamError> {
            let _scope = manager.scope(None);
            work(&[0, 1]);
            manager.get_stream_at(7, StreamName::Load, 0)?;
            unreachable!("there is no device 7");
        };
        assert!(leave_early().is_err());
        assert_eq!(pending(), 0);
        let scope = manager.scope(Some(1));
        work(&[1]);
        scope.close().unwrap();
        assert_eq!(pending(), 0);
        // A scope of one device leaves the other devices alone: visible if nothing runs by itself.
        if seed == 0 {
            let scope = manager.scope(Some(1));
            work(&[0, 1]);
            drop(scope);
            assert_eq!(pending(), 1);
        }
        assert_eq!(reports.text(), "");
        // An error in draining is reported, and both devices are drained nevertheless.
        let scope = manager.scope(None);
        work(&[0, 1]);
        simulator.fault("cuStreamSynchronize#1:999");
        drop(scope);
        assert_eq!(pending(), 0);
        let told = reports.text();
        assert_eq!(told.matches("failed with 999").count(), 1, "{told}");
        assert!(told.contains("in draining"), "{told}");
        assert!(matches!(manager.check(), Err(StreamError::Driver(_))));
        // Work after the failure is drained at a second try: the fourth stream is the work's
        // stream.
        let scope = manager.scope(None);
        work(&[0, 1]);
        simulator.fault("cuStreamSynchronize#4:998");
        drop(scope);
        assert_eq!(pending(), 0);
        let told = reports.text();
        assert!(told.contains("while streams were drained: cuStreamSynchronize failed with 998"));
        assert!(told.contains("stream store 0"), "{told}");
    }
}

#[test]
fn dropping_a_ring_with_work_in_flight_waits_for_it_first() {
    for seed in [0, 6, 9] {
        let simulator = simulator(1, seed);
        let plan = Plan::default();
        let (manager, mut units) = units(plan, Reports::default().options()).unwrap();
        units[0].start(plan).unwrap();
        units[0].submit(0).unwrap();
        units[0].ring.stage(1).unwrap();
        units[0].ring.async_load(100).unwrap();
        drop((units, manager));
        simulator.assert_nothing_left("dropped in flight");
    }
}

#[test]
fn dropping_an_uploader_with_copies_in_flight_waits_for_them_first() {
    let simulator = simulator(1, 0);
    let plan = Plan::default();
    let (manager, mut units) = units(plan, Reports::default().options()).unwrap();
    let Unit {
        weights,
        mut uploader,
        ring,
        ..
    } = units.pop().unwrap();
    uploader.upload(&[7; 1500], &weights, 0).unwrap();
    assert!(simulator.counter("pending_operations") > 0);
    drop(uploader);
    assert_eq!(simulator.counter("pending_operations"), 0);
    drop((ring, weights, manager));
    simulator.assert_nothing_left("an uploader dropped");
}
