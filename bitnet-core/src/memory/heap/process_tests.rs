//! Tests of the pool in processes that are forked, or may not have more memory.

use std::os::raw::c_int;

use crate::Error;
use crate::device::Device;
use crate::memory::{HybridMemoryPool, MemoryPoolConfig};

/// Runs `child` in a forked process, which ends with the number it returns.
fn status_of(child: impl FnOnce() -> c_int) -> c_int {
    // Held over the fork, because another thread's lock would remain locked in the child.
    let table = super::state::lock_table();
    // SAFETY: the child runs `child` alone, which takes no lock that another thread of this process holds, and ends
    // without running anything else of the parent.
    match unsafe { libc::fork() } {
        -1 => panic!("no process: {}", std::io::Error::last_os_error()),
        0 => {
            drop(table);
            let code = child();
            // SAFETY: ends the process.
            unsafe { libc::_exit(code) }
        }
        pid => {
            drop(table);
            let mut status = 0;
            // SAFETY: `status` is ours, `pid` is our child.
            let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
            assert_eq!(waited, pid);
            assert!(libc::WIFEXITED(status), "the child was killed: {status:#x}");
            libc::WEXITSTATUS(status)
        }
    }
}

#[test]
fn a_forked_child_has_its_own_copy_of_the_pool() {
    let pool = HybridMemoryPool::with_config(MemoryPoolConfig::unbounded()).unwrap();
    let mut held: Vec<_> = [64, 5000, 2 << 20]
        .map(|size| {
            let mut handle = pool.allocate(size, 64, &Device::Cpu).unwrap();
            handle.bytes_mut().fill(1);
            handle
        })
        .into();
    let code = status_of(|| {
        for handle in &mut held {
            if handle.bytes().iter().any(|&byte| byte != 1) {
                return 1;
            }
            handle.bytes_mut().fill(2);
        }
        held.clear();
        for size in [64, 5000, 2 << 20, 100 << 20] {
            let Ok(handle) = pool.allocate_zeroed(size, 64, &Device::Cpu) else { return 2 };
            if handle.bytes().iter().any(|&byte| byte != 0) {
                return 3;
            }
        }
        c_int::from(pool.get_metrics().total_allocated != 0) * 4
    });
    assert_eq!(code, 0);
    assert!(held.iter().all(|handle| handle.bytes().iter().all(|&byte| byte == 1)));
}

#[test]
fn exhausted_address_space_is_an_error_and_recoverable() {
    let code = status_of(|| {
        let Ok(pool) = HybridMemoryPool::with_config(MemoryPoolConfig::unbounded()) else {
            return 1;
        };
        let Ok(first) = pool.allocate(64, 64, &Device::Cpu) else { return 2 };
        let Some(used) = address_space() else { return 0 };
        let limit = libc::rlimit { rlim_cur: used + (256 << 20), rlim_max: libc::RLIM_INFINITY };
        // SAFETY: `limit` is ours; the limit holds for the child alone.
        if unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) } != 0 {
            return 3;
        }
        let mut held = Vec::with_capacity(2000);
        let mut refused = 0;
        for at in 0..2000usize {
            let size = [100, 70_000, 900_000, 3 << 20, 40 << 20][at % 5];
            match pool.allocate(size, 64, &Device::Cpu) {
                Ok(mut handle) => {
                    handle.bytes_mut()[size - 1] = 1;
                    held.push(handle);
                }
                Err(Error::OutOfMemory { .. }) => refused += 1,
                Err(_) => return 4,
            }
        }
        if refused == 0 || held.is_empty() {
            return 5;
        }
        held.clear();
        let Ok(again) = pool.allocate(200 << 20, 64, &Device::Cpu) else { return 6 };
        drop((first, again));
        c_int::from(pool.get_metrics().total_allocated != 0) * 7
    });
    assert_eq!(code, 0);
}

/// Returns the bytes of address space in use, where the system reports them.
fn address_space() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().next()?.parse().ok()?;
    Some(pages * 4096)
}
