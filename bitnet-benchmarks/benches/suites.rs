//! `cargo bench --package bitnet-benchmarks`: all suites, or those selected by arguments.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    bitnet_benchmarks::run()
}
