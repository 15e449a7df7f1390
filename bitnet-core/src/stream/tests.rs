//! Order, overlap, failure and the end of streams.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;

use super::{Event, Stream};
use crate::device::{Device, FaultPlan, LimitedCpu, Operation};
use crate::memory::DeviceSpecificPools;
use crate::memory::tensor::{BitNetDType, TensorMetadata};
use crate::{Error, Result};

/// The timeout of a test.
const NEVER: Duration = Duration::from_secs(60);

fn stream() -> Stream {
    Stream::new(&Device::Cpu).unwrap()
}

fn fault() -> Error {
    Error::SizeOverflow { what: "a task that fails" }
}

#[test]
fn tasks_of_a_stream_run_in_order() {
    let stream = stream();
    let seen = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..5000)
        .map(|i| {
            let seen = Arc::clone(&seen);
            stream.run(move || Ok((i, seen.fetch_add(1, Ordering::Relaxed))))
        })
        .collect();
    stream.synchronize().unwrap();
    for task in tasks {
        assert!(task.is_done());
        let (submitted, ran) = task.wait().unwrap();
        assert_eq!(submitted, ran);
    }
}

#[test]
fn events_order_streams_and_publish_writes() {
    let (left, right) = (stream(), stream());
    // Relaxed, so that only the events order writes and reads.
    let numbers: Arc<[AtomicUsize; 2]> = Arc::default();
    let mut last: Option<Event> = None;
    for round in 0..3000 {
        if let Some(event) = &last {
            left.wait_for(event);
        }
        let shared = Arc::clone(&numbers);
        let written = left.submit(move || {
            assert_eq!(shared[1].load(Ordering::Relaxed), round);
            shared[0].store(round + 1, Ordering::Relaxed);
            Ok(())
        });
        right.wait_for(&written);
        let shared = Arc::clone(&numbers);
        last = Some(right.submit(move || {
            assert_eq!(shared[0].load(Ordering::Relaxed), round + 1);
            shared[1].store(round + 1, Ordering::Relaxed);
            Ok(())
        }));
    }
    right.synchronize().unwrap();
    left.synchronize().unwrap();
    assert_eq!(numbers[1].load(Ordering::Relaxed), 3000);
}

#[test]
fn streams_run_concurrently() {
    let (left, right) = (stream(), stream());
    let ((to_left, from_right), (to_right, from_left)) = (channel(), channel());
    let meet = |to: std::sync::mpsc::Sender<()>, from: std::sync::mpsc::Receiver<()>| {
        move || {
            to.send(()).map_err(|_| fault())?;
            from.recv_timeout(NEVER).map_err(|_| fault())
        }
    };
    let (a, b) = (left.submit(meet(to_right, from_right)), right.submit(meet(to_left, from_left)));
    assert_eq!((a.wait(), b.wait()), (Ok(()), Ok(())), "each waits for the other inside its task");
}

#[test]
fn errors_skip_later_tasks_until_synchronized() {
    let (first, second) = (stream(), stream());
    let ran = Arc::new(AtomicUsize::new(0));
    let count = || {
        let ran = Arc::clone(&ran);
        move || {
            ran.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    };
    assert_eq!(first.submit(count()).wait(), Ok(()));
    let failing = first.submit(|| Err(fault()));
    let skipped = Err(Error::TaskSkipped { cause: Box::new(fault()) });
    let after = first.submit(count());
    second.wait_for(&after);
    let across = second.submit(count());
    assert_eq!(failing.wait(), Err(fault()));
    assert_eq!(after.wait(), skipped);
    assert_eq!(across.wait(), skipped, "the cause is named, not the chain to it");
    assert_eq!(second.synchronize(), skipped);
    assert_eq!(first.synchronize(), Err(fault()));
    assert_eq!(ran.load(Ordering::Relaxed), 1);
    assert_eq!((first.synchronize(), second.synchronize()), (Ok(()), Ok(())), "returned once");
    assert_eq!((first.submit(count()).wait(), second.submit(count()).wait()), (Ok(()), Ok(())));
    assert_eq!(ran.load(Ordering::Relaxed), 3);
}

#[test]
fn panics_are_errors_and_the_stream_continues() {
    let stream = stream();
    let value = stream.run(|| -> Result<u32> { panic!("number {}", 7) });
    match value.wait() {
        Err(Error::TaskPanicked { message, .. }) => assert_eq!(message, "number 7"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(stream.synchronize(), Err(Error::TaskPanicked { .. })));
    assert_eq!(stream.run(|| Ok(8)).wait(), Ok(8));

    struct PanicsWhenDropped;
    impl Drop for PanicsWhenDropped {
        fn drop(&mut self) {
            assert!(std::thread::panicking(), "dropped");
        }
    }
    stream.submit(|| Err(fault()));
    let captured = PanicsWhenDropped;
    let skipped = stream.submit(move || {
        let _captured = &captured;
        Ok(())
    });
    assert!(matches!(skipped.wait(), Err(Error::TaskSkipped { .. })));
    assert_eq!(stream.synchronize(), Err(fault()));
    assert_eq!(stream.submit(|| Ok(())).wait(), Ok(()));
}

#[test]
fn dropping_a_stream_finishes_its_work() {
    let ran = Arc::new(AtomicUsize::new(0));
    let (first, second) = (stream(), stream());
    let (open, gate) = channel::<()>();
    let opened = first.submit(move || gate.recv_timeout(NEVER).map_err(|_| fault()));
    second.wait_for(&opened);
    let events: Vec<_> = (0..200)
        .map(|i| {
            let ran = Arc::clone(&ran);
            [&first, &second][i % 2].submit(move || {
                ran.fetch_add(1, Ordering::Relaxed);
                Ok(())
            })
        })
        .collect();
    std::thread::scope(|scope| {
        // Both are dropped while all of their work is queued.
        scope.spawn(move || drop(second));
        scope.spawn(move || drop(first));
        assert_eq!(opened.wait_timeout(Duration::ZERO), None);
        open.send(()).unwrap();
    });
    assert_eq!(ran.load(Ordering::Relaxed), 200);
    assert!(events.iter().all(|event| event.wait() == Ok(())));
    assert_eq!(Arc::strong_count(&ran), 1, "threads have ended, and captures are dropped");
}

#[test]
fn a_stream_does_not_wait_for_itself() {
    let stream = Arc::new(stream());
    let inner = Arc::clone(&stream);
    let results = stream.run(move || {
        let later = inner.submit(|| Ok(()));
        Ok((inner.synchronize(), later.wait(), later.wait_timeout(NEVER), later))
    });
    let (synchronized, waited, timed, later) = results.wait().unwrap();
    for result in [synchronized, waited, timed.unwrap()] {
        assert!(matches!(result, Err(Error::StreamWaitsForItself { .. })), "{result:?}");
    }
    assert_eq!(later.wait(), Ok(()), "it was submitted all the same");
    // A task may be the last owner of its stream: queued tasks still run.
    let (open, gate) = channel::<()>();
    let inner = Arc::clone(&stream);
    let last = stream.submit(move || {
        gate.recv_timeout(NEVER).map_err(|_| fault())?;
        drop(inner);
        Ok(())
    });
    let after = stream.run(|| Ok(9));
    drop(stream);
    open.send(()).unwrap();
    assert_eq!((last.wait(), after.wait()), (Ok(()), Ok(9)));
}

#[test]
fn pending_values_can_be_awaited_again() {
    let stream = stream();
    let (open, gate) = channel::<u32>();
    let value = stream.run(move || gate.recv_timeout(NEVER).map_err(|_| fault()));
    let value = value.wait_timeout(Duration::ZERO).unwrap_err();
    assert!(!value.is_done() && !value.event().is_done());
    open.send(5).unwrap();
    assert_eq!(value.wait_timeout(NEVER).unwrap(), Ok(5));
    let failing = stream.run(|| -> Result<u32> { Err(fault()) });
    assert_eq!(failing.wait_timeout(NEVER).unwrap(), Err(fault()));
}

#[test]
fn a_failing_device_fails_its_stream() {
    let limited = LimitedCpu::new(1 << 20, 1);
    let device = Device::from(limited.clone());
    let (pools, stream) = (DeviceSpecificPools::new(), Stream::new(&device).unwrap());
    let metadata = TensorMetadata::new(vec![64, 64], BitNetDType::F32, Device::Cpu);
    let mut x = pools.tensor(metadata).unwrap();
    x.f32_mut().unwrap().iter_mut().zip((0..=u8::MAX).cycle()).for_each(|(x, i)| *x = f32::from(i));
    let there = stream.copy_tensor(&x, &device, &pools).wait().unwrap();
    let back = stream.copy_tensor(&there, &Device::Cpu, &pools).wait().unwrap();
    assert_eq!(back.bytes(), x.bytes());

    limited.inject(FaultPlan::none().fail(Operation::Transfer, 1));
    let copy = stream.copy_tensor(&x, &device, &pools);
    assert!(matches!(copy.wait(), Err(Error::DeviceFault { number: 1, .. })));
    assert!(matches!(stream.synchronize(), Err(Error::DeviceFault { .. })));
    assert!(stream.copy_tensor(&x, &device, &pools).wait().is_ok());

    limited.lose();
    let after = (stream.submit(|| Ok(())), stream.submit(|| Ok(())));
    assert!(matches!(after.0.wait(), Err(Error::DeviceLost { .. })));
    match after.1.wait() {
        Err(error @ Error::TaskSkipped { .. }) => assert!(error.is_device_failure()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn concurrent_submissions_all_run() {
    let stream = stream();
    let sum = Arc::new(Mutex::new(0u64));
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (stream, sum) = (&stream, &sum);
            scope.spawn(move || {
                for i in 0..500 {
                    let sum = Arc::clone(sum);
                    stream.submit(move || {
                        *sum.lock().unwrap() += thread * 500 + i;
                        Ok(())
                    });
                }
            });
        }
    });
    stream.synchronize().unwrap();
    assert_eq!(*sum.lock().unwrap(), (0..2000).sum());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Tasks on three streams, each after some of the earlier ones: none runs before those that it waits for.
    #[test]
    fn any_requested_order_is_respected(
        tasks in prop::collection::vec((0usize..3, prop::collection::vec(any::<prop::sample::Index>(), 0..3)), 1..60)
    ) {
        let streams = [stream(), stream(), stream()];
        let clock = Arc::new(AtomicUsize::new(0));
        let mut events: Vec<Event> = Vec::new();
        let mut times = Vec::new();
        let mut before: Vec<Vec<usize>> = Vec::new();
        for (on, after) in &tasks {
            let after: Vec<usize> = match events.len() {
                0 => Vec::new(),
                count => after.iter().map(|index| index.index(count)).collect(),
            };
            after.iter().for_each(|&at| streams[*on].wait_for(&events[at]));
            let clock = Arc::clone(&clock);
            let time = streams[*on].run(move || Ok(clock.fetch_add(1, Ordering::Relaxed)));
            events.push(time.event().clone());
            times.push(time);
            before.push(after);
        }
        let times: Vec<usize> = times.into_iter().map(|time| time.wait().unwrap()).collect();
        for (task, after) in before.iter().enumerate() {
            for &earlier in after {
                prop_assert!(times[earlier] < times[task]);
            }
        }
    }
}
