//! Independent pieces of work on several threads, with their results in order.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

/// `work(0)`, `work(1)`, ... `work(count - 1)`, on `threads` threads, the results in order.
///
/// `on_done` receives (pieces done, pieces in all) on the caller's thread. A piece begins after all before it have
/// begun, and none begins after one has failed: the error is that of the first piece that fails, on any number of
/// threads. At most `threads` pieces are in the making at a time.
///
/// # Errors
/// That of the first piece that fails.
///
/// # Panics
/// If `work` does.
pub fn in_parallel<T: Send, E: Send>(
    count: usize,
    threads: usize,
    work: impl Fn(usize) -> Result<T, E> + Sync,
    on_done: &mut dyn FnMut(usize, usize),
) -> Result<Vec<T>, E> {
    let next = AtomicUsize::new(0);
    let (sender, results) = mpsc::channel();
    let mut done: Vec<Option<T>> = (0..count).map(|_| None).collect();
    let mut failed: Option<(usize, E)> = None;
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, count.max(1)) {
            let (sender, work, next) = (sender.clone(), &work, &next);
            scope.spawn(move || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        break;
                    }
                    let result = work(index);
                    if result.is_err() {
                        // Not `store`: a counter that is past the end stays there.
                        next.fetch_max(count, Ordering::Relaxed);
                    }
                    if sender.send((index, result)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        let mut finished = 0;
        for (index, result) in results {
            match result {
                Ok(value) => {
                    done[index] = Some(value);
                    finished += 1;
                    on_done(finished, count);
                }
                Err(error) if failed.as_ref().is_none_or(|(first, _)| index < *first) => {
                    failed = Some((index, error));
                }
                Err(_) => {}
            }
        }
    });
    match failed {
        Some((_, error)) => Err(error),
        None => Ok(done.into_iter().flatten().collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_stand_in_order_and_every_piece_is_counted() {
        for threads in [0, 1, 2, 7] {
            let mut calls = Vec::new();
            let squares: Result<Vec<_>, ()> =
                in_parallel(20, threads, |i| Ok(i * i), &mut |done, all| calls.push((done, all)));
            assert_eq!(squares, Ok((0..20).map(|i| i * i).collect()));
            assert_eq!(calls, (1..=20).map(|i| (i, 20)).collect::<Vec<_>>());
        }
        let none: Result<Vec<usize>, ()> = in_parallel(0, 3, Ok, &mut |_, _| {});
        assert_eq!(none, Ok(Vec::new()));
    }

    #[test]
    fn the_error_is_that_of_the_first_piece() {
        for threads in [1, 2, 5] {
            let work = |i| if i == 4 || i == 5 { Err(i) } else { Ok(i) };
            let result = in_parallel(100, threads, work, &mut |_, _| {});
            assert_eq!(result, Err(4), "{threads} threads");
        }
    }
}
