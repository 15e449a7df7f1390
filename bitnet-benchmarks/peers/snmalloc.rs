//! The memory kernels with snmalloc as the allocator of the whole program.
#![forbid(unsafe_code)]

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: snmalloc_rs::SnMalloc = snmalloc_rs::SnMalloc;

fn main() -> ExitCode {
    bitnet_benchmarks::worker::main()
}
