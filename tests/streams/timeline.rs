//! The times of work on streams: they are read without a wait, and only once the work is done.

use crate::support::cuda::simulator;
use crate::support::stream::{Plan, Reports, right, run, units, watchdog};
use seqstream::gpu::driver::{Arena, Context};
use seqstream::stream::{ProcessorOptions, StreamManager, StreamOptions, StreamProcessor};
use seqstream::trace::{Category, Event, Trace};

fn traced(trace: &Trace) -> StreamOptions {
    StreamOptions {
        trace: trace.clone(),
        ..Reports::default().options()
    }
}

fn events(trace: &Trace, category: Category) -> Vec<Event> {
    let mut events = trace.document().unwrap().events;
    events.retain(|e| e.category == category);
    events
}

#[test]
fn work_that_is_not_done_has_no_times_yet() {
    let _watchdog = watchdog("times");
    // Copies that were not done when their times were asked for.
    let (mut early, mut busy_ns) = (0, 0);
    for seed in 0..40 {
        let _simulator = simulator(1, seed);
        let trace = Trace::in_memory(1000);
        let mut manager = StreamManager::new(traced(&trace)).unwrap();
        let context = Context::new(0).unwrap();
        manager
            .create_streams(std::slice::from_ref(&context))
            .unwrap();
        let options = ProcessorOptions {
            slots: 2,
            input_bytes: 600,
            output_bytes: 600,
        };
        let mut arena = Arena::new(&context, options.device_bytes()).unwrap();
        let streams = manager.streams(0, 0).unwrap();
        let mut ring = StreamProcessor::new(&streams, &mut arena, options).unwrap();
        for batch in 0..5 {
            ring.stage(batch).unwrap().fill(7);
            ring.async_load(500).unwrap();
            ring.finish(400).unwrap();
            // The simulated device has done none of the work, some of it, or all.
            ring.timeline().unwrap().read();
            early += 2 * (batch as usize + 1) - events(&trace, Category::Copy).len();
            drop(ring.collect().unwrap());
            let copies = events(&trace, Category::Copy);
            assert_eq!(copies.len(), 2 * (batch as usize + 1));
            let of_batch: Vec<&Event> = copies
                .iter()
                .filter(|e| e.args.pass == Some(batch))
                .collect();
            let bytes: Vec<_> = of_batch.iter().filter_map(|e| e.args.bytes).collect();
            assert_eq!(bytes, [500, 400], "seed {seed}");
        }
        let copies = events(&trace, Category::Copy);
        busy_ns += copies.iter().map(Event::nanoseconds).sum::<u64>();
        assert_eq!(trace.counts().dropped, 0);
    }
    assert!(early > 100, "{early} of 400");
    // The fences lie around the work. Under some seeds the simulated device does everything at once,
    // and in no time.
    assert!(busy_ns > 0);
}

#[test]
fn a_traced_job_waits_no_more_and_allocates_nothing_while_it_runs() {
    const COUNTED: [&str; 6] = [
        "event_synchronizes",
        "stream_synchronizes",
        "context_synchronizes",
        "implicit_synchronizes",
        "allocations",
        "host_allocations",
    ];
    let _watchdog = watchdog("a traced job");
    let mut all = Vec::new();
    for trace in [Trace::off(), Trace::in_memory(100_000)] {
        let simulator = simulator(2, 5);
        let plan = Plan {
            devices: 2,
            slots: 3,
            batches: 11,
            ..Plan::default()
        };
        let (manager, mut units) = units(plan, traced(&trace)).unwrap();
        let read = || COUNTED.map(|name| simulator.counter(name));
        let (before, events_before) = (read(), simulator.counter("live_events"));
        let mut outcomes = Vec::new();
        run(plan, &mut units, &mut outcomes).unwrap();
        assert!(outcomes.iter().all(|outcome| right(plan, outcome)));
        let after = read();
        // The weights come over on threads of their own, whose waits are the same, too.
        all.push(
            (0..COUNTED.len())
                .map(|i| after[i] - before[i])
                .collect::<Vec<_>>(),
        );
        assert_eq!(simulator.counter("live_events"), events_before);
        drop((units, manager));
        if let Some(document) = trace.document() {
            assert_eq!(document.dropped, 0);
            assert_eq!(document.clocks.len(), 2);
        }
    }
    assert_eq!(all[0], all[1], "{COUNTED:?}");
}
