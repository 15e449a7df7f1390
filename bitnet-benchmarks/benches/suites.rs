//! `cargo bench --package bitnet-benchmarks`: every suite, or those that the arguments name.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    bitnet_benchmarks::run()
}
