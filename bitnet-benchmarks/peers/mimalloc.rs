//! The memory kernels with mimalloc as the allocator of the whole program.
#![forbid(unsafe_code)]

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    bitnet_benchmarks::worker::main()
}
