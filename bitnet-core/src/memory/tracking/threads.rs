//! Small numbers for threads, and their names.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::sync::lock;

/// The most names recorded; later threads have only a number.
const MAX_NAMES: usize = 1024;

static NAMES: Mutex<BTreeMap<u32, Box<str>>> = Mutex::new(BTreeMap::new());

thread_local! {
    static NUMBER: Cell<u32> = const { Cell::new(0) };
}

/// Returns the number of this thread, from 1, in the order of first calls.
#[inline]
pub(super) fn number() -> u32 {
    NUMBER.with(|number| match number.get() {
        0 => register(number),
        assigned => assigned,
    })
}

#[cold]
fn register(number: &Cell<u32>) -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let mine = NEXT.fetch_add(1, Ordering::Relaxed).max(1);
    number.set(mine);
    if let Some(name) = std::thread::current().name() {
        let mut names = lock(&NAMES);
        if names.len() < MAX_NAMES {
            names.insert(mine, name.into());
        }
    }
    mine
}

/// Returns the name of the thread with this number, or `thread` and the number.
pub(super) fn name(number: u32) -> String {
    let names = lock(&NAMES);
    names.get(&number).map_or_else(|| format!("thread {number}"), |name| name.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_have_numbers_and_names() {
        let mine = number();
        assert_eq!(number(), mine);
        let theirs = std::thread::Builder::new()
            .name("loader".into())
            .spawn(number)
            .unwrap()
            .join()
            .unwrap();
        assert_ne!(theirs, mine);
        assert_eq!(name(theirs), "loader");
        assert_eq!(name(u32::MAX), format!("thread {}", u32::MAX));
    }
}
