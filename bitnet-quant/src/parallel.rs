//! Parallel work on parts of a matrix, with results in the order of the parts.

use crate::Result;
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Maximum number of threads.
const MOST_THREADS: usize = 256;

/// Runs `work` on all units with `threads` threads and returns the results in order. Each thread processes a run of
/// units and folds the results with `collect`. Returns the error of the first failed unit.
pub(crate) fn each_unit<I: Send, T: Send>(
    threads: usize,
    mut units: Vec<I>,
    work: impl Fn(I) -> Result<T> + Sync,
    collect: impl Fn(&mut Vec<T>, T) + Sync,
) -> Result<Vec<T>> {
    let part = units.len().div_ceil(threads.clamp(1, MOST_THREADS)).max(1);
    let run = |units: Vec<I>| -> Result<Vec<T>> {
        let mut all = Vec::new();
        for unit in units {
            collect(&mut all, work(unit)?);
        }
        Ok(all)
    };
    let mut parts = Vec::new();
    while units.len() > part {
        let rest = units.split_off(part);
        parts.push(Mutex::new(std::mem::replace(&mut units, rest)));
    }
    let taken = |part: &Mutex<Vec<I>>| {
        run(std::mem::take(&mut *part.lock().unwrap_or_else(PoisonError::into_inner)))
    };
    let results = thread::scope(|scope| {
        let taken = &taken;
        let begun: Vec<_> = parts
            .iter()
            .map(|part| (part, thread::Builder::new().spawn_scoped(scope, move || taken(part))))
            .collect();
        // The last part, and parts for which no thread could be started, run on this thread.
        let last = run(units);
        let mut results: Vec<_> = begun
            .into_iter()
            .map(|(part, thread)| thread.map_or_else(|_| taken(part), joined))
            .collect();
        results.push(last);
        results
    });
    let mut all = Vec::new();
    for result in results {
        for item in result? {
            collect(&mut all, item);
        }
    }
    Ok(all)
}

/// Joins a thread and resumes its panic.
fn joined<T>(handle: thread::ScopedJoinHandle<'_, T>) -> T {
    match handle.join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn results_and_first_error_keep_unit_order() {
        for threads in [0, 1, 2, 3, 7, 100, usize::MAX] {
            let push = |all: &mut Vec<usize>, next| all.push(next);
            let doubled = each_unit(threads, (0..20).collect(), |i: usize| Ok(2 * i), push);
            assert_eq!(doubled.unwrap(), (0..20).map(|i| 2 * i).collect::<Vec<_>>());
            let none = each_unit(threads, Vec::new(), |i: usize| Ok(i), push);
            assert!(none.unwrap().is_empty());
            let failing = |i: usize| match i {
                5 | 19 => Err(Error::EmptyShape { format: "", rows: i, cols: 0 }),
                i => Ok(i),
            };
            let error = each_unit(threads, (0..20).collect(), failing, push).unwrap_err();
            assert_eq!(error, Error::EmptyShape { format: "", rows: 5, cols: 0 });
        }
    }
}
