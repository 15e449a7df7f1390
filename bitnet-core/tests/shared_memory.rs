//! Memory shared by processes: this test program starts itself as the others, and ends some of them by force.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bitnet_core::Error;
use bitnet_core::device::Device;
use bitnet_core::memory::shared_memory::SharedMemory;
use bitnet_core::memory::tensor::{BitNetDType, BitNetTensor, TensorMetadata};

const LONG: Duration = Duration::from_secs(60);
const AT_ONCE: Duration = Duration::ZERO;
/// Set for a process that a test has started: what it is to open.
const ARGUMENT: &str = "BITNET_CORE_SHARED_MEMORY";

/// The argument of this process, if a test has started it.
fn child_argument() -> Option<String> {
    std::env::var(ARGUMENT).ok()
}

/// Returns the name of a test function as the test harness spells it.
fn test_name<T>(_: T) -> &'static str {
    std::any::type_name::<T>().split_once("::").unwrap().1
}

/// This program again, with the same test.
fn start(test: &str, argument: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(ARGUMENT, argument)
        .stdout(Stdio::piped())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until the child prints that it is ready.
fn ready(child: &mut Child) {
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    let is_ready = lines.map_while(Result::ok).any(|line| line.contains("ready"));
    assert!(is_ready, "the child ended");
}

/// Prints that it is ready, and waits to be ended.
fn wait_for_the_end() -> ! {
    println!("\nready");
    std::io::stdout().flush().unwrap();
    let _ = std::io::stdin().read_line(&mut String::new());
    std::process::exit(0)
}

fn name(of: &str) -> String {
    format!("{of}-{}", std::process::id())
}

fn object(name: &str) -> std::path::PathBuf {
    Path::new("/dev/shm").join(format!("bitnet-{name}"))
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_ne_bytes(bytes[..8].try_into().unwrap())
}

#[test]
fn concurrent_writers_lose_no_count() {
    const EACH: u64 = 300;
    let count = |memory: &SharedMemory| {
        for _ in 0..EACH {
            let mut lease = memory.write(LONG).unwrap();
            let next = number(lease.bytes()) + 1;
            // Both ends change together.
            lease.bytes_mut()[..8].copy_from_slice(&next.to_ne_bytes());
            lease.bytes_mut()[99_992..].copy_from_slice(&next.to_ne_bytes());
            drop(lease);
            let lease = memory.read(LONG).unwrap();
            assert_eq!(number(lease.bytes()), number(&lease.bytes()[99_992..]));
        }
    };
    if let Some(name) = child_argument() {
        return count(&SharedMemory::open(&name).unwrap());
    }
    let name = name("count");
    let memory = SharedMemory::create(&name, 100_000).unwrap();
    let children: Vec<_> =
        (0..3).map(|_| start(test_name(concurrent_writers_lose_no_count), &name)).collect();
    count(&memory);
    for mut child in children {
        // Its output is read to the end, so that it never blocks.
        let output = child.stdout.take().map(std::io::read_to_string);
        assert!(child.wait().unwrap().success(), "{output:?}");
    }
    assert_eq!(number(memory.read(AT_ONCE).unwrap().bytes()), 4 * EACH);
    assert_eq!(memory.generation(), 4 * EACH);
    drop(memory);
    assert!(!object(&name).exists());
}

#[test]
fn a_killed_writer_is_reported_and_recoverable() {
    if let Some(name) = child_argument() {
        let mut lease = SharedMemory::open(&name).unwrap().write(LONG).unwrap();
        lease.bytes_mut()[..500].fill(9);
        wait_for_the_end();
    }
    let name = name("writer");
    let memory = SharedMemory::create(&name, 1000).unwrap();
    let mut child = start(test_name(a_killed_writer_is_reported_and_recoverable), &name);
    ready(&mut child);
    assert!(matches!(memory.read(AT_ONCE), Err(Error::LockTimedOut { .. })), "it is at work");
    assert!(matches!(memory.write_anew(AT_ONCE), Err(Error::LockTimedOut { .. })));
    let died = child.id();
    child.kill().unwrap();
    // It has not been waited for: its number is still in use.
    let of = |error: Error| matches!(error, Error::PeerDied { pid, .. } if pid == died);
    assert!(of(memory.read(LONG).unwrap_err()));
    assert!(of(memory.write(LONG).unwrap_err()));
    assert!(of(memory.read(LONG).unwrap_err()), "an error until all is written anew");
    let mut lease = memory.write_anew(LONG).unwrap();
    assert_eq!(lease.bytes()[..500], [9; 500], "half-written, as it was left");
    lease.bytes_mut().fill(1);
    drop(lease);
    assert_eq!(memory.read(AT_ONCE).unwrap().bytes(), [1; 1000]);
    child.wait().unwrap();
}

#[test]
fn a_killed_reader_blocks_no_writer() {
    if let Some(name) = child_argument() {
        let _lease = SharedMemory::open(&name).unwrap().read(LONG).unwrap();
        wait_for_the_end();
    }
    let name = name("reader");
    let memory = SharedMemory::create(&name, 1000).unwrap();
    let mut children: Vec<_> =
        (0..2).map(|_| start(test_name(a_killed_reader_blocks_no_writer), &name)).collect();
    children.iter_mut().for_each(ready);
    drop(memory.read(AT_ONCE).unwrap());
    assert!(matches!(memory.write(AT_ONCE), Err(Error::LockTimedOut { .. })));
    children.iter_mut().for_each(|child| child.kill().unwrap());
    memory.write(LONG).unwrap().bytes_mut().fill(1);
    for mut child in children {
        child.wait().unwrap();
    }
}

#[test]
fn names_of_dead_processes_are_reused() {
    if let Some(names) = child_argument() {
        let (one, other) = names.split_once(' ').unwrap();
        let _memory = [one, other].map(|name| SharedMemory::create(name, 1000).unwrap());
        wait_for_the_end();
    }
    let (one, other) = (name("taken"), name("swept"));
    let mut child = start(test_name(names_of_dead_processes_are_reused), &format!("{one} {other}"));
    ready(&mut child);
    assert!(matches!(SharedMemory::create(&one, 10), Err(Error::SharedMemory { .. })), "in use");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(object(&one).exists() && object(&other).exists(), "left behind");
    let memory = SharedMemory::create(&one, 10).unwrap();
    assert_eq!(memory.read(AT_ONCE).unwrap().bytes(), [0; 10]);
    assert!(SharedMemory::create(&one, 10).is_err(), "in use again");
    SharedMemory::reclaim_names();
    assert!(object(&one).exists() && !object(&other).exists());
}

#[test]
fn nameless_memory_is_a_tensor_for_another_process() {
    let metadata = || TensorMetadata::new(vec![100], BitNetDType::F32, Device::Cpu);
    if let Some(path) = child_argument() {
        let memory = SharedMemory::open_path(Path::new(&path)).unwrap();
        let lease = memory.write(LONG).unwrap();
        let mut tensor = BitNetTensor::from_external(metadata(), Arc::new(lease)).unwrap();
        for (at, value) in tensor.f32_mut().unwrap().iter_mut().enumerate() {
            *value = at as f32;
        }
        return;
    }
    let memory = SharedMemory::nameless(400).unwrap();
    let path = memory.path().unwrap();
    let argument = path.to_str().unwrap();
    let output = start(test_name(nameless_memory_is_a_tensor_for_another_process), argument)
        .wait_with_output();
    assert!(output.unwrap().status.success());
    let lease = Arc::new(memory.read(AT_ONCE).unwrap());
    let tensor = BitNetTensor::from_external(metadata(), lease).unwrap();
    let view = tensor.narrow(0, 97..100).unwrap();
    drop(tensor);
    assert!(matches!(memory.write(AT_ONCE), Err(Error::LockTimedOut { .. })), "a view reads it");
    assert_eq!(view.f32().unwrap(), [97.0, 98.0, 99.0]);
    view.check().unwrap();
    drop(view);
    drop(memory.write(AT_ONCE).unwrap());
    assert_eq!(memory.generation(), 2);
    let cut = std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(10);
    assert!(cut.is_err(), "its length is sealed");
}

#[test]
fn a_panic_during_a_write_counts_as_an_interrupted_write() {
    let memory = SharedMemory::nameless(10).unwrap();
    let writer = memory.clone();
    let ended = std::thread::spawn(move || {
        let _lease = writer.write(LONG).unwrap();
        std::panic::resume_unwind(Box::new("stopped in the middle"));
    });
    assert!(ended.join().is_err());
    let me = std::process::id();
    assert!(matches!(memory.read(AT_ONCE), Err(Error::PeerDied { pid, .. }) if pid == me));
    drop(memory.write_anew(AT_ONCE).unwrap());
    memory.read(AT_ONCE).unwrap();
}

#[test]
fn truncated_memory_is_an_error() {
    let name = name("cut");
    let memory = SharedMemory::create(&name, 1 << 20).unwrap();
    let mut lease = memory.write(AT_ONCE).unwrap();
    lease.bytes_mut().fill(7);
    let file = std::fs::OpenOptions::new().write(true).open(object(&name)).unwrap();
    file.set_len(0).unwrap();
    lease.bytes_mut()[1000..].fill(8);
    drop(lease);
    assert!(matches!(memory.read(AT_ONCE), Err(Error::FileTruncated { now: 0, .. })));
    assert!(matches!(memory.write_anew(AT_ONCE), Err(Error::FileTruncated { .. })));
    assert!(matches!(SharedMemory::open(&name), Err(Error::SharedMemory { .. })));
}

#[test]
fn bad_names_and_headers_are_refused() {
    for bad in ["", "a/b", "..\0", "ä", "twenty-one-characters", "with space"] {
        assert!(matches!(SharedMemory::create(bad, 1), Err(Error::SharedMemory { .. })), "{bad:?}");
        assert!(matches!(SharedMemory::open(bad), Err(Error::SharedMemory { .. })), "{bad:?}");
    }
    assert!(SharedMemory::create("huge", usize::MAX).is_err());
    assert!(SharedMemory::create("huge", usize::MAX / 2 - 5000).is_err());
    assert!(!object("huge").exists(), "nothing is left of it");
    assert!(SharedMemory::open(&name("absent")).is_err());
    assert!(SharedMemory::open_path(Path::new("/dev/null")).is_err());

    let name = name("header");
    let memory = SharedMemory::create(&name, 1000).unwrap();
    assert_eq!(SharedMemory::open(&name).unwrap().len(), 1000);
    let whole = std::fs::read(object(&name)).unwrap();
    assert_eq!(whole.len(), 4096 + 1000);
    for bit in 0..8 * 32 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(object(&name), &bytes).unwrap();
        assert!(SharedMemory::open(&name).is_err(), "bit {bit}");
    }
    for len in [0, 1, 4095, 4096, 5095, 4096 + 1000 + (1 << 16)] {
        let mut bytes = whole.clone();
        bytes.resize(len, 0);
        std::fs::write(object(&name), &bytes).unwrap();
        assert!(SharedMemory::open(&name).is_err(), "{len} bytes");
    }
    std::fs::write(object(&name), &whole).unwrap();
    SharedMemory::open(&name).unwrap();
    drop(memory);
}

#[test]
fn holders_stay_alive_for_a_process_without_file_descriptors() {
    if let Some(name) = child_argument() {
        let memory = SharedMemory::open(&name).unwrap();
        let mut held = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            held.push(file);
        }
        assert!(!held.is_empty() && held.len() < 64, "{} files", held.len());
        let refused = memory.read(AT_ONCE).map(drop);
        assert!(matches!(refused, Err(Error::LockTimedOut { .. })), "{refused:?}");
        return;
    }
    let name = name("files");
    let memory = SharedMemory::create(&name, 8).unwrap();
    let held = memory.write(AT_ONCE).unwrap();
    let script = "ulimit -n 64 && exec \"$0\" --exact \"$1\"";
    let program = std::env::current_exe().unwrap();
    let mut child = Command::new("sh");
    child
        .args(["-c", script])
        .arg(program)
        .arg(test_name(holders_stay_alive_for_a_process_without_file_descriptors))
        .env(ARGUMENT, &name);
    let output = child.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    drop(held);
    assert_eq!(memory.generation(), 1);
}
