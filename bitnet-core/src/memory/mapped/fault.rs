//! Surviving SIGBUS on mapped files: a lock-free registry of mappings and a signal handler that reads it.
//!
//! The handler does only what is safe in a signal: atomic loads and stores, one `mmap` and, for other addresses, a call
//! of the handler that was installed before.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use crate::os::pages::page_size;
use crate::{Error, Result};

/// The most mappings at a time; a split model has tens.
const SLOTS: usize = 4096;

/// One mapping. `sequence` is odd while the slot is being changed, so that a reader never pairs an old start with a new
/// length. A slot that is being changed is not the one that faults: its mapping is not yet, or no longer, reachable.
struct Slot {
    used: AtomicBool,
    sequence: AtomicUsize,
    start: AtomicUsize,
    len: AtomicUsize,
    writable: AtomicBool,
    damaged: AtomicBool,
}

impl Slot {
    const fn new() -> Self {
        Self {
            used: AtomicBool::new(false),
            sequence: AtomicUsize::new(0),
            start: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            writable: AtomicBool::new(false),
            damaged: AtomicBool::new(false),
        }
    }

    fn set(&self, start: usize, len: usize, writable: bool) {
        self.sequence.fetch_add(1, SeqCst);
        self.start.store(start, SeqCst);
        self.len.store(len, SeqCst);
        self.writable.store(writable, SeqCst);
        self.damaged.store(false, SeqCst);
        self.sequence.fetch_add(1, SeqCst);
    }

    /// The end of the mapping if `address` is inside it.
    fn end_if_contains(&self, address: usize) -> Option<usize> {
        let before = self.sequence.load(SeqCst);
        let start = self.start.load(SeqCst);
        let len = self.len.load(SeqCst);
        let after = self.sequence.load(SeqCst);
        let stable = before == after && before.is_multiple_of(2);
        let end = start.checked_add(len)?;
        (stable && start <= address && address < end).then_some(end)
    }
}

static REGISTRY: [Slot; SLOTS] = [const { Slot::new() }; SLOTS];
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();
static INSTALLED: OnceLock<std::result::Result<(), i32>> = OnceLock::new();

/// A mapping's slot in the registry, freed when dropped.
pub(in crate::memory) struct Guard {
    slot: &'static Slot,
}

impl Guard {
    /// Registers the mapping `[start, start + len)`, and installs the handler if this is the first one.
    pub(in crate::memory) fn register(
        file: &str,
        start: usize,
        len: usize,
        writable: bool,
    ) -> Result<Self> {
        (*INSTALLED.get_or_init(install)).map_err(|code| {
            let error = std::io::Error::from_raw_os_error(code);
            Error::file(file, "guard the mapping against truncation", &error)
        })?;
        for slot in &REGISTRY {
            if slot.used.compare_exchange(false, true, SeqCst, SeqCst).is_ok() {
                slot.set(start, len, writable);
                return Ok(Self { slot });
            }
        }
        Err(Error::TooManyMaps { file: file.to_owned(), limit: SLOTS })
    }

    pub(in crate::memory) fn is_damaged(&self) -> bool {
        self.slot.damaged.load(SeqCst)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.slot.set(0, 0, false);
        self.slot.used.store(false, SeqCst);
    }
}

/// Installs the handler; the error is an `errno`.
fn install() -> std::result::Result<(), i32> {
    // Determined before our handler can run, which then only loads it.
    page_size();
    let errno = || std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
    // SAFETY: all-zero bytes are a valid `sigaction` (no handler, no flags, empty mask).
    let mut previous: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: a null new action only queries; `previous` is valid for writes.
    if unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut previous) } != 0 {
        return Err(errno());
    }
    // Stored before our handler can run.
    PREVIOUS.get_or_init(|| previous);
    // SAFETY: as above.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_bus_error as *const () as libc::sighandler_t;
    // On the alternate stack where there is one: a stack overflow raises SIGBUS on some systems.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: `action` is fully set and `on_bus_error` has the signature that SA_SIGINFO requires and is signal-safe.
    if unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) } != 0 {
        return Err(errno());
    }
    Ok(())
}

extern "C" fn on_bus_error(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a valid `siginfo_t`, which outlives this call, to an SA_SIGINFO handler.
    let siginfo = unsafe { &*info };
    let code = siginfo.si_code;
    // Positive codes come from the kernel and carry an address; the others were sent by a process.
    if code > 0 {
        // SAFETY: for a SIGBUS raised by the kernel the address is the field that is set.
        let address = unsafe { siginfo.si_addr() } as usize;
        if cover_with_zeros(address) {
            return;
        }
    }
    pass_on(signal, code <= 0, info, context);
}

/// Maps zero pages where a registered mapping has lost its own, and flags the mapping.
///
/// A fault means that the file ends before that page: of a read-only mapping all pages from there on are replaced at
/// once, of a writable one only that page, because later pages may have been written since the file grew again.
fn cover_with_zeros(address: usize) -> bool {
    for slot in &REGISTRY {
        let Some(end) = slot.end_if_contains(address) else { continue };
        slot.damaged.store(true, SeqCst);
        let page = page_size();
        let start = address / page * page;
        let writable = slot.writable.load(SeqCst);
        let len = if writable { page } else { end.next_multiple_of(page) - start };
        let access = if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
        // SAFETY: the pages belong to a mapping of ours, alive because the interrupted thread was using it, and have
        // lost their content: any byte is valid for every owner of a slice. `mmap` is a bare system call.
        let covered = unsafe { libc::mmap(start as *mut c_void, len, access, flags, -1, 0) };
        return covered != libc::MAP_FAILED;
    }
    false
}

/// Handles a foreign SIGBUS as if this handler were not installed. `sent`: by a process, not raised by a memory access.
fn pass_on(signal: c_int, sent: bool, info: *mut libc::siginfo_t, context: *mut c_void) {
    let previous = PREVIOUS.get();
    let handler = previous.map_or(libc::SIG_DFL, |previous| previous.sa_sigaction);
    if handler == libc::SIG_IGN && sent {
        return;
    }
    if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
        // SAFETY: restoring the default action has no preconditions.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        // SAFETY: raising a signal has no preconditions; it is blocked until this handler returns.
        unsafe { libc::raise(signal) };
        return;
    }
    let with_info = previous.is_some_and(|previous| previous.sa_flags & libc::SA_SIGINFO != 0);
    if with_info {
        type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);
        // SAFETY: the program that installed this handler with SA_SIGINFO guarantees that it has this type.
        let handler = unsafe { std::mem::transmute::<libc::sighandler_t, Handler>(handler) };
        handler(signal, info, context);
    } else {
        // SAFETY: the program that installed this handler without SA_SIGINFO guarantees that it has this type.
        let handler =
            unsafe { std::mem::transmute::<libc::sighandler_t, extern "C" fn(c_int)>(handler) };
        handler(signal);
    }
}
